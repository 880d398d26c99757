"""Tables: the bytes depend on the rows alone, and no flipped bit is read back as if nothing
were.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from histoprep import tables
from histoprep.errors import IntegrityError, OutputError
from histoprep.version import __version__

SCHEMA = pa.schema(
    [
        ("tile_id", pa.string()),
        ("pixels", pa.int64()),
        ("ids", pa.list_(pa.uint16())),
        ("focus", pa.float32()),
        ("unlabelled", pa.bool_()),
    ]
)


def rows(count: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    ids = [
        None if item == 6 else rng.integers(0, 54, item).astype(np.uint16)
        for item in rng.integers(0, 7, count)
    ]
    columns = [
        pa.array([f"slide{index // 50}/tile_{index:06}" for index in range(count)]),
        pa.array(rng.integers(0, 1 << 40, count)),
        pa.array(ids, pa.list_(pa.uint16())),
        pa.array(rng.random(count).astype(np.float32), mask=rng.random(count) < 0.1),
        pa.array(rng.random(count) < 0.5),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def write(path: Path, batches: list[pa.Table], version: str = "1.2", **options: object) -> Path:
    tables.write_table(
        path,
        batches,
        SCHEMA,
        kind="tiles",
        schema_version=version,
        metadata={"root": "/data"},
        **options,
    )  # type: ignore[arg-type]
    return path


def read(path: Path, version: str = "1.0") -> tuple[pa.Table, dict[str, object]]:
    opened, header = tables.open_table(path, kind="tiles", schema_version=version)
    return tables.read_table(opened), header


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_tables_read_back(tmp_path: Path, count: int) -> None:
    table, header = read(write(tmp_path / "t.parquet", [rows(count)]))
    assert table.equals(rows(count))
    assert header == {
        "kind": "tiles",
        "schema_version": "1.2",
        "tool_version": __version__,
        "root": "/data",
    }


def test_other_readers_read_them(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", [rows(300)])
    assert pq.read_table(path).equals(rows(300))
    assert len(pd.read_parquet(path)) == 300


def cut(table: pa.Table, seed: int) -> Iterator[pa.Table | pa.RecordBatch]:
    chance = random.Random(seed)
    position = 0
    while position < table.num_rows:
        size = chance.choice([0, 1, 7, 1000, 40_000, 200_000])
        piece = table.slice(position, size)
        # Each piece has memory of its own, as pieces from workers have.
        if chance.random() < 0.5:
            piece = (
                pa.Table.from_pylist(piece.to_pylist(), schema=SCHEMA)
                if size < 2000
                else piece.combine_chunks()
            )
        yield from piece.to_batches() if chance.random() < 0.3 else [piece]
        position += size


def test_bytes_do_not_depend_on_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 5000)
    table = rows(23_456)
    whole = write(tmp_path / "whole.parquet", [table]).read_bytes()
    for seed in range(8):
        assert write(tmp_path / "cut.parquet", list(cut(table, seed))).read_bytes() == whole
    assert [
        pq.ParquetFile(tmp_path / "cut.parquet").metadata.row_group(index).num_rows
        for index in range(5)
    ] == [5000] * 4 + [3456]


def test_bytes_depend_on_rows_and_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [rows(50)]).read_bytes()
    assert path != write(tmp_path / "b", [rows(50, seed=1)]).read_bytes()
    assert path != write(tmp_path / "c", [rows(50)], version="1.3").read_bytes()


def test_batches_are_read_in_order_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 700)
    opened, _ = tables.open_table(
        write(tmp_path / "t", [rows(2000)]), kind="tiles", schema_version="1.0"
    )
    pieces = list(tables.read_batches(opened, ["tile_id"], rows=300))
    assert max(piece.num_rows for piece in pieces) == 300
    assert (
        pa.concat_tables(pieces).column("tile_id").to_pylist()
        == rows(2000).column("tile_id").to_pylist()
    )
    assert tables.read_table(opened, ["pixels", "ids"]).column_names == ["pixels", "ids"]


def test_late_metadata_is_asked_after_the_last_row(tmp_path: Path) -> None:
    seen: list[int] = []

    def batches() -> Iterator[pa.Table]:
        for index in range(3):
            seen.append(index)
            yield rows(10)

    path = tmp_path / "t"
    metadata = {"root": "/data"}
    count = tables.write_table(
        path,
        batches(),
        SCHEMA,
        kind="tiles",
        schema_version="1.0",
        metadata=metadata,
        late_metadata=lambda: {"seen": list(seen), "root": "/other"},
    )
    assert count == 30
    _, header = read(path)
    assert header["seen"] == [0, 1, 2] and header["root"] == "/other"


def test_a_failure_among_the_batches_leaves_the_old_table(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [rows(10)])
    before = path.read_bytes()

    def batches() -> Iterator[pa.Table]:
        yield rows(5)
        raise RuntimeError("a worker failed")

    with pytest.raises(RuntimeError):
        tables.write_table(path, batches(), SCHEMA, kind="tiles", schema_version="1.0", metadata={})
    assert path.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_table_and_names_it(small_disk: Path) -> None:
    path = write(small_disk / "t.parquet", [rows(10)])
    with pytest.raises(OutputError, match="No space left") as caught:
        write(path, [rows(200_000)])
    assert caught.value.path == str(path)
    assert read(path)[0].num_rows == 10 and len(list(small_disk.iterdir())) == 1


# --- what must be refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "fine"),
    [("1.0", True), ("1.99", True), ("2.0", False), ("0.9", False), ("11.0", False)],
)
def test_only_an_unknown_major_version_is_refused(tmp_path: Path, version: str, fine: bool) -> None:
    path = write(tmp_path / "t", [rows(3)], version=version)
    if fine:
        assert read(path, "1.5")[1]["schema_version"] == version
    else:
        with pytest.raises(IntegrityError, match="major version") as caught:
            read(path, "1.5")
        assert (
            caught.value.seen == version
            and caught.value.expected == "1.x"
            and caught.value.exit_code == 6
        )


def test_other_tables_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [rows(3)])
    with pytest.raises(IntegrityError, match="not the expected table"):
        tables.open_table(path, kind="manifest", schema_version="1.0")
    pq.write_table(rows(3), tmp_path / "foreign")
    with pytest.raises(IntegrityError, match="not the expected table"):
        read(tmp_path / "foreign")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"PAR1PAR1", b"PAR1" + b"\xff" * 4 + b"PAR1", bytes(100), b"<html>" * 100],
)
def test_files_that_are_no_tables_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(IntegrityError):
        read(tmp_path / "t")


@pytest.mark.parametrize("content", [b"", b"tile_id,split\n", b"PAR", bytes(100)])
def test_nobody_is_told_to_delete_what_is_no_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    for path, what in (
        (tmp_path / "t", "this is no Parquet file"),
        (tmp_path, "cannot read this table: Is a directory"),
    ):
        with pytest.raises(IntegrityError) as caught:
            read(path)
        assert caught.value.what == what and caught.value.hint is None
    (tmp_path / "t").write_bytes(b"PAR1" + content)
    with pytest.raises(IntegrityError) as caught:
        read(tmp_path / "t")
    assert caught.value.hint == "delete it and make the tiles again"


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "t", [rows(40)]).read_bytes()
    for length in range(0, len(whole), 5):
        (tmp_path / "t").write_bytes(whole[:length])
        with pytest.raises(IntegrityError):
            read(tmp_path / "t")


def flips(path: Path, bits: list[int]) -> dict[str, int]:
    """How often a table with one flipped bit was refused, read back the same, or read back silently
    wrong.
    """
    whole = path.read_bytes()
    table, header = read(path)
    seen = {"refused": 0, "harmless": 0, "wrong": 0}
    for bit in bits:
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            again, again_header = read(path)
        except IntegrityError:
            seen["refused"] += 1
        else:
            seen[
                "harmless"
                if again.equals(table) and again.schema == table.schema and again_header == header
                else "wrong"
            ] += 1
    return seen


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [rows(3000)], late_metadata=lambda: {"listing_digest": "0123"})
    bits = random.Random(7).sample(range(8 * path.stat().st_size), 200)
    assert flips(path, bits) == {"refused": 200, "harmless": 0, "wrong": 0}


def test_every_byte_of_a_small_table_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [rows(2)])
    bits = [8 * place + place % 8 for place in range(path.stat().st_size)]
    assert flips(path, bits) == {"refused": len(bits), "harmless": 0, "wrong": 0}


def test_tables_of_earlier_versions_are_read(tmp_path: Path) -> None:
    # They have the digest of the footer alone.
    for count in (0, 50):
        path = write(tmp_path / "t", [rows(count)])
        data = path.read_bytes()
        start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        footer = data[start:]
        path.write_bytes(data[: start - 48] + b"HPfooter" + xxhash.xxh3_128_digest(footer) + footer)
        assert read(path)[0].equals(rows(count))


@pytest.mark.slow
def test_no_flipped_bit_of_the_footer_reads_back_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [rows(30)], late_metadata=lambda: {"listing_digest": "0123"})
    size = path.stat().st_size
    footer = int.from_bytes(path.read_bytes()[-8:-4], "little")
    bits = list(range(8 * (size - footer - 8 - 24), 8 * size, 3))
    assert flips(path, bits) == {"refused": len(bits), "harmless": 0, "wrong": 0}


@pytest.mark.slow
def test_without_our_checks_flipped_bits_do_read_back_wrong(tmp_path: Path) -> None:
    # The control: the same flips in a table as pyarrow writes it by default.
    path = tmp_path / "plain"
    pq.write_table(rows(3000), path)
    whole = path.read_bytes()
    wrong = 0
    for bit in random.Random(7).sample(range(8 * len(whole)), 200):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            wrong += not pq.read_table(path).equals(rows(3000))
        except (OSError, pa.ArrowException, ValueError):
            continue
    assert wrong > 20


def test_the_header_is_json_in_the_file_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [rows(3)])
    assert json.loads(pq.read_schema(path).metadata[b"histoprep"])["kind"] == "tiles"


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.parquet"
    os.mkfifo(pipe)
    with pytest.raises(IntegrityError, match="no Parquet file"):
        tables.open_table(pipe, kind="tiles", schema_version="1.0")
    with pytest.raises(IntegrityError, match="no Parquet file"):
        tables.read_header(pipe)
