"""The denoiser of an exported model, as diffusers loads it from the model's folder."""

from __future__ import annotations

from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from trainer.models.denoisers.reference_unet import Config


class HistoPrepUNet(ModelMixin, ConfigMixin):
    """A denoiser of latents that knows a mask of class ids.

    Args:
        denoiser: Its options.
        num_classes: Class ids 0 .. num_classes - 1 may occur in masks.
        channels: Channels of the latents.
    """

    config_name = "config.json"  # type: ignore[assignment]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, denoiser: dict[str, Any], num_classes: int, channels: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.network = Config.model_validate(dict(denoiser)).build(num_classes, channels)

    def forward(
        self, sample: Tensor, timestep: Tensor, mask: Tensor, drop: Tensor | None = None
    ) -> Tensor:
        """Return the prediction for noisy latents.

        Args:
            sample: Noisy latents, float [batch, channels, h, w].
            timestep: Timesteps [batch].
            mask: Class ids at the size of the image, uint8 or int64 [batch, 1, H, W].
            drop: Samples without a condition, bool [batch].
        """
        result: Tensor = self.network(sample, timestep, mask, drop)
        return result
