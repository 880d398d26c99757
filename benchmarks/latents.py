"""The gate of the latent loader: samples of a latent set as a batch of tensors, in one process.

    python -m benchmarks.latents CORPUS [--samples 2000]

The set has mean and deviation of 4 x 64 x 64 in half precision and masks of 512 x 512, each drawn
from its stream by position. A sample is a draw from the posterior, normalised, with its mask, label
and a number for the timestep; the second row adds the noise of the diffusion (16,384 normal
numbers, keyed by position). Latents are random numbers; masks are those of the corpus.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.corpus import make_corpus
from benchmarks.measuring import ROUNDS, Row, cpu_seconds, machine, markdown
from benchmarks.remap import InProcess
from histoprep.labels import find_label_map, load_label_map
from histoprep.manifest.build import ManifestOptions, build_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.shards import TileSource, open_tiles
from histoprep.streams import class_streams
from histoprep.tiles.table import TileTable
from trainer.data.latent_dataset import LatentDataset
from trainer.data.latents import LatentSet
from trainer.data.loader import loader
from trainer.encode import EncodeOptions, encode_tiles
from trainer.models.codec import Posterior

SHAPE = (4, 64, 64)
BATCH_SIZE = 64
GATE = 5_000
_UNIT = "/s of one core"


class RandomCodec:
    """Stands in for a codec: random latents at once, so that the set is made in seconds."""

    identifier, digest, factor, channels = "random", "random", 8, SHAPE[0]
    shift, scale = torch.zeros(SHAPE[0]), torch.ones(SHAPE[0])

    def to(self, _: Any) -> RandomCodec:
        """Return the codec, which is nowhere."""
        return self

    def encode(self, images: torch.Tensor) -> Posterior:
        """Return random latents of the right shape."""
        mean = torch.randn(len(images), *SHAPE)
        return Posterior(mean, mean.abs() * 0.1)


def make_set(corpus: Path, num_samples: int, scratch: Path) -> tuple[TileSource, LatentSet]:
    """Return the first pairs of a corpus and their latent set, two views."""
    root = scratch / "tiles"
    root.mkdir()
    for mask in sorted(corpus.glob("*_mask.png"))[:num_samples]:
        for path in (mask, mask.with_name(mask.name.replace("_mask.png", ".jpg"))):
            (root / path.name).symlink_to(
                path.absolute()
            ) if path.stat().st_dev != root.stat().st_dev else (root / path.name).hardlink_to(path)
    workspace = Workspace.of(root)
    TileTable(workspace).build(InProcess(1))
    build_manifest(
        workspace.tiles,
        load_label_map(find_label_map("label_map_5")),
        ManifestOptions(),
        workspace.manifest,
    )
    tiles = open_tiles(workspace.manifest)
    made = encode_tiles(
        tiles, RandomCodec(), scratch / "latents", EncodeOptions(views=2, batch_size=BATCH_SIZE)
    )  # type: ignore[arg-type]
    return tiles, made.latents


def rows(corpus: Path, num_samples: int = 2_000, rounds: int = ROUNDS) -> list[Row]:
    """Return the rows of the latent loader, by processor time of the one process: a sample, and a
    sample with noise.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=corpus.parent) as scratch:
        tiles, latents = make_set(corpus, num_samples, Path(scratch))
        streams = class_streams(tiles.table, tiles.label_map, split="train", unconditional=0.5)
        plain, noisy = (
            LatentDataset(latents, tiles, streams, 0, noise=noise) for noise in (False, True)
        )
        cases = (
            SimpleNamespace(name="latents to a batch", dataset=plain, gate=GATE),
            SimpleNamespace(
                name="latents and diffusion noise to a batch", dataset=noisy, gate=GATE
            ),
        )
        speeds: dict[str, list[float]] = {case.name: [] for case in cases}
        for case in cases:
            _read(case.dataset, num_samples)()
        for _ in range(rounds):
            for case in cases:
                speeds[case.name].append(
                    num_samples / cpu_seconds(_read(case.dataset, num_samples))
                )
        return [
            Row(
                case.name,
                f"{num_samples:,} samples",
                statistics.median(speeds[case.name]),
                *_range(speeds[case.name]),
                _UNIT,
                case.gate,
                2 * case.gate,
            )
            for case in cases
        ]


def _read(dataset: LatentDataset, num_samples: int) -> Callable[[], None]:
    def read() -> None:
        count = sum(
            len(batch["latents"]) for batch in loader(dataset, range(num_samples), BATCH_SIZE)
        )
        assert count == num_samples

    return read


def _range(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


def main() -> int:
    """Print the rows and return 1 when a gate is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latents", description=__doc__)
    parser.add_argument("corpus", type=Path, help="where the corpus is or will be made")
    parser.add_argument("--samples", type=int, default=2_000)
    chosen = parser.parse_args()
    make_corpus(chosen.corpus, max(chosen.samples, 2_000))
    found = rows(chosen.corpus, chosen.samples)
    print(f"{machine()}; numpy {np.__version__}, torch {torch.__version__}\n\n{markdown(found)}")
    return int(any(item.verdict == "MISSED" for item in found))


if __name__ == "__main__":
    sys.exit(main())
