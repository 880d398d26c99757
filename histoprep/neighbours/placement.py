"""Two grey images and how they may lie -> how alike they are where they overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from histoprep import native
from histoprep.neighbours.landmarks import cell_size, shrink

MIN_SCORE = 0.9
"""Correlation over the overlap from which two images show the same place."""
MIN_SHARE = 0.1
"""Smaller overlaps, as a share of the smaller image, agree by chance."""
MIN_SIDE_PX = 12
"""Overlaps narrower than this are not compared."""
# The least correlation of what is left when a Gaussian of so many pixels is taken off: two smooth
# images agree by chance, down to their details only the same one does.
_MIN_DETAIL, _SMOOTH_PX = 0.6, 3.0
# A place of so many pixels in a range of so many grey levels is plain.
_PLAIN_PX, _PLAIN_RANGE = 9, 4
# Grey levels under which the overlap tells nothing.
_MIN_CONTRAST = 4.0
_WINDOW_PX = 96
# Images that show the same place agree by so much at least in their cells, give or take so many
# cells. Of those that do, none was found under 0.9.
_MIN_COARSE, _COARSE_REACH = 0.7, 3


@dataclass(frozen=True, slots=True)
class Placement:
    """How a second image lies on a first one.

    Attributes:
        orientation: How the second is turned, 0 to 7: 4 exchanges rows and columns, after which 1
            flips left and right, and 2 up and down.
        right_px: How far its upper left corner, once turned, is to the right of that of the first.
        down_px: And below it.
        score: Correlation over the overlap.
        share: The overlap as a share of the smaller image.
    """

    orientation: int
    right_px: int
    down_px: int
    score: float
    share: float


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image [height, width, ...] in one of eight orientations, see `Placement`."""
    result = image.swapaxes(0, 1) if orientation & 4 else image
    result = result[:, ::-1] if orientation & 1 else result
    return result[::-1] if orientation & 2 else result


def place(
    first: np.ndarray, second: np.ndarray, orientation: int, right: float, down: float
) -> Placement | None:
    """Return how the second image lies on the first; None where they do not show the same.

    Args:
        first: uint8 [height, width].
        second: uint8 [height, width], another size perhaps.
        orientation: How the second has to be turned.
        right: By how many cells it then has to be moved to the right, give or take two; turned
            about its corner, as `overlaps.Overlapping` says.
        down: And down.
    """
    side = cell_size(*first.shape)
    laid = np.ascontiguousarray(turned(second, orientation))
    corner = _corner(laid.shape, side, orientation, right, down)
    begin = (round(corner[0]), round(corner[1]))
    moved = _refine(first, laid, begin, reach=2 * side + 2)
    if moved is None:
        return None
    score, share = _agreement(first, laid, moved)
    if score < MIN_SCORE or share < MIN_SHARE:
        return None
    return Placement(orientation, moved[1], moved[0], score, share)


def _corner(
    shape: tuple[int, ...], side: int, orientation: int, right: float, down: float
) -> tuple[float, float]:
    """Return where the upper left corner of an image of this shape lies, once turned."""
    at = [
        side * (moved + 1) - shape[axis] if orientation & bit else side * moved
        for moved, axis, bit in ((down, 0, 2), (right, 1, 1))
    ]
    return at[0], at[1]


class SmallImage(NamedTuple):
    """An image in cells, uint8 [rows, columns], and its own shape (height, width)."""

    cells: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, grey: np.ndarray) -> SmallImage:
        """Return an image, uint8 [height, width], in cells of the size that is right for it."""
        # A copy, so that nothing keeps the whole image.
        return cls(shrink(grey, cell_size(*grey.shape)).copy(), grey.shape)


def may_agree(
    first: SmallImage, second: SmallImage, orientation: int, right: float, down: float
) -> bool:
    """Return whether `place` may find that two images show the same place: their cells correlate.

    Args:
        first: The first image.
        second: The second one, in cells of the same size.
        orientation: How the second has to be turned, as of `place`.
        right: By how many cells it then has to be moved to the right.
        down: And down.
    """
    side = cell_size(*first.shape)
    if side == 1 or side != cell_size(*second.shape):
        return True
    height, width = second.shape
    shape = (width, height) if orientation & 4 else (height, width)
    corner = _corner(shape, side, orientation, right, down)
    return _correlates(
        first.cells,
        turned(second.cells, orientation),
        (round(corner[0] / side), round(corner[1] / side)),
        side,
    )


def _correlates(first: np.ndarray, second: np.ndarray, begin: tuple[int, int], side: int) -> bool:
    top, left, bottom, right = overlap(first.shape, second.shape, begin)
    narrow = min(bottom - top, right - left)
    if narrow < 4 * _COARSE_REACH:
        # The last pixels of an image may fill no cell, and corners are rounded.
        return (narrow + 2) * side >= MIN_SIDE_PX
    field, part = _parts(first, second, begin)
    found = native.correlates(field, part, _COARSE_REACH, _MIN_COARSE)
    return correlates(field, part, _COARSE_REACH, _MIN_COARSE) if found is None else found


def correlates(field: np.ndarray, part: np.ndarray, reach: int, least: float) -> bool:
    """Return what `native.correlates` does, without the library: from whole numbers, which are
    exact in any order.
    """
    own, shifts = part[reach:-reach, reach:-reach].astype(np.int64), 2 * reach + 1
    number, total = own.size, own.sum()
    spread = number * np.vdot(own, own) - total * total
    if not spread:
        return True
    wide = np.fft.rfft2(field.astype(np.float64))
    wide *= np.conj(np.fft.rfft2(own.astype(np.float64), field.shape))
    common = np.rint(np.fft.irfft2(wide, field.shape)[:shifts, :shifts]).astype(np.int64)
    sums, squares = (
        _window_sums(values, own.shape)
        for values in (field.astype(np.int64), field.astype(np.int64) ** 2)
    )
    common = number * common - total * sums
    both = least**2 * float(spread) * (number * squares - sums * sums).astype(np.float64)
    agrees = (common > 0) & (both > 0) & (common.astype(np.float64) ** 2 >= both)
    return bool(agrees.any())


