"""A codec of patches, as diffusers loads it from the folder of an exported model."""

from __future__ import annotations

from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from trainer.models.patch_codec import PatchAutoencoder


class HistoPrepVAE(ModelMixin, ConfigMixin):
    """An autoencoder of patches; see `PatchAutoencoder` for its arguments."""

    config_name = "config.json"  # type: ignore[assignment]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, factor: int, latent_channels: int, width: int, num_layers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.network = PatchAutoencoder(factor, latent_channels, width, num_layers)

    def encode(self, images: Tensor) -> Tensor:
        """Return means and log-variances [batch, 2 * channels, h, w] of images in [-1, 1]."""
        result: Tensor = self.network.encoder(images)
        return result

    def decode(self, latents: Tensor) -> Any:
        """Return a namespace whose `sample` are images [batch, 3, H, W], not cut off."""
        return self.network.decode(latents)
