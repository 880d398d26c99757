"""Whether a mask is a map of numbers, such as probabilities or distances, rather than of labels:
its values rise and fall over long ways. Arrays in, a verdict out.

Interpolation of labels leaves ramps as well, but no longer ones than the factor by which the mask
was enlarged; what is known of those is in `lossy`.
"""

from __future__ import annotations

import numpy as np

# Masks enlarged eightfold have ramps of 8 steps, of 11 along a diagonal.
_LONG_STEPS = 14
# Flat ramps stay at a value for some pixels.
_MAX_PAUSE_PX = 4
# Labels in thin layers that follow each other make some long ramps, too.
_MIN_SHARE = 0.5


def has_long_ramps(labels: np.ndarray) -> bool:
    """Return whether at least half of the pixels that differ from a neighbour lie on a long ramp.

    A ramp of at least 14 steps, along the row and along the column unless nothing changes there,
    is long. The share of such pixels was at most 0.31 for label masks of every family in
    `benchmarks/lossy_sets.py`, compressed or resized by a factor of up to 4, and at least 0.57 for
    maps of probabilities or distances smoothed by 3 px or more.

    Args:
        labels: Integers [height, width].
    """
    across, down = _Ramps.of(labels), _Ramps.of(labels.T)
    changed = across.changed | down.changed.T
    if not changed.any():
        return False
    is_long = changed & across.allows_long & down.allows_long.T
    return bool(np.count_nonzero(is_long) >= _MIN_SHARE * np.count_nonzero(changed))


class _Ramps:
    """The ramps along the rows: which pixels differ from one beside them, and which of them lie on
    a long ramp or do not change along the row at all; both bool [height, width].
    """

    def __init__(self, changed: np.ndarray, allows_long: np.ndarray) -> None:
        self.changed = changed
        self.allows_long = allows_long

    @classmethod
    def of(cls, labels: np.ndarray) -> _Ramps:
        steps = np.sign(np.diff(labels.astype(np.int64), axis=1)).astype(np.int8)
        steps_of_run = _with_pauses(steps)
        begins = np.ones(steps.shape, bool)
        begins[:, 1:] = steps_of_run[:, 1:] != steps_of_run[:, :-1]
        run = np.cumsum(begins.ravel()) - 1
        length = np.bincount(run, weights=(steps != 0).ravel())[run].reshape(steps.shape)
        is_long = (length >= _LONG_STEPS) & (steps_of_run != 0)
        return cls(_beside(steps != 0), _beside(is_long) | ~_beside(steps != 0))


def _with_pauses(steps: np.ndarray) -> np.ndarray:
    """Return the steps with those before a short pause in its place."""
    filled = steps.copy()
    for pause in range(1, _MAX_PAUSE_PX + 1):
        before = np.zeros_like(steps)
        before[:, pause:] = steps[:, :-pause]
        filled = np.where(filled == 0, before, filled)
    return filled


def _beside(between: np.ndarray) -> np.ndarray:
    """Return which pixels have a step on one side, of the steps between them: bool [height, width]
    of [height, width - 1].
    """
    found = np.zeros((between.shape[0], between.shape[1] + 1), bool)
    found[:, :-1] |= between
    found[:, 1:] |= between
    return found
