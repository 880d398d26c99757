"""HP4: the mask itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import gcd

import numpy as np
import pandas as pd

from histoprep.catalogue import RULES
from histoprep.checks import Chunk, Evidence, flag, plural, row_rule, table_rule, true
from histoprep.findings import Finding, Severity, finding
from histoprep.labels.wrapped import ADVICE as WRAPPED_ADVICE
from histoprep.labels.wrapped import wrapped_cause, wrapped_modulus

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
    "The repaired masks of these hold them too: somebody drew them, or repair could not tell them"
    " from what was drawn."
)


@row_rule("HP401")
def size_mismatch(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks that are not of the size of their image."""
    tiles = chunk.tiles
    chosen = (tiles.mask_width_px != tiles.width_px) | (tiles.mask_height_px != tiles.height_px)
    detail = "mask {mask_width_px}x{mask_height_px}, image {width_px}x{height_px}"
    yield from flag(
        "HP401",
        tiles,
        chosen,
        "mask_path",
        detail,
        denominator=evidence.amounts.pairs,
        unit="pairs",
    )


@row_rule("HP402")
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
        "HP402",
        masks,
        every,
        "mask_path",
        detail,
        denominator=evidence.amounts.masks,
        unit="masks",
        subcode=subcode,
        cause=cause,
    )


@row_rule("HP405")
def coarse(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks drawn at a lower resolution."""
    chosen = chunk.tiles.mask_cell_px >= COARSE_CELL_PX
    detail = "cells of {mask_cell_px}x{mask_cell_px} pixels"
    yield from flag(
        "HP405",
        chunk.tiles,
        chosen,
        "mask_path",
        detail,
        denominator=evidence.amounts.masks,
        unit="masks",
    )


@row_rule("HP406", "HP407")
def uniform(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks of one label; an orphan of label 0 alone makes no unlabelled tile and is left
    out.
    """
    rows = chunk.labels.row.to_numpy()
    alone = chunk.labels[~np.isin(rows, rows[1:][rows[1:] == rows[:-1]])]
    tiles = chunk.tiles.iloc[alone.row].assign(only=alone.label_id.to_numpy())
    zero = (tiles.only == 0) & tiles.image_path.notna()
    yield from flag(
        "HP406",
        tiles,
        zero,
        "mask_path",
        "only label 0",
        denominator=evidence.amounts.pairs,
        unit="pairs",
    )
    yield from flag(
        "HP407",
        tiles,
        tiles.only > 0,
        "mask_path",
        "only label {only}",
        denominator=evidence.amounts.masks,
        unit="masks",
    )


@row_rule("HP408", "HP409")
def thin_or_small(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks with specks or hairlines."""
    labels = chunk.labels
    small = labels.specks > 0
    number = labels[small].groupby("row").specks.sum()
    specks = chunk.tiles.iloc[number.index].assign(
        number=[plural(count, "region") for count in number],
        speckled=chunk.labels_named(small).to_numpy(),
    )
    detail = f"{{number}} under {evidence.options.min_area_px} pixels, of {{speckled}}"
    yield from _by_cause("HP408", specks, detail, evidence)
    thin = chunk.labels_named(labels.radius_px <= HAIRLINE_RADIUS_PX)
    hairlines = chunk.tiles.iloc[thin.index].assign(thin=thin.to_numpy())
    yield from _by_cause("HP409", hairlines, "{thin}", evidence)


def _by_cause(code: str, masks: pd.DataFrame, detail: str, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks of sources that are known to be lossy or interpolated (HP403, HP404), and
    repaired ones, apart from others.
    """
    amount = evidence.amounts.masks
    repaired = masks.mask_path.isin(list(evidence.repaired))
    damaged = masks.mask_path.isin([path for file in evidence.lossy for path in file.paths])
    yield from flag(
        code, masks, ~damaged & ~repaired, "mask_path", detail, denominator=amount, unit="masks"
    )
    yield from flag(
        code,
        masks,
        repaired,
        "mask_path",
        detail,
        denominator=amount,
        unit="masks",
        subcode="repaired",
        cause=_REPAIRED_CAUSE,
    )
    for rule in ("HP403", "HP404"):
        known = masks.mask_path.isin(
            [path for source in evidence.lossy if source.code == rule for path in source.paths]
        )
        cause = (
            f"These masks are lossy or interpolated, see {rule}: values grew along their boundaries"
            " that nobody drew."
        )
        yield from flag(
            code, masks, known & ~repaired, "mask_path", detail, denominator=amount, unit="masks",
            subcode=f"see-{rule.lower()}",
            cause=cause, suggestion="histoprep repair",
        )  # fmt: skip


@table_rule("HP410")
def scaled(evidence: Evidence) -> Iterator[Finding]:
    """Yield the factor by which all values of the data set seem to be scaled.

    Convicted are white alone; more values that share a divisor than chance would have it; and, with
    a label map, several values of which it knows none before and all after the division. Labels
    that R stored as 256 - k are named apart.
    """
    tiles = evidence.label_counts.classes.groupby("class_id").tiles.sum()
    values = [int(str(value)) for value in tiles.index if value != 0]
    modulus = wrapped_modulus(values, evidence.label_map.mapping if evidence.label_map else None)
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
            RULES["HP410"],
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
        known = set(evidence.label_map.mapping)
        explained = known.issuperset(value // factor for value in values) and not known.issuperset(
            values
        )
        surprising = explained and (surprising or (len(values) > 1 and known.isdisjoint(values)))
    if surprising:
        items = [
            (
                f"value {value}",
                f"{plural(int(tiles[value]), 'tile')}; label {value // factor} times {factor}",
            )
            for value in values
        ]
        cause = f"The masks were multiplied by {factor} for viewing."
        yield finding(RULES["HP410"], items, denominator=len(values), unit="values", cause=cause)


@row_rule("HP412")
def needlessly_wide(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks of 16 or more bits whose values fit into 8 bits."""
    highest = chunk.labels.groupby("row").label_id.max()
    tiles = chunk.tiles.iloc[highest.index].assign(highest=highest.to_numpy())
    chosen = (tiles.mask_bit_depth >= 16) & (tiles.highest < 256)
    detail = "{mask_bit_depth} bits, highest value {highest}"
    yield from flag(
        "HP412",
        tiles,
        chosen,
        "mask_path",
        detail,
        denominator=evidence.amounts.masks,
        unit="masks",
    )
