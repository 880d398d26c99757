"""Noise schedules: how much signal is left at a timestep. The tables come from diffusers'
schedulers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from trainer.choices import ScheduleKind

# Our names -> the arguments of diffusers' schedulers.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
}


@dataclass(frozen=True)
class NoiseSchedule:
    """A variance-preserving schedule: x_t = sqrt(alpha_bar) * clean + sqrt(1 - alpha_bar) * noise
    at whole timesteps 0 .. num_train_timesteps - 1.

    cosine: Nichol and Dhariwal 2021, arXiv 2102.09672. linear, betas 1e-4 to 0.02: Ho et al. 2020,
    arXiv 2006.11239.
    """

    kind: ScheduleKind = "cosine"
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        """Raise ValueError for a schedule that does not exist."""
        if self.kind not in _ARGUMENTS or self.num_train_timesteps < 1:
            raise ValueError(
                f"schedule {self.kind!r} with {self.num_train_timesteps} timesteps; one of"
                f" {', '.join(_ARGUMENTS)} with 1 or more expected"
            )

    @property
    def scheduler_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments that make a scheduler of diffusers follow this schedule."""
        return {"num_train_timesteps": self.num_train_timesteps, **_ARGUMENTS[self.kind]}

    def alpha_bars(self, device: torch.device | str = "cpu") -> Float32[Tensor, " timesteps"]:
        """Return the cumulative signal power at every timestep: float32 [num_train_timesteps],
        falling, in (0, 1).
        """
        return _alpha_bars(self, torch.device(device))


@functools.lru_cache(maxsize=64)
def _alpha_bars(schedule: NoiseSchedule, device: torch.device) -> Tensor:
    # One copy a device: a copy at every step would make the host wait for it.
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    result: Tensor = DDIMScheduler(**schedule.scheduler_arguments).alphas_cumprod.to(device)
    return result
