"""A data set in an object store is audited as a local copy of it is: a real S3 server, with faults
before it.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from audit_cases import DataSet, stripes, tissue
from s3_server import (
    SECRET,
    Door,
    credentials,
    door_before,
    make_bucket,
    open_store,
    s3_server,
    upload,
)

from histoprep.cli import run
from histoprep.digests import digest
from histoprep.errors import UsageError
from histoprep.remote import address_of, file_bytes
from histoprep.shards import open_tiles

pytest.importorskip("moto")
obstore = pytest.importorskip("obstore")
pytest.importorskip("flask")

DOCS = Path(__file__).parents[1] / "docs"
TABLES = ("tiles", "findings", "duplicates", "listing-issues")


@pytest.fixture(scope="module")
def entrance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Door, str]]:
    """Yield one door for all tests."""
    with s3_server(tmp_path_factory.mktemp("moto") / "log") as server, door_before(server) as made:
        make_bucket(server, "bucket")
        yield made


@pytest.fixture
def door(
    entrance: tuple[Door, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Door]:
    made, address = entrance
    for name, value in credentials(address).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield made
    made.open_again()


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Return a data set with findings: copies, broken and lost files, names of all kinds, a table,
    a label map, and masks whose folders have to be understood.
    """
    made = DataSet(tmp_path / "here" / "tiles")
    for number in range(6):
        made.pair(f"case{number % 3}/a {number}", stripes(0, 7, 9), tissue(number))
    made.image("case0/copy #1+%41~ä.png", tissue(0))
    made.pair("zero", stripes(0))
    made.mask("lost_mask.png")
    (made.root / "cut.jpg").write_bytes((made.root / "zero.jpg").read_bytes()[:900])
    (made.root / "notes.txt").write_text("nothing")
    (made.root / "dataset.csv").write_text("image,label\nzero.jpg,a\n")
    return made.root


def put(local: Path, server_of: Door, prefix: str) -> str:
    upload(local, f"s3://bucket/{prefix}/tiles")
    server_of.gets.clear()
    return f"s3://bucket/{prefix}/tiles"


def audit(where: str | Path, *options: str) -> int:
    return run(["audit", str(where), "--workers", "2", *options])


def tables_of(workspace: Path) -> dict[str, object]:
    return {
        name: pq.read_table(workspace / f"{name}.parquet").replace_schema_metadata()
        for name in TABLES
    }


