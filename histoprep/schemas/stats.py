"""stats.parquet: what a data set holds, one row a class and key."""

from __future__ import annotations

import pyarrow as pa

from histoprep.schemas.columns import column

KIND = "stats"


SCHEMA_VERSION = "1.1"


SCHEMA = pa.schema(
    [
        column("labels", pa.string(), "raw: source labels; mapped: classes of the label map"),
        column("by", pa.string(), "all, split, pool or group"),
        column("key", pa.string(), "the split, pool or group; empty for all and for unknown"),
        column("class_id", pa.int64(), "class id, or source label"),
        column("class_name", pa.string(), "its name"),
        column("tiles", pa.int64(), "tiles with at least one pixel of it"),
        column("core_tiles", pa.int64(), "tiles where it is thick enough to be real"),
        column("pixels", pa.int64(), "pixels of it"),
        column("core_pixels", pa.int64(), "pixels of it that survive a 5x5 erosion"),
        column("pixel_percent", pa.float64(), "share of all mapped pixels of this key, per cent"),
        column(
            "tile_percent", pa.float64(), "share of all tiles of this key that hold it, per cent"
        ),
        column(
            "weight_inverse",
            pa.float64(),
            "inverse pixel frequency, mean 1; null unless by is all and the class occurs",
        ),
        column("weight_median", pa.float64(), "median frequency, likewise"),
        column("weight_effective", pa.float64(), "effective number of tiles, likewise"),
    ]
)
