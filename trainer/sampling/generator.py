"""A trained denoiser with everything that turns a mask into an image: objective, codec, scaling of
latents, device, precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Bool, UInt8
from torch import Tensor

from trainer.data.latent_scaling import LatentScaling
from trainer.data.randomness import keyed_normals
from trainer.data.transforms import to_float, to_uint8
from trainer.diffusion.guidance import Denoise, guided
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Elsewhere, Known, Solver, count_calls, sample
from trainer.errors import DivergedError
from trainer.models.denoisers.masks import split_windows, without_ignored
from trainer.models.frozen import frozen_weights
from trainer.sampling.tiling import (
    Area,
    Crop,
    TiledDenoise,
    areas_needed,
    cut_tiles,
    fade_into,
    grow,
    reach_over,
    scale_area,
)

_NOISE_BLOCK = 64
# Around and into the next tile, in latents, for codecs without a halo of their own.
_FALLBACK_HALO, _FADE = 16, 12
_CROP_TILE_LATENTS = 64
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class SamplingOptions:
    """How images are sampled: the same options, seed and tile id give the same image,
    independently of the others sampled.
    """

    guidance_scale: float = 2.0
    solver: Solver = field(default_factory=Solver)
    seed: int = 0
    guidance_interval: tuple[float, float] | None = None
    """Least and largest sigma / signal with guidance; without it elsewhere. None: everywhere."""

    def to_json(self) -> dict[str, Any]:
        """Return the options as the record of a request has them.

        What came later than the others is left out at its default: requests of before stay valid.
        """
        record: dict[str, Any] = asdict(self)
        if self.guidance_interval is None:
            del record["guidance_interval"]
        if self.solver.spacing == "time":
            del record["solver"]["spacing"]
        return record


@dataclass(frozen=True)
class KeptPixels:
    """What is kept of real images: `images` uint8 [batch, height, width, 3] where `where` (bool
    [batch, height, width]) is true.
    """

    images: UInt8[np.ndarray, "batch height width 3"]
    where: Bool[np.ndarray, "batch height width"]


@dataclass(frozen=True, eq=False)
class Generator:
    """Masks to images. `denoiser` takes (latents, time, mask, drop), in evaluation mode on
    `device`, `codec` likewise.

    `multiple_px`: height and width must be multiples of it, the codec's factor times the denoiser's
    total stride.

    `halo`: the denoiser's, in latents. With one, noise belongs to absolute positions, and images
    larger than `tile_px` (a multiple of `multiple_px`; None for one pass) are computed in tiles of
    that size: the same images to rounding, in memory that grows with the tile.
    """

    denoiser: Any
    objective: Objective
    codec: Any
    scaling: LatentScaling
    num_classes: int
    stride: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    halo: int | None = None
    tile_px: int | None = None

    @property
    def multiple_px(self) -> int:
        """Return what height and width of a mask must be multiples of."""
        return int(self.codec.factor) * self.stride

    @torch.no_grad()
    def generate(
        self,
        masks: UInt8[np.ndarray, "batch height width"],
        tile_ids: Sequence[str],
        options: SamplingOptions,
        kept: KeptPixels | None = None,
        *,
        finite_only: bool = False,
        crop: Crop | None = None,
    ) -> UInt8[np.ndarray, "batch out_height out_width 3"]:
        """Return images for masks.

        Args:
            masks: Class ids, uint8 [batch, height, width]; ignored pixels (255) are unlabelled.
            tile_ids: Their tile ids, which with the seed determine the noise.
            options: Guidance, solver and seed.
            kept: Pixels that come back exactly; the model continues what it sees of them.
            finite_only: Whether numbers that are not finite raise; otherwise they are black, which
                will do
                for a preview of a training.
            crop: The part of the images to make, a multiple of the codec's factor; it is what the
                whole images have there, and costs what it depends on. Needs a halo.

        Returns:
            Images, or the part of them, uint8 [batch, height, width, 3].

        Raises:
            DivergedError: When the model produced NaN or infinite values and `finite_only` is set.
        """
        height, width = masks.shape[1:]
        shape = (self.codec.channels, height // self.codec.factor, width // self.codec.factor)
        noise = self._noise(options.seed, tile_ids, shape, "sample")
        mask = torch.from_numpy(np.ascontiguousarray(masks)).to(self.device)[:, None]
        condition = without_ignored(mask, self.num_classes)
        # Networks in and out of the interval take turns, so they share what is needed at each call.
        needed = None if crop is None else self._needed(crop, shape[1:], options.solver)
        denoise = self._guided(condition, options.guidance_scale, needed)
        interval = options.guidance_interval
        elsewhere = Elsewhere(interval, self._guided(condition, 1.0, needed)) if interval else None
        known = None if kept is None else self._known(kept)
        with self._autocast(), frozen_weights(self.denoiser):
            latents = sample(
                denoise,
                noise,
                self.objective,
                options.solver,
                step_noise=lambda step: self._noise(
                    options.seed, tile_ids, shape, f"sample step {step}"
                ),
                known=known,
                elsewhere=elsewhere,
            )
        area = None if crop is None else crop.area(self.codec.factor)
        images, finite = self._decode(latents, area)
        if finite_only:
            _check_finite(latents, finite, tile_ids)
        part = (slice(None), slice(None)) if crop is None else crop.area()
        images = images[:, *part]
        if kept is None:
            return images
        return np.where(kept.where[:, *part, None], kept.images[:, *part], images)

    def _needed(self, crop: Crop, size: tuple[int, ...], solver: Solver) -> Iterator[Area]:
        """Return where each call's prediction is needed for the pixels of a crop."""
        assert self.halo is not None
        whole = (size[0], size[1])
        area = grow(crop.area(self.codec.factor), self._decoder_halo, whole)
        return areas_needed(area, self.halo, whole, count_calls(self.objective, solver))

    def _guided(
        self, mask: Tensor, guidance_scale: float, needed: Iterator[Area] | None
    ) -> Denoise:
        """Return the denoiser under masks [batch, 1, H, W], in tiles where they are larger, or
        where only a part is needed.
        """
        tile = self._tile_for(mask.shape[-2:])
        if self.halo is None or (tile is None and needed is None):
            return guided(self.denoiser, mask, guidance_scale)
        side = tile or _CROP_TILE_LATENTS // self.stride * self.stride
        return TiledDenoise(self.denoiser, mask, guidance_scale, side, self.halo, needed)

    @property
    def _decoder_halo(self) -> int:
        # Decoders that normalise over the image have no halo of their own; this one hides seams.
        return _FALLBACK_HALO if self.codec.halo is None else int(self.codec.halo)

    def _tile_for(self, size_px: Sequence[int]) -> int | None:
        """Return the side of a tile in latents, or None for one pass over images of a size."""
        if self.tile_px is None or self.halo is None or max(size_px) <= self.tile_px:
            return None
        return self.tile_px // int(self.codec.factor)

    def _decode(self, latents: Tensor, area: Area | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return images, uint8 [batch, height, width, 3], black where no tile touches `area`, and
        which of them had finite numbers only, bool [batch].

        Tiles of a codec that normalises over the image differ a little in tone: each fades into the
        next.
        """
        factor = int(self.codec.factor)
        size = (latents.shape[-2], latents.shape[-1])
        tile = self._tile_for([factor * side for side in size])
        if area is not None:
            tile = tile or _CROP_TILE_LATENTS
        images = np.zeros((len(latents), factor * size[0], factor * size[1], 3), dtype=np.uint8)
        finite = np.ones(len(latents), dtype=bool)
        fade = _FADE if self.codec.halo is None else 0
        needed = None if area is None else grow(area, fade, size)
        for part in cut_tiles(size, tile or max(size), self._decoder_halo, needed):
            target, inside = (scale_area(region, factor) for region in reach_over(part, fade, size))
            # In half precision the decoders of some codecs overflow.
            with nullcontext() if self.precision == "fp16" else self._autocast():
                decoded = self.codec.decode(self.scaling.denormalise(latents[:, :, *part.seen]))
            pixels = decoded[:, :, *inside].float().cpu()
            finite &= pixels.isfinite().flatten(1).all(1).numpy()
            fade_into(images[:, *target], to_uint8(pixels.numpy()), target, factor * fade)
        return images, finite

    def _known(self, kept: KeptPixels) -> Known:
        """Return the latents of the images, known where every pixel below a latent is kept."""
        images = torch.from_numpy(to_float(kept.images)).to(self.device)
        factor = self.codec.factor
        kept_pixels = torch.from_numpy(np.ascontiguousarray(kept.where))[:, None]
        where = split_windows(kept_pixels, factor).all(5).all(3).to(self.device)
        return Known(self.scaling.normalise(self.codec.encode(images).mean.float()), where)

    def _noise(
        self, seed: int, tile_ids: Sequence[str], shape: tuple[int, ...], purpose: str
    ) -> Tensor:
        """Return standard normal numbers [tiles, *shape] that belong to the names of tiles and,
        for a denoiser with a halo, to positions: the size of the image makes no difference then.
        """
        if self.halo is None:
            numbers = keyed_normals(seed, _keys_of(tile_ids), purpose, shape)
            return torch.from_numpy(numbers).to(self.device)
        channels, height, width = shape
        noise = torch.empty((len(tile_ids), *shape))
        block_shape = (channels, _NOISE_BLOCK, _NOISE_BLOCK)
        for row in range(0, height, _NOISE_BLOCK):
            for column in range(0, width, _NOISE_BLOCK):
                keys = _keys_of([f"{tile_id} at {row}, {column}" for tile_id in tile_ids])
                block = torch.from_numpy(keyed_normals(seed, keys, purpose, block_shape))
                target = noise[:, :, row : row + _NOISE_BLOCK, column : column + _NOISE_BLOCK]
                target.copy_(block[:, :, : target.shape[2], : target.shape[3]])
        return noise.to(self.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        return (
            torch.autocast(self.device.type, _AUTOCAST[self.precision])
            if self.precision in _AUTOCAST
            else nullcontext()
        )


def _keys_of(names: Sequence[str]) -> np.ndarray:
    """Return the numbers that names stand for where training noise is keyed by a position."""
    return np.array(
        [xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogateescape")) >> 1 for name in names],
        dtype=np.int64,
    )


def _check_finite(latents: Tensor, decoded: np.ndarray, tile_ids: Sequence[str]) -> None:
    """Raise DivergedError for latents that are not finite, or images that `decoded` (bool [batch])
    says were not.
    """
    finite = latents.isfinite().flatten(1).all(1).cpu().numpy() & decoded
    bad = [tile_id for tile_id, good in zip(tile_ids, finite.tolist(), strict=True) if not good]
    if bad:
        hint = "use a --guidance-scale nearer to 1 or --precision fp32"
        raise DivergedError(
            "the model produced NaN or infinite values",
            seen=", ".join(bad[:3]),
            hint=hint,
        )
