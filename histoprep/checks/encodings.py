"""HP4: masks whose labels depend on the reader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histoprep import rule_ids
from histoprep.checks import Chunk, Evidence, flag, true
from histoprep.checks.commands import LEFT_OUT, fix
from histoprep.checks.registry import row_rule, table_rule
from histoprep.choices import MinIsWhiteReading, PaletteReading, Severity
from histoprep.findings import Finding, FixSafety, Rule, Scope, finding
from histoprep.mask_reading import MIN_IS_WHITE, PALETTE

if TYPE_CHECKING:
    import pandas as pd


READERS_DISAGREE = Rule(
    *rule_ids.READERS_DISAGREE,
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "Readers return different labels for the same file: its palette of greys differs from its"
        " indices, it is a TIFF with 0 as white, or it has an orientation tag."
    ),
    cause=(
        "A lossless optimiser turned grey levels into a palette, or a tool saved the mask white"
        " on black."
    ),
    suggestion=(
        "Check some of these masks and decide: histoprep audit ROOT --palette index; or histoprep"
        " audit ROOT --palette grey; or histoprep audit ROOT --min-is-white stored; or histoprep"
        " audit ROOT --min-is-white inverted"
    ),
    fix_safety=FixSafety.UNSAFE,
)
MIXED_ENCODINGS = Rule(
    "HP414",
    "mixed-encodings",
    Severity.ERROR,
    Scope.SOURCE,
    definition=(
        "Bit depth, palette or colour differs from those of the other masks in the folder, so one"
        " value may stand for two labels."
    ),
    cause=(
        "A tool stores each file with as few bits as possible, as ImageMagick does (a tile of 0"
        " and 255 becomes 1 bit), or masks of two exports are mixed."
    ),
    suggestion=(
        "Check some of these masks and decide: histoprep audit ROOT --depth stored; or histoprep"
        " audit ROOT --depth 8; or histoprep audit ROOT --palette index; or histoprep audit ROOT"
        " --palette colour; or histoprep audit ROOT --rgb grey; or histoprep audit ROOT --rgb"
        " colour"
    ),
    fix_safety=FixSafety.UNSAFE,
)
INDEX_BEYOND_PALETTE = Rule(
    *rule_ids.INDEX_BEYOND_PALETTE,
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "A pixel has an index without an entry in the palette; readers return the index, black,"
        " or nothing."
    ),
    cause=(
        "The mask was saved with a palette that is too short for its labels; with 1, 2 or 4 bits,"
        " labels wrap around: 255 becomes 15."
    ),
    suggestion=(
        "No command can tell what the label was: export these masks again as 8-bit grayscale;"
        f" {LEFT_OUT}"
    ),
)
NEGATIVE_LABEL = Rule(
    *rule_ids.NEGATIVE_LABEL,
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "The mask has a signed type and contains negative labels, which some readers return as"
        " 255 or another large label."
    ),
    cause="The export uses -1 for unlabelled pixels.",
    suggestion=(
        "No command can choose: give these pixels a label of their own, such as 255, and save the"
        f" mask as 8-bit grayscale; {LEFT_OUT}"
    ),
)

_NUM_SHOWN = 8
_READINGS = {PALETTE: ("by index", "by grey value"), MIN_IS_WHITE: ("as stored", "inverted")}
_CHOICES = {
    PALETTE: (PaletteReading.INDEX, PaletteReading.GREY),
    MIN_IS_WHITE: tuple(MinIsWhiteReading),
}
_TIFFFILE_CAUSE = (
    "tifffile stores labels unchanged and declares boolean arrays min-is-white: the stored value is"
    " used as the label."
)
_TIFFFILE_ADVICE = (
    "No command is needed for histoprep. Other programs invert these masks; a copy that all read"
    f" alike: {fix('--only plain')}"
)
_TURNED_CAUSE = (
    "The tag was copied from the image. Pillow and OpenCV rotate the pixels of a TIFF, tifffile and"
    " rasterio do not; of a PNG, only OpenCV may."
)
_TURNED_ADVICE = (
    "Look at some of them beside their images. If the labels fit as they are stored:"
    f" {fix('--only orientation=drop')}; or {fix('--only orientation=apply')}"
)
_OPTIMISER_CAUSE = (
    "Read as grey values, the labels ({shown}) occur in the other masks; read as indices ({stored})"
    " they do not: a lossless optimiser, such as optipng or oxipng, added palettes to grey masks."
)
_INDEX_CAUSE = (
    "Read as indices, the labels ({stored}) occur in the other masks; read as grey values ({shown})"
    " they do not: the palette is for viewing."
)


@row_rule(READERS_DISAGREE)
def disagreeing(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks that readers read in two ways, with both; a warning where somebody decided which
    is right.
    """
    tiles = chunk.tiles[chunk.tiles.mask_doubt.notna()]
    for kind, (shown, other) in _READINGS.items():
        masks = tiles[true(tiles.mask_doubt == kind)]
        if not len(masks):
            continue
        words = [
            f"{_listed(a)} {shown}, {_listed(b)} {other}"
            for a, b in zip(masks.mask_stored_ids, masks.mask_shown_ids, strict=True)
        ]
        masks = masks.assign(words=words)
        undecided = masks.mask_error.notna()
        decided = evidence.readings.reading.as_json().get(kind)
        cause, suggestion = _explained(kind, evidence)
        yield from _flagged(masks[undecided], "{words}", kind, evidence, cause, suggestion)
        if decided is not None:
            for known in _flagged(
                masks[~undecided],
                "{words}",
                f"{kind}-decided",
                evidence,
                f"Decided: --{kind} {decided}.",
                f"No command is needed where this was right; otherwise: {_choices(kind)}",
            ):
                yield replace(known, severity=Severity.WARNING)
        else:
            yield from _flagged(
                masks[~undecided],
                "{words}",
                f"{kind}-of-tifffile",
                evidence,
                _TIFFFILE_CAUSE,
                _TIFFFILE_ADVICE,
            )


