"""A plain vision transformer trunk (ViT-S/16 by default): a token for each patch, no class token,
no neck.

Source: Dosovitskiy et al. 2020, arXiv 2010.11929; without the class token the small one has
21,664,128 parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention over tokens."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Return tokens [B, N, width] of tokens [B, N, width]."""
        batch, count, width = tokens.shape
        query, key, value = (
            self.qkv(tokens)
            .reshape(batch, count, 3, self.num_heads, width // self.num_heads)
            .permute(2, 0, 3, 1, 4)
        )
        mixed = nnf.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return result


class TransformerBlock(nn.Module):
    """Attention, then a perceptron, each on normalised tokens and added to its input."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Return tokens [B, N, width] of tokens [B, N, width]."""
        tokens = tokens + self.attn(self.norm1(tokens))
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result


class VisionTransformerTrunk(nn.Module):
    """Patches to tokens to a feature map; position embeddings of a `grid` x `grid` map are
    interpolated to other image sizes.
    """

    def __init__(
        self, width: int = 384, depth: int = 12, num_heads: int = 6, patch: int = 16, grid: int = 14
    ) -> None:
        super().__init__()
        self.num_features = width
        self.stride = patch
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, width, grid, grid))
        self.blocks = nn.Sequential(*(TransformerBlock(width, num_heads) for _ in range(depth)))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features out_height out_width"]:
        """Return features [B, width, H / patch, W / patch] of normalised images [B, 3, H, W]."""
        patches = self.patch_embed(images)
        place: Tensor = self.pos_embed
        if place.shape[-2:] != patches.shape[-2:]:
            place = nnf.interpolate(
                place, size=patches.shape[-2:], mode="bicubic", align_corners=False
            )
        tokens = self.blocks((patches + place).flatten(2).transpose(1, 2))
        result: Tensor = tokens.transpose(1, 2).reshape(patches.shape)
        return result
