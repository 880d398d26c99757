"""HP2: files that cannot be read, or are not what they seem."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from histoprep.checks import Chunk, Evidence, flag, row_rule, table_rule
from histoprep.findings import Finding
from histoprep.scan import IssueKind

_SUFFIXES = {"jpeg": ("jpg", "jpeg", "jpe", "jfif"), "png": ("png",), "tiff": ("tif", "tiff"), "webp": ("webp",)}


def _sides(evidence: Evidence) -> Iterator[tuple[str, int]]:
    yield "image", evidence.amounts.images
    yield "mask", evidence.amounts.masks


@row_rule("HP201", "HP202", "HP205", "HP206")
def broken(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield every file that could not be used, by code and subcode."""
    files = evidence.amounts.images + evidence.amounts.masks
    for what, _ in _sides(evidence):
        verdicts = chunk.tiles[f"{what}_error"]
        for verdict in verdicts.dropna().unique():
            code, subcode = verdict.split(" ", 1)
            yield from flag(
                code, chunk.tiles, verdicts == verdict, f"{what}_path", f"{{{what}_error_detail}}", denominator=files, unit="files", subcode=subcode
            )


@table_rule("HP201")
def unreadable_folders(evidence: Evidence) -> Iterator[Finding]:
    """Yield folders that could not be listed; what is in them is unknown."""
    chosen = evidence.issues.kind == IssueKind.UNREADABLE
    yield from flag("HP201", evidence.issues, chosen, "path", "{detail}", denominator=int(chosen.sum()), unit="folders", subcode="folder")


@row_rule("HP203")
def misnamed(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield files whose first bytes contradict their extension."""
    for what, number in _sides(evidence):
        suffix = chunk.tiles[f"{what}_path"].str.rsplit(".", n=1).str[-1].str.lower()
        kind = chunk.tiles[f"{what}_format"]
        allowed = pd.Series([suffix_ in _SUFFIXES.get(kind_, ()) for suffix_, kind_ in zip(suffix, kind, strict=True)], index=chunk.tiles.index)
        yield from flag("HP203", chunk.tiles, kind.notna() & ~allowed, f"{what}_path", f"is {{{what}_format}}", denominator=number, unit=f"{what}s")


@row_rule("HP207")
def telling_metadata(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield files with metadata that may identify somebody; values are never shown."""
    for what, number in _sides(evidence):
        tiles = chunk.tiles.assign(fields=chunk.tiles[f"{what}_metadata"].map(lambda names: ", ".join(names), na_action="ignore"))
        yield from flag("HP207", tiles, tiles.fields.notna(), f"{what}_path", "{fields}", denominator=number, unit=f"{what}s")
