"""HP9: the manifest in the workspace; its own rules are tested with `manifest check`."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_cases import DataSet, Found, by_code, stripes, tissue, write_map

from histoprep.audit import ensure_tiles
from histoprep.labels import load_label_map
from histoprep.manifest.build import ManifestOptions, build_manifest
from histoprep.workspace import Workspace

TRIGGERS = ("HP901", "HP902", "HP903")


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    made = DataSet(tmp_path / "data")
    for index in range(12):
        made.pair(f"case{index}_a", stripes(0, 1, 3), tissue(index))
    workspace = Workspace.of(made.root)
    path = ensure_tiles(workspace, workers=1)
    build_manifest(path, load_label_map(write_map(tmp_path)), ManifestOptions(), workspace.manifest)
    return made


def _nines(data: DataSet) -> Found:
    return {key: paths for key, paths in by_code(data.audit().findings).items() if key.startswith(("HP7", "HP9"))}


def test_a_true_manifest(data: DataSet) -> None:
    assert _nines(data) == {}


def test_files_that_changed_or_are_gone(data: DataSet) -> None:
    data.image("case3_a.jpg", tissue(90), quality=40)
    (data.root / "case5_a_mask.png").unlink()
    found = _nines(data)
    assert found["HP902 in the manifest"].keys() == {"case3_a.jpg"}
    assert found["HP903 in the manifest"].keys() == {"case5_a_mask.png"}
    assert found.keys() == {"HP902 in the manifest", "HP903 in the manifest"}


@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_a_manifest_that_cannot_be_read_is_a_finding(data: DataSet, damage: str) -> None:
    path = Workspace.of(data.root).manifest
    path.write_bytes(path.read_bytes()[:-100] if damage == "cut" else b"tile_id,split\n")
    assert _nines(data).keys() == {"HP901 in the manifest"}


def test_the_folders_split_does_not_count_beside_a_manifest(tmp_path: Path) -> None:
    made = DataSet(tmp_path / "data")
    for index in range(6):
        for split in ("train", "test"):
            made.pair(f"{split}/case{index}_{split}", stripes(0, 1, 3), tissue(index * 2 + (split == "test")))
    grouped = {"group_by": r"case\d"}
    workspace = Workspace.of(made.root)
    assert len(by_code(made.audit(scan=grouped).findings)["HP702"]) == 6
    options = ManifestOptions(ignore_folder_split=True)
    build_manifest(ensure_tiles(workspace, workers=1), load_label_map(write_map(tmp_path)), options, workspace.manifest)
    assert not [key for key in by_code(made.audit(scan=grouped).findings) if key.startswith("HP7")]
