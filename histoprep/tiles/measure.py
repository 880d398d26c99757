"""What is measured on one image or one mask: arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from histoprep import imageio, native, rule_ids
from histoprep.errors import BrokenFileError
from histoprep.lossy import LabelCounts, Signals, signals_from, signals_of
from histoprep.tiles.ramps import has_long_ramps

# A label is core-present where it survives erosion by a square of this side.
CORE_SIDE_PX = 5
# Luminance above which a pixel of an H&E tile is glass (8 bit).
GLASS_LUMINANCE = 220
_CORE = np.ones((CORE_SIDE_PX, CORE_SIDE_PX), np.uint8)
_NEIGHBOURS = np.ones((3, 3), np.uint8)
# In one mask: positions of 16 bits.
_MAX_LABELS = 1 << 16
# Above this many labels, counting each by itself costs more than counting all at once.
_MANY_LABELS = 12
# Up to this radius found at half size, which is off by 2 px at most, it is found again at full
# size.
_THIN_PX = 7.0
# Border positions that a mask needs before their common divisor means anything.
_MIN_BORDERS = 4
# A mask of so many values, none of them with this share of the pixels, with fewer flat areas than
# this and more gradual steps, holds no labels. Of labels that went through JPEG one stays frequent.
_GRADUAL_LABELS, _FREQUENT_SHARE, _FLAT_SHARE, _GRADUAL_SHARE = 128, 0.1, 0.2, 0.9
# Fewer values are no map of numbers.
_RAMP_VALUES = 24
# A photograph has so many values and, but for chance, no flat area at all.
_MANY_VALUES, _NOTHING_FLAT = 64, 0.01


@dataclass(frozen=True, slots=True)
class Luminance:
    """Figures of the 1/8 luminance image; units as in tiles.parquet."""

    focus: float
    mean: float
    contrast: float
    background_share: float


def measure_luminance(grey: np.ndarray) -> Luminance:
    """Return the figures of a luminance image, uint8 [height, width]."""
    mean, deviation = cv2.meanStdDev(grey)
    _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    # Not with cv2.compare, which takes an image of one pixel for a number.
    glass = int(np.count_nonzero(grey > GLASS_LUMINANCE)) / grey.size
    return Luminance(float(edges[0, 0]) ** 2, float(mean[0, 0]), float(deviation[0, 0]), glass)


def gradient_hash(grey: np.ndarray) -> int:
    """Return 64 bits: whether each cell of an 8 x 9 image is darker than its right neighbour.

    Images that differ by compression or brightness differ in few bits. Source: the
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
    lossy: Signals | None = None


