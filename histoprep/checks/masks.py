"""HP4: the mask itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from histoprep import rule_ids
from histoprep.checks import Chunk, Evidence, flag, true
from histoprep.checks.lossy import INTERPOLATED_MASK, LOSSY_MASK
from histoprep.checks.registry import row_rule, table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Rule, Scope, finding
from histoprep.labels.wrapped import ADVICE as WRAPPED_ADVICE
from histoprep.labels.wrapped import wrapped_cause, wrapped_modulus
from histoprep.phrases import plural

if TYPE_CHECKING:
    import pandas as pd


SIZE_MISMATCH = Rule(
    "HP401",
    "size-mismatch",
    Severity.ERROR,
    Scope.TILE,
    definition="The mask and its image have different sizes.",
    cause="One of the two was resized or cropped, or they belong to different tiles.",
    suggestion="Export both at the same size; resize masks with nearest neighbour only.",
)
MASK_WRONG_MODE = Rule(
    *rule_ids.MASK_WRONG_MODE,
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "The mask is RGB, RGBA or float, or has a colour table, so some readers return colours."
    ),
    cause="An image of the mask was saved instead of the labels, or a tool added a palette.",
    suggestion=(
        "Export the label ids as 8-bit grayscale PNG; histoprep remap converts masks with a"
        " palette."
    ),
)
MASK_COARSE_RESOLUTION = Rule(
    "HP405",
    "mask-coarse-resolution",
    Severity.INFO,
    Scope.TILE,
    definition="The mask is uniform in k x k cells, with k >= 8.",
    cause="It was annotated at a lower magnification and enlarged.",
    suggestion="Nothing, if this precision suffices; boundaries are off by up to k pixels.",
)
ZERO_MASK = Rule(
    "HP406",
    "zero-mask",
    Severity.INFO,
    Scope.TILE,
    definition="Every pixel is label 0, so the tile belongs to the unconditional pool.",
    cause="Nothing was annotated there.",
    suggestion="Nothing, if label 0 means unknown.",
)
FULL_MASK = Rule(
    "HP407",
    "full-mask",
    Severity.INFO,
    Scope.TILE,
    definition="One label other than 0 covers the whole tile.",
    cause="The tile lies within a large annotation.",
    suggestion="Nothing.",
)
SPECK_LABELS = Rule(
    "HP408",
    "speck-labels",
    Severity.WARNING,
    Scope.TILE,
    definition="Connected regions are smaller than --min-area pixels.",
    cause=(
        "Stray clicks in the annotation tool, or artefacts of lossy compression or interpolation."
    ),
    suggestion="Check the examples; remove specks before training.",
)
HAIRLINE_LABELS = Rule(
    "HP409",
    "hairline-labels",
    Severity.WARNING,
    Scope.TILE,
    definition="A label is present, but its largest inscribed radius is 2 pixels or less.",
    cause=(
        "A rim between two other labels from interpolation or lossy compression, or a hand-drawn"
        " line."
    ),
    suggestion="Check the examples; class lists use core presence, which such labels do not have.",
)
SCALED_LABELS = Rule(
    "HP410",
    "scaled-labels",
    Severity.ERROR,
    Scope.DATASET,
    definition=(
        "All values share a divisor that is unlikely by chance, such as 0 and 255, or 0, 20, 40"
        " and 60, or equal 256 minus a label."
    ),
    cause="The mask was scaled for viewing, or written in R as if labels were intensities.",
    suggestion="Divide by the reported factor at the source.",
)
SIXTEEN_BIT_MASK = Rule(
    "HP412",
    "sixteen-bit-mask",
    Severity.WARNING,
    Scope.TILE,
    definition="The mask has 16 bits although all values are below 256.",
    cause=(
        "The export used a wider type than needed; readers that keep the upper 8 bits return only"
        " 0."
    ),
    suggestion="histoprep remap writes 8-bit masks.",
    fix_safety=FixSafety.SAFE,
)

COARSE_CELL_PX = 8
HAIRLINE_RADIUS_PX = 2.0
# Values white is stored as: alone beside 0 they are an image of two labels.
WHITES = (255, 65_535)
# How unlikely a common divisor must be before it means anything: n values share the divisor d by
# chance once in d^n.
MIN_SURPRISE = 1000
_COLOUR_SUBCODES = {
    "RGB": "rgb", "RGBA": "alpha", "LA": "alpha", "PA": "alpha", "CMYK": "cmyk", "YCbCr": "rgb",
    "LAB": "rgb", "F": "float", "I": "wide-integer",
}  # fmt: skip
_GREY_CAUSE = (
    "A class map was saved with equal colour channels, often by a viewer or an image editor."
)
_REPAIRED_CAUSE = (
    "The repaired masks contain them too: they are annotated, or repair could not distinguish them"
    " from annotations."
)


@row_rule(SIZE_MISMATCH)
def size_mismatch(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks that are not of the size of their image."""
    tiles = chunk.tiles
    chosen = (tiles.mask_width_px != tiles.width_px) | (tiles.mask_height_px != tiles.height_px)
    detail = "mask {mask_width_px}x{mask_height_px}, image {width_px}x{height_px}"
    yield from flag(
        SIZE_MISMATCH,
        tiles,
        chosen,
        "mask_path",
        detail,
        denominator=evidence.amounts.pairs,
        unit="pairs",
    )