def _window_sums(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the sums of all windows of a shape, int64."""
    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    rows, columns = shape
    result: np.ndarray = (
        sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns]
    ) + sums[:-rows, :-columns]
    return result


def overlap(
    first: tuple[int, ...], second: tuple[int, ...], corner: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right, ends excluded, of what an image of the shape `second`
    covers of one of the shape `first` with its upper left corner at `corner` (down, right).
    """
    top, left = max(corner[0], 0), max(corner[1], 0)
    return (
        top,
        left,
        min(corner[0] + second[0], first[0]),
        min(corner[1] + second[1], first[1]),
    )


def _parts(
    first: np.ndarray, second: np.ndarray, corner: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    top, left, bottom, right = overlap(first.shape, second.shape, corner)
    return (
        first[top:bottom, left:right],
        second[top - corner[0] : bottom - corner[0], left - corner[1] : right - corner[1]],
    )


def _refine(
    first: np.ndarray, second: np.ndarray, corner: tuple[int, int], reach: int
) -> tuple[int, int] | None:
    """Return the corner within `reach` pixels at which the liveliest part of the overlap fits best;
    None where too little overlaps.
    """
    top, left, bottom, right = overlap(first.shape, second.shape, corner)
    if min(bottom - top, right - left) < MIN_SIDE_PX:
        return None
    # Of the second image, what the first surely covers.
    top, bottom = _inner(top, bottom, reach, first.shape[0])
    left, right = _inner(left, right, reach, first.shape[1])
    if min(bottom - top, right - left) < MIN_SIDE_PX // 2:
        return None
    own = second[top - corner[0] : bottom - corner[0], left - corner[1] : right - corner[1]]
    row, column, window = _liveliest(own)
    row, column = row + top, column + left
    begin = max(row - reach, 0), max(column - reach, 0)
    field = first[begin[0] : row + len(window) + reach, begin[1] : column + window.shape[1] + reach]
    scores = cv2.matchTemplate(field, window, cv2.TM_CCOEFF_NORMED)
    scores[~np.isfinite(scores)] = -1.0
    down, across = np.unravel_index(int(scores.argmax()), scores.shape)
    return (
        corner[0] + int(down) + begin[0] - row,
        corner[1] + int(across) + begin[1] - column,
    )


def _inner(low: int, high: int, reach: int, end: int) -> tuple[int, int]:
    """Return a range less `reach` at those ends where it ends with the image; half as much where
    too little would be left.
    """
    spare = min(reach, max((high - low - MIN_SIDE_PX) // 2, 0))
    return low + (spare if low == 0 else 0), high - (spare if high == end else 0)


def _liveliest(image: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Return the window of at most 96 x 96 px that varies most, and where it is."""
    best = (-1.0, 0, 0)
    height, width = (min(length, _WINDOW_PX) for length in image.shape)
    for row in range(0, image.shape[0] - height + 1, max(height // 2, 1)):
        for column in range(0, image.shape[1] - width + 1, max(width // 2, 1)):
            _, spread = cv2.meanStdDev(image[row : row + height, column : column + width])
            best = max(best, (float(spread[0, 0]), row, column))
    _, row, column = best
    return row, column, np.ascontiguousarray(image[row : row + height, column : column + width])


def _agreement(
    first: np.ndarray, second: np.ndarray, corner: tuple[int, int]
) -> tuple[float, float]:
    """Return the correlation over the overlap, and its share of the smaller image; 0 where it is
    too narrow or too plain.
    """
    parts = _parts(first, second, corner)
    if min(parts[0].shape) < MIN_SIDE_PX:
        return 0.0, 0.0
    share = parts[0].size / min(first.size, second.size)
    # What JPEG changes most, single pixels, counts less.
    smooth = [cv2.blur(part, (3, 3)).astype(np.float32) for part in parts]
    if min(float(part.std()) for part in smooth) < _MIN_CONTRAST:
        return 0.0, share
    score = _correlation(*smooth)
    if score < MIN_SCORE:
        return score, share
    lively = ~(_is_plain(parts[0]) | _is_plain(parts[1]))
    if np.count_nonzero(lively) < MIN_SHARE * min(first.size, second.size) / 2:
        return 0.0, share
    details = [(part - cv2.GaussianBlur(part, (0, 0), _SMOOTH_PX))[lively] for part in smooth]
    return (score if _correlation(*details) >= _MIN_DETAIL else 0.0), share


def _is_plain(image: np.ndarray) -> np.ndarray:
    """Return which pixels (bool [height, width]) are in or near a place without contrast, such as
    padding: its edge is no detail of tissue.
    """
    window = np.ones((_PLAIN_PX, _PLAIN_PX), np.uint8)
    spread = cv2.dilate(image, window) - cv2.erode(image, window)
    plain = (spread <= _PLAIN_RANGE).astype(np.uint8)
    around = np.ones((2 * _PLAIN_PX + 1, 2 * _PLAIN_PX + 1), np.uint8)
    result: np.ndarray = cv2.dilate(plain, around) > 0
    return result


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a * a).mean() * (b * b).mean()))
    return float((a * b).mean()) / scale if scale else 0.0
