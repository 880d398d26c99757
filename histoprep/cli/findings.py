"""Findings as lines: what `manifest check` and `shard verify` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histoprep import console
from histoprep.checks.commands import placed

if TYPE_CHECKING:
    from pathlib import Path

    from histoprep.findings import Finding

_SHOWN = 10


def print_finding(found: Finding, root: Path | str, manifest: Path | str | None = None) -> None:
    """Print what was found, its first files and what to do, to stdout; `root` is the data set that
    commands name, and `manifest` its manifest.
    """
    console.out(
        f"{found.severity}: {found.code} {found.rule.name}: {found.count:,} of"
        f" {found.denominator:,} {found.unit}"
    )
    for path, detail in list(zip(found.paths, found.details, strict=True))[:_SHOWN]:
        console.out(f"  {path}: {detail}")
    if found.count > _SHOWN:
        console.out(f"  and {found.count - _SHOWN:,} more")
    console.out(f"  try: {placed(found.suggestion, root, manifest=manifest)}")
