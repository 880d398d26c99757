"""The exponential moving average of a module's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage:
    """A copy of a module whose weights follow it; `module` is in eval mode and needs no gradients.

    Every `every` steps, w_ema <- d w_ema + (1 - d) w with d = min(decay, (1 + n) / (10 + n)) at the
    n-th update (n = 1, 2, ...): a short run is not dominated by the initial weights. Buffers
    (running statistics) and whole numbers are copied.
    """

    def __init__(self, module: nn.Module, decay: float, every: int) -> None:
        self.decay, self.every = decay, every
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        pairs = list(zip(self.module.parameters(), module.parameters(), strict=True))
        self._followers = [mine.data for mine, _ in pairs]
        self._leaders = [theirs for _, theirs in pairs]
        self._buffers = list(zip(self.module.buffers(), module.buffers(), strict=True))

    def decay_at(self, update: int) -> float:
        """Return the decay of the `update`-th update, counted from 1."""
        return min(self.decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the module after `step` optimiser steps (1, 2, ...); a pure function of the step
        and the weights.
        """
        if step % self.every:
            return
        torch._foreach_lerp_(
            self._followers,
            [leader.data for leader in self._leaders],
            1.0 - self.decay_at(step // self.every),
        )
        for mine, theirs in self._buffers:
            mine.copy_(theirs)
