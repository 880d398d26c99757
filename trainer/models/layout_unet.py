"""The network of the recipe masks: mask-unet on class scores, told the class shares only."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Num
from pydantic import Field
from torch import Tensor, nn

from trainer.models.denoisers.mask_unet import Condition, Config, MaskUNet


class LayoutConfig(Config):
    """What defines the network: the options of mask-unet."""

    dim: Annotated[int, Field(ge=4, multiple_of=2)] = 128


class LayoutUNet(nn.Module):
    """Noisy class scores to a prediction, given the class shares of the whole mask.

    Args:
        config: The options of the network.
        num_classes: Channels of the scores, and number of class shares.
    """

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.network: MaskUNet = config.build(num_classes, num_classes)
        self.num_classes, self.stride = num_classes, self.network.stride

    def forward(
        self,
        x: Float[Tensor, "batch num_classes rows columns"],
        t: Num[Tensor, " batch"],
        shares: Float[Tensor, "batch num_classes"],
        drop: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch num_classes rows columns"]:
        """Return the prediction for noisy class scores.

        Args:
            x: Noisy scores; rows and columns are multiples of `stride`.
            t: Timesteps on a scale of 0 to 1000.
            shares: Share of each class in the whole mask, in [0, 1], summing to 1.
            drop: The samples whose shares are hidden: they get the null instead.
        """
        hidden = torch.zeros_like(shares[:, :1])
        if drop is not None:
            hidden = torch.where(drop[:, None], 1.0, hidden)
            shares = torch.where(drop[:, None], 0.0, shares)
        known = torch.cat((shares, hidden), dim=1).to(x.dtype)[:, :, None, None]
        rows, columns = x.shape[-2:]
        stages = [
            known.expand(-1, -1, rows >> index, columns >> index)
            for index in range(len(self.network.shrinks) + 1)
        ]
        return self.network.denoise(x, t, Condition(stages))
