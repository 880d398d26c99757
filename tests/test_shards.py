"""Shards: what they hold, who can read them, and that they hold it for certain."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packed_tiles import LABEL_MAP, make_tiles
from PIL import Image

from histoprep import durable
from histoprep.cli import run
from histoprep.digests import digest
from histoprep.errors import ExitCode, IncompleteError, IntegrityError, LockedError, UsageError
from histoprep.execution import Engine
from histoprep.schemas.manifest import open_manifest, read_manifest
from histoprep.shards import TileError, open_tiles, task
from histoprep.shards.layout import image_suffix, key_of, member_header, parse_header
from histoprep.shards.plan import ShardOptions, plan_shards
from histoprep.shards.verify import verify_shards
from histoprep.shards.write import write_shards

ONE = Engine(1)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiles(tmp_path_factory.mktemp("shards") / "data")


@pytest.fixture(scope="module")
def shards(manifest: Path) -> Path:
    """Return written shards; tests must not change them."""
    write_shards(manifest, manifest.parent / "shards", engine=ONE)
    return manifest.parent / "shards"


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Path]:
    """Return a manifest and its shards that a test may change."""
    path = make_tiles(tmp_path / "data", 12)
    write_shards(path, tmp_path / "shards", engine=ONE)
    return path, tmp_path / "shards"


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in (".lock", ".hp-states")
    }


def members(folder: Path) -> dict[str, bytes]:
    """Return what Python's own tarfile finds in all shards."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path, "r:") as archive:
            for item in archive:
                assert (
                    item.isreg()
                    and item.mode == 0o644
                    and item.mtime == item.uid == item.gid == 0
                    and not item.uname
                    and not item.pax_headers
                )
                stream = archive.extractfile(item)
                assert stream
                assert item.name not in found
                found[item.name] = stream.read()
    return found


def test_images_keep_their_bytes_and_masks_become_classes(manifest: Path, shards: Path) -> None:
    found, rows, table = (
        members(shards),
        read_manifest(manifest).to_pylist(),
        LABEL_MAP.lookup_table(),
    )
    expected = 0
    for row in rows:
        image = Path(open_manifest(manifest).root, row["image_path"])
        assert found[f"{key_of(row['tile_id'])}{image.suffix}"] == image.read_bytes()
        expected += 1
        packed = Image.open(io.BytesIO(found[f"{key_of(row['tile_id'])}.mask.png"]))
        assert packed.mode == "L"
        expected += 1
        if row["mask_path"] is None:
            # All samples have the same fields; the index says that this mask is none.
            assert packed.size == (row["width_px"], row["height_px"]) and not np.array(packed).any()
            continue
        source = np.array(Image.open(Path(open_manifest(manifest).root, row["mask_path"])))
        np.testing.assert_array_equal(np.array(packed), table[source])
        assert np.bincount(np.array(packed).ravel(), minlength=3).tolist() == row["class_pixels"]
    assert expected == len(found) == 48


def test_names_are_of_split_pool_and_key(shards: Path) -> None:
    assert {path.name.rsplit("-", 1)[0] for path in shards.glob("*.tar")} == {
        "train-conditional",
        "train-unconditional",
        "test-conditional",
        "test-unconditional",
    }
    for name in members(shards):
        key, suffix = name.split(".", 1)
        assert len(key) == 32 and set(key) <= set("0123456789abcdef")
        assert suffix in ("jpg", "png", "mask.png")
    assert [
        image_suffix(item) for item in ("a.b/c", "x.tiff-.JPEG", "a.TIFF", "b.webp", "c.ä")
    ] == [
        "bin",
        "jpg",
        "tif",
        "webp",
        "bin",
    ]


