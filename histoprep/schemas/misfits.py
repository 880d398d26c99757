"""misfits.parquet: masks that do not belong where they are, a row a mask.

What stands for all masks of a finding (kind to num_tiles) is the same in each of its rows.
"""

from __future__ import annotations

import pyarrow as pa

from histoprep.schemas.columns import column

KIND = "misfits"
VERSION = "1.0"

SCHEMA = pa.schema(
    [
        column("finding", pa.int32(), "number of the finding, from 0"),
        column(
            "kind",
            pa.string(),
            "misoriented, shifted, scaled, other-tiles (all masks of a source); swapped, unfit"
            " (single masks)",
        ),
        column("source", pa.string(), "slide, case or folder"),
        column("is_firm", pa.bool_(), "whether it is beyond doubt"),
        column("num_tiles", pa.int64(), "tiles of the source that something can be told of"),
        column("orientation", pa.string(), "what has to be done to the masks; null for nothing"),
        column("right_px", pa.float32(), "by how much they have to be moved to the right"),
        column("down_px", pa.float32(), "and down"),
        column("scale", pa.float32(), "by how much they have to be enlarged; null for nothing"),
        column("evidence", pa.float32(), "nats for the masks as they are"),
        column("best", pa.float32(), "nats for the masks as they should be"),
        column("image_path", pa.string(), "as in tiles.parquet"),
        column("mask_path", pa.string(), "as in tiles.parquet"),
        column("fitting_mask", pa.string(), "the mask that fits the image; null where unknown"),
        column("mask_orientation", pa.string(), "what has to be done to this mask; null: nothing"),
        column("mask_evidence", pa.float32(), "nats for this mask on this image"),
    ]
)
