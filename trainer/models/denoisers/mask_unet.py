"""A U-Net that knows at every pixel which classes are there, with a finite receptive field.

The mask enters as class shares at the resolution of every stage: stacked with the latents, and as a
scale and a shift per pixel in every block. Features are normalised per pixel over their channels.
There is no group norm and no attention over positions, so nothing is pooled over the image: a tile
of a large image and the whole image agree to rounding beyond `MaskUNet.halo`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Float32, Integer, Num
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from trainer.choices import Unlabelled
from trainer.models.denoisers.interface import Denoiser, DenoiserConfig
from trainer.models.denoisers.masks import check_masks, class_fractions
from trainer.models.denoisers.reference_layers import EPSILON, TimeEmbedding, at_least_float32
from trainer.section import Positive


class Config(DenoiserConfig):
    """What defines the network.

    Attributes:
        dim: Width of the first stage, even.
        dim_mults: Width of each stage as a multiple of `dim`; every stage but the first halves
            height and width.
        block_per_layer: Blocks in each stage, on the way down and on the way up.
        unlabelled: What pixels of class 0 are. null: the guidance null, so that a tile without
            labels is an unconditional one; class: a class like the others.
        interval: Whether the network is told an interval of times and the guidance scale, too, as
            the prediction type mean_flow needs.
    """

    name: Literal["mask-unet"] = "mask-unet"
    dim: Annotated[int, Field(ge=4, multiple_of=2)] = 256
    dim_mults: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4)
    block_per_layer: Positive = 2
    unlabelled: Unlabelled = "null"
    interval: bool = False

    def build(self, num_classes: int, channels: int) -> MaskUNet:
        """Return the network; see `DenoiserConfig.build`."""
        return MaskUNet(self, num_classes, channels)


@dataclass(frozen=True)
class Condition:
    """What the network knows of a batch of masks; it depends on neither latents nor timestep, so a
    sampler makes it once.

    `shares`: for each stage the class shares, the last channel being the null: [batch, classes + 1,
    height, width], in [0, 1], summing to 1 over the channels.
    """

    shares: list[Tensor]


class PixelNorm(nn.Module):
    """Divides every pixel by the root mean square of its channels; a gain if `gain` is set.

    Source: Zhang and Sennrich 2019, arXiv 1910.07467, equation 4, over the channels of a pixel.
    """

    def __init__(self, dim: int, *, gain: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim)) if gain else None

    def forward(
        self, x: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        """Return [batch, dim, height, width] in the precision of `x`, computed in float32 at
        least.
        """
        full = at_least_float32(x)
        factor = torch.rsqrt(full.square().mean(1, keepdim=True) + EPSILON)
        if self.gain is not None:
            factor = factor * self.gain[:, None, None]
        return (full * factor).to(x.dtype)


class Block(nn.Module):
    """A residual block that time and mask modulate: h = RMS(conv3(SiLU(RMS(x)))) * (1 + s) + b with
    (s, b) = W t + conv1(m); result = skip(x) + conv3(SiLU(h)).

    Args:
        dim_in: Channels of the input.
        dim_out: Channels of the output; another number than `dim_in` takes a 1x1 convolution as
            the skip.
        time_width: Width of the time embedding.
        num_shares: Channels of the mask.
    """

    def __init__(self, dim_in: int, dim_out: int, time_width: int, num_shares: int) -> None:
        super().__init__()
        self.norm1 = PixelNorm(dim_in, gain=True)
        self.conv1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.norm2 = PixelNorm(dim_out, gain=False)
        self.time = nn.Linear(time_width, 2 * dim_out)
        # The shares sum to 1 and the time has a bias already.
        self.mask = nn.Conv2d(num_shares, 2 * dim_out, 1, bias=False)
        self.conv2 = zeroed(nn.Conv2d(dim_out, dim_out, 3, padding=1))
        self.skip = nn.Identity() if dim_in == dim_out else nn.Conv2d(dim_in, dim_out, 1)

    def forward(
        self,
        x: Float[Tensor, "batch dim_in height width"],
        time: Float[Tensor, "batch time_width"],
        shares: Float[Tensor, "batch num_shares height width"],
    ) -> Float[Tensor, "batch dim_out height width"]:
        """Return [batch, dim_out, height, width]."""
        hidden = self.norm2(self.conv1(functional.silu(self.norm1(x))))
        modulation = self.mask(shares) + self.time(time)[:, :, None, None]
        scale, shift = modulation.chunk(2, dim=1)
        hidden = torch.addcmul(shift, hidden, 1 + scale)
        result: Tensor = self.skip(x) + self.conv2(functional.silu(hidden))
        return result


class IntervalEmbedding(nn.Module):
    """An MLP on a time, the length of the interval below it, and a guidance scale.

    Slow waves only: what is learned has the derivative by time in it, which fast ones would make
    large.
    """

    _NUM_WAVES = 8

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3 * (2 * self._NUM_WAVES + 1), 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, 4 * width),
        )

    def forward(self, t: Num[Tensor, " batch *interval"]) -> Float[Tensor, "batch features"]:
        """Return [batch, 4 width].

        Args:
            t: Times on a scale of 0 to 1000, [batch]; or [batch, 3]: time, end of the interval,
                guidance scale. Times alone have an interval of no length and scale 1.
        """
        if t.ndim == 1:
            t = torch.stack((t, t, torch.ones_like(t)), dim=1)
        time, end, guidance = t.to(next(self.parameters()).dtype).unbind(1)
        numbers = torch.stack((time / 1000, (time - end) / 1000, 1 - 1 / guidance), dim=1)
        waves = torch.arange(1, self._NUM_WAVES + 1, device=t.device) * (math.pi / 2)
        angles = numbers[:, :, None] * waves
        parts = (numbers[:, :, None], angles.sin(), angles.cos())
        result: Tensor = self.layers(torch.cat(parts, dim=2).flatten(1))
        return result


class MaskUNet(Denoiser):
    """The denoiser mask-unet: 174,178,308 parameters at 5 classes with the default configuration.

    Raises:
        ValueError: For fewer than one class.
    """

    def __init__(self, config: Config, num_classes: int, channels: int = 4) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}, at least 1 expected")
        self.config, self.num_classes, self.channels = config, num_classes, channels
        self.stride = 1 << (len(config.dim_mults) - 1)
        # The latents stand before the class shares.
        self.first_class = {"first.weight": channels}
        dim = config.dim
        widths = [dim * mult for mult in config.dim_mults]
        steps = list(pairwise(widths))
        self.takes_interval = config.interval
        self.time: nn.Module = IntervalEmbedding(dim) if config.interval else TimeEmbedding(dim)
        self.first = nn.Conv2d(channels + num_classes + 1, dim, 3, padding=1)
        self.downs = nn.ModuleList(self._stage(width, width) for width in widths)
        self.shrinks = nn.ModuleList(nn.Conv2d(*step, 2, stride=2) for step in steps)
        self.middle = self._block(widths[-1], widths[-1])
        self.ups = nn.ModuleList(self._stage(2 * width, width) for width in widths)
        self.grows = nn.ModuleList(
            nn.ConvTranspose2d(wide, narrow, 2, stride=2) for narrow, wide in steps
        )
        self.last = self._block(2 * dim, dim)
        self.norm = PixelNorm(dim, gain=True)
        self.out = zeroed(nn.Conv2d(dim, channels, 1))
        self.halo: int | None = self._reach()

    def _block(self, dim_in: int, dim_out: int) -> Block:
        return Block(dim_in, dim_out, 4 * self.config.dim, self.num_classes + 1)

    def _stage(self, dim_in: int, dim_out: int) -> nn.ModuleList:
        return nn.ModuleList(
            self._block(dim_in, dim_out) for _ in range(self.config.block_per_layer)
        )

    def _reach(self) -> int:
        """Return how many latents around a tile its prediction depends on, from the layers, rounded
        up to a multiple of `stride`.

        A tile that begins at multiples of `stride` and is cut out with as many latents around it as
        this (fewer where the image ends) gets the prediction of the whole image.
        """
        # The tile at the resolution of the output, and outward from it what it depends on; the
        # way through the deepest stage reaches farthest.
        low, high = 0, self.stride - 1
        low, high = _reached(low, high, (self.last, self.out))
        *ups, deepest_up = self.ups.children()
        *downs, deepest_down = self.downs.children()
        for up in ups:
            low, high = _reached(low, high, (up,))
            low, high = low // 2, high // 2
        low, high = _reached(low, high, (deepest_up, self.middle, deepest_down))
        for down in reversed(downs):
            low, high = _reached(2 * low, 2 * high + 1, (down,))
        low, high = _reached(low, high, (self.first,))
        farthest = max(-low, high - (self.stride - 1))
        return -(-farthest // self.stride) * self.stride

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Num[Tensor, " batch *interval"],
        mask: Integer[Tensor, "batch 1 height_px width_px"],
        drop: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the prediction for noisy latents; see `Denoiser.forward`.

        Args:
            x: Noisy latents [batch, channels, h, w]; h and w are multiples of `stride`.
            t: Timesteps on a scale of 0 to 1000, whole or fractional.
            mask: Class ids, uint8 or int64 [batch, 1, H, W], with H and W the same whole multiple
                of h and w.
            drop: The samples that get the guidance null instead of their mask.

        Raises:
            ValueError: For shapes or class ids that do not fit; ids are checked on the CPU only.
        """
        return self.denoise(x, t, self.condition(mask, (x.shape[-2], x.shape[-1]), drop))

    def condition(
        self,
        mask: Integer[Tensor, "batch 1 height_px width_px"],
        size: tuple[int, int],
        drop: Bool[Tensor, " batch"] | None = None,
    ) -> Condition:
        """Return what the network knows of masks; it depends on neither latents nor timestep.

        Args:
            mask: Class ids [batch, 1, H, W].
            size: Height and width of the latents.
            drop: The samples that get the guidance null instead of their mask.

        Raises:
            ValueError: As `forward`.
        """
        factor = check_masks(mask, size, num_classes=self.num_classes, stride=self.stride)
        shares = self._with_null(class_fractions(mask, self.num_classes, factor), drop)
        shares = shares.to(self.first.weight.dtype)
        stages = [shares]
        for _ in self.shrinks:
            stages.append(functional.avg_pool2d(stages[-1], 2))
        return Condition(stages)

    def _with_null(
        self,
        fractions: Float32[Tensor, "batch num_classes height width"],
        drop: Bool[Tensor, " batch"] | None,
    ) -> Float32[Tensor, "batch num_shares height width"]:
        """Return the shares of the classes and of the null, [batch, num_classes + 1, h, w]."""
        nothing = torch.zeros_like(fractions[:, :1])
        parts = (
            (nothing, fractions[:, 1:], fractions[:, :1])
            if self.config.unlabelled == "null"
            else (fractions, nothing)
        )
        shares = torch.cat(parts, dim=1)
        if drop is None:
            return shares
        null = torch.zeros_like(shares[:1])
        null[:, -1] = 1
        return torch.where(drop[:, None, None, None], null, shares)

    def denoise(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Num[Tensor, " batch *interval"],
        condition: Condition,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the prediction [batch, channels, h, w] for noisy latents under a condition made by
        `condition`.
        """
        time = functional.silu(self.time(t))
        stages = condition.shares
        x = first = self.first(torch.cat((x, stages[0].to(x.dtype)), dim=1))
        skips = []
        for index, (down, shares) in enumerate(zip(self.downs, stages, strict=True)):
            x = self.shrinks[index - 1](x) if index else x
            for block in down.children():
                x = block(x, time, shares)
                skips.append(x)
        x = self.middle(x, time, stages[-1])
        for index in reversed(range(len(self.ups))):
            for block in self.ups[index].children():
                x = block(torch.cat((x, skips.pop()), dim=1), time, stages[index])
            x = self.grows[index - 1](x) if index else x
        x = self.last(torch.cat((x, first), dim=1), time, stages[0])
        result: Tensor = self.out(functional.silu(self.norm(x)))
        return result


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a layer whose weights are set to zero, so that training begins without it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _reached(low: int, high: int, layers: Iterable[nn.Module]) -> tuple[int, int]:
    """Return the first and last position that positions low .. high depend on after layers that
    keep the resolution: each 3x3 convolution one further, one after another.
    """
    radius = sum(
        module.kernel_size[0] // 2
        for layer in layers
        for module in layer.modules()
        if isinstance(module, nn.Conv2d)
    )
    return low - radius, high + radius
