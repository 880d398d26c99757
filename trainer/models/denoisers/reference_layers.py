"""The parts of the reference network: time embedding, standardised convolution, residual block,
mask attention.

Attribute names are those of the published checkpoints (`block1.proj`, `fn.fn.to_kv`, `norm.g`,
...), so that their weights load without a renaming table.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Num, Shaped
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.frozen import DerivedWeight

EPSILON = 1e-5
NUM_HEADS = 4
HEAD_WIDTH = 32
HIDDEN_WIDTH = NUM_HEADS * HEAD_WIDTH


class TimeEmbedding(nn.Sequential):
    """An MLP on the sines and cosines of a timestep.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5, with frequencies 10000^(-i / (width
    / 2 - 1)), sines first.
    """

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Identity(), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, 4 * width)
        )
        self.width = width

    def forward(self, t: Num[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
        """Return [batch, 4 width] for timesteps [batch], whole or fractional."""
        half = self.width // 2
        # In float64: an angle near 1000 has four digits after the point in float32.
        frequencies = torch.exp(
            torch.arange(half, device=t.device, dtype=torch.float64)
            * (-math.log(10_000.0) / (half - 1))
        )
        angles = t.double()[:, None] * frequencies
        x = torch.cat((angles.sin(), angles.cos()), dim=1).to(next(self.parameters()).dtype)
        for layer in self:
            x = layer(x)
        return x


class WeightStandardisedConv2d(nn.Conv2d, DerivedWeight):
    """A convolution whose filters have mean 0 and variance 1, never standardised in less than
    float32.

    The published code takes another epsilon (1e-3) in half precision, which is another function;
    here precision changes rounding only.

    Source: Qiao et al. 2019, arXiv 1903.10520.
    """

    def derive_weight(self) -> Float[Tensor, "out_channels in_channels rows columns"]:
        """Return the standardised filters."""
        weight = at_least_float32(self.weight)
        variance, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
        return (weight - mean) * torch.rsqrt(variance + EPSILON)

    def forward(
        self, input: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        """Return the convolution of [batch, in, height, width] as [batch, out, height, width]."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return functional.conv2d(
            input,
            self.current_weight(input.dtype),
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


