"""Where a mask belongs: how far it has to be moved, at which scale it fits, and to which tile.

What was read again is compared at up to 128 cells a side and in colour. All moves are tried at
once: each spatial frequency of the density counts by the inverse of its power there, so that
evidence is that of a normal likelihood (a matched filter), and products at all offsets come from
one Fourier transform.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from histoprep.fit.evidence import damped, gains_of
from histoprep.fit.grids import Cells, class_shares, density_of, shrink
from histoprep.fit.orientation import ORIENTATIONS
from histoprep.fit.votes import MIN_TILES

FINE_CELLS = 128
_COARSE_CELLS = 40
# Damping of the evidence of one tile, as in `evidence.py`.
_DAMPED = 5.0
# Share of each side at which the image fades out, so that its borders are no edges.
_FADED = 0.12
_RIDGE = 1e-3
# A move is one of so many pixels, measured to so many, that gains so many nats and so many standard
# errors; of scales and offsets more are tried.
MIN_MOVE_PX, _MAX_ERROR_PX, _GAIN, _SURE = 6.0, 2.5, 20.0, 3.0
_LARGE_GAIN, _VERY_SURE = 50.0, 5.0
# An offset stands out when the next best one gains at most this share, and it is hardly chance.
_SECOND_SHARE, _HARDLY_CHANCE = 0.25, 2.5
SCALES = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 4 / 5, 5 / 4, 3 / 2, 2.0, 3.0, 4.0)
"""By how much masks are enlarged to look for another magnification."""
# Cells by which a scaled mask may lie beside its place; and the fewest that are left to compare.
_SLACK, _LEFT = 1, 10


@dataclass(frozen=True, slots=True)
class FineTile:
    """An image and its mask, read again.

    Attributes:
        density: Optical density, float32 [3, rows, columns], of decorrelated colours.
        shares: Shares of the classes, float32 [classes, rows, columns]; None for a mask of one.
        cell_px: Side of the cells.
    """

    density: np.ndarray
    shares: np.ndarray | None
    cell_px: int

    @property
    def boundary(self) -> float:
        """Return about how many neighbouring cells differ in class; 0 for a mask of one class."""
        if self.shares is None:
            return 0.0
        return float(sum((np.diff(self.shares, axis=axis) ** 2).sum() for axis in (1, 2)))

    def coarse(self) -> FineTile:
        """Return the tile with cells so large that it has at most 40 a side."""
        rows, columns = self.density.shape[1:]
        times = -(-max(rows, columns) // _COARSE_CELLS)
        if times == 1:
            return self
        size = columns // times, rows // times
        small = [
            None if planes is None else _resized(planes, size, times)
            for planes in (self.density, self.shares)
        ]
        assert small[0] is not None
        return FineTile(small[0], small[1], self.cell_px * times)


def _resized(planes: np.ndarray, size: tuple[int, int], times: int) -> np.ndarray:
    inside = planes[:, : size[1] * times, : size[0] * times]
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in inside])


def fine_tile(rgb: np.ndarray, labels: np.ndarray, most_cells: int = FINE_CELLS) -> FineTile | None:
    """Return an image and its mask in cells; None where they differ in size or are too small.

    Args:
        rgb: uint8 [height, width, 3].
        labels: uint8 or uint16 [height, width].
        most_cells: Cells a side, at most.
    """
    cells = Cells.of(labels.shape[0], labels.shape[1], 1, most_cells)
    if cells is None or rgb.shape[:2] != labels.shape:
        return None
    shrunk = shrink(rgb.astype(np.float32), cells)
    density = np.ascontiguousarray(density_of(shrunk).transpose(2, 0, 1))
    shares = class_shares(labels, cells, *_label_counts(labels))
    planes = None if shares is None else shares.astype(np.float32) / 255
    return FineTile(_decorrelated(density), planes, cells.side_px)


def _label_counts(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that occur, in order, and the pixels of each, from runs of equal pixels."""
    flat = labels.ravel()
    start = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    pixels = np.bincount(flat[start], weights=np.diff(start, append=flat.size)).astype(np.int64)
    ids = np.flatnonzero(pixels)
    return ids, pixels[ids]


