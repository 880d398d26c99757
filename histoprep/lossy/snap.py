"""A first guess at what a mask was before JPEG: each pixel takes the likeliest label by value.
Pure.

From quality 75 on a block of one label comes out of JPEG as it went in, so such blocks and 5x5
cores are trusted. A pixel takes the candidate nearest in value, with the cost smoothed; candidates
are the trusted labels of the block and of its neighbours. Where that cannot be what JPEG was given,
because its re-encoding is too far from what is there, all trusted labels of the mask compete
without smoothing, which keeps thin structures.
"""

from __future__ import annotations

import cv2
import numpy as np

from histoprep.lossy.blocks import BLOCK_PX, as_blocks, uniform_blocks
from histoprep.lossy.likelihood import cost_of

# From this quality on a 5x5 core is never false, even of a label that has no whole block.
_CORES_HOLD = 90
_CORE = np.ones((5, 5), np.uint8)
_AROUND = np.ones((3, 3), np.uint8)
_SIGMA_PX = 0.8
# What the wider choice of labels costs in squared steps of the block's full range.
_WIDE_COST = 1.0


def trusted_blocks(labels: np.ndarray, quality: int) -> np.ndarray:
    """Return which blocks are of one label that they had before JPEG, too: bool [block rows, block
    columns].
    """
    uniform = uniform_blocks(labels)
    return (
        uniform
        if quality >= _CORES_HOLD
        else uniform & ~_sunk(as_blocks(labels)[..., 0, 0], uniform)
    )


def _sunk(value: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Return the blocks of one label that may be false: a sliver of another label moved their mean
    by one and left nothing else.

    Such a block stands alone with its label, next to a block that is one off; `value` is the label
    of each block of one label.
    """
    labels = np.where(uniform, value.astype(np.int16), -9)
    beside = np.pad(labels, 1, constant_values=-9)
    around = [
        beside[1 + i : 1 + i + len(labels), 1 + j : 1 + j + labels.shape[1]]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if i or j
    ]
    paired = np.unique(
        labels[uniform & np.any([neighbour == labels for neighbour in around], axis=0)]
    )
    result: np.ndarray = (
        uniform
        & ~np.isin(labels, paired)
        & np.any([np.abs(neighbour - labels) == 1 for neighbour in around], axis=0)
    )
    return result


def trusted_labels(
    labels: np.ndarray, uniform: np.ndarray, quality: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the trusted labels [labels], and for each where it is a candidate: bool [labels, block
    rows, block columns].
    """
    blocks = as_blocks(labels)
    value = blocks[..., 0, 0]
    core = cv2.erode(labels, _CORE) == cv2.dilate(labels, _CORE)
    ids = np.unique(value[uniform])
    if quality >= _CORES_HOLD or not len(ids):
        ids = np.union1d(ids, np.unique(labels[core]))
    near = np.zeros((len(ids), *uniform.shape), np.uint8)
    for index, label in enumerate(ids):
        here = (uniform & (value == label)) | as_blocks(core & (labels == label)).any(axis=(2, 3))
        near[index] = cv2.dilate(here.astype(np.uint8), _AROUND)
    without = ~near.any(axis=0)
    while without.any() and near.any():
        grown = np.stack([cv2.dilate(area, _AROUND) for area in near])
        near[:, without] = grown[:, without]
        without = ~near.any(axis=0)
    return ids, near.astype(bool)


def snap_blocks(seen: np.ndarray, ids: np.ndarray, near: np.ndarray, quality: int) -> np.ndarray:
    """Return the blocks snapped to candidates, uint8 [blocks, 8, 8]; `near` is [labels, blocks]."""
    low, high = seen.min(axis=(1, 2)).astype(np.int32), seen.max(axis=(1, 2)).astype(np.int32)
    wide = near | ((ids[:, None] >= low - 1) & (ids[:, None] <= high + 1))
    best = _snapped(seen, ids, near, _smoothing(_SIGMA_PX))
    fallback = _snapped(seen, ids, wide, None)
    better = cost_of(fallback, seen, quality) + _WIDE_COST < cost_of(best, seen, quality)
    best[better] = fallback[better]
    return best


def _snapped(
    seen: np.ndarray, ids: np.ndarray, allowed: np.ndarray, smoothing: np.ndarray | None
) -> np.ndarray:
    """Return, for each pixel, the allowed label nearest in value after smoothing the distance;
    [blocks, 8, 8] uint8.
    """
    values, least = seen.astype(np.float32), np.full(seen.shape, np.inf, np.float32)
    chosen = np.zeros(seen.shape, np.uint8)
    for label, where in zip(ids, allowed, strict=True):
        distance = np.abs(values[where] - np.float32(label))
        if smoothing is not None:
            distance = smoothing @ distance @ smoothing.T
        closer = distance < least[where]
        least[where] = np.where(closer, distance, least[where])
        chosen[where] = np.where(closer, np.uint8(label), chosen[where])
    return chosen


def _smoothing(sigma_px: float) -> np.ndarray:
    """Return the Gaussian smoothing of eight values as a matrix whose rows add up to one; nothing
    comes from outside of the block.
    """
    place = np.arange(BLOCK_PX)
    weight = np.exp(-((place[:, None] - place) ** 2) / (2 * sigma_px**2))
    result: np.ndarray = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    return result
