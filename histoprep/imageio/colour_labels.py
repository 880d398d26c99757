"""Masks with several channels -> labels: equal channels, or one colour for each label. Pure.

A colour stands for the label 0xRRGGBB. That loses nothing as long as a colour is what somebody
chose for a label: anti-aliasing, interpolation and JPEG make colours of their own along every
boundary, and those masks are refused.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from histoprep import rule_ids
from histoprep.choices import RgbReading
from histoprep.errors import BrokenFileError
from histoprep.imageio.header import Header
from histoprep.mask_reading import MaskEncoding, Reading

COLOUR_MODES = ("RGB", "RGBA", "LA")
_MAX_COLOURS = 1 << 16
_FLAT = np.ones((3, 3), np.uint8)
_NEARBY = np.ones((7, 7), np.uint8)
# A colour without a flat area is a blend if this share of its pixels lies between the colours of
# flat areas nearby, in every channel.
_BLEND_SHARE = 0.9
# So many blends are no chance, and so many colours without a flat area are no thin structures.
_MIN_BLENDS, _MIN_SCATTERED = 3, 12
# Of a photograph no colour has so many pixels; of a smeared mask the background does.
_DOMINANT_SHARE = 0.1
_NUM_SHOWN = 3
_NO_LABELS = (
    "{:,} colours, hardly one of them with a flat area: a photograph, or colours that JPEG changed,"
    " no labels"
)


class ColourLabels(NamedTuple):
    """The labels of a mask with channels: uint8, uint16 or uint32 [height, width], and how they
    were stored.
    """

    labels: np.ndarray
    encoding: MaskEncoding


def labels_of_channels(stored: np.ndarray, header: Header, reading: Reading) -> ColourLabels:
    """Return the labels of a mask whose channels are equal, or whose colours each stand for one.

    Args:
        stored: Integers [height, width, channels]: grey or RGB, perhaps with alpha.
        header: Header of the file.
        reading: What was decided of equal channels.

    Raises:
        BrokenFileError: HP402; its colours are no labels, or its alpha channel distinguishes
            pixels of one colour.
    """
    if header.mode not in COLOUR_MODES:
        raise _refused(
            "cmyk" if header.mode == "CMYK" else "rgb",
            f"{header.mode}, which readers turn into different colours: save it as RGB",
        )
    if stored.dtype.kind == "f":
        raise _refused("float", "channels of floating-point numbers: save colours with 8 bits")
    if stored.dtype.kind == "i" and stored.min() < 0:
        raise _refused("rgb", "negative colours")
    colour = stored[..., :3] if stored.shape[2] >= 3 else stored[..., :1]
    is_grey = bool((colour == colour[..., :1]).all())
    if stored.shape[2] in (2, 4):
        _refuse_telling_alpha(stored)
    if is_grey and (reading.rgb is not RgbReading.COLOUR or colour.shape[2] == 1):
        return ColourLabels(np.ascontiguousarray(colour[..., 0]), MaskEncoding.EQUAL_CHANNELS)
    if colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)
    labels = packed(_bytes(colour))
    _refuse_smeared(labels)
    return ColourLabels(labels, MaskEncoding.COLOURS)


def packed(rgb: np.ndarray) -> np.ndarray:
    """Return the id 0xRRGGBB, uint32 [height, width], of each pixel of uint8 RGB."""
    red, green, blue = (rgb[..., channel].astype(np.uint32) for channel in range(3))
    result: np.ndarray = red << 16 | green << 8 | blue
    return result


def distinct(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of a mask in order, and the position of each pixel's label among them,
    int64 [height, width].

    Values are sorted once for each run of equal pixels, which labels are.
    """
    flat = np.ascontiguousarray(labels).ravel()
    start = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ids, place = np.unique(flat[start], return_inverse=True)
    positions = np.repeat(place, np.diff(start, append=flat.size))
    return ids, positions.reshape(labels.shape)


