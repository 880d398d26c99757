"""HP9: the shards in the workspace, as the audit sees them; `test_shards.py` has what a full
verification finds.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from audit_cases import DataSet, Found, by_code
from packed_tiles import LABEL_MAP, make_tiles

from histoprep.auditing import AuditOptions, run_audit
from histoprep.execution import Engine
from histoprep.manifest.build import ManifestOptions, build_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.shards.write import write_shards

TRIGGERS = ("HP904", "HP905")


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    manifest = make_tiles(tmp_path / "data", 12)
    write_shards(manifest, manifest.parent / "shards", engine=Engine(1))
    return DataSet(tmp_path / "data")


def _found(data: DataSet) -> Found:
    return {
        key: paths for key, paths in by_code(data.audit().findings).items() if key.startswith("HP9")
    }


def test_true_shards_and_no_shards(data: DataSet) -> None:
    assert _found(data) == {}
    folder = Workspace.of(data.root).folder / "shards"
    for path in folder.iterdir():
        path.unlink()
    assert _found(data) == {}


def test_a_cut_shard_and_one_that_is_gone(data: DataSet) -> None:
    folder = Workspace.of(data.root).folder / "shards"
    cut, gone = "train-conditional-000000.tar", "test-conditional-000000.tar"
    (folder / cut).write_bytes((folder / cut).read_bytes()[:-512])
    (folder / gone).unlink()
    found = _found(data)
    assert found.keys() == {"HP904 in shards"}
    assert found["HP904 in shards"].keys() == {cut, gone}


def test_an_audit_of_unchanged_tiles_looks_at_changed_shards(data: DataSet) -> None:
    workspace, engine = Workspace.of(data.root), Engine(1)
    assert "HP904" not in run_audit(workspace, AuditOptions(), engine).text
    assert run_audit(workspace, AuditOptions(), engine).report is None
    shard = workspace.folder / "shards" / "train-conditional-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    assert "HP904" in run_audit(workspace, AuditOptions(), engine).text


def test_a_shard_that_the_index_does_not_name(data: DataSet) -> None:
    folder = Workspace.of(data.root).folder / "shards"
    shutil.copy(folder / "test-conditional-000000.tar", folder / "test-conditional-000001.tar")
    found = _found(data)
    assert found.keys() == {"HP905 in shards"} and found["HP905 in shards"].keys() == {
        "test-conditional-000001.tar"
    }


def test_a_damaged_index(data: DataSet) -> None:
    index = Workspace.of(data.root).folder / "shards" / "index.parquet"
    index.write_bytes(index.read_bytes()[:-9])
    assert _found(data).keys() == {"HP904 index in shards"}


def test_a_manifest_made_again(data: DataSet) -> None:
    workspace = Workspace.of(data.root)
    build_manifest(
        workspace.tiles, LABEL_MAP, ManifestOptions(seed=7, method="hash"), workspace.manifest
    )
    found = _found(data)
    assert found.keys() == {"HP905 in shards"}
    assert all("split" in detail for detail in found["HP905 in shards"].values())
