"""A small data set of every kind of tile, with a manifest, for tests of shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from audit_cases import DataSet, stripes, tissue

from histoprep.labels import LabelMap, SourceLabel, TargetClass
from histoprep.manifest.build import ManifestOptions, build_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import ensure_tiles

LABEL_MAP = LabelMap(
    "three",
    tuple(
        SourceLabel(item, name)
        for item, name in ((0, "nothing"), (7, "skin"), (9, "scar"), (200, "fat"))
    ),
    tuple(
        TargetClass(item, name, f"#{item:02x}8080")
        for item, name in ((0, "Unknown"), (1, "Dermis"), (2, "Fat"))
    ),
    {0: 0, 7: 1, 9: 1, 200: 2},
)
SIDE_PX = 48


def make_tiles(root: Path, num_tiles: int = 24) -> Path:
    """Fill `root` with tiles and return the manifest in its workspace.

    Of every four: two with classes, one with a zero mask, one without; names with dots, blanks and
    bytes that are not ASCII, JPEG and PNG.
    """
    made = DataSet(root)
    for index in range(num_tiles):
        stem = ("plain_{}", "sub folder/with.dots.tiff-{}", "zero.{}", "unlabelled-ä_{}")[
            index % 4
        ].format(index)
        suffix = ".png" if index % 8 == 1 else ".jpg"
        made.image(f"{stem}{suffix}", tissue(index, SIDE_PX))
        if index % 4 == 2:
            made.mask(f"{stem}_mask.png", np.zeros((SIDE_PX, SIDE_PX), np.uint8))
        elif index % 4 != 3:
            made.mask(f"{stem}_mask.png", stripes(0, 7, 9 if index % 3 else 200, side_px=SIDE_PX))
    workspace = Workspace.of(root)
    build_manifest(
        ensure_tiles(workspace, workers=1), LABEL_MAP, ManifestOptions(), workspace.manifest
    )
    return workspace.manifest
