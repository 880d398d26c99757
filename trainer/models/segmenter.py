"""Networks that give every pixel of an image the scores of its classes.

`PlainUNet` learns from nothing. `LiteUNet` decodes what EfficientNet-Lite0 sees: with ImageNet
weights it learns from far fewer tiles, and frozen it costs a fraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from trainer.models.efficientnet_lite import BLOCK_CHANNELS, EfficientNetLite0Trunk
from trainer.models.trunks import FrozenTrunk, normalise_images

LITE_BLOCKS = (4, 10)
"""Blocks of EfficientNet-Lite0 that `LiteUNet` decodes: strides of 8 and 16 px."""
_GROUPS = 4
_STEM_STRIDE = 2
_DROPOUT = 0.1


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with a group norm and SiLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.GroupNorm(_GROUPS, out_channels),
                nn.SiLU(),
            ]
        super().__init__(*layers)


class PlainUNet(nn.Module):
    """A U-Net without pretrained parts.

    Source: Ronneberger et al. 2015, arXiv 1505.04597, with group norms, a stem that halves the
    image and padded convolutions, so that scores have the size of the image.

    Args:
        num_classes: Number of classes.
        width: Channels of the first stage, a multiple of 4; each further stage has twice as many.
        num_stages: Stages; each but the first halves the sides.
    """

    def __init__(self, num_classes: int, width: int = 32, num_stages: int = 4) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(num_stages)]
        self.multiple_px = _STEM_STRIDE * 2 ** (num_stages - 1)
        self.stem = nn.Conv2d(3, width, 5, stride=_STEM_STRIDE, padding=2)
        self.down = nn.ModuleList(
            DoubleConv(before, after) for before, after in pairwise([width, *widths])
        )
        self.up = nn.ModuleList(
            DoubleConv(below + skip, skip) for below, skip in pairwise(widths[::-1])
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes height width"]:
        """Return the scores (logits) [batch, classes, height, width] of images [batch, 3, height,
        width] in [-1, 1], of any size.
        """
        height, width = images.shape[-2:]
        right, bottom = -width % self.multiple_px, -height % self.multiple_px
        hidden = self.stem(nnf.pad(images, (0, right, 0, bottom), mode="replicate"))
        skips: list[Tensor] = []
        for stage, block in enumerate(self.down):
            hidden = block(nnf.max_pool2d(hidden, 2) if stage else hidden)
            skips.append(hidden)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            hidden = block(torch.cat([_resize(hidden, skip.shape[-2:]), skip], dim=1))
        scores = _resize(self.head(hidden), (height + bottom, width + right))
        return scores[..., :height, :width]


class LiteDecoder(nn.Module):
    """Outputs of `LITE_BLOCKS` of EfficientNet-Lite0 to scores of classes, from coarse to fine.

    Source: Lin et al. 2017, arXiv 1612.03144, section 3 (top-down pathway and lateral connections).

    Args:
        num_classes: Number of classes.
        width: Channels, a multiple of 4.
    """

    def __init__(self, num_classes: int, width: int = 32) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(BLOCK_CHANNELS[n], width, 1) for n in LITE_BLOCKS)
        self.mix = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(_GROUPS, width), nn.SiLU()
            )
            for _ in LITE_BLOCKS
        )
        self.dropout = nn.Dropout2d(_DROPOUT)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return the scores (logits) [batch, classes, *size] of block outputs, in any precision."""
        hidden: Tensor | None = None
        for lateral, mix, seen in reversed(
            list(zip(self.lateral, self.mix, features, strict=True))
        ):
            joined = lateral(seen.float())
            if hidden is not None:
                joined = joined + _resize(hidden, joined.shape[-2:])
            hidden = mix(joined)
        assert hidden is not None
        return _resize(self.head(self.dropout(hidden)), size)


class LiteUNet(nn.Module):
    """EfficientNet-Lite0 and a `LiteDecoder`.

    Args:
        num_classes: Number of classes.
        width: Channels of the decoder, a multiple of 4.
        freeze: Whether the encoder keeps its weights.
    """

    def __init__(self, num_classes: int, width: int = 32, *, freeze: bool = True) -> None:
        super().__init__()
        trunk = EfficientNetLite0Trunk()
        self.trunk: nn.Module = FrozenTrunk(trunk) if freeze else trunk
        self.decoder = LiteDecoder(num_classes, width)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes height width"]:
        """Return the scores (logits) [batch, classes, height, width] of images [batch, 3, height,
        width] in [-1, 1], of any size.
        """
        scores: Tensor = self.decoder(self.encode(images), images.shape[-2:])
        return scores

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
        """Return the outputs of `LITE_BLOCKS` for images in [-1, 1]."""
        normalised = normalise_images(images)
        if not isinstance(self.trunk, FrozenTrunk):
            assert isinstance(self.trunk, EfficientNetLite0Trunk)
            return self.trunk.block_outputs(normalised, LITE_BLOCKS)
        with torch.no_grad():
            inner = self.trunk.trunk
            assert isinstance(inner, EfficientNetLite0Trunk)
            return inner.block_outputs(normalised, LITE_BLOCKS)


def _resize(features: Tensor, size: Sequence[int]) -> Tensor:
    return nnf.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)
