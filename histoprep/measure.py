"""What is measured on one image or one mask: arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# A label is core-present where it survives erosion by a square of this side.
CORE_SIDE_PX = 5
# Luminance above which a pixel of an H&E tile is glass (8 bit).
GLASS_LUMINANCE = 220
_CORE = np.ones((CORE_SIDE_PX, CORE_SIDE_PX), np.uint8)
_NEIGHBOURS = np.ones((3, 3), np.uint8)
# Above this share of run starts, counting runs costs more than counting pixels.
_MANY_RUNS = 1 / 16


@dataclass(frozen=True, slots=True)
class Luminance:
    """Figures of the 1/8 luminance picture; units as in tiles.parquet."""

    focus: float
    mean: float
    contrast: float
    background_share: float
    gradient_hash: int


def measure_luminance(grey: np.ndarray) -> Luminance:
    """Return the figures of a luminance picture, uint8 [height, width]."""
    mean, deviation = cv2.meanStdDev(grey)
    _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    glass = cv2.countNonZero(cv2.compare(grey, GLASS_LUMINANCE, cv2.CMP_GT)) / grey.size
    return Luminance(float(edges[0, 0]) ** 2, float(mean[0, 0]), float(deviation[0, 0]), glass, gradient_hash(grey))


def gradient_hash(grey: np.ndarray) -> int:
    """Return 64 bits: whether each cell of an 8 x 9 picture is darker than its right neighbour.

    Pictures that differ by compression or brightness differ in few bits. Source: the
    difference hash, N. Krawetz, "Kind of like that", 2013.
    """
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    bits = small[:, 1:] > small[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@dataclass(frozen=True, slots=True)
class MaskMeasures:
    """Figures of one mask; every array has one entry a label, in order of `ids`."""

    ids: np.ndarray
    pixels: np.ndarray
    core_pixels: np.ndarray
    radius_px: np.ndarray
    regions: np.ndarray
    specks: np.ndarray
    cell_px: int | None


def measure_mask(labels: np.ndarray, min_area_px: int) -> MaskMeasures:
    """Return what tiles.parquet stores of a mask, uint8 or uint16 [height, width].

    Outside the tile the tissue goes on, so the border of the tile erodes nothing and
    bounds no radius: radii are distances to the nearest pixel of another label, exact to
    half a pixel, and at most half the shorter side of the tile.
    """
    labels = np.ascontiguousarray(labels)
    runs = Runs.of(labels)
    half = min(labels.shape) / 2
    if runs.uniform:
        size = np.array([labels.size])
        return MaskMeasures(labels[:1, 0].astype(np.int64), size, size, np.array([half], np.float32), np.ones(1, int), np.zeros(1, int), None)
    ids, index, pixels = runs.count()
    core_pixels = _core_counts(labels, ids)
    radius = _radii(labels, index, runs, half)
    regions, specks = _regions(runs, index, len(ids), min_area_px)
    return MaskMeasures(ids, pixels, core_pixels, radius, regions, specks, cell_size(labels))


@dataclass(frozen=True, slots=True)
class Runs:
    """A mask as maximal horizontal runs of one label, in raster order; no run spans two rows.

    `start` is the flat index of each run's first pixel, `length` its pixels, `value` its label.
    """

    start: np.ndarray
    length: np.ndarray
    value: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def of(cls, labels: np.ndarray) -> Runs:
        """Return the runs of a contiguous mask [height, width]."""
        height, width = labels.shape
        flat = labels.ravel()
        breaks = flat[1:] != flat[:-1]
        # A uniform mask, the most common kind, needs no rows at all.
        if not breaks.any():
            return cls(np.zeros(1, np.int64), np.array([flat.size]), flat[:1], (height, width))
        breaks[width - 1 :: width] = True
        start = np.flatnonzero(breaks) + 1
        start = np.concatenate(([0], start))
        return cls(start, np.diff(start, append=flat.size), flat[start], (height, width))

    @property
    def uniform(self) -> bool:
        """Return whether the whole mask is one label."""
        return len(self.start) == 1 and self.shape[0] * self.shape[1] == int(self.length[0])

    def count(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the label ids in order, the position of each run's label among them, and pixels a label."""
        ids, index = np.unique(self.value, return_inverse=True)
        pixels = np.bincount(index, weights=self.length, minlength=len(ids)).astype(np.int64)
        return ids.astype(np.int64), index, pixels


