"""Grey image -> its four borders in 512 bytes -> borders of tiles that continue each other.

A border is the outermost row or column of pixels, extrapolated by half a pixel to the line where
two tiles meet: two tiles cut side by side from one slide give the same line. Full resolution across
the border is needed: of borders taken from an image of 1/8 size less than half were found.

Two borders belong together where each is the other's best, and by a margin over the second best of
both. Glass, frames and padding are below a contrast floor; what repeats, such as generated or
copied tiles, has a second best as good as the best.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

import cv2
import numpy as np

LENGTH = 128
"""Values of a border at most; longer ones are averaged along the border."""
MIN_LENGTH = 32
"""Borders of fewer pixels agree by chance."""
MIN_CONTRAST = 5.0
"""Standard deviation of a border, in grey levels, under which it tells nothing: that of a frame of
one colour is 4 after JPEG 80."""
# What changes slowly along a border is much the same in all tissue: this share of what is left
# after a Gaussian of so many values is taken off.
_SLOW_SHARE, _SLOW_WIDTH = 0.7, 8.0
# An int8 of 127 stands for so many standard deviations.
_RANGE = 4.0
_BLOCK = 2048
MIN_MARGIN = 0.2
"""Fisher's z of the best less that of the second best, at least."""
MIN_SIGMAS = 5.0
"""Fisher's z of a correlation in standard deviations of what chance brings, at least."""
_LARGEST = 0.999
# Frequencies over which the power of a single border is averaged.
_NEARBY_FREQUENCIES = 7


class Side(IntEnum):
    """A border of a tile; the position in what `measure_borders` returns."""

    LEFT = 0
    RIGHT = 1
    TOP = 2
    BOTTOM = 3


def measure_borders(grey: np.ndarray) -> np.ndarray | None:
    """Return the four borders of an image, in the order of `Side`.

    Args:
        grey: Luminance at full size, uint8 [height, width].

    Returns:
        int8 [4, 128]: each border without most of what changes slowly, without its mean and by its
        standard deviation, 127 for 4 of them. Beyond the end of a border, and in one under the
        contrast floor, all is 0. None where all four are, and for an image under 32 px.
    """
    if min(grey.shape) < MIN_LENGTH:
        return None
    result = np.zeros((len(Side), LENGTH), np.int8)
    upright, lying = [[grey[:, 0], grey[:, -1]]], [[grey[0], grey[-1]]]
    upright.append([grey[:, 1], grey[:, -2]])
    lying.append([grey[1], grey[-2]])
    if grey.shape[0] == grey.shape[1]:
        _fill(result, np.array([[*a, *b] for a, b in zip(upright, lying, strict=True)]))
    else:
        _fill(result[: Side.TOP], np.array(upright))
        _fill(result[Side.TOP :], np.array(lying))
    return result if result.any() else None


def _fill(result: np.ndarray, ends: np.ndarray) -> None:
    """Write borders, int8 [n, 128], of their outermost lines and those next to them, uint8
    [2, n, length].
    """
    outer, inner = ends.astype(np.float32)
    # Half a pixel further out.
    lines = shorten(1.5 * outer - 0.5 * inner)
    contrast = lines.std(axis=1)
    slow = cv2.GaussianBlur(lines, (0, 0), _SLOW_WIDTH, None, 1e-6, cv2.BORDER_REPLICATE)
    lines -= _SLOW_SHARE * slow
    lines -= lines.mean(axis=1, keepdims=True)
    unit = lines.std(axis=1)
    scale = np.where(contrast >= MIN_CONTRAST, 127 / (_RANGE * np.maximum(unit, 0.1)), 0.0)
    whole = np.rint(lines * scale[:, None])
    result[:, : lines.shape[1]] = np.clip(whole, -127, 127)


