"""Large images in tiles: where they lie, how much around them must be computed with them, and the
denoiser that works tile by tile.

All tiles make each solver step together, so that neighbours never disagree: with the network's own
halo around each, tiles give what one pass over the whole image gives, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from trainer.diffusion.guidance import Denoise, guided

Area = tuple[slice, slice]
"""Rows and columns."""


class Crop(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def area(self, unit_px: int = 1) -> Area:
        """Return rows and columns in units of `unit_px` pixels, which divides all four numbers."""
        rows, columns = (
            slice(start // unit_px, (start + length) // unit_px)
            for start, length in ((self.top, self.height), (self.left, self.width))
        )
        return rows, columns


@dataclass(frozen=True)
class LatentTile:
    """One tile, in latents: `own` is where its result goes, `seen` what is computed, and `inside`
    where `own` lies in `seen`.
    """

    own: Area
    seen: Area
    inside: Area


def cut_tiles(
    size: tuple[int, int], tile: int, halo: int, needed: Area | None = None
) -> Iterator[LatentTile]:
    """Yield the tiles of an image in order of rows.

    What is computed has the same size for every tile of an image that is large enough, so that a
    compiled network is compiled once.

    Args:
        size: Height and width of the image, in latents.
        tile: Height and width of a tile.
        halo: What must be computed around a tile, where the image goes on.
        needed: Only tiles that touch this area; all if None.
    """
    for row in range(0, size[0], tile):
        for column in range(0, size[1], tile):
            own = (_part(row, tile, size[0]), _part(column, tile, size[1]))
            if needed is not None and not all(map(_touch, own, needed)):
                continue
            seen = (_window(row, tile, halo, size[0]), _window(column, tile, halo, size[1]))
            inside = tuple(
                slice(part.start - window.start, part.stop - window.start)
                for part, window in zip(own, seen, strict=True)
            )
            yield LatentTile(own, seen, (inside[0], inside[1]))


def grow(area: Area, margin: int, size: tuple[int, int]) -> Area:
    """Return an area with a margin on each side, as far as the image goes."""
    rows, columns = (
        slice(max(0, part.start - margin), min(end, part.stop + margin))
        for part, end in zip(area, size, strict=True)
    )
    return rows, columns


def areas_needed(area: Area, halo: int, size: tuple[int, int], num_calls: int) -> Iterator[Area]:
    """Yield, for each call of the network to come, where its prediction is needed for an area of
    the result: a halo less with each.
    """
    for left in reversed(range(num_calls)):
        yield grow(area, left * halo, size)


def reach_over(tile: LatentTile, margin: int, size: tuple[int, int]) -> tuple[Area, Area]:
    """Return the area of a tile with a margin below and on the right, as far as the image goes, and
    where that lies in what is computed.
    """
    rows, columns = (
        slice(part.start, min(end, part.stop + margin))
        for part, end in zip(tile.own, size, strict=True)
    )
    inside = tuple(
        slice(part.start - window.start, part.stop - window.start)
        for part, window in zip((rows, columns), tile.seen, strict=True)
    )
    return (rows, columns), (inside[0], inside[1])


def fade_into(
    before: UInt8[np.ndarray, "batch height width 3"],
    image: UInt8[np.ndarray, "batch height width 3"],
    area: Area,
    fade_px: int,
) -> None:
    """Write a tile into the part of an image that it belongs to, in place: where the tiles above
    and on the left reach into it, from theirs to this one over `fade_px` pixels.

    Args:
        before: The part of the image, with what those tiles wrote.
        image: The tile.
        area: Where both are in the image, in pixels.
        fade_px: How far earlier tiles reach into this one; 0 for not at all.
    """
    if not fade_px:
        before[...] = image
        return
    rows, columns = (_ramp(part, fade_px) for part in area)
    weights = (rows[:, None] * columns)[..., None]
    before[...] = np.rint(before + weights * (image.astype(np.float32) - before)).astype(np.uint8)


def _ramp(part: slice, fade_px: int) -> np.ndarray:
    """Return the weight of a tile along its rows or columns, float32: rising to 1 where there is a
    tile before it.
    """
    places = np.arange(part.stop - part.start, dtype=np.float32)
    if part.start == 0:
        return np.ones_like(places)
    return np.minimum(1.0, (places + 0.5) / fade_px).astype(np.float32)


def scale_area(area: Area, factor: int) -> Area:
    """Return an area of latents in pixels, `factor` a side."""
    rows, columns = (slice(factor * part.start, factor * part.stop) for part in area)
    return rows, columns


@dataclass
class TiledDenoise:
    """`guided` for large images, tile by tile and image by image; as a function (noisy, time) ->
    prediction it takes the place of `guided(model, mask, guidance_scale)`.

    Attributes:
        model: The denoiser.
        mask: The masks, class ids [batch, 1, H, W].
        guidance_scale: See `guided`.
        tile: Height and width of a tile, in latents, a multiple of the denoiser's stride.
        halo: The denoiser's halo.
        needed: For each call to come the area whose prediction is needed; all of it if None.
            Elsewhere the prediction is 0.
    """

    model: Any
    mask: Integer[Tensor, "batch 1 height_px width_px"]
    guidance_scale: float
    tile: int
    halo: int
    needed: Iterator[Area] | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the prediction [batch, channels, height, width]."""
        size = (x.shape[-2], x.shape[-1])
        factor = self.mask.shape[-1] // size[1]
        result = torch.zeros_like(x)
        needed = None if self.needed is None else next(self.needed)
        for tile in cut_tiles(size, self.tile, self.halo, needed):
            pixels = scale_area(tile.seen, factor)
            for index in range(len(x)):
                image = slice(index, index + 1)
                denoise: Denoise = guided(
                    self.model, self.mask[image, :, *pixels], self.guidance_scale
                )
                part = denoise(x[image, :, *tile.seen], t[image])
                result[image, :, *tile.own] = part[:, :, *tile.inside].to(x.dtype)
        return result


def _part(start: int, tile: int, size: int) -> slice:
    return slice(start, min(size, start + tile))


def _window(start: int, tile: int, halo: int, size: int) -> slice:
    """Return the rows or columns to compute: of one length, moved inwards at the borders."""
    length = min(size, tile + 2 * halo)
    first = min(max(0, start - halo), size - length)
    return slice(first, first + length)


def _touch(part: slice, other: slice) -> bool:
    return bool(part.start < other.stop and other.start < part.stop)