def compact_labels(labels: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Return labels of 32 bits as their ids in order and the position of each pixel's label among
    them, uint8 or uint16 [height, width]; None and the labels themselves where they have fewer.

    Raises:
        BrokenFileError: HP402; there are more than 65,536 labels in one mask.
    """
    if labels.dtype.itemsize <= 2:
        return None, labels
    ids, place = imageio.distinct(labels)
    if len(ids) > _MAX_LABELS:
        raise BrokenFileError(
            rule_ids.MASK_WRONG_MODE.verdict("too-many-labels"),
            f"{len(ids):,} labels in one mask, at most {_MAX_LABELS:,} can be measured",
        )
    return ids, place.astype(np.uint8 if len(ids) <= 256 else np.uint16)


def is_gradual(labels: np.ndarray, measured: MaskMeasures) -> bool:
    """Return whether a mask changes nearly everywhere, as photographs do, or gradually, as maps of
    probabilities or distances do.
    """
    signals = measured.lossy
    if signals is None or len(measured.ids) < _RAMP_VALUES:
        return False
    is_soft = signals.soft_contacts >= _GRADUAL_SHARE * signals.contacts
    if is_soft and has_long_ramps(labels):
        return True
    if len(measured.ids) < _MANY_VALUES:
        return False
    flat = int(measured.core_pixels.sum()) / labels.size
    is_frequent = int(measured.pixels.max()) >= _FREQUENT_SHARE * labels.size
    is_gradual = len(measured.ids) >= _GRADUAL_LABELS and is_soft
    return not is_frequent and (flat < _NOTHING_FLAT or (flat < _FLAT_SHARE and is_gradual))


def measure_mask(labels: np.ndarray, min_area_px: int) -> MaskMeasures:
    """Return what tiles.parquet stores of a mask, uint8 or uint16 [height, width].

    Outside the tile the tissue goes on, so the border of the tile erodes nothing and
    bounds no radius: radii are distances to the nearest pixel of another label, and at most
    half the shorter side of the tile. Those up to 4 px are exact to half a pixel,
    larger ones to 2 px and 2 % of themselves.
    """
    labels = np.ascontiguousarray(labels)
    half = min(labels.shape) / 2
    counts = native.count_mask(labels, min_area_px) if labels.dtype == np.uint8 else None
    if counts is not None:
        return _measures_of(labels, counts, half)
    runs = Runs.of(labels)
    if runs.uniform:
        size, ones = np.array([labels.size]), np.ones(1, np.int64)
        specks = (size < min_area_px).astype(np.int64)
        return MaskMeasures(
            labels[:1, 0].astype(np.int64),
            size,
            size,
            np.array([half], np.float32),
            ones,
            specks,
            None,
        )
    ids, index, pixels = runs.count()
    low, high = cv2.erode(labels, _CORE), cv2.dilate(labels, _CORE)
    core_pixels = _core_counts(labels, ids, np.equal(low, high))
    radius = np.minimum(_radii(labels, ids, runs, index), np.float32(half))
    regions, specks = _regions(runs, index, len(ids), min_area_px)
    lossy = signals_of(labels, low, high, LabelCounts(ids, pixels, core_pixels))
    return MaskMeasures(
        ids, pixels, core_pixels, radius, regions, specks, _cell_size(labels, runs), lossy
    )


def _measures_of(labels: np.ndarray, counts: native.MaskCounts, half: float) -> MaskMeasures:
    """Return the measures of a mask from what the compiled pass counted."""
    radius = _from_half(counts.half_depth)
    thin = radius <= _THIN_PX
    radius[thin] = counts.whole_depth[thin] + 1
    return MaskMeasures(
        counts.ids,
        counts.pixels,
        counts.core_pixels,
        np.minimum(radius, np.float32(half)),
        counts.regions,
        counts.specks,
        counts.numbers["cell_px"],
        signals_from(labels, counts),
    )


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
        """Return the label ids in order, the position of each run's label among them, and pixels a
        label.
        """
        pixels = np.bincount(self.value, weights=self.length)
        ids = np.flatnonzero(pixels)
        position = np.zeros(len(pixels), np.intp)
        position[ids] = np.arange(len(ids))
        return ids, position[self.value], pixels[ids].astype(np.int64)


def _uniform_around(labels: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return bool [height, width]: whether the window around a pixel holds one label only."""
    result: np.ndarray = np.equal(cv2.erode(labels, window), cv2.dilate(labels, window))
    return result


def _core_counts(labels: np.ndarray, ids: np.ndarray, core: np.ndarray) -> np.ndarray:
    if len(ids) > _MANY_LABELS:
        result: np.ndarray = np.bincount(labels[core], minlength=int(ids[-1]) + 1)[ids]
        return result
    inside = core.view(np.uint8)
    counts = [
        cv2.countNonZero(cv2.bitwise_and(cv2.compare(labels, float(label), cv2.CMP_EQ), inside))
        for label in ids
    ]
    return np.array(counts, np.int64)


def _radii(labels: np.ndarray, ids: np.ndarray, runs: Runs, index: np.ndarray) -> np.ndarray:
    """Return the largest distance of each label to another one, found at half size; thin labels
    again at full size.
    """
    interior = _uniform_around(labels, _NEIGHBOURS).view(np.uint8)
    # A pixel that is not interior stands between its own label and the next, so half a pixel is
    # lost on average at each end.
    radius = _from_half(_depths(interior[::2, ::2], labels[::2, ::2], ids))
    thin = radius <= _THIN_PX
    if thin.any():
        chosen = thin[index]
        row, column = np.divmod(runs.start[chosen], labels.shape[1])
        box = np.s_[row.min() : row.max() + 1, column.min() : (column + runs.length[chosen]).max()]
        radius[thin] = _depths(interior[box], labels[box], ids)[thin] + 1
    return radius


def _from_half(depths: np.ndarray) -> np.ndarray:
    """Return radii, float32, of depths in a mask at half size."""
    result: np.ndarray = 2 * depths + 1
    return result


def _depths(interior: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return, for each label, how far its deepest pixel is from a pixel that is not interior; 0 for
    a label that is not there.
    """
    distance = cv2.distanceTransform(np.ascontiguousarray(interior), cv2.DIST_L2, cv2.DIST_MASK_5)
    runs = Runs.of(np.ascontiguousarray(labels))
    depths = np.zeros(len(ids), np.float32)
    np.maximum.at(
        depths, np.searchsorted(ids, runs.value), np.maximum.reduceat(distance.ravel(), runs.start)
    )
    return depths


def _regions(
    runs: Runs, index: np.ndarray, num_labels: int, min_area_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each label, its 8-connected regions and how many are smaller than `min_area_px`.

    Runs are the nodes; runs of one label that touch in neighbouring rows, also by a corner, are
    joined.
    """
    # Takes long to import, and the compiled pass does without.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    num_runs = len(runs.start)
    first, after = _touching_below(runs)
    count = np.maximum(after - first, 0)
    upper = np.repeat(np.arange(num_runs), count)
    lower = np.arange(len(upper)) + np.repeat(first - np.cumsum(count) + count, count)
    same = index[upper] == index[lower]
    row_ends = np.concatenate(([0], np.cumsum(np.bincount(upper[same], minlength=num_runs))))
    links = csr_array((np.ones(row_ends[-1]), lower[same], row_ends), shape=(num_runs, num_runs))
    num_regions, region = connected_components(links, directed=False)
    area = np.bincount(region, weights=runs.length, minlength=num_regions)
    owner = np.zeros(num_regions, np.int64)
    owner[region] = index
    return np.bincount(owner, minlength=num_labels), np.bincount(
        owner[area < min_area_px], minlength=num_labels
    )


def _touching_below(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each run, the first run of the next row that touches it, and the one after the
    last; none in the last row.

    The run below the pixel left of a run is also below the last pixel of the run before it, so one
    search serves both ends.
    """
    width = runs.shape[1]
    num_runs = len(runs.start)
    below = np.append(runs.start + width, runs.shape[0] * width + width)
    under = np.searchsorted(runs.start, below - 1, side="right") - 1
    at_row_start = below % width == 0
    begins = np.append(runs.start, -1)[np.minimum(under + 1, num_runs)] == below
    first = under[:-1] + at_row_start[:-1]
    after = under[1:] + 1 + (begins & ~at_row_start)[1:]
    last_row = below[:-1] >= runs.shape[0] * width
    return first, np.where(last_row, first, after)


def cell_size(labels: np.ndarray) -> int:
    """Return the largest k such that the mask is uniform in k x k cells from its corner; 1 for a
    fine mask.

    Label borders of such a mask lie at multiples of k only, so k is the greatest common
    divisor of all border positions. Fewer than four of them prove nothing and give 1.
    """
    labels = np.ascontiguousarray(labels)
    return _cell_size(labels, Runs.of(labels))


def _cell_size(labels: np.ndarray, runs: Runs) -> int:
    columns = np.flatnonzero(np.bincount(runs.start % labels.shape[1]))
    # Column 0 is where rows begin; it does not change the divisor.
    divisor = int(np.gcd.reduce(columns))
    if divisor == 1:
        return 1
    rows = np.flatnonzero((labels[1:] != labels[:-1]).any(axis=1)) + 1
    if np.count_nonzero(columns) + len(rows) < _MIN_BORDERS:
        return 1
    return int(np.gcd.reduce(rows, initial=divisor))


def describe_colours(pixels: np.ndarray) -> tuple[int, bool]:
    """Return the number of distinct colours and whether all channels are equal, of [height, width,
    channels] or float [height, width].
    """
    if pixels.ndim == 2:
        return len(np.unique(pixels)), True
    colour = pixels[..., : 3 if pixels.shape[2] >= 3 else 1]
    packed = np.zeros(colour.shape[:2], np.int64)
    for channel in range(colour.shape[2]):
        packed = packed << 16 | colour[..., channel].astype(np.int64)
    equal = bool((colour == colour[..., :1]).all())
    return len(np.unique(packed)), equal
