"""The learning rate as a pure function of the step: nothing to save, nothing to restart wrongly on
resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from trainer.config import Schedule

# The defaults of torch's OneCycleLR, which the reference preset was published with.
_RISE, _START_RATIO, _END_RATIO = 0.3, 1 / 25.0, 1e-4


def lr_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """Return the share of the peak learning rate that step `step` (0, 1, ..., num_steps - 1) of a
    run takes.
    """
    return _KINDS[schedule.kind](schedule, step, num_steps)


def _constant(schedule: Schedule, step: int, num_steps: int) -> float:
    return 1.0


def _warmup_constant(schedule: Schedule, step: int, num_steps: int) -> float:
    return min(1.0, (step + 1) / max(1, schedule.warmup_steps))


def _cosine(schedule: Schedule, step: int, num_steps: int) -> float:
    """Return a linear warm-up, then half a cosine to `final_ratio`, which the step after the last
    would take.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / max(1, num_steps - schedule.warmup_steps)
    return _between(1.0, schedule.final_ratio, min(1.0, progress))


def _one_cycle(schedule: Schedule, step: int, num_steps: int) -> float:
    """Return half a cosine up from 1/25 over the first 30 % of steps, then half a cosine down to
    1/25 of 1e-4.

    Source: Smith and Topin 2017, arXiv 1708.07120, in the form of torch's OneCycleLR with
    `cycle_momentum` off.
    """
    top, last = _RISE * num_steps - 1, num_steps - 1
    if step <= top:
        return _between(_START_RATIO, 1.0, step / top if top > 0 else 1.0)
    return _between(1.0, _START_RATIO * _END_RATIO, (step - top) / (last - top))


def _between(start: float, end: float, progress: float) -> float:
    """Return the point of half a cosine from `start` (progress 0) to `end` (progress 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


_KINDS: dict[str, Callable[[Schedule, int, int], float]] = {
    "constant": _constant,
    "warmup_constant": _warmup_constant,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
}
