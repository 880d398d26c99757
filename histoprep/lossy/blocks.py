"""The 8x8 blocks of a mask, and how many hold more than one label, on their own grid and on shifted
ones. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CELL_PX = 4
BLOCK_PX = 2 * CELL_PX


@dataclass(frozen=True, slots=True)
class GridCounts:
    """Blocks of more than one label: `own` on the grid that begins at the corner, `shifted` on the
    same grid moved by half a block.

    Of the three shifted grids the one with the fewest counts, scaled to as many blocks as the own
    grid has. Steps along the lines of the own grid count on neither, so that what somebody drew
    along these lines tells nothing.
    """

    own: int
    shifted: float

    @property
    def phase(self) -> float:
        """Return the share of the shifted grid's mixed blocks that the own grid saves: 0 for drawn
        boundaries, at most 1.
        """
        return 1 - self.own / self.shifted if self.shifted else 0.0


def whole_blocks(labels: np.ndarray) -> np.ndarray:
    """Return the mask without the rows and columns that fill no block, contiguous."""
    height, width = (size // BLOCK_PX * BLOCK_PX for size in labels.shape)
    return np.ascontiguousarray(labels[:height, :width])


def uniform_cells(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each 4x4 cell is of one label, and something that is equal for equal labels,
    both [height / 4, width / 4].

    The mask is uint8 or uint16, contiguous, and of whole blocks.
    """
    # Four pixels at a time.
    rows = labels.view(np.uint32 if labels.itemsize == 1 else np.uint64)
    ones, lowest = (0x01010101, 0xFF) if labels.itemsize == 1 else (0x0001000100010001, 0xFFFF)
    first = rows[::CELL_PX]
    uniform = np.equal(
        first, np.bitwise_and(first, rows.dtype.type(lowest)) * rows.dtype.type(ones)
    )
    for row in range(1, CELL_PX):
        uniform &= first == rows[row::CELL_PX]
    return uniform, first


def pair_up(uniform: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same for squares of two by two cells, on the grid that begins at the corner."""
    parts, values = _quarters(uniform, 0, 0), _quarters(value, 0, 0)
    whole = (
        parts[0]
        & parts[1]
        & parts[2]
        & parts[3]
        & (values[0] == values[1])
        & (values[0] == values[2])
        & (values[1] == values[3])
    )
    return whole, values[0]


def count_grids(uniform: np.ndarray, value: np.ndarray) -> GridCounts:
    """Return the counts of squares of two by two cells, given the cells."""
    own = pair_up(uniform, value)[0]
    shifted = [
        _free_of_steps(uniform, value, down, right) for down, right in ((0, 1), (1, 0), (1, 1))
    ]
    fewest = min(
        (1 - np.count_nonzero(blocks) / blocks.size) * own.size for blocks in shifted if blocks.size
    )
    return GridCounts(own.size - int(np.count_nonzero(own)), float(fewest))


def _free_of_steps(uniform: np.ndarray, value: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return whether squares moved by (`down`, `right`) cells hold no step but along the lines of
    the own grid, which cross them.
    """
    parts, values = _quarters(uniform, down, right), _quarters(value, down, right)
    free = parts[0] & parts[1] & parts[2] & parts[3]
    if not down:
        free &= (values[0] == values[2]) & (values[1] == values[3])
    if not right:
        free &= (values[0] == values[1]) & (values[2] == values[3])
    result: np.ndarray = free
    return result


def _quarters(cells: np.ndarray, down: int, right: int) -> list[np.ndarray]:
    """Return the upper left, upper right, lower left and lower right cells of all squares from
    (`down`, `right`) on.
    """
    rows, columns = (cells.shape[0] - down) // 2, (cells.shape[1] - right) // 2
    return [
        cells[down + i : down + 2 * rows : 2, right + j : right + 2 * columns : 2]
        for i in (0, 1)
        for j in (0, 1)
    ]


def uniform_blocks(labels: np.ndarray) -> np.ndarray:
    """Return whether each block of a mask is of one label, bool [height // 8, width // 8]."""
    return pair_up(*uniform_cells(whole_blocks(labels)))[0]


def as_blocks(labels: np.ndarray) -> np.ndarray:
    """Return the blocks of a mask as a view, [height // 8, width // 8, 8, 8]."""
    rows, columns = (size // BLOCK_PX for size in labels.shape)
    cut = labels[: rows * BLOCK_PX, : columns * BLOCK_PX]
    return cut.reshape(rows, BLOCK_PX, columns, BLOCK_PX).swapaxes(1, 2)


def mixed_places(
    labels: np.ndarray, max_blocks: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of blocks of more than one label, in raster order; at most
    `max_blocks`, evenly spread.
    """
    row, column = np.nonzero(~uniform_blocks(labels))
    if max_blocks is not None and len(row) > max_blocks:
        chosen = np.linspace(0, len(row) - 1, max_blocks).astype(np.intp)
        row, column = row[chosen], column[chosen]
    return row, column


def mixed_blocks(labels: np.ndarray, max_blocks: int | None = None) -> np.ndarray:
    """Return the blocks at `mixed_places`, [blocks, 8, 8]."""
    result: np.ndarray = as_blocks(labels)[mixed_places(labels, max_blocks)]
    return result
