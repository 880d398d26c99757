"""A trained denoiser with everything that turns a mask into an image: objective, codec, scaling of
latents, device, precision.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from trainer.diffusion.guidance import guided
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Elsewhere, Known, Solver, sample
from trainer.errors import DivergedError
from trainer.models.denoisers.masks import split_windows, without_ignored
from trainer.models.frozen import frozen_weights

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
class Kept:
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
    """

    denoiser: Any
    objective: Objective
    codec: Any
    scaling: LatentScaling
    num_classes: int
    stride: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"

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
        kept: Kept | None = None,
        *,
        finite_only: bool = False,
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """Return images for masks.

        Args:
            masks: Class ids, uint8 [batch, height, width]; ignored pixels (255) are unlabelled.
            tile_ids: Their tile ids, which with the seed determine the noise.
            options: Guidance, solver and seed.
            kept: Pixels that come back exactly; the model continues what it sees of them.
            finite_only: Whether numbers that are not finite raise; otherwise they are black, which
                will do
                for a preview of a training.

        Returns:
            Images, uint8 [batch, height, width, 3].

        Raises:
            DivergedError: When the model produced NaN or infinite values and `finite_only` is set.
        """
        height, width = masks.shape[1:]
        shape = (self.codec.channels, height // self.codec.factor, width // self.codec.factor)
        noise = self._noise(options.seed, tile_ids, shape, "sample")
        mask = torch.from_numpy(np.ascontiguousarray(masks)).to(self.device)[:, None]
        condition = without_ignored(mask, self.num_classes)
        denoise = guided(self.denoiser, condition, options.guidance_scale)
        interval = options.guidance_interval
        elsewhere = Elsewhere(interval, guided(self.denoiser, condition, 1.0)) if interval else None
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
        # In half precision the decoders of some codecs overflow.
        with nullcontext() if self.precision == "fp16" else self._autocast():
            decoded = self.codec.decode(self.scaling.denormalise(latents))
        if finite_only:
            _check_finite(latents, decoded, tile_ids)
        images = to_uint8(decoded.float().cpu().numpy())
        return images if kept is None else np.where(kept.where[..., None], kept.images, images)

    def _known(self, kept: Kept) -> Known:
        """Return the latents of the images, known where every pixel below a latent is kept."""
        images = torch.from_numpy(to_float(kept.images)).to(self.device)
        factor = self.codec.factor
        kept_pixels = torch.from_numpy(np.ascontiguousarray(kept.where))[:, None]
        where = split_windows(kept_pixels, factor).all(5).all(3).to(self.device)
        return Known(self.scaling.normalise(self.codec.encode(images).mean.float()), where)

    def _noise(
        self, seed: int, tile_ids: Sequence[str], shape: tuple[int, ...], purpose: str
    ) -> Tensor:
        # A name stands for the position that training noise is keyed by.
        keys = np.array(
            [
                xxhash.xxh3_64_intdigest(tile_id.encode("utf-8", "surrogateescape")) >> 1
                for tile_id in tile_ids
            ],
            dtype=np.int64,
        )
        return torch.from_numpy(keyed_normals(seed, keys, purpose, shape)).to(self.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        return (
            torch.autocast(self.device.type, _AUTOCAST[self.precision])
            if self.precision in _AUTOCAST
            else nullcontext()
        )


def _check_finite(latents: Tensor, decoded: Tensor, tile_ids: Sequence[str]) -> None:
    finite = latents.isfinite().flatten(1).all(1) & decoded.isfinite().flatten(1).all(1)
    bad = [tile_id for tile_id, good in zip(tile_ids, finite.tolist(), strict=True) if not good]
    if bad:
        hint = "use a --guidance-scale nearer to 1 or --precision fp32"
        raise DivergedError(
            "the model produced NaN or infinite values",
            seen=", ".join(bad[:3]),
            hint=hint,
        )
