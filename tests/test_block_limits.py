"""Folders and tables that hold one item less, as many, and one more than a block of the code that reads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from histoprep.scan import Pair, ScanOptions, pairing, scan
from histoprep.scan.layout import Layout

BLOCK = 1 << 16


def touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def scanned(root: Path, options: ScanOptions) -> list[Pair]:
    issues: list[object] = []
    pairs = list(scan(root, options, issues.append))
    assert issues == []
    return pairs


# Of each layout: the folder of the images and their ending, the folder of the masks and theirs, the options, what a pair says besides its paths.
LAYOUTS = {
    "siblings": ("", "", ScanOptions(), (None, None, None, False, None)),
    "folders": ("images/", "masks/", ScanOptions(), (None, None, None, False, None)),
    "folders-in-a-split": ("test/images/", "test/masks/", ScanOptions(), (None, "test", None, False, None)),
    "class-folders": ("train/tumour/", "train/tumour/", ScanOptions(layout=Layout.CLASS_FOLDERS), (None, "train", "tumour", False, None)),
    "unlabelled": ("more/", None, ScanOptions(), (None, None, None, True, None)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_a_block_of_tiles_and_one_more_or_less(tmp_path: Path, layout: str) -> None:
    """The published data set has 246,750 tiles in one folder; more than a block of them crashed, in every layout."""
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
            Pair(f"{images}t{index:06d}", f"{images}t{index:06d}.jpg", None if masks is None else f"{masks}t{index:06d}{suffix}", *rest)
            for index in range(count)
        ]
        assert scanned(tmp_path, options) == expected
        os.unlink(f"{tmp_path}/{images}t{count - 1:06d}.jpg")
        if masks is not None:
            os.unlink(f"{tmp_path}/{masks}t{count - 1:06d}{suffix}")


@pytest.mark.parametrize("block", [4])
def test_orphans_of_a_block_and_one_more_or_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Orphan masks go through the same blocks after the pairs; folders of 512 names and more are read in columns."""
    monkeypatch.setattr(pairing, "_ROWS_AT_ONCE", block)
    for index in range(600):
        touch(f"{tmp_path}/t{index:04d}.jpg")
    for orphans in (block - 1, block, block + 1):
        for index in range(orphans):
            touch(f"{tmp_path}/z{index:04d}_mask.png")
        pairs = scanned(tmp_path, ScanOptions())
        assert len(pairs) == 600 + orphans
        assert pairs[600:] == [Pair(f"z{i:04d}", None, f"z{i:04d}_mask.png", None, None, None, False, None) for i in range(orphans)]