def test_tables_are_those_of_a_local_copy(
    door: Door, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = put(local, door, "same")
    assert audit(local) == audit(address) == 1
    remote, here = tmp_path / "tiles.histoprep", local.with_name("tiles.histoprep")
    for name, table in tables_of(here).items():
        assert tables_of(remote)[name].equals(table), name  # type: ignore[attr-defined]
    assert f"{address}" in (remote / "report.html").read_text()
    # Nothing of an image is kept here, and the next audit reads none.
    mirror = remote / "objects.histoprep" / "tiles"
    assert (mirror / "zero.jpg").stat().st_blocks == 0
    assert (mirror / "notes.txt").read_text() == "nothing"
    assert file_bytes(mirror / "zero.jpg") == (local / "zero.jpg").read_bytes()
    door.gets.clear()
    assert audit(address) == 1
    # To understand names, images without a mask are looked at.
    assert {path.rpartition("/")[2] for path in door.gets} <= {"cut.jpg"}
    output = capsys.readouterr()
    assert SECRET not in output.out + output.err
    assert not [
        path
        for path in remote.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]


@pytest.mark.slow
def test_what_changed_is_read_again_and_what_is_gone_is_gone(
    door: Door, local: Path, tmp_path: Path
) -> None:
    address = put(local, door, "changed")
    audit(address)
    store = open_store(address)
    obstore.put(store, "zero.jpg", (local / "case2/a 5.jpg").read_bytes())
    obstore.delete(store, "lost_mask.png")
    door.gets.clear()
    audit(address)
    rows = pq.read_table(tmp_path / "tiles.histoprep" / "tiles.parquet").to_pydict()
    assert "lost" not in rows["tile_id"]
    digests = dict(zip(rows["tile_id"], rows["image_digest"], strict=True))
    assert digests["zero"] == digests["case2/a 5"]
    # Both files of the tile, and images to show.
    read = {path.rpartition("/tiles/")[2] for path in door.gets}
    assert "zero.jpg" in read and "case2/a%202_mask.png" not in read


@pytest.mark.slow
def test_what_passes_is_tried_again(door: Door, local: Path, tmp_path: Path) -> None:
    address = put(local, door, "faults")

    def now_and_then(door: Door, path: str) -> str | None:
        number = door.gets.count(path)
        return {1: "refuse", 2: "cut"}.get(number)

    door.fault = now_and_then
    assert audit(local) == audit(address) == 1
    assert len(door.gets) > 3 * 14
    here = local.with_name("tiles.histoprep")
    for name, table in tables_of(here).items():
        assert tables_of(tmp_path / "tiles.histoprep")[name].equals(table), name  # type: ignore[attr-defined]


@pytest.mark.slow
def test_an_object_that_cannot_be_read_is_a_finding(
    door: Door,
    local: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = put(local, door, "broken")
    monkeypatch.setattr("histoprep.storage._RETRIES", 0)
    monkeypatch.setattr("histoprep.storage._PAUSE_S", 0.0)
    door.fault = lambda door, path: "break" if path.endswith("zero.jpg") else None
    assert run(["audit", address]) == 3
    rows = pq.read_table(tmp_path / "tiles.histoprep" / "tiles.parquet").to_pydict()
    errors = dict(zip(rows["tile_id"], rows["image_error"], strict=True))
    assert errors["zero"] == "HP201 input-output"
    assert errors["case0/a 0"] is None
    # The next audit tries it again.
    door.fault = lambda door, path: None
    assert run(["audit", address]) == 1
    capsys.readouterr()


def test_addresses_that_cannot_be_listed_are_refused(
    door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit("s3://no-such-bucket/tiles") == 2
    assert "s3://no-such-bucket/tiles" in (error := capsys.readouterr().err)
    assert SECRET not in error
    make_bucket(door.server, "empty")
    assert audit("s3://empty/tiles") == 2
    assert "no objects" in capsys.readouterr().err


def test_keys_do_not_belong_in_an_address() -> None:
    assert address_of(Path("s3://bucket/a/b/")) == "s3://bucket/a/b"
    assert address_of("tiles") is address_of("a:/b") is None
    for text in ("https://me:word@host/tiles", "az://box/tiles?sig=abc"):
        with pytest.raises(UsageError) as caught:
            address_of(text)
        assert "word" not in str(caught.value.seen) and "sig" not in str(caught.value.path)


def test_a_name_that_is_file_and_folder_is_refused(
    door: Door, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = put(local, door, "clash")
    obstore.put(open_store(address), "case0", b"x")
    assert audit(address) == 2
    assert f"{address}/case0" in capsys.readouterr().err


@pytest.mark.slow
def test_later_commands_take_the_address(
    door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = DataSet(tmp_path / "here" / "tiles")
    for number in range(12):
        made.pair(f"t{number}", stripes(0, 7, 9), tissue(number))
    address = put(made.root, door, "later")
    out = tmp_path / "masks"
    assert audit(address) in (0, 1)
    assert f"next: histoprep manifest {address}" in capsys.readouterr().err
    assert run(["stats", address]) == 0
    assert run(["map", "init", address, "--out", "map.yml"]) == 0
    assert run(["manifest", address, "--map", "map.yml"]) == 0
    assert run(["remap", address, "--map", "map.yml", "--out", str(out), "--workers", "1"]) == 0
    assert len(list(out.rglob("*.png"))) == 12
    manifest = tmp_path / "tiles.histoprep" / "manifest.parquet"
    assert run(["shard", str(manifest), "--workers", "1"]) == 0
    loose, packed = open_tiles(manifest), open_tiles(manifest.with_name("shards"))
    for row, tile in enumerate(packed.tile_ids):
        image = packed.read(row).image
        np.testing.assert_array_equal(image, loose.read(loose.tile_ids.tolist().index(tile)).image)
        assert image.any()


@pytest.mark.slow
def test_copies_hold_what_the_objects_hold(door: Door, tmp_path: Path) -> None:
    local = DataSet(tmp_path / "here" / "tiles")
    for number in range(6):
        local.pair(f"case{number % 3}/a {number}", stripes(0, 7, 9), tissue(number))
    address = put(local.root, door, "copied")

    def ours(*words: str | Path) -> None:
        # A process of its own, whose workers are forks where that may be.
        command = [sys.executable, "-m", "histoprep", *map(str, words)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode in (0, 3), result.stdout + result.stderr

    fixed, exported = tmp_path / "fixed", tmp_path / "exported"
    ours("fix", address, "--out", fixed, "--only", "plain", "--workers", "2")
    ours("manifest", address, "--workers", "2")
    manifest = tmp_path / "tiles.histoprep" / "manifest.parquet"
    ours("manifest", "check", manifest, "--digests")
    ours("export", "coco", manifest, "--out", exported)
    copies = {digest(path.read_bytes()) for path in exported.rglob("*.jpg")}
    for number in range(6):
        name = f"case{number % 3}/a {number}.jpg"
        content = (local.root / name).read_bytes()
        assert (fixed / name).read_bytes() == content
        assert digest(content) in copies


@pytest.mark.slow
def test_the_command_of_the_documentation_works(door: Door, local: Path, tmp_path: Path) -> None:
    text = (DOCS / "scale.md").read_text()
    [command] = re.findall(r"^\$ histoprep (audit s3://.*)$", text, re.MULTILINE)
    words = shlex.split(command)
    bucket = words[1].removeprefix("s3://").partition("/")[0]
    make_bucket(door.server, bucket)
    upload(local, words[1])
    assert run(words) == 1
    assert np.any([path.name == "tiles.parquet" for path in tmp_path.rglob("*.parquet")])