def _decorrelated(density: np.ndarray) -> np.ndarray:
    """Return colours mixed so that their differences between neighbours are uncorrelated and of
    one size.
    """
    steps = [np.diff(density, axis=axis).reshape(len(density), -1) for axis in (1, 2)]
    pairs = np.concatenate(steps, axis=1).astype(np.float64)
    spread = pairs @ pairs.T / pairs.shape[1]
    spread += np.eye(len(spread)) * max(_RIDGE * np.trace(spread) / len(spread), 1e-9)
    mixing = np.linalg.inv(np.linalg.cholesky(spread)).astype(np.float32)
    result: np.ndarray = np.tensordot(mixing, density, 1)
    return result


def turned_evidence(tile: FineTile, *, is_damped: bool = False) -> np.ndarray:
    """Return the nats for the mask of a tile in each of `ORIENTATIONS`; NaN for what cannot be."""
    found = np.full(len(ORIENTATIONS), np.nan)
    if tile.shares is not None:
        rows, columns = tile.density.shape[1:]
        for place, way in enumerate(ORIENTATIONS):
            if rows == columns or not way.swaps_sides:
                turned = way.apply(tile.shares)
                gains = gains_of(np.concatenate((tile.density, turned)), len(tile.density))
                found[place] = (damped(gains) if is_damped else gains).sum()
    return found


def pair_evidence(images: Sequence[FineTile], masks: Sequence[FineTile]) -> np.ndarray:
    """Return nats, damped, for each mask on each image, float64 [images, masks]; -inf where they
    differ in size or the mask is of one class.
    """
    found = np.full((len(images), len(masks)), -np.inf)
    shapes: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        shapes.setdefault(image.density.shape, []).append(place)
    for shape, places in shapes.items():
        densities = np.concatenate([images[place].density for place in places])
        for column, mask in enumerate(masks):
            if mask.shares is not None and mask.shares.shape[1:] == shape[1:]:
                gains = gains_of(np.concatenate((densities, mask.shares)), len(densities))
                sums = damped(gains).reshape(len(places), shape[0]).sum(axis=1)
                found[places, column] = sums
    return found


def move_surface(tile: FineTile) -> np.ndarray:
    """Return the nats, damped, for the mask of a tile moved by up to half a side in every
    direction, float64 [rows, columns] with no move at [rows // 2, columns // 2].
    """
    assert tile.shares is not None
    rows, columns = tile.density.shape[1:]
    window = np.outer(_fading(rows), _fading(columns))
    density, shares = (_faded(planes, window) for planes in (tile.density, tile.shares))
    images, classes = np.fft.rfft2(density), np.fft.rfft2(shares)
    ring, twice = _rings(rows, columns)
    total = np.zeros((rows, columns))
    for image in images:
        weight = 1 / _smooth_power(image, ring, twice)
        weight[0, 0] = 0
        weighted = classes.conj() * weight
        gram = np.real(np.einsum("kij,lij,ij->kl", weighted, classes, twice))
        gram += np.eye(len(gram)) * (_RIDGE * np.trace(gram) / len(gram) + 1e-12)
        mixed = np.fft.irfft2(weighted * image, s=(rows, columns)) * (rows * columns)
        solved = np.tensordot(np.linalg.inv(gram), mixed, 1)
        total += (mixed * solved).sum(axis=0) / 2
    result: np.ndarray = np.fft.fftshift(_DAMPED * np.log1p(total / _DAMPED))
    return result


def _fading(number: int) -> np.ndarray:
    ends = max(1, int(number * _FADED))
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(ends) + 0.5) / ends)
    window = np.ones(number)
    window[:ends], window[-ends:] = rise, rise[::-1]
    return window


