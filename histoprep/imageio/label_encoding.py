"""Stored values -> labels, by the table of `encodings.py`: decoded, refused until somebody decides
(`Reading`), or refused. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from histoprep import rule_ids
from histoprep.choices import DepthReading, MinIsWhiteReading, PaletteReading
from histoprep.errors import BrokenFileError
from histoprep.imageio.colour_labels import labels_of_channels
from histoprep.imageio.header import Header
from histoprep.imageio.whole_numbers import labels_of_floats, refuse_negative, smallest
from histoprep.mask_reading import MIN_IS_WHITE, PALETTE, MaskEncoding, Reading

GREY_MODES = ("1", "L", "I;16", "I;16B", "I")
_MAX_LABEL = 65_535
_NUM_SHOWN = 8
# A colour as 0xRRGGBB.
_PACKING = np.array([1 << 16, 1 << 8, 1])
# What tifffile writes into a file; it stores arrays as they are, and declares boolean ones
# min-is-white.
_STORES_LABELS = "tifffile"


class Doubt(NamedTuple):
    """Values of a mask that readers return in two ways: `shown[i]` is what readers of grey values
    return for `stored[i]`.
    """

    kind: str
    stored: np.ndarray
    shown: np.ndarray

    def describe(self) -> str:
        """Return both readings in words."""
        names = ("by index", "by grey value") if self.kind == PALETTE else ("as stored", "inverted")
        return ", or ".join(
            f"{_listed(labels)} {name}"
            for labels, name in zip((self.stored, self.shown), names, strict=True)
        )


def _listed(labels: np.ndarray) -> str:
    shown = ", ".join(str(label) for label in labels[:_NUM_SHOWN].tolist())
    more = f" and {len(labels) - _NUM_SHOWN} more" if len(labels) > _NUM_SHOWN else ""
    return f"label{'s' if len(labels) > 1 else ''} {shown}{more}"


class Labels(NamedTuple):
    """The labels of a mask, uint8, uint16 or uint32 [height, width], and how they were stored."""

    values: np.ndarray
    encoding: MaskEncoding


def find_doubt(stored: np.ndarray, header: Header) -> Doubt | None:
    """Return the two readings of a mask, stored values [height, width], whose readers disagree;
    None where all return the same.
    """
    if header.palette:
        palette = _colours(header.palette)
        is_grey = bool((palette == palette[:, :1]).all())
        used = _used(stored)
        if not is_grey or used[-1] >= len(palette) or (palette[used, 0] == used).all():
            return None
        return Doubt(PALETTE, used, palette[used, 0].astype(np.int64))
    if header.is_min_is_white and stored.ndim == 2 and stored.dtype.kind == "u":
        used = _used(stored)
        return Doubt(MIN_IS_WHITE, used, _white(header) - used)
    return None


def palette_colours(stored: np.ndarray, header: Header) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the indices that occur and the colour of each as 0xRRGGBB; None for a mask without a
    palette or with an index beyond it.
    """
    palette = _colours(header.palette)
    used = _used(stored) if len(palette) else np.zeros(0, np.int64)
    if not len(used) or used[-1] >= len(palette):
        return None
    return used, palette[used].astype(np.int64) @ _PACKING


def labels_of(stored: np.ndarray, header: Header, reading: Reading) -> Labels:
    """Return the labels of stored values, and their encoding.

    Args:
        stored: What the file holds: integers or floating-point numbers [height, width], or
            [height, width, channels].
        header: Its header.
        reading: What was decided where readers disagree.

    Raises:
        BrokenFileError: Readers disagree and nobody decided, or the file asks to be turned (HP413);
            an index beyond its palette (HP415); negative labels (HP416); values that are no labels
            (HP402).
    """
    if header.orientation not in (None, 1):
        raise BrokenFileError(
            rule_ids.READERS_DISAGREE.verdict("orientation"),
            f"orientation {header.orientation}: some readers turn the mask, others do not",
        )
    if header.palette:
        return _palette_labels(stored, header, reading)
    if stored.ndim == 3:
        labels, encoding = labels_of_channels(stored, header, reading)
        return Labels(labels, encoding)
    if stored.dtype.kind == "f":
        return Labels(labels_of_floats(stored), MaskEncoding.FLOAT)
    if stored.ndim != 2 or stored.dtype.kind not in "iu" or header.mode not in GREY_MODES:
        raise BrokenFileError(
            rule_ids.MASK_WRONG_MODE.verdict("rgb"),
            f"{header.mode}, {stored.dtype} of {stored.ndim} dimensions: no labels",
        )
    return Labels(_grey_labels(stored, header, reading), MaskEncoding.GREY)


