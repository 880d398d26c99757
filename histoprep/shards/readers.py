"""Bytes of tiles from files or from shards, checked on the way, and their decoding."""

from __future__ import annotations

import contextlib
import zlib
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from histoprep import rule_ids
from histoprep.choices import OnUnmapped
from histoprep.digests import digest
from histoprep.errors import BrokenFileError, IntegrityError
from histoprep.labels.lookup import LabelLookup
from histoprep.mask_reading import UNDECIDED, Reading
from histoprep.schemas.manifest import SHARD_COLUMNS, Manifest
from histoprep.storage import Storage

crc32: Any = zlib.crc32
# The same numbers, several times faster.
with contextlib.suppress(ImportError):
    from zlib_ng.zlib_ng import crc32

_CRCS = ("image_crc32", "mask_crc32")


class EncodedTile(NamedTuple):
    """The bytes of a tile's image, and of its mask as it is stored, None when it has none."""

    image: bytes
    mask: bytes | None


class TileError(IntegrityError):
    """A tile that cannot be read, or is not what the manifest says; names the tile and the file."""


class FileReader:
    """Reads tiles from the files of the data set; their masks have its labels."""

    def __init__(self, manifest: Manifest, storage: Storage, root: str | None = None) -> None:
        """Read the names of the files; raises UsageError for a label map with classes above 255.

        `root` is the folder of the storage where it is another one than that of the manifest.
        """
        self._path_of = partial(manifest.path_of, root=root)
        names = ("tile_id", "image_path", "image_digest", "mask_path", "mask_digest")
        self._rows = manifest.read(names).combine_chunks()
        self._storage = storage
        self._lookup = LabelLookup.of(manifest.label_map, OnUnmapped.ERROR, manifest.mask_reading)

    def read(self, row: int) -> EncodedTile:
        """Return the bytes of both files; raises TileError."""
        image = self._file(row, "image")
        return EncodedTile(
            image,
            self._file(row, "mask") if self._rows["mask_path"][row].as_py() is not None else None,
        )

    def _file(self, row: int, what: str) -> bytes:
        name, stated = (self._rows[f"{what}_{field}"][row].as_py() for field in ("path", "digest"))
        try:
            data = self._storage.read(self._path_of(name))
        except OSError as error:
            raise self._error(row, error.strerror or str(error), what) from error
        if stated is not None and digest(data) != stated:
            raise self._error(
                row,
                f"{rule_ids.MANIFEST_STALE}: the {what} changed after the manifest was made",
                what,
            )
        return data

    def image(self, row: int, data: bytes) -> np.ndarray:
        """Return the image, uint8 RGB [height, width, 3]; raises TileError."""
        try:
            return _decode_image(data)
        except BrokenFileError as error:
            raise self._error(row, f"{error.verdict}: {error.detail}", "image") from error

    def mask(self, row: int, data: bytes) -> np.ndarray:
        """Return the classes of the mask, uint8 [height, width]; raises TileError."""
        try:
            return self._lookup.apply(_decode_mask(data, self._lookup.reading))
        except BrokenFileError as error:
            raise self._error(row, f"{error.verdict}: {error.detail}", "mask") from error

    def _error(self, row: int, reason: str, what: str) -> TileError:
        name = self._rows[f"{what}_path"][row].as_py()
        hint = (
            "histoprep manifest check says which files differ; restore them or make the manifest"
            " again"
        )
        return TileError(
            f"tile {self._rows['tile_id'][row].as_py()} cannot be read: {reason}",
            path=self._storage.where(self._path_of(name)),
            hint=hint,
        )


class ShardReader:
    """Reads tiles from shards, one range read a tile; their masks have classes."""

    def __init__(self, manifest: Manifest, storage: Storage) -> None:
        """Read where every tile lies: 56 bytes a tile stay in memory."""
        columns = manifest.read((*SHARD_COLUMNS, *_CRCS))
        self._manifest, self._storage = manifest, storage
        shards = columns["shard"].combine_chunks().dictionary_encode()
        shards = shards.combine_chunks() if isinstance(shards, pa.ChunkedArray) else shards
        self._names: list[str] = shards.dictionary.to_pylist()
        self._shard = shards.indices.to_numpy(zero_copy_only=False)
        image, length, mask, mask_length, *crcs = (
            columns[name].cast(pa.int64()).fill_null(0).to_numpy()
            for name in (*SHARD_COLUMNS[1:], *_CRCS)
        )
        # A tile without a mask has one of zeros in the shard, for other readers.
        has_mask = manifest.read(["mask_path"])["mask_path"].is_valid().to_numpy()
        # Side by side in memory; the mask counts from the image, 0 for none.
        self._where = np.stack(
            [image, length, np.where(has_mask, mask - image, 0), mask_length, *crcs], axis=1
        )

    def read(self, row: int) -> EncodedTile:
        """Return the bytes of both members; raises TileError."""
        offset, length, beyond, mask_length, image_crc, mask_crc = self._where[row].tolist()
        wanted = beyond + mask_length if beyond else length
        try:
            data = self._storage.read(self._names[self._shard[row]], offset, wanted)
        except OSError as error:
            raise self._error(row, error.strerror or str(error)) from error
        if len(data) != wanted:
            raise self._error(
                row,
                f"{rule_ids.SHARD_CORRUPT}: the shard ends {wanted - len(data):,} bytes before the"
                " tile does",
            )
        image, mask = (data[:length], data[beyond:]) if beyond else (data, None)
        if crc32(image) != image_crc or (mask is not None and crc32(mask) != mask_crc):
            raise self._error(
                row, f"{rule_ids.SHARD_CORRUPT}: its bytes are not those that were written (CRC32)"
            )
        return EncodedTile(image, mask)

    def image(self, row: int, data: bytes) -> np.ndarray:
        """Return the image, uint8 RGB [height, width, 3]; raises TileError."""
        try:
            return _decode_image(data)
        except BrokenFileError as error:
            raise self._error(row, f"{error.verdict}: {error.detail}") from error

    def mask(self, row: int, data: bytes) -> np.ndarray:
        """Return the mask, uint8 classes [height, width]; raises TileError."""
        try:
            return _decode_mask(data)
        except BrokenFileError as error:
            raise self._error(row, f"{error.verdict}: {error.detail}") from error

    def _error(self, row: int, reason: str) -> TileError:
        name = self._manifest.read(["tile_id"])["tile_id"][row].as_py()
        where = self._storage.where(self._names[self._shard[row]])
        return TileError(
            f"tile {name} cannot be read: {reason}",
            path=where,
            hint="histoprep shard verify DIR; then write the shards again",
        )


def _decode_image(data: bytes) -> np.ndarray:
    from histoprep import imageio

    return imageio.decode_rgb(data)


def _decode_mask(data: bytes, reading: Reading = UNDECIDED) -> np.ndarray:
    from histoprep import imageio

    return imageio.decode_mask(data, imageio.read_header(data, reading), reading)
