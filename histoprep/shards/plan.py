"""Which tile goes into which shard: known before a byte is read, and the same for any number of
workers.

Tiles of one split, pool and image format fill shard after shard, in the order of the manifest;
within a shard they lie in the order of their keys, which is no order at all. Sizes are planned from
the sizes of the files. A tile without a mask gets one of zeros, so that all samples have the same
fields (`datasets` takes those of the first for those of all); the index still says that it has
none.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from histoprep.choices import OnUnmapped
from histoprep.digests import digest_text, file_digest
from histoprep.errors import UsageError
from histoprep.job_folder import JobFolder
from histoprep.labels.lookup import LabelLookup
from histoprep.manifest.check import check_manifest
from histoprep.names import to_name
from histoprep.schemas.manifest import Manifest
from histoprep.schemas.workspace import check_outside
from histoprep.shards.layout import RECORD, REQUEST, image_suffix, key_of, member_bytes, shard_name
from histoprep.shards.task import PackedTile, ShardTask
from histoprep.version import __version__

MAX_SHARD_BYTES = 512 * 10**6
TIME_LIMIT_S = 60.0
LAYOUT_VERSION = "1.1"
# A mask in our encoding may be larger than it was, so it counts twice and a little more.
_MASK_MARGIN_BYTES = 1024
_COLUMNS = (
    "tile_id", "image_path", "image_bytes", "image_digest", "mask_path", "mask_bytes",
    "mask_digest", "height_px", "width_px", "split", "pool",
)  # fmt: skip
_PIECE = 8192


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """How to write shards: no shard is planned above `max_shard_bytes` unless one tile is.

    Images lose their metadata (EXIF, XMP, comments, text) unless `keep_metadata`; their pixels and
    colour profiles stay as they are.
    """

    max_shard_bytes: int = MAX_SHARD_BYTES
    keep_metadata: bool = False
    time_limit_s: float = TIME_LIMIT_S


class ShardGroup(NamedTuple):
    """What all tiles of a shard have in common."""

    split: str
    pool: str
    suffix: str


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """Everything decided before the first shard is written."""

    manifest: Manifest
    manifest_digest: str
    root: Path
    out: Path
    options: ShardOptions
    lookup: LabelLookup

    @property
    def job(self) -> JobFolder:
        """Return the folder of the shards as one that a job fills."""
        remake = "delete the folder, or name another --out"
        return JobFolder(self.out, REQUEST, "histoprep shard", "shards", remake)

    @property
    def request(self) -> dict[str, Any]:
        """Return what the shards depend on, as JSON values."""
        return {
            "manifest_digest": self.manifest_digest,
            "label_map_digest": self.manifest.label_map.digest,
            "max_shard_bytes": self.options.max_shard_bytes,
            "keep_metadata": self.options.keep_metadata,
            "layout_version": LAYOUT_VERSION,
        }

    def tasks(self) -> Iterator[ShardTask]:
        """Yield the shards to write, always the same; raises UsageError for a manifest without
        sizes.
        """
        how = (
            LAYOUT_VERSION,
            __version__,
            self.lookup.note,
            self.lookup.key,
            self.options.keep_metadata,
        )
        for name, tiles in _shards(self.manifest, self.root, self.options.max_shard_bytes):
            key = digest_text(repr((how, name, tiles)))
            part = self.job.parts / f"{key}.parquet"
            marker, keep = part.with_suffix(".at"), self.options.keep_metadata
            yield ShardTask(
                tuple(tiles),
                self.out / name,
                self.lookup,
                part,
                marker,
                self.options.time_limit_s,
                keep,
            )

    def image_suffixes(self) -> list[str]:
        """Return the suffixes of the images in the shards, sorted."""
        suffixes: set[str] = set()
        for batch in self.manifest.iter_batches(["image_path"]):
            suffixes.update(map(image_suffix, batch["image_path"].to_pylist()))
        return sorted(suffixes)


@dataclass(slots=True)
class _Filling:
    tiles: list[PackedTile] = field(default_factory=list)
    num_bytes: int = RECORD


def plan_shards(
    manifest: Manifest, out: Path, options: ShardOptions, root: Path | None = None
) -> ShardPlan:
    """Return the plan; nothing is written.

    Raises UsageError for a size below 1 MB, a folder inside the data set, an index instead of a
    manifest, classes above 255 (HP505).
    """
    if options.max_shard_bytes < 10**6:
        raise UsageError(
            "shards of this size make no sense",
            seen=f"{options.max_shard_bytes:,} bytes",
            expected="at least 1 MB",
        )
    if "shards" in manifest.header:
        raise UsageError(
            "this is an index of shards already",
            path=manifest.path,
            hint="name the manifest that it was made from",
        )
    data, target = root or manifest.root, out.absolute()
    check_manifest(manifest)
    check_outside(target, (data, *manifest.data_folders), "shards")
    if target.exists() and not target.is_dir():
        raise UsageError("shards need a folder", path=target, seen="a file of that name")
    lookup = LabelLookup.of(manifest.label_map, OnUnmapped.ERROR, manifest.mask_reading)
    return ShardPlan(manifest, file_digest(manifest.path), data, target, options, lookup)


def _shards(
    manifest: Manifest, root: Path, max_bytes: int
) -> Iterator[tuple[str, list[PackedTile]]]:
    """Yield name and tiles of each shard; one shard of every kind is being filled at a time."""
    filling: dict[ShardGroup, _Filling] = {}
    numbers: Counter[tuple[str, str]] = Counter()

    def close(kind: ShardGroup) -> tuple[str, list[PackedTile]]:
        group = kind.split, kind.pool
        name = shard_name(*group, numbers[group])
        numbers[group] += 1
        return name, sorted(filling.pop(kind).tiles, key=lambda tile: tile.key)

    for kind, tile in _tiles(manifest, root):
        size = member_bytes(tile.image_bytes) + member_bytes(
            2 * tile.mask_bytes + _MASK_MARGIN_BYTES
        )
        if kind in filling and filling[kind].num_bytes + size > max_bytes:
            yield close(kind)
        into = filling.setdefault(kind, _Filling())
        into.tiles.append(tile)
        into.num_bytes += size
    for kind in sorted(filling):
        yield close(kind)


def _tiles(manifest: Manifest, root: Path) -> Iterator[tuple[ShardGroup, PackedTile]]:
    row = 0
    for batch in manifest.iter_batches(_COLUMNS, _PIECE):
        columns = (batch[name].to_pylist() for name in _COLUMNS)
        for (
            tile_id,
            image,
            image_bytes,
            image_digest,
            mask,
            mask_bytes,
            mask_digest,
            height,
            width,
            split,
            pool,
        ) in zip(*columns, strict=True):
            if None in (image_bytes, height, width) or (mask is not None and mask_bytes is None):
                raise UsageError(
                    "the manifest does not say how large its files are",
                    path=manifest.path,
                    seen=f"tile {tile_id}",
                )
            suffix = image_suffix(image)
            paths = (
                os.path.join(root, to_name(manifest.path_of(image, root))),
                None if mask is None else os.path.join(root, to_name(manifest.path_of(mask, root))),
            )
            stated = (paths[0], image_bytes, image_digest, paths[1], mask_bytes or 0, mask_digest)
            yield (
                ShardGroup(split, pool, suffix),
                PackedTile(row, tile_id, key_of(tile_id), suffix, *stated, (height, width)),
            )
            row += 1
