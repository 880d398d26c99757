"""The table of a latent set, one row a tile: which latents belong to it, and their sources.

The trainer writes latent sets (`trainer encode`) and reads the latents; the table tells whether
these still belong to the tiles of a manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep import tables
from histoprep.schemas.manifest import Manifest

KIND = "latents"


SCHEMA_VERSION = "1.0"


ENTRIES = "entries.parquet"


SUMMARY = "latents.json"


IDENTITY_COLUMNS = ("tile_id", "split", "image_digest", "mask_digest")


SCHEMA = pa.schema(
    [
        pa.field(
            "tile_id", pa.string(), nullable=False, metadata={"meaning": "as in the manifest"}
        ),
        pa.field(
            "split",
            pa.string(),
            nullable=False,
            metadata={"meaning": "split when the statistics were measured"},
        ),
        pa.field("image_digest", pa.string(), metadata={"meaning": "as in the manifest"}),
        pa.field("mask_digest", pa.string(), metadata={"meaning": "as in the manifest"}),
        pa.field(
            "first_entry",
            pa.int64(),
            nullable=False,
            metadata={"meaning": "number of the tile's first window in the array of latents"},
        ),
        pa.field(
            "num_windows",
            pa.int32(),
            nullable=False,
            metadata={"meaning": "windows of the tile, one after the other; 0: could not be read"},
        ),
    ]
)


def read_entries(folder: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Return the tiles of a latent set and the table's header (label_map_digest, ...); raises
    IntegrityError, FileNotFoundError.
    """
    opened, header = tables.open_table(folder / ENTRIES, kind=KIND, schema_version=SCHEMA_VERSION)
    return tables.read_table(opened, SCHEMA.names), header


def align(entries: pa.Table, tile_ids: pa.ChunkedArray) -> np.ndarray:
    """Return the row of each tile among the entries, int64 [tiles], -1 for none."""
    position = pc.index_in(tile_ids, value_set=entries["tile_id"].combine_chunks())
    return np.asarray(pc.fill_null(position, -1).to_numpy()).astype(np.int64)


def mismatches(
    entries: pa.Table, header: dict[str, Any], manifest: Manifest
) -> list[tuple[str, str]]:
    """Return what keeps a latent set from being one of these tiles, as (tile id or "label map",
    what differs); empty when all is well.

    A tile must have its latents, made from the same files, and train on the side it was measured
    on: the scaling is that of the training split. The set may have more tiles.
    """
    problems = []
    if header.get("label_map_digest") != manifest.label_map.digest:
        problems.append(("label map", "the masks were stored under another label map"))
    tiles = manifest.read(IDENTITY_COLUMNS)
    places = align(entries, tiles["tile_id"])
    names = tiles["tile_id"].to_pylist()
    problems += [(names[row], "has no latents") for row in np.flatnonzero(places < 0)]
    known = np.flatnonzero(places >= 0)
    mine, theirs = tiles.take(known), entries.take(places[known])
    for what in ("image", "mask"):
        differ = _differ(mine[f"{what}_digest"], theirs[f"{what}_digest"])
        problems += [
            (names[known[row]], f"its {what} is not the one that was encoded")
            for row in np.flatnonzero(differ)
        ]
    moved = np.flatnonzero(
        _differ(pc.equal(mine["split"], "train"), pc.equal(theirs["split"], "train"))
    )
    problems += [
        (
            names[known[row]],
            (
                f"was in {theirs['split'][row]} when the scaling was measured, now in"
                f" {mine['split'][row]}"
            ),
        )
        for row in moved
    ]
    return problems


def _differ(column: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray:
    """Return where two columns differ; null equals null."""
    same = pc.fill_null(pc.equal(column, other), False)
    both_null = pc.and_(pc.is_null(column), pc.is_null(other))
    return ~np.asarray(pc.or_(same, both_null).to_numpy(zero_copy_only=False), dtype=bool)
