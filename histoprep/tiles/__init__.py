"""tiles.parquet, one row a tile: its schema and the options its rows depend on.

Pixels are looked at once, by `measurer.py`; every later stage works on this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from histoprep.mask_reading import Reading

KIND = "tiles"
SCHEMA_VERSION = "1.2"


def _column(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"meaning": meaning})


# Orphan masks are rows too (image_path null), so that mask rules see them.
SCHEMA = pa.schema(
    [
        _column(
            "tile_id", pa.string(), "POSIX path of the image below its root, without suffix; unique"
        ),
        _column("group", pa.string(), "slide, case or patient; null when unknown"),
        _column(
            "split",
            pa.string(),
            "split given by the folder layout (train, val, test); null otherwise",
        ),
        _column("label", pa.string(), "image-level class given by folder or CSV; null otherwise"),
        _column("unlabelled", pa.bool_(), "true below an --unlabelled root: no mask is expected"),
        _column(
            "declared_labels",
            pa.list_(pa.string()),
            "labels that dataset.csv declares, ids or names; null without",
        ),
        # Paths are relative to the root, absolute for --unlabelled roots outside it.
        _column("image_path", pa.string(), "path of the image; null for an orphan mask"),
        _column("mask_path", pa.string(), "path of the mask; null when there is none"),
        _column("image_bytes", pa.int64(), "file size"),
        _column("image_mtime_ns", pa.int64(), "modification time"),
        _column("image_digest", pa.string(), "XXH3-128 of the file, hex"),
        _column(
            "image_error",
            pa.string(),
            "why it could not be used, as code and subcode: `HP201 truncated`; null when fine",
        ),
        _column("image_error_detail", pa.string(), "the reason in words"),
        _column("image_format", pa.string(), "jpeg, png, tiff, webp, by magic bytes"),
        _column("image_mode", pa.string(), "Pillow's name: RGB, L, CMYK, RGBA, P, I;16, ..."),
        _column("image_bit_depth", pa.uint8(), "bits a channel"),
        _column("width_px", pa.int32(), "image width"),
        _column("height_px", pa.int32(), "image height"),
        _column("jpeg_quality", pa.int16(), "estimated IJG quality 1-100; null for other formats"),
        _column(
            "jpeg_subsampling", pa.string(), "4:4:4, 4:2:2, 4:2:0, ...; null for other formats"
        ),
        _column("exif_orientation", pa.uint8(), "EXIF orientation 1-8; null when absent"),
        _column(
            "image_metadata",
            pa.list_(pa.string()),
            "names of metadata fields that may identify somebody",
        ),
        _column(
            "focus",
            pa.float32(),
            "variance of the Laplacian of luminance at 1/8 size, 8-bit units squared",
        ),
        _column("luminance", pa.float32(), "mean luminance, 0-255"),
        _column("contrast", pa.float32(), "standard deviation of luminance at 1/8 size, 0-255"),
        _column("background_share", pa.float32(), "share of the 1/8 image that is glass, 0-1"),
        _column(
            "image_hash",
            pa.uint64(),
            "64-bit gradient hash of luminance_digest's luminance, for near duplicates",
        ),
        _column(
            "luminance_digest",
            pa.string(),
            "XXH3-128 of luminance at 1/8 size (full under 128 px), hex; equal for equal pixels",
        ),
        _column("mask_bytes", pa.int64(), "file size"),
        _column("mask_mtime_ns", pa.int64(), "modification time"),
        _column("mask_digest", pa.string(), "XXH3-128 of the file, hex"),
        _column("mask_error", pa.string(), "as image_error"),
        _column("mask_error_detail", pa.string(), "the reason in words"),
        _column("mask_format", pa.string(), "as image_format"),
        _column("mask_mode", pa.string(), "Pillow's name: L, P, 1, I;16, RGB, ..."),
        _column("mask_bit_depth", pa.uint8(), "bits a channel"),
        _column("mask_width_px", pa.int32(), "mask width"),
        _column("mask_height_px", pa.int32(), "mask height"),
        _column("mask_metadata", pa.list_(pa.string()), "as image_metadata"),
        # Where readers return different labels (see imageio/encodings.py); label_ids are null until
        # somebody decided.
        _column(
            "mask_doubt",
            pa.string(),
            "palette or min-is-white where readers of stored and of grey values disagree; null"
            " where all agree",
        ),
        _column(
            "mask_stored_ids",
            pa.list_(pa.uint16()),
            "stored values that occur, where readers disagree or there is a palette; else null",
        ),
        _column(
            "mask_shown_ids",
            pa.list_(pa.uint16()),
            "what readers of grey values return for each of them, where these disagree; else null",
        ),
        _column(
            "mask_palette",
            pa.list_(pa.uint32()),
            "colour of each stored value in the palette, 0xRRGGBB; null without a palette",
        ),
        _column(
            "mask_label_map",
            pa.string(),
            "label map written into a mask that remap made; null otherwise",
        ),
        _column(
            "mask_colours",
            pa.int32(),
            "number of distinct colours of an RGB or RGBA mask; null for class maps",
        ),
        _column(
            "mask_channels_equal",
            pa.bool_(),
            "whether the channels of an RGB or RGBA mask are equal; null for class maps",
        ),
        _column(
            "mask_cell_px",
            pa.int16(),
            "largest k such that the mask is uniform in k x k cells; 1 for a fine mask, null when"
            " uniform",
        ),
        # Signals of lossy compression and interpolation (see lossy.py); null when the mask is
        # uniform or no class map.
        _column(
            "mask_lossy", pa.string(), "lossy container: jpeg or webp; null for lossless files"
        ),
        _column(
            "mask_mixed_blocks",
            pa.int32(),
            "8x8 blocks, on the grid that begins at the corner, of more than one label",
        ),
        _column(
            "mask_shifted_blocks",
            pa.float32(),
            "the same on the grid moved by 4 pixels that has fewest; steps along the first grid"
            " left out",
        ),
        _column(
            "mask_rough_pairs", pa.int32(), "neighbouring pixels that differ inside of 8x8 blocks"
        ),
        _column(
            "mask_contacts",
            pa.int32(),
            "neighbouring pixels that differ where the 5x5 neighbourhood spans at least three"
            " values",
        ),
        _column(
            "mask_soft_contacts", pa.int32(), "those of them that differ by less than that span"
        ),
        _column(
            "mask_ramp_labels",
            pa.int32(),
            "labels without a core that nearly always lie between a smaller and a larger one",
        ),
        _column(
            "mask_jpeg_quality",
            pa.int16(),
            "quality of a JPEG container, or the one that leaves most blocks as they are; null:"
            " unknown",
        ),
        _column(
            "mask_fixed_blocks",
            pa.int16(),
            "telling mixed blocks that a JPEG of this quality leaves as they are; null quality: of"
            " renamed labels",
        ),
        _column(
            "mask_tried_blocks", pa.int16(), "telling mixed blocks that were tried, 64 at most"
        ),
        # One entry a label, in order of label id; null when the mask is no class map.
        _column("label_ids", pa.list_(pa.uint16()), "labels present"),
        _column("label_pixels", pa.list_(pa.int64()), "pixels of each"),
        _column(
            "label_core_pixels", pa.list_(pa.int64()), "pixels of each that survive a 5x5 erosion"
        ),
        _column("label_radius_px", pa.list_(pa.float32()), "largest inscribed radius of each"),
        _column("label_regions", pa.list_(pa.int32()), "8-connected regions of each"),
        _column("label_specks", pa.list_(pa.int32()), "regions of each under --min-area"),
    ]
)

# Columns that the listing gives; the others are measured and can be reused while a file stays the
# same.
LISTED = (
    "tile_id",
    "group",
    "split",
    "label",
    "unlabelled",
    "declared_labels",
    "image_path",
    "mask_path",
)
MEASURED = tuple(name for name in SCHEMA.names if name not in LISTED)


@dataclass(frozen=True, slots=True)
class TileOptions:
    """What the measurements depend on. With `headers_only` no pixel is decoded (`--quick`).

    `reading` is what was decided of masks that readers understand in two ways, as `Reading.as_json`
    gives it, a pair a decision.
    """

    min_area_px: int = 64
    max_pixels: int = 64_000_000
    max_file_bytes: int = 1 << 30
    headers_only: bool = False
    reading: tuple[tuple[str, str], ...] = ()

    @property
    def mask_reading(self) -> Reading:
        """Return the decisions."""
        return Reading.from_json(dict(self.reading))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> TileOptions:
        """Return the options that JSON made of others: it has no tuples."""
        return cls(
            **{
                **stored,
                "reading": tuple(
                    (str(name), str(value)) for name, value in stored.get("reading", ())
                ),
            }
        )

    def with_reading(self, reading: Reading) -> TileOptions:
        """Return these options with other decisions."""
        return replace(self, reading=tuple(reading.as_json().items()))


def to_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows, dicts that may lack columns, as a table of `schema`."""
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def measured_schema() -> pa.Schema:
    """Return the schema of the measured columns alone."""
    return pa.schema([SCHEMA.field(name) for name in MEASURED])
