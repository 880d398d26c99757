"""A data set with findings, groups, splits and bad names, audited, for tests of the browser."""

from __future__ import annotations

import os
from pathlib import Path

import coloured_tissue
import numpy as np
from audit_cases import DataSet, stripes, tissue
from report_sample import HOSTILE

from histoprep.cli import run
from histoprep.labels import LabelMap, SourceLabel, TargetClass, format_label_map

NUM_TILES = 30
SIDE_PX = 128
LABEL_MAP = LabelMap(
    "four",
    tuple(SourceLabel(item, name) for item, name in ((0, "none"), (3, "skin"), (7, "scar"))),
    (
        TargetClass(0, "Unknown", "#999999"),
        TargetClass(1, "<b>Dermis</b>", "#d55e00"),
        TargetClass(2, "Scar", "#648fff"),
    ),
    {0: 0, 3: 1, 7: 2},
)


def make_set(root: Path) -> Path:
    """Fill `root` with tiles of three slides, audit it, write a manifest, and return the root.

    Tile 4 has a speck, tile 5 an unlisted label, tile 6 a broken image, tile 7 no mask; tiles 10
    and 11 touch. Further tiles have names as bad as a file system allows.
    """
    made = DataSet(root)
    wide, _ = coloured_tissue.tile(900, 2 * SIDE_PX)
    for number in range(NUM_TILES):
        name = f"slide{number % 3}_{number:02d}"
        image = tissue(number, SIDE_PX)
        if number in (10, 11):
            start = (number - 10) * SIDE_PX
            image = np.ascontiguousarray(wide[:SIDE_PX, start : start + SIDE_PX])
        made.image(f"{name}.png", image)
        if number == 6:
            path = root / f"{name}.png"
            path.write_bytes(path.read_bytes()[:2000])
        if number != 7:
            made.mask(f"{name}_mask.png", mask_of(number))
    for name in bad_names():
        made.image(f"slide9_{name}.png", tissue(len(name) + 2000, SIDE_PX))
        made.mask(f"slide9_{name}_mask.png", stripes(0, 3, side_px=SIDE_PX))
    label_map = root.with_name("four.yml")
    label_map.write_text(format_label_map(LABEL_MAP))
    own = ["--map", str(label_map), "--quiet"]
    assert run(["audit", str(root), "--exit-zero", "--group-by", r"slide\d+", *own]) == 0
    assert run(["manifest", str(root), "--split", "0.7/0.2/0.1", *own]) in (0, 3)
    return root


def mask_of(number: int) -> np.ndarray:
    """Return the mask of a tile: two of three labels, the shares by its number."""
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    mask[:, : 20 + 2 * number] = 3 if number % 2 else 7
    if number == 4:
        mask[80:83, 90:93] = 3
    if number == 5:
        mask[10:40, 70:90] = 200
    return mask


def bad_names() -> list[str]:
    """Return the ends of names that a file system takes, hostile to pages and tables."""
    names = (name.removesuffix(".png").replace("/", "%") for name in HOSTILE)
    return [
        name
        for name in names
        if "\0" not in name and "\ud800" not in name and len(os.fsencode(name)) < 200
    ]
