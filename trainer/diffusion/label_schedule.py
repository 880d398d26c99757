"""Noise levels of labels and the deterministic way back (DDIM)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Float32
from torch import Tensor

_REFERENCE_TIMESTEPS = 1000
_BETA_START, _BETA_END = 1e-4, 0.02


def alpha_bars(
    num_train_timesteps: int = _REFERENCE_TIMESTEPS,
) -> Float32[Tensor, " {num_train_timesteps}"]:
    """Return the cumulative signal power float32 [T] of linear betas 1e-4 to 0.02; fewer steps have
    betas larger by 1000 / T, to end as noisy.

    Source: Ho et al. 2020, arXiv 2006.11239, section 4.
    """
    scale = _REFERENCE_TIMESTEPS / num_train_timesteps
    betas = torch.linspace(
        _BETA_START * scale, _BETA_END * scale, num_train_timesteps, dtype=torch.float32
    )
    return torch.cumprod(1.0 - betas, dim=0)


def add_noise(
    clean: Float[Tensor, " *shape"], noise: Float[Tensor, " *shape"], alpha_bar: Tensor
) -> Float[Tensor, " *shape"]:
    """Return sqrt(alpha_bar) * clean + sqrt(1 - alpha_bar) * noise; `alpha_bar` broadcasts, so
    every point may have its own level.
    """
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def inference_timesteps(num_train_timesteps: int, num_inference_steps: int) -> list[int]:
    """Return the timesteps of a sampler of S steps, falling: k * (T // S) for k = S - 1 .. 0
    ("leading" spacing).
    """
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise ValueError(
            f"{num_inference_steps} inference steps of {num_train_timesteps} timesteps"
        )
    stride = num_train_timesteps // num_inference_steps
    return [number * stride for number in reversed(range(num_inference_steps))]


def ddim_step(
    noisy: Float[Tensor, " *shape"],
    predicted: Float[Tensor, " *shape"],
    alpha_bar: Tensor,
    alpha_bar_before: Tensor,
    *,
    prediction_type: str,
    clip: bool,
) -> tuple[Float[Tensor, " *shape"], Float[Tensor, " *shape"]]:
    """Return labels one step cleaner, without fresh noise (eta 0), and the estimate of the clean
    labels.

    Source: Song et al. 2020, arXiv 2010.02502, equation 12.

    Args:
        noisy: Labels at the current level, of any shape.
        predicted: Output of the network for them.
        alpha_bar: Signal power now; broadcasts.
        alpha_bar_before: Signal power after the step; broadcasts.
        prediction_type: epsilon or sample: what the network predicts.
        clip: Hold the estimate to [-1, 1]; predicted noise is used as it is, not derived anew from
            the clipped estimate.
    """
    signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    clean = predicted if prediction_type == "sample" else (noisy - spread * predicted) / signal
    clean = clean.clamp(-1, 1) if clip else clean
    noise = (noisy - signal * clean) / spread if prediction_type == "sample" else predicted
    return alpha_bar_before.sqrt() * clean + (1 - alpha_bar_before).sqrt() * noise, clean


def denoise_labels(
    predict: Callable[[Tensor, int], Tensor],
    start: Tensor,
    levels: Float[Tensor, " timesteps"],
    num_inference_steps: int,
    *,
    prediction_type: str = "epsilon",
    clip: bool = True,
) -> Iterator[Tensor]:
    """Yield the labels after each step, the last ones clean.

    Args:
        predict: The network: (noisy labels, timestep) -> prediction.
        start: Labels to start from; the first of T - T // S timesteps is taken from them as it is.
        levels: The `alpha_bars` [T].
        num_inference_steps: Number of steps S.
        prediction_type: epsilon or sample.
        clip: See `ddim_step`.
    """
    levels = levels.to(start.device)
    timesteps = inference_timesteps(len(levels), num_inference_steps)
    stride = len(levels) // num_inference_steps
    noisy = start
    for timestep in timesteps:
        before = levels[timestep - stride] if timestep >= stride else torch.ones_like(levels[0])
        noisy, _ = ddim_step(
            noisy,
            predict(noisy, timestep),
            levels[timestep],
            before,
            prediction_type=prediction_type,
            clip=clip,
        )
        yield noisy
