"""One shard: images as they are, masks as classes, a file that appears when it is whole, then a
note of what lies where in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import xxhash

from histoprep import durable, rule_ids, tables
from histoprep.digests import digest
from histoprep.errors import BrokenFileError, IntegrityError
from histoprep.execution.marker import Marker
from histoprep.labels.lookup import LabelLookup, MaskRemapper
from histoprep.read_ahead import ANY_TIME, FileStat, Request, read_ahead, stat_file
from histoprep.schemas.shards import PART_KIND, PART_SCHEMA, PART_VERSION, part_facts
from histoprep.shards.layout import MASK_SUFFIX, member_header, padding, trailer
from histoprep.shards.readers import crc32

_WRITE_BYTES = 1 << 20
_NO_LIMIT = 1 << 62


class PackedTile(NamedTuple):
    """A tile to pack: its row in the manifest, its key, and where its files are and what they
    should be; `mask_path` None without one.

    `shape` is height and width.
    """

    row: int
    tile_id: str
    key: str
    suffix: str
    image_path: str
    image_bytes: int
    image_digest: str | None
    mask_path: str | None
    mask_bytes: int
    mask_digest: str | None
    shape: tuple[int, int]


class FailedTile(NamedTuple):
    """A tile that cannot be packed: the file and why."""

    tile_id: str
    path: str
    reason: str


class ShardDone(NamedTuple):
    """What became of a shard: where its part is, its first row of the manifest, its tiles; with
    failures there is no shard.
    """

    name: str
    part: Path
    first_row: int
    num_tiles: int
    failures: tuple[FailedTile, ...] = ()
    reused: bool = False


class _FailuresError(Exception):
    """Some tiles cannot be packed, so the shard is not written."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard. `left_out` are files at which a worker died (twice the place of the tile, plus one
    for the mask), and why.

    With `keep_metadata` images keep every byte.
    """

    tiles: tuple[PackedTile, ...]
    shard: Path
    lookup: LabelLookup
    part: Path
    marker: Path
    time_limit_s: float
    keep_metadata: bool = False
    left_out: tuple[tuple[int, str], ...] = ()

    def run(self) -> ShardDone:
        """Write the shard and its part unless they are there; raises OutputError."""
        done = ShardDone(
            self.shard.name, self.part, min(tile.row for tile in self.tiles), len(self.tiles)
        )
        if self.is_done():
            return done._replace(reused=True)
        failures: list[FailedTile] = []
        members: list[dict[str, Any]] = []
        state = xxhash.xxh3_128()
        try:
            with contextlib.closing(Marker(self.marker, self.time_limit_s)) as marker:
                durable.write_file(
                    self.shard, lambda stream: self._write(stream, marker, members, failures, state)
                )
        except _FailuresError:
            return done._replace(failures=tuple(failures))
        size = self.shard.stat().st_size
        facts = {
            "name": self.shard.name,
            "bytes": size,
            "tiles": len(self.tiles),
            "digest": state.hexdigest(),
        }
        rows = pa.Table.from_pylist(members, schema=PART_SCHEMA)
        tables.write_table(
            self.part,
            [rows],
            PART_SCHEMA,
            kind=PART_KIND,
            schema_version=PART_VERSION,
            metadata={"shard": facts},
        )
        return done

    def num_done(self, index: int | None) -> int:
        """Return how many tiles are done at item `index`; all of them for None."""
        return len(self.tiles) if index is None else index // 2

    def without(self, index: int, reason: str) -> ShardTask:
        """Return the task that reports a file as failed instead of reading its tile; `index` as in
        `left_out`.
        """
        return replace(self, left_out=(*self.left_out, (index, reason)))

    def is_done(self) -> bool:
        """Return whether the part says that this very shard was written and it is there in its
        size.
        """
        try:
            stated = part_facts(self.part)
        except (FileNotFoundError, IntegrityError):
            return False
        file = stat_file(str(self.shard))
        return file is not None and file.num_bytes == stated["bytes"]

    def _write(
        self,
        stream: IO[bytes],
        marker: Marker,
        members: list[dict[str, Any]],
        failures: list[FailedTile],
        state: xxhash.xxh3_128,
    ) -> None:
        waiting: list[bytes] = []
        end = written = 0

        def flush() -> None:
            nonlocal written
            data = b"".join(waiting)
            waiting.clear()
            state.update(data)
            stream.write(data)
            # While the next tiles are packed.
            durable.begin_writing_back(stream.fileno(), written, len(data))
            written += len(data)

        for failure in self._packed(marker, failures):
            # What cannot be finished need not be written; the rest is read for what else is wrong
            # with it.
            if failures:
                continue
            offset = end
            row: dict[str, Any] = {"row": failure.tile.row, "key": failure.tile.key}
            row |= {
                "image_orientation": failure.orientation,
                "image_stored_digest": digest(failure.image),
            }
            for field, name, data, crc in failure.members():
                offset += len(name)
                row |= {
                    f"{field}_offset": offset,
                    f"{field}_length": len(data),
                    f"{field}_crc32": crc,
                }
                waiting += (name, data, padding(len(data)))
                offset += len(data) + -len(data) % 512
            members.append(row)
            end = offset
            if end - written > _WRITE_BYTES:
                flush()
        if failures:
            raise _FailuresError
        waiting.append(trailer(end))
        flush()

    def _packed(self, marker: Marker, failures: list[FailedTile]) -> Iterator[_Packed]:
        """Yield the tiles read and remapped; what cannot be goes to `failures`."""
        for item, reason in self.left_out:
            tile = self.tiles[item // 2]
            file = tile.mask_path if item % 2 and tile.mask_path is not None else tile.image_path
            failures.append(
                FailedTile(
                    tile.tile_id,
                    file,
                    f"{rule_ids.UNREADABLE_FILE.verdict('worker-died')}: {reason}",
                )
            )
        left_out = {item // 2 for item, _ in self.left_out}
        chosen = [(index, tile) for index, tile in enumerate(self.tiles) if index not in left_out]
        contents = read_ahead(
            [request for _, tile in chosen for request in _requests(tile)], _NO_LIMIT
        )
        remap = MaskRemapper(self.lookup)
        for index, tile in chosen:
            marker.at(2 * index)
            image = self._stored(_checked(next(contents), tile.image_digest))
            marker.at(2 * index + 1)
            mask = (
                _checked(next(contents), tile.mask_digest) if tile.mask_path is not None else None
            )
            packed = remap.zeros(*tile.shape) if mask is None else _remapped(remap, mask)
            for path, wrong in ((tile.image_path, image), (tile.mask_path, packed)):
                if isinstance(wrong, BrokenFileError):
                    failures.append(
                        FailedTile(tile.tile_id, str(path), f"{wrong.verdict}: {wrong.detail}")
                    )
            if not failures:
                assert isinstance(image, tuple)
                assert not isinstance(packed, BrokenFileError)
                yield _Packed(tile, *image, packed)

    def _stored(self, image: bytes | BrokenFileError) -> tuple[bytes, int | None] | BrokenFileError:
        """Return an image as it goes into the shard and its EXIF orientation, or why it cannot go
        there.
        """
        from histoprep import imageio

        if isinstance(image, BrokenFileError):
            return image
        try:
            header = imageio.read_header(image)
            return image if self.keep_metadata else imageio.strip_metadata(
                image, header.format
            ), header.orientation
        except BrokenFileError as error:
            return error


class _Packed(NamedTuple):
    tile: PackedTile
    image: bytes
    orientation: int | None
    mask: bytes

    def members(self) -> Iterator[tuple[str, bytes, bytes, int]]:
        """Yield column prefix, header, bytes and CRC32 of each member."""
        yield (
            "image",
            member_header(f"{self.tile.key}.{self.tile.suffix}", len(self.image)),
            self.image,
            crc32(self.image),
        )
        header = member_header(f"{self.tile.key}.{MASK_SUFFIX}", len(self.mask))
        yield "mask", header, self.mask, crc32(self.mask)


def _requests(tile: PackedTile) -> Iterator[Request]:
    yield Request(tile.image_path, FileStat(tile.image_bytes, ANY_TIME))
    if tile.mask_path is not None:
        yield Request(tile.mask_path, FileStat(tile.mask_bytes, ANY_TIME))


def _checked(data: bytes | BrokenFileError, stated: str | None) -> bytes | BrokenFileError:
    if isinstance(data, BrokenFileError) or stated is None or digest(data) == stated:
        return data
    return BrokenFileError(
        str(rule_ids.MANIFEST_STALE), "its bytes are not those of the manifest's digest"
    )


def _remapped(remap: MaskRemapper, mask: bytes | BrokenFileError) -> bytes | BrokenFileError:
    """Return the file of a mask's classes, or why there is none."""
    if isinstance(mask, BrokenFileError):
        return mask
    try:
        return remap(mask, mask)
    except BrokenFileError as error:
        return error
