"""Shards and files read from object stores: a real S3 server on this machine, and schemes of
fsspec.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from packed_tiles import make_tiles
from s3_server import s3_server

from histoprep.errors import UsageError
from histoprep.execution import Engine
from histoprep.shards import TileError, open_tiles
from histoprep.shards.verify import verify_shards
from histoprep.shards.write import write_shards

BUCKET = "tiles"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a manifest and its shards."""
    manifest = make_tiles(tmp_path_factory.mktemp("cloud") / "data", 12)
    write_shards(manifest, manifest.parent / "shards", engine=Engine(1))
    return manifest, manifest.parent / "shards"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of an S3 server."""
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    pytest.importorskip("flask")
    with s3_server(tmp_path_factory.mktemp("moto") / "log") as address:
        yield address


@pytest.fixture
def bucket(server: str, packed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of a folder with the shards, the manifest and the data set."""
    import urllib.request

    import obstore
    from obstore.store import from_url

    for name, value in (
        ("AWS_ENDPOINT_URL", server),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    with urllib.request.urlopen(urllib.request.Request(f"{server}/{BUCKET}", method="PUT")):
        pass
    store = from_url(f"s3://{BUCKET}/set", client_options={"allow_http": True})
    manifest, shards = packed
    root = (
        manifest.with_name("data")
        if manifest.with_name("data").exists()
        else Path(str(manifest.parent).removesuffix(".histoprep"))
    )
    for folder, prefix in ((shards, "shards"), (root, "data"), (manifest.parent, "made")):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not (prefix == "made" and "shards" in path.parts):
                obstore.put(store, f"{prefix}/{path.relative_to(folder)}", path.read_bytes())
    return f"s3://{BUCKET}/set"


def same_tiles(first: object, second: object, rows: int = 12) -> None:
    for row in range(rows):
        item, other = (source.read(row) for source in (first, second))  # type: ignore[attr-defined]
        np.testing.assert_array_equal(item.image, other.image)
        assert (item.mask is None) == (other.mask is None)
        if item.mask is not None:
            np.testing.assert_array_equal(item.mask, other.mask)


def test_shards_in_a_bucket_are_read_by_ranges(bucket: str, packed: tuple[Path, Path]) -> None:
    manifest, _ = packed
    local = open_tiles(manifest)
    for address in (f"{bucket}/shards", f"{bucket}/shards/", f"{bucket}/shards/index.parquet"):
        remote = open_tiles(address)
        assert remote.digest == local.digest
        assert remote.table.equals(local.table)
        same_tiles(remote, local)
    assert remote.tile_ids.tolist() == local.tile_ids.tolist()
    same_tiles(pickle.loads(pickle.dumps(remote)), local, 3)


def test_one_tile_is_one_range_request(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore.store

    requests: list[tuple[str, int, int]] = []
    real = obstore.store.S3Store.get_range

    def counted(self: object, path: str, *, start: int, length: int) -> object:
        requests.append((path, start, length))
        return real(self, path, start=start, length=length)  # type: ignore[arg-type]

    monkeypatch.setattr(obstore.store.S3Store, "get_range", counted)
    source = open_tiles(f"{bucket}/shards")
    assert requests == []
    sizes = [
        sum(len(part) for part in source.read_bytes(row) if part is not None) for row in range(12)
    ]
    assert len(requests) == 12
    assert all(length <= size + 1024 for (_, _, length), size in zip(requests, sizes, strict=True))


def test_shards_in_a_bucket_are_verified(bucket: str, packed: tuple[Path, Path]) -> None:
    import obstore
    from obstore.store import from_url

    manifest, shards = packed
    assert verify_shards(f"{bucket}/shards", manifest) == []
    store = from_url(f"{bucket}/shards", client_options={"allow_http": True})
    shard = sorted(shards.glob("*.tar"))[0]
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    obstore.put(store, shard.name, bytes(data))
    found = verify_shards(f"{bucket}/shards")
    assert [finding.code for finding in found] == ["HP904"] and shard.name in found[0].details[0]
    obstore.delete(store, shard.name)
    assert [(finding.code, finding.paths) for finding in verify_shards(f"{bucket}/shards")] == [
        ("HP904", (shard.name,))
    ]
    source = open_tiles(f"{bucket}/shards")
    row = source.manifest.read()["shard"].to_pylist().index(shard.name)
    with pytest.raises(TileError) as caught:
        source.read(row)
    assert source.tile_ids[row] in str(caught.value) and f"{bucket}/shards/{shard.name}" in str(
        caught.value
    )


def test_files_in_a_bucket_are_read_too(bucket: str, packed: tuple[Path, Path]) -> None:
    local = open_tiles(packed[0])
    same_tiles(open_tiles(packed[0], root=f"{bucket}/data"), local)
    remote = open_tiles(f"{bucket}/made/manifest.parquet", root=f"{bucket}/data")
    assert remote.digest == local.digest
    same_tiles(remote, local)


def test_what_is_not_in_the_bucket_is_a_usage_error(bucket: str) -> None:
    with pytest.raises(UsageError, match="cannot read") as caught:
        open_tiles(f"{bucket}/nothing")
    assert f"{bucket}/nothing/index.parquet" in str(caught.value)


def test_other_schemes_go_through_fsspec(packed: tuple[Path, Path]) -> None:
    fsspec = pytest.importorskip("fsspec")
    manifest, shards = packed
    memory = fsspec.filesystem("memory")
    for path in shards.iterdir():
        memory.pipe_file(f"/somewhere/{path.name}", path.read_bytes())
    source = open_tiles("memory://somewhere")
    same_tiles(source, open_tiles(manifest))
    assert verify_shards("memory://somewhere", manifest) == []
    memory.rm("/somewhere/index.parquet")
    with pytest.raises(UsageError, match="cannot read"):
        open_tiles("memory://somewhere")
    with pytest.raises(UsageError, match="fsspec cannot read"):
        open_tiles("nosuchscheme://bucket/folder")


@pytest.mark.slow
def test_file_addresses_are_folders(packed: tuple[Path, Path]) -> None:
    manifest, shards = packed
    same_tiles(open_tiles(f"file://{shards}"), open_tiles(manifest), 2)
