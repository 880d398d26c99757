"""What one row of the tiles table becomes under a label map: excluded with a reason, or classes and
a pool. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.errors import IntegrityError, UsageError
from histoprep.labels import UNMAPPED, LabelMap, core_present
from histoprep.labels.lookup import refuse_class_of_ignored
from histoprep.manifest.inclusion import CHOICE, CHOICES, INCLUDED, REASONS, reason_codes
from histoprep.schemas.manifest import EXCLUDED_SCHEMA

MAX_CLASS_ID = 255
# The labels stratify only while they are classes; beyond this they are rather names.
MAX_LABELS = 256
# Equal eighth-size images of blank tiles do not show that the tiles are equal.
MIN_CONTRAST = 1.0

COLUMNS = (
    "tile_id",
    "image_path",
    "image_error",
    "image_error_detail",
    "mask_path",
    "mask_error",
    "mask_error_detail",
    "mask_colours",
    "mask_label_map",
    "width_px",
    "height_px",
    "mask_width_px",
    "mask_height_px",
    "label_ids",
    "label_pixels",
    "label_core_pixels",
    "label_radius_px",
    CHOICE,
)
"""Columns of the rows that `derive` and `describe_exclusion` read."""


@dataclass(frozen=True, slots=True)
class Derived:
    """n rows under a label map of K classes, in order of class id.

    `reason`: int8 [n], index of `REASONS` or `INCLUDED`. `pixels`: int64 [n, K]. `core`: bool [n,
    K], core-present. `conditional`: bool [n].
    """

    reason: np.ndarray
    pixels: np.ndarray
    core: np.ndarray
    conditional: np.ndarray

    @property
    def included(self) -> np.ndarray:
        """Return which rows (bool [n]) go into the manifest."""
        result: np.ndarray = self.reason == INCLUDED
        return result


def derive(chunk: pa.Table, label_map: LabelMap, conditional_threshold: float = 0.0) -> Derived:
    """Return classes, pool and exclusion of rows of the tiles table.

    A tile is conditional when pixels of classes other than 0 are at least `conditional_threshold`
    (0 to 1) of it, and at least one. Raises UsageError when a class id exceeds 255, IntegrityError
    for lists of unequal length.
    """
    ids = np.array([cls.id for cls in label_map.classes], dtype=np.int64)
    if len(ids) and ids[-1] > MAX_CLASS_ID:
        raise UsageError(
            "a class id does not fit a manifest (HP505)",
            seen=int(ids[-1]),
            expected=f"at most {MAX_CLASS_ID}",
        )
    refuse_class_of_ignored(label_map)
    rows, labels, pixels, core_pixels, radius_px = _entries(chunk)
    classes = label_map.apply_to_ids(labels).astype(np.int64)
    mapped = classes >= 0
    place = np.searchsorted(ids, classes[mapped])
    needed = np.array([cls.min_radius_px for cls in label_map.classes], dtype=np.float32)[place]
    core = core_present(core_pixels[mapped], radius_px[mapped], needed)
    cells, shape = rows[mapped] * len(ids) + place, (chunk.num_rows, len(ids))
    by_class = np.zeros(shape, dtype=np.int64)
    np.add.at(by_class.reshape(-1), cells, pixels[mapped])
    is_core = np.zeros(shape, dtype=bool)
    is_core.reshape(-1)[cells[core]] = True
    return Derived(
        reason_codes(chunk, rows[classes == UNMAPPED]),
        by_class,
        is_core,
        is_conditional(by_class, ids != 0, conditional_threshold),
    )


def is_conditional(pixels: np.ndarray, foreground: np.ndarray, threshold: float) -> np.ndarray:
    """Return which tiles (bool [n]) have a pixel of a class other than 0, and `threshold` (0 to 1)
    of all; pixels [n, K], foreground bool [K].
    """
    present = pixels[:, foreground].sum(axis=1)
    result: np.ndarray = (present > 0) & (present >= threshold * pixels.sum(axis=1))
    return result


def _entries(chunk: pa.Table) -> tuple[np.ndarray, ...]:
    """Return row, label id, pixels, core pixels and radius of every label of every tile, flat."""
    names = ("label_ids", "label_pixels", "label_core_pixels", "label_radius_px")
    lengths = [pc.fill_null(pc.list_value_length(chunk[name]), 0).to_numpy() for name in names]
    if any(not np.array_equal(lengths[0], length) for length in lengths[1:]):
        raise IntegrityError(
            "the label lists of a tile differ in length",
            hint="make the tiles table again: histoprep audit --no-reuse",
        )
    return (
        np.repeat(np.arange(chunk.num_rows), lengths[0]),
        *(pc.list_flatten(chunk[name]).to_numpy() for name in names),
    )


def describe_exclusions(chunk: pa.Table, derived: Derived, label_map: LabelMap) -> pa.Table:
    """Return tile_id, reason and detail of the rows that `derived` leaves out."""
    gone = np.flatnonzero(~derived.included)
    rows = chunk.take(gone).to_pylist()
    reasons = [REASONS[code] for code in derived.reason[gone].tolist()]
    details = [_detail(reason, row, label_map) for reason, row in zip(reasons, rows, strict=True)]
    return pa.table(
        {"tile_id": [row["tile_id"] for row in rows], "reason": reasons, "detail": details},
        schema=EXCLUDED_SCHEMA,
    )


def _detail(reason: str, row: dict[str, object], label_map: LabelMap) -> str:
    if reason in ("image-error", "mask-error"):
        name = reason.removesuffix("-error")
        parts = (row[f"{name}_path"], row[f"{name}_error"], row[f"{name}_error_detail"] or "")
        return ": ".join(map(str, parts)).rstrip(": ")
    if reason == "orphan-mask":
        return f"{row['mask_path']} has no image"
    if reason == "not-a-class-map":
        colours = f"{row['mask_colours']} colours" if row["mask_colours"] else "no labels were read"
        return f"{row['mask_path']}: {colours}"
    if reason == "size-mismatch":
        return (
            f"image {row['width_px']}x{row['height_px']}, mask"
            f" {row['mask_width_px']}x{row['mask_height_px']}"
        )
    if reason in CHOICES:
        return "left out on demand"
    ids = row["label_ids"]
    strange = (
        [str(label_id) for label_id in label_map.unlisted(ids)] if isinstance(ids, list) else []
    )
    return f"{row['mask_path']}: label {', '.join(strange)} not in {label_map.name}"


@dataclass
class Strata:
    """Numbers the kinds of tiles met so far: equal pool, core-present classes and image-level
    label.
    """

    label_map: LabelMap
    known: dict[bytes, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def codes(
        self, conditional: np.ndarray, core: np.ndarray, labels: pa.ChunkedArray
    ) -> np.ndarray:
        """Return the stratum (int32 [n]) of each row; `labels` are strings or null."""
        encoded = pc.fill_null(labels, "").combine_chunks().dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        numbers = [
            self.labels.setdefault(label, len(self.labels))
            for label in encoded.dictionary.to_pylist()
        ]
        label = np.array([*numbers, 0], dtype=np.int32)[encoded.indices.to_numpy()]
        packed = np.packbits(np.column_stack([conditional, core]), axis=1)
        signature = np.ascontiguousarray(
            np.column_stack([packed, label.view(np.uint8).reshape(-1, 4)])
        )
        distinct, inverse = np.unique(
            signature.view(f"V{signature.shape[1]}").ravel(), return_inverse=True
        )
        stratum = [self.known.setdefault(row.tobytes(), len(self.known)) for row in distinct]
        return np.array(stratum, dtype=np.int32)[inverse]

    def profiles(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the 0/1 matrix (int64 [strata, columns]) and its columns: pools, classes, then
        labels in order of name.
        """
        classes = self.label_map.classes
        raw = np.frombuffer(b"".join(self.known), dtype=np.uint8).reshape(len(self.known), -1)
        bits = np.unpackbits(raw[:, :-4], axis=1, count=1 + len(classes)).astype(np.int64)
        label = np.ascontiguousarray(raw[:, -4:]).view(np.int32).ravel()
        names = (
            sorted(name for name in self.labels if name) if len(self.labels) <= MAX_LABELS else []
        )
        by_label = (
            np.stack([label == self.labels[name] for name in names], axis=1).astype(np.int64)
            if names
            else bits[:, :0]
        )
        columns = (
            "conditional",
            "unconditional",
            *(f"class {cls.id}" for cls in classes),
            *(f"label {name}" for name in names),
        )
        return (
            np.concatenate([bits[:, :1], 1 - bits[:, :1], bits[:, 1:], by_label], axis=1),
            columns,
        )