def _grey_labels(stored: np.ndarray, header: Header, reading: Reading) -> np.ndarray:
    if stored.dtype.itemsize > 4:
        return smallest(stored)
    if header.is_signed:
        stored = _unsigned(stored)
    if header.is_min_is_white and _inverts(stored, header, reading):
        stored = (_white(header) - stored.astype(np.int64)).astype(stored.dtype)
    return _scaled(stored, header, reading)


def _palette_labels(stored: np.ndarray, header: Header, reading: Reading) -> Labels:
    num_colours = len(header.palette) // 3
    if num_colours < 1 << header.bit_depth and (highest := int(stored.max())) >= num_colours:
        if header.bit_depth < 8 or reading.palette is not PaletteReading.INDEX:
            beyond = _used(stored)
            wrapped = ", perhaps of a larger label" if header.bit_depth < 8 else ""
            detail = (
                f"{_listed(beyond[beyond >= num_colours])} of a palette of {num_colours} colours (0"
                f" to {num_colours - 1}){wrapped}"
            )
            raise BrokenFileError(str(rule_ids.INDEX_BEYOND_PALETTE), detail)
        return Labels(stored if highest < 256 else stored.astype(np.uint16), MaskEncoding.PALETTE)
    if reading.palette is PaletteReading.COLOUR:
        table = (_colours(header.palette).astype(np.int64) @ _PACKING).astype(np.uint32)
        return Labels(table[stored], MaskEncoding.PALETTE_COLOURS)
    doubt = find_doubt(stored, header)
    if doubt is None or reading.palette is PaletteReading.INDEX:
        return Labels(stored, MaskEncoding.PALETTE)
    if reading.palette is PaletteReading.GREY:
        greys: np.ndarray = np.ascontiguousarray(_colours(header.palette)[:, 0])[stored]
        return Labels(greys, MaskEncoding.PALETTE)
    raise BrokenFileError(rule_ids.READERS_DISAGREE.verdict(PALETTE), doubt.describe())


def _inverts(stored: np.ndarray, header: Header, reading: Reading) -> bool:
    """Return whether values of a min-is-white TIFF are to be turned round; raises BrokenFileError
    where nobody decided.
    """
    if reading.min_is_white is not None:
        return reading.min_is_white is MinIsWhiteReading.INVERTED
    if stores_labels(header):
        return False
    doubt = find_doubt(stored, header)
    raise BrokenFileError(
        rule_ids.READERS_DISAGREE.verdict(MIN_IS_WHITE),
        doubt.describe() if doubt else "stored, or inverted values",
    )


def stores_labels(header: Header) -> bool:
    """Return whether what wrote the file is known to store labels as they are, whatever it says of
    white.
    """
    return header.software.startswith(_STORES_LABELS)


def _unsigned(stored: np.ndarray) -> np.ndarray:
    refuse_negative(stored)
    return stored.astype(np.uint8) if stored.dtype == np.int8 else _narrowed(stored)


def _narrowed(stored: np.ndarray) -> np.ndarray:
    return (
        stored.astype(np.uint16)
        if stored.dtype.itemsize > 1 and (not stored.size or stored.max() <= _MAX_LABEL)
        else stored.astype(np.uint32)
    )


def _scaled(stored: np.ndarray, header: Header, reading: Reading) -> np.ndarray:
    wanted = (
        {DepthReading.TO_8: 8, DepthReading.TO_16: 16}.get(reading.depth) if reading.depth else None
    )
    if wanted is None or header.bit_depth >= wanted or header.is_signed:
        return stored
    return stored.astype(np.uint8 if wanted == 8 else np.uint16) * scale_factor(
        header.bit_depth, wanted
    )


def scale_factor(bits: int, wanted: int) -> int:
    """Return what a grey value of `bits` is multiplied by to be as bright in `wanted` bits; both 1,
    2, 4, 8 or 16.
    """
    return ((1 << wanted) - 1) // ((1 << bits) - 1)


def _white(header: Header) -> int:
    return (1 << header.bit_depth) - 1


def _colours(palette: bytes) -> np.ndarray:
    """Return a palette as uint8 [colours, 3]."""
    return np.frombuffer(palette, np.uint8).reshape(-1, 3)


def _used(stored: np.ndarray) -> np.ndarray:
    """Return the values that occur, ascending."""
    return np.flatnonzero(np.bincount(stored.ravel()))
