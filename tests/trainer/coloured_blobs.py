"""Tiles with one blob each, whose colour is the class: a data set that small networks learn in
seconds (design page of the classifier, 10.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from histoprep.durable import write_bytes
from histoprep.imageio import encode_rgb_png
from histoprep.labels import LabelMap, identity_map
from histoprep.manifest.build import ManifestOptions, build_manifest, raw_label_map
from histoprep.scanning import Layout, ScanOptions
from histoprep.schemas.manifest import schema, write_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import ensure_tiles

SIDE_PX = 64
NAMES = ("blue", "green", "red")
_COLOURS = np.array([(0.2, 0.2, 1), (0.2, 1, 0.2), (1, 0.2, 0.2)])


def blob(label: int, rng: np.random.Generator) -> np.ndarray:
    """Return a tile uint8 [64, 64, 3]: stripes, one Gaussian blob of the class's colour, noise."""
    rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
    angle, phase, radius = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi), rng.uniform(6, 8.5)
    stripes = 0.25 * np.sin(
        2 * np.pi * 4 * (columns * np.cos(angle) + rows * np.sin(angle)) / SIDE_PX + phase
    )
    row, column = rng.uniform(10, SIDE_PX - 10, 2)
    weight = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * (0.6 * radius) ** 2))[
        ..., None
    ]
    image = (
        stripes[..., None] * (1 - weight)
        + weight * (_COLOURS[label] + rng.normal(0, 0.15, 3))
        + rng.normal(0, 0.15, (SIDE_PX, SIDE_PX, 3))
    )
    return np.clip((image + 1) * 127.5, 0, 255).astype(np.uint8)


def make_blobs(root: Path, num_train: int, num_test: int) -> Path:
    """Fill root/train/<class> and root/test/<class> and return the manifest, as after `histoprep
    audit --layout class-folders`.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", num_train), ("test", num_test)):
        for index in range(count):
            label = index % len(NAMES)
            path = root / split / NAMES[label] / f"{split}-{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, encode_rgb_png(blob(label, rng)))
    return write_manifest_of(root)


def write_manifest_of(root: Path) -> Path:
    """Audit root/train/<class> and root/test/<class> and return the manifest."""
    workspace = Workspace.of(root)
    tiles = ensure_tiles(workspace, ScanOptions(layout=Layout.CLASS_FOLDERS), workers=1)
    build_manifest(tiles, raw_label_map(tiles), ManifestOptions(), workspace.manifest)
    return workspace.manifest


def bare_manifest(
    path: Path,
    splits: Sequence[str],
    *,
    labels: Sequence[str | None] | None = None,
    groups: Sequence[str | None] | None = None,
    digests: Sequence[str | None] | None = None,
    class_pixels: np.ndarray | None = None,
    label_map: LabelMap | None = None,
) -> Path:
    """Write a manifest of tiles without files: rows as they are given."""
    count = len(splits)
    chosen = label_map or identity_map({0})
    pixels = (
        np.zeros((count, chosen.num_classes), dtype=np.int64)
        if class_pixels is None
        else class_pixels
    )
    wanted = schema(chosen.num_classes)
    columns = {name: pa.nulls(count, wanted.field(name).type) for name in wanted.names}
    columns |= {
        "tile_id": pa.array([f"tile-{row:04d}" for row in range(count)]),
        "image_path": pa.array([f"tile-{row:04d}.png" for row in range(count)]),
        "group": pa.array(groups or [None] * count, pa.string()),
        "split": pa.array(splits),
        "pool": pa.array(["unconditional"] * count),
        "class_pixels": pa.FixedSizeListArray.from_arrays(
            pa.array(pixels.ravel()), chosen.num_classes
        ),
        "classes": pa.array([[] for _ in range(count)], wanted.field("classes").type),
        "label": pa.array(labels or [None] * count, pa.string()),
        "image_digest": pa.array(digests or [f"{row:032x}" for row in range(count)], pa.string()),
    }
    table = pa.table([columns[name] for name in wanted.names], schema=wanted)
    write_manifest(
        path,
        [table],
        chosen,
        {
            "root": str(path.parent),
            "recipe": {},
            "certificate": {},
            "tiles_digest": "0",
            "excluded": {},
        },
    )
    return path
