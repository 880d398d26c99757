"""Classifier-free guidance: one batched call for the conditional and the unconditional prediction.

Source: Ho and Salimans 2022, arXiv 2207.12598, in the convention of diffusers: scale 1 is the
conditional model, 0 the unconditional one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Integer
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class MaskDenoiser(Protocol):
    """A network that knows masks: (noisy [B, C, h, w], time [B], mask [B, 1, H, W], drop [B] bool)
    -> prediction [B, C, h, w].
    """

    def __call__(self, x: Tensor, t: Tensor, mask: Tensor, drop: Tensor | None = None, /) -> Tensor:
        """Return the prediction; samples where `drop` is true are unconditional."""
        ...


def guided(
    model: MaskDenoiser, mask: Integer[Tensor, "batch 1 height_px width_px"], guidance_scale: float
) -> Denoise:
    """Return the function (noisy, time) -> null + guidance_scale * (conditional - null).

    Args:
        model: The denoiser.
        mask: The masks, class ids [batch, 1, H, W].
        guidance_scale: 0 is unconditional, 1 conditional, more exaggerates the condition. 1 and 0
            need one of the two predictions only and cost half as much.
    """
    everything = torch.ones(len(mask), dtype=torch.bool, device=mask.device)

    def conditional(x: Tensor, t: Tensor) -> Tensor:
        return model(x, t, mask)

    def unconditional(x: Tensor, t: Tensor) -> Tensor:
        return model(x, t, mask, everything)

    twice, drop = torch.cat((mask, mask)), torch.cat((everything, ~everything))

    def both(x: Tensor, t: Tensor) -> Tensor:
        null, conditional = (
            model(torch.cat((x, x)), torch.cat((t, t)), twice, drop).float().chunk(2)
        )
        return null + guidance_scale * (conditional - null)

    return {1.0: conditional, 0.0: unconditional}.get(float(guidance_scale), both)