@row_rule(MASK_WRONG_MODE)
def wrong_mode(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks that are images, carry a colour table, or whose values readers stretch."""
    tiles = chunk.tiles[chunk.tiles.mask_error.isna()]
    for mode in tiles.mask_mode.dropna().unique():
        own = tiles[tiles.mask_mode == mode]
        if mode == "P":
            yield from _modes(
                evidence,
                own,
                "a colour table: OpenCV and others return colours instead of labels",
                "palette",
            )
        elif mode in _COLOUR_SUBCODES:
            yield from _colours(evidence, own, mode)
    shallow = tiles[true(tiles.mask_mode.isin(["1", "L"]) & (tiles.mask_bit_depth < 8))]
    tight = shallow.assign(bits=[plural(int(bits), "bit") for bits in shallow.mask_bit_depth])
    for problem in _modes(
        evidence, tight, "{bits} a pixel: some readers stretch the values to 0-255", "low-bit-depth"
    ):
        yield replace(problem, severity=Severity.WARNING)


def _colours(evidence: Evidence, masks: pd.DataFrame, mode: str) -> Iterator[Finding]:
    """Yield the masks of one colour mode; those with equal channels, and where no pixel was read,
    apart.
    """
    subcode = _COLOUR_SUBCODES[mode]
    # 32-bit integers that hold labels only were measured like any class map.
    unread = masks[true(masks.mask_colours.isna())] if mode != "I" else masks.iloc[:0]
    seen = masks[true(masks.mask_colours.notna())]
    grey = true(seen.mask_channels_equal) & (mode in ("RGB", "RGBA"))
    yield from _modes(evidence, unread, "{mask_mode}", subcode)
    noun = "values" if mode in ("F", "I") else "colours"
    yield from _modes(evidence, seen[~grey], f"{{mask_mode}}, {{mask_colours:,}} {noun}", subcode)
    detail = "{mask_mode} with equal channels, {mask_colours:,} values"
    yield from _modes(
        evidence, seen[grey], detail, "grey-in-rgb" if mode == "RGB" else "alpha", cause=_GREY_CAUSE
    )


def _modes(
    evidence: Evidence, masks: pd.DataFrame, detail: str, subcode: str, *, cause: str = ""
) -> Iterator[Finding]:
    every = np.ones(len(masks), dtype=bool)
    yield from flag(
        MASK_WRONG_MODE,
        masks,
        every,
        "mask_path",
        detail,
        denominator=evidence.amounts.masks,
        unit="masks",
        subcode=subcode,
        cause=cause,
    )


@row_rule(MASK_COARSE_RESOLUTION)
def coarse(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks drawn at a lower resolution."""
    chosen = chunk.tiles.mask_cell_px >= COARSE_CELL_PX
    detail = "cells of {mask_cell_px}x{mask_cell_px} pixels"
    yield from flag(
        MASK_COARSE_RESOLUTION,
        chunk.tiles,
        chosen,
        "mask_path",
        detail,
        denominator=evidence.amounts.masks,
        unit="masks",
    )


@row_rule(ZERO_MASK, FULL_MASK)
def uniform(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks of one label; an orphan of label 0 alone makes no unlabelled tile and is left
    out.
    """
    rows = chunk.labels.row.to_numpy()
    alone = chunk.labels[~np.isin(rows, rows[1:][rows[1:] == rows[:-1]])]
    tiles = chunk.tiles.iloc[alone.row].assign(only=alone.label_id.to_numpy())
    zero = (tiles.only == 0) & tiles.image_path.notna()
    yield from flag(
        ZERO_MASK,
        tiles,
        zero,
        "mask_path",
        "only label 0",
        denominator=evidence.amounts.pairs,
        unit="pairs",
    )
    yield from flag(
        FULL_MASK,
        tiles,
        tiles.only > 0,
        "mask_path",
        "only label {only}",
        denominator=evidence.amounts.masks,
        unit="masks",
    )


@row_rule(SPECK_LABELS, HAIRLINE_LABELS)
def thin_or_small(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks with specks or hairlines."""
    labels = chunk.labels
    counted = evidence.counts_as_label(labels.label_id.to_numpy())
    small = (labels.specks > 0) & counted
    number = labels[small].groupby("row").specks.sum()
    specks = chunk.tiles.iloc[number.index].assign(
        number=[plural(count, "region") for count in number],
        speckled=chunk.labels_named(small).to_numpy(),
    )
    detail = f"{{number}} under {evidence.options.min_area_px} pixels, of {{speckled}}"
    yield from _by_cause(SPECK_LABELS, specks, detail, evidence)
    thin = chunk.labels_named((labels.radius_px <= HAIRLINE_RADIUS_PX) & counted)
    hairlines = chunk.tiles.iloc[thin.index].assign(thin=thin.to_numpy())
    yield from _by_cause(HAIRLINE_LABELS, hairlines, "{thin}", evidence)


def _by_cause(
    rule: Rule, masks: pd.DataFrame, detail: str, evidence: Evidence
) -> Iterator[Finding]:
    """Yield masks of sources that are known to be lossy or interpolated (HP403, HP404), and
    repaired ones, apart from others.
    """
    amount = evidence.amounts.masks
    repaired = masks.mask_path.isin(list(evidence.repaired))
    damaged = masks.mask_path.isin([path for file in evidence.lossy for path in file.paths])
    yield from flag(
        rule, masks, ~damaged & ~repaired, "mask_path", detail, denominator=amount, unit="masks"
    )
    yield from flag(
        rule,
        masks,
        repaired,
        "mask_path",
        detail,
        denominator=amount,
        unit="masks",
        subcode="repaired",
        cause=_REPAIRED_CAUSE,
    )
    for reason in (LOSSY_MASK, INTERPOLATED_MASK):
        known = masks.mask_path.isin(
            [
                path
                for source in evidence.lossy
                if source.code == reason.code
                for path in source.paths
            ]
        )
        cause = (
            f"These masks are lossy or interpolated, see {reason.code}: their boundaries have"
            " spurious values."
        )
        yield from flag(
            rule, masks, known & ~repaired, "mask_path", detail, denominator=amount, unit="masks",
            subcode=f"see-{reason.code.lower()}",
            cause=cause, suggestion="histoprep repair",
        )  # fmt: skip


@table_rule(SCALED_LABELS)
def scaled(evidence: Evidence) -> Iterator[Finding]:
    """Yield the factor by which all values of the data set seem to be scaled.

    Convicted are white alone; more values that share a divisor than chance would have it; and, with
    a label map, several values of which it knows none before and all after the division. Labels
    that R stored as 256 - k are named apart.
    """
    tiles = evidence.label_counts.classes.groupby("class_id").tiles.sum()
    values = [int(str(value)) for value in tiles.index if value != 0]
    modulus = wrapped_modulus(values, evidence.label_map)
    if modulus is not None:
        items = [
            (
                f"value {value}",
                f"{plural(int(tiles[value]), 'tile')}; {modulus:,} - {modulus - value}",
            )
            for value in values
        ]
        cause = wrapped_cause(values, modulus)
        yield finding(
            SCALED_LABELS,
            items,
            denominator=len(values),
            unit="values",
            subcode="wrapped",
            cause=cause,
            suggestion=WRAPPED_ADVICE,
        )
        return
    factor = gcd(*values)
    if factor < 2:
        return
    surprising = values[0] in WHITES if len(values) == 1 else factor ** len(values) >= MIN_SURPRISE
    if evidence.label_map:
        unlisted = evidence.label_map.unlisted
        strange = unlisted(values)
        explained = strange and not unlisted(value // factor for value in values)
        surprising = bool(explained) and (
            surprising or (len(values) > 1 and len(strange) == len(values))
        )
    if surprising:
        items = [
            (
                f"value {value}",
                f"{plural(int(tiles[value]), 'tile')}; label {value // factor} times {factor}",
            )
            for value in values
        ]
        cause = f"The masks were multiplied by {factor} for viewing."
        yield finding(SCALED_LABELS, items, denominator=len(values), unit="values", cause=cause)


@row_rule(SIXTEEN_BIT_MASK)
def needlessly_wide(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks of 16 or more bits whose values fit into 8 bits."""
    highest = chunk.labels.groupby("row").label_id.max()
    tiles = chunk.tiles.iloc[highest.index].assign(highest=highest.to_numpy())
    chosen = (tiles.mask_bit_depth >= 16) & (tiles.highest < 256)
    detail = "{mask_bit_depth} bits, highest value {highest}"
    yield from flag(
        SIXTEEN_BIT_MASK,
        tiles,
        chosen,
        "mask_path",
        detail,
        denominator=evidence.amounts.masks,
        unit="masks",
    )