def _choices(kind: str) -> str:
    """Return the commands that decide how masks of a kind are read."""
    return "; or ".join(f"histoprep audit ROOT --{kind} {value}" for value in _CHOICES[kind])


def _explained(kind: str, evidence: Evidence) -> tuple[str, str]:
    """Return cause and suggestion where the other masks tell which reading is right, else
    nothing.
    """
    readings = evidence.readings
    advice = readings.advice if kind == PALETTE else None
    if advice is None:
        return "", f"Check some of these masks and decide: {_choices(kind)}"
    seen = readings.disagreements[PALETTE]
    words = {
        name: ", ".join(map(str, sorted(labels)[:_NUM_SHOWN]))
        for name, labels in (("stored", seen.stored), ("shown", seen.shown))
    }
    cause = (_OPTIMISER_CAUSE if advice == "grey" else _INDEX_CAUSE).format(**words)
    return cause, f"Check some of them, then: histoprep audit ROOT --palette {advice}"


def _flagged(
    masks: pd.DataFrame, detail: str, subcode: str, evidence: Evidence, cause: str, suggestion: str
) -> Iterator[Finding]:
    every, amount = np.ones(len(masks), dtype=bool), evidence.amounts.masks
    yield from flag(
        READERS_DISAGREE,
        masks,
        every,
        "mask_path",
        detail,
        denominator=amount,
        unit="masks",
        subcode=subcode,
        cause=cause,
        suggestion=suggestion,
    )


def _listed(labels: np.ndarray) -> str:
    more = f" and {len(labels) - _NUM_SHOWN} more" if len(labels) > _NUM_SHOWN else ""
    return ", ".join(map(str, labels[:_NUM_SHOWN])) + more


@row_rule(READERS_DISAGREE)
def turned(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks with an orientation tag: what lies where depends on the reader."""
    masks = chunk.tiles[
        true(chunk.tiles.mask_error == rule_ids.READERS_DISAGREE.verdict("orientation"))
    ]
    yield from _flagged(
        masks, "{mask_error_detail}", "orientation", evidence, _TURNED_CAUSE, _TURNED_ADVICE
    )


@row_rule(INDEX_BEYOND_PALETTE, NEGATIVE_LABEL)
def no_labels(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks with values that are no labels: beyond the palette, or negative."""
    verdicts = chunk.tiles.mask_error
    for rule in (INDEX_BEYOND_PALETTE, NEGATIVE_LABEL):
        chosen = true(verdicts.str.startswith(rule.code))
        yield from flag(
            rule,
            chunk.tiles,
            chosen,
            "mask_path",
            "{mask_error_detail}",
            denominator=evidence.amounts.masks,
            unit="masks",
        )


@table_rule(MIXED_ENCODINGS)
def mixed(evidence: Evidence) -> Iterator[Finding]:
    """Yield masks that are stored otherwise than those beside them, where that leaves their labels
    open.
    """
    readings, amount = evidence.readings, evidence.amounts.masks
    for subcode, masks, options in (
        ("depth", readings.depth, ("--depth stored", "--depth 8")),
        ("palette", readings.palettes, ("--palette index", "--palette colour")),
        ("mode", readings.modes, ("--palette index",)),
        ("rgb", readings.channels, ("--rgb grey", "--rgb colour")),
    ):
        if masks:
            yield finding(
                MIXED_ENCODINGS,
                [(mask.path, mask.detail) for mask in masks],
                denominator=amount,
                unit="masks",
                subcode=subcode,
                suggestion="Check some of these masks and decide: "
                + "; or ".join(f"histoprep audit ROOT {option}" for option in options),
            )