def _bytes(colour: np.ndarray) -> np.ndarray:
    """Return channels as uint8; raises BrokenFileError where 16 bits hold more than 8 do."""
    if colour.dtype == np.uint8:
        return colour
    if colour.max() < 256:
        return colour.astype(np.uint8)
    if (colour % 257).any():
        raise _refused("rgb", "colours of 16 bits a channel: save them with 8 bits")
    return (colour // 257).astype(np.uint8)


def _refuse_telling_alpha(stored: np.ndarray) -> None:
    """Raise BrokenFileError if pixels of one colour differ in alpha: it may be what holds the
    labels.
    """
    alpha = stored[..., -1]
    if (alpha == alpha[0, 0]).all():
        return
    colour = stored[..., :-1].astype(np.uint64)
    joined = alpha.astype(np.uint64)
    for channel in range(colour.shape[2]):
        joined = joined << np.uint64(16) | colour[..., channel]
    pairs = distinct(joined)[0]
    colours = pairs & np.uint64((1 << 16 * colour.shape[2]) - 1)
    values, counts = np.unique(colours, return_counts=True)
    if len(values) == len(pairs):
        return
    among = np.unique(
        (pairs >> np.uint64(16 * colour.shape[2]))[colours == values[counts.argmax()]]
    )
    shown = ", ".join(map(str, among[:_NUM_SHOWN].tolist()))
    raise _refused(
        "alpha",
        f"the alpha channel differs where the colour is the same (alpha {shown}"
        f"{' and more' if len(among) > _NUM_SHOWN else ''}): it is not clear which of them holds"
        " the labels; save the mask without alpha, or the alpha channel alone as grey",
    )


def _refuse_smeared(labels: np.ndarray) -> None:
    """Raise BrokenFileError for colours that nobody chose: blends along boundaries, JPEG, a
    photograph.
    """
    ids, place = distinct(labels)
    if len(ids) > _MAX_COLOURS:
        raise _refused("rgb", _NO_LABELS.format(len(ids)))
    place = place.astype(np.uint16)
    flat = cv2.erode(place, _FLAT) == cv2.dilate(place, _FLAT)
    has_area = np.bincount(place[flat], minlength=len(ids)) > 0
    scattered = len(ids) - int(has_area.sum())
    if scattered < _MIN_BLENDS:
        return
    pixels = np.bincount(place.ravel(), minlength=len(ids))
    blends = _blends(ids, place, has_area, pixels)
    if int(blends.sum()) < _MIN_BLENDS and not (
        scattered >= _MIN_SCATTERED and scattered > 2 * int(has_area.sum())
    ):
        return
    if pixels.max() < _DOMINANT_SHARE * labels.size:
        raise _refused("rgb", _NO_LABELS.format(len(ids)))
    chosen = np.flatnonzero(blends if blends.any() else ~has_area)
    frequent = chosen[np.argsort(-pixels[chosen], kind="stable")][:_NUM_SHOWN]
    shown = ", ".join(
        f"#{ids[index]:06x} ({pixels[index]:,} pixel{'s' if pixels[index] > 1 else ''})"
        for index in frequent
    )
    raise _refused(
        "smeared-colours",
        f"{len(ids):,} colours, {scattered:,} of them along boundaries alone, such as {shown}:"
        " blends that anti-aliasing, resizing or JPEG made",
    )


def _blends(
    ids: np.ndarray, place: np.ndarray, has_area: np.ndarray, pixels: np.ndarray
) -> np.ndarray:
    """Return bool [ids]: which colours without a flat area lie between the colours of flat areas
    around nearly all of their pixels.
    """
    with_area, inside = has_area[place], np.ones(place.shape, bool)
    strictly = np.zeros(place.shape, bool)
    for shift in (16, 8, 0):
        level = ((ids >> shift) & 255).astype(np.uint8)[place]
        low = cv2.erode(np.where(with_area, level, np.uint8(255)), _NEARBY)
        high = cv2.dilate(np.where(with_area, level, np.uint8(0)), _NEARBY)
        inside &= (low <= level) & (level <= high)
        strictly |= (low < level) & (level < high)
    between = np.bincount(place[inside & strictly], minlength=len(ids))
    result: np.ndarray = ~has_area & (between >= _BLEND_SHARE * pixels)
    return result


def _refused(subcode: str, detail: str) -> BrokenFileError:
    return BrokenFileError(rule_ids.MASK_WRONG_MODE.verdict(subcode), detail)
