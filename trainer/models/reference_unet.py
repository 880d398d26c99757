"""The published network: a U-Net on latents that knows its mask by class fractions and by attention
queries.

Source: Aversa et al. 2023, DiffInfinite, arXiv 2306.13384, with the two options of
`ReferenceUNetConfig` that their binary queries call for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.models.layers import ResidualBlock, TimeEmbedding, at_least_float32, attention_layer

MaskQuery = Literal["binary", "class"]
ClassEmbedding = Literal["fraction", "max"]


@dataclass(frozen=True)
class ReferenceUNetConfig:
    """What defines the network; the defaults are those of the published weights.

    `mask_query`: binary asks with "is this pixel labelled" (the published weights; which class it
    is makes no difference then), class with the class-table row of each pixel's class.
    `class_embedding`: fraction mixes the class table by pixel shares, max takes the row of the
    largest class id. `null_class`: what the guidance null is; None is an all-zero embedding and an
    all-zero query, which no class owns, a class id stands for a mask full of that class (published
    weights were trained with 0).
    """

    num_classes: int
    dim: int = 256
    dim_mults: tuple[int, ...] = (1, 2, 4)
    channels: int = 4
    resnet_block_groups: int = 2
    block_per_layer: int = 2
    mask_query: MaskQuery = "binary"
    class_embedding: ClassEmbedding = "fraction"
    dropout: float = 0.05
    null_class: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a network that cannot be built."""
        object.__setattr__(self, "dim_mults", tuple(self.dim_mults))
        problems = [
            (self.num_classes < 1, f"num_classes is {self.num_classes}, at least 1 expected"),
            (
                self.dim < 4 or self.dim % 2 == 1,
                f"dim is {self.dim}, an even number from 4 expected",
            ),
            (
                not self.dim_mults or min(self.dim_mults) < 1,
                f"dim_mults are {self.dim_mults}, whole numbers from 1 expected",
            ),
            (
                self.resnet_block_groups < 1 or self.dim % max(self.resnet_block_groups, 1),
                "resnet_block_groups must divide dim",
            ),
            (
                self.block_per_layer < 1,
                f"block_per_layer is {self.block_per_layer}, at least 1 expected",
            ),
            (
                self.mask_query not in ("binary", "class"),
                f"mask_query is {self.mask_query!r}, binary or class expected",
            ),
            (
                self.class_embedding not in ("fraction", "max"),
                f"class_embedding is {self.class_embedding!r}, fraction or max expected",
            ),
            (
                self.null_class is not None and not 0 <= self.null_class < self.num_classes,
                f"null_class is {self.null_class}, no class id",
            ),
        ]
        if wrong := [text for is_wrong, text in problems if is_wrong]:
            raise ValueError("; ".join(wrong))

    @property
    def stride(self) -> int:
        """Return what height and width of the latents must be multiples of."""
        return 1 << (len(self.dim_mults) - 1)


@dataclass(frozen=True)
class Condition:
    """What the network knows of a batch of masks; it depends on neither latents nor timestep, so a
    sampler makes it once.

    `embedding` [batch, 4 dim]; `queries`: for each stage the query input of its attention [batch, 1
    (bool) or dim, height, width].
    """

    embedding: Tensor
    queries: list[Tensor] = field(default_factory=list)


