"""Masks from nothing: a trained model of masks draws classes on a grid of cells, never grey
levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from histoprep.errors import UsageError
from histoprep.labels import LabelMap
from histoprep.streams import single_stream
from trainer.data.mask_cells import enlarge_cells
from trainer.data.randomness import keyed_normals
from trainer.diffusion.guidance import guided
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Elsewhere, sample
from trainer.errors import DivergedError
from trainer.sampling.generator import SamplingOptions
from trainer.sampling.masks import MaskList

# Masks are made in groups of as many: the last bit of a sum may depend on the batch, and a mask
# must not.
_TOGETHER = 16


@dataclass(frozen=True, eq=False)
class MaskGenerator:
    """Class shares and a seed to masks.

    Attributes:
        module: The network, in evaluation mode on `device`: (noisy class scores, time, class
            shares, drop) -> prediction.
        objective: What the network predicts.
        label_map: The classes of the masks.
        num_classes: Channels of the class scores: the largest class id and 1.
        cell_px: Pixels a side of a cell.
        stride: Rows and columns of cells are multiples of it.
        image_size: Pixels a side of the masks of the training.
        known_shares: Class shares of training masks, float32 [n, num_classes], which a mask draws
            from unless others are requested.
        options: Guidance, solver and seed.
        device: Where the network is.
    """

    module: nn.Module
    objective: Objective
    label_map: LabelMap
    num_classes: int
    cell_px: int
    stride: int
    image_size: int
    known_shares: Float32[np.ndarray, "n num_classes"]
    options: SamplingOptions = field(default_factory=SamplingOptions)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def multiple_px(self) -> int:
        """Return what height and width of a mask must be multiples of."""
        return self.cell_px * self.stride

    def draw_shares(self, start: int, count: int) -> Float32[np.ndarray, "count num_classes"]:
        """Return the class shares that masks number `start` and following are to have: those of
        training masks, each once in a random order before any comes again.
        """
        order = single_stream(np.arange(len(self.known_shares)))
        _, rows = order.place(np.arange(start, start + count), self.options.seed)
        return np.asarray(self.known_shares[rows])

    @torch.no_grad()
    def generate(
        self, start: int, shares: Float[np.ndarray, "count num_classes"], size_px: int
    ) -> UInt8[np.ndarray, "count {size_px} {size_px}"]:
        """Return masks of class ids, uint8.

        Args:
            start: Number of the first; seed and number determine the noise.
            shares: Class shares of the masks, float [count, num_classes].
            size_px: Pixels a side, a multiple of `multiple_px`.

        Raises:
            UsageError: For a size that the network cannot make.
            DivergedError: When the model produced NaN or infinite values.
        """
        if size_px < self.multiple_px or size_px % self.multiple_px:
            raise UsageError(
                "the model of masks cannot make this size",
                seen=f"{size_px} px",
                expected=f"a multiple of {self.multiple_px} px",
            )
        side = size_px // self.cell_px
        numbers = np.arange(start, start + len(shares))
        shape = (self.num_classes, side, side)
        noise = keyed_normals(self.options.seed, numbers, "mask", shape)
        wanted = torch.from_numpy(np.asarray(shares, dtype=np.float32)).to(self.device)
        scores = self._sample(torch.from_numpy(noise).to(self.device), wanted).cpu()
        if not bool(scores.isfinite().all()):
            raise DivergedError(
                "the model of masks produced NaN or infinite values",
                hint="train it longer, or with a smaller optimiser.lr",
            )
        known = torch.zeros(self.num_classes, dtype=torch.bool)
        known[[cls.id for cls in self.label_map.classes]] = True
        scores = scores.masked_fill(~known[:, None, None], -torch.inf)
        cells = scores.argmax(dim=1).to(torch.uint8).numpy()
        return enlarge_cells(cells, self.num_classes, self.cell_px)

    def _sample(self, noise: Tensor, shares: Tensor) -> Tensor:
        options = self.options
        interval = options.guidance_interval
        plain = guided(self.module, shares, 1.0)
        return sample(
            guided(self.module, shares, options.guidance_scale),
            noise,
            self.objective,
            options.solver,
            step_noise=lambda step: torch.randn(
                noise.shape, generator=torch.Generator().manual_seed(options.seed + step)
            ).to(noise),
            elsewhere=Elsewhere(interval, plain) if interval else None,
        )


def list_generated(
    generator: MaskGenerator,
    count: int,
    *,
    size_px: int | None = None,
    shares: Float32[np.ndarray, " num_classes"] | None = None,
    split: str = "train",
) -> MaskList:
    """Return `count` masks that are made when they are read. Mask number n is the same for any
    count.

    Args:
        generator: The model of masks.
        count: Number of masks.
        size_px: Pixels a side; None for that of the training.
        shares: Class shares of every mask; None for those of random training masks.
        split: The split that images made of them belong to.

    Raises:
        UsageError: For a size that the network cannot make.
    """
    size = size_px or generator.image_size
    if size % generator.multiple_px:
        # Before anything is made.
        generator.generate(0, np.zeros((0, generator.num_classes), np.float32), size)
    made: dict[int, np.ndarray] = {}

    def read_mask(index: int) -> np.ndarray:
        number, place = divmod(index, _TOGETHER)
        if number not in made:
            made.clear()
            start = number * _TOGETHER
            wanted = (
                generator.draw_shares(start, _TOGETHER)
                if shares is None
                else np.tile(shares, (_TOGETHER, 1))
            )
            made[number] = generator.generate(start, wanted, size)
        mask: np.ndarray = made[number][place]
        return mask

    return MaskList(
        tuple(f"generated_{index:06d}" for index in range(count)),
        (split,) * count,
        np.full((count, 2), size, dtype=np.int64),
        generator.label_map,
        read_mask,
        None,
    )


def parse_shares(
    text: str, label_map: LabelMap, num_classes: int
) -> Float32[np.ndarray, " num_classes"]:
    """Return class shares by class id of a text such as `Tumour=0.6,Stroma=0.4`.

    Args:
        text: Names or ids of classes with their shares, which sum to 1; the others have none.
        label_map: The classes.
        num_classes: Length of the result.

    Raises:
        UsageError: For another class, a share that is no number from 0 to 1, or another sum.
    """
    ids: Mapping[str, int] = {
        name: cls.id for cls in label_map.classes for name in (cls.name, str(cls.id))
    }
    shares = np.zeros(num_classes, dtype=np.float64)
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.rpartition("="))
        if name not in ids:
            raise UsageError(
                "the class shares name a class that the model does not know",
                seen=name or part,
                expected=", ".join(cls.name for cls in label_map.classes),
            )
        shares[ids[name]] += _share(value)
    if abs(shares.sum() - 1) > 0.005:
        raise UsageError("the class shares do not sum to 1", seen=f"{shares.sum():g}", expected="1")
    return np.asarray(shares / shares.sum(), dtype=np.float32)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(
            "a class share is not a number from 0 to 1",
            seen=text,
            expected="such as Tumour=0.6,Stroma=0.4",
        )
    return value


def request_of(
    shares: Float32[np.ndarray, " num_classes"] | None, digest: str, seed: int
) -> dict[str, Any]:
    """Return what generated masks depend on, for the record of a request."""
    return {
        "mask_model": digest,
        "mask_shares": None if shares is None else [round(float(value), 6) for value in shares],
        "mask_seed": seed,
    }