def shorten(lines: np.ndarray) -> np.ndarray:
    """Return float32 [..., n], n at most 128: means of as few neighbouring values as that takes."""
    step = -(-lines.shape[-1] // LENGTH)
    whole = lines.shape[-1] // step * step
    parts = lines[..., :whole].reshape(*lines.shape[:-1], -1, step)
    result: np.ndarray = parts.mean(axis=-1, dtype=np.float32)
    return result


@dataclass(frozen=True, slots=True)
class Touching:
    """Pairs of tiles that touch, n of them.

    Attributes:
        first: Positions of the left or upper tiles, int64 [n].
        second: Positions of the right or lower tiles, int64 [n].
        is_below: Whether the second is below the first instead of on its right, bool [n].
        score: Correlation of the two borders, float32 [n].
        rival: The best correlation that one of the two has with any other border, float32 [n].
        by_square: Whether the margin alone was not enough, but two more tiles close a square of
            four with them, bool [n].
    """

    first: np.ndarray
    second: np.ndarray
    is_below: np.ndarray
    score: np.ndarray
    rival: np.ndarray
    by_square: np.ndarray

    def __len__(self) -> int:
        """Return n."""
        return len(self.first)

    def where(self, chosen: np.ndarray) -> Touching:
        """Return some of the pairs (bool [n], or positions)."""
        columns = (self.first, self.second, self.is_below, self.score, self.rival, self.by_square)
        return Touching(*(column[chosen] for column in columns))


def find_touching(borders: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> Touching:
    """Return the pairs of tiles that touch.

    Every border is compared with every opposite one of its length, in blocks: time grows with the
    square of the number of tiles, memory with the number.

    Args:
        borders: int8 [n, 4, 128] as of `measure_borders`, 0 for a tile that has none. Of tiles that
            are copies of each other only one may be among them.
        heights: Height of each tile in pixels, int [n].
        widths: Width of each tile in pixels, int [n].
    """
    pairs = _joined(
        [
            _best_pairs(borders, heights, Side.RIGHT, Side.LEFT),
            _best_pairs(borders, widths, Side.BOTTOM, Side.TOP),
        ]
    )
    margin = np.arctanh(np.minimum(pairs.score, _LARGEST)) - np.arctanh(
        np.clip(pairs.rival, 0, _LARGEST)
    )
    is_sure = margin >= MIN_MARGIN
    is_sure[is_sure] = _sigmas(borders, pairs.where(is_sure)) >= MIN_SIGMAS
    by_square = _closing(pairs, is_sure, len(borders))
    return replace(pairs, by_square=by_square).where(is_sure | by_square)


def _sigmas(borders: np.ndarray, pairs: Touching) -> np.ndarray:
    """Return how many standard deviations a score is from what unrelated borders give, float [n].

    Fisher's z of a correlation of m independent values has the variance 1 / (m - 3). Neighbouring
    values of a border are not independent: m is the number that gives the variance which the power
    spectra of the two borders predict (M. Bartlett, JRSS 98, 1935), and small for smooth ones.
    It is smaller still where few places, such as the edge of the tissue, make up the correlation.
    """
    sides = np.where(pairs.is_below, Side.BOTTOM, Side.RIGHT)
    others = np.where(pairs.is_below, Side.TOP, Side.LEFT)
    lines = (borders[pairs.first, sides], borders[pairs.second, others])
    first, second = (_power(line) for line in lines)
    total = first.sum(axis=1) * second.sum(axis=1)
    # Zeros beyond the end of a border add frequencies, not values.
    used = np.count_nonzero(borders[pairs.first, sides], axis=1) / LENGTH
    values = used * total / np.maximum((first * second).sum(axis=1), 1e-12)
    values *= _evenness(*(line.astype(np.float32) for line in lines))
    score = np.arctanh(np.minimum(pairs.score, _LARGEST))
    result: np.ndarray = score * np.sqrt(np.maximum(values - 3, 0))
    return result


def _evenness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how evenly places contribute to correlations, float [n]: 1 as of normal values, less
    where few contribute most.
    """
    parts = np.abs(first * second)
    used = np.maximum(np.count_nonzero(first, axis=1), 1)
    # The squared mean of squares of normal values is a third of the mean of their fourth powers.
    even = 3 * parts.sum(axis=1) ** 2 / np.maximum(used * (parts**2).sum(axis=1), 1e-12)
    result: np.ndarray = np.minimum(even, 1.0)
    return result


def _power(lines: np.ndarray) -> np.ndarray:
    """Return the power of borders by frequency, float32 [n, 128], averaged over nearby ones."""
    power = (np.abs(np.fft.fft(lines.astype(np.float32), axis=1)) ** 2).astype(np.float32)
    power[:, 0] = 0
    return running_mean(power, _NEARBY_FREQUENCIES)


def running_mean(values: np.ndarray, number: int) -> np.ndarray:
    """Return the means of `number` neighbours (odd) along rows that begin again at their end,
    float32 [n, length]: those of scipy.ndimage.uniform_filter1d, which takes long to import.
    """
    wide = np.take(values, np.arange(-(number // 2), values.shape[1] + number // 2), 1, mode="wrap")
    wide = wide.astype(np.float64)
    # One after the other, as scipy adds them.
    first = np.add.accumulate(wide[:, :number], axis=1)[:, -1:]
    changes = wide[:, number:] - wide[:, :-number]
    sums = np.add.accumulate(np.concatenate([first, changes], axis=1), axis=1)
    result: np.ndarray = (sums / number).astype(np.float32)
    return result


def _best_pairs(borders: np.ndarray, lengths: np.ndarray, end: Side, start: Side) -> Touching:
    """Return the pairs of borders that are each other's best, whatever their margin."""
    found = [_no_pairs()]
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        ends = rows[borders[rows, end].any(axis=1)]
        starts = rows[borders[rows, start].any(axis=1)]
        if len(ends) and len(starts):
            used = length // -(-length // LENGTH)
            units = (_units(borders[ends, end, :used]), _units(borders[starts, start, :used]))
            right, down = _compare(*units, ends, starts)
            own = np.arange(len(ends))
            own = own[(down.at[right.at] == own) & (right.score > 0)]
            partner = right.at[own]
            rival = np.maximum(right.second[own], down.second[partner])
            no = np.zeros(len(own), bool)
            is_below = np.full(len(own), end is Side.BOTTOM)
            found.append(
                Touching(ends[own], starts[partner], is_below, right.score[own], rival, no)
            )
    return _joined(found)


def _joined(parts: list[Touching]) -> Touching:
    names = ("first", "second", "is_below", "score", "rival", "by_square")
    return Touching(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _no_pairs() -> Touching:
    whole, real, flag = np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, bool)
    return Touching(whole, whole, flag, real, real, flag)


def _units(lines: np.ndarray) -> np.ndarray:
    """Return rows of unit length, float32."""
    values = lines.astype(np.float32)
    values /= np.sqrt(np.einsum("ij,ij->i", values, values))[:, None]
    return values


@dataclass(frozen=True, slots=True)
class _Best:
    """Best and second best score of n borders, and which border the best is."""

    at: np.ndarray
    score: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, number: int) -> _Best:
        lowest = np.full(number, -1.0, np.float32)
        return cls(np.zeros(number, np.int64), lowest, lowest.copy())

    def add(self, scores: np.ndarray, row: int, column: int) -> None:
        """Take in a block of scores, float32 [rows, columns], that begins at `row`, `column`."""
        here = slice(row, row + len(scores))
        at = scores.argmax(axis=1)
        index = np.arange(len(scores))
        best = scores[index, at]
        scores[index, at] = -1.0
        second = scores.max(axis=1)
        scores[index, at] = best
        before = self.score[here].copy()
        is_better = best > before
        self.second[here] = np.where(
            is_better, np.maximum(before, second), np.maximum(self.second[here], best)
        )
        self.score[here] = np.maximum(best, before)
        self.at[here] = np.where(is_better, at + column, self.at[here])


def _compare(
    ends: np.ndarray, starts: np.ndarray, end_rows: np.ndarray, start_rows: np.ndarray
) -> tuple[_Best, _Best]:
    """Return the best of each end and of each start; no tile continues itself."""
    right, down = _Best.of(len(ends)), _Best.of(len(starts))
    for row, column in _blocks(len(ends), len(starts)):
        scores = ends[row : row + _BLOCK] @ starts[column : column + _BLOCK].T
        rows, columns = end_rows[row : row + _BLOCK], start_rows[column : column + _BLOCK]
        if rows[0] <= columns[-1] and columns[0] <= rows[-1]:
            _, i, j = np.intersect1d(rows, columns, assume_unique=True, return_indices=True)
            scores[i, j] = -1.0
        right.add(scores, row, column)
        down.add(np.ascontiguousarray(scores.T), column, row)
    return right, down


def _blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    for row in range(0, rows, _BLOCK):
        for column in range(0, columns, _BLOCK):
            yield row, column


def _closing(pairs: Touching, is_sure: np.ndarray, number: int) -> np.ndarray:
    """Return which pairs that are not sure (bool [n]) are the fourth side of a square of which the
    three others are known; what they make known counts for further ones.
    """
    # Partners of each tile on its right, on its left, below and above.
    known = np.full((4, number), -1)

    def note(chosen: np.ndarray) -> None:
        way = 2 * pairs.is_below[chosen].astype(np.int64)
        known[way, pairs.first[chosen]] = pairs.second[chosen]
        known[way + 1, pairs.second[chosen]] = pairs.first[chosen]

    note(np.flatnonzero(is_sure))
    closing = np.zeros(len(pairs), bool)
    while True:
        left = np.flatnonzero(~is_sure & ~closing)
        first, second, below = pairs.first[left], pairs.second[left], pairs.is_below[left]
        way = 2 * below.astype(np.int64)
        fits = np.zeros(len(left), bool)
        for step in (0, 1):
            across = np.where(below, step, 2 + step)
            beside, opposite = known[across, first], known[across, second]
            there = (beside >= 0) & (opposite >= 0)
            fits |= there & (known[way, beside] == opposite)
        if not fits.any():
            return closing
        closing[left[fits]] = True
        note(left[fits])
