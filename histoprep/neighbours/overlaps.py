"""Landmarks of many tiles -> pairs of tiles that may show the same place, and how they lie.

Each landmark is looked up among those whose first numbers are near its own, or in a k-d tree where
nothing is compiled. Landmarks that agree on how two tiles lie are votes. What
comes out is a candidate: `placement.py` compares the pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from histoprep import native
from histoprep.neighbours.landmarks import NUM_NUMBERS, UNIT, Landmarks, turn

# Nearest landmarks that are looked at: a place may be in many tiles.
_NEAREST = 12
# How far two landmarks of one place are, in standard deviations of the seven numbers, among so many
# landmarks. Among more it is less, so that chance brings as many to each as before.
_FAR, _FEW_LANDMARKS = 1.2, 5_000
# A pair of landmarks weighs 7 ln(1.5 / distance), as a ball in seven dimensions grows; a pair of
# tiles needs so much among fifty tiles, and more among more. Chance brings pairs by the square of
# the number of tiles; with this growth it brings less than one a tile.
_WEIGHT_FAR, _WEIGHT_NEAR, _MIN_WEIGHT = 1.5, 0.15, 10.5
_WEIGHT_GROWTH, _FEW_TILES = 1.6, 50
_ROWS = 100_000
# Votes that are counted at once, some hundred bytes each; of more, those on one part of the tiles
# after the other.
_MAX_VOTES = 4_000_000
# Landmarks of two tiles agree to so many cells.
_AGREE_CELLS = 3.0


@dataclass(frozen=True, slots=True)
class Overlapping:
    """Pairs of tiles that may overlap, n of them, those with most votes first.

    Attributes:
        first: Positions of tiles, int64 [n].
        second: Positions of tiles, int64 [n]; larger than `first`.
        orientation: How the second has to be turned to lie as the first does, 0 to 7 as in
            `landmarks.turn`, int64 [n].
        right: By how many cells it then has to be moved to the right, float32 [n].
        down: And down, float32 [n].
        votes: Landmarks that say so, int64 [n].
    """

    first: np.ndarray
    second: np.ndarray
    orientation: np.ndarray
    right: np.ndarray
    down: np.ndarray
    votes: np.ndarray

    def __len__(self) -> int:
        """Return n."""
        return len(self.first)

    def where(self, chosen: np.ndarray) -> Overlapping:
        """Return some of the pairs (bool [n], or positions)."""
        columns = (self.first, self.second, self.orientation, self.right, self.down, self.votes)
        return Overlapping(*(column[chosen] for column in columns))


def find_overlapping(landmarks: Landmarks, tiles: np.ndarray) -> Overlapping:
    """Return the pairs of tiles that may overlap.

    A turned tile is turned about its upper left corner, so that `right` and `down` bring it back.

    Args:
        landmarks: Landmarks of all tiles, m of them, counted in cells of one size.
        tiles: The tile of each landmark, int64 [m], ascending.
    """
    times = max(len(np.unique(tiles)) / _FEW_TILES, 1.0)
    least = _MIN_WEIGHT + _WEIGHT_GROWTH * float(np.log(times))
    counted = [_counted(_no_votes(), least)]
    if len(tiles) > 1:
        most = _FAR * min(_FEW_LANDMARKS / len(tiles), 1.0) ** (1 / NUM_NUMBERS)
        pairs = _nearest(landmarks.numbers, most, min(_NEAREST + 1, len(tiles)))
        for begin, end in _parts_of_tiles(pairs, tiles):
            votes = [_no_votes()]
            for own, other, far in pairs():
                first = np.minimum(tiles[own], tiles[other])
                here = (first >= begin) & (first < end)
                votes.append(_votes(landmarks, tiles, own[here], other[here], far[here]))
            counted.append(_counted(np.concatenate(votes), least))
    found = np.concatenate(counted)
    found = found[np.lexsort((found["second"], found["first"], -found["weight"]))]
    return Overlapping(
        found["first"].astype(np.int64),
        found["second"].astype(np.int64),
        found["orientation"].astype(np.int64),
        found["right"],
        found["down"],
        found["votes"],
    )


_Pairs = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]


def _parts_of_tiles(pairs: Callable[[], _Pairs], tiles: np.ndarray) -> list[tuple[int, int]]:
    """Return ranges of tiles; at most `_MAX_VOTES` pairs of landmarks have the first of their tiles
    in each, but for a range of one tile.
    """
    number = np.zeros(int(tiles[-1]) + 1, np.int64)
    for own, other, _ in pairs():
        number += np.bincount(np.minimum(tiles[own], tiles[other]), minlength=len(number))
    parts, begin = [], 0
    until = np.cumsum(number)
    while begin < len(number):
        before = int(until[begin - 1]) if begin else 0
        end = int(np.searchsorted(until, before + _MAX_VOTES, side="right"))
        parts.append((begin, max(end, begin + 1)))
        begin = parts[-1][1]
    return parts


def _nearest(numbers: np.ndarray, most: float, nearest: int) -> Callable[[], _Pairs]:
    """Return what yields pairs of landmarks that are near each other, a part at a time, whenever it
    is called: their positions (int64 [n] each) and how far they are (float64 [n]).

    Args:
        numbers: float32 [landmarks, 7], whole multiples of 1 / UNIT.
        most: They are nearer than this.
        nearest: So many of each at most, itself among them; of equally near ones the first.
    """
    squares = np.arange(1 + int((most * UNIT) ** 2) + 1)
    limit = int(np.count_nonzero(np.sqrt(squares / UNIT**2) < most)) - 1
    stored = np.rint(numbers * UNIT).astype(np.int8)
    found = native.find_nearest(stored, limit, nearest, len(os.sched_getaffinity(0)))

    def pairs() -> _Pairs:
        for start in range(0, len(numbers), _ROWS):
            rows = np.arange(start, min(start + _ROWS, len(numbers)))
            if found is None:
                far, near = nearest_by_tree(numbers, rows, most, nearest)
            else:
                far, near = np.sqrt(found[1][rows] / UNIT**2), found[0][rows]
                far[np.arange(nearest) >= found[2][rows][:, None]] = np.inf
            there = np.isfinite(far)
            yield np.repeat(rows, there.sum(axis=1)), near[there].astype(np.int64), far[there]

    return pairs


def nearest_by_tree(
    numbers: np.ndarray, rows: np.ndarray, most: float, nearest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `native.find_nearest` finds, without the library: how far they are, infinite
    where there are fewer, and which, both [rows, nearest].
    """
    # Takes long to import.
    from scipy.spatial import cKDTree

    tree = cKDTree(numbers)
    looked = min(2 * nearest, len(numbers))
    while True:
        far, near = (
            np.asarray(found).reshape(len(rows), -1)
            for found in tree.query(numbers[rows], looked, distance_upper_bound=most, workers=-1)
        )
        # Of those that are as far as the last one wanted, some may not have been found.
        is_open = np.isfinite(far[:, -1]) & (far[:, -1] == far[:, nearest - 1])
        if looked == len(numbers) or not is_open.any():
            order = np.lexsort((near, far), axis=1)[:, :nearest]
            return np.take_along_axis(far, order, 1), np.take_along_axis(near, order, 1)
        looked = min(2 * looked, len(numbers))


