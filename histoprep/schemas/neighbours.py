"""neighbours.parquet: pairs of tiles that touch or overlap, a row a pair."""

from __future__ import annotations

import pyarrow as pa

from histoprep.schemas.columns import column

KIND = "neighbours"
VERSION = "1.0"

SCHEMA = pa.schema(
    [
        column("image_a", pa.string(), "as in tiles.parquet; the left or upper one of two"),
        column("image_b", pa.string(), "as in tiles.parquet"),
        column("kind", pa.string(), "touching or overlapping"),
        column(
            "orientation",
            pa.int8(),
            "how image_b has to be turned: 4 exchanges rows and columns, then 1 flips left and"
            " right, 2 up and down; 0 for tiles that touch",
        ),
        column("right_px", pa.int32(), "how far image_b then lies to the right of image_a"),
        column("down_px", pa.int32(), "and below it"),
        column("share", pa.float32(), "overlap as a share of the smaller tile, 0-1"),
        column("score", pa.float32(), "correlation of the two borders, or over the overlap"),
        column(
            "rival",
            pa.float32(),
            "best correlation of one of the two borders with any other; null for overlaps",
        ),
        column(
            "by_square",
            pa.bool_(),
            "whether borders match by too small a margin, but close a square of four tiles",
        ),
    ]
)
