"""Tiles tables made of words, for tests of what is built on them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from histoprep import tables
from histoprep.digests import digest_text
from histoprep.schemas import tiles
from histoprep.tiles.options import TableOptions

SIDE_PX = 16


def tile_row(tile_id: str, pixels: dict[int, int] | None = None, **given: Any) -> dict[str, Any]:
    """Return a row: `pixels` by source label (None for no mask, the rest of 256 is label 0),
    `given` overrides columns.

    A label with 25 pixels or more is core-present.
    """
    row: dict[str, Any] = {
        "tile_id": tile_id,
        "unlabelled": False,
        "image_path": f"{tile_id}.jpg",
        "image_bytes": 1000,
        "image_mtime_ns": 1,
        "image_digest": digest_text(tile_id),
        "luminance_digest": digest_text(f"grey {tile_id}"),
        "contrast": 20.0,
        "width_px": SIDE_PX,
        "height_px": SIDE_PX,
    }
    if pixels is not None:
        rest = SIDE_PX**2 - sum(pixels.values())
        counts = {**({0: rest} if rest else {}), **pixels}
        ids = sorted(counts)
        row |= {
            "mask_path": f"{tile_id}_mask.png",
            "mask_bytes": 100,
            "mask_mtime_ns": 1,
            "mask_digest": digest_text(f"mask {tile_id} {counts}"),
            "mask_mode": "L",
            "mask_encoding": "grey",
            "mask_bit_depth": 8,
            "mask_width_px": SIDE_PX,
            "mask_height_px": SIDE_PX,
            "label_ids": ids,
            "label_pixels": [counts[identifier] for identifier in ids],
            "label_core_pixels": [max(0, counts[identifier] - 24) for identifier in ids],
            "label_radius_px": [(counts[identifier] ** 0.5) / 2 for identifier in ids],
            "label_regions": [1] * len(ids),
            "label_specks": [0] * len(ids),
        }
    return {**row, **given}


def write_tiles(
    path: Path, rows: Iterable[dict[str, Any]], root: Path | None = None, **options: Any
) -> Path:
    """Write rows as tiles.parquet and return its path."""
    listed = list(rows)
    table = pa.table(
        [pa.array([row.get(field.name) for row in listed], field.type) for field in tiles.SCHEMA],
        schema=tiles.SCHEMA,
    )
    scan = TableOptions().identity()["scan"] | options
    metadata = {
        "root": str(root or path.parent / "data"),
        "options": {"scan": scan, "tiles": {}, "sample": None},
    }
    tables.write_table(
        path,
        [table],
        tiles.SCHEMA,
        kind=tiles.KIND,
        schema_version=tiles.SCHEMA_VERSION,
        metadata=metadata,
    )
    return path
