"""A mask while it is repaired: what came out of JPEG, the labels found so far, and those that each
block may have. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from histoprep.lossy.blocks import BLOCK_PX, as_blocks
from histoprep.lossy.likelihood import cost_of, misfit_of, remade, unit_of
from histoprep.lossy.search import search_blocks
from histoprep.lossy.snap import snap_blocks

_STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))
# More pixels tried would not say more of a mask.
_MAX_FLIPS = 600


@dataclass(slots=True)
class UnderRepair:
    """A mask of whole blocks, uint8, of which some blocks are repaired.

    `damaged` is what came out of JPEG and `labels` what was found so far; `rows` and `columns` say
    where the repaired blocks are, `ids` [labels] which labels are trusted, and `near` [labels,
    blocks] which of them each block may have.
    """

    damaged: np.ndarray
    quality: int
    rows: np.ndarray
    columns: np.ndarray
    ids: np.ndarray
    near: np.ndarray
    labels: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        """Return the repaired blocks as they came out of JPEG, uint8 [blocks, 8, 8]."""
        result: np.ndarray = as_blocks(self.damaged)[self.rows, self.columns]
        return result

    @property
    def found(self) -> np.ndarray:
        """Return the same blocks as they are now."""
        result: np.ndarray = as_blocks(self.labels)[self.rows, self.columns]
        return result

    def costs(self) -> np.ndarray:
        """Return how unlikely each block is as it is now, [blocks]."""
        return cost_of(self.found, self.seen, self.quality)

    def fits(self) -> np.ndarray:
        """Return which blocks JPEG turns into what was seen, to within the weight of one pixel:
        other encoders round differently.
        """
        return misfit_of(self.found, self.seen, self.quality) <= unit_of(self.seen)

    def remade(self) -> np.ndarray:
        """Return what JPEG makes of the repaired blocks, among what is there, as `damaged`."""
        result = self.damaged.copy()
        as_blocks(result)[self.rows, self.columns] = remade(self.found, self.quality)
        return result

    def against_none(self) -> float:
        """Return the cost of the repair relative to that of the damaged mask taken for the true
        one; 1 is no gain.
        """
        return float(
            self.costs().sum() / max(cost_of(self.seen, self.seen, self.quality).sum(), 1e-9)
        )

    def undetermined(self) -> float:
        """Return about how many pixels JPEG says nothing of: those at the boundaries found that
        could have a neighbour's label as well, and the block would still fit.

        At most `_MAX_FLIPS` of them are tried, evenly spread.
        """
        repaired = np.zeros(as_blocks(self.labels).shape[:2], np.intp)
        repaired[self.rows, self.columns] = np.arange(1, len(self.rows) + 1)
        flips = np.concatenate([_neighbours(self.labels, repaired, *step) for step in _STEPS])
        if not len(flips):
            return 0.0
        num_pixels = len(np.unique(flips[:, 0] * self.labels.shape[1] + flips[:, 1]))
        row, column, label = flips[:: -(-len(flips) // _MAX_FLIPS)].T
        block = repaired[row // BLOCK_PX, column // BLOCK_PX] - 1
        found, seen = self.found[block], self.seen[block]
        before = misfit_of(found, seen, self.quality)
        found[np.arange(len(block)), row % BLOCK_PX, column % BLOCK_PX] = label
        after = misfit_of(found, seen, self.quality)
        return num_pixels * float(((after <= before) | (after <= unit_of(seen))).mean())

    def shown(self) -> np.ndarray:
        """Return which values each block shows, bool [256, blocks]."""
        shown = np.zeros((256, len(self.rows)), bool)
        shown[self.seen.reshape(len(self.rows), -1), np.arange(len(self.rows))[:, None]] = True
        return shown

    def snap(self) -> None:
        """Give every block the first guess."""
        self._put(
            np.arange(len(self.rows)), snap_blocks(self.seen, self.ids, self.near, self.quality)
        )

    def search(self, chosen: np.ndarray) -> None:
        """Search the chosen blocks, [chosen], and keep what is no worse; of labels one step apart
        JPEG keeps too little to search by.
        """
        found = search_blocks(
            self.labels,
            self.seen[chosen],
            (self.rows[chosen], self.columns[chosen]),
            self._choices(chosen),
            self.quality,
        )
        better = cost_of(found, self.seen[chosen], self.quality) <= self.costs()[chosen]
        self._put(chosen[better], found[better])

    def with_label(self, label: int, chosen: np.ndarray) -> UnderRepair:
        """Return a copy that may have one label more in all blocks that show it, with the chosen
        blocks, [chosen], looked at anew.
        """
        ids, near = (
            np.append(self.ids, np.uint8(label)),
            np.vstack([self.near, self.shown()[label]]),
        )
        wider = replace(self, ids=ids, near=near, labels=self.labels.copy())
        guess = snap_blocks(self.seen[chosen], ids, near[:, chosen], self.quality)
        better = cost_of(guess, self.seen[chosen], self.quality) < self.costs()[chosen]
        wider._put(chosen[better], guess[better])
        wider.search(chosen)
        return wider

    def _put(self, chosen: np.ndarray, blocks: np.ndarray) -> None:
        as_blocks(self.labels)[self.rows[chosen], self.columns[chosen]] = blocks

    def _choices(self, chosen: np.ndarray) -> np.ndarray:
        """Return the labels that blocks may have, those nearby and those they were given, int16
        [chosen, choices], filled up with -1.
        """
        found = self.found[chosen]
        given = np.stack([(found == label).any(axis=(1, 2)) for label in self.ids])
        allowed = (self.near[:, chosen] | given).T
        most = int(allowed.sum(axis=1).max())
        first = np.argsort(~allowed, axis=1, kind="stable")[:, :most]
        return np.where(
            np.take_along_axis(allowed, first, axis=1),
            self.ids[first].astype(np.int16),
            np.int16(-1),
        )


def _neighbours(labels: np.ndarray, repaired: np.ndarray, down: int, across: int) -> np.ndarray:
    """Return row, column and the label of the neighbour (`down`, `across`) of each pixel in a
    repaired block whose neighbour has another, int64 [pixels, 3].
    """
    height, width = labels.shape
    rows = slice(max(0, -down), height - max(0, down))
    columns = slice(max(0, -across), width - max(0, across))
    beside = labels[
        rows.start + down : rows.stop + down, columns.start + across : columns.stop + across
    ]
    differs = beside != labels[rows, columns]
    inside = np.kron(repaired > 0, np.ones((BLOCK_PX, BLOCK_PX), bool))[rows, columns]
    row, column = np.nonzero(differs & inside)
    return np.stack(
        (row + rows.start, column + columns.start, beside[row, column].astype(np.int64)), axis=1
    )
