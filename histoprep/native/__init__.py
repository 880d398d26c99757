"""Compiled counterparts of what is done with every mask, and how they are loaded.

They are a plain shared library without Python in it, so that one wheel serves every version of
Python. Where it is missing (no wheel for the platform and no C compiler), or
HISTOPREP_NATIVE=0 is set, everything is counted by numpy and OpenCV, with the same results.
`hatch_build.py` compiles it.
"""

from __future__ import annotations

import ctypes
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import EllipsisType
from typing import Any, NamedTuple

import cv2
import numpy as np

LIBRARY = Path(__file__).with_name("_native.library")
_LABELS = 256
# Distances beyond are left to OpenCV; the deepest place of a 512 px mask at half size is nearer.
_REACH = 136
# OpenCV adds up its distances by vectors, so that some depend on the column.
_ALIGNMENTS = 16
_UNITS_A_PX = 10_000
# Landmarks are looked up by so many numbers, and by one more where there are many.
_FEW_AXES, _MANY_LANDMARKS = 3, 150_000
_LOOKED_UP_AT_ONCE, _PADDING = 4096, 32
_TwoScores, _TwoNumbers = ctypes.c_double * 2, ctypes.c_int64 * 2
# Images that are correlated are no wider.
_WIDEST = 1024
_NUMBERS = (
    "num_labels", "cell_px", "own_blocks", "right_blocks", "down_blocks", "both_blocks", "rough",
    "across", "down", "contacts", "soft", "near", "turns", "row_ends", "column_ends", "is_unsure",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MaskCounts:
    """What was counted in a mask of several labels; of labels in ascending order of their ids.

    Attributes:
        numbers: Counts of the whole mask by name: labels, cell size, 8x8 blocks of several labels
            on the grid of the corner and on three moved by half a block, steps inside of blocks,
            steps across and down, contacts and soft ones, steps along rows that follow another in
            a block and those of them that turn, and how many long runs end along rows and columns.
        ids: int64 [labels].
        pixels: int64 [labels].
        core_pixels: int64 [labels], those whose 5x5 neighbourhood is of one label.
        regions: int64 [labels].
        specks: int64 [labels].
        between: int64 [labels]: pixels with a smaller and a larger label within 5x5, of labels
            without a core.
        half_depth: float32 [labels]: of the mask at half size, the largest distance to a pixel
            whose 3x3 neighbourhood is of several labels.
        whole_depth: The same at full size, of labels with at most 3 at half size.
        ends: int32 [4, 2, 8]: where long runs end and where they begin, modulo 8 px and modulo
            4 px, along rows and then along columns.
        column_differs: bool [width]: columns where a row has a step to the column before.
        row_differs: bool [height]: the same of rows.
    """

    numbers: dict[str, int]
    ids: np.ndarray
    pixels: np.ndarray
    core_pixels: np.ndarray
    regions: np.ndarray
    specks: np.ndarray
    between: np.ndarray
    half_depth: np.ndarray
    whole_depth: np.ndarray
    ends: np.ndarray
    column_differs: np.ndarray
    row_differs: np.ndarray


def count_mask(labels: np.ndarray, min_area_px: int) -> MaskCounts | None:
    """Return what is counted in a mask; None where the library is missing or the mask is of one
    label, or depths are not sure to be those of OpenCV: then it is counted without the library.

    Args:
        labels: uint8 [height, width], contiguous.
        min_area_px: Regions with fewer pixels are specks.
    """
    functions = _functions()
    if functions is None:
        return None
    height, width = labels.shape
    numbers = np.empty(len(_NUMBERS), np.int32)
    counts = np.empty((6, _LABELS), np.int64)
    ends = np.empty((4, 2, 8), np.int32)
    depths = np.empty((2, _LABELS), np.float32)
    differs = np.empty(width + height, np.bool_)
    distances, unsure, even = _metric()
    arrays = (numbers, counts, ends, depths, differs)
    if functions.measure_mask(
        _address(labels), height, width, min_area_px, _address(distances), _address(unsure),
        _REACH, even, *map(_address, arrays)
    ):  # fmt: skip
        return None
    named = dict(zip(_NUMBERS, numbers.tolist(), strict=True))
    if named["is_unsure"]:
        return None
    here = slice(named["num_labels"])
    return MaskCounts(
        numbers=named,
        ids=counts[0, here].copy(),
        pixels=counts[1, here].copy(),
        core_pixels=counts[2, here].copy(),
        regions=counts[3, here].copy(),
        specks=counts[4, here].copy(),
        between=counts[5, here].copy(),
        half_depth=depths[0, here],
        whole_depth=depths[1, here],
        ends=ends,
        column_differs=differs[:width],
        row_differs=differs[width:],
    )


def _address(array: Any) -> int:
    flags = array.flags
    if flags.writeable and flags.c_contiguous and array.size:
        # Several times faster than the interface, and every tile needs some twenty.
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    address: int = array.__array_interface__["data"][0]
    return address


def find_enlarged(differs: np.ndarray, ratios: np.ndarray) -> tuple[int, int] | EllipsisType | None:
    """Return the first of the enlargements that no group of columns is broken by, and the offset at
    which groups begin; None for none of them, and ... without the library.

    Args:
        differs: bool [width]: columns that differ from the one before, as in `MaskCounts`.
        ratios: int32 [n, 2]: columns of a group, and of these how many may differ.
    """
    functions = _functions()
    if functions is None:
        return ...
    offset = ctypes.c_int32()
    found = functions.find_enlarged(
        _address(differs), len(differs), _address(ratios), len(ratios), ctypes.byref(offset)
    )
    return None if found < 0 else (found, offset.value)


def best_offset(begins: np.ndarray, stops: np.ndarray) -> tuple[float, float, int, int] | None:
    """Return what `onsets.best_offset` does; None without the library, or for other arrays than
    those of `MaskCounts`.
    """
    functions = _functions()
    if functions is None or begins.dtype != np.int32:
        return None
    scores, numbers = _TwoScores(), _TwoNumbers()
    functions.best_offset(_address(begins), _address(stops), len(begins), scores, numbers)
    return scores[0], scores[1], numbers[0], numbers[1]


def unfilter(lines: bytes, height: int, width: int) -> np.ndarray | None:
    """Return the pixels of a PNG of one byte a pixel, uint8 [height, width]; None without the
    library.

    Args:
        lines: Its inflated rows, each after its filter, which is known to be one of 0 to 4.
        height: Rows.
        width: Pixels of a row.
    """
    functions = _functions()
    if functions is None:
        return None
    pixels = np.empty((height, width), np.uint8)
    functions.unfilter(lines, height, width, bytes(width), _address(pixels))
    return pixels


def unfilter_colours(lines: bytes, height: int, width: int) -> np.ndarray | None:
    """Return the pixels of a PNG of three bytes a pixel, uint8 [height, width, 3]; None without
    the library.

    Args:
        lines: As for `unfilter`.
        height: Rows.
        width: Pixels of a row.
    """
    functions = _functions()
    if functions is None:
        return None
    pixels = np.empty((height, width, 3), np.uint8)
    functions.unfilter_colours(lines, height, width, bytes(3 * width), _address(pixels))
    return pixels


def shrink(image: np.ndarray, side: int) -> np.ndarray | None:
    """Return the means of square cells, uint8 [height / side, width / side], as cv2.INTER_AREA has
    them; None without the library or where cells do not fill the image.

    Args:
        image: uint8 [height, width], its rows contiguous.
        side: 4 or 8.
    """
    functions = _functions()
    height, width = image.shape
    if functions is None or height % side or width % side or side not in (4, 8):
        return None
    if image.strides[1] != 1:
        return None
    means = np.empty((height // side, width // side), np.uint8)
    sums = np.empty(width, np.uint16)
    functions.shrink(
        _address(image), height, width, image.strides[0], side, _address(means), _address(sums)
    )
    return means


def find_landmarks(
    blobs: np.ndarray,
    around: np.ndarray,
    edge: int,
    limits: np.ndarray,
    margin: float,
    points: tuple[np.ndarray, np.ndarray],
    most: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return landmarks, int32 [n, 3] (row, column, orientation), and where the points around them
    lie: columns and rows, float32 [n, points]; None without the library.

    Args:
        blobs: float32 [height, width].
        around: float32 [height, width]; its gradient orients them.
        edge: Cells along the border without any.
        limits: float32 [3]: the least blob, and the shares of a gradient that are too near an axis
            and a diagonal.
        margin: Share of the side that strips along the border take.
        points: Across and down, float64 [points].
        most: 48, of which the library has room for as many.
    """
    functions = _functions()
    if functions is None:
        return None
    across, along = points
    found = np.empty((most, 3), np.int32)
    places = np.empty((2, most, len(across)), np.float32)
    number = functions.find_landmarks(
        _address(blobs), _address(around), *blobs.shape, edge, _address(limits), margin,
        _address(across), _address(along), len(across), _address(found), _address(places[0]),
        _address(places[1])
    )  # fmt: skip
    return None if number < 0 else (found[:number], places[0, :number], places[1, :number])


def correlates(field: np.ndarray, part: np.ndarray, reach: int, least: float) -> bool | None:
    """Return whether an image correlates with a field around it by so much at least, moved by at
    most `reach` either way; one of a single value does. None without the library.

    Args:
        field: uint8 [height, width], its rows contiguous, at most 1024 wide.
        part: uint8 [height, width]; its margins of `reach` do not count.
        reach: 1 to 4, less than half of a side.
        least: Correlation, above 0.
    """
    functions = _functions()
    height, width = field.shape
    if functions is None or width > _WIDEST or field.strides[1] != 1:
        return None
    found = functions.correlates(
        _address(field), field.strides[0], _address(part), *part.strides, height, width, reach,
        least
    )  # fmt: skip
    return None if found < 0 else bool(found)


def find_nearest(
    numbers: np.ndarray, limit: int, most: int, num_threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the nearest landmarks of each, itself among them: places and squared distances, int32
    [n, most], the nearest first and of equally near ones the first, and how many there are, int32
    [n]; None without the library.

    Args:
        numbers: int8 [n, 7].
        limit: The largest squared distance, at most 3968.
        most: How many are returned.
        num_threads: Threads that look.
    """
    functions = _functions()
    if functions is None or len(numbers) >= 1 << 31:
        return None
    # Cells as wide as the largest distance in the first numbers, which vary most.
    axes = _FEW_AXES if len(numbers) < _MANY_LANDMARKS else _FEW_AXES + 1
    width = math.isqrt(limit) + 1
    cells = (numbers[:, :axes].astype(np.int32) + 128) // width
    side = 255 // width + 1
    strides = side ** np.arange(axes)
    bins = (cells @ strides).astype(np.int32)
    order = np.argsort(bins, kind="stable").astype(np.int32)
    num_bins = side**axes
    begin = np.searchsorted(bins[order], np.arange(num_bins + 1)).astype(np.int32)
    padded = len(numbers) + _PADDING
    arranged = np.zeros((numbers.shape[1], padded), np.int16)
    arranged[:, : len(numbers)] = numbers[order].T
    near = _bins_around(side, axes)
    own_bins = np.ascontiguousarray(bins[order])
    places = np.zeros((len(numbers), most), np.int32)
    distances = np.zeros((len(numbers), most), np.int32)
    counts = np.zeros(len(numbers), np.int32)

    def look(first: int) -> None:
        functions.find_nearest(
            _address(arranged), padded, _address(order), _address(begin), _address(own_bins),
            _address(near), near.shape[1], limit, most, first,
            min(first + _LOOKED_UP_AT_ONCE, len(numbers)), _address(places), _address(distances),
            _address(counts)
        )  # fmt: skip

    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(look, range(0, len(numbers), _LOOKED_UP_AT_ONCE)))
    return places, distances, counts


def _bins_around(side: int, axes: int) -> np.ndarray:
    """Return the bins around each bin and itself, int32 [side^axes, 3^axes], -1 after the last."""
    whole = np.stack(np.meshgrid(*[np.arange(side)] * axes, indexing="ij"), -1).reshape(-1, axes)
    # The first axis changes fastest.
    whole = whole[:, ::-1]
    steps = np.stack(np.meshgrid(*[np.arange(-1, 2)] * axes, indexing="ij"), -1).reshape(-1, axes)
    around = whole[:, None] + steps[None]
    is_there = ((around >= 0) & (around < side)).all(axis=2)
    found = np.where(is_there, around @ side ** np.arange(axes), -1)
    # Those that are not there come last.
    order = np.argsort(~is_there, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1).astype(np.int32)


class _Functions(NamedTuple):
    measure_mask: ctypes._NamedFuncPointer
    find_enlarged: ctypes._NamedFuncPointer
    best_offset: ctypes._NamedFuncPointer
    unfilter: ctypes._NamedFuncPointer
    unfilter_colours: ctypes._NamedFuncPointer
    shrink: ctypes._NamedFuncPointer
    find_landmarks: ctypes._NamedFuncPointer
    find_nearest: ctypes._NamedFuncPointer
    correlates: ctypes._NamedFuncPointer


@cache
def _functions() -> _Functions | None:
    if os.environ.get("HISTOPREP_NATIVE") == "0":
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        found = _Functions(*(getattr(library, f"histoprep_{name}") for name in _Functions._fields))
    except (OSError, AttributeError):
        return None
    pointer, whole = ctypes.c_void_p, ctypes.c_int
    found.measure_mask.argtypes = [
        pointer, whole, whole, whole, pointer, pointer, whole, whole, *[pointer] * 5
    ]  # fmt: skip
    found.find_enlarged.argtypes = [pointer, whole, pointer, whole, pointer]
    found.best_offset.argtypes = [pointer, pointer, whole, pointer, pointer]
    found.best_offset.restype = None
    for function in (found.unfilter, found.unfilter_colours):
        function.argtypes = [ctypes.c_char_p, whole, whole, ctypes.c_char_p, pointer]
        function.restype = None
    found.shrink.argtypes = [pointer, whole, whole, ctypes.c_int64, whole, pointer, pointer]
    found.find_landmarks.argtypes = [
        pointer, pointer, whole, whole, whole, pointer, ctypes.c_double, pointer, pointer, whole,
        *[pointer] * 3
    ]  # fmt: skip
    found.find_landmarks.restype = whole
    found.find_nearest.argtypes = [
        pointer, ctypes.c_int64, *[pointer] * 4, whole, whole, whole, ctypes.c_int64,
        ctypes.c_int64, *[pointer] * 3
    ]  # fmt: skip
    found.find_nearest.restype = None
    found.correlates.argtypes = [
        pointer, ctypes.c_int64, pointer, ctypes.c_int64, ctypes.c_int64, whole, whole, whole,
        ctypes.c_double
    ]  # fmt: skip
    found.correlates.restype = whole
    found.shrink.restype = None
    found.measure_mask.restype = found.find_enlarged.restype = whole
    return found


@cache
def _metric() -> tuple[np.ndarray, np.ndarray, int]:
    """Return the distance that OpenCV has for each displacement (float32 [side, side], nothing in
    the middle), which of them differ with the column, and up to where equal distances in units of
    1e-4 px are equal in OpenCV, too.
    """
    side = 2 * _REACH + 1
    tables = []
    for column in range(_ALIGNMENTS):
        field = np.ones((side, side + _ALIGNMENTS), np.uint8)
        field[_REACH, _REACH + column] = 0
        distances = cv2.distanceTransform(field, cv2.DIST_L2, cv2.DIST_MASK_5)
        tables.append(distances[:, column : column + side])
    stacked = np.stack(tables)
    lowest = stacked.min(axis=0)
    unsure = stacked.max(axis=0) != lowest
    units = np.rint(lowest * _UNITS_A_PX / 1.0).astype(np.int64).ravel()
    order = np.lexsort((lowest.ravel(), units))
    ordered, values = units[order], lowest.ravel()[order]
    differs = (ordered[1:] == ordered[:-1]) & (values[1:] != values[:-1])
    limits = [*ordered[1:][differs][:1], *np.sort(units[unsure.ravel()])[:1], _REACH * _UNITS_A_PX]
    return np.ascontiguousarray(lowest), unsure.astype(np.uint8), int(min(limits)) - 1
