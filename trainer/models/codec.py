"""The codec: images to latents and back, over the image autoencoders of diffusers.

Raw latents are what the encoder gives: the posterior's mean and standard deviation, unscaled.
Scaling for a denoiser is a fact of the latent set, see `trainer.data.latent_scaling`.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from histoprep.errors import UsageError
from trainer.choices import ImageRange

# Before the first import of diffusers: it asks the hub's client, which reads this once.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DISABLE_TELEMETRY"] = "1"

TINY = "AutoencoderTiny"
_PROBE_PX = 64
"""Side of the image that says what a latent is, a multiple of every factor in use."""
_LOG_VARIANCE_LIMITS = (-30.0, 20.0)


class Posterior(NamedTuple):
    """Raw latents of a batch, float [batch, channels, height / factor, width / factor]; `std` is
    None where the codec has none.
    """

    mean: Tensor
    std: Tensor | None


class Codec(nn.Module):
    """A frozen autoencoder. `identifier` says where it came from, `digest` (SHA-256, hex) what it
    is: its weights.

    `factor` pixels a side become one latent; `channels` of them. `shift` and `scale`, float
    [channels], are the codec's own normalisation: z = (raw - shift) / scale; a tiny autoencoder's
    latents come scaled already, so 0 and 1. `halo` is how many latents around a tile its decoded
    pixels depend on at most; None where the decoder normalises over the image. `decoder_width` is
    the number of channels at the resolution of pixels.

    `image_range` is what the autoencoder itself is fed; `encode` and `decode` convert from and to
    [-1, 1]. A codec of another range is another codec: it has a digest of its own.
    """

    def __init__(
        self, autoencoder: nn.Module, identifier: str, image_range: ImageRange = "signed"
    ) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder.eval().requires_grad_(False)
        self.identifier, self.image_range = identifier, image_range
        config: Any = autoencoder.config
        self.is_tiny = type(autoencoder).__name__ == TINY
        self.decoder_width = _decoder_width(config, is_tiny=self.is_tiny)
        self.channels, self.factor = _measure_latents(self.autoencoder)
        self.shift, self.scale = _own_scaling(config, self.channels)
        self.halo: int | None = (
            _reach_of_decoder(self.autoencoder)
            if self.is_tiny
            else getattr(autoencoder, "halo", None)
        )
        self.digest = weights_digest(autoencoder)
        if image_range != "signed":
            self.digest = hashlib.sha256(f"{self.digest} {image_range}".encode()).hexdigest()

    def train(self, mode: bool = True) -> Codec:
        """Return the codec, always in evaluation mode: it is frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Posterior:
        """Return the raw latents of images [batch, 3, height, width] in [-1, 1]; height and width
        are multiples of `factor`.

        Raises:
            UsageError: For other sizes: the encoder would cut the rest off without a word.
        """
        if any(side % self.factor for side in images.shape[-2:]):
            seen = " x ".join(str(side) for side in images.shape[-2:])
            raise UsageError(
                "the codec cannot take images of this size",
                seen=f"{seen} px",
                expected=f"multiples of {self.factor}",
            )
        if self.image_range == "unit":
            images = images * 0.5 + 0.5
        return _encode(self.autoencoder, images)

    @torch.no_grad()
    def decode(
        self, raw: Float[Tensor, "batch channels latent_height latent_width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return images [batch, 3, height * factor, width * factor] in [-1, 1] of raw latents."""
        decoded: Tensor = self.autoencoder.decode(raw).sample
        return decoded.clamp(0, 1) * 2 - 1 if self.image_range == "unit" else decoded.clamp(-1, 1)


def _encode(autoencoder: Any, images: Tensor) -> Posterior:
    """Return the raw latents of an autoencoder by what its `encode` gives: a posterior, or latents
    under one of the names that diffusers has for them.
    """
    if hasattr(autoencoder, "quant_conv") and type(autoencoder).__name__ != "VQModel":
        return posterior_of(autoencoder, images)
    # encode, not forward: that of a tiny one rounds latents to 8 bits.
    encoded = autoencoder.encode(images)
    if hasattr(encoded, "latent_dist"):
        return Posterior(encoded.latent_dist.mean, encoded.latent_dist.std)
    names = [name for name in ("latents", "latent") if hasattr(encoded, name)]
    if not names:
        raise TypeError(f"{type(encoded).__name__} of encode holds no latents")
    return Posterior(getattr(encoded, names[0]), None)


@torch.no_grad()
def _measure_latents(autoencoder: nn.Module) -> tuple[int, int]:
    """Return the channels of latents, and the pixels a side that become one, as an image shows
    them.

    Raises:
        TypeError: When images do not become maps of latents and back.
    """
    parameter = next(autoencoder.parameters())
    image = torch.zeros(1, 3, _PROBE_PX, _PROBE_PX, dtype=parameter.dtype, device=parameter.device)
    latents = _encode(autoencoder, image).mean
    if latents.ndim != 4 or latents.shape[-1] < 1 or _PROBE_PX % latents.shape[-1]:
        raise TypeError(f"images become latents of the shape {tuple(latents.shape[1:])}")
    network: Any = autoencoder
    decoded = network.decode(latents).sample
    if decoded.shape != image.shape:
        raise TypeError(f"latents become images of the shape {tuple(decoded.shape[1:])}")
    return latents.shape[1], _PROBE_PX // latents.shape[-1]


def _decoder_width(config: Any, *, is_tiny: bool) -> int:
    if is_tiny:
        return int(config.decoder_block_out_channels[-1])
    names = ("decoder_block_out_channels", "block_out_channels", "up_block_out_channels")
    widths = next((getattr(config, name) for name in names if hasattr(config, name)), (128,))
    return int(widths[0])


def posterior_of(
    autoencoder: nn.Module, images: Float[Tensor, "batch 3 height width"]
) -> Posterior:
    """Return mean and standard deviation of a KL autoencoder's posterior, with gradients;
    log-variance is held to [-30, 20].
    """
    network: Any = autoencoder
    moments = network.encoder(images)
    if network.quant_conv is not None:
        moments = network.quant_conv(moments)
    mean, log_variance = moments.chunk(2, dim=1)
    return Posterior(mean, torch.exp(0.5 * log_variance.clamp(*_LOG_VARIANCE_LIMITS)))


def save_codec(autoencoder: nn.Module, folder: Path) -> None:
    """Write config.json and the weights (safetensors) of an autoencoder into `folder`, which
    `load_codec` reads.
    """
    saved: Any = autoencoder
    saved.save_pretrained(folder, safe_serialization=True)


class TrainableCodec(nn.Module):
    """An untrained autoencoder as one call: that which is given, or diffusers' AutoencoderKL, whose
    arguments `architecture` are.
    """

    def __init__(self, autoencoder: nn.Module | None = None, **architecture: Any) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        make: Any = AutoencoderKL  # untyped in diffusers
        self.autoencoder: Any = make(**architecture) if autoencoder is None else autoencoder

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        noise: Float[Tensor, "batch channels latent_height latent_width"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return reconstructions of mean + std * noise, and the posterior's mean and std.

        Images [batch, 3, height, width] in [-1, 1] in and out (not cut off); the others [batch,
        channels, height / 8, width / 8].
        """
        mean, std = posterior_of(self.autoencoder, images)
        assert std is not None
        return self.autoencoder.decode(mean + std * noise).sample, mean, std


def weights_digest(autoencoder: nn.Module) -> str:
    """Return the SHA-256 (hex) of an autoencoder: its kind, and name, shape and float32 values of
    each weight, in order of name.

    It does not depend on the file format, the device or the precision that half-precision weights
    are held in.
    """
    state = hashlib.sha256(type(autoencoder).__name__.encode())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        state.update(f"\n{name} {tuple(tensor.shape)}\n".encode())
        state.update(memoryview(tensor.detach().float().cpu().contiguous().numpy()).cast("B"))
    return state.hexdigest()


def _reach_of_decoder(autoencoder: Any) -> int:
    """Return how many latents around a tile its pixels depend on, for an autoencoder whose decoder
    is convolutions one after another, between which the resolution grows.
    """
    reach, scale = 0.0, 1.0
    for layer in autoencoder.decoder.modules():
        if isinstance(layer, nn.Upsample):
            # The pixel that a finer one lies in.
            reach += 1 / scale
            scale *= float(str(layer.scale_factor))
        elif isinstance(layer, nn.Conv2d):
            reach += (layer.kernel_size[0] // 2) / scale
    return math.ceil(reach)


def _own_scaling(config: Any, channels: int) -> tuple[Tensor, Tensor]:
    factor = float(getattr(config, "scaling_factor", None) or 1.0)
    means, stds = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    shift = torch.tensor(
        means or [float(getattr(config, "shift_factor", None) or 0.0)] * channels,
        dtype=torch.float32,
    )
    return shift, torch.tensor(stds or [1.0] * channels, dtype=torch.float32) / factor