def _faded(planes: np.ndarray, window: np.ndarray) -> np.ndarray:
    result: np.ndarray = (planes - planes.mean(axis=(1, 2), keepdims=True)) * window
    return result


def _rings(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each entry of a real Fourier transform, the number of its ring of equal
    frequency, and how many entries of the whole transform it stands for.
    """
    down, right = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None]
    side = max(rows, columns)
    ring = np.minimum((np.hypot(down, right) * side).astype(np.intp), side // 2)
    twice = np.full(ring.shape, 2.0)
    twice[:, 0] = 1
    if columns % 2 == 0:
        twice[:, -1] = 1
    return ring, twice


def _smooth_power(image: np.ndarray, ring: np.ndarray, twice: np.ndarray) -> np.ndarray:
    """Return the mean power of the ring that each frequency lies in, rings smoothed."""
    power = np.bincount(ring.ravel(), (np.abs(image) ** 2 * twice).ravel())
    logarithm = np.log(power / np.bincount(ring.ravel(), twice.ravel()) + 1e-12)
    padded = np.pad(logarithm, 2, mode="edge")
    smooth = np.convolve(padded, np.full(5, 0.2), "valid")
    result: np.ndarray = np.exp(smooth)[ring]
    return result


@dataclass(frozen=True, slots=True)
class Move:
    """By how much masks have to be moved.

    Attributes:
        right_px: To the right.
        down_px: Down.
        error_px: Standard error of the larger of both, by leaving tiles out.
        gain: Nats that the move gains over none.
        sure: Standard errors that the gain is above zero.
    """

    right_px: float
    down_px: float
    error_px: float
    gain: float
    sure: float

    @property
    def length_px(self) -> float:
        """Return the distance."""
        return float(np.hypot(self.right_px, self.down_px))

    @property
    def is_clear(self) -> bool:
        """Return whether it is a move, and measured."""
        return (
            self.length_px >= MIN_MOVE_PX
            and self.error_px <= _MAX_ERROR_PX
            and self.gain >= _GAIN
            and self.sure >= _SURE
        )


def find_move(tiles: Sequence[FineTile]) -> Move | None:
    """Return the move that the masks of a source agree on, clear or not; None with too few tiles of
    one size.
    """
    used = _alike(tiles)
    if len(used) < MIN_TILES:
        return None
    surfaces = np.stack([move_surface(tile) for tile in used])
    middle = surfaces.shape[1] // 2, surfaces.shape[2] // 2
    total = surfaces.sum(axis=0)
    top = _top(total)
    # Leave-one-out: which tile is left out must not matter.
    left_out = np.array([_top(total - surface) for surface in surfaces])
    number = len(surfaces)
    spread = np.sqrt((number - 1) * left_out.var(axis=0)) * used[0].cell_px
    place = tuple(np.rint(top).astype(int))
    gains = surfaces[:, place[0], place[1]] - surfaces[:, middle[0], middle[1]]
    error = float(gains.std(ddof=1)) * np.sqrt(number)
    down, right = ((top - middle) * used[0].cell_px).tolist()
    gain = float(gains.sum())
    return Move(right, down, float(spread.max()), gain, gain / error if error else 0.0)


def gain_of_move(tiles: Sequence[FineTile], move: Move) -> float:
    """Return what a move gains over none, in the nats, damped, by which orientations, offsets and
    scales are compared: where the moved masks still cover their images.
    """
    gain = 0.0
    for tile in _alike(tiles):
        right, down = (round(px / tile.cell_px) for px in (move.right_px, move.down_px))
        gain += _near_evidence(tile, right, down) - _near_evidence(tile, 0, 0)
    return gain


def _near_evidence(tile: FineTile, right: int, down: int) -> float:
    assert tile.shares is not None
    rows, columns = tile.density.shape[1:]
    density = tile.density[:, max(0, down) : rows + down, max(0, right) : columns + right]
    shares = tile.shares[:, max(0, -down) : rows - down, max(0, -right) : columns - right]
    part = FineTile(np.ascontiguousarray(density), np.ascontiguousarray(shares), tile.cell_px)
    small = part.coarse()
    assert small.shares is not None
    gains = gains_of(np.concatenate((small.density, small.shares)), len(small.density))
    return float(damped(gains).sum())


def _alike(tiles: Sequence[FineTile]) -> list[FineTile]:
    """Return the tiles with more than one class that have the most common size."""
    shapes = [tile.density.shape for tile in tiles if tile.shares is not None]
    if not shapes:
        return []
    common = max(sorted(set(shapes)), key=shapes.count)
    return [tile for tile in tiles if tile.shares is not None and tile.density.shape == common]


def _top(surface: np.ndarray) -> np.ndarray:
    """Return the place of the maximum, float [2], by parabolas through its neighbours."""
    row, column = np.unravel_index(int(np.argmax(surface)), surface.shape)
    place = [float(row), float(column)]
    for axis, (at, line) in enumerate(((row, surface[:, column]), (column, surface[row]))):
        if 0 < at < len(line) - 1:
            before, here, after = line[at - 1 : at + 2]
            bend = before - 2 * here + after
            place[axis] += float((before - after) / (2 * bend)) if bend < 0 else 0.0
    return np.array(place)


@dataclass(frozen=True, slots=True)
class Scale:
    """By how much masks have to be enlarged, about the upper left corner or about the middle."""

    factor: float
    about_middle: bool
    gain: float
    sure: float

    @property
    def is_clear(self) -> bool:
        """Return whether the scale is beyond doubt."""
        return self.gain >= _LARGE_GAIN and self.sure >= _VERY_SURE


def find_scale(tiles: Sequence[FineTile]) -> Scale | None:
    """Return the scale at which the masks of a source fit best, clear or not; None with too few
    tiles of one size.
    """
    used = [tile.coarse() for tile in _alike(tiles)]
    if len(used) < MIN_TILES:
        return None
    before = np.array([_best_near(tile) for tile in used])
    found = []
    for factor in SCALES:
        for about_middle in (False, True):
            scaled = [_scaled(tile, factor, about_middle=about_middle) for tile in used]
            after = np.array([0.0 if tile is None else _best_near(tile) for tile in scaled])
            gains = after - before
            error = float(gains.std(ddof=1)) * np.sqrt(len(gains))
            gain = float(gains.sum())
            found.append(Scale(factor, about_middle, gain, gain / error if error else 0.0))
    return max(found, key=lambda scale: scale.gain)


def _best_near(tile: FineTile) -> float:
    """Return the nats, damped, for a mask at the best of nine places near where it is."""
    assert tile.shares is not None
    rows, columns = tile.density.shape[1:]
    shares = tile.shares[:, _SLACK : rows - _SLACK, _SLACK : columns - _SLACK]
    places = [
        (down, right) for down in (0, _SLACK, 2 * _SLACK) for right in (0, _SLACK, 2 * _SLACK)
    ]
    densities = [
        tile.density[:, down : down + shares.shape[1], right : right + shares.shape[2]]
        for down, right in places
    ]
    planes = np.concatenate((*densities, shares))
    gains = damped(gains_of(planes, len(planes) - len(shares)))
    return float(gains.reshape(len(places), -1).sum(axis=1).max())


def _scaled(tile: FineTile, factor: float, *, about_middle: bool) -> FineTile | None:
    """Return the part of a tile that its mask covers when it is enlarged by `factor`; None where
    too little is left or the mask is of one class there.
    """
    assert tile.shares is not None
    rows, columns = tile.density.shape[1:]
    size = round(columns * factor), round(rows * factor)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    shares = np.stack([cv2.resize(plane, size, interpolation=how) for plane in tile.shares])
    density = tile.density
    shares = _cut(shares, (rows, columns), about_middle=about_middle)
    density = _cut(density, shares.shape[1:], about_middle=about_middle)
    if min(shares.shape[1:]) < _LEFT or float(np.ptp(shares)) < 0.5:
        return None
    return FineTile(density, shares, tile.cell_px)


def _cut(planes: np.ndarray, size: tuple[int, ...], *, about_middle: bool) -> np.ndarray:
    """Return planes of at most `size` rows and columns, from the corner or from the middle."""
    starts = [
        max(0, (have - wanted) // 2) if about_middle else 0
        for have, wanted in zip(planes.shape[1:], size, strict=True)
    ]
    return planes[:, starts[0] : starts[0] + size[0], starts[1] : starts[1] + size[1]]


@dataclass(frozen=True, slots=True)
class ListOffset:
    """The masks of a sorted list belong to the images `steps` further on (before, if negative);
    `second` is the gain of the next best offset.
    """

    steps: int
    gain: float
    sure: float
    second: float = 0.0

    @property
    def is_clear(self) -> bool:
        """Return whether the offset is beyond doubt."""
        stands_out = self.second <= _SECOND_SHARE * self.gain
        return self.gain >= _LARGE_GAIN and self.sure >= _HARDLY_CHANCE and stands_out


def find_list_offset(
    tiles: Sequence[FineTile | None], *, is_whole: bool = False
) -> ListOffset | None:
    """Return by how many places masks lie beside their images, clear or not; None with too few
    tiles.

    Args:
        tiles: Consecutive tiles of the list; None for those that could not be read.
        is_whole: Whether they are the whole list, which then goes round.
    """
    number = len(tiles)
    places = [place for place, tile in enumerate(tiles) if tile is not None]
    read = [tile.coarse() for tile in tiles if tile is not None]
    if len(read) < MIN_TILES:
        return None
    evidence = np.full((number, number), -np.inf)
    evidence[np.ix_(places, places)] = pair_evidence(read, read)
    own = np.diagonal(evidence)
    reach = number // 2 if is_whole else number - MIN_TILES
    found = []
    for steps in range(-reach, reach + 1):
        # Evidence of the mask at place p on the image at place p + steps, against that image's own.
        images = np.arange(number)
        masks = images - steps
        there = np.ones(number, bool) if is_whole else (masks >= 0) & (masks < number)
        moved = evidence[images[there], masks[there] % number]
        both = np.isfinite(moved) & np.isfinite(own[there])
        gains = moved[both] - own[there][both]
        if steps and len(gains) >= MIN_TILES:
            error = float(gains.std(ddof=1)) * np.sqrt(len(gains))
            gain = float(gains.sum())
            found.append(ListOffset(steps, gain, gain / error if error else 0.0))
    if not found:
        return None
    best = max(found, key=lambda offset: offset.gain)
    # Half way round, both directions are one.
    others = [offset.gain for offset in found if (offset.steps - best.steps) % number]
    return replace(best, second=max(others, default=0.0))


# Nats, damped, of a mask that fits another image, and how much better than its own and than any
# other mask.
_PARTNER, _PARTNER_GAIN, _PARTNER_LEAD = 20.0, 14.0, 7.0


def find_partners(tiles: Sequence[FineTile]) -> Iterator[tuple[int, int]]:
    """Yield (image, mask) where the mask of another of these tiles fits an image clearly better
    than its own and all others.
    """
    read = [tile.coarse() for tile in tiles]
    evidence = pair_evidence(read, read)
    for place, row in enumerate(evidence):
        order = np.argsort(-row, kind="stable")
        best = int(order[0])
        own = max(float(row[place]), 0.0)
        if len(order) < 2 or best == place:
            continue
        second = max(float(row[order[1]]), 0.0)
        if (
            row[best] >= _PARTNER
            and row[best] - own >= _PARTNER_GAIN
            and row[best] - second >= _PARTNER_LEAD
        ):
            yield place, best
