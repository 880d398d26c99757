"""Grey image -> landmarks: places that are found again wherever a tile was cut from the slide, and
however it was turned or flipped.

A landmark is a blob, dark or bright: an extremum of the difference of two Gaussians. What is around
it is brought into one of eight orientations by its gradient and described by seven numbers.
Sources: blobs by differences of Gaussians and their place by a parabola, D. Lowe, IJCV 60 (2004),
sections 3 and 4.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from histoprep import native

MAX_LANDMARKS = 48
NUM_NUMBERS = 7
NUM_BYTES = 3 + NUM_NUMBERS
"""Bytes of a landmark: row and column in cells, orientation 0 to 7, and seven int8."""
MIN_CELLS = 32
"""Images of fewer cells a side have none."""
_MAX_CELLS = 192
# How far the points that describe a landmark are from it, in cells, and how fast they count less.
_REACH, _WIDTH = 4, 2.2
_FINE, _COARSE, _AROUND = 1.0, 2.0, 3.0
# Grey levels by which a blob differs from its surroundings.
_MIN_BLOB = 1.5
# A gradient nearly along an axis or a diagonal decides on no orientation.
_AXIS, _DIAGONAL = 0.12, 0.88
# Two thirds of the landmarks lie in this share of the side from a border, where tiles overlap that
# were cut with a stride little smaller than their size: narrower than the narrowest overlap that is
# looked for, an eighth, so that both tiles choose from the same places.
_MARGIN = 1 / 12
_LIMITS = np.array([_MIN_BLOB, _AXIS, _DIAGONAL], np.float32)
# Cells along the border in which nothing could be described.
_EDGE = _REACH + 1
# Standard deviations of the seven numbers over tissue; an int8 of 32 stands for one of them.
_SPREAD = np.array([0.68, 0.31, 0.28, 0.14, 0.13, 0.14, 0.09], np.float32)
UNIT = 32


class Landmarks(NamedTuple):
    """Landmarks of one or more images, n of them.

    `down` and `right` are their places in cells (float32 [n]), `orientation` is 0 to 7 (int64 [n]),
    `numbers` describes what is around them (float32 [n, 7]).
    """

    down: np.ndarray
    right: np.ndarray
    orientation: np.ndarray
    numbers: np.ndarray

    @classmethod
    def from_bytes(cls, stored: np.ndarray) -> Landmarks:
        """Return what uint8 [n, 10] stands for."""
        return cls(
            stored[:, 0].astype(np.float32),
            stored[:, 1].astype(np.float32),
            stored[:, 2].astype(np.int64),
            stored[:, 3:].view(np.int8).astype(np.float32) / UNIT,
        )


def cell_size(height: int, width: int) -> int:
    """Return the side in pixels of the cells that places are counted in: 1, 2, 4, ..."""
    side = 1
    while max(height, width) > _MAX_CELLS * side:
        side *= 2
    return side


def find_landmarks(grey: np.ndarray) -> np.ndarray:
    """Return at most 48 landmarks of an image, spread over it and more of them near its borders.

    Args:
        grey: Luminance at full size, uint8 [height, width].

    Returns:
        uint8 [n, 10], see `NUM_BYTES`; none for images of fewer than 32 cells a side.
    """
    side = cell_size(*grey.shape)
    rows, columns = (length // side for length in grey.shape)
    if min(rows, columns) < MIN_CELLS:
        return np.zeros((0, NUM_BYTES), np.uint8)
    cells = shrink(grey, side)
    fine = cv2.GaussianBlur(cells.astype(np.float32), (0, 0), _FINE)
    blobs = fine - cv2.GaussianBlur(fine, (0, 0), _COARSE)
    around = cv2.GaussianBlur(fine, (0, 0), _AROUND)
    across, along, functions = _functions()
    found = native.find_landmarks(
        blobs, around, _EDGE, _LIMITS, _MARGIN, (across, along), MAX_LANDMARKS
    )
    chosen, at_columns, at_rows = found or choose_landmarks(blobs, around)
    if not len(chosen):
        return np.zeros((0, NUM_BYTES), np.uint8)
    result = np.empty((len(chosen), NUM_BYTES), np.uint8)
    result[:, :3] = chosen
    points = cv2.remap(fine, at_columns, at_rows, cv2.INTER_LINEAR)
    scaled = np.clip(np.rint(_describe(points, functions) / _SPREAD * UNIT), -127, 127)
    result[:, 3:] = scaled.astype(np.int8).view(np.uint8)
    return result


def shrink(grey: np.ndarray, side: int) -> np.ndarray:
    """Return the means of whole cells of `side` pixels, uint8, of an image, uint8 [height, width];
    what fills no cell at its right and lower end is left out.
    """
    rows, columns = (length // side for length in grey.shape)
    whole = grey[: rows * side, : columns * side]
    if side == 1:
        return whole
    if (shrunk := native.shrink(whole, side)) is not None:
        return shrunk
    result: np.ndarray = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    return result


def choose_landmarks(
    blobs: np.ndarray, around: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what `native.find_landmarks` does, without the library."""
    down, right = _extrema(blobs)
    orientation, is_clear = _orientations(around, down, right)
    down, right, orientation = down[is_clear], right[is_clear], orientation[is_clear]
    chosen = _spread(down, right, np.abs(blobs[down, right]), blobs.shape)
    down, right, orientation = down[chosen], right[chosen], orientation[chosen]
    across, along, _ = _functions()
    turned = turn(orientation[:, None], across[None], along[None])
    at_rows, at_columns = (
        (place[:, None] + moved).astype(np.float32)
        for place, moved in zip(_peak(blobs, down, right), reversed(turned), strict=True)
    )
    return np.stack([down, right, orientation], axis=1), at_columns, at_rows