_VOTE = np.dtype(
    [
        ("first", np.int32),
        ("second", np.int32),
        ("orientation", np.int8),
        ("right", np.float32),
        ("down", np.float32),
        ("far", np.float32),
    ]
)


def _no_votes() -> np.ndarray:
    return np.zeros(0, _VOTE)


def _votes(
    landmarks: Landmarks, tiles: np.ndarray, own: np.ndarray, other: np.ndarray, far: np.ndarray
) -> np.ndarray:
    """Return what pairs of landmarks say about pairs of tiles; each pair of landmarks once."""
    apart = tiles[own] != tiles[other]
    own, other, far = own[apart], other[apart], far[apart]
    is_later = tiles[own] > tiles[other]
    own, other = np.where(is_later, other, own), np.where(is_later, own, other)
    found = np.zeros(len(own), _VOTE)
    found["first"], found["second"], found["far"] = tiles[own], tiles[other], far
    orientation = between(landmarks.orientation[other], landmarks.orientation[own])
    right, down = turn(orientation, landmarks.right[other], landmarks.down[other])
    found["orientation"] = orientation
    found["right"], found["down"] = landmarks.right[own] - right, landmarks.down[own] - down
    return found


def between(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return how an image has to be turned so that a landmark with the orientation `second` gets
    the orientation `first`, both int64 [n].
    """
    result: np.ndarray = _BETWEEN[second, first]
    return result


def _table_between() -> np.ndarray:
    """Return, for each two orientations, the third that leads from one to the other."""
    ways = np.arange(8)
    matrices = np.stack(
        [np.stack(turn(ways, np.full(8, x), np.full(8, y)), axis=1) for x, y in ((1, 0), (0, 1))],
        axis=2,
    )
    table = np.zeros((8, 8), np.int64)
    for second in ways:
        for first in ways:
            # Landmark to second image by its inverse, then to the first.
            way = matrices[first] @ matrices[second].T
            [table[second, first]] = np.flatnonzero((matrices == way).all(axis=(1, 2)))
    return table


_BETWEEN = _table_between()


def _weights(votes: np.ndarray) -> np.ndarray:
    result: np.ndarray = NUM_NUMBERS * np.log(_WEIGHT_FAR / np.maximum(votes["far"], _WEIGHT_NEAR))
    return result


def _of_likely_pairs(votes: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the votes on pairs of tiles that have enough of them altogether, wherever they lie:
    chance brings most pairs one or two; and the number of each vote's pair, int64, in their order.
    """
    key = votes["first"].astype(np.int64) << 32 | votes["second"]
    _, pair = np.unique(key, return_inverse=True)
    # Half a unit is more than what rounding can add up to.
    total = np.bincount(pair, weights=_weights(votes)) / 2 + 0.5
    chosen = total[pair] >= least
    return votes[chosen], pair[chosen]


def _joined_key(columns: list[np.ndarray]) -> np.ndarray:
    """Return one number of each row of whole numbers, int64: equal where rows are, and in their
    order, the first column first.
    """
    key = np.zeros(len(columns[0]), np.int64)
    for column in columns if len(key) else ():
        key *= int(column.max()) - int(column.min()) + 1
        key += column - column.min()
    return key


def _counted(votes: np.ndarray, least: float) -> np.ndarray:
    """Return the pairs that enough landmarks agree on, each with the most votes it has, as votes
    with their number (`votes`) and `weight`.
    """
    votes, pair = _of_likely_pairs(votes, least)
    best: list[np.ndarray] = []
    for shift in (0.0, _AGREE_CELLS / 2):
        place = [
            np.floor((votes[name] + shift) / _AGREE_CELLS).astype(np.int64)
            for name in ("right", "down")
        ]
        key = _joined_key([pair, votes["orientation"].astype(np.int64), *place])
        order = np.lexsort((votes["far"], key))
        ordered, key = votes[order], key[order]
        at = np.flatnonzero(np.diff(key, prepend=key[:1] - 1))
        # A pair of landmarks was met from both sides, unless one has too many near ones.
        count = np.diff(np.append(at, len(order)))
        row = np.zeros(len(at), [*_VOTE.descr, ("votes", np.int64), ("weight", np.float32)])
        for name in _VOTE.names or ():
            row[name] = ordered[name][at]
        for name in ("right", "down") if len(at) else ():
            row[name] = np.add.reduceat(ordered[name], at) / count
        row["votes"] = (count + 1) // 2
        row["weight"] = np.add.reduceat(_weights(ordered), at) / 2 if len(at) else 0.0
        best.append(row)
    found = np.concatenate(best)
    found = found[found["weight"] >= least]
    order = np.lexsort((-found["weight"], found["second"], found["first"]))
    found = found[order]
    is_first = np.ones(len(found), bool)
    is_first[1:] = (found["first"][1:] != found["first"][:-1]) | (
        found["second"][1:] != found["second"][:-1]
    )
    return found[is_first]