class ChannelLayerNorm(nn.Module):
    """Normalises every pixel over its channels; a gain, no bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, dim, 1, 1))

    def forward(
        self, x: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        """Return [batch, dim, height, width] with mean 0 and variance 1 over dim, times the gain,
        in the precision of `x`.
        """
        last = x.permute(0, 2, 3, 1)
        normed = functional.layer_norm(
            at_least_float32(last),
            last.shape[-1:],
            at_least_float32(self.g.flatten()),
            None,
            EPSILON,
        )
        return normed.to(x.dtype).permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """Standardised 3x3 convolution, group norm, optional scale and shift, SiLU, dropout."""

    def __init__(self, dim_in: int, dim_out: int, *, groups: int, dropout: float) -> None:
        super().__init__()
        self.proj = WeightStandardisedConv2d(dim_in, dim_out, 3, padding=1)
        self.norm = nn.GroupNorm(groups, dim_out)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch dim_in height width"],
        scale: Float[Tensor, "batch dim_out 1 1"] | None = None,
        shift: Float[Tensor, "batch dim_out 1 1"] | None = None,
    ) -> Float[Tensor, "batch dim_out height width"]:
        """Return [batch, dim_out, height, width]; `scale` and `shift` are [batch, dim_out, 1,
        1].
        """
        x = self.proj(x)
        # Autocast norms in float32; what is kept for the backward pass should not stay there.
        x = self.norm(x).to(x.dtype)
        if scale is not None and shift is not None:
            x = x * (scale + 1) + shift
        result: Tensor = self.dropout(functional.silu(x))
        return result


class ResidualBlock(nn.Module):
    """Two blocks beside a shortcut; time and class embedding scale and shift the first."""

    def __init__(
        self, dim_in: int, dim_out: int, *, embedding_width: int, groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(embedding_width, 2 * dim_out))
        self.block1 = ConvBlock(dim_in, dim_out, groups=groups, dropout=dropout)
        self.block2 = ConvBlock(dim_out, dim_out, groups=groups, dropout=dropout)
        self.res_conv = nn.Identity() if dim_in == dim_out else nn.Conv2d(dim_in, dim_out, 1)

    def forward(
        self,
        x: Float[Tensor, "batch dim_in height width"],
        embedding: Float[Tensor, "batch embedding_width"],
    ) -> Float[Tensor, "batch dim_out height width"]:
        """Return [batch, dim_out, height, width] for `x` [batch, dim_in, height, width] and
        `embedding` [batch, embedding_width].
        """
        scale, shift = self.mlp(embedding)[:, :, None, None].chunk(2, dim=1)
        result: Tensor = self.block2(self.block1(x, scale, shift)) + self.res_conv(x)
        return result


class MaskAttention(nn.Module):
    """Attention whose queries come from the mask; keys and values come from the features.

    The query input has fewer channels than the stage (1 for a binary mask, the width of the class
    table for classes) and is tiled to its width. Tiling and a 1x1 convolution are one: the filters
    of repeated channels are added up.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_kv = nn.Conv2d(dim, 2 * HIDDEN_WIDTH, 1, bias=False)
        self.to_q = nn.Conv2d(dim, HIDDEN_WIDTH, 1, bias=False)
        self.to_out = nn.Conv2d(HIDDEN_WIDTH, dim, 1)

    def forward(
        self,
        x: Float[Tensor, "batch dim height width"],
        query: Shaped[Tensor, "batch query_channels height width"],
    ) -> Float[Tensor, "batch dim height width"]:
        """Return [batch, dim, height, width] for features of that shape and `query` [batch,
        channels, height, width].

        `query` is bool with one channel (labelled pixels), or float with a divisor of dim as
        channels.
        """
        height, width = x.shape[-2:]
        keys, values = (_heads(part) for part in self.to_kv(x).chunk(2, dim=1))
        filters = torch.unflatten(self.to_q.weight, 1, (-1, query.shape[1])).sum(1)
        if query.dtype == torch.bool:
            # A binary mask has two queries only: one for all labelled pixels, the zero query for
            # all others.
            queries = (
                torch.cat((torch.zeros_like(filters), filters))
                .view(1, 2, NUM_HEADS, HEAD_WIDTH)
                .transpose(1, 2)
            )
            attended = functional.scaled_dot_product_attention(
                queries.to(keys.dtype).expand(len(x), -1, -1, -1), keys, values
            )
            answers = self.to_out(attended.transpose(2, 3).reshape(len(x), HIDDEN_WIDTH, 1, 2))
            return torch.where(query, answers[..., 1:], answers[..., :1])
        queries = _heads(functional.conv2d(query.to(x.dtype), filters.to(x.dtype)))
        attended = functional.scaled_dot_product_attention(queries.to(keys.dtype), keys, values)
        result: Tensor = self.to_out(
            attended.transpose(2, 3).reshape(len(x), HIDDEN_WIDTH, height, width)
        )
        return result


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or in float64 when it has that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _heads(x: Tensor) -> Tensor:
    """Return [batch, hidden, height, width] as [batch, heads, height * width, head width]."""
    return torch.unflatten(x.flatten(2), 1, (NUM_HEADS, HEAD_WIDTH)).transpose(2, 3)


class Normed(nn.Module):
    """A layer behind a channel norm."""

    def __init__(self, dim: int, layer: nn.Module) -> None:
        super().__init__()
        self.fn = layer
        self.norm = ChannelLayerNorm(dim)

    def forward(
        self,
        x: Float[Tensor, "batch dim height width"],
        query: Shaped[Tensor, "batch query_channels height width"],
    ) -> Float[Tensor, "batch dim height width"]:
        """Return layer(norm(x), query)."""
        result: Tensor = self.fn(self.norm(x), query)
        return result


class ResidualLayer(nn.Module):
    """A layer added to its input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.fn = layer

    def forward(
        self,
        x: Float[Tensor, "batch dim height width"],
        query: Shaped[Tensor, "batch query_channels height width"],
    ) -> Float[Tensor, "batch dim height width"]:
        """Return x + layer(x, query)."""
        result: Tensor = x + self.fn(x, query)
        return result


def attention_layer(dim: int) -> nn.Module:
    """Return x + attention(norm(x)), named as in the published checkpoints."""
    return ResidualLayer(Normed(dim, MaskAttention(dim)))