def test_the_index_says_where_every_member_lies(manifest: Path, shards: Path) -> None:
    index, found = read_manifest(shards / "index.parquet"), members(shards)
    before = read_manifest(manifest)
    shard_columns = [
        name
        for name in before.column_names
        if name in ("shard",) or name.endswith(("_offset", "_length"))
    ]
    assert index.select(
        [column_name for column_name in before.column_names if column_name not in shard_columns]
    ).equals(before.drop_columns(shard_columns))
    names = set()
    for row in pq.read_table(shards / "index.parquet").to_pylist():
        data = (shards / row["shard"]).read_bytes()
        assert row["shard"].startswith(f"{row['split']}-{row['pool']}-")
        for what, suffix in (("image", Path(row["image_path"]).suffix), ("mask", ".mask.png")):
            start, length = row[f"{what}_offset"], row[f"{what}_length"]
            names.add(f"{row['key']}{suffix}")
            assert data[start : start + length] == found[f"{row['key']}{suffix}"]
    assert names == found.keys()


def test_files_and_shards_are_the_same_tiles(manifest: Path, shards: Path) -> None:
    from_files, from_shards = open_tiles(manifest), open_tiles(shards)
    assert from_files.digest == from_shards.digest == open_tiles(shards / "index.parquet").digest
    assert from_files.table.equals(from_shards.table)
    assert from_files.label_map == from_shards.label_map == LABEL_MAP
    assert from_files.certificate == from_shards.certificate
    assert (len(from_files), from_files.is_sharded, from_shards.is_sharded) == (24, False, True)
    assert from_shards.pool.tolist() == read_manifest(manifest)["pool"].to_pylist()
    assert from_shards.label.tolist() == [None] * 24
    rows = list(range(24))
    random.Random(1).shuffle(rows)
    for row in rows:
        item, other = from_files.read(row), from_shards.read(row)
        np.testing.assert_array_equal(item.image, other.image)
        assert item.image.dtype == np.uint8 and item.image.shape == (48, 48, 3)
        assert (
            (item.mask is None)
            == (other.mask is None)
            == (from_files.manifest.read()["mask_path"][row].as_py() is None)
        )
        if item.mask is not None and other.mask is not None:
            assert item.mask.dtype == other.mask.dtype == np.uint8
            np.testing.assert_array_equal(item.mask, other.mask)
            assert (
                np.bincount(item.mask.ravel(), minlength=3).tolist()
                == from_files.class_pixels[row].tolist()
            )
        assert from_files.read_bytes(row).image == from_shards.read_bytes(row).image


def test_a_source_travels_to_other_processes_without_its_files(shards: Path) -> None:
    source = open_tiles(shards)
    expected = source.read(3).image
    sent = pickle.dumps(source)
    assert len(sent) < 500
    np.testing.assert_array_equal(pickle.loads(sent).read(3).image, expected)


