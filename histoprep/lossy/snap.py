"""Repair of one mask that went through JPEG: snap to local candidates. Pure; for interpolated masks see `ramps.py`.

From quality 75 on a block of one label comes out of JPEG as it went in, so such blocks and 5x5 cores are
trusted, and only blocks of more than one label are repaired. A pixel takes the candidate nearest in value, with the cost
smoothed; candidates are the trusted labels of the block and of its neighbours. Where that cannot be what JPEG was given, because its
re-encoding is too far from what is there, all trusted labels of the mask compete without smoothing, which keeps thin structures.
From there `search.py` looks for the most likely labels among those that JPEG turns into what is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from histoprep.errors import BrokenFileError
from histoprep.imageio import through_jpeg
from histoprep.lossy.blocks import BLOCK_PX, as_blocks, uniform_blocks
from histoprep.lossy.search import MAX_BLOCKS, search_blocks

# Below this quality, labels of whole regions may have moved to a neighbouring id.
MIN_QUALITY = 75
# From this quality on a 5x5 core is never false, even of a label that has no whole block.
_CORES_HOLD = 90
_CORE = np.ones((5, 5), np.uint8)
_AROUND = np.ones((3, 3), np.uint8)
_SIGMA_PX = 0.8
# What a differing neighbour, and the wider choice of labels, cost in squared steps of the block's full range.
_STEP_COST, _WIDE_COST = 0.1, 1.0


@dataclass(frozen=True, slots=True)
class Repaired:
    """A repaired mask, of the type and size of the damaged one.

    `confidence` is the share of repaired blocks that JPEG turns into what was there, to within the weight of one pixel (other
    encoders round differently); for an interpolated mask the share of its gradual pixels between two trusted
    labels. It supports the repair and does not prove it.
    """

    labels: np.ndarray
    changed: int
    confidence: float


def repair_jpeg(labels: np.ndarray, quality: int) -> Repaired:
    """Return the mask, uint8 or uint16 [height, width], as it may have been before a grey JPEG of `quality`.

    Raises BrokenFileError for a quality below 75, for values above 255, and when no label can be trusted.
    """
    if quality < MIN_QUALITY:
        raise BrokenFileError("HP403 below-75", f"JPEG quality {quality}: below {MIN_QUALITY} whole regions may have moved to another label")
    if labels.max() > 255:
        raise BrokenFileError("HP403 no-jpeg", "values above 255 did not come out of an 8-bit JPEG")
    height, width = labels.shape
    padded = np.pad(labels, ((0, -height % BLOCK_PX), (0, -width % BLOCK_PX)), mode="edge").astype(np.uint8)
    uniform = uniform_blocks(padded)
    if quality < _CORES_HOLD:
        uniform &= ~_sunk(as_blocks(padded)[..., 0, 0], uniform)
    row, column = np.nonzero(~uniform)
    if not len(row):
        return Repaired(labels, 0, 1.0)
    ids, near = _candidates(padded, uniform, quality)
    if not len(ids):
        raise BrokenFileError("HP403 nothing-trusted", "no block and no 5x5 core holds one label only")
    seen = as_blocks(padded)[row, column]
    mended = _best(seen, ids, near[:, row, column], quality)
    as_blocks(padded)[row, column] = mended
    if len(row) <= MAX_BLOCKS:
        found = search_blocks(padded, seen, (row, column), _choices(mended, ids, near[:, row, column]), quality)
        # Of labels one step apart JPEG keeps too little to search by; so it has the last word.
        better = _cost(found, seen, quality) <= _cost(mended, seen, quality)
        mended[better] = found[better]
        as_blocks(padded)[row, column] = mended
    fits = _misfit(mended, seen, quality) <= _unit(seen)
    result = padded[:height, :width].astype(labels.dtype)
    return Repaired(result, int(np.count_nonzero(result != labels)), float(fits.mean()))


def _sunk(value: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Return the blocks of one label that may be false: a sliver of another label moved their mean by one and left nothing else.

    Such a block stands alone with its label, next to a block that is one off; `value` is the label of each block of one label.
    """
    labels = np.where(uniform, value.astype(np.int16), -9)
    beside = np.pad(labels, 1, constant_values=-9)
    around = [beside[1 + i : 1 + i + len(labels), 1 + j : 1 + j + labels.shape[1]] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    paired = np.unique(labels[uniform & np.any([one == labels for one in around], axis=0)])
    return uniform & ~np.isin(labels, paired) & np.any([np.abs(one - labels) == 1 for one in around], axis=0)


def _candidates(labels: np.ndarray, uniform: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the trusted labels [labels], and for each where it is a candidate: bool [labels, block rows, block columns]."""
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
        grown = np.stack([cv2.dilate(one, _AROUND) for one in near])
        near[:, without] = grown[:, without]
        without = ~near.any(axis=0)
    return ids, near.astype(bool)


def _choices(mended: np.ndarray, ids: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Return the labels that each block may have, those nearby and those it was given, int16 [blocks, choices], filled up with -1."""
    given = np.stack([(mended == label).any(axis=(1, 2)) for label in ids])
    allowed = (near | given).T
    most = int(allowed.sum(axis=1).max())
    first = np.argsort(~allowed, axis=1, kind="stable")[:, :most]
    return np.where(np.take_along_axis(allowed, first, axis=1), ids[first].astype(np.int16), np.int16(-1))


def _unit(seen: np.ndarray) -> np.ndarray:
    """Return the squared distance that one pixel adds which is off by the full range of its block, float32 [blocks]."""
    return np.maximum(seen.max(axis=(1, 2)).astype(np.float32) - seen.min(axis=(1, 2)), 1) ** 2


def _best(seen: np.ndarray, ids: np.ndarray, near: np.ndarray, quality: int) -> np.ndarray:
    """Return the blocks snapped to candidates, uint8 [blocks, 8, 8]; `near` is [labels, blocks]."""
    low, high = seen.min(axis=(1, 2)).astype(np.int32), seen.max(axis=(1, 2)).astype(np.int32)
    wide = near | ((ids[:, None] >= low - 1) & (ids[:, None] <= high + 1))
    best = _snapped(seen, ids, near, _smoothing(_SIGMA_PX))
    fallback = _snapped(seen, ids, wide, None)
    better = _cost(fallback, seen, quality) + _WIDE_COST < _cost(best, seen, quality)
    best[better] = fallback[better]
    return best


def _snapped(seen: np.ndarray, ids: np.ndarray, allowed: np.ndarray, smoothing: np.ndarray | None) -> np.ndarray:
    """Return, for each pixel, the allowed label nearest in value after smoothing the distance; [blocks, 8, 8] uint8."""
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
    """Return the Gaussian smoothing of eight values as a matrix whose rows add up to one; nothing comes from outside of the block."""
    place = np.arange(BLOCK_PX)
    weight = np.exp(-((place[:, None] - place) ** 2) / (2 * sigma_px**2))
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def _cost(blocks: np.ndarray, seen: np.ndarray, quality: int) -> np.ndarray:
    """Return how unlikely each block is, [blocks]: what JPEG makes of it against what was seen, and the length of its boundaries."""
    return np.asarray(_misfit(blocks, seen, quality) / _unit(seen) + _STEP_COST * _steps(blocks))


def _misfit(blocks: np.ndarray, seen: np.ndarray, quality: int) -> np.ndarray:
    """Return the squared distance between what JPEG makes of each block and what was seen, [blocks]."""
    strip = np.ascontiguousarray(blocks.swapaxes(0, 1).reshape(BLOCK_PX, -1))
    made = through_jpeg(strip, quality).reshape(BLOCK_PX, -1, BLOCK_PX).swapaxes(0, 1)
    return ((made.astype(np.float32) - seen) ** 2).sum(axis=(1, 2))


def _steps(blocks: np.ndarray) -> np.ndarray:
    """Return the differing neighbours inside each block, [blocks]."""
    across = np.count_nonzero(blocks[:, :, 1:] != blocks[:, :, :-1], axis=(1, 2))
    return across + np.count_nonzero(blocks[:, 1:] != blocks[:, :-1], axis=(1, 2))
