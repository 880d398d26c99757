"""Tiles as training samples: position -> stream -> tile -> cut, turned and scaled, with all
randomness keyed by the position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor

from histoprep.errors import HistoprepError, IncompleteError, UsageError
from trainer.choices import Fit, OnUnreadable
from trainer.data.randomness import keyed_normals, keyed_uniforms
from trainer.data.transforms import (
    FITS,
    allowed_views,
    apply_view,
    check_size,
    corner,
    pick,
    to_float,
)

if TYPE_CHECKING:
    from histoprep.shards import TileSource
    from histoprep.streams import Streams

_Read = TypeVar("_Read")
_BELOW_1 = np.nextafter(np.float32(1), np.float32(0))


class TrainingSample(TypedDict, total=False):
    """One sample; a batch is the same with tensors and a first axis more (whole numbers become
    int64).

    `stream` is the number of the stream the tile came from, `num_skipped` how many unreadable tiles
    stood before it. `label` is -1 for a tile without one. `u`, in [0, 1), is for the timestep or
    whatever else a recipe draws; `noise` is there when its shape was given. Latent sets give
    `latents` (normalised) instead of `image`.
    """

    position: int
    row: int
    stream: int
    num_skipped: int
    image: Tensor  # float32 [3, height, width] in [-1, 1]
    latents: Tensor  # float32 [channels, height / 8, width / 8]
    mask: Tensor  # uint8 [height, width], class ids
    label: int
    noise: Tensor  # float32
    u: float


@dataclass
class TileDataset:
    """Position -> sample over a manifest or a shard index; picklable, files are opened where
    samples are read.

    `placement` says which tile a position takes. `fit`: tiles of another size are refused, cropped
    to a crop that the position draws, or cut into disjoint windows of which the position draws
    one. `flips` and `turns` allow mirror images and quarter turns, image and mask alike. An
    unreadable tile stops with its name, or (`skip`) the next readable tile of its stream takes its
    place and `num_skipped` counts. `noise_shape` adds standard normal noise of that shape.
    """

    tiles: TileSource
    placement: Streams
    seed: int
    image_size: int
    fit: Fit = "refuse"
    flips: bool = True
    turns: bool = True
    on_unreadable: OnUnreadable = "stop"
    noise_shape: tuple[int, ...] | None = None
    labels: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise UsageError(
                "no such value of fit",
                seen=self.fit,
                expected=", ".join(FITS),
            )
        self.labels = label_ids(self.tiles)
        self.views = allowed_views(flips=self.flips, turns=self.turns)

    def __getitem__(self, position: int) -> TrainingSample:
        """Return the sample of a training position, 0, 1, 2, ...; see `TileDataset` for what may be
        raised.
        """
        return unbatch(self.batch(np.array([position])))

    def batch(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Return the samples of `positions` as one batch of tensors."""
        streams, rows = self.placement.place(positions, self.seed)
        draws = keyed_uniforms(self.seed, positions, "augment", 3)
        size = self.image_size
        images = np.empty((len(positions), 3, size, size), np.float32)
        masks = np.empty((len(positions), size, size), np.uint8)
        read = np.array(
            [
                self._read(int(stream), int(row), draw, image, mask)
                for stream, row, draw, image, mask in zip(
                    streams, rows, draws, images, masks, strict=True
                )
            ]
        )
        used = read[:, 0]
        arrays: dict[str, Any] = {
            "position": positions,
            "row": used,
            "stream": streams,
            "num_skipped": read[:, 1],
            "image": images,
            "mask": masks,
            "label": self.labels[used],
        }
        return to_tensors(arrays) | draw_noise(self.seed, positions, self.noise_shape)

    def _read(
        self, stream: int, row: int, draws: np.ndarray, image: np.ndarray, mask: np.ndarray
    ) -> tuple[int, int]:
        """Write a tile into `image`, float32 [3, size, size], and `mask`, uint8 [size, size];
        return its row and how many stood before it that cannot be read.
        """
        num_skipped = 0
        if self.on_unreadable == "stop":
            tile = self.tiles.read(row)
        else:
            row, num_skipped, tile = read_next(
                self.placement.streams[stream].rows, row, self.tiles.read
            )
        size = self.image_size
        height_px, width_px = tile.image.shape[:2]
        check_size(height_px, width_px, size, self.fit, tile_id=str(self.tiles.tile_ids[row]))
        top, left = corner(height_px, width_px, size, self.fit, draws[1:])
        view = self.views[int(pick(draws[0], len(self.views)))]
        window = (slice(top, top + size), slice(left, left + size))
        to_float(apply_view(tile.image[window], view), out=image)
        mask[...] = 0 if tile.mask is None else apply_view(tile.mask[window], view)
        return row, num_skipped


def read_next(rows: np.ndarray, row: int, read: Callable[[int], _Read]) -> tuple[int, int, _Read]:
    """Return (row, number skipped, what `read` gives) of the first readable tile of a stream from
    `row` on, in the order of `rows`.

    A function of the files alone: each process and each run skips to the same tile.

    Raises:
        IncompleteError: When none can be read.
    """
    start = int(np.searchsorted(rows, row))
    first: HistoprepError | None = None
    for num_skipped in range(len(rows)):
        candidate = int(rows[(start + num_skipped) % len(rows)])
        try:
            return candidate, num_skipped, read(candidate)
        except HistoprepError as error:
            first = first or error
    seen = f"{len(rows):,} tiles; the first: {first.what if first else ''}"
    raise IncompleteError(
        "no tile of this stream can be read", seen=seen, hint="histoprep audit"
    ) from first


def label_names(tiles: TileSource) -> tuple[str, ...]:
    """Return the image-level classes of the tiles in the order of their numbers: sorted, over all
    splits.
    """
    return tuple(sorted({str(label) for label in tiles.label if label is not None}))


def label_ids(tiles: TileSource) -> np.ndarray:
    """Return the number of each tile's image-level class, int64 [tiles], -1 for none."""
    numbers: dict[str | None, int] = {name: index for index, name in enumerate(label_names(tiles))}
    return np.array([numbers.get(label, -1) for label in tiles.label], dtype=np.int64)


def draw_noise(
    seed: int, positions: np.ndarray, shape: tuple[int, ...] | None
) -> dict[str, Tensor]:
    """Return the batch entries `u` and, when a shape is given, `noise`."""
    # Rounded to float32, the largest of them would become 1.
    uniforms = np.minimum(
        keyed_uniforms(seed, positions, "timestep")[:, 0].astype(np.float32), _BELOW_1
    )
    drawn = {"u": torch.from_numpy(uniforms)}
    if shape is not None:
        drawn["noise"] = torch.from_numpy(keyed_normals(seed, positions, "noise", shape))
    return drawn


def to_tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the arrays of a batch as tensors; whole numbers other than masks become int64."""
    return {
        name: torch.from_numpy(
            array if array.dtype in (np.uint8, np.float32) else array.astype(np.int64)
        )
        for name, array in arrays.items()
    }


def unbatch(batch: dict[str, Tensor]) -> TrainingSample:
    """Return the only sample of a batch of one, its numbers as Python's."""
    arrays: dict[str, Any] = {
        name: tensor[0] if tensor.ndim > 1 else tensor[0].item() for name, tensor in batch.items()
    }
    return arrays  # type: ignore[return-value]
