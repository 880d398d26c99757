"""HP4: the mask itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import gcd
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histoprep import rule_ids
from histoprep.checks import Chunk, Evidence, flag, true
from histoprep.checks.commands import LEFT_OUT, MAP_AS_IT_IS, REPAIRED_SPECKS, exclude, fix
from histoprep.checks.lossy import INTERPOLATED_MASK, LOSSY_MASK
from histoprep.checks.registry import row_rule, table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Mark, Rule, Scope, finding
from histoprep.labels.scales import MIN_SURPRISE, WHITES, TwoScales, find_two_scales
from histoprep.labels.wrapped import ADVICE as WRAPPED_ADVICE
from histoprep.labels.wrapped import wrapped_cause, wrapped_modulus
from histoprep.mask_reading import MaskEncoding
from histoprep.phrases import first_of, plural

if TYPE_CHECKING:
    import pandas as pd


SIZE_MISMATCH = Rule(
    "HP401",
    "size-mismatch",
    Severity.ERROR,
    Scope.TILE,
    definition="The mask and its image have different sizes.",
    cause="One of the two was resized or cropped, or they belong to different tiles.",
    suggestion=(
        "No command can tell which size is right: export both at the same size; resize masks with"
        f" nearest neighbour only. To leave these tiles out: {exclude('HP401')}"
    ),
)
MASK_WRONG_MODE = Rule(
    *rule_ids.MASK_WRONG_MODE,
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "The mask is not plain grey: it has channels, floating-point values or a colour table. What"
        " loses no label is read, with a warning; other masks are refused."
    ),
    cause="An image of the mask was saved instead of the labels.",
    suggestion=f"Labels that are read, as 8-bit grayscale PNG: {fix('--only plain')}",
)
MASK_COARSE_RESOLUTION = Rule(
    "HP405",
    "mask-coarse-resolution",
    Severity.INFO,
    Scope.TILE,
    definition="The mask is uniform in k x k cells, with k >= 8.",
    cause="It was annotated at a lower magnification and enlarged.",
    suggestion=(
        "No command can make it finer: boundaries are off by up to k pixels. If that does not"
        f" suffice, leave these tiles out: {exclude('HP405')}"
    ),
)
ZERO_MASK = Rule(
    "HP406",
    "zero-mask",
    Severity.INFO,
    Scope.TILE,
    definition="Every pixel is label 0, so the tile belongs to the unconditional pool.",
    cause="Nothing was annotated there.",
    suggestion="No command is needed, if label 0 means unknown.",
)
FULL_MASK = Rule(
    "HP407",
    "full-mask",
    Severity.INFO,
    Scope.TILE,
    definition="One label other than 0 covers the whole tile.",
    cause="The tile lies within a large annotation.",
    suggestion="No command is needed.",
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
    suggestion=(
        "Check the examples. A copy in which specks have the label around them:"
        f" {fix('--only specks')}"
    ),
    mark=Mark.SPECKS,
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
    suggestion=(
        "Check the examples; class lists use core presence, which such labels do not have. To"
        f" leave these tiles out: {exclude('HP409')}"
    ),
    mark=Mark.HAIRLINES,
)
SCALED_LABELS = Rule(
    "HP410",
    "scaled-labels",
    Severity.ERROR,
    Scope.DATASET,
    definition=(
        "All values share a divisor that is unlikely by chance, such as 0 and 255, or 0, 20, 40"
        " and 60, or equal 256 minus a label; or some masks hold 0 and 1, others 0 and 255."
    ),
    cause="The mask was scaled for viewing, or written in R as if labels were intensities.",
    suggestion=(
        "Divide by the reported factor at the source, or write a label map from the values as they"
        " are: histoprep map init ROOT"
    ),
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
    suggestion=f"A copy with masks of 8 bits: {fix('--only plain')}",
    fix_safety=FixSafety.SAFE,
)

INSTANCE_IDS = Rule(
    *rule_ids.INSTANCE_IDS,
    Severity.WARNING,
    Scope.DATASET,
    definition=(
        "The labels number objects, such as nuclei or glands: many ids, each one connected region."
    ),
    cause="The masks were made for instance segmentation: an id says which object, not what it is.",
    suggestion=(
        "A label map with a range such as 1-400: nucleus, with which remap writes masks of classes:"
        " histoprep map init ROOT"
    ),
)

_NUM_SHOWN = 4
COARSE_CELL_PX = 8
HAIRLINE_RADIUS_PX = 2.0
_COLOUR_SUBCODES = {
    "RGB": "rgb", "RGBA": "alpha", "LA": "alpha", "PA": "alpha", "CMYK": "cmyk", "YCbCr": "rgb",
    "LAB": "rgb", "F": "float", "P": "palette",
}  # fmt: skip
_READ_ADVICE = (
    "No command is needed, since the labels are read. For other programs, as grayscale PNG:"
    f" {fix('--only plain')}"
)
_COLOUR_ADVICE = (
    'A label map whose sources are these colours, in quotes, such as "#ff0000": tumour'
    " (docs/label-maps.md): histoprep map init ROOT"
)
_PALETTE_WORDS = "a colour table: OpenCV and others return colours instead of labels"


class _Stored(NamedTuple):
    """How the labels of masks are stored: subcode and detail of the finding, cause, suggestion."""

    subcode: str
    detail: str
    cause: str
    suggestion: str


_READ = {
    MaskEncoding.PALETTE: _Stored(
        "palette", _PALETTE_WORDS, "A tool added a palette, or drew with one.", _READ_ADVICE
    ),
    MaskEncoding.PALETTE_COLOURS: _Stored(
        "palette-colours",
        "a colour table, whose colours are read as labels",
        "Decided: --palette colour.",
        _COLOUR_ADVICE,
    ),
    MaskEncoding.EQUAL_CHANNELS: _Stored(
        "grey-in-rgb",
        "{mask_mode} with equal channels: their value is the label",
        "A class map was saved with equal colour channels, often by a viewer or an image editor.",
        _READ_ADVICE,
    ),
    MaskEncoding.COLOURS: _Stored(
        "colours",
        "{mask_mode}, coded by colour: {shown}",
        "Each label was drawn in a colour of its own.",
        _COLOUR_ADVICE,
    ),
    MaskEncoding.FLOAT: _Stored(
        "whole-float",
        "{mask_bit_depth}-bit floating-point numbers, all of them whole",
        "The labels were saved as they came out of a computation.",
        _READ_ADVICE,
    ),
}
_REFUSED = {
    "rgb": (
        "An image of the mask, or the image itself, was saved instead of the labels.",
        f"No command can find labels in it: export the ids as 8-bit grayscale PNG; {LEFT_OUT}",
    ),
    "smeared-colours": (
        "The mask was drawn with soft edges, resized with interpolation or saved as JPEG.",
        "No command can undo that: export it again as PNG without anti-aliasing, resized with"
        f" nearest neighbour only, best with label ids instead of colours; {LEFT_OUT}",
    ),
    "alpha": (
        "The mask was exported as an overlay for viewing, with transparency.",
        "No command can choose: save it again without alpha, or, if that holds the labels, the"
        f" alpha channel as 8-bit grayscale; {LEFT_OUT}",
    ),
    "probability": (
        "The output of a model was saved before a class was chosen for each pixel, or an image lies"
        " where a mask should be.",
        "No command can choose: save label ids as 8-bit grayscale PNG: (probability > 0.5), values"
        f" > 127 where they were scaled to 255, or the argmax over classes; {LEFT_OUT}",
    ),
    "scaled-float": (
        "The labels were converted to the range 0 to 1 as an image would be, such as by"
        " skimage.img_as_float.",
        f"No command can be sure of it: save round(255 * mask) as 8-bit grayscale PNG; {LEFT_OUT}",
    ),
    "float": (
        "The values were interpolated, or are measurements.",
        f"No command can choose: save label ids as 8-bit grayscale PNG; {LEFT_OUT}",
    ),
}
_INSTANCE_CAUSE = (
    "The labels are instance ids (HP417): small objects, or what neighbours and the border of the"
    " tile left of them."
)
_REPAIRED_CAUSE = (
    "The repaired masks contain them too: they are annotated, or repair could not distinguish them"
    " from annotations."
)


_MODE_COLUMNS = (
    "mask_path",
    "mask_mode",
    "mask_bit_depth",
    "mask_encoding",
    "mask_error",
    "mask_error_detail",
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
    """Yield masks that are not plain grey: read all the same, refused, or not decoded."""
    tiles = chunk.tiles[list(_MODE_COLUMNS)]
    for encoding, stored in _READ.items():
        own = tiles[true(tiles.mask_encoding == encoding.value) & tiles.mask_error.isna()]
        if len(own):
            named = own.assign(
                shown=_colours_shown(chunk, own) if "{shown}" in stored.detail else ""
            )
            yield from _read(evidence, named, stored)
    verdicts = tiles.mask_error
    for verdict in verdicts[true(verdicts.str.startswith(MASK_WRONG_MODE.code))].unique():
        subcode = verdict.partition(" ")[2]
        cause, suggestion = _REFUSED.get(subcode, ("", ""))
        yield from flag(
            MASK_WRONG_MODE,
            tiles,
            true(verdicts == verdict),
            "mask_path",
            "{mask_error_detail}",
            denominator=evidence.amounts.masks,
            unit="masks",
            subcode=subcode,
            cause=cause,
            suggestion=suggestion,
        )
    undecoded = tiles[tiles.mask_error.isna() & tiles.mask_encoding.isna()]
    for mode, subcode in _COLOUR_SUBCODES.items():
        unknown = _Stored(subcode, "{mask_mode}", "", "")
        yield from _read(evidence, undecoded[true(undecoded.mask_mode == mode)], unknown)
    shallow = tiles[
        true(tiles.mask_mode.isin(["1", "L"]) & (tiles.mask_bit_depth < 8))
        & tiles.mask_error.isna()
    ]
    tight = shallow.assign(bits=[plural(int(bits), "bit") for bits in shallow.mask_bit_depth])
    detail = "{bits} a pixel: some readers stretch the values to 0-255"
    yield from _read(evidence, tight, _Stored("low-bit-depth", detail, "", _READ_ADVICE))


def _colours_shown(chunk: Chunk, masks: pd.DataFrame) -> list[str]:
    """Return the colours of each mask in words, the first few of many."""
    places = np.flatnonzero(chunk.tiles.index.isin(masks.index))
    own = chunk.labels[chunk.labels.row.isin(places)]
    return [
        first_of([f"#{label:06x}" for label in ids.tolist()], limit=_NUM_SHOWN)
        for _, ids in own.groupby("row").label_id
    ]


def _read(evidence: Evidence, masks: pd.DataFrame, stored: _Stored) -> Iterator[Finding]:
    every = np.ones(len(masks), dtype=bool)
    for problem in flag(
        MASK_WRONG_MODE,
        masks,
        every,
        "mask_path",
        stored.detail,
        denominator=evidence.amounts.masks,
        unit="masks",
        subcode=stored.subcode,
        cause=stored.cause,
        suggestion=stored.suggestion,
    ):
        yield replace(problem, severity=Severity.WARNING)


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
    paths = chunk.tiles[["image_path", "mask_path"]]
    tiles = paths.iloc[alone.row].assign(only=alone.label_id.to_numpy())
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
    masks = chunk.tiles[["mask_path"]]
    specks = masks.iloc[number.index].assign(
        number=[plural(count, "region") for count in number],
        speckled=chunk.labels_named(small).to_numpy(),
    )
    detail = f"{{number}} under {evidence.options.min_area_px} pixels, of {{speckled}}"
    yield from _by_cause(SPECK_LABELS, specks, detail, evidence)
    thin = chunk.labels_named((labels.radius_px <= HAIRLINE_RADIUS_PX) & counted)
    hairlines = masks.iloc[thin.index].assign(thin=thin.to_numpy())
    yield from _by_cause(HAIRLINE_LABELS, hairlines, "{thin}", evidence)


def _by_cause(
    rule: Rule, masks: pd.DataFrame, detail: str, evidence: Evidence
) -> Iterator[Finding]:
    """Yield masks of sources that are known to be lossy or interpolated (HP403, HP404), and
    repaired ones, apart from others.
    """
    amount = evidence.amounts.masks
    if evidence.instances is not None:
        small = flag(
            rule,
            masks,
            np.ones(len(masks), bool),
            "mask_path",
            detail,
            denominator=amount,
            unit="masks",
            subcode="instances",
            cause=_INSTANCE_CAUSE,
            suggestion="No command is needed, if the objects are so small.",
        )
        yield from (replace(problem, severity=Severity.INFO) for problem in small)
        return
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
        suggestion=f"Check the examples. {REPAIRED_SPECKS}" if rule is SPECK_LABELS else "",
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
            cause=cause, suggestion="histoprep repair ROOT",
        )  # fmt: skip


@table_rule(INSTANCE_IDS)
def instance_ids(evidence: Evidence) -> Iterator[Finding]:
    """Yield that labels number objects, where no label map says what they are."""
    ids = evidence.instances
    if ids is not None and evidence.label_map is None:
        yield finding(
            INSTANCE_IDS,
            [("masks", ids.describe())],
            denominator=1,
            unit="data sets",
            suggestion=(
                f"A label map with a range such as 1-{ids.highest}: nucleus, with which remap"
                " writes masks of classes: histoprep map init ROOT"
            ),
        )


@table_rule(SCALED_LABELS)
def scaled(evidence: Evidence) -> Iterator[Finding]:
    """Yield the factor by which all values of the data set seem to be scaled.

    Convicted are white alone; more values that share a divisor than chance would have it; and, with
    a label map, several values of which it knows none before and all after the division. Labels
    that R stored as 256 - k are named apart.
    """
    # Colours and ids of objects are no multiples of anything.
    if evidence.readings.has_colours or evidence.instances is not None:
        return
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
            suggestion=f"{WRAPPED_ADVICE} {MAP_AS_IT_IS}",
        )
        return
    if (scales := _two_scales(evidence, tiles)) is not None:
        yield _in_two_scales(evidence, scales, tiles)
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
        yield finding(
            SCALED_LABELS,
            items,
            denominator=len(values),
            unit="values",
            cause=cause,
            suggestion=(
                "Divide the masks by this factor at the source; or write a label map that gives"
                " each value a class and a name: histoprep map init ROOT --out label_map.yml"
            ),
        )


def _two_scales(evidence: Evidence, tiles: pd.Series) -> TwoScales | None:
    """Return the two scales of the labels, unless the label map knows all of them."""
    rows = evidence.label_counts.cooccurrence[["class_a", "class_b", "tiles"]].to_numpy().tolist()
    together = {(int(a), int(b)): int(number) for a, b, number in rows}
    masks = {int(str(label)): int(number) for label, number in tiles.items()}
    found = find_two_scales(masks, together)
    is_known = evidence.label_map is not None and not evidence.label_map.unlisted(masks)
    return None if is_known else found


def _in_two_scales(evidence: Evidence, scales: TwoScales, tiles: pd.Series) -> Finding:
    items = [
        item
        for label, value in scales.pairs
        for item in (
            (f"value {label}", plural(int(tiles[label]), "tile")),
            (
                f"value {value}",
                f"{plural(int(tiles[value]), 'tile')}; {label} times {scales.factor}",
            ),
        )
    ]
    return finding(
        SCALED_LABELS,
        items,
        denominator=len(items),
        unit="values",
        subcode="two-scales",
        cause=(
            f"Some masks hold the labels, others the labels times {scales.factor}: two encodings"
            " of the same labels in one data set, which would become different classes."
        ),
        suggestion=(
            "Write all masks in one way; or write a label map in which both values of a label are"
            " one class: histoprep map init ROOT --out label_map.yml"
        ),
    )


@row_rule(SIXTEEN_BIT_MASK)
def needlessly_wide(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield masks of 16 or more bits whose values fit into 8 bits."""
    # Ids need as many bits as the largest number of objects, which other masks may have.
    if evidence.instances is not None:
        return
    highest = chunk.labels.groupby("row").label_id.max()
    columns = chunk.tiles[["mask_path", "mask_encoding", "mask_bit_depth"]]
    tiles = columns.iloc[highest.index].assign(highest=highest.to_numpy())
    is_integer = ~true(tiles.mask_encoding == MaskEncoding.FLOAT.value)
    chosen = (tiles.mask_bit_depth >= 16) & (tiles.highest < 256) & is_integer
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
