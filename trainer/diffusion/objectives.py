"""What a denoiser is trained to predict: noise, velocity or flow; how its error is measured and
weighted.

All of them are one image: noisy = signal * clean + sigma * noise, with (signal, sigma) a function
of the timestep.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Float, Float32, Num
from torch import Tensor

from trainer.choices import LossKind, PredictionType
from trainer.diffusion.schedule import NoiseSchedule

_SMALLEST_SHARE = 2.0**-25


@dataclass(frozen=True)
class Objective:
    """An objective and its loss; every method is a pure function of its arguments.

    Timesteps are int64 0 .. num_train_timesteps - 1 for epsilon and v. For flow they are times in
    [0, 1], 0 clean and 1 all noise, and `schedule` gives their number only. `min_snr_gamma` is null
    for a plain mean. Flow times are drawn logit-normal with `flow_mean`, `flow_std`, and shifted by
    `flow_shift`, in training as in sampling: above 1 towards noise, as larger images need.

    mean_flow is flow whose network predicts the average velocity over an interval of times; see
    `trainer.diffusion.mean_flow`. `interval_share` of the samples have an interval of some length,
    and guidance goes up to `max_guidance`.
    """

    prediction_type: PredictionType = "epsilon"
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    loss: LossKind = "l2"
    min_snr_gamma: float | None = None
    flow_mean: float = 0.0
    flow_std: float = 1.0
    flow_shift: float = 1.0
    interval_share: float = 0.5
    max_guidance: float = 4.0

    def __post_init__(self) -> None:
        """Raise ValueError for an objective that does not exist."""
        if self.prediction_type not in get_args(PredictionType):
            expected = ", ".join(get_args(PredictionType))
            raise ValueError(f"prediction_type is {self.prediction_type!r}; {expected} expected")
        if self.loss not in ("l1", "l2"):
            raise ValueError(f"loss is {self.loss!r}; l1 or l2 expected")
        if self.flow_shift <= 0 or (self.flow_shift != 1 and not self.is_flow):
            raise ValueError(
                f"flow_shift is {self.flow_shift}; above 0 expected, and 1 unless with flow"
            )
        if self.min_snr_gamma is not None and (self.min_snr_gamma <= 0 or self.is_flow):
            raise ValueError(
                f"min_snr_gamma is {self.min_snr_gamma}; a number above 0 expected, with epsilon or"
                " v only"
            )

    @property
    def is_flow(self) -> bool:
        """Return whether timesteps are times of a flow, in [0, 1]."""
        return self.prediction_type in ("flow", "mean_flow")

    def timesteps_from_uniform(self, u: Float[Tensor, " batch"]) -> Num[Tensor, " batch"]:
        """Return timesteps [batch] for numbers `u` [batch] that are uniform in [0, 1).

        epsilon and v: int64, each timestep equally likely. flow: float32, sigmoid(mean + std *
        quantile of the normal distribution at u), shifted; source: Esser et al. 2024, arXiv
        2403.03206, equation 19.
        """
        if not self.is_flow:
            last = self.schedule.num_train_timesteps - 1
            return (u.double() * self.schedule.num_train_timesteps).long().clamp(0, last)
        quantiles = torch.special.ndtri(u.double().clamp(_SMALLEST_SHARE, 1 - _SMALLEST_SHARE))
        times = torch.sigmoid(self.flow_mean + self.flow_std * quantiles)
        return self.shifted(times).float()

    def shifted(self, times: Float[Tensor, " *sizes"]) -> Float[Tensor, " *sizes"]:
        """Return flow times in [0, 1], any shape, shifted by s = `flow_shift`: s t / (1 + (s - 1)
        t).

        signal / sigma is divided by s at every time. Source: Esser et al. 2024, arXiv 2403.03206,
        equation 23.
        """
        return self.flow_shift * times / (1 + (self.flow_shift - 1) * times)

    def model_time(self, t: Num[Tensor, " batch"]) -> Num[Tensor, " batch"]:
        """Return the time input of the network at timesteps `t`: they themselves, or flow times on
        the same scale, 0 to num_train_timesteps.
        """
        return t * self.schedule.num_train_timesteps if self.is_flow else t

    def signal_and_sigma(
        self, t: Num[Tensor, " batch"]
    ) -> tuple[Float32[Tensor, "batch 1 1 1"], Float32[Tensor, "batch 1 1 1"]]:
        """Return how much signal and noise there is at timesteps `t` [batch], as float32 [batch, 1,
        1, 1] each.
        """
        if self.is_flow:
            time = t.float().view(-1, 1, 1, 1)
            return 1 - time, time
        alpha_bar = self.schedule.alpha_bars(t.device)[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def noised(
        self,
        clean: Float[Tensor, "batch channels height width"],
        noise: Float[Tensor, "batch channels height width"],
        t: Num[Tensor, " batch"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return latents [batch, channels, height, width] at timesteps `t` [batch]: signal * clean
        + sigma * noise.
        """
        signal, sigma = self.signal_and_sigma(t)
        return signal * clean + sigma * noise

    def training_target(
        self,
        clean: Float[Tensor, "batch channels height width"],
        noise: Float[Tensor, "batch channels height width"],
        t: Num[Tensor, " batch"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return what the network should predict, [batch, channels, height, width].

        epsilon: noise (Ho et al. 2020). v: signal * noise - sigma * clean (Salimans and Ho 2022,
        arXiv 2202.00512, section 4). flow: noise - clean (Liu et al. 2022, arXiv 2209.03003).
        """
        if self.prediction_type == "epsilon":
            return noise
        if self.is_flow:
            return noise - clean
        signal, sigma = self.signal_and_sigma(t)
        return signal * noise - sigma * clean

    def clean_from(
        self,
        output: Float[Tensor, "batch channels height width"],
        noisy: Float[Tensor, "batch channels height width"],
        t: Num[Tensor, " batch"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the clean latents that a network's output for `noisy` amounts to; nothing is
        clipped.
        """
        signal, sigma = self.signal_and_sigma(t)
        if self.prediction_type == "epsilon":
            return (noisy - sigma * output) / signal
        return noisy - sigma * output if self.is_flow else signal * noisy - sigma * output

    def loss_weight(self, t: Num[Tensor, " batch"]) -> Float32[Tensor, " batch"]:
        """Return the weight of each sample's loss, float32 [batch]: ones, or min-SNR.

        epsilon: min(snr, gamma) / snr; v: min(snr, gamma) / (snr + 1), with snr = (signal /
        sigma)^2. Both weigh the error of the clean latents by min(snr, gamma). Source: Hang et al.
        2023, arXiv 2303.09556, section 3.4.
        """
        if self.min_snr_gamma is None:
            return torch.ones(t.shape, dtype=torch.float32, device=t.device)
        signal, sigma = self.signal_and_sigma(t)
        snr = (signal / sigma).square().flatten()
        return snr.clamp(max=self.min_snr_gamma) / (
            snr if self.prediction_type == "epsilon" else snr + 1
        )

    def per_sample_loss(
        self,
        output: Float[Tensor, "batch channels height width"],
        target: Float[Tensor, "batch channels height width"],
        t: Num[Tensor, " batch"],
    ) -> Float32[Tensor, " batch"]:
        """Return the weighted mean error of each sample, float32 [batch], computed in float32
        whatever the network's precision.
        """
        error = output.float() - target.float()
        each = error.abs() if self.loss == "l1" else error.square()
        return each.flatten(1).mean(1) * self.loss_weight(t)
