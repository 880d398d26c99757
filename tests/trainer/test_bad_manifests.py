"""Manifests whose rows make no sense, or that are damaged: every command that uses one says so,
with 6 and the path, and none calls it a bug.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from coordinate_tiles import write_tiles
from small_codecs import save_kl

from histoprep import tables
from histoprep.cli import run as histoprep
from histoprep.errors import ExitCode
from histoprep.schemas.manifest import open_manifest
from trainer.cli import run as trainer


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("bad") / "data", 16, 32)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_kl(tmp_path_factory.mktemp("codec"))


def first(column: str, value: object) -> Callable[[pa.Table], pa.Table]:
    """Return a change that puts a value into the first row of a column."""

    def change(rows: pa.Table) -> pa.Table:
        at = rows.column_names.index(column)
        field = rows.schema.field(at)
        values = pa.array([value, *rows[column].to_pylist()[1:]], field.type)
        return rows.set_column(at, pa.field(column, field.type), values)

    return change


CHANGES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "no rows": lambda rows: rows.slice(0, 0),
    "rows repeated": lambda rows: pa.concat_tables([rows, rows]),
    "one row repeated": lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]),
    "null in split": first("split", None),
    "unknown split": first("split", "dev"),
    "null in pool": first("pool", None),
    "null in tile_id": first("tile_id", None),
    "null in classes": first("classes", None),
    "null in class_pixels": first("class_pixels", None),
    "unknown class": first("classes", [200]),
    "NUL in image_path": first("image_path", "a\0b.png"),
    "NUL in mask_path": first("mask_path", "a\0b.png"),
    "NUL in tile_id": first("tile_id", "a\0b"),
    "width below 1": first("width_px", -5),
    "size below 1": first("image_bytes", 0),
    "a group in two splits": lambda rows: rows.set_column(
        rows.column_names.index("group"),
        pa.field("group", pa.string()),
        pa.array(["one slide"] * len(rows)),
    ),
}


def commands(
    path: Path, codec: Path, out: Path
) -> Iterator[tuple[str, Callable[[list[str]], int], list[str]]]:
    """Yield name, program and arguments of everything that reads the rows of a manifest."""
    yield "shard", histoprep, ["shard", str(path), "--workers", "1", "--out", str(out / "shards")]
    yield "preview", histoprep, ["shard", "preview", str(path), "--out", str(out / "preview.png")]
    yield (
        "fit",
        trainer,
        ["fit", "--manifest", str(path), "--preset", "codec-tiny", "--out", str(out / "run")],
    )
    yield (
        "dry run",
        trainer,
        [
            "fit",
            "--manifest",
            str(path),
            "--preset",
            "codec-tiny",
            "--set",
            "data.image_size=32",
            "--dry-run",
            "--out",
            str(out / "run"),
        ],
    )
    chosen = ["--codec", str(codec), "--image-size", "32", "--num-workers", "0"]
    yield (
        "encode",
        trainer,
        ["encode", "--manifest", str(path), *chosen, "--out", str(out / "latents")],
    )


def rewritten(manifest: Path, change: Callable[[pa.Table], pa.Table], path: Path) -> Path:
    opened = open_manifest(manifest)
    header = {
        name: value
        for name, value in opened.header.items()
        if name not in ("kind", "schema_version", "tool_version")
    }
    rows = change(opened.read())
    tables.write_table(
        path,
        [rows],
        rows.schema.remove_metadata(),
        kind="manifest",
        schema_version="1.0",
        metadata=header,
    )
    return path


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_make_no_sense_are_refused(
    manifest: Path, codec: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rewritten(manifest, CHANGES[change], tmp_path / "manifest.parquet")
    assert histoprep(["manifest", "check", str(path)]) == ExitCode.FINDINGS
    for name, run, arguments in commands(path, codec, tmp_path):
        capsys.readouterr()
        assert run(arguments) == ExitCode.INTEGRITY, name
        text = capsys.readouterr().err
        assert str(path) in text and "histoprep manifest" in text, name
    for shown in (["manifest", "show", str(path)], ["manifest", "diff", str(path), str(manifest)]):
        assert histoprep(shown) in (ExitCode.OK, ExitCode.FINDINGS)
    assert {entry.name for entry in tmp_path.iterdir()} <= {"manifest.parquet"}, "nothing was begun"


@pytest.mark.slow
def test_the_manifest_itself_is_taken(manifest: Path, codec: Path, tmp_path: Path) -> None:
    """The control of the tests here."""
    path = rewritten(manifest, lambda rows: rows, tmp_path / "manifest.parquet")
    assert (
        histoprep(["manifest", "check", str(path), "--root", str(open_manifest(manifest).root)])
        == ExitCode.OK
    )
    for name, run, arguments in commands(path, codec, tmp_path):
        if name != "fit":
            assert run(arguments) == ExitCode.OK, name


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a page": lambda data: data[:60] + bytes([data[60] ^ 4]) + data[61:],
    "the footer": lambda data: data[:-40] + bytes([data[-40] ^ 4]) + data[-39:],
    "cut": lambda data: data[: len(data) // 2],
    "its end": lambda data: data[:-1],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_six_everywhere(
    manifest: Path, codec: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "manifest.parquet"
    path.write_bytes(DAMAGES[damage](manifest.read_bytes()))
    named: list[tuple[str, Any, list[str]]] = [
        ("check", histoprep, ["manifest", "check", str(path)]),
        ("show", histoprep, ["manifest", "show", str(path)]),
        ("diff", histoprep, ["manifest", "diff", str(manifest), str(path)]),
        *commands(path, codec, tmp_path),
    ]
    for name, run, arguments in named:
        capsys.readouterr()
        assert run(arguments) == ExitCode.INTEGRITY, name
        assert str(path) in capsys.readouterr().err, name


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_six_everywhere(
    manifest: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    assert (
        histoprep(["shard", str(manifest), "--workers", "1", "--out", str(shards)]) == ExitCode.OK
    )
    index = shards / "index.parquet"
    index.write_bytes(DAMAGES[damage](index.read_bytes()))
    named: list[tuple[Any, list[str]]] = [
        (histoprep, ["shard", "verify", str(shards)]),
        (histoprep, ["shard", "info", str(shards)]),
        (histoprep, ["shard", "preview", str(index), "--out", str(tmp_path / "preview.png")]),
        (
            trainer,
            [
                "fit",
                "--manifest",
                str(index),
                "--preset",
                "codec-tiny",
                "--out",
                str(tmp_path / "run"),
            ],
        ),
    ]
    for run, arguments in named:
        capsys.readouterr()
        assert run(arguments) == ExitCode.INTEGRITY, arguments
        assert str(index) in capsys.readouterr().err, arguments


def test_damage_that_is_found_late_names_its_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rows = pa.table({"number": list(range(1000))})
    tables.write_table(path, [rows], rows.schema, kind="numbers", schema_version="1.0", metadata={})
    opened, _ = tables.open_table(path, kind="numbers", schema_version="1.0")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(tables.IntegrityError) as caught:
        tables.read_table(opened)
    assert caught.value.path == str(path)