def count_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (label ids in order, pixels of each) of a mask; several times faster than numpy.unique on runs."""
    flat = np.ascontiguousarray(labels).ravel()
    breaks = np.flatnonzero(flat[1:] != flat[:-1])
    if labels.dtype == np.uint8 and len(breaks) > flat.size * _MANY_RUNS:
        counts = np.bincount(flat, minlength=256)
    else:
        start = np.concatenate(([0], breaks + 1))
        counts = np.bincount(flat[start], weights=np.diff(start, append=flat.size))
    ids = np.flatnonzero(counts)
    return ids, counts[ids].astype(np.int64)


def _uniform_around(labels: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return bool [height, width]: whether the window around a pixel holds one label only."""
    return np.equal(cv2.erode(labels, window), cv2.dilate(labels, window))


def _core_counts(labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    core = _uniform_around(labels, _CORE).view(np.uint8)
    counts = [cv2.countNonZero(cv2.bitwise_and(cv2.compare(labels, float(label), cv2.CMP_EQ), core)) for label in ids]
    return np.array(counts, np.int64)


def _radii(labels: np.ndarray, index: np.ndarray, runs: Runs, half: float) -> np.ndarray:
    interior = _uniform_around(labels, _NEIGHBOURS)
    # From a pixel to the nearest boundary pixel, and one more to the label beyond it.
    distance = cv2.distanceTransform(interior.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5) + 1
    highest = np.maximum.reduceat(distance.ravel(), runs.start)
    radius = np.zeros(index.max() + 1, np.float32)
    np.maximum.at(radius, index, highest)
    return np.minimum(radius, np.float32(half))


def _regions(runs: Runs, index: np.ndarray, num_labels: int, min_area_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each label, its 8-connected regions and how many are smaller than `min_area_px`.

    Runs are the nodes; runs of one label that touch in neighbouring rows, also by a corner, are joined.
    """
    width = runs.shape[1]
    row, column = np.divmod(runs.start, width)
    # Runs of the next row that touch [first - 1, last + 1] of this one stand side by side in raster order.
    below = runs.start + width
    last_row = row == runs.shape[0] - 1
    first = np.searchsorted(runs.start, np.where(column > 0, below - 1, below), side="right") - 1
    reach = np.where(column + runs.length < width, below + runs.length, below + runs.length - 1)
    after = np.searchsorted(runs.start, reach, side="right")
    count = np.where(last_row, 0, after - first)
    upper = np.repeat(np.arange(len(row)), count)
    lower = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    same = index[upper] == index[lower]
    links = coo_array((np.ones(int(same.sum()), np.int8), (upper[same], lower[same])), shape=(len(row), len(row)))
    num_regions, region = connected_components(links, directed=False)
    area = np.bincount(region, weights=runs.length, minlength=num_regions)
    owner = np.zeros(num_regions, np.int64)
    owner[region] = index
    return np.bincount(owner, minlength=num_labels), np.bincount(owner[area < min_area_px], minlength=num_labels)


def cell_size(labels: np.ndarray) -> int:
    """Return the largest k such that the mask is uniform in k x k cells from its corner; 1 for a fine mask.

    Label borders of such a mask lie at multiples of k only, so k is the greatest common
    divisor of all border positions.
    """
    columns = np.flatnonzero((labels[:, 1:] != labels[:, :-1]).any(axis=0)) + 1
    rows = np.flatnonzero((labels[1:] != labels[:-1]).any(axis=1)) + 1
    borders = np.concatenate((columns, rows))
    return int(np.gcd.reduce(borders)) if borders.size else min(labels.shape)


def describe_colours(pixels: np.ndarray) -> tuple[int, bool]:
    """Return the number of distinct colours and whether all channels are equal, of [height, width, channels] or float [height, width]."""
    if pixels.ndim == 2:
        return len(np.unique(pixels)), True
    colour = pixels[..., : 3 if pixels.shape[2] >= 3 else 1]
    packed = np.zeros(colour.shape[:2], np.int64)
    for channel in range(colour.shape[2]):
        packed = packed << 16 | colour[..., channel].astype(np.int64)
    equal = bool((colour == colour[..., :1]).all())
    return len(np.unique(packed)), equal
