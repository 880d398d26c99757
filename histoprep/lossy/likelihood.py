"""How likely some labels are to be what JPEG was given, block by block. Pure."""

from __future__ import annotations

import numpy as np

from histoprep.imageio import through_jpeg
from histoprep.lossy.blocks import BLOCK_PX

# What a differing neighbour costs in squared steps of the block's full range.
_STEP_COST = 0.1


def cost_of(blocks: np.ndarray, seen: np.ndarray, quality: int) -> np.ndarray:
    """Return how unlikely each block is, [blocks]: what JPEG makes of it against what was seen, and
    the length of its boundaries.
    """
    return np.asarray(
        misfit_of(blocks, seen, quality) / unit_of(seen) + _STEP_COST * _steps(blocks)
    )


def misfit_of(blocks: np.ndarray, seen: np.ndarray, quality: int) -> np.ndarray:
    """Return the squared distance between what JPEG makes of each block and what was seen,
    [blocks].
    """
    result: np.ndarray = ((remade(blocks, quality).astype(np.float32) - seen) ** 2).sum(axis=(1, 2))
    return result


def remade(blocks: np.ndarray, quality: int) -> np.ndarray:
    """Return what a grey JPEG of `quality` makes of blocks of 8-bit values, uint8 [blocks, 8, 8]:
    they are independent, so all go as one strip.
    """
    strip = np.ascontiguousarray(blocks.swapaxes(0, 1).reshape(BLOCK_PX, -1), np.uint8)
    return through_jpeg(strip, quality).reshape(BLOCK_PX, -1, BLOCK_PX).swapaxes(0, 1)


def _steps(blocks: np.ndarray) -> np.ndarray:
    """Return the differing neighbours inside each block, [blocks]."""
    across = np.count_nonzero(blocks[:, :, 1:] != blocks[:, :, :-1], axis=(1, 2))
    result: np.ndarray = across + np.count_nonzero(blocks[:, 1:] != blocks[:, :-1], axis=(1, 2))
    return result


def unit_of(seen: np.ndarray) -> np.ndarray:
    """Return the squared distance that one pixel adds which is off by the full range of its block,
    float32 [blocks].
    """
    result: np.ndarray = (
        np.maximum(seen.max(axis=(1, 2)).astype(np.float32) - seen.min(axis=(1, 2)), 1) ** 2
    )
    return result
