"""The tiles of a run: of its manifest or shards, from where the data set lies now."""

from __future__ import annotations

import shlex
from pathlib import Path

from histoprep.errors import UsageError
from histoprep.shards import TileSource, open_tiles
from trainer.config import RunConfig


def open_run_tiles(config: RunConfig) -> TileSource:
    """Return the tiles of a run.

    Args:
        config: The run; `manifest` says which tiles, `root` where their files are, if they moved,
            `fold` which cross-validation fold is test.

    Raises:
        UsageError: There is no manifest or shard index, or its data set is nowhere.
        IntegrityError: The manifest or index cannot be read.
    """
    tiles = open_tiles(config.manifest, root=config.root, fold=config.fold)
    if tiles.is_sharded:
        return tiles
    if config.root is None:
        tiles.manifest.check_root(f"trainer fit --manifest {shlex.quote(config.manifest)}")
    elif not Path(config.root).is_dir():
        raise UsageError(
            "the data set is not where --root says",
            path=Path(config.root),
            seen="no folder",
            expected="the folder that the manifest was made of",
        )
    return tiles
