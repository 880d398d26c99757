"""HP4: the mask itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import gcd

from histoprep.catalogue import RULES
from histoprep.checks import Chunk, Evidence, flag, row_rule, table_rule
from histoprep.findings import Finding, Severity, finding

COARSE_CELL_PX = 8
HAIRLINE_RADIUS_PX = 2.0
_COLOUR_SUBCODES = {"RGB": "rgb", "RGBA": "alpha", "LA": "alpha", "PA": "alpha", "CMYK": "cmyk", "F": "float", "I": "wide-integer"}


@row_rule("HP401")
def size_mismatch(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks that are not of the size of their image."""
    tiles = chunk.tiles
    chosen = (tiles.mask_width_px != tiles.width_px) | (tiles.mask_height_px != tiles.height_px)
    detail = "mask {mask_width_px}x{mask_height_px}, image {width_px}x{height_px}"
    yield from flag("HP401", tiles, chosen, "mask_path", detail, denominator=evidence.amounts.pairs, unit="pairs")


@row_rule("HP402")
def wrong_mode(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks that are pictures, carry a colour table, or whose values readers stretch."""
    tiles, masks = chunk.tiles, evidence.amounts.masks
    grey = tiles.mask_channels_equal.fillna(False)
    colours = "{mask_mode}, {mask_colours} colours"
    for mode, subcode in _COLOUR_SUBCODES.items():
        chosen = (tiles.mask_mode == mode) & tiles.mask_colours.notna()
        yield from flag("HP402", tiles, chosen & ~grey, "mask_path", colours, denominator=masks, unit="masks", subcode=subcode)
        cause = "A class map was saved with equal colour channels, often by a viewer or an image editor."
        detail = "{mask_mode} with equal channels, {mask_colours} values"
        yield from flag("HP402", tiles, chosen & grey, "mask_path", detail, denominator=masks, unit="masks", subcode=f"{subcode}-grey", cause=cause)
    palette = "a colour table: OpenCV and others return colours instead of labels"
    yield from flag("HP402", tiles, tiles.mask_mode == "P", "mask_path", palette, denominator=masks, unit="masks", subcode="palette")
    shallow = tiles.mask_mode.isin(["1", "L"]) & (tiles.mask_bit_depth < 8)
    detail = "{mask_bit_depth} bits a pixel: some readers stretch the values to 0-255"
    for one in flag("HP402", tiles, shallow, "mask_path", detail, denominator=masks, unit="masks", subcode="low-bit-depth"):
        yield replace(one, severity=Severity.WARNING)


@row_rule("HP405")
def coarse(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks drawn at a lower resolution."""
    chosen = chunk.tiles.mask_cell_px >= COARSE_CELL_PX
    detail = "cells of {mask_cell_px}x{mask_cell_px} pixels"
    yield from flag("HP405", chunk.tiles, chosen, "mask_path", detail, denominator=evidence.amounts.masks, unit="masks")


@row_rule("HP406", "HP407")
def uniform(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks of one label."""
    by_row = chunk.labels.groupby("row").label_id
    only = by_row.first()[by_row.size() == 1]
    tiles = chunk.tiles.assign(only=only)
    masks = evidence.amounts.masks
    yield from flag("HP406", tiles, tiles.only == 0, "mask_path", "only label 0", denominator=masks, unit="masks")
    yield from flag("HP407", tiles, tiles.only > 0, "mask_path", "only label {only:.0f}", denominator=masks, unit="masks")


@row_rule("HP408", "HP409")
def thin_or_small(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks with specks or hairlines."""
    labels, masks = chunk.labels, evidence.amounts.masks
    specks = labels.specks > 0
    tiles = chunk.tiles.assign(speckled=chunk.tiles_with(specks), number=labels[specks].groupby("row").specks.sum())
    detail = f"{{number:.0f}} regions under {evidence.options.min_area_px} pixels, of labels {{speckled}}"
    yield from flag("HP408", tiles, tiles.number > 0, "mask_path", detail, denominator=masks, unit="masks")
    thin = tiles.assign(thin=chunk.tiles_with(labels.radius_px <= HAIRLINE_RADIUS_PX))
    yield from flag("HP409", thin, thin.thin.notna(), "mask_path", "labels {thin}", denominator=masks, unit="masks")


@table_rule("HP410")
def scaled(evidence: Evidence) -> Iterator[Finding]:
    """Yield the factor by which all values of the data set seem to be scaled.

    Without a label map this needs 0 and 255 alone, or three other values with a common
    divisor; with one, the values must be unknown to it and known after division.
    """
    tiles = evidence.label_counts.classes.groupby("class_id").tiles.sum()
    values = [int(value) for value in tiles.index if value != 0]
    factor = gcd(*values) if values else 1
    if factor <= 1:
        return
    known = set(evidence.label_map.mapping) if evidence.label_map else None
    if known is None:
        suspicious = values == [255] or len(values) >= 3
    else:
        factor = factor if len(values) > 1 else values[0]
        suspicious = not known.issuperset(values) and known.issuperset(value // factor for value in values)
    if suspicious:
        items = [(f"value {value}", f"{tiles[value]:,} tiles; label {value // factor} times {factor}") for value in values]
        cause = f"The masks were multiplied by {factor} for viewing."
        yield finding(RULES["HP410"], items, denominator=len(values), unit="values", cause=cause)


@row_rule("HP412")
def needlessly_wide(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield 16-bit masks whose values fit into 8 bits."""
    highest = chunk.labels.groupby("row").label_id.max()
    tiles = chunk.tiles.assign(highest=highest)
    chosen = (tiles.mask_bit_depth == 16) & (tiles.highest < 256)
    yield from flag("HP412", tiles, chosen, "mask_path", "16 bits, highest value {highest:.0f}", denominator=evidence.amounts.masks, unit="masks")


