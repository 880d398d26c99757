"""How much neighbouring latents say the same, and the flow shift that this asks for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from trainer.data.latents import LatentSet

_MOST_CROPS = 256
_MOST_CORRELATION = 0.95


class FlowShift(NamedTuple):
    """`correlation` of neighbouring latents, and the `shift` of flow times that fits."""

    correlation: float
    shift: float


def measure_correlation(latents: Float32[Tensor, "crops channels height width"]) -> float:
    """Return the correlation of neighbours in a row or column, mean over channels and both
    directions; each channel is centred over all crops.
    """
    centred = latents - latents.mean((0, 2, 3), keepdim=True)
    power = centred.square().mean((0, 2, 3)).clamp(min=1e-12)
    pairs = (
        (centred[..., 1:, :], centred[..., :-1, :]),
        (centred[..., 1:], centred[..., :-1]),
    )
    found = [((first * second).mean((0, 2, 3)) / power).mean() for first, second in pairs]
    return float(torch.stack(found).mean())


def fit_flow_shift(correlation: float) -> float:
    """Return the shift of flow times for latents of unit variance whose neighbours have a
    correlation c: (1 + c) / (1 - c), 1 for independent latents.

    Noise averages out over latents that say the same. With a correlation that falls as c^distance,
    the correlations around a latent sum to ((1 + c) / (1 - c))^2: so many times larger is signal
    power over noise power in what a region has in common than in a latent alone. A shift s divides
    it by s^2 at every time (Esser et al. 2024, arXiv 2403.03206, equation 23).
    """
    bounded = min(max(correlation, 0.0), _MOST_CORRELATION)
    return (1 + bounded) / (1 - bounded)


def advise_flow_shift(latents: LatentSet) -> FlowShift | None:
    """Return the flow shift for a latent set, measured on up to 256 crops spread over it; None
    where crops have one latent only, or no crop holds anything.
    """
    count = latents.summary["num_entries"]
    entries = np.unique(np.linspace(0, count - 1, min(count, _MOST_CROPS)).astype(np.int64))
    raw = latents.gather(entries, np.zeros(len(entries), dtype=np.int64))[:, 0]
    # Tiles that could not be read are zeros.
    raw = raw[raw.flatten(1).any(1)]
    if not len(raw) or min(raw.shape[-2:]) < 2:
        return None
    correlation = measure_correlation(raw)
    return FlowShift(correlation, fit_flow_shift(correlation))
