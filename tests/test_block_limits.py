"""Folders and tables that hold one item less, as many, and one more than a block of the code that
reads them.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from histoprep.choices import Layout
from histoprep.cli import run
from histoprep.errors import ExitCode
from histoprep.scanning import Pair, ScanOptions, pairing, scan

BLOCK = 1 << 16


def touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def scanned(root: Path, options: ScanOptions) -> list[Pair]:
    issues: list[object] = []
    pairs = list(scan(root, options, issues.append))
    assert issues == []
    return pairs


# Of each layout: the folder of the images and their ending, the folder of the masks and theirs, the
# options, what a pair says besides its paths.
LAYOUTS = {
    "siblings": ("", "", ScanOptions(), (None, None, None, False, None)),
    "folders": ("images/", "masks/", ScanOptions(), (None, None, None, False, None)),
    "folders-in-a-split": (
        "test/images/",
        "test/masks/",
        ScanOptions(),
        (None, "test", None, False, None),
    ),
    "class-folders": (
        "train/tumour/",
        "train/tumour/",
        ScanOptions(layout=Layout.CLASS_FOLDERS),
        (None, "train", "tumour", False, None),
    ),
    "unlabelled": ("more/", None, ScanOptions(), (None, None, None, True, None)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.slow
def test_a_folder_of_a_block_of_tiles_and_one_more_or_less(tmp_path: Path, layout: str) -> None:
    """The published data set has 246,750 tiles in one folder; more than a block of them crashed, in
    every layout.
    """
    assert pairing._ROWS_AT_ONCE == BLOCK, "change BLOCK here, too"
    images, masks, options, rest = LAYOUTS[layout]
    if masks is None:
        options = ScanOptions(unlabelled=(tmp_path / "more",))
    for folder in {images, masks or images}:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    suffix = "_mask.png" if images == masks else ".png"
    for index in range(BLOCK + 1):
        touch(f"{tmp_path}/{images}t{index:06d}.jpg")
        if masks is not None:
            touch(f"{tmp_path}/{masks}t{index:06d}{suffix}")
    for count in (BLOCK + 1, BLOCK, BLOCK - 1):
        expected = [
            Pair(
                f"{images}t{index:06d}",
                f"{images}t{index:06d}.jpg",
                None if masks is None else f"{masks}t{index:06d}{suffix}",
                *rest,
            )
            for index in range(count)
        ]
        assert scanned(tmp_path, options) == expected
        os.unlink(f"{tmp_path}/{images}t{count - 1:06d}.jpg")
        if masks is not None:
            os.unlink(f"{tmp_path}/{masks}t{count - 1:06d}{suffix}")


@pytest.mark.parametrize("block", [4])
def test_orphans_of_a_block_and_one_more_or_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Orphan masks go through the same blocks after the pairs; folders of 512 names and more are
    read in columns.
    """
    monkeypatch.setattr(pairing, "_ROWS_AT_ONCE", block)
    for index in range(600):
        touch(f"{tmp_path}/t{index:04d}.jpg")
    for orphans in (block - 1, block, block + 1):
        for index in range(orphans):
            touch(f"{tmp_path}/z{index:04d}_mask.png")
        pairs = scanned(tmp_path, ScanOptions())
        assert len(pairs) == 600 + orphans
        assert pairs[600:] == [
            Pair(f"z{i:04d}", None, f"z{i:04d}_mask.png", None, None, None, False, None)
            for i in range(orphans)
        ]


# --- every block of every stage ---------------------------------------------------------------

# Modules and the names of their blocks. Those of worker processes are not reached from here; they
# hold files, not rows.
BLOCKS = [
    ("histoprep.tables", "ROW_GROUP_ROWS"),
    ("histoprep.scanning.pairing", "_ROWS_AT_ONCE"),
    ("histoprep.tiles.listing", "_PAIRS_A_STAT_TASK"),
    ("histoprep.mask_tree.files", "_NAMES_AT_ONCE"),
    ("histoprep.manifest.build", "_PIECE"),
    ("histoprep.manifest.gather", "_PIECE"),
    ("histoprep.split.units", "_PIECE"),
    ("histoprep.split.certificate", "_PIECE"),
    ("histoprep.streams", "_PIECE"),
    ("histoprep.shards.plan", "_PIECE"),
    ("histoprep.shards.write", "_PIECE"),
]
SMALL = 8
MAP = (
    "sources: {0: glass, 1: stroma, 2: tumour}\nclasses: {0: Background, 1: Stroma, 2:"
    " Tumour}\nmap: {0: 0, 1: 1, 2: 2}\n"
)


