"""Classifier-free guidance: one batched call for the conditional and the unconditional prediction.

Source: Ho and Salimans 2022, arXiv 2207.12598, in the convention of diffusers: scale 1 is the
conditional model, 0 the unconditional one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Integer, Num
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


class ConditionedDenoiser(Protocol):
    """A `MaskDenoiser` in two steps: what the masks say, which is the same at each noise level, and
    the rest.
    """

    def condition(
        self,
        mask: Integer[Tensor, "batch 1 height_px width_px"],
        size: tuple[int, int],
        drop: Bool[Tensor, " batch"] | None = None,
        /,
    ) -> Any:
        """Return what the network knows of masks, for latents of a height and width."""
        ...

    def denoise(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Num[Tensor, " batch"],
        condition: Any,
        /,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the prediction under a condition."""
        ...


def guided(model: MaskDenoiser, mask: Num[Tensor, "batch ..."], guidance_scale: float) -> Denoise:
    """Return the function (noisy, time) -> null + guidance_scale * (conditional - null).

    Args:
        model: The denoiser.
        mask: The condition: masks, class ids [batch, 1, H, W], or whatever else the model takes.
        guidance_scale: 0 is unconditional, 1 conditional, more exaggerates the condition. 1 and 0
            need one of the two predictions only and cost half as much.

    Times [batch, 2], those of an interval, go to the network together with the scale, [batch, 3].
    """
    usual = _guide_by_null(model, mask, guidance_scale)
    average = _conditioned(model, mask, None)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if t.ndim == 1:
            return usual(x, t)
        # The network of mean_flow is told the scale, and knows what guidance does.
        return average(x, torch.cat((t, torch.full_like(t[:, :1], guidance_scale)), dim=1))

    return denoise


def _guide_by_null(
    model: MaskDenoiser, mask: Num[Tensor, "batch ..."], guidance_scale: float
) -> Denoise:
    everything = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
    if guidance_scale == 1:
        return _conditioned(model, mask, None)
    if guidance_scale == 0:
        return _conditioned(model, mask, everything)
    drop = torch.cat((everything, ~everything))
    twice = _conditioned(model, torch.cat((mask, mask)), drop)

    def both(x: Tensor, t: Tensor) -> Tensor:
        null, conditional = twice(torch.cat((x, x)), torch.cat((t, t))).float().chunk(2)
        return null + guidance_scale * (conditional - null)

    return both


def _conditioned(model: MaskDenoiser, mask: Tensor, drop: Tensor | None) -> Denoise:
    """Return the function (noisy, time) -> prediction; what a network knows of the masks alone it
    finds out once.
    """
    # Of the type: wrappers for training and compilation hand attributes on, but have work of
    # their own to do at each call.
    if not all(hasattr(type(model), name) for name in ("condition", "denoise")):
        return lambda x, t: model(x, t, mask, drop)
    network = cast(ConditionedDenoiser, model)
    known: list[Any] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if not known:
            known.append(network.condition(mask, (x.shape[-2], x.shape[-1]), drop))
        return network.denoise(x, t, known[0])

    return denoise
