"""`histoprep doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from histoprep import console
from histoprep.cli.options import Root, WorkspaceFolder
from histoprep.errors import ExitCode
from histoprep.schemas.workspace import SUFFIX

_STYLES = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def doctor(
    root: Root = Path(),
    *,
    workspace: WorkspaceFolder = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="A codec to test: its folder, a run, or hub:OWNER/NAME.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check that this machine has what HistoPrep needs: packages, decoders, disk, memory, GPU,
    codec.

    Each problem comes with what to do. Nothing is changed.

    Exit codes: 0 no check failed; 1 some checks failed.

    Examples:
        histoprep doctor
        histoprep doctor tiles --json
    """
    from histoprep.doctor import CheckStatus, examine

    absolute = root.absolute()
    place = workspace or absolute.with_name(absolute.name + SUFFIX)
    made = []
    for check in examine(place, codec):
        made.append(check)
        if not as_json:
            console.out(f"{_STYLES[check.status]} {check.name}: {check.detail}")
            if check.fix:
                console.out(f"     try: {check.fix}")
    failed = sum(check.status is CheckStatus.FAIL for check in made)
    warned = sum(check.status is CheckStatus.WARN for check in made)
    if as_json:
        head = {
            "format": "histoprep-doctor",
            "schema_version": "1.0",
            "failed": failed,
            "warned": warned,
        }
        console.raw(json.dumps({**head, "checks": [asdict(result) for result in made]}, indent=2))
    else:
        console.out(f"{len(made)} checks: {failed} failed, {warned} to know about")
    if failed:
        raise typer.Exit(ExitCode.FINDINGS)
