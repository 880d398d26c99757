"""`histoprep rules` and `histoprep explain`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from histoprep.findings import rule_called

if TYPE_CHECKING:
    from histoprep.findings import Rule


def codes_and_names() -> list[str]:
    """Return what a rule can be called by."""
    listed = _all_rules()
    return [*listed, *(rule.name for rule in listed.values())]


def _all_rules() -> dict[str, Rule]:
    from histoprep.catalogue import all_rules

    return all_rules()


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
    listed = _all_rules().values()
    if as_json:
        # What is marked in thumbnails is the page's own business.
        entries = [asdict(rule) for rule in listed]
        for entry in entries:
            del entry["mark"]
        console.raw(json.dumps(entries, indent=2))
        return
    rows = [(rule.code, rule.name, str(rule.severity), rule.definition) for rule in listed]
    console.table(("code", "name", "severity", "meaning"), rows, severity_column=2)


def explain(
    code: Annotated[
        str,
        typer.Argument(
            help="Code or name of a rule, such as HP401 or size-mismatch.",
            autocompletion=codes_and_names,
        ),
    ],
) -> None:
    """Explain what a finding means, why it happens and what to do.

    Examples:
        histoprep explain HP401
        histoprep explain size-mismatch
    """
    rule = rule_called(code, _all_rules().values())
    console.block(
        f"{rule.code} {rule.name} ({rule.severity}, speaks of each"
        f" {rule.scope})\n\n{rule.definition}"
    )
    console.block(
        f"\nusual cause  {rule.cause}\nwhat to do   {rule.suggestion}\nfix safety  "
        f" {rule.fix_safety}"
    )
