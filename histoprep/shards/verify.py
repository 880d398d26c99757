"""Are the shards still what was written, and do they hold what the manifest says: HP904 and
HP905.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from histoprep import rule_ids
from histoprep.checksums import damaged_files
from histoprep.digests import file_digest
from histoprep.errors import IntegrityError
from histoprep.findings import Problem, problem
from histoprep.manifest.diff import diff_manifests
from histoprep.progress import Advance, silent
from histoprep.schemas.manifest import Manifest, open_manifest
from histoprep.shards.index import open_index
from histoprep.shards.layout import (
    BLOCK,
    INDEX,
    MASK_SUFFIX,
    image_suffix,
    key_of,
    parse_header,
    trailer,
)
from histoprep.shards.readers import crc32
from histoprep.storage import LocalFolder, Storage, is_address, open_storage

_THREADS = 4
_READ_BYTES = 8 << 20
_COLUMNS = (
    "tile_id", "key", "image_path", "shard", "image_offset", "image_length", "image_crc32",
    "mask_offset", "mask_length", "mask_crc32",
)  # fmt: skip

Item = tuple[str, str]


@dataclass(slots=True)
class _Wrong:
    """What was found: of bytes (HP904) and of names (HP905), each as path or tile and what was
    seen.
    """

    corrupt: list[Item] = field(default_factory=list)
    foreign: list[Item] = field(default_factory=list)


class _Expected(NamedTuple):
    name: str
    offset: int
    length: int
    crc32: int
    tile_id: str


def verify_shards(
    path: str | Path,
    manifest: str | Path | None = None,
    *,
    contents: bool = True,
    advance: Advance = silent,
) -> list[Problem]:
    """Return everything that is wrong with shards; an empty list when they are true.

    HP904 for shards that are gone, of another size or with members that are missing or changed;
    HP905 for members and, in a local folder, tar files that the index does not list, and for
    differences from the manifest.

    Args:
        path: The index or its folder, a path or an address.
        manifest: Manifest to compare with; None for none.
        contents: Whether the members are read; without, only names and sizes are compared.
        advance: Called with the number of shards done and of all shards.

    Raises:
        UsageError: There is no index.
    """
    try:
        index = open_index(path)
    except IntegrityError as error:
        reason = f"{error.what}{f': {error.seen}' if error.seen else ''}"
        return [
            problem(
                rule_ids.SHARD_CORRUPT,
                [(str(path), reason)],
                denominator=1,
                unit="shards",
                subcode="index",
            )
        ]
    folder = (
        str(path).removesuffix(f"/{INDEX}") if is_address(str(path)) else str(index.path.parent)
    )
    storage = open_storage(folder)
    wrong = _Wrong()
    shards = index.header["shards"]
    done = 0
    with ThreadPoolExecutor(_THREADS) as threads:
        check = _Check(storage, index if contents else None)
        for shard, problems in zip(shards, threads.map(check, shards), strict=True):
            wrong.corrupt += problems.corrupt
            wrong.foreign += problems.foreign
            done += shard["tiles"]
            advance(done, len(index))
    if isinstance(storage, LocalFolder):
        wrong.corrupt += _damaged_notes(index.path.parent)
        _look_for_foreign_files(storage, {shard["name"] for shard in shards}, wrong)
    foreign = wrong.foreign + (_differences(index, Path(manifest)) if manifest is not None else [])
    looked_at = len(index) + len(shards) + len(foreign)
    return [
        problem(rule, _joined(items), denominator=looked_at, unit="tiles and shards")
        for rule, items in (
            (rule_ids.SHARD_CORRUPT, wrong.corrupt),
            (rule_ids.SHARD_MANIFEST_MISMATCH, foreign),
        )
        if items
    ]


def _damaged_notes(folder: Path) -> list[Item]:
    """Return the files beside the shards that are not what was written; their list of checksums is
    one of them.
    """
    try:
        return [
            (damage.path, f"{damage.seen}, {damage.expected} was written")
            for damage in damaged_files(folder)
        ]
    except IntegrityError as error:
        return [(str(error.path), error.what)]


def _look_for_foreign_files(storage: LocalFolder, names: set[str], wrong: _Wrong) -> None:
    """Find tar files that the index does not name: other readers take every *.tar of the folder."""
    try:
        # Hidden ones are no part of *.tar.
        beside = sorted(
            path
            for path in os.listdir(storage.folder)
            if path.endswith(".tar") and not path.startswith(".")
        )
    except OSError as error:
        wrong.corrupt.append((storage.folder, error.strerror or str(error)))
        return
    wrong.foreign += [
        (name, "not of this index, though readers of *.tar take it, too: move it away")
        for name in beside
        if name not in names
    ]


def _joined(items: list[Item]) -> list[Item]:
    """Return one item a name, with all that was seen of it."""
    details: dict[str, list[str]] = {}
    for name, detail in items:
        details.setdefault(name, []).append(detail)
    return [(name, "; ".join(seen)) for name, seen in details.items()]


def _differences(index: Manifest, path: Path) -> list[Item]:
    """Return what differs between an index and the manifest in a file."""
    if index.header["manifest_digest"] == file_digest(path):
        return []
    change = diff_manifests(index, open_manifest(path))
    differences = [(tile, "in the manifest, not in the shards") for tile in change.added]
    differences += [(tile, "in the shards, not in the manifest") for tile in change.removed]
    for what, moved in (("split", change.moved_split), ("pool", change.moved_pool)):
        differences += [
            (tile, f"{what} {old} in the shards, {new} in the manifest") for tile, old, new in moved
        ]
    for what, changed in (("image", change.changed_images), ("mask", change.changed_masks)):
        differences += [(tile, f"another {what} in the manifest") for tile in changed]
    return differences + [(str(path), f"label map: {line}") for line in change.label_map]


class _Check:
    """Checks one shard after another; `index` None looks at sizes alone."""

    def __init__(self, storage: Storage, index: Manifest | None) -> None:
        self._storage = storage
        self._rows = None if index is None else index.read(_COLUMNS).combine_chunks()
        if self._rows is not None:
            shards = self._rows["shard"].combine_chunks().dictionary_encode()
            shards = shards.combine_chunks() if isinstance(shards, pa.ChunkedArray) else shards
            self._codes = {name: code for code, name in enumerate(shards.dictionary.to_pylist())}
            codes = shards.indices.to_numpy(zero_copy_only=False)
            # Rows by shard, then by place in it.
            self._order = np.lexsort((self._rows["image_offset"].to_numpy(), codes))
            self._starts = np.searchsorted(codes[self._order], np.arange(len(self._codes) + 1))

    def __call__(self, shard: dict[str, Any]) -> _Wrong:
        """Return what is wrong with one shard, as the index's header describes it."""
        wrong = _Wrong()
        name = shard["name"]
        try:
            if isinstance(self._storage, LocalFolder):
                size = os.stat(self._storage.where(name)).st_size
                if size != shard["bytes"]:
                    wrong.corrupt.append((name, f"{size:,} bytes, {shard['bytes']:,} were written"))
            if self._rows is not None:
                self._check_members(name, wrong)
        except OSError as error:
            wrong.corrupt.append((name, error.strerror or str(error)))
        return wrong

    def _check_members(self, name: str, wrong: _Wrong) -> None:
        stream = _Stream(self._storage, name)
        for member in self._expected(name, wrong):
            header = stream.at(member.offset - BLOCK, BLOCK)
            data = stream.at(member.offset, member.length)
            try:
                found = parse_header(header) if len(header) == BLOCK else None
            except IntegrityError:
                wrong.corrupt.append((member.tile_id, f"{name}: damaged header of {member.name}"))
                continue
            if found is None:
                wrong.corrupt.append((member.tile_id, f"{name}: {member.name} is missing"))
            elif found.name != member.name:
                wrong.foreign.append(
                    (member.tile_id, f"{name}: holds {found.name} where {member.name} should be")
                )
            elif (
                len(data) != member.length
                or found.size != member.length
                or crc32(data) != member.crc32
            ):
                wrong.corrupt.append(
                    (
                        member.tile_id,
                        f"{name}: the bytes of {member.name} are not those that were written",
                    )
                )
        end = stream.end + -stream.end % BLOCK
        rest = stream.at(end, BLOCK)
        if rest != bytes(BLOCK):
            where = wrong.foreign if _is_header(rest) else wrong.corrupt
            where.append(
                (
                    name,
                    (
                        "holds more than the index says"
                        if _is_header(rest)
                        else "its end is missing or damaged"
                    ),
                )
            )
        elif stream.at(end, len(trailer(end))) != trailer(end):
            wrong.corrupt.append((name, "its end is missing or damaged"))

    def _expected(self, name: str, wrong: _Wrong) -> Iterator[_Expected]:
        """Yield what the index says is in a shard, in its order."""
        if name not in self._codes:
            wrong.foreign.append((name, "no tile of the index is in it"))
            return
        assert self._rows is not None
        start, stop = self._starts[self._codes[name] :][:2]
        for row in self._rows.take(pa.array(self._order[start:stop])).to_pylist():
            if row["key"] != key_of(row["tile_id"]):
                wrong.foreign.append(
                    (row["tile_id"], f"{name}: the index gives it the key of another tile")
                )
            for what, suffix in (("image", image_suffix(row["image_path"])), ("mask", MASK_SUFFIX)):
                if row[f"{what}_offset"] is not None:
                    offset, length, crc = (
                        row[f"{what}_{column}"] for column in ("offset", "length", "crc32")
                    )
                    yield _Expected(f"{row['key']}.{suffix}", offset, length, crc, row["tile_id"])


def _is_header(block: bytes) -> bool:
    try:
        return len(block) == BLOCK and parse_header(block) is not None
    except IntegrityError:
        return False


class _Stream:
    """A file read from its beginning to its end, in large pieces; `end` is where what was asked for
    last ends.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._start, self._data = 0, b""
        self.end = 0

    def at(self, start: int, length: int) -> bytes:
        """Return bytes from a place on that is never far before the last one; fewer at the end of
        the file.
        """
        if not (self._start <= start and start + length <= self._start + len(self._data)):
            self._start = start
            self._data = self._storage.read(self._name, start, max(length, _READ_BYTES))
        self.end = start + length
        return self._data[start - self._start :][:length]
