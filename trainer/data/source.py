"""The tiles of a run: of its manifest or shards, from where the data set lies now."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.errors import UsageError
from histoprep.shards import TileSource, open_tiles
from trainer.config import RunConfig
from trainer.data.transforms import check_size


def open_run_tiles(config: RunConfig) -> TileSource:
    """Return the tiles of a run.

    Args:
        config: The run; `manifest` says which tiles, `root` where their files are, if they moved,
            `fold` which cross-validation fold is test, `inner_fold` which one val.

    Raises:
        UsageError: There is no manifest or shard index, or its data set is nowhere.
        IntegrityError: The manifest or index cannot be read.
    """
    tiles = open_tiles(
        config.manifest, root=config.root, fold=config.fold, inner_fold=config.inner_fold
    )
    check_root(tiles, config.root, f"trainer fit --manifest {shlex.quote(config.manifest)}")
    return tiles


def check_root(tiles: TileSource, root: str | Path | None, command: str) -> None:
    """Check that the data set of a manifest is there.

    Args:
        tiles: The tiles of a manifest, or of shards, which need no data set.
        root: Where it is said to be; None for where the manifest finds it.
        command: What to type before `--root`.

    Raises:
        UsageError: It is nowhere.
    """
    if tiles.is_sharded:
        return
    if root is None:
        tiles.manifest.check_root(command)
    elif not Path(root).is_dir():
        raise UsageError(
            "the data set is not where --root says",
            path=Path(root),
            seen="no folder",
            expected="the folder that the manifest was made of",
        )


def check_tile_sizes(tiles: TileSource, config: RunConfig, rows: np.ndarray) -> None:
    """Check that tiles can be cut to the training size, by the sizes that the manifest has.

    Args:
        tiles: The tiles.
        config: The run.
        rows: The tiles that are used, int [m].

    Raises:
        UsageError: One cannot.
    """
    names = ("tile_id", "height_px", "width_px")
    table = tiles.manifest.read(names).take(pa.array(rows))
    known = table.filter(pc.is_valid(table["height_px"]))
    first = known.group_by(list(names[1:])).aggregate([("tile_id", "min")])
    for size in first.to_pylist():
        check_size(
            size["height_px"],
            size["width_px"],
            config.data.image_size,
            config.data.fit,
            tile_id=size["tile_id_min"],
        )
