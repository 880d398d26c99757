"""The label denoiser: what was added to a map of noisy labels, given features of the image and of
its regions.

Features of the image and of K regions are mixed by one learned weighting for each channel, and
multiply three convolutions over the map of noise points; each convolution has a gain for the
timestep of each point. With kernel 1 and in evaluation a point of the map depends on that point
alone (with either norm), which the sampler uses; with kernel 3 neighbours interact.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, Integer
from torch import Tensor, nn

TIME_EMBEDDINGS = ("table", "sinusoidal")
NORMS = ("batch", "group")
_FREQUENCIES = 32
_TIME_WIDTH = 128
_NUM_GROUPS = 8


class TableGain(nn.Module):
    """A row of gains for each timestep, drawn uniformly from [0, 1); row T is never used (as
    published).
    """

    def __init__(self, channels: int, num_train_timesteps: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(num_train_timesteps + 1, channels)
        nn.init.uniform_(self.rows.weight)

    def forward(
        self, timesteps: Integer[Tensor, "batch height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return gains [B, channels, h, w] of timesteps int64 [B, h, w]."""
        result: Tensor = self.rows(timesteps).movedim(-1, 1)
        return result


class SmoothGain(nn.Module):
    """Gains that change smoothly with the timestep: 1 plus a perceptron of sines and cosines
    (Vaswani et al. 2017, arXiv 1706.03762).
    """

    def __init__(self, channels: int, num_train_timesteps: int) -> None:
        super().__init__()
        self.num_train_timesteps = num_train_timesteps
        self.perceptron = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, _TIME_WIDTH), nn.SiLU(), nn.Linear(_TIME_WIDTH, channels)
        )

    def forward(
        self, timesteps: Integer[Tensor, "batch height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return gains [B, channels, h, w] of timesteps int64 [B, h, w]."""
        # Wavelengths from 2 pi T down to 2 pi, whatever T is.
        frequencies = torch.logspace(
            -math.log10(self.num_train_timesteps), 0, _FREQUENCIES, device=timesteps.device
        )
        angles = timesteps[..., None].to(frequencies.dtype) * frequencies
        result: Tensor = 1 + self.perceptron(
            torch.cat([angles.sin(), angles.cos()], dim=-1)
        ).movedim(-1, 1)
        return result


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation of rows [B, F] that takes a training batch of one row as evaluation does:
    one row has no spread.
    """

    def forward(self, rows: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        """Return rows [B, F]."""
        if self.training and len(rows) == 1:
            return nnf.batch_norm(
                rows,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                False,
                0.0,
                self.eps,
            )
        return super().forward(rows)


class PointNorm(nn.GroupNorm):
    """Group normalisation over the channels of each point alone, so that points stay
    independent.
    """

    def forward(
        self, maps: Float[Tensor, "batch features height width"]
    ) -> Float[Tensor, "batch features height width"]:
        """Return maps [B, F, h, w]."""
        points = maps.movedim(1, -1)
        return super().forward(points.flatten(0, -2)).reshape(points.shape).movedim(-1, 1)


class PointConv(nn.Conv2d):
    """A convolution that is a matrix product where its kernel is 1: on maps of few points several
    times as fast on a CPU.
    """

    def forward(
        self, maps: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        """Return maps [B, out_channels, h, w]."""
        if self.kernel_size != (1, 1):
            return super().forward(maps)
        return nnf.linear(maps.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class ConditionalConv(nn.Module):
    """softplus(norm(gain(t) * (W x + b))) over the map."""

    def __init__(
        self, in_channels: int, channels: int, *, kernel: int, norm: str, gain: nn.Module
    ) -> None:
        super().__init__()
        self.conv = PointConv(in_channels, channels, kernel, padding=kernel // 2)
        self.gain = gain
        self.norm = (
            nn.BatchNorm2d(channels)
            if norm == "batch"
            else PointNorm(math.gcd(_NUM_GROUPS, channels), channels)
        )

    def forward(
        self,
        maps: Float[Tensor, "batch in_channels height width"],
        timesteps: Integer[Tensor, " batch #height #width"],
    ) -> Float[Tensor, "batch out_channels height width"]:
        """Return maps [B, channels, h, w]; `timesteps` int64 [B, h, w] or [B, 1, 1]."""
        return nnf.softplus(self.norm(self.gain(timesteps) * self.conv(maps)))


class FeatureEncoder(nn.Module):
    """A trunk, the mean over its map, a linear layer to the common width and a norm."""

    def __init__(self, trunk: nn.Module, feature_dim: int, norm: str) -> None:
        super().__init__()
        self.trunk = trunk
        self.project = nn.Linear(int(trunk.num_features), feature_dim)  # type: ignore[arg-type]
        self.norm = (
            RowNorm(feature_dim)
            if norm == "batch"
            else nn.GroupNorm(math.gcd(_NUM_GROUPS, feature_dim), feature_dim)
        )

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return features [B, F] of normalised images [B, 3, H, W]."""
        # The mean before the linear layer: the same numbers as after a 1x1 convolution, at a
        # fraction of the work.
        result: Tensor = self.norm(self.project(self.trunk(images).mean(dim=(-2, -1))))
        return result


class LabelDenoiser(nn.Module):
    """Predicts the noise (or the clean labels) of label maps [B, C, h, w] of any size.

    `make_trunk` builds the two encoders, for images and for regions. `kernel` is 1 or 3,
    `time_embedding` table or sinusoidal, `norm` batch or group.
    """

    def __init__(
        self,
        make_image_trunk: Callable[[], nn.Module],
        make_region_trunk: Callable[[], nn.Module],
        *,
        num_classes: int,
        num_regions: int,
        feature_dim: int,
        num_train_timesteps: int = 1000,
        kernel: int = 1,
        time_embedding: str = "table",
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if kernel not in (1, 3) or time_embedding not in TIME_EMBEDDINGS or norm not in NORMS:
            raise ValueError(
                f"kernel {kernel} (1 or 3), time embedding {time_embedding} {TIME_EMBEDDINGS}, norm"
                f" {norm} {NORMS}"
            )
        self.points_interact = kernel != 1
        self.image_encoder = FeatureEncoder(make_image_trunk(), feature_dim, norm)
        self.region_encoder = FeatureEncoder(make_region_trunk(), feature_dim, norm)
        # A constant start: every source has the same weight, 1 / (K + 1).
        self.mixing = nn.Parameter(torch.zeros(feature_dim, num_regions + 1))
        make_gain = TableGain if time_embedding == "table" else SmoothGain
        self.layers = nn.ModuleList(
            ConditionalConv(
                width,
                feature_dim,
                kernel=kernel,
                norm=norm,
                gain=make_gain(feature_dim, num_train_timesteps),
            )
            for width in (2 * num_classes, feature_dim, feature_dim)
        )
        self.head = PointConv(feature_dim, num_classes, 1)

    def mixing_weights(self) -> Float[Tensor, "features sources"]:
        """Return the share [F, K + 1] of the image (first) and of each region in each channel."""
        return self.mixing.softmax(dim=-1)

    def encode(
        self,
        images: Float[Tensor, "batch 3 height width"],
        crops: Float[Tensor, "batch regions 3 crop_px crop_px"],
    ) -> Float[Tensor, "batch features"]:
        """Return features [B, F] of normalised images [B, 3, H, W] and crops [B, K, 3, h, w]; they
        depend on neither noise nor timestep.
        """
        regions = self.region_encoder(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        sources = torch.cat([self.image_encoder(images)[:, None], regions], dim=1)
        return torch.einsum("bsf,fs->bf", sources, self.mixing_weights())

    def predict(
        self,
        noisy: Float[Tensor, "batch classes height width"],
        guidance: Float[Tensor, "batch classes height width"],
        timesteps: Integer[Tensor, " batch #height #width"],
        features: Float[Tensor, "batch features"],
    ) -> Float[Tensor, "batch classes height width"]:
        """Return the prediction [B, C, h, w] for noisy maps and guidance [B, C, h, w], timesteps
        int64 [B, h, w] or [B, 1, 1], features [B, F].
        """
        first, second, third = self.layers
        hidden = first(torch.cat([guidance, noisy], dim=1), timesteps) * features[:, :, None, None]
        result: Tensor = self.head(third(second(hidden, timesteps), timesteps))
        return result

    def forward(
        self,
        images: Float[Tensor, "batch 3 image_height image_width"],
        crops: Float[Tensor, "batch regions 3 crop_px crop_px"],
        noisy: Float[Tensor, "batch classes height width"],
        guidance: Float[Tensor, "batch classes height width"],
        timesteps: Integer[Tensor, " batch #height #width"],
    ) -> Float[Tensor, "batch classes height width"]:
        """Return `predict` with the features of `encode`."""
        return self.predict(noisy, guidance, timesteps, self.encode(images, crops))
