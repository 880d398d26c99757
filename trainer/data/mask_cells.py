"""Masks on a coarse grid: whole cells of one class each, as a diffusion model of masks sees them.

Class ids are never averaged. On the way down a cell gets its most frequent class; on the way up a
pixel gets the class of one of the four cells around it, so that no third class appears where two
meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Integer, UInt8
from torch import Tensor
from torch.nn import functional

from histoprep.errors import UsageError
from histoprep.labels import IGNORED_ID
from trainer.choices import Fit, OnUnreadable
from trainer.data.randomness import keyed_uniforms
from trainer.data.tiles import draw_noise, read_next, to_tensors
from trainer.data.transforms import allowed_views, apply_view, check_size, corner, pick, windows

if TYPE_CHECKING:
    from histoprep.shards import TileSource
    from histoprep.streams import Streams


def reduce_masks(
    masks: UInt8[np.ndarray, "batch height width"], num_classes: int, cell_px: int
) -> UInt8[np.ndarray, "batch rows columns"]:
    """Return the most frequent class of every cell, the lowest id where several are.

    Args:
        masks: Class ids, uint8 [batch, height, width]; both sides are multiples of `cell_px`.
            Ignored pixels (255, unless that is a class) count as class 0.
        num_classes: Class ids 0 .. num_classes - 1 may occur.
        cell_px: Pixels a side of a cell.
    """
    known = masks if num_classes > IGNORED_ID else np.where(masks == IGNORED_ID, 0, masks)
    count, height, width = masks.shape
    cells = known.reshape(count, height // cell_px, cell_px, width // cell_px, cell_px)
    counts = np.stack([(cells == index).sum(axis=(2, 4)) for index in range(num_classes)])
    return np.asarray(counts.argmax(axis=0).astype(np.uint8))


def enlarge_cells(
    cells: UInt8[np.ndarray, "batch rows columns"], num_classes: int, cell_px: int
) -> UInt8[np.ndarray, "batch height width"]:
    """Return masks with `cell_px` pixels a side for every cell, with smooth outlines.

    A pixel gets the class with the largest bilinear weight among the cells around it.

    Args:
        cells: Class ids, uint8 [batch, rows, columns].
        num_classes: Class ids 0 .. num_classes - 1 may occur.
        cell_px: Pixels a side of a cell.
    """
    signed = one_hot(torch.from_numpy(cells), num_classes)
    weights = functional.interpolate(signed, scale_factor=cell_px, mode="bilinear")
    return np.asarray(weights.argmax(dim=1).to(torch.uint8).numpy())


def one_hot(
    cells: Integer[Tensor, "batch rows columns"], num_classes: int
) -> Float32[Tensor, "batch {num_classes} rows columns"]:
    """Return class ids as +1 for the class of a cell and -1 for all others, float32."""
    hot = functional.one_hot(cells.long(), num_classes).movedim(-1, 1)
    return hot.float() * 2 - 1


def class_shares(
    cells: Integer[Tensor, "batch rows columns"], num_classes: int
) -> Float32[Tensor, "batch {num_classes}"]:
    """Return the share of the cells of each class, float32 [batch, classes], summing to 1."""
    return functional.one_hot(cells.long().flatten(1), num_classes).float().mean(1)


@dataclass
class CellDataset:
    """Position -> cells of a training mask; picklable. Images are not decoded.

    Args:
        tiles: A manifest or an index of shards.
        placement: Which tile a position takes.
        seed: Seed of the run.
        image_size: Pixels a side of a crop, a multiple of `cell_px`.
        num_classes: Class ids 0 .. num_classes - 1 may occur.
        cell_px: Pixels a side of a cell.
        fit: What becomes of tiles of another size; see `TileDataset`.
        flips: Whether mirror images occur.
        turns: Whether quarter turns occur.
        on_unreadable: `stop`, or `skip` to the next readable tile.
        drop: The share of samples whose class shares are hidden.
    """

    tiles: TileSource
    placement: Streams
    seed: int
    image_size: int
    num_classes: int
    cell_px: int
    fit: Fit = "refuse"
    flips: bool = True
    turns: bool = True
    on_unreadable: OnUnreadable = "stop"
    drop: float = 0.0

    def batch(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Return `cells` uint8 [batch, rows, columns], `drop` bool [batch], `u`, `noise` and the
        places of the samples of `positions`.
        """
        streams, rows = self.placement.place(positions, self.seed)
        draws = keyed_uniforms(self.seed, positions, "augment", 3)
        read = [
            self._read(int(stream), int(row), draw)
            for stream, row, draw in zip(streams, rows, draws, strict=True)
        ]
        masks = np.stack([mask for _, _, mask in read])
        arrays: dict[str, Any] = {
            "position": positions,
            "row": np.array([row for row, _, _ in read]),
            "num_skipped": np.array([skipped for _, skipped, _ in read]),
            "cells": reduce_masks(masks, self.num_classes, self.cell_px),
        }
        side = self.image_size // self.cell_px
        batch = to_tensors(arrays) | draw_noise(
            self.seed, positions, (self.num_classes, side, side)
        )
        drawn = keyed_uniforms(self.seed, positions, "drop")[:, 0] < self.drop
        return batch | {"drop": torch.from_numpy(drawn)}

    def _read(self, stream: int, row: int, draws: np.ndarray) -> tuple[int, int, np.ndarray]:
        skipped = 0
        if self.on_unreadable == "stop":
            mask = self.tiles.read_mask(row)
        else:
            rows = self.placement.streams[stream].rows
            row, skipped, mask = read_next(rows, row, self.tiles.read_mask)
        height_px, width_px = mask.shape
        size, tile_id = self.image_size, str(self.tiles.tile_ids[row])
        check_size(height_px, width_px, size, self.fit, tile_id=tile_id)
        top, left = corner(height_px, width_px, size, self.fit, draws[1:])
        views = allowed_views(flips=self.flips, turns=self.turns)
        crop = mask[top : top + size, left : left + size]
        turned = apply_view(crop, views[int(pick(draws[0], len(views)))])
        return row, skipped, np.ascontiguousarray(turned)


def cut_windows(
    mask: UInt8[np.ndarray, "height width"], size_px: int
) -> list[UInt8[np.ndarray, "{size_px} {size_px}"]]:
    """Return the fewest square windows that cover a mask, row by row.

    Raises:
        UsageError: For a mask that is smaller than a window.
    """
    if min(mask.shape) < size_px:
        raise UsageError(
            "a mask is smaller than the windows to cut",
            seen=" x ".join(map(str, mask.shape)),
            expected=f"at least {size_px} px a side",
        )
    return [
        mask[top : top + size_px, left : left + size_px]
        for top, left in windows(mask.shape[0], mask.shape[1], size_px)
    ]
