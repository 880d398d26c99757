"""A data set that moved with its results: every command finds it, and says so once."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from audit_cases import DataSet, stripes, tissue
from moved_sets import move_with_unlabelled

from histoprep.cli import run
from histoprep.schemas.manifest import open_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.shards import TileSource, open_tiles
from histoprep.tiles.options import earlier_options


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """Return the root of a data set that was audited with a table and then moved."""
    before = tmp_path / "before"
    before.mkdir()
    data = DataSet(before / "data")
    for index in range(8):
        data.pair(f"case{index // 2}_{index}", stripes(0, 1, 2), tissue(index))
    table = before / "cases.csv"
    table.write_text(
        "image;patient\n" + "".join(f"case{i // 2}_{i}.jpg;p{i // 4}\n" for i in range(8))
    )
    words = ["--csv", str(table), "--group-by", "csv:patient", "--workers", "1"]
    assert run(["audit", str(data.root), *words]) == 0
    assert run(["manifest", str(data.root), "--split", "0.5/0.5"]) == 0
    before.rename(tmp_path / "after")
    return tmp_path / "after" / "data"


def test_the_manifest_finds_its_files(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Workspace.of(moved).manifest
    manifest = open_manifest(path)
    assert manifest.root == moved
    assert manifest.moved == f"the data set moved: {moved.parents[1]}/before/data is now {moved}"
    assert open_tiles(path).read(0).image.shape[2] == 3
    assert run(["manifest", "check", str(path)]) == 0
    assert capsys.readouterr().err.count("the data set moved") == 1


def test_shards_are_written_from_it(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Workspace.of(moved).manifest
    assert run(["shard", str(path), "--workers", "1"]) == 0
    assert capsys.readouterr().err.count("the data set moved") == 1
    assert open_tiles(path.parent / "shards").read(0).image.shape[2] == 3


def test_tables_among_the_options_are_found_beside_it(
    moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert earlier_options(Workspace.of(moved)).scan.csv == moved.parent / "cases.csv"
    assert run(["manifest", str(moved), "--split", "0.5/0.5"]) == 0
    manifest = open_manifest(Workspace.of(moved).manifest)
    assert manifest.moved is None and manifest.root == moved
    groups = manifest.read(["group"])["group"].to_pylist()
    assert set(groups) == {"p0", "p1"}


def test_a_folder_that_is_nowhere_stays_the_one_of_the_header(moved: Path) -> None:
    path = Workspace.of(moved).manifest
    lonely = moved.parents[1] / "elsewhere" / "manifest.parquet"
    lonely.parent.mkdir()
    lonely.write_bytes(path.read_bytes())
    manifest = open_manifest(lonely)
    assert str(manifest.root) == manifest.header["root"] and manifest.moved is None


@pytest.mark.parametrize("command", [("manifest", "check"), ("shard",)])
def test_a_data_set_that_is_nowhere_is_asked_for(
    moved: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Workspace.of(moved).manifest
    elsewhere = moved.with_name("renamed")
    moved.rename(elsewhere)
    assert run([*command, str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if line.startswith("  try: ")]
    assert line == f"  try: histoprep {' '.join(command)} {path} --root FOLDER"
    words = shlex.split(line.removeprefix("  try: histoprep ").replace("FOLDER", str(elsewhere)))
    assert run(words) == 0


def test_a_folder_of_the_same_name_without_the_images_is_another_one(moved: Path) -> None:
    path = Workspace.of(moved).manifest
    lonely = moved.parents[1] / "elsewhere" / "manifest.parquet"
    (lonely.parent / "data").mkdir(parents=True)
    lonely.write_bytes(path.read_bytes())
    assert open_manifest(lonely).moved is None


def test_a_copy_beside_the_original_reads_the_original(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "one" / "data")
    for index in range(4):
        data.pair(f"t{index}", stripes(0, 1), tissue(index))
    assert run(["manifest", str(data.root)]) == 0
    copy = tmp_path / "two" / "data.histoprep"
    copy.mkdir(parents=True)
    (copy.parent / "data").mkdir()
    path = Workspace.of(data.root).manifest
    (copy / "manifest.parquet").write_bytes(path.read_bytes())
    assert open_manifest(copy / "manifest.parquet").root == data.root


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """Return the root of a data set that moved together with images beside it without masks."""
    return move_with_unlabelled(tmp_path)


def rows_read(tiles: TileSource) -> int:
    return sum(tiles.read(row).image.shape[2] == 3 for row in range(len(tiles)))


def test_images_beside_the_data_set_are_found_where_they_moved_with_it(apart: Path) -> None:
    path = Workspace.of(apart).manifest
    manifest = open_manifest(path)
    assert manifest.data_folders == (apart, apart.parent / "unlabelled")
    assert rows_read(open_tiles(path)) == 12
    assert run(["manifest", "check", str(path)]) == 0
    assert run(["shard", str(path), "--workers", "1"]) == 0
    assert rows_read(open_tiles(path.parent / "shards")) == 12


def test_they_are_found_beside_a_folder_that_is_named(
    apart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Workspace.of(apart).manifest
    elsewhere = apart.parents[1] / "other name"
    apart.parent.rename(elsewhere)
    root = (elsewhere / "data").rename(elsewhere / "tiles")
    path = elsewhere / "data.histoprep" / "manifest.parquet"
    assert run(["manifest", "check", str(path), "--root", str(root)]) == 0
    assert rows_read(open_tiles(path, root=root)) == 12
    assert run(["shard", str(path), "--root", str(root), "--workers", "1"]) == 0


def test_images_that_stayed_are_read_where_they_are(tmp_path: Path, apart: Path) -> None:
    (apart.parent / "unlabelled").rename(tmp_path / "unlabelled")
    (tmp_path / "before").mkdir()
    (tmp_path / "unlabelled").rename(tmp_path / "before" / "unlabelled")
    path = Workspace.of(apart).manifest
    assert open_manifest(path).data_folders[1] == tmp_path / "before" / "unlabelled"
    assert rows_read(open_tiles(path)) == 12