def _extrema(blobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of blobs that are far enough from the border to be described."""
    window = np.ones((3, 3), np.uint8)
    is_bright = (blobs == cv2.dilate(blobs, window)) & (blobs > _MIN_BLOB)
    is_dark = (blobs == cv2.erode(blobs, window)) & (blobs < -_MIN_BLOB)
    down, right = np.nonzero((is_bright | is_dark)[_EDGE:-_EDGE, _EDGE:-_EDGE])
    return down + _EDGE, right + _EDGE


def _orientations(
    around: np.ndarray, down: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the orientation of each landmark, and whether its gradient decides on it."""
    across = around[down, right + 1] - around[down, right - 1]
    along = around[down + 1, right] - around[down - 1, right]
    sizes = np.abs(across), np.abs(along)
    low, high = np.minimum(*sizes), np.maximum(*sizes)
    orientation = (across < 0) + 2 * (along < 0) + 4 * (sizes[0] < sizes[1])
    return orientation, (low >= _AXIS * high) & (low <= _DIAGONAL * high)


def _spread(
    down: np.ndarray, right: np.ndarray, size: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Return which landmarks to keep: the strongest of each of twelve fields, in turn. Eight of the
    fields are halves of the strips along the borders, four the quarters of what is inside.
    """
    height, width = shape
    reach = np.stack([right / width, 1 - right / width, down / height, 1 - down / height], axis=1)
    strip = reach.argmin(axis=1)
    lower, further = down * 2 // height, right * 2 // width
    in_strip = 4 + 2 * strip + np.where(strip < 2, lower, further)
    field = np.where(reach.min(axis=1) < _MARGIN, in_strip, 2 * lower + further)
    order = np.lexsort((-size, field))
    rank = np.arange(len(order)) - np.searchsorted(field[order], field[order])
    chosen: np.ndarray = order[np.lexsort((-size[order], rank))[:MAX_LANDMARKS]]
    return chosen


def _peak(blobs: np.ndarray, down: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of extrema between cells, by a parabola in each direction."""
    middle = blobs[down, right]

    def shift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        bend = before + after - 2 * middle
        moved = (before - after) / (2 * np.where(bend == 0, 1, bend))
        result: np.ndarray = np.clip(moved, -0.5, 0.5)
        return result

    return (
        down + shift(blobs[down - 1, right], blobs[down + 1, right]),
        right + shift(blobs[down, right - 1], blobs[down, right + 1]),
    )


@cache
def _functions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the points of a landmark's surroundings (across and down, float [m]) and functions of
    them, orthonormal under a Gaussian weight, that describe it (float32 [m, 11]).

    The first two, its gradient, count for the length alone; two cubic ones are as unsure.
    """
    line = np.arange(-_REACH, _REACH + 1.0)
    across, down = (grid.ravel() for grid in np.meshgrid(line, line))
    inside = across**2 + down**2 <= _REACH**2 + 1
    across, down = across[inside], down[inside]
    weight = np.exp(-(across**2 + down**2) / (4 * _WIDTH**2))
    x, y = across / _WIDTH, down / _WIDTH
    functions = np.stack(
        [
            np.ones_like(x),
            x,
            y,
            x * x + y * y,
            x * x - y * y,
            x * y,
            x**3 - 3 * x * y * y,
            3 * x * x * y - y**3,
            x * (x * x + y * y),
            y * (x * x + y * y),
            x**4 - 6 * x * x * y * y + y**4,
            x**3 * y - x * y**3,
        ],
        axis=1,
    )
    weighted = functions * weight[:, None]
    orthonormal, _ = np.linalg.qr(weighted)
    orthonormal *= np.sign((orthonormal * weighted).sum(axis=0))
    return across, down, (orthonormal * weight[:, None])[:, 1:].astype(np.float32)


_KEPT = np.array([2, 3, 4, 5, 6, 9, 10])


def _describe(points: np.ndarray, functions: np.ndarray) -> np.ndarray:
    numbers = points @ functions
    length = np.sqrt(np.einsum("ij,ij->i", numbers, numbers))
    result: np.ndarray = numbers[:, _KEPT] / np.maximum(length, 1e-6)[:, None]
    return result


def turn(
    orientation: np.ndarray, across: np.ndarray, along: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return points of the frame of a landmark, (across, down), in the frame of its image.

    In its own frame the gradient of a landmark points right and down, and more right than down.

    Args:
        orientation: 0 to 7: 4 exchanges the two, after which 1 turns across round, and 2 down.
        across: Broadcasts with `orientation`, as `along` does.
        along: Down.
    """
    is_exchanged = (orientation & 4) > 0
    right = np.where(is_exchanged, along, across)
    down = np.where(is_exchanged, across, along)
    return (
        np.where(orientation & 1, -right, right),
        np.where(orientation & 2, -down, down),
    )
