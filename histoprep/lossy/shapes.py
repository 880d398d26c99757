"""Shapes of single 8x8 blocks: which boundaries tell something of JPEG, because nobody draws them
at random. Pure.

A straight upright or lying boundary is a fixed point of many qualities, whether somebody drew it or
JPEG made it. Drawn ones go on into the next block; those that JPEG straightened break off where the
block ends.
"""

from __future__ import annotations

import numpy as np

from histoprep.lossy.blocks import BLOCK_PX


def is_upright(blocks: np.ndarray) -> np.ndarray:
    """Return bool [blocks]: which blocks, [blocks, 8, 8], have rows that are all alike."""
    return np.asarray((blocks == blocks[:, :1]).all(axis=(1, 2)))


def is_curved(blocks: np.ndarray) -> np.ndarray:
    """Return bool [blocks]: which blocks have neither rows nor columns that are all alike."""
    result: np.ndarray = ~is_upright(blocks) & ~is_upright(blocks.swapaxes(1, 2))
    return result


def is_broken(
    labels: np.ndarray, blocks: np.ndarray, place: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return bool [blocks]: which blocks at `place` (rows, columns) of a mask hold a straight
    boundary that does not go on beyond the block.
    """
    row, column = place
    upright = is_upright(blocks) & _breaks(labels, blocks, row, column)
    turned = blocks.swapaxes(1, 2)
    return np.asarray(upright | (is_upright(turned) & _breaks(labels.T, turned, column, row)))


def _breaks(
    labels: np.ndarray, blocks: np.ndarray, row: np.ndarray, column: np.ndarray
) -> np.ndarray:
    """Return which blocks differ from the row above them in their first row, or from the row below
    in their last one; never at the mask's edge.
    """
    across = column[:, None] * BLOCK_PX + np.arange(BLOCK_PX)
    above, below = row * BLOCK_PX - 1, (row + 1) * BLOCK_PX
    first = (labels[np.maximum(above, 0)[:, None], across] != blocks[:, 0]).any(axis=1)
    last = (labels[np.minimum(below, len(labels) - 1)[:, None], across] != blocks[:, -1]).any(
        axis=1
    )
    return np.asarray((first & (above >= 0)) | (last & (below < len(labels))))
