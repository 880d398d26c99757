"""Residual trunks: ResNet-18 with the parameter names of the usual weight files, and a small one
for tests.

Every trunk here and beside maps RGB images normalised with the ImageNet statistics, float [B, 3, H,
W], to features [B, num_features, H / stride, W / stride], and says `num_features` and `stride`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

_WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the first convolution may halve the image."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(
        self, features: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return features [B, out_channels, h / stride, w / stride] of [B, in_channels, h, w]."""
        shortcut = features if self.downsample is None else self.downsample(features)
        hidden = torch.relu(self.bn1(self.conv1(features)))
        return torch.relu(self.bn2(self.conv2(hidden)) + shortcut)


class ResNet18Trunk(nn.Module):
    """ResNet-18 without pooling and classifier: 512 features at stride 32, 11,176,512 parameters.

    Source: He et al. 2015, arXiv 1512.03385, table 1.
    """

    num_features = _WIDTHS[-1]
    stride = 32

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        incoming = (_WIDTHS[0], *_WIDTHS[:-1])
        stages = [
            nn.Sequential(
                BasicBlock(before, width, 1 if number == 0 else 2),
                BasicBlock(width, width, 1),
            )
            for number, (before, width) in enumerate(zip(incoming, _WIDTHS, strict=True))
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        initialise_convolutions(self)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 512 out_height out_width"]:
        """Return features [B, 512, H / 32, W / 32] of normalised images [B, 3, H, W]."""
        features = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        result: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return result


class SmallTrunk(nn.Module):
    """A stride-2 stem and three residual blocks: 4 * width features at stride 8; learns simple
    colours and blobs in seconds.
    """

    stride = 8

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.num_features = 4 * width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(
            BasicBlock(width, width, 1),
            BasicBlock(width, 2 * width, 2),
            BasicBlock(2 * width, 4 * width, 2),
        )
        initialise_convolutions(self)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features out_height out_width"]:
        """Return features [B, 4 * width, H / 8, W / 8] of normalised images [B, 3, H, W]."""
        result: Tensor = self.blocks(self.stem(images))
        return result


def initialise_convolutions(module: nn.Module) -> None:
    """Draw the weights of every convolution from a normal of variance 2 / fan-out (He et al. 2015,
    arXiv 1502.01852).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
