"""Where thin traces begin and end: the block grid of a JPEG, wherever it lies in a mask. Pure.

Ringing fills the 8x8 block that a boundary crosses and ends where the block ends. So along a row,
a long run of one label that gives way to short ones does so at a block border, and so does the
short run that a long one follows. What somebody drew begins and ends anywhere. A crop or a tile of
a larger mask has its blocks at another of 64 offsets, and resizing by the nearest pixel changes
their side: an enlarged mask repeats rows and columns, which are dropped first; of a halved one the
blocks have 4 pixels a side.

A straight boundary begins in one place however long it is, so ends are counted once in every
stripe of a block's height, and a mask must show its grid four times: where traces begin and where
they end, along rows and along columns. `BlockGrid.score` is the weakest of the four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import comb, gcd, sqrt
from typing import Protocol

import numpy as np

from histoprep import native
from histoprep.lossy.blocks import BLOCK_PX, CELL_PX

# Fewer ends of long runs along rows or columns tell nothing.
MIN_ONSETS = 16
# A grid of half the side must stand out more than that of whole blocks by this factor. It is
# marked down by so much: thin structures that were reduced by a fifth show it, too, since every
# fifth row and column of theirs is missing.
_HALVED_FACTOR, HALVED_EXCESS = 1.25, 1.5
# The grid that begins at the corner comes first with this share of the highest score: boundaries
# that JPEG straightened in the middle of blocks stand on another one, half a block off.
_OWN_SHARE = 0.5
# A mask was enlarged when none of its groups of columns is broken; so many would be by chance.
_BROKEN_BY_CHANCE = 6.0
# Enlargements by t / n are looked for with t up to this. By more than twice, only whole ones can be
# undone: places where labels change are few then, and fit another fraction as well.
_MAX_GROUP, _MAX_FRACTION = 8, 2.0
# Of columns where labels change, so many at least of those expected follow each other, unless the
# mask was enlarged.
_ADJACENT_SHARE = 0.8
# Labels change at blocks when they do so this many standard deviations more often than elsewhere,
# along rows and along columns.
_STEPS_SHOWN = 4.0
# Of what was drawn at places by four pixels no step lies elsewhere; of what JPEG made straight, the
# shares of steps that do, along rows and along columns, come to this together.
_ELSEWHERE = 0.2
# Rows and columns that are looked at first, and what they must show of it.
_SAMPLED_LINES, _MAY_SHOW = 16, 3.0


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """The grid that long runs end on most clearly.

    Attributes:
        score: Standard deviations above chance, of the weakest of four counts; see `verdict.py` for
            what clean masks reach.
        own_score: The same for the grid of a JPEG of this very mask: blocks of 8 px from its
            corner on.
        period_px: Side of a block in the mask as it is.
        row: Rows above the first whole block; of an enlarged mask, before it was enlarged.
        column: The same of columns.
        onsets: Ends of long runs, along rows or along columns, the fewer of both.
    """

    score: float
    own_score: float
    period_px: float
    row: int
    column: int
    onsets: int
    # Which rows and columns an enlarged mask had before, bool each; None for all.
    rows: np.ndarray | None = field(default=None, compare=False)
    columns: np.ndarray | None = field(default=None, compare=False)

    def whole_blocks(self, labels: np.ndarray) -> np.ndarray | None:
        """Return the mask from its first whole block on, as it was before it was enlarged; None
        for a reduced one.
        """
        if self.period_px < BLOCK_PX:
            return None
        rows = np.s_[:] if self.rows is None else self.rows
        columns = np.s_[:] if self.columns is None else self.columns
        return np.ascontiguousarray(labels[rows][:, columns][self.row :, self.column :])

    @property
    def is_own(self) -> bool:
        """Return whether the grid is that of a JPEG of this very mask."""
        return self.period_px == BLOCK_PX and self.row == self.column == 0


def find_grid(rows: AnySteps, columns: AnySteps) -> BlockGrid | None:
    """Return the block grid of a mask; None where too few long runs end to tell.

    Args:
        rows: Where its labels change along rows.
        columns: The same along columns.
    """
    if rows.num_ends(BLOCK_PX) < MIN_ONSETS or columns.num_ends(BLOCK_PX) < MIN_ONSETS:
        return None
    whole = _score(rows, columns, BLOCK_PX)
    if whole.onsets < MIN_ONSETS:
        return None
    kept_columns, kept_rows = _enlarged(rows), _enlarged(columns)
    if kept_columns or kept_rows:
        chosen, factor = kept_columns or (None, 1.0)
        others, other = kept_rows or (None, 1.0)
        if any(size > _MAX_FRACTION and size % 1 for size in (factor, other)):
            return None
        rows, columns = rows.only(others, chosen), columns.only(chosen, others)
        if _skips(rows) or _skips(columns):
            return None
        found = _score(rows, columns, BLOCK_PX)
        period = BLOCK_PX * max(factor, other)
        return replace(
            found, own_score=whole.own_score, period_px=period, rows=others, columns=chosen
        )
    if _skips(rows) or _skips(columns):
        return None
    halved = _score(rows, columns, CELL_PX)
    score = halved.score - HALVED_EXCESS
    if halved.score <= _HALVED_FACTOR * max(whole.score, 0.0):
        return whole
    return replace(halved, score=score, own_score=whole.own_score, onsets=whole.onsets)


def find_step_offset(rows: Steps, columns: Steps) -> tuple[int, int] | None:
    """Return rows and columns before the first of the blocks of 8 px that labels change along far
    more often than between, None without such blocks.

    Boundaries of labels one step apart come out of JPEG straight, mostly along blocks, and leave
    hardly a thin trace.

    Args:
        rows: Where labels change along rows.
        columns: The same along columns.
    """
    offsets, elsewhere = [], 0.0
    for steps in (columns, rows):
        counts = steps.places_at(BLOCK_PX)
        deviations = _deviations(counts.tolist())
        offset = deviations.index(max(deviations))
        if deviations[offset] < _STEPS_SHOWN:
            return None
        offsets.append(offset)
        elsewhere += 1 - float(counts[offset % CELL_PX :: CELL_PX].sum() / counts.sum())
    return (offsets[0], offsets[1]) if elsewhere >= _ELSEWHERE else None


def may_be_straight(labels: np.ndarray) -> bool:
    """Return whether labels, [height, width], may change along blocks of 8 px, by a few rows and
    columns: at next to no cost, so that few masks without such blocks are looked at whole.
    """
    for lines in (labels, labels.T):
        apart = max(BLOCK_PX, len(lines) // _SAMPLED_LINES)
        sample = np.ascontiguousarray(lines[apart // 2 :: apart])
        at = np.flatnonzero(sample[:, 1:] != sample[:, :-1]) % (sample.shape[1] - 1) + 1
        counts = np.bincount(at % BLOCK_PX, minlength=BLOCK_PX)
        if max(_deviations(counts.tolist())) < _MAY_SHOW:
            return False
    return True


class AnySteps(Protocol):
    """Places where the label changes along the rows of a mask, or of a turned one."""

    def num_ends(self, period: int) -> int:
        """Return how many runs of at least `period` pixels end at a shorter one, either way."""

    def ends_at(self, period: int) -> tuple[np.ndarray, np.ndarray]:
        """Return int [period]: how many runs of at least `period` pixels give way to a shorter one
        at each column modulo `period`, and how many follow a shorter one there; those at one column
        count once in a stripe of rows of that height.
        """

    def differs(self) -> np.ndarray:
        """Return bool [width]: in which columns a label begins."""

    def only(self, rows: np.ndarray | None, columns: np.ndarray | None) -> AnySteps:
        """Return the steps of the mask without the rows and columns that only repeat others: both
        bool, or None for all.
        """


@dataclass(frozen=True, slots=True)
class CountedSteps:
    """Steps that were counted already.

    Attributes:
        num_whole_ends: What `num_ends` returns for whole blocks.
        ends: What `ends_at` returns for whole blocks and for halves, int32 [2, 2, 8].
        columns: What `differs` returns.
        steps: Finds the steps themselves.
    """

    num_whole_ends: int
    ends: np.ndarray
    columns: np.ndarray
    steps: Callable[[], Steps]

    def num_ends(self, period: int) -> int:
        """Return how many long runs end at shorter ones."""
        return self.num_whole_ends if period == BLOCK_PX else self.steps().num_ends(period)

    def ends_at(self, period: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where, modulo `period`."""
        begins, stops = self.ends[0 if period == BLOCK_PX else 1, :, :period]
        return begins, stops

    def differs(self) -> np.ndarray:
        """Return bool [width]: in which columns a label begins."""
        return self.columns

    def only(self, rows: np.ndarray | None, columns: np.ndarray | None) -> Steps:
        """Return the steps without rows and columns that only repeat others."""
        return self.steps().only(rows, columns)


