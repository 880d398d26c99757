"""The scaling between raw latents and those a denoiser sees; the only home of these numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from trainer.choices import ScalingMethod

Latents = TypeVar("Latents", Tensor, np.ndarray)


@dataclass(frozen=True)
class LatentScaling:
    """z = (raw - shift) / scale, by channel. `method`: measured over the training split (unit
    variance), or the codec's own numbers.
    """

    method: ScalingMethod
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LatentScaling:
        """Return the scaling that `to_json` described."""
        return cls(value["method"], tuple(value["shift"]), tuple(value["scale"]))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that says all."""
        return {"method": self.method, "shift": list(self.shift), "scale": list(self.scale)}

    def normalise(self, raw: Latents) -> Latents:
        """Return latents for the denoiser, [..., channels, height, width], float32."""
        result: Latents = (raw - _like(self.shift, raw)) / _like(self.scale, raw)
        return result

    def denormalise(self, latents: Latents) -> Latents:
        """Return raw latents for the codec, the inverse of `normalise`."""
        result: Latents = latents * _like(self.scale, latents) + _like(self.shift, latents)
        return result


def _like(values: Sequence[float], latents: Latents) -> Latents:
    """Return one number a channel in the kind, precision and place of `latents`, to be broadcast
    over height and width.
    """
    if isinstance(latents, np.ndarray):
        return np.asarray(values, dtype=np.float32).reshape(-1, 1, 1)
    return torch.tensor(values, dtype=latents.dtype, device=latents.device).reshape(-1, 1, 1)
