"""Training data are read without the stages of the toolkit that made them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packed_tiles import SIDE_PX, make_tiles

from histoprep.shards.write import write_shards

ROOT = Path(__file__).parents[2]
STAGES = (
    *("auditing", "checks", "repair", "remap", "lossy"),
    *("mask_tree", "execution", "scan", "tiles"),
)
CODE = """
import sys

import numpy as np

from histoprep.manifest.check import check_manifest
from histoprep.shards import open_tiles
from histoprep.streams import class_streams
from trainer.data import latent_dataset, latents, loader
from trainer.data.tiles import TileDataset

tiles = open_tiles(sys.argv[1])
check_manifest(tiles.manifest)
streams = class_streams(tiles.table, tiles.label_map, split="train", unconditional=0.0)
dataset = TileDataset(tiles, streams, seed=0, image_size=int(sys.argv[2]))
batches = list(loader.loader(dataset, range(8), 4))
assert len(batches) == 2 and batches[0]["mask"].any()
print(*sys.modules)
"""


@pytest.mark.parametrize("source", ["manifest", "shards"])
def test_batches_are_read_without_the_stages(tmp_path: Path, source: str) -> None:
    manifest = make_tiles(tmp_path / "data", 8)
    write_shards(manifest, tmp_path / "shards")
    path = manifest if source == "manifest" else tmp_path / "shards"
    command = [sys.executable, "-c", CODE, str(path), str(SIDE_PX)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(run.stdout.split())
    assert {"trainer.data.tiles", "histoprep.shards.readers"} <= loaded
    assert not [stage for stage in STAGES if f"histoprep.{stage}" in loaded]
