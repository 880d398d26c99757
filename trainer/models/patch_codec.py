"""A codec that starts where it would otherwise arrive: principal components of square patches, and
convolutions that learn to correct them.

The best linear codec of patches is known before any training (Eckart and Young 1936). Small
autoencoders do not reach it in minutes; this one starts there.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

_FIRST_LOG_VARIANCE = -10.0
_LEAST_VARIANCE = 1e-8
_COLOURS = 3


class Residual(nn.Module):
    """Convolutions on features, added to them; nothing at first."""

    def __init__(self, channels: int, width: int, num_layers: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        for _ in range(num_layers - 1):
            layers += [nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)]
        last = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*layers, nn.SiLU(), last)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return features plus what the convolutions make of them."""
        result: Tensor = features + self.layers(features)
        return result


class PatchEncoder(nn.Module):
    """Images to moments: corrected patches, then their components and a log-variance of each."""

    def __init__(self, factor: int, channels: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.factor = factor
        patch = _COLOURS * factor**2
        self.correct = Residual(patch, width, num_layers)
        self.project = nn.Conv2d(patch, channels, 1)
        self.log_variance = nn.Parameter(torch.full((channels, 1, 1), _FIRST_LOG_VARIANCE))

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch moments latent_height latent_width"]:
        """Return means, then log-variances, [batch, 2 * channels, height / factor, ...]."""
        mean = self.project(self.correct(nnf.pixel_unshuffle(images, self.factor)))
        return torch.cat([mean, self.log_variance.expand_as(mean)], dim=1)


class PatchDecoder(nn.Module):
    """Latents to images: patches of their components, corrected from their neighbours, then at
    full size across their borders.
    """

    def __init__(self, factor: int, channels: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.factor = factor
        self.project = nn.Conv2d(channels, _COLOURS * factor**2, 1)
        self.context = Residual(channels, width, num_layers)
        self.add = nn.Conv2d(channels, _COLOURS * factor**2, 3, padding=1)
        nn.init.zeros_(self.add.weight)
        nn.init.zeros_(self.add.bias)  # type: ignore[arg-type]
        self.correct = Residual(_COLOURS * factor**2, width, num_layers)
        self.refine = Residual(_COLOURS, max(8, width // 8), 2)

    def forward(
        self, latents: Float[Tensor, "batch channels latent_height latent_width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return images [batch, 3, height * factor, width * factor], not cut off."""
        patches = self.project(latents) + self.add(self.context(latents))
        result: Tensor = self.refine(nnf.pixel_shuffle(self.correct(patches), self.factor))
        return result


class PatchAutoencoder(nn.Module):
    """An autoencoder of patches, called as diffusers' AutoencoderKL is.

    Args:
        factor: Pixels a side of a patch, which becomes one latent.
        latent_channels: Components kept.
        width: Channels of the corrections.
        num_layers: Convolutions of each correction.
    """

    quant_conv = None

    def __init__(self, factor: int, latent_channels: int, width: int, num_layers: int) -> None:
        super().__init__()
        stages = factor.bit_length()
        self.arguments = {
            "factor": factor,
            "latent_channels": latent_channels,
            "width": width,
            "num_layers": num_layers,
        }
        self.config = SimpleNamespace(
            latent_channels=latent_channels, block_out_channels=(width,) * stages
        )
        # Of the decoder: both corrections, the convolution between them, and less than one latent
        # of pixels at their borders.
        self.halo = 2 * num_layers + 2
        self.encoder = PatchEncoder(factor, latent_channels, width, num_layers)
        self.decoder = PatchDecoder(factor, latent_channels, width, num_layers)

    def decode(self, latents: Float[Tensor, "batch channels latent_height latent_width"]) -> Any:
        """Return a namespace whose `sample` are the images."""
        return SimpleNamespace(sample=self.decoder(latents))

    @torch.no_grad()
    def start_from(self, images: Float[Tensor, "batch 3 height width"]) -> None:
        """Set both projections to the principal components of the patches of images in [-1, 1]:
        latents of variance 1, and the best linear reconstruction of those patches.
        """
        factor = self.encoder.factor
        patches = nnf.pixel_unshuffle(images, factor).movedim(1, -1).flatten(0, -2).double()
        mean = patches.mean(dim=0)
        centred = patches - mean
        variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
        channels = self.encoder.project.out_channels
        kept = directions.flip(1)[:, :channels].T
        scale = variances.flip(0)[:channels].clamp(min=_LEAST_VARIANCE).sqrt()
        # Eigenvectors have no sign of their own: the largest entry is positive.
        largest = kept.abs().argmax(dim=1, keepdim=True)
        kept = kept * kept.gather(1, largest).sign()
        inward = kept / scale[:, None]
        encoder, decoder = self.encoder.project, self.decoder.project
        encoder.weight.copy_(inward[:, :, None, None])
        encoder.bias.copy_(-inward @ mean)  # type: ignore[union-attr]
        decoder.weight.copy_((kept * scale[:, None]).T[:, :, None, None])
        decoder.bias.copy_(mean)  # type: ignore[union-attr]