class ReferenceUNet(nn.Module):
    """The reference denoiser: 172,101,124 parameters at 5 classes with the default
    configuration.
    """

    def __init__(self, config: ReferenceUNetConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        widths = [dim, *(dim * mult for mult in config.dim_mults)]
        stages = list(pairwise(widths))
        self.init_conv = nn.Conv2d(config.channels, dim, 7, padding=3)
        self.time_mlp = TimeEmbedding(dim)
        self.classes_emb = nn.Embedding(config.num_classes, dim)
        self.classes_mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, 4 * dim)
        )
        last = len(stages) - 1
        self.downs = nn.ModuleList(
            self._down_stage(*stage, is_last=number == last) for number, stage in enumerate(stages)
        )
        self.mid_block1 = self._block(widths[-1], widths[-1])
        self.mid_attn = attention_layer(widths[-1])
        self.mid_block2 = self._block(widths[-1], widths[-1])
        self.ups = nn.ModuleList(
            self._up_stage(*stage, is_last=number == last)
            for number, stage in enumerate(reversed(stages))
        )
        self.final_res_block = self._block(2 * dim, dim)
        self.final_conv = nn.Conv2d(dim, config.channels, 1)

    def _block(self, dim_in: int, dim_out: int) -> ResidualBlock:
        config = self.config
        return ResidualBlock(
            dim_in,
            dim_out,
            embedding_width=8 * config.dim,
            groups=config.resnet_block_groups,
            dropout=config.dropout,
        )

    def _down_stage(self, dim_in: int, dim_out: int, *, is_last: bool) -> nn.ModuleList:
        blocks = [self._block(dim_in, dim_in) for _ in range(self.config.block_per_layer)]
        shrink = (
            nn.Conv2d(dim_in, dim_out, 3, padding=1)
            if is_last
            else nn.Conv2d(dim_in, dim_out, 4, stride=2, padding=1)
        )
        return nn.ModuleList([*blocks, attention_layer(dim_in), shrink])

    def _up_stage(self, dim_in: int, dim_out: int, *, is_last: bool) -> nn.ModuleList:
        blocks = [
            self._block(dim_out + dim_in, dim_out) for _ in range(self.config.block_per_layer)
        ]
        narrow = nn.Conv2d(dim_out, dim_in, 3, padding=1)
        grow = (
            narrow
            if is_last
            else nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), narrow)
        )
        return nn.ModuleList([*blocks, attention_layer(dim_out), grow])

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, drop: Tensor | None = None) -> Tensor:
        """Return the prediction [batch, channels, h, w] for noisy latents `x` of that shape.

        `t` [batch] are timesteps 0..999, whole or fractional. `mask` [batch, 1, H, W] are class
        ids, uint8 or int64, with H and W the same whole multiple of h and w (8 with the usual
        codec; h and w multiples of `config.stride`). `drop` [batch], bool, picks the samples that
        get the guidance null instead of their mask. Raises ValueError for shapes or class ids that
        do not fit; ids are looked at on the CPU only, where that costs nothing.
        """
        return self.denoise(x, t, self.condition(mask, (x.shape[-2], x.shape[-1]), drop))

    def condition(
        self, mask: Tensor, size: tuple[int, int], drop: Tensor | None = None
    ) -> Condition:
        """Return what the network knows of masks [batch, 1, H, W] when its latents are `size` = (h,
        w); errors as `forward`.
        """
        factor = self._checked_factor(mask, size)
        table = at_least_float32(self.classes_emb.weight)
        fractions = class_fractions(mask, self.config.num_classes, factor).to(table.dtype)
        labelled = mask.unflatten(3, (-1, factor)).unflatten(2, (-1, factor)).amax((3, 5)) > 0
        kept = (
            torch.ones(len(mask), dtype=torch.bool, device=mask.device) if drop is None else ~drop
        )
        column = kept[:, None, None, None]
        null = torch.zeros_like(fractions[:1])
        if self.config.null_class is not None:
            null[:, self.config.null_class] = 1
        if self.config.class_embedding == "fraction":
            embedding = torch.where(column, fractions, null).mean((2, 3)) @ table
        else:
            largest = torch.where(kept, mask.flatten(1).amax(1).long(), self.config.null_class or 0)
            embedding = table[largest] * (kept[:, None] | (self.config.null_class is not None))
        if self.config.mask_query == "binary":
            query = torch.where(column, labelled, bool(self.config.null_class))
        else:
            query = torch.einsum("bkhw,kd->bdhw", torch.where(column, fractions, null), table)
        return Condition(
            self.classes_mlp(embedding.to(self.classes_emb.weight.dtype)), self._pooled(query)
        )

    def denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the prediction [batch, channels, h, w] for noisy latents under a condition made by
        `condition`.
        """
        embedding = torch.cat((self.time_mlp(t), condition.embedding), dim=1)
        queries = condition.queries
        x = first = self.init_conv(x)
        skips = []
        for stage, query in zip(self.downs, queries, strict=True):
            *blocks, attention, shrink = stage.children()
            for block in blocks[:-1]:
                x = block(x, embedding)
                skips.append(x)
            x = attention(blocks[-1](x, embedding), query)
            skips.append(x)
            x = shrink(x)
        x = self.mid_block1(x, embedding)
        x = self.mid_attn(x, queries[-1])
        x = self.mid_block2(x, embedding)
        for stage, query in zip(self.ups, reversed(queries), strict=True):
            *blocks, attention, grow = stage.children()
            for block in blocks:
                x = block(torch.cat((x, skips.pop()), dim=1), embedding)
            x = grow(attention(x, query))
        x = self.final_res_block(torch.cat((x, first), dim=1), embedding)
        return self.final_conv(x)

    def _pooled(self, query: Tensor) -> list[Tensor]:
        """Return the query input at the size of every stage: a pixel is labelled when any below it
        is, class rows are averaged.
        """
        queries = [query]
        for _ in self.config.dim_mults[1:]:
            squares = queries[-1].unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
            queries.append(
                squares.any(5).any(3) if query.dtype == torch.bool else squares.mean((3, 5))
            )
        return queries

    def _checked_factor(self, mask: Tensor, size: tuple[int, int]) -> int:
        factor = mask.shape[-2] // size[0]
        if (
            mask.ndim != 4
            or mask.shape[1] != 1
            or factor < 1
            or tuple(mask.shape[-2:]) != (factor * size[0], factor * size[1])
        ):
            raise ValueError(
                f"the mask is {tuple(mask.shape)}; [batch, 1, n * {size[0]}, n * {size[1]}]"
                f" expected for latents of {size}"
            )
        if size[0] % self.config.stride or size[1] % self.config.stride:
            raise ValueError(
                f"latents of {size}: height and width must be multiples of {self.config.stride}"
            )
        if mask.device.type == "cpu" and not torch.compiler.is_compiling():
            least, most = int(mask.min()), int(mask.max())
            if least < 0 or most >= self.config.num_classes:
                raise ValueError(
                    f"the mask holds class ids {least} to {most}; 0 to"
                    f" {self.config.num_classes - 1} expected"
                )
        return factor


def class_fractions(mask: Tensor, num_classes: int, factor: int) -> Tensor:
    """Return the share of each class in every `factor` x `factor` square of masks [batch, 1, H, W]:
    float32 [batch, num_classes, H/f, W/f].

    Class ids are never averaged themselves: between class 1 and class 3 lies no class 2.
    """
    ids = torch.arange(num_classes, device=mask.device, dtype=mask.dtype)[:, None, None]
    squares = (mask == ids).unflatten(3, (-1, factor)).unflatten(2, (-1, factor))
    return squares.sum((3, 5), dtype=torch.float32) / (factor * factor)
