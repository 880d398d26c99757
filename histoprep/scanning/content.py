"""What the pixels of a file look like: labels or an image. Arrays in, a verdict out."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from histoprep import imageio
from histoprep.errors import BrokenFileError

# Larger files are not decoded for a look.
MAX_PIXELS = 16_000_000
# Neighbours of one value in label images; photographs have fewer, but for glass.
_FLAT = 0.5
_VERY_FLAT = 0.8
_FEW_VALUES = 64
_MANY_VALUES = 4096
# Tones of labels hold this share of an image compressed with loss.
_BULK = 0.97
_FEW_TONES = 8
_GLASS = 235
_ENOUGH_PIXELS = 1 << 15


class Content(StrEnum):
    """What a file looks like; `BLANK` is one value only, which both can be."""

    IMAGE = "image"
    CLASSES = "class map"
    INSTANCES = "instance ids"
    COLOURS = "colours"
    BLANK = "blank"
    UNKNOWN = "unknown"

    @property
    def is_labels(self) -> bool:
        """Return whether it looks like labels."""
        return self in (Content.CLASSES, Content.INSTANCES, Content.COLOURS)


def content_of(data: bytes) -> Content:
    """Return what a file looks like; `UNKNOWN` when it cannot be decoded or is too large."""
    try:
        header = imageio.read_header(data)
        if header.num_pixels > MAX_PIXELS:
            return Content.UNKNOWN
        pixels = imageio.decode_stored(data, header)
    except BrokenFileError:
        return Content.UNKNOWN
    return content_of_pixels(pixels, has_palette=bool(header.palette), is_lossy=bool(header.lossy))


def drawn_area(data: bytes) -> np.ndarray | None:
    """Return where a mask of two values is drawn, bool [height, width]; None for a file that is no
    such mask, cannot be decoded or is too large. What was compressed with loss counts by its half.
    """
    try:
        header = imageio.read_header(data)
        if header.num_pixels > MAX_PIXELS:
            return None
        pixels = imageio.decode_stored(data, header)
    except BrokenFileError:
        return None
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(axis=2)
    if header.lossy:
        drawn: np.ndarray = pixels > np.iinfo(pixels.dtype).max // 2
        return drawn
    values = np.unique(pixels)
    return None if len(values) > 2 else pixels > (values[0] if len(values) == 2 else 0)


def content_of_pixels(
    pixels: np.ndarray, *, has_palette: bool = False, is_lossy: bool = False
) -> Content:
    """Return what an image looks like.

    Labels are flat: most neighbours are equal, and there are few values. Photographs are neither,
    but for glass, which counts for neither side.

    Args:
        pixels: [height, width] or [height, width, channels], of any type.
        has_palette: Whether these are indices of a table of colours.
        is_lossy: Whether they were compressed with loss.
    """
    if pixels.size == 0:
        return Content.UNKNOWN
    # Rows from all over are enough.
    pixels = pixels[:: max(1, pixels.shape[0] * pixels.shape[1] // _ENOUGH_PIXELS)]
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        colour = pixels[..., :3]
        grey = bool((colour == colour[..., :1]).all())
        values = colour[..., 0] if grey else _packed(colour)
        glass: np.ndarray | None = (
            np.all(colour >= _GLASS, axis=2) if colour.dtype == np.uint8 else None
        )
    else:
        values = pixels[..., 0] if pixels.ndim == 3 else pixels
        grey, glass = True, None
    number = 1 + int(np.count_nonzero(np.diff(np.sort(values, axis=None))))
    if number == 1:
        return Content.BLANK
    flat = _flat_share(values, None if grey else glass)
    if is_lossy:
        return _lossy_content(pixels, flat)
    if number <= _FEW_VALUES and flat >= _FLAT:
        return Content.CLASSES if grey or has_palette else Content.COLOURS
    if grey and flat >= _FLAT and number <= _MANY_VALUES:
        return Content.INSTANCES
    if not grey and flat >= _VERY_FLAT and number <= _MANY_VALUES:
        return Content.COLOURS
    return Content.IMAGE


def _packed(colour: np.ndarray) -> np.ndarray:
    wide = colour.astype(np.int64)
    result: np.ndarray = (wide[..., 0] << 32) | (wide[..., 1] << 16) | wide[..., 2]
    return result


def _flat_share(values: np.ndarray, glass: np.ndarray | None) -> float:
    """Return the share of pixels that equal their right neighbour; where both are glass counts for
    nothing, unless all is.
    """
    if values.shape[1] < 2:
        return 0.0
    equal = values[:, 1:] == values[:, :-1]
    if glass is None:
        return float(equal.mean())
    counted = ~(glass[:, 1:] & glass[:, :-1])
    return float(equal[counted].mean()) if counted.any() else 0.0


def _lossy_content(pixels: np.ndarray, flat: float) -> Content:
    """Return what an image compressed with loss looks like: labels keep a few tones that hold
    nearly all of it.
    """
    tones = (pixels[..., :3] if pixels.ndim == 3 else pixels[..., np.newaxis]) >> 5
    _, counts = np.unique(_packed(np.repeat(tones, 3, 2)[..., :3]), return_counts=True)
    bulk = np.sort(counts)[::-1][:_FEW_TONES].sum() / counts.sum()
    if bulk >= _BULK and flat >= _FLAT:
        grey = pixels.ndim == 2 or bool(
            (np.ptp(pixels[..., :3].astype(np.int16), axis=2) < 16).mean() > _BULK
        )
        return Content.CLASSES if grey else Content.COLOURS
    return Content.IMAGE