def test_many_shards_need_few_open_files(
    manifest: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histoprep.storage._MAX_OPEN", 2)
    source, before = open_tiles(shards), len(os.listdir("/proc/self/fd"))
    for row in [*range(24), *range(23, -1, -1)]:
        source.read_bytes(row)
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_tar_lists_and_unpacks_them(shards: Path, tmp_path: Path) -> None:
    for path in sorted(shards.glob("*.tar")):
        subprocess.run(["tar", "--extract", "--file", path, "--directory", tmp_path], check=True)
        listed = subprocess.run(
            ["tar", "--list", "--file", path], check=True, capture_output=True, text=True
        )
        assert not listed.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == members(shards)


def test_webdataset_reads_them(manifest: Path, shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    found = {item["__key__"]: item for item in webdataset.WebDataset(urls, shardshuffle=False)}
    source, packed = open_tiles(manifest), open_tiles(shards)
    assert found.keys() == {key_of(identifier) for identifier in source.tile_ids}
    for row, name in enumerate(source.tile_ids):
        sample = found[key_of(name)]
        assert source.read_bytes(row).image in (sample.get("jpg"), sample.get("png"))
        assert packed.read_bytes(row).mask in (sample["mask.png"], None)


def test_datasets_reads_them(
    manifest: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source, index = open_tiles(manifest), pq.read_table(shards / "index.parquet").to_pylist()
    seen = set()
    # It takes the fields of all samples from the first ones, so each image format is read apart.
    for suffix in ("jpg", "png"):
        rows = {
            item["key"]: row
            for row, item in enumerate(index)
            if item["image_path"].endswith(suffix) and item["split"] == "train"
        }
        for pool in ("conditional", "unconditional"):
            names = sorted(
                {index[row]["shard"] for row in rows.values() if index[row]["pool"] == pool}
            )
            if not names:
                continue
            given = {"train": [str(shards / name) for name in names]}
            for item in datasets.load_dataset(
                "webdataset",
                data_files=given,
                split="train",
                cache_dir=str(tmp_path / suffix / pool),
            ):
                tile = source.read(rows[item["__key__"]])
                seen.add(item["__key__"])
                np.testing.assert_array_equal(
                    np.array(item["mask.png"]),
                    np.zeros((48, 48)) if tile.mask is None else tile.mask,
                )
                assert (
                    np.abs(np.array(item[suffix].convert("RGB")).astype(int) - tile.image).max()
                    <= 3
                )
    assert seen == {item["key"] for item in index if item["split"] == "train"}


def test_the_same_bytes_for_any_number_of_workers_and_wherever_it_lies(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    path, first = own
    write_shards(path, tmp_path / "other", engine=Engine(2))
    assert files(tmp_path / "other") == files(first)


def test_shards_are_filled_up_to_their_size(manifest: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    (big / "data").mkdir(parents=True)
    rng = np.random.default_rng(2)
    for index in range(12):
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(
            big / f"data/t{index}.png"
        )
    from histoprep.manifest.build import ManifestOptions, build_manifest
    from histoprep.schemas.workspace import Workspace
    from histoprep.tiles.table import ensure_tiles

    workspace = Workspace.of(big / "data")
    build_manifest(
        ensure_tiles(workspace, workers=1),
        LABEL_MAP,
        ManifestOptions({"train": 1}),
        workspace.manifest,
    )
    result = write_shards(workspace.manifest, big / "shards", ShardOptions(10**6), ONE)
    sizes = [path.stat().st_size for path in sorted((big / "shards").glob("*.tar"))]
    assert [path.name for path in sorted((big / "shards").glob("*.tar"))] == [
        f"train-unconditional-{number:06d}.tar" for number in range(3)
    ]
    # No further tile would have fitted.
    largest = max(len(value) for value in members(big / "shards").values())
    assert max(sizes) <= 10**6 < max(sizes) + largest + 11_000
    assert result.num_shards == 3 and result.num_bytes == sum(sizes)
    assert len(members(big / "shards")) == 2 * 12


def test_a_tile_within_a_shard_stands_in_no_order_of_its_source(shards: Path) -> None:
    index = pq.read_table(shards / "index.parquet").to_pylist()
    for name in {row["shard"] for row in index}:
        keys = [
            row["key"]
            for row in sorted(
                (row for row in index if row["shard"] == name), key=lambda row: row["image_offset"]
            )
        ]
        assert keys == sorted(keys)


def test_readers_see_uniform_samples_in_a_shard(shards: Path) -> None:
    for path in shards.glob("*.tar"):
        with tarfile.open(path) as archive:
            fields: dict[str, set[str]] = {}
            for name in archive.getnames():
                fields.setdefault(name.partition(".")[0], set()).add(name.partition(".")[2])
        assert len({frozenset(value) for value in fields.values()}) == 1


def test_a_shard_is_on_its_way_to_the_disk_while_it_is_packed(
    manifest: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: dict[int, list[tuple[int, int]]] = {}
    monkeypatch.setattr(
        durable,
        "begin_writing_back",
        lambda number, *piece: pieces.setdefault(os.fstat(number).st_ino, []).append(piece),
    )
    monkeypatch.setattr(task, "_WRITE_BYTES", 4000)
    for item in plan_shards(open_manifest(manifest), tmp_path / "out", ShardOptions()).tasks():
        item.run()
        found = pieces[item.shard.stat().st_ino]
        starts = np.cumsum([0, *(length for _, length in found)]).tolist()
        assert [start for start, _ in found] == starts[:-1] and starts[
            -1
        ] == item.shard.stat().st_size
        assert item.shard.read_bytes() == (shards / item.shard.name).read_bytes()
    assert max(map(len, pieces.values())) > 2


def test_a_finished_folder_is_not_written_again(own: tuple[Path, Path]) -> None:
    path, folder = own
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write_shards(path, folder, engine=ONE).up_to_date
    assert {
        path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"
    } == {name: time for name, time in before.items() if name != ".lock"}


def test_the_same_call_writes_only_what_is_missing(
    own: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = own
    whole = files(folder)
    names = sorted(name for name in whole if name.endswith(".tar"))
    (folder / names[0]).unlink()
    (folder / names[1]).write_bytes(whole[names[1]][:-1])
    result = write_shards(path, folder, ShardOptions(), ONE)
    # The notes of the finished run are gone, so all shards are made again; half a run keeps them,
    # see the fault tests.
    assert not result.up_to_date
    assert files(folder) == whole


@pytest.mark.parametrize("change", ["size", "content", "gone", "mask"])
def test_a_file_that_changed_since_the_manifest_stops_it_with_its_name(
    tmp_path: Path, change: str
) -> None:
    path = make_tiles(tmp_path / "data", 8)
    name = "plain_4_mask.png" if change == "mask" else "plain_4.jpg"
    victim = tmp_path / "data" / name
    data = victim.read_bytes()
    if change == "gone":
        victim.unlink()
    else:
        middle = len(data) // 2
        victim.write_bytes(
            data + b"x"
            if change == "size"
            else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        )
    with pytest.raises(IncompleteError) as caught:
        write_shards(path, tmp_path / "shards", engine=ONE)
    assert name in str(caught.value)
    assert {"size": "HP206", "content": "HP902", "gone": "HP201 vanished", "mask": "HP902"}[
        change
    ] in str(caught.value)
    assert not (tmp_path / "shards/index.parquet").exists()
    with pytest.raises(TileError, match="plain_4") as unread:
        open_tiles(path).read(open_tiles(path).tile_ids.tolist().index("plain_4"))
    assert name in str(unread.value)
    # Restored, the rest is kept.
    victim.write_bytes(data)
    result = write_shards(path, tmp_path / "shards", engine=ONE)
    assert 0 < result.num_reused < result.num_shards
    assert verify_shards(tmp_path / "shards", path) == []


def test_folders_of_others_are_left_alone(
    manifest: Path, own: tuple[Path, Path], tmp_path: Path
) -> None:
    path, folder = own
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    for out, options, said in (
        (tmp_path / "full", ShardOptions(), "not empty"),
        (tmp_path / "file", ShardOptions(), "need a folder"),
        (tmp_path / "data/shards", ShardOptions(), "must not mix"),
        (folder, ShardOptions(2 * 10**6), "made with other settings:"),
        (tmp_path / "small", ShardOptions(1000), "make no sense"),
    ):
        with pytest.raises(UsageError, match=said):
            write_shards(path, out, options, ONE)
    with pytest.raises(UsageError, match="made with other settings:"):
        write_shards(manifest, folder, ShardOptions(), ONE)
    with pytest.raises(UsageError, match="an index of shards already"):
        write_shards(folder / "index.parquet", tmp_path / "again", engine=ONE)
    assert (tmp_path / "full/notes.txt").read_text() == "mine"
    assert not (tmp_path / "small").exists() and not (tmp_path / "again").exists()


def test_two_writers_exclude_each_other(own: tuple[Path, Path]) -> None:
    import fcntl

    path, folder = own
    with (folder / ".lock").open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(LockedError):
            write_shards(path, folder, ShardOptions(), ONE)


def test_no_index_is_a_usage_error(tmp_path: Path, manifest: Path) -> None:
    for path in (tmp_path, tmp_path / "index.parquet"):
        with pytest.raises(UsageError):
            open_tiles(path)
    with pytest.raises(UsageError, match="not an index"):
        verify_shards(manifest)


def test_true_shards_have_no_finding(manifest: Path, shards: Path) -> None:
    progress: list[tuple[int, int]] = []
    assert (
        verify_shards(shards, manifest, advance=lambda done, total: progress.append((done, total)))
        == []
    )
    assert progress[-1] == (24, 24)


def test_every_flipped_bit_of_a_member_is_found(own: tuple[Path, Path]) -> None:
    _, folder = own
    rng = random.Random(4)
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    for _ in range(40):
        row = rng.choice(rows)
        what = rng.choice(["image", "mask"])
        where = (
            row[f"{what}_offset"]
            - rng.choice([0, 512])
            + rng.randrange(min(row[f"{what}_length"], 512))
        )
        path = folder / row["shard"]
        before = path.read_bytes()
        after = bytearray(before)
        after[where] ^= 1 << rng.randrange(8)
        path.write_bytes(after)
        found = verify_shards(folder)
        assert [finding.code for finding in found] in (["HP904"], ["HP905"]), where
        assert found[0].paths == (row["tile_id"],) and row["shard"] in found[0].details[0]
        if where >= row[f"{what}_offset"] and (what == "image" or row["mask_path"]):
            with pytest.raises(TileError, match="HP904") as caught:
                open_tiles(folder).read(rows.index(row))
            assert row["tile_id"] in str(caught.value) and row["shard"] in str(caught.value)
        path.write_bytes(before)
    assert verify_shards(folder) == []


def test_cut_missing_and_foreign_shards_are_found(own: tuple[Path, Path]) -> None:
    path, folder = own
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    row = next(row for row in rows if row["shard"] == "train-conditional-000000.tar")
    shard = folder / row["shard"]
    whole = shard.read_bytes()

    shard.write_bytes(whole[: row["image_offset"] + 10])
    assert row["tile_id"] in verify_shards(folder)[0].paths
    with pytest.raises(TileError, match="ends"):
        open_tiles(folder).read(rows.index(row))
    quick = verify_shards(folder, path, contents=False)
    assert [(finding.code, finding.paths) for finding in quick] == [("HP904", (row["shard"],))]

    shard.unlink()
    found = verify_shards(folder)
    assert [(finding.code, finding.paths) for finding in found] == [("HP904", (row["shard"],))]
    with pytest.raises(TileError, match="No such file"):
        open_tiles(folder).read(rows.index(row))

    swapped = bytearray(whole)
    start = row["image_offset"] - 512
    swapped[start : start + 512] = member_header(f"{key_of('another')}.jpg", row["image_length"])
    shard.write_bytes(swapped)
    assert [(finding.code, finding.paths) for finding in verify_shards(folder)] == [
        ("HP905", (row["tile_id"],))
    ]

    end = len(whole.rstrip(b"\0")) + -len(whole.rstrip(b"\0")) % 512
    longer = (
        whole[:end]
        + member_header(f"{key_of('more')}.jpg", 3)
        + b"abc".ljust(512, b"\0")
        + bytes(10240)
    )
    shard.write_bytes(longer)
    codes = {finding.code: finding for finding in verify_shards(folder)}
    assert (
        codes["HP905"].paths == (row["shard"],)
        and "more than the index says" in codes["HP905"].details[0]
    )


def test_a_shard_beside_those_of_the_index_is_found(own: tuple[Path, Path]) -> None:
    path, folder = own
    shard = next(folder.glob("test-*.tar"))
    shutil.copy(shard, folder / f".{shard.name}")
    shutil.copy(shard, folder / f"{shard.name}.txt")
    assert verify_shards(folder) == []
    stranger = os.fsdecode(b"extra-\xff.tar")
    for name in ("test-conditional-000009.tar", stranger):
        shutil.copy(shard, folder / name)
    for found in (
        verify_shards(folder),
        verify_shards(f"file://{folder}"),
        verify_shards(folder, path, contents=False),
    ):
        assert [(finding.code, finding.paths) for finding in found] == [
            ("HP905", (stranger, "test-conditional-000009.tar"))
        ]
        assert "not of this index" in found[0].details[0]


def test_another_manifest_is_a_mismatch(own: tuple[Path, Path], tmp_path: Path) -> None:
    from histoprep.manifest.build import ManifestOptions, build_manifest
    from histoprep.schemas.workspace import Workspace
    from histoprep.tiles.table import ensure_tiles

    path, folder = own
    workspace = Workspace.of(tmp_path / "data")
    (tmp_path / "data/plain_0.jpg").unlink()
    (tmp_path / "data/plain_0_mask.png").unlink()
    Image.new("RGB", (48, 48), (1, 2, 200)).save(tmp_path / "data/fresh.jpg")
    build_manifest(ensure_tiles(workspace, workers=1), LABEL_MAP, ManifestOptions(), path)
    found = verify_shards(folder, path)
    assert [finding.code for finding in found] == ["HP905"]
    seen = dict(zip(found[0].paths, found[0].details, strict=True))
    assert seen["plain_0"] == "in the shards, not in the manifest"
    assert seen["fresh"] == "in the manifest, not in the shards"


def test_a_damaged_index_is_a_finding(own: tuple[Path, Path]) -> None:
    _, folder = own
    data = bytearray((folder / "index.parquet").read_bytes())
    data[-40] ^= 4
    (folder / "index.parquet").write_bytes(data)
    assert [(finding.code, finding.subcode) for finding in verify_shards(folder)] == [
        ("HP904", "index")
    ]
    with pytest.raises(IntegrityError):
        open_tiles(folder)


def test_headers_are_those_of_tarfile() -> None:
    for name, size in (("a.jpg", 0), (f"{'f' * 32}.mask.png", 8_589_934_591), ("b" * 100, 12345)):
        expected = tarfile.TarInfo(name)
        expected.size = size
        ours = member_header(name, size)
        read = tarfile.TarInfo.frombuf(ours, "ascii", "strict").get_info()
        assert {**read, "chksum": 0} == expected.get_info()
        assert parse_header(ours) == (name, size)
    for wrong in (("ä", 1), ("x" * 101, 1), ("a", 8**11)):
        with pytest.raises(ValueError):
            member_header(*wrong)
    assert parse_header(bytes(512)) is None


def test_a_large_set_is_indexed_in_order(tmp_path: Path) -> None:
    """Rows of several batches, kinds and shards come back in the manifest's order."""
    from histoprep.schemas.shards import PART_KIND, PART_SCHEMA, PART_VERSION
    from histoprep.shards.task import ShardDone
    from histoprep.shards.write import _Members
    from histoprep.tables import write_table

    rng = np.random.default_rng(1)
    kinds = rng.integers(0, 3, 5000)
    done = []
    for kind in range(3):
        for number, rows in enumerate(np.array_split(np.flatnonzero(kinds == kind), 4)):
            shuffled = rng.permutation(rows)
            columns = {
                name: pa.array(
                    shuffled if name == "row" else [None] * len(rows), PART_SCHEMA.field(name).type
                )
                for name in PART_SCHEMA.names
            }
            path = tmp_path / f"{kind}-{number}.parquet"
            write_table(
                path,
                [pa.table(columns)],
                PART_SCHEMA,
                kind=PART_KIND,
                schema_version=PART_VERSION,
                metadata={"shard": {}},
            )
            done.append(ShardDone(path.stem, path, int(rows.min()), len(rows)))
    found = _Members(done)
    for start in range(0, 5000, 700):
        part = found.between(start, min(start + 700, 5000))
        assert part["row"].to_pylist() == list(range(start, min(start + 700, 5000)))
        assert [int(item[0]) for item in part["shard"].to_pylist()] == kinds[
            start : start + 700
        ].tolist()
    with pytest.raises(IntegrityError):
        found.between(5000, 5001)


@pytest.mark.slow
def test_the_documented_ways_to_read_masks_give_their_classes(
    manifest: Path, shards: Path, tmp_path: Path
) -> None:
    """The Python blocks of docs/shards.md, run as they stand."""
    pytest.importorskip("webdataset")
    pytest.importorskip("datasets")
    text = (Path(__file__).parents[1] / "docs/shards.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    source = open_tiles(manifest)
    rows = {
        key_of(name): row
        for row, name in enumerate(source.tile_ids.tolist())
        if source.split[row] == "train"
    }
    paths = source.manifest.read(["image_path"])["image_path"].to_pylist()
    for block in blocks:
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", block, str(shards), str(tmp_path / "cache")]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment, timeout=120
        )
        printed = {line.split()[0]: line.partition(" ")[2] for line in done.stdout.splitlines()}
        expected = {}
        for key, row in rows.items():
            mask = source.read(row).mask
            classes = [0] if mask is None else sorted(set(mask.ravel().tolist()))
            shape = source.read(row).image.shape[:2]
            if block is blocks[0] or paths[row].endswith(".png"):
                expected[key] = f"uint8 {shape} {classes}"
        assert printed == expected
        assert len(expected) > 1


def test_images_lose_their_metadata_unless_it_is_to_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from histoprep.manifest.build import ManifestOptions, build_manifest, raw_label_map
    from histoprep.schemas.workspace import Workspace
    from histoprep.tiles.table import ensure_tiles

    (tmp_path / "data").mkdir()
    exif = Image.Exif()
    exif[315], exif[274] = "PATIENT-0815", 6
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        suffix, options = ("jpg", {"exif": exif}) if index % 2 else ("png", {})
        Image.fromarray(pixels).save(tmp_path / f"data/t{index}.{suffix}", **options)
        Image.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(
            tmp_path / f"data/t{index}_mask.png"
        )
    space = Workspace.of(tmp_path / "data")
    tiles = ensure_tiles(space)
    build_manifest(tiles, raw_label_map(tiles), ManifestOptions(), space.manifest)
    source = open_tiles(space.manifest)
    for keep in (False, True):
        out = tmp_path / f"shards-{keep}"
        assert (
            run(
                [
                    "shard",
                    str(space.manifest),
                    "--out",
                    str(out),
                    "--workers",
                    "1",
                    *(["--keep-metadata"] if keep else []),
                ]
            )
            == ExitCode.OK
        )
        assert "several formats (jpg, png)" in capsys.readouterr().err
        assert any(b"PATIENT-0815" in path.read_bytes() for path in out.glob("*.tar")) == keep
        packed = open_tiles(out)
        index = packed.manifest.read(
            ["image_path", "image_digest", "image_stored_digest", "image_orientation"]
        ).to_pylist()
        for row, facts in enumerate(index):
            stored = packed.read_bytes(row).image
            assert facts["image_digest"] == digest(source.read_bytes(row).image)
            assert facts["image_stored_digest"] == digest(stored)
            assert (facts["image_stored_digest"] == facts["image_digest"]) == (
                keep or facts["image_path"].endswith("png")
            )
            assert facts["image_orientation"] == (
                6 if facts["image_path"].endswith("jpg") else None
            )
            np.testing.assert_array_equal(packed.read(row).image, source.read(row).image)
        assert verify_shards(out, space.manifest) == []
