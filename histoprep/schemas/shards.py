"""The index of shards: the manifest, row for row, with the place of each tile's members; and the
list of the members of one shard, from which the index is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from histoprep import tables
from histoprep.schemas.manifest import Manifest, schema

OWN_FIELDS = (
    pa.field(
        "key",
        pa.string(),
        metadata={
            "meaning": "key of the tile's members in the shard: XXH3-128 of the tile id, hex"
        },
    ),
    pa.field("image_crc32", pa.uint32(), metadata={"meaning": "CRC32 of the image"}),
    pa.field(
        "mask_crc32",
        pa.uint32(),
        metadata={"meaning": "CRC32 of the mask in the shard; null without a mask"},
    ),
    pa.field(
        "image_orientation",
        pa.uint8(),
        metadata={"meaning": "EXIF orientation 1-8 of the file; null when absent"},
    ),
    pa.field(
        "image_stored_digest",
        pa.string(),
        metadata={
            "meaning": "XXH3-128 of the image in the shard, hex; image_digest is that of the file"
        },
    ),
)


def index_schema(num_classes: int, *, has_folds: bool = False) -> pa.Schema:
    """Return the columns of an index."""
    return pa.schema([*schema(num_classes, has_folds=has_folds), *OWN_FIELDS])


def is_index(manifest: Manifest) -> bool:
    """Return whether a manifest is an index of shards."""
    return "shards" in manifest.header


PART_KIND = "shard-part"


PART_VERSION = "2.0"


PART_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("key", pa.string()),
        *(
            pa.field(f"image_{name}", kind)
            for name, kind in (
                ("offset", pa.int64()),
                ("length", pa.int64()),
                ("crc32", pa.uint32()),
            )
        ),
        pa.field("image_orientation", pa.uint8()),
        pa.field("image_stored_digest", pa.string()),
        *(
            pa.field(f"mask_{name}", kind)
            for name, kind in (
                ("offset", pa.int64()),
                ("length", pa.int64()),
                ("crc32", pa.uint32()),
            )
        ),
    ]
)


def open_part(path: Path) -> pa.Table:
    """Return what lies where in one shard; raises IntegrityError, FileNotFoundError."""
    return tables.read_table(
        tables.open_table(path, kind=PART_KIND, schema_version=PART_VERSION)[0]
    )


def part_facts(path: Path) -> dict[str, Any]:
    """Return name, bytes, tiles and digest of the shard that a part describes; raises
    IntegrityError, FileNotFoundError.
    """
    return dict(tables.open_table(path, kind=PART_KIND, schema_version=PART_VERSION)[1]["shard"])
