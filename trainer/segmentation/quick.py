"""A segmenter trained in memory in seconds, on block outputs of EfficientNet-Lite0 that are
computed once: what evaluations and reviews measure with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from histoprep.labels import IGNORED_ID
from trainer.models.efficientnet_lite import BLOCK_STRIDES
from trainer.models.segmenter import LITE_BLOCKS, LiteDecoder
from trainer.recipes.segmenter import class_weights, pixel_loss

_MAX_CELLS = 16
_WARMUP_SHARE = 0.2
_COARSE_PX = BLOCK_STRIDES[LITE_BLOCKS[-1]]
_RATIOS = tuple(_COARSE_PX // BLOCK_STRIDES[block] for block in LITE_BLOCKS)
# Scores are compared with every second pixel of the mask, a quarter of the work.
_MASK_STEP = 2


@dataclass(frozen=True, slots=True)
class QuickOptions:
    """How to train: optimiser steps, at least 4, of `batch_size` crops of at most 256 px a side."""

    steps: int = 300
    batch_size: int = 8
    width: int = 32
    lr: float = 3e-3
    weight_decay: float = 1e-2
    class_balance: float = 0.5


@dataclass(frozen=True, eq=False)
class FeatureTile:
    """A training tile: `maps`, the outputs of `LITE_BLOCKS` [1, channels, h, w] in any precision,
    and its mask, uint8 [height, width].
    """

    maps: Sequence[Tensor]
    mask: np.ndarray


def train_decoder(
    tiles: Sequence[FeatureTile],
    num_classes: int,
    seed: int,
    options: QuickOptions | None = None,
) -> LiteDecoder:
    """Return a decoder in evaluation mode, trained on random crops of tiles, each tile once a pass.

    The same tiles and seed give the same decoder.

    Args:
        tiles: The training tiles, at least one, of any sizes.
        num_classes: Number of classes; pixels of 255 have none.
        seed: Seed of weights, order and crops.
        options: How to train.
    """
    options = options or QuickOptions()
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = LiteDecoder(num_classes, options.width).to(tiles[0].maps[0].device).train()
        _train(decoder, tiles, rng, options)
    return decoder.eval().requires_grad_(False)


@torch.no_grad()
def segment_maps(
    decoder: LiteDecoder, maps: Sequence[Tensor], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted mask, uint8 [height, width], and the log-probability of each class at
    half that size, float16 [classes, ceil(height / 2), ceil(width / 2)].
    """
    scores = decoder(maps, size)[0]
    predicted = scores.argmax(dim=0).to(torch.uint8).cpu().numpy()
    log_probability = scores[:, ::_MASK_STEP, ::_MASK_STEP].log_softmax(dim=0)
    return predicted, log_probability.half().cpu().numpy()


def _train(
    decoder: LiteDecoder,
    tiles: Sequence[FeatureTile],
    rng: np.random.Generator,
    options: QuickOptions,
) -> None:
    num_classes = decoder.head.out_channels
    pixels = sum(
        np.bincount(tile.mask.ravel(), minlength=IGNORED_ID + 1)[:num_classes] for tile in tiles
    )
    device = tiles[0].maps[0].device
    weights = torch.from_numpy(class_weights(np.asarray(pixels), options.class_balance)).to(device)
    optimiser = torch.optim.AdamW(
        decoder.parameters(), options.lr, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        options.lr,
        total_steps=options.steps,
        pct_start=max(_WARMUP_SHARE, 2 / options.steps),
        cycle_momentum=False,
    )
    cells = min(
        _MAX_CELLS, *(min(tile.maps[-1].shape[-2:]) for tile in tiles), *_whole_cells(tiles)
    )
    passes = -(-options.steps * options.batch_size // len(tiles))
    order = np.concatenate([rng.permutation(len(tiles)) for _ in range(passes)])
    for step in range(options.steps):
        chosen = order[step * options.batch_size : (step + 1) * options.batch_size]
        crops = [_crop(tiles[index], cells, rng) for index in chosen.tolist()]
        masks = torch.from_numpy(np.stack([crop.mask for crop in crops])).to(device)
        maps = [
            torch.cat([crop.maps[level] for crop in crops]) for level in range(len(LITE_BLOCKS))
        ]
        loss = pixel_loss(decoder(maps, masks.shape[-2:]), masks, weights).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()


def _whole_cells(tiles: Sequence[FeatureTile]) -> list[int]:
    """Return how many coarse cells lie wholly inside each tile, at least one."""
    return [max(1, min(tile.mask.shape) // _COARSE_PX) for tile in tiles]


def _crop(tile: FeatureTile, cells: int, rng: np.random.Generator) -> FeatureTile:
    """Return a crop of a tile, cut at coarse cells, its mask at every second pixel."""
    height, width = (max(cells, side // _COARSE_PX) for side in tile.mask.shape)
    top, left = int(rng.integers(height - cells + 1)), int(rng.integers(width - cells + 1))
    maps = [
        part[..., top * ratio : (top + cells) * ratio, left * ratio : (left + cells) * ratio]
        for part, ratio in zip(tile.maps, _RATIOS, strict=True)
    ]
    side = cells * _COARSE_PX
    mask = tile.mask[
        top * _COARSE_PX : top * _COARSE_PX + side, left * _COARSE_PX : left * _COARSE_PX + side
    ]
    if mask.shape != (side, side):  # A tile smaller than a coarse cell.
        missing = [(0, side - length) for length in mask.shape]
        mask = np.pad(mask, missing, constant_values=IGNORED_ID)
    return FeatureTile(maps, np.ascontiguousarray(mask[::_MASK_STEP, ::_MASK_STEP]))
