"""The published network: a U-Net on latents that knows its mask by class fractions and by attention
queries.

Source: Aversa et al. 2023, DiffInfinite, arXiv 2306.13384, with the two options of
`Config` that their binary queries call for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
from jaxtyping import Bool, Float, Integer, Num
from pydantic import Field, model_validator
from torch import Tensor, nn

from trainer.choices import ClassEmbedding, MaskQuery
from trainer.models.denoisers.interface import Denoiser, DenoiserConfig
from trainer.models.denoisers.masks import check_masks, class_fractions, split_windows
from trainer.models.denoisers.reference_layers import (
    ResidualBlock,
    TimeEmbedding,
    at_least_float32,
    attention_layer,
)
from trainer.section import Natural, Positive, Share


class Config(DenoiserConfig):
    """What defines the network; the defaults are those of the published weights.

    Attributes:
        dim: Width of the first stage, even, a multiple of `resnet_block_groups`.
        dim_mults: Width of each stage as a multiple of `dim`; every stage but the first halves
            height and width.
        resnet_block_groups: Groups of the group normalisations.
        block_per_layer: Residual blocks in each stage.
        mask_query: What attention queries are made of. binary is "is this pixel labelled" (the
            published weights; which class it is makes no difference then), class is the class-table
            row of each pixel's class.
        class_embedding: fraction mixes the class table by pixel shares, max takes the row of the
            largest class id.
        dropout: Share of the features that training drops in each block.
        null_class: What the guidance null is. None is an all-zero embedding and an all-zero query,
            which no class owns; a class id stands for a mask full of that class (published weights
            were trained with 0).
    """

    name: Literal["reference-unet"] = "reference-unet"
    dim: Annotated[int, Field(ge=4, multiple_of=2)] = 256
    dim_mults: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4)
    resnet_block_groups: Positive = 2
    block_per_layer: Positive = 2
    mask_query: MaskQuery = "binary"
    class_embedding: ClassEmbedding = "fraction"
    dropout: Share = 0.05
    null_class: Natural | None = None

    @model_validator(mode="after")
    def _groups_divide_the_width(self) -> Self:
        if self.dim % self.resnet_block_groups:
            raise ValueError(
                f"resnet_block_groups must divide dim, seen {self.resnet_block_groups} and"
                f" {self.dim}"
            )
        return self

    def build(self, num_classes: int, channels: int) -> ReferenceUNet:
        """Return the network; see `DenoiserConfig.build`."""
        return ReferenceUNet(self, num_classes, channels)


@dataclass(frozen=True)
class ReferenceCondition:
    """What the network knows of a batch of masks; it depends on neither latents nor timestep, so a
    sampler makes it once.

    `embedding` [batch, 4 dim]; `queries`: for each stage the query input of its attention [batch, 1
    (bool) or dim, height, width].
    """

    embedding: Tensor
    queries: list[Tensor] = field(default_factory=list)


class ReferenceUNet(Denoiser):
    """The reference denoiser: 172,101,124 parameters at 5 classes with the default
    configuration.

    Raises:
        ValueError: For a null class that is no class id.
    """

    def __init__(self, config: Config, num_classes: int, channels: int = 4) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}, at least 1 expected")
        if config.null_class is not None and config.null_class >= num_classes:
            raise ValueError(
                f"null_class is {config.null_class}, no class id: 0 to {num_classes - 1} expected"
            )
        self.config, self.num_classes, self.channels = config, num_classes, channels
        self.stride = 1 << (len(config.dim_mults) - 1)
        dim = config.dim
        widths = [dim, *(dim * mult for mult in config.dim_mults)]
        stages = list(pairwise(widths))
        self.init_conv = nn.Conv2d(channels, dim, 7, padding=3)
        self.time_mlp = TimeEmbedding(dim)
        self.classes_emb = nn.Embedding(num_classes, dim)
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
        self.final_conv = nn.Conv2d(dim, channels, 1)

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

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Num[Tensor, " batch"],
        mask: Integer[Tensor, "batch 1 height_px width_px"],
        drop: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the prediction for noisy latents; see `Denoiser.forward`.

        Args:
            x: Noisy latents [batch, channels, h, w]; h and w are multiples of `stride`.
            t: Timesteps 0..999, whole or fractional.
            mask: Class ids, uint8 or int64 [batch, 1, H, W], with H and W the same whole multiple
                of h and w (8 with the usual codec).
            drop: The samples that get the guidance null instead of their mask.

        Raises:
            ValueError: For shapes or class ids that do not fit; ids are checked on the CPU only,
                where that costs nothing.
        """
        return self.denoise(x, t, self.condition(mask, (x.shape[-2], x.shape[-1]), drop))

    def condition(
        self,
        mask: Integer[Tensor, "batch 1 height_px width_px"],
        size: tuple[int, int],
        drop: Bool[Tensor, " batch"] | None = None,
    ) -> ReferenceCondition:
        """Return what the network knows of masks; it depends on neither latents nor timestep.

        Args:
            mask: Class ids [batch, 1, H, W].
            size: Height and width of the latents.
            drop: The samples that get the guidance null instead of their mask.

        Raises:
            ValueError: As `forward`.
        """
        factor = check_masks(mask, size, num_classes=self.num_classes, stride=self.stride)
        table = at_least_float32(self.classes_emb.weight)
        fractions = class_fractions(mask, self.num_classes, factor).to(table.dtype)
        labelled = split_windows(mask, factor).amax((3, 5)) > 0
        conditional = (
            torch.ones(len(mask), dtype=torch.bool, device=mask.device) if drop is None else ~drop
        )
        column = conditional[:, None, None, None]
        null = torch.zeros_like(fractions[:1])
        if self.config.null_class is not None:
            null[:, self.config.null_class] = 1
        if self.config.class_embedding == "fraction":
            embedding = torch.where(column, fractions, null).mean((2, 3)) @ table
        else:
            largest = torch.where(
                conditional, mask.flatten(1).amax(1).long(), self.config.null_class or 0
            )
            embedding = table[largest] * (
                conditional[:, None] | (self.config.null_class is not None)
            )
        if self.config.mask_query == "binary":
            query = torch.where(column, labelled, bool(self.config.null_class))
        else:
            query = torch.einsum("bkhw,kd->bdhw", torch.where(column, fractions, null), table)
        return ReferenceCondition(
            self.classes_mlp(embedding.to(self.classes_emb.weight.dtype)), self._pooled(query)
        )

    def denoise(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Num[Tensor, " batch"],
        condition: ReferenceCondition,
    ) -> Float[Tensor, "batch channels height width"]:
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
        result: Tensor = self.final_conv(x)
        return result

    def _pooled(self, query: Tensor) -> list[Tensor]:
        """Return the query input at the size of every stage: a pixel is labelled when any below it
        is, class rows are averaged.
        """
        queries = [query]
        for _ in self.config.dim_mults[1:]:
            windows = split_windows(queries[-1], 2)
            queries.append(
                windows.any(5).any(3) if query.dtype == torch.bool else windows.mean((3, 5))
            )
        return queries