def make_tiles(root: Path, count: int) -> None:
    root.mkdir()
    for index in range(count):
        draw = np.random.default_rng(index)
        Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
            root / f"t{index:03d}.png"
        )
        mask = np.zeros((32, 32), np.uint8)
        mask[4:20, 4 : 10 + index] = index % 3
        Image.fromarray(mask).save(root / f"t{index:03d}_mask.png")


def results(root: Path) -> dict[str, object]:
    """Run every command on the folder and return what each wrote, tables as columns."""
    space = root.with_name(root.name + ".histoprep")
    shutil.rmtree(space, ignore_errors=True)
    chosen = ["--map", str(root.with_name("m.yml"))]
    commands = [
        ["audit"],
        ["repair", "--out", str(space / "repaired")],
        ["remap", *chosen],
        ["manifest", *chosen],
        ["stats", *chosen],
    ]
    for command, *options in commands:
        workers = [] if command == "manifest" else ["--workers", "1"]
        assert run([command, str(root), *options, *workers]) == ExitCode.OK, command
    assert run(["shard", str(space / "manifest.parquet"), "--workers", "1"]) == ExitCode.OK
    assert run(["shard", "verify", str(space / "shards")]) == ExitCode.OK
    assert run(["manifest", "check", str(space / "manifest.parquet")]) == ExitCode.OK
    read = {
        name: pq.read_table(space / name).to_pydict()
        for name in ("tiles.parquet", "manifest.parquet", "stats.parquet", "shards/index.parquet")
    }
    masks = {path.name: path.read_bytes() for path in sorted((space / "masks-m").rglob("*.png"))}
    return (
        read
        | masks
        | {path.name: path.read_bytes() for path in sorted((space / "shards").glob("*.tar"))}
    )


@pytest.mark.parametrize("count", [SMALL - 1, SMALL, SMALL + 1, 2 * SMALL + 1])
@pytest.mark.slow
def test_no_block_of_a_stage_changes_what_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    (tmp_path / "m.yml").write_text(MAP)
    make_tiles(tmp_path / "data", count)
    monkeypatch.setattr("histoprep.scanning.keys.PLAIN_FROM", 1)
    whole = results(tmp_path / "data")
    assert len([name for name in whole if name.endswith(".png")]) == count
    for module, name in BLOCKS:
        monkeypatch.setattr(importlib.import_module(module), name, SMALL)
    assert results(tmp_path / "data") == whole


# --- the published data set ---------------------------------------------------------------------


@pytest.mark.published
@pytest.mark.timeout(3600)
def test_the_published_folder_is_split_into_the_published_counts(tmp_path: Path) -> None:
    """246,750 images and 246,755 masks in one folder: 5 orphans, 156,024 zero masks."""
    num_images, num_orphans, num_zero = 246_750, 5, 156_024
    root = tmp_path / "tiles"
    root.mkdir()
    masks = {}
    for label in range(5):
        labels = np.zeros((16, 16), np.uint8)
        labels[2:12, 3:14] = label
        stream = io.BytesIO()
        Image.fromarray(labels).save(stream, "PNG")
        masks[label] = stream.getvalue()
    for index in range(num_images + num_orphans):
        name = f"{root}/t{index:06d}"
        label = 0 if index < num_zero or index >= num_images else 1 + index % 4
        Path(f"{name}_mask.png").write_bytes(masks[label])
        if index < num_images:
            pixels = np.random.default_rng(index).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Path(f"{name}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    assert run(["audit", str(root), "--fail-on", "never"]) == ExitCode.OK
    space = root.with_name("tiles.histoprep")
    counts = json.loads((space / "summary.json").read_text("utf-8"))["summary"]
    assert (counts["num_images"], counts["num_orphans"], counts["num_zero_masks"]) == (
        num_images,
        num_orphans,
        num_zero,
    )
    assert run(["manifest", str(root)]) == ExitCode.OK
    rows = pq.read_table(space / "manifest.parquet", columns=["split", "pool"])
    split = {
        (item["split"], item["pool"]): item["pool_count"]
        for item in rows.group_by(["split", "pool"]).aggregate([("pool", "count")]).to_pylist()
    }
    assert split == {
        ("train", "conditional"): 81_653,
        ("train", "unconditional"): 140_422,
        ("test", "conditional"): 9_073,
        ("test", "unconditional"): 15_602,
    }
