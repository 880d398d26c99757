"""tiles.parquet, one row a tile, and listing-issues.parquet: what the listing met besides pairs.

Pixels are read once, when the tiles table is made; every later stage works on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from histoprep import tables
from histoprep.schemas.columns import column
from histoprep.schemas.workspace import Workspace

KIND = "tiles"


PIXEL_GROUPS = "pixel_groups"
"""What the header of a tiles table says of groups that were found in the images."""
SCHEMA_VERSION = "1.5"


# Orphan masks are rows too (image_path null), so that mask rules see them.
SCHEMA = pa.schema(
    [
        column(
            "tile_id", pa.string(), "POSIX path of the image below its root, without suffix; unique"
        ),
        column("group", pa.string(), "slide, case or patient; null when unknown"),
        column(
            "split",
            pa.string(),
            "split given by the folder layout (train, val, test); null otherwise",
        ),
        column("label", pa.string(), "image-level class given by folder or CSV; null otherwise"),
        column("unlabelled", pa.bool_(), "true below an --unlabelled root: no mask is expected"),
        column(
            "declared_labels",
            pa.list_(pa.string()),
            "labels that dataset.csv declares, ids or names; null without",
        ),
        # Paths are relative to the root, absolute for --unlabelled roots outside it.
        column("image_path", pa.string(), "path of the image; null for an orphan mask"),
        column("mask_path", pa.string(), "path of the mask; null when there is none"),
        column("image_bytes", pa.int64(), "file size"),
        column("image_mtime_ns", pa.int64(), "modification time"),
        column("image_digest", pa.string(), "XXH3-128 of the file, hex"),
        column(
            "image_error",
            pa.string(),
            "why it could not be used, as code and subcode: `HP201 truncated`; null when fine",
        ),
        column("image_error_detail", pa.string(), "the reason in words"),
        column("image_format", pa.string(), "jpeg, png, tiff, webp, bmp, jpeg2000, by magic bytes"),
        column("image_mode", pa.string(), "Pillow's name: RGB, L, CMYK, RGBA, P, I;16, ..."),
        column("image_bit_depth", pa.uint8(), "bits a channel"),
        column(
            "image_pages",
            pa.int32(),
            "pages of the file, of which the first is the largest and is read; null for one",
        ),
        column("width_px", pa.int32(), "image width"),
        column("height_px", pa.int32(), "image height"),
        column("jpeg_quality", pa.int16(), "estimated IJG quality 1-100; null for other formats"),
        column("jpeg_subsampling", pa.string(), "4:4:4, 4:2:2, 4:2:0, ...; null for other formats"),
        column("exif_orientation", pa.uint8(), "EXIF orientation 1-8; null when absent"),
        column(
            "image_metadata",
            pa.list_(pa.string()),
            "names of metadata fields that may identify somebody",
        ),
        column(
            "focus",
            pa.float32(),
            "variance of the Laplacian of luminance at 1/8 size, 8-bit units squared",
        ),
        column("luminance", pa.float32(), "mean luminance, 0-255"),
        column("contrast", pa.float32(), "standard deviation of luminance at 1/8 size, 0-255"),
        column("background_share", pa.float32(), "share of the 1/8 image that is glass, 0-1"),
        column(
            "image_hash",
            pa.uint64(),
            "64-bit gradient hash of luminance_digest's luminance, for near duplicates",
        ),
        column(
            "luminance_digest",
            pa.string(),
            "XXH3-128 of luminance at 1/8 size (full under 128 px), hex; equal for equal pixels",
        ),
        # What tiles that touch or overlap are found by (see neighbours/); null where that was not
        # looked for, and where an image is too small or too plain.
        column(
            "borders",
            pa.binary(),
            "512 bytes: left, right, upper and lower border, 128 int8 each, normalised",
        ),
        column("landmarks", pa.binary(), "10 bytes for each of at most 48 places"),
        column("mask_bytes", pa.int64(), "file size"),
        column("mask_mtime_ns", pa.int64(), "modification time"),
        column("mask_digest", pa.string(), "XXH3-128 of the file, hex"),
        column("mask_error", pa.string(), "as image_error"),
        column("mask_error_detail", pa.string(), "the reason in words"),
        column("mask_format", pa.string(), "as image_format"),
        column("mask_mode", pa.string(), "Pillow's name: L, P, 1, I;16, RGB, ..."),
        column("mask_bit_depth", pa.uint8(), "bits a channel"),
        column(
            "mask_encoding",
            pa.string(),
            "how the labels are stored: grey, palette, palette-colours, equal-channels, colours,"
            " float; null when none were read",
        ),
        column("mask_pages", pa.int32(), "pages of the file, of which one is read; null for one"),
        column("mask_width_px", pa.int32(), "mask width"),
        column("mask_height_px", pa.int32(), "mask height"),
        column("mask_metadata", pa.list_(pa.string()), "as image_metadata"),
        # Where readers return different labels (see imageio/encodings.py); label_ids are null until
        # somebody decided.
        column(
            "mask_doubt",
            pa.string(),
            "palette or min-is-white where readers of stored and of grey values disagree; null"
            " where all agree",
        ),
        column(
            "mask_stored_ids",
            pa.list_(pa.uint16()),
            "stored values that occur, where readers disagree or there is a palette; else null",
        ),
        column(
            "mask_shown_ids",
            pa.list_(pa.uint16()),
            "what readers of grey values return for each of them, where these disagree; else null",
        ),
        column(
            "mask_palette",
            pa.list_(pa.uint32()),
            "colour of each stored value in the palette, 0xRRGGBB; null without a palette",
        ),
        column(
            "mask_label_map",
            pa.string(),
            "label map written into a mask that remap made; null otherwise",
        ),
        column(
            "mask_colours",
            pa.int32(),
            "number of distinct colours or values of a mask without labels; null for class maps",
        ),
        column(
            "mask_channels_equal",
            pa.bool_(),
            "whether the channels of such a mask are equal; null for class maps",
        ),
        column(
            "mask_cell_px",
            pa.int16(),
            "largest k such that the mask is uniform in k x k cells; 1 for a fine mask, null when"
            " uniform",
        ),
        # Signals of lossy compression and interpolation (see lossy.py); null when the mask is
        # uniform or no class map.
        column("mask_lossy", pa.string(), "lossy container: jpeg or webp; null for lossless files"),
        column(
            "mask_mixed_blocks",
            pa.int32(),
            "8x8 blocks, on the grid that begins at the corner, of more than one label",
        ),
        column(
            "mask_shifted_blocks",
            pa.float32(),
            "the same on the grid moved by 4 pixels that has fewest; steps along the first grid"
            " left out",
        ),
        column("mask_steps", pa.int32(), "neighbouring pixels that differ"),
        column(
            "mask_rim_pixels",
            pa.int32(),
            "pixels whose 5x5 neighbourhood is not of one label",
        ),
        column(
            "mask_rough_pairs", pa.int32(), "neighbouring pixels that differ inside of 8x8 blocks"
        ),
        column(
            "mask_contacts",
            pa.int32(),
            "neighbouring pixels that differ where the 5x5 neighbourhood spans at least three"
            " values",
        ),
        column(
            "mask_soft_contacts", pa.int32(), "those of them that differ by less than that span"
        ),
        column(
            "mask_ramp_labels",
            pa.int32(),
            "labels without a core that nearly always lie between a smaller and a larger one",
        ),
        column(
            "mask_jpeg_quality",
            pa.int16(),
            "quality of a JPEG container, or the one that leaves most blocks as they are; null:"
            " unknown",
        ),
        column(
            "mask_fixed_blocks",
            pa.int16(),
            "telling mixed blocks that a JPEG of this quality leaves as they are; null quality: of"
            " renamed labels",
        ),
        column("mask_tried_blocks", pa.int16(), "telling mixed blocks that were tried, 64 at most"),
        column(
            "mask_fixed_moved",
            pa.bool_(),
            "whether these blocks are of the grid that thin traces end on, not the mask's own",
        ),
        # The grid that thin traces end on (see lossy/onsets.py); null where there are too few.
        column(
            "mask_grid_score",
            pa.float32(),
            "standard deviations above chance at which thin traces end on one grid of blocks",
        ),
        column(
            "mask_own_score",
            pa.float32(),
            "the same for 8x8 blocks that begin at the corner of the mask",
        ),
        column(
            "mask_grid_px", pa.float32(), "side of a block of that grid; 8 but for resized masks"
        ),
        column("mask_grid_row", pa.int16(), "rows above its first whole block"),
        column("mask_grid_column", pa.int16(), "columns left of its first whole block"),
        column("mask_onsets", pa.int32(), "ends of thin traces, of rows or columns the fewer"),
        column(
            "mask_turns",
            pa.float32(),
            "share of steps that go the other way than one less than 8 pixels before",
        ),
        column(
            "mask_webp_gaps",
            pa.int16(),
            "grey levels that lossy WebP never holds, between two labels that occur",
        ),
        column("mask_webp_filled", pa.int16(), "those of them that occur"),
        # How well mask and image fit (see fit/); null where nothing can be told: mask or image are
        # of one kind, too small, or of two sizes.
        column(
            "fit_explained",
            pa.float32(),
            "R2: share of the variance of optical density that the classes of the mask explain,"
            " 0-1",
        ),
        column(
            "fit_evidence",
            pa.list_(pa.float32()),
            "nats that speak for the mask, as it is, in its seven other orientations, and moved"
            " by a cell left, right, up and down",
        ),
        column("fit_cell_px", pa.int16(), "side of the cells that were compared"),
        # One entry a label, in order of label id; null when the mask is no class map.
        column(
            "label_ids",
            pa.list_(pa.uint32()),
            "labels present; 0xRRGGBB where mask_encoding says colours",
        ),
        column("label_pixels", pa.list_(pa.int64()), "pixels of each"),
        column(
            "label_core_pixels", pa.list_(pa.int64()), "pixels of each that survive a 5x5 erosion"
        ),
        column("label_radius_px", pa.list_(pa.float32()), "largest inscribed radius of each"),
        column("label_regions", pa.list_(pa.int32()), "8-connected regions of each"),
        column("label_specks", pa.list_(pa.int32()), "regions of each under --min-area"),
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


def to_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows, dicts that may lack columns, as a table of `schema`."""
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def measured_schema() -> pa.Schema:
    """Return the schema of the measured columns alone."""
    return pa.schema([SCHEMA.field(name) for name in MEASURED])


def open_tiles_table(path: Path) -> tuple[pq.ParquetFile, dict[str, Any]]:
    """Return the open tiles table and its header.

    Raises:
        IntegrityError: It is damaged, no tiles table or of another major version.
        FileNotFoundError: There is none.
    """
    return tables.open_table(path, kind=KIND, schema_version=SCHEMA_VERSION)


ISSUES_KIND = "listing-issues"


ISSUES_VERSION = "1.0"


ISSUES_SCHEMA = pa.schema([("kind", pa.string()), ("path", pa.string()), ("detail", pa.string())])


def read_issues(workspace: Workspace) -> pa.Table:
    """Return what the listing of the tiles table met besides pairs: kind, path, detail; raises
    IntegrityError, FileNotFoundError.
    """
    opened, _ = tables.open_table(
        workspace.listing_issues, kind=ISSUES_KIND, schema_version=ISSUES_VERSION
    )
    return tables.read_table(opened)
