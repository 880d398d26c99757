"""`histoprep rules` and `histoprep explain`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from histoprep import console
from histoprep.catalogue import RULES
from histoprep.findings import rule_called


def rules(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the rules with all their texts as JSON.")
    ] = False,
) -> None:
    """List every rule of the audit: code, name, default severity, meaning.

    Examples:
        histoprep rules
        histoprep rules --json
    """
    if as_json:
        console.raw(json.dumps([asdict(rule) for rule in RULES.values()], indent=2))
        return
    rows = [(rule.code, rule.name, str(rule.severity), rule.definition) for rule in RULES.values()]
    console.table(("code", "name", "severity", "meaning"), rows, severity_column=2)


def explain(
    code: Annotated[
        str,
        typer.Argument(
            help="Code or name of a rule, such as HP401 or size-mismatch.",
            autocompletion=lambda: [*RULES, *(rule.name for rule in RULES.values())],
        ),
    ],
) -> None:
    """Explain what a finding means, why it happens and what to do.

    Examples:
        histoprep explain HP401
        histoprep explain size-mismatch
    """
    rule = rule_called(code, RULES.values())
    console.block(
        f"{rule.code} {rule.name} ({rule.severity}, speaks of each"
        f" {rule.scope})\n\n{rule.definition}"
    )
    console.block(
        f"\nusual cause  {rule.cause}\nwhat to do   {rule.suggestion}\nfix safety  "
        f" {rule.fix_safety}"
    )
