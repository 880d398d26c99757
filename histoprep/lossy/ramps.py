"""Repair of one interpolated mask: pixels on a ramp between two labels take the nearer of them.
Pure.

Only 5x5 cores are trusted. A pixel between a smaller and a larger label, or beyond a label by
little (bicubic overshoot), takes the trusted label nearby that is nearest in value, so that the
boundary lies in the middle of the ramp. So do the tops of ramps that did not reach their end: the
last pixels of labels that have no core and hardly a pixel left, and all pixels of labels between
two others that no mask of the source holds a region of. Everything else stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from histoprep import rule_ids
from histoprep.errors import BrokenFileError
from histoprep.lossy.jpeg_repair import Repaired

_CORE = np.ones((5, 5), np.uint8)
# A ramp of 4 px, as from fourfold enlargement, ends at most this far from where a core begins.
_REACH = np.ones((13, 13), np.uint8)
# Bicubic interpolation overshoots by about a tenth of a step.
_OVERSHOOT = 0.2
_TURNS = 3
# Of a label without a core, fewer pixels than this are no structure.
_MIN_PX = 16


def repair_ramps(labels: np.ndarray, source_labels: Sequence[int] = ()) -> Repaired:
    """Return the mask as it may have been before interpolation.

    Args:
        labels: uint8 or uint16 [height, width].
        source_labels: Labels that masks of the same source surely hold; none where that is not
            known.

    Raises:
        BrokenFileError: No label has a 5x5 core.
    """
    low, high = cv2.erode(labels, _CORE), cv2.dilate(labels, _CORE)
    core = low == high
    ids = np.unique(labels[core])
    if not len(ids):
        raise BrokenFileError(
            rule_ids.INTERPOLATED_MASK.verdict("nothing-trusted"),
            "no 5x5 core holds one label only",
        )
    allowed = {
        int(label): cv2.dilate((core & (labels == label)).view(np.uint8), _REACH).view(bool)
        for label in ids
    }
    doubtful = _doubtful(labels, low, high, allowed)
    repaired = _nearest(labels, doubtful, allowed)
    for _ in range(_TURNS):
        stranded = _stranded(repaired, doubtful, core, ids)
        if not stranded.any():
            break
        for label in ids:
            allowed[int(label)] &= ~(stranded & (repaired == label))
        repaired = _nearest(labels, doubtful, allowed)
    repaired = _nearest(repaired, _remnants(repaired, ids), allowed)
    if source_labels:
        everywhere = {int(label): np.ones(labels.shape, bool) for label in ids}
        for places in (allowed, everywhere):
            repaired = _nearest(repaired, _made(repaired, ids, source_labels), places)
    changed = repaired != labels
    between = doubtful & (labels > low) & (labels < high)
    # A ramp has two ends.
    choices = np.sum([where[between] for where in allowed.values()], axis=0)
    confidence = np.count_nonzero(choices >= 2) / between.sum() if between.any() else 1.0
    return Repaired(repaired, int(np.count_nonzero(changed)), float(confidence))


def _doubtful(
    labels: np.ndarray, low: np.ndarray, high: np.ndarray, allowed: dict[int, np.ndarray]
) -> np.ndarray:
    """Return which pixels stand on a ramp: between two labels, or beyond the nearest trusted one by
    little.
    """
    between = (labels > low) & (labels < high)
    beyond = ~between & (low != high) & ~np.isin(labels, list(allowed))
    if beyond.any():
        # The last ripple lies beside the ramp and does not see its far end within 5x5.
        span = (cv2.dilate(high, _CORE) - cv2.erode(low, _CORE))[beyond].astype(np.float32)
        values = labels[beyond].astype(np.float32)
        gaps = [
            np.where(where[beyond], np.abs(values - label), np.inf)
            for label, where in allowed.items()
        ]
        beyond[beyond] = np.min(gaps, axis=0) <= _OVERSHOOT * span
    result: np.ndarray = between | beyond
    return result


def _nearest(
    labels: np.ndarray, doubtful: np.ndarray, allowed: dict[int, np.ndarray]
) -> np.ndarray:
    """Return the mask with every doubtful pixel replaced by the allowed label nearest in value; as
    it was where none is.
    """
    values = labels[doubtful].astype(np.float32)
    least, chosen = np.full(len(values), np.inf, np.float32), labels[doubtful]
    for label, where in allowed.items():
        distance = np.where(where[doubtful], np.abs(values - label), np.inf)
        closer = distance < least
        least[closer], chosen[closer] = distance[closer], label
    repaired = labels.copy()
    repaired[doubtful] = chosen
    return repaired


def _remnants(repaired: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the pixels of labels that are not among the trusted ones and have next to none
    left.
    """
    values, counts = np.unique(repaired, return_counts=True)
    return np.isin(repaired, np.setdiff1d(values[counts < _MIN_PX], ids))


def _made(repaired: np.ndarray, ids: np.ndarray, source_labels: Sequence[int]) -> np.ndarray:
    """Return the pixels of labels that nobody drew: no mask of the source holds a region of them,
    and their values lie between two labels that one holds.
    """
    held = np.union1d(ids, np.asarray(source_labels, ids.dtype))
    between = (repaired > held[0]) & (repaired < held[-1])
    result: np.ndarray = between & ~np.isin(repaired, held)
    return result


def _stranded(
    repaired: np.ndarray, doubtful: np.ndarray, core: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """Return the doubtful pixels whose region holds no core: a rim of a label that is at home
    elsewhere.
    """
    stranded = np.zeros(repaired.shape, bool)
    for label in ids:
        number, region = cv2.connectedComponents((repaired == label).view(np.uint8), connectivity=8)
        if number > 2:
            at_home = np.zeros(number, bool)
            at_home[region[core]] = True
            stranded |= ~at_home[region]
    result: np.ndarray = stranded & doubtful
    return result