@dataclass(frozen=True, slots=True)
class Steps:
    """Places where the label changes along the rows of a mask, or of a turned one: `column` is that
    of the first pixel of the new label.
    """

    row: np.ndarray
    column: np.ndarray
    height: int
    width: int

    def num_ends(self, period: int) -> int:
        """Return how many runs of at least `period` pixels end at a shorter one, either way."""
        return int(sum(np.count_nonzero(ends) for ends in self._ends(period)))

    def ends_at(self, period: int) -> tuple[np.ndarray, np.ndarray]:
        """Return int [period]: how many runs of at least `period` pixels give way to a shorter one
        at each column modulo `period`, and how many follow a shorter one there; those at one column
        count once in a stripe of rows of that height.
        """
        place = self.row // period * self.width + self.column
        begins, stops = (
            np.bincount(np.unique(place[ends]) % self.width % period, minlength=period)
            for ends in self._ends(period)
        )
        return begins, stops

    def _ends(self, period: int) -> tuple[np.ndarray, np.ndarray]:
        """Return bool [steps]: where a long run ends and a short one follows, and the reverse."""
        if not len(self.row):
            return np.zeros(0, bool), np.zeros(0, bool)
        is_first = np.ones(len(self.row) + 1, bool)
        is_first[1:-1] = self.row[1:] != self.row[:-1]
        is_long = np.zeros(len(self.row) + 1, bool)
        is_long[1:-1] = self.column[1:] - self.column[:-1] >= period
        before = np.where(is_first[:-1], self.column >= period, is_long[:-1])
        behind = np.where(is_first[1:], self.width - self.column >= period, is_long[1:])
        return before & ~behind & ~is_first[1:], ~before & behind & ~is_first[:-1]

    def places_at(self, period: int) -> np.ndarray:
        """Return int [period]: in how many places labels change at each column modulo `period`;
        those at one column count once in a stripe of rows of that height.
        """
        places = np.unique(self.row // period * self.width + self.column)
        return np.bincount(places % self.width % period, minlength=period)

    def differs(self) -> np.ndarray:
        """Return bool [width]: in which columns a label begins."""
        result = np.zeros(self.width, bool)
        result[self.column] = True
        return result

    def only(self, rows: np.ndarray | None, columns: np.ndarray | None) -> Steps:
        """Return the steps of the mask without the rows and columns that only repeat others: both
        bool, or None for all.
        """
        row, column, height, width = self.row, self.column, self.height, self.width
        if rows is not None:
            chosen = rows[row]
            row, column, height = _renumbered(rows)[row[chosen]], column[chosen], int(rows.sum())
        if columns is not None:
            # A step lies at the first pixel of a label, which repeats none.
            column, width = _renumbered(columns)[column], int(columns.sum())
        return Steps(row, column, height, width)


def _renumbered(kept: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.cumsum(kept) - 1
    return result


def _score(rows: AnySteps, columns: AnySteps, period: int) -> BlockGrid:
    """Return how clearly runs end at multiples of `period`, at the offset where they do most."""
    found = []
    for steps in (columns, rows):
        begins, stops = steps.ends_at(period)
        found.append(native.best_offset(begins, stops) or best_offset(begins, stops))
    (down, own, row, fewer), (right, other, column, rest) = found
    score, own_score = min(down, right), min(own, other)
    if own_score >= _OWN_SHARE * score > 0:
        score, row, column = own_score, 0, 0
    return BlockGrid(score, own_score, float(period), row, column, min(fewer, rest))


def best_offset(begins: np.ndarray, stops: np.ndarray) -> tuple[float, float, int, int]:
    """Return, of ends of long runs by offset, the score of the best offset (the weaker of both),
    that of offset 0, the best offset, and how many ends there are.

    Args:
        begins: int [period], where a long run gives way to a shorter one.
        stops: int [period], where one follows a shorter one.
    """
    counts = begins.tolist(), stops.tolist()
    least = list(map(min, *map(_deviations, counts)))
    at = least.index(max(least))
    return least[at], least[0], at, sum(map(sum, counts))


def _deviations(counts: list[int]) -> list[float]:
    """Return how many standard deviations each count is above its share by chance."""
    number, period = max(sum(counts), 1), len(counts)
    spread = sqrt(number * (period - 1) / period**2)
    return [(count - number / period) / spread for count in counts]


def _enlarged(steps: AnySteps) -> tuple[np.ndarray, float] | None:
    """Return bool [width]: the columns that are left when those are dropped that only repeat the
    one before them, and the factor by which the mask was enlarged; None when it was not.

    Enlarged by t / n, of t columns that follow each other at most n differ.
    """
    differs = steps.differs()
    share = round(np.count_nonzero(differs) / len(differs), 2)
    ratios = _telling_ratios(len(differs), share)
    found = native.find_enlarged(differs, ratios)
    if found is ...:
        found = find_enlarged(differs, ratios)
    if found is None:
        return None
    which, offset = found
    group, kept = ratios[which].tolist()
    return _without_repeats(differs, group, kept, offset), group / kept


@lru_cache(maxsize=4096)
def _telling_ratios(width: int, share: float) -> np.ndarray:
    """Return the enlargements (int32 [n, 2], see `_ratios`) under which some groups of `width`
    columns would be broken by chance.
    """
    chosen = [
        (group, kept)
        for group, kept in _ratios()
        if (width - group + 1) // group * _broken_share(group, kept, share) >= _BROKEN_BY_CHANCE
    ]
    return np.array(chosen, np.int32).reshape(-1, 2)


def find_enlarged(differs: np.ndarray, ratios: np.ndarray) -> tuple[int, int] | None:
    """Return what `native.find_enlarged` does, without the library."""
    width, sums = len(differs), np.concatenate(([0], np.cumsum(differs)))
    for which, (group, kept) in enumerate(ratios.tolist()):
        number = (width - group + 1) // group
        # Of the group that begins at each column.
        changes = sums[group : group * (number + 1)] - sums[1 : group * number + 1]
        broken = (changes >= kept).reshape(number, group).any(axis=0)
        if not broken.all():
            return which, int(broken.argmin())
    return None


def _without_repeats(differs: np.ndarray, group: int, kept: int, offset: int) -> np.ndarray:
    """Return bool [width]: the columns that are left of groups that begin at `offset`; where fewer
    than `kept` of a group differ, of those that do not the first.
    """
    number = (len(differs) - offset) // group
    whole = np.s_[offset : offset + number * group]
    chosen = differs[whole].reshape(number, group).copy()
    chosen[:, 0] = True
    for place in range(1, group):
        chosen[np.count_nonzero(chosen, axis=1) < kept, place] = True
    left = differs.copy()
    left[whole], left[:offset] = chosen.ravel(), True
    return left


def _skips(steps: AnySteps) -> bool:
    """Return whether columns where labels change avoid each other, as in masks that were enlarged
    by a factor that is no small fraction: these begin their traces on a grid of their own.
    """
    differs = steps.differs()
    number = np.count_nonzero(differs)
    expected = number * number / len(differs)
    adjacent = np.count_nonzero(differs[1:] & differs[:-1])
    return bool(adjacent < _ADJACENT_SHARE * expected - np.sqrt(expected))


@lru_cache(maxsize=4096)
def _broken_share(group: int, kept: int, share: float) -> float:
    """Return the chance that `kept` or more of a group's columns after its first differ from the
    one before, each with the chance `share`.
    """
    others = group - 1
    return sum(
        comb(others, many) * share**many * (1 - share) ** (others - many)
        for many in range(kept, group)
    )


@lru_cache(maxsize=1)
def _ratios() -> list[tuple[int, int]]:
    """Return the enlargements that are looked for as (t, n), the largest first."""
    found = [
        (group, kept)
        for group in range(2, _MAX_GROUP + 1)
        for kept in range(1, group)
        if gcd(group, kept) == 1
    ]
    return sorted(found, key=lambda pair: pair[1] / pair[0])
