"""HP2: files that cannot be read, or are not what they seem."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from histoprep.checks import Chunk, Evidence, flag, row_rule, table_rule, true
from histoprep.findings import Finding
from histoprep.scan import IssueKind

_SUFFIXES = {
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png",),
    "tiff": (".tif", ".tiff"),
    "webp": (".webp",),
}
_SIDES = ("image", "mask")
_CODES = ("HP201", "HP202", "HP205", "HP206", "HP208")


def _num_files(evidence: Evidence) -> int:
    return evidence.amounts.images + evidence.amounts.masks


@row_rule(*_CODES)
def broken(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield every file that could not be used, by code and subcode."""
    for side in _SIDES:
        verdicts = chunk.tiles[f"{side}_error"]
        for verdict in verdicts.dropna().unique():
            code, subcode = verdict.split(" ", 1)
            if code not in _CODES:
                # Files that can be read, and whose labels are in question.
                continue
            detail = f"{{{side}_error_detail}}"
            chosen = verdicts == verdict
            yield from flag(
                code,
                chunk.tiles,
                chosen,
                f"{side}_path",
                detail,
                denominator=_num_files(evidence),
                unit="files",
                subcode=subcode,
            )


@table_rule("HP201")
def unreadable_folders(evidence: Evidence) -> Iterator[Finding]:
    """Yield folders that could not be listed; what is in them is unknown, and so is how many there
    are.
    """
    chosen = evidence.issues.kind == IssueKind.UNREADABLE
    yield from flag(
        "HP201",
        evidence.issues,
        chosen,
        "path",
        "{detail}",
        denominator=0,
        unit="folders",
        subcode="folder",
    )


@row_rule("HP203")
def misnamed(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield files whose first bytes contradict their extension."""
    for side in _SIDES:
        kind = chunk.tiles[f"{side}_format"]
        lowered = chunk.tiles[f"{side}_path"].str.lower()
        fits = np.zeros(len(kind), dtype=bool)
        for fmt, suffixes in _SUFFIXES.items():
            fits |= true(kind == fmt) & true(lowered.str.endswith(suffixes))
        tiles = chunk.tiles.assign(kind=kind.str.upper())
        chosen = kind.notna() & ~fits
        detail = "its first bytes are those of a {kind}"
        yield from flag(
            "HP203",
            tiles,
            chosen,
            f"{side}_path",
            detail,
            denominator=_num_files(evidence),
            unit="files",
        )


@row_rule("HP207")
def telling_metadata(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield files with metadata that may identify somebody; values are never shown."""
    for side in _SIDES:
        fields = chunk.tiles[f"{side}_metadata"]
        tiles = chunk.tiles.loc[fields.notna(), [f"{side}_path"]]
        tiles = tiles.assign(fields=[", ".join(dict.fromkeys(names)) for names in fields.dropna()])
        yield from flag(
            "HP207",
            tiles,
            tiles.fields.notna(),
            f"{side}_path",
            "{fields}",
            denominator=_num_files(evidence),
            unit="files",
        )
