"""Tiles of a latent set as training samples: position -> stream -> tile -> window and view, all
keyed by the position.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from trainer.data.latents import LatentSet
from trainer.data.randomness import keyed_normals, keyed_uniforms
from trainer.data.tiles import TrainingSample, draw_noise, label_ids, to_tensors, unbatch
from trainer.data.transforms import allowed_views, pick
from trainer.errors import DataError

if TYPE_CHECKING:
    from histoprep.shards import TileSource
    from histoprep.streams import Streams


@dataclass
class LatentDataset:
    """Position -> sample with `latents` (float32, normalised) instead of an image; see
    `TileDataset` for the rest. Picklable.

    A latent is drawn from its posterior, mean + std * noise of the position, unless
    `sample_posterior` is off or the codec has none. Views are drawn among those that were encoded
    and that `flips` and `turns` allow. A tile that could not be read when the set was made gives
    its place to the next of its stream. `noise` has the shape of the latents.
    """

    latents: LatentSet
    tiles: TileSource
    placement: Streams
    seed: int
    flips: bool = True
    turns: bool = True
    sample_posterior: bool = True
    noise: bool = True
    labels: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._first, self._count = self.latents.match(self.tiles)
        self.labels = label_ids(self.tiles)
        allowed = allowed_views(flips=self.flips, turns=self.turns)
        self._views = np.array(
            [index for index, view in enumerate(self.latents.views) if view in allowed]
        )
        mean, std = self.latents.scaling.shift, self.latents.scaling.scale
        self._shift, self._scale = (
            torch.tensor(statistic, dtype=torch.float32).reshape(-1, 1, 1)
            for statistic in (mean, std)
        )

    def __getitem__(self, position: int) -> TrainingSample:
        """Return the sample of a training position, 0, 1, 2, ..."""
        return unbatch(self.batch(np.array([position])))

    def batch(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Return the samples of `positions` as one batch of tensors."""
        streams, rows = self.placement.place(positions, self.seed)
        rows, num_skipped = self._readable(streams, rows)
        draws = keyed_uniforms(self.seed, positions, "augment", 2)
        views = self._views[pick(draws[:, 0], len(self._views))]
        entries = self._first[rows] + pick(draws[:, 1], self._count[rows])
        numbers = {
            "position": positions,
            "row": rows,
            "stream": streams,
            "num_skipped": num_skipped,
            "label": self.labels[rows],
        }
        batch = to_tensors(numbers) | draw_noise(
            self.seed, positions, self.latents.shape if self.noise else None
        )
        batch["latents"] = self._draw(entries, views, positions)
        batch["mask"] = self.latents.masks(entries, views)
        return batch

    def _draw(self, entries: np.ndarray, views: np.ndarray, positions: np.ndarray) -> Tensor:
        parts = self.latents.gather(entries, views)
        drawn = parts[:, 0]
        if self.sample_posterior and self.latents.has_std:
            noise = keyed_normals(
                self.seed, positions, "posterior", self.latents.shape, num_terms=1
            )
            drawn = drawn.addcmul_(parts[:, 1], torch.from_numpy(noise))
        return drawn.sub(self._shift).div_(self._scale)

    def _readable(self, streams: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows, each without latents replaced by the next of its stream that has some,
        and how many were passed over.
        """
        num_skipped = np.zeros(len(rows), dtype=np.int64)
        missing = np.flatnonzero(self._count[rows] == 0)
        if not len(missing):
            return rows, num_skipped
        rows = rows.copy()
        for index in missing:
            stream = self.placement.streams[streams[index]]
            start = int(np.searchsorted(stream.rows, rows[index]))
            turned = np.roll(stream.rows, -start)
            steps = np.flatnonzero(self._count[turned] > 0)
            if not len(steps):
                raise DataError(
                    f"no tile of stream {stream.name} has latents",
                    path=self.latents.folder,
                    hint="see skipped in latents.json",
                )
            rows[index], num_skipped[index] = turned[steps[0]], steps[0]
        return rows, num_skipped
