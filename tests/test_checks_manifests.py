"""HP9: the manifest in the workspace; its own rules are tested with `manifest check`."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from audit_cases import DataSet, Found, by_code, stripes, tissue, write_map

from histoprep import tables
from histoprep.auditing import AuditOptions, run_audit
from histoprep.execution import Engine
from histoprep.labels import load_label_map
from histoprep.manifest.build import ManifestOptions, build_manifest
from histoprep.schemas import latents
from histoprep.schemas.manifest import open_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import ensure_tiles

TRIGGERS = ("HP901", "HP902", "HP903", "HP907")


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
    return {
        key: paths
        for key, paths in by_code(data.audit().findings).items()
        if key.startswith(("HP70", "HP9"))
    }


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
            made.pair(
                f"{split}/case{index}_{split}",
                stripes(0, 1, 3),
                tissue(index * 2 + (split == "test")),
            )
    grouped = {"group_by": r"case\d"}
    workspace = Workspace.of(made.root)
    assert len(by_code(made.audit(scan=grouped).findings)["HP702"]) == 6
    options = ManifestOptions(ignore_folder_split=True)
    build_manifest(
        ensure_tiles(workspace, workers=1),
        load_label_map(write_map(tmp_path)),
        options,
        workspace.manifest,
    )
    assert not [key for key in by_code(made.audit(scan=grouped).findings) if key.startswith("HP7")]


def _write_entries(data: DataSet, **changes: pa.Array) -> None:
    manifest = open_manifest(Workspace.of(data.root).manifest)
    rows = manifest.read(latents.IDENTITY_COLUMNS)
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {
        "first_entry": pa.array(range(len(rows)), pa.int64()),
        "num_windows": pa.array([1] * len(rows), pa.int32()),
        **changes,
    }
    folder = manifest.path.parent / "latents"
    header = {"label_map_digest": manifest.label_map.digest}
    table = pa.table(columns).select(latents.SCHEMA.names)
    tables.write_table(
        folder / latents.ENTRIES,
        [table],
        latents.SCHEMA,
        kind="latents",
        schema_version="1.0",
        metadata=header,
    )
    (folder / latents.SUMMARY).write_text("{}")


def test_a_latent_set_of_these_tiles(data: DataSet) -> None:
    _write_entries(data)
    assert _nines(data) == {}


@pytest.mark.parametrize("column", ["tile_id", "image_digest", "mask_digest", "split"])
def test_a_latent_set_of_other_tiles(data: DataSet, column: str) -> None:
    rows = open_manifest(Workspace.of(data.root).manifest).read([column, "tile_id"])
    values = rows[column].to_pylist()
    values[4] = {"split": "test" if values[4] == "train" else "train"}.get(column, "other")
    _write_entries(data, **{column: pa.array(values)})
    found = _nines(data)
    assert found.keys() == {"HP907 in latents"}
    assert found["HP907 in latents"].keys() == {rows["tile_id"][4].as_py()}


@pytest.mark.slow
def test_an_audit_of_unchanged_tiles_looks_at_latent_sets_made_since(data: DataSet) -> None:
    workspace, engine = Workspace.of(data.root), Engine(1)

    def is_found() -> bool:
        return "HP907" in run_audit(workspace, AuditOptions(), engine).text

    assert not is_found()
    moved = pa.array(["nowhere"] * 12)
    _write_entries(data, split=moved)
    assert is_found()
    assert run_audit(workspace, AuditOptions(), engine).report is None, "nothing changed"
    _write_entries(data)
    assert not is_found()
    _write_entries(data, split=moved)
    (workspace.folder / "latents").rename(workspace.folder / "renamed")
    assert "in renamed" in run_audit(workspace, AuditOptions(), engine).text
    # Where training puts the set that it makes for itself.
    (workspace.folder / "latents").mkdir()
    (workspace.folder / "renamed").rename(workspace.folder / "latents" / "taesd-64px")
    assert "in latents/taesd-64px" in run_audit(workspace, AuditOptions(), engine).text
