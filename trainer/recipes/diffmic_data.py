"""How a tile with a class becomes a sample: for training by position, for validation and test in
order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from histoprep.shards import Tile, TileSource
from histoprep.streams import single_stream
from trainer.data.randomness import keyed_uniforms
from trainer.data.tiles import TileDataset, to_tensors
from trainer.data.transforms import to_float
from trainer.recipes.diffmic_config import Config
from trainer.recipes.diffmic_labels import LabelledTiles

# 1,700 squares of 224 px.
_MOST_KEPT_BYTES = 256 << 20


@dataclass(eq=False)
class SquareTiles:
    """Tiles cut to their central square and scaled to `image_size`, whatever size they had;
    otherwise as the source. Picklable.

    Squares are kept for the next pass, up to `most_kept_bytes` in each process: reading, decoding
    and scaling cost more than all else that happens to a sample.
    """

    source: TileSource
    image_size: int
    most_kept_bytes: int = _MOST_KEPT_BYTES
    _kept: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    @property
    def tile_ids(self) -> np.ndarray:
        """Return the ids of the tiles, str [n]."""
        return self.source.tile_ids

    @property
    def label(self) -> np.ndarray:
        """Return the image-level class of each tile, str [n]."""
        return self.source.label

    def read(self, row: int) -> Tile:
        """Return a tile without its mask; the image is not to be written to.

        Raises:
            TileError: When it cannot be read.
        """
        square = self._kept.get(row)
        if square is None:
            square = square_image(self.source.read(row).image, self.image_size)
            square.flags.writeable = False
            if (len(self._kept) + 1) * square.nbytes <= self.most_kept_bytes:
                self._kept[row] = square
        return Tile(square, None)

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but the squares."""
        return {**self.__dict__, "_kept": {}}


def square_image(image: np.ndarray, size_px: int) -> np.ndarray:
    """Return the central square of an image uint8 [H, W, 3], scaled to [size_px, size_px, 3]; areas
    are averaged when it shrinks.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = image[top : top + side, left : left + side]
    if side == size_px:
        return np.ascontiguousarray(crop)
    return np.asarray(
        cv2.resize(
            crop,
            (size_px, size_px),
            interpolation=cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR,
        )
    )


@dataclass(eq=False)
class LabelDataset:
    """Position -> training sample with image and class, and for a map of N x N points its noise and
    timesteps. Picklable.

    Images are turned by up to `rotation_degrees` either way.
    """

    images: TileDataset
    rotation_degrees: float = 0.0
    num_points: int = 0
    num_train_timesteps: int = 0

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return the sample of a training position."""
        return {name: array[0] for name, array in self.batch(np.array([position])).items()}

    def batch(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Return the samples of `positions`: `timesteps` int64 [B, N, N] are drawn for every point
        apart.
        """
        batch = self.images.batch(positions)
        del batch["mask"]
        if self.rotation_degrees:
            drawn = keyed_uniforms(self.images.seed, positions, "rotation", 1)[:, 0]
            angles = (2 * drawn - 1) * self.rotation_degrees
            turned = [
                rotate_image(image, float(angle))
                for image, angle in zip(batch["image"].numpy(), angles, strict=True)
            ]
            batch["image"] = torch.from_numpy(np.stack(turned))
        if self.num_points:
            drawn = keyed_uniforms(
                self.images.seed, positions, "label timesteps", self.num_points**2
            )
            timesteps = (drawn * self.num_train_timesteps).astype(np.int64)
            batch["timesteps"] = torch.from_numpy(
                timesteps.reshape(-1, self.num_points, self.num_points)
            )
        return batch


def rotate_image(
    image: Float32[np.ndarray, "3 height width"], degrees: float
) -> Float32[np.ndarray, "3 height width"]:
    """Return an image in [-1, 1] turned anticlockwise about its centre, bilinear, at the same size;
    what comes from outside is black.
    """
    height, width = image.shape[1:]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned = cv2.warpAffine(
        np.ascontiguousarray(image.transpose(1, 2, 0)),
        turn,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(-1.0, -1.0, -1.0),
    )
    return np.ascontiguousarray(turned.transpose(2, 0, 1), dtype=np.float32)


def training_dataset(config: Config, data: LabelledTiles, *, for_diffusion: bool) -> LabelDataset:
    """Return the training tiles of a run as samples: every tile once a pass."""
    points = config.diffusion.num_points if for_diffusion else 0
    images = TileDataset(
        SquareTiles(data.tiles, config.data.image_size),  # type: ignore[arg-type]
        single_stream(data.rows["train"]),
        config.seed,
        config.data.image_size,
        flips=config.data.flips,
        turns=config.data.turns,
        on_unreadable=config.data.on_unreadable,
        noise_shape=(len(data.names), points, points) if points else None,
    )
    images.labels = data.labels
    return LabelDataset(
        images, config.data.rotation_degrees, points, config.diffusion.num_train_timesteps
    )


@dataclass(eq=False)
class OrderedTiles:
    """Position -> the tile of that row of `rows`, as it is: for validation and test, each tile
    once. Picklable.
    """

    tiles: SquareTiles
    labels: np.ndarray
    rows: np.ndarray

    def batch(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Return `image`, `label` and `row` of the tiles at `positions`."""
        rows = self.rows[positions]
        images = np.stack([to_float(self.tiles.read(int(row)).image) for row in rows])
        return to_tensors({"image": images, "label": self.labels[rows], "row": rows})


def ordered_tiles(config: Config, data: LabelledTiles, split: str) -> OrderedTiles:
    """Return the tiles of a split in order."""
    return OrderedTiles(
        SquareTiles(data.tiles, config.data.image_size), data.labels, data.rows[split]
    )
