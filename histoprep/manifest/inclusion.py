"""Which tiles a manifest takes and the statistics count, and why not the others. Pure."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

REASONS = (
    "orphan-mask",
    "image-error",
    "mask-error",
    "not-a-class-map",
    "size-mismatch",
    "unmapped-label",
    "finding",
    "drop-list",
    "keep-list",
    "sample",
)
"""Why a tile is left out, the first that holds; a reason code is an index into this."""

CHOICES = ("finding", "drop-list", "keep-list", "sample")
"""Those of them that a user chose."""

CHOICE = "left_out"
"""A column beside those of tiles.parquet (int8): an index of `CHOICES`, or `INCLUDED`."""

INCLUDED = -1
UNMAPPED = REASONS.index("unmapped-label")

COLUMNS = (
    "image_path",
    "image_error",
    "mask_path",
    "mask_error",
    "width_px",
    "height_px",
    "mask_width_px",
    "mask_height_px",
    "label_ids",
)
"""Columns of tiles.parquet that `reason_codes` reads."""


def reason_codes(chunk: pa.Table, unmapped_rows: np.ndarray) -> np.ndarray:
    """Return why each of n rows of the tiles table is left out (int8 [n]): an index of `REASONS`,
    or `INCLUDED`.

    `unmapped_rows` are the numbers of the rows with a label that the label map does not list.
    """

    def mask_of(values: pa.ChunkedArray) -> np.ndarray:
        result: np.ndarray = pc.fill_null(values, False).to_numpy()
        return result

    masked = pc.is_valid(chunk["mask_path"])
    other_size = pc.or_kleene(
        pc.not_equal(chunk["width_px"], chunk["mask_width_px"]),
        pc.not_equal(chunk["height_px"], chunk["mask_height_px"]),
    )
    unmapped = np.zeros(chunk.num_rows, dtype=bool)
    unmapped[unmapped_rows] = True
    holds = (
        mask_of(pc.is_null(chunk["image_path"])),
        mask_of(pc.is_valid(chunk["image_error"])),
        mask_of(pc.is_valid(chunk["mask_error"])),
        mask_of(pc.and_(masked, pc.is_null(chunk["label_ids"]))),
        mask_of(pc.and_kleene(masked, other_size)),
        unmapped,
        *_chosen(chunk),
    )
    reason = np.full(chunk.num_rows, INCLUDED, dtype=np.int8)
    for code in reversed(range(len(REASONS))):
        reason[holds[code]] = code
    return reason


def _chosen(chunk: pa.Table) -> list[np.ndarray]:
    """Return, for each of `CHOICES`, the rows (bool [n]) that a user left out for it."""
    if CHOICE not in chunk.column_names:
        return [np.zeros(chunk.num_rows, dtype=bool)] * len(CHOICES)
    codes = chunk[CHOICE].to_numpy()
    return [codes == code for code in range(len(CHOICES))]
