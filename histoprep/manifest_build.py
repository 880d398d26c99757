"""Tiles table -> manifest: left out with a reason, or classes, pool and split.

Two passes in pieces, so that memory stays bounded: the first keeps a few dozen bytes a tile and splits
these; the second writes the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histoprep import manifest_rows, tables, tiles
from histoprep.errors import UsageError
from histoprep.labels import LabelMap, identity_map
from histoprep.manifest import SHARD_COLUMNS, file_digest, schema, write_manifest
from histoprep.manifest_given import UsableTiles, file_splits, leak
from histoprep.manifest_rows import REASONS, Derived, Strata, derive
from histoprep.scan import ScanOptions
from histoprep.split import Assignment, Units, assign_by_hash, assign_units, complete_split, exact_fractions, join_units, leaking_units
from histoprep.split_certificate import certify, crossing
from histoprep.split_file import read_split_file
from histoprep.split_units import CONDITIONAL, NO_SPLIT, SPLITS, UNCONDITIONAL, SplitRows, name_keys, repeated
from histoprep.tile_table import TileTable
from histoprep.workspace import Workspace

EXCLUDED_KIND = "excluded"
EXCLUDED_VERSION = "1.0"
METHODS = ("auto", "hash", "file")
DEFAULT_FRACTIONS = {"train": Fraction(9, 10), "test": Fraction(1, 10)}
DEFAULT_VALIDATION = {"train": Fraction(8, 10), "val": Fraction(2, 10)}

_PASS_1 = (*manifest_rows.COLUMNS, "group", "split", "label", "image_digest", "luminance_digest", "contrast")
_FILE_FACTS = ("width_px", "height_px", "image_bytes", "image_digest", "mask_bytes", "mask_digest")
_COPIED = ("tile_id", "image_path", "mask_path", "group", "label", *_FILE_FACTS)
_PASS_2 = tuple(dict.fromkeys((*manifest_rows.COLUMNS, *_COPIED)))
# Rows turned into Python strings at a time: smaller pieces keep the peak of pass 1 low.
_PIECE = 8192

Advance = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class ManifestOptions:
    """How to make a manifest.

    `fractions`: share of each split; None for 0.9 train and 0.1 test, or, where folders give the split, validation 80/20 from
    train. `method`: auto (solved; folders train, val, test are kept unless `ignore_folder_split`), hash (old groups stay when data
    grows) or file (`split_file`). `conditional_threshold`: least share of pixels of classes other than 0, in [0, 1].
    """

    fractions: Mapping[str, Fraction] | None = None
    seed: int = 0
    method: str = "auto"
    split_file: Path | None = None
    conditional_threshold: float = 0.0
    ignore_folder_split: bool = False

    def validate(self) -> None:
        """Raise UsageError for options that do not go together."""
        if self.method not in METHODS:
            raise UsageError("no such split method", seen=self.method, expected=", ".join(METHODS))
        if (self.method == "file") != (self.split_file is not None):
            raise UsageError("--split-method file and --split-file go together", seen=f"method {self.method}, file {self.split_file}")
        if not 0 <= self.conditional_threshold <= 1:
            raise UsageError("the conditional threshold is a share of pixels", seen=self.conditional_threshold, expected="0 to 1")


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """What `build_manifest` wrote: `excluded` counts by reason (without zeros), `warnings` what the user should know."""

    path: Path
    excluded_path: Path
    tiles: int
    excluded: dict[str, int]
    recipe: dict[str, Any]
    certificate: dict[str, Any]
    warnings: tuple[str, ...]

    @property
    def incomplete(self) -> bool:
        """Return whether tiles are missing because their files could not be used; an orphan mask is no tile."""
        return any(reason != "orphan-mask" for reason in self.excluded)


def build_manifest(
    tiles_path: str | Path,
    label_map: LabelMap,
    options: ManifestOptions,
    out_path: str | Path,
    *,
    advance: Advance = lambda _: None,
) -> ManifestSummary:
    """Write the manifest of a tiles table to `out_path` and what was left out to `<stem>.excluded.parquet` beside it.

    The result depends on the tiles, the label map and the options, not on the order of rows but for the order of its own.
    `advance` is called with numbers of rows done, twice the table in all. Raises UsageError for options that cannot be met, a given split
    that leaks or no usable tile; IntegrityError for a damaged table.
    """
    options.validate()
    source, target = Path(tiles_path), Path(out_path)
    opened, header = tables.open_table(source, kind=tiles.KIND, schema_version=tiles.SCHEMA_VERSION)
    scanned = _scan_options(header, source)
    plan = _plan(opened, label_map, options, advance)
    plan.recipe["grouping"] = scanned.get("group_by")
    described = {
        "root": header["root"],
        "unlabelled_roots": scanned.get("unlabelled", []),
        "tiles_digest": file_digest(source),
        "recipe": plan.recipe,
        "certificate": plan.certificate,
        "excluded": plan.excluded,
    }
    excluded_path = target.with_name(f"{target.stem}.excluded.parquet")
    gone = _excluded_batches(opened, label_map) if plan.excluded else iter(())
    tables.write_table(excluded_path, gone, manifest_rows.EXCLUDED_SCHEMA, kind=EXCLUDED_KIND, schema_version=EXCLUDED_VERSION, metadata={})
    written = write_manifest(target, _rows(opened, label_map, options, plan.splits, advance), label_map, described)
    return ManifestSummary(target, excluded_path, written, plan.excluded, plan.recipe, plan.certificate, plan.warnings)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything decided in pass 1: the split code of each usable tile (int8 [n]) and what is said of it."""

    splits: np.ndarray
    recipe: dict[str, Any]
    certificate: dict[str, Any]
    excluded: dict[str, int]
    warnings: tuple[str, ...]


def _plan(opened: pq.ParquetFile, label_map: LabelMap, options: ManifestOptions, advance: Advance) -> _Plan:
    gathered = _gather(opened, label_map, options, advance)
    units = join_units(gathered.rows)
    joined = tuple(_joined_warning(units))
    split = _split(opened, label_map, options, gathered, units)
    splits, num_joined = split.assignment.splits, units.num_joined
    del units
    shares = {name: float(np.mean(splits == SPLITS.index(name))) for name in SPLITS}
    wanted = {name: float(value) for name, value in (split.fractions or {}).items()} or {name: share for name, share in shares.items() if share}
    certificate = certify(gathered.rows, splits, wanted)
    recipe = {
        "method": split.method,
        "solver": split.assignment.solver,
        "fractions": wanted,
        "seed": options.seed,
        "split_file": str(options.split_file) if options.split_file else None,
        "conditional_threshold": options.conditional_threshold,
        "groups_joined_by_copies": num_joined,
    }
    return _Plan(splits, recipe, certificate, gathered.excluded, (*joined, *_warnings(gathered.pool_overlaps, certificate)))


def _scan_options(header: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return how the folder was read; raises UsageError for a table that holds a sample, or no labels."""
    options = header.get("options", {})
    if options.get("sample") is not None or options.get("tiles", {}).get("headers_only"):
        raise UsageError("the tiles table was made by a quick or sampling audit", path=path, expected="a table of all tiles", hint="histoprep audit")
    scanned: Mapping[str, Any] = options.get("scan", {})
    return scanned


@dataclass(frozen=True, slots=True)
class _Gathered:
    """Pass 1: the usable tiles as the split sees them, splits given by folders (int8 [n]), what was left out."""

    rows: SplitRows
    given: np.ndarray
    tile_keys: np.ndarray
    excluded: dict[str, int]
    pool_overlaps: int


def _gather(opened: pq.ParquetFile, label_map: LabelMap, options: ManifestOptions, advance: Advance) -> _Gathered:
    size = opened.metadata.num_rows
    names, images, pixels, tile_keys = (np.zeros(size, dtype=np.uint64) for _ in range(4))
    grouped, conditional, given = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool), np.full(size, NO_SPLIT, dtype=np.int8)
    strata, kinds, reasons = np.zeros(size, dtype=np.int32), Strata(label_map), np.zeros(len(REASONS), dtype=np.int64)
    end = 0
    for chunk in tables.read_batches(opened, _PASS_1, _PIECE):
        derived = derive(chunk, label_map, options.conditional_threshold)
        reasons += np.bincount(derived.reason[~derived.usable], minlength=len(REASONS))
        kept = chunk.filter(pa.array(derived.usable))
        start, end = end, end + kept.num_rows
        here = slice(start, end)
        group, images[here], pixels[here], tile_keys[here] = _keys(kept, options.seed)
        grouped[here] = group != 0
        names[here] = np.where(grouped[here], group, images[here])
        conditional[here] = derived.conditional[derived.usable]
        strata[here] = kinds.codes(conditional[here], derived.core[derived.usable], kept["label"])
        given[here] = _folder_splits(kept["split"])
        advance(chunk.num_rows)
    excluded = {reason: int(count) for reason, count in zip(REASONS, reasons, strict=True) if count}
    if not end:
        raise UsageError("no tile can be used", seen=", ".join(f"{count} {reason}" for reason, count in excluded.items()) or "an empty tiles table")
    # Only a split file asks for tiles by name; otherwise sort in place and free 80 MB at ten million tiles.
    by_name = tile_keys[:end].copy() if options.method == "file" else tile_keys[:0].copy()
    _refuse_twice(opened, tile_keys[:end], options.seed)
    del tile_keys
    overlaps = crossing(images[:end], conditional[:end].astype(np.int8))
    copy_rows, copy_keys = repeated(images[:end], pixels[:end])
    del images, pixels
    rows = SplitRows(names[:end], grouped[:end], copy_rows, copy_keys, strata[:end], *kinds.profiles())
    return _Gathered(rows, given[:end], by_name, excluded, overlaps)


def _keys(kept: pa.Table, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the keys of group, image, pixels and tile of each row; an image without a digest has the key of its tile."""
    tile = name_keys(kept["tile_id"].to_pylist(), seed, "tile")
    image = name_keys(kept["image_digest"].to_pylist(), seed, "image")
    varied = pc.if_else(pc.fill_null(pc.greater_equal(kept["contrast"], manifest_rows.MIN_CONTRAST), False), kept["luminance_digest"], None)
    pixels = name_keys(varied.to_pylist(), seed, "pixels")
    return name_keys(kept["group"].to_pylist(), seed, "group"), np.where(image == 0, tile, image), pixels, tile


def _folder_splits(column: pa.ChunkedArray) -> np.ndarray:
    codes = pc.index_in(column, pa.array(SPLITS))
    return pc.fill_null(codes, NO_SPLIT).to_numpy().astype(np.int8)


def _refuse_twice(opened: pq.ParquetFile, keys: np.ndarray, seed: int) -> None:
    """Raise UsageError when a tile id occurs twice; sorts `keys` in place."""
    keys.sort()
    twice = keys[1:][keys[1:] == keys[:-1]]
    if not len(twice):
        return
    for chunk in tables.read_batches(opened, ["tile_id"]):
        names = chunk["tile_id"].to_pylist()
        seen = np.flatnonzero(np.isin(name_keys(names, seed, "tile"), twice))
        if len(seen):
            raise UsageError("a tile id occurs twice in the tiles table", seen=names[int(seen[0])], hint="histoprep audit --no-reuse")


@dataclass(frozen=True, slots=True)
class _Split:
    assignment: Assignment
    method: str
    fractions: Mapping[str, Fraction] | None
    """What was asked for; None for a given split."""


def _split(opened: pq.ParquetFile, label_map: LabelMap, options: ManifestOptions, gathered: _Gathered, units: Units) -> _Split:
    rows, source = gathered.rows, UsableTiles(opened, label_map)
    fractions = exact_fractions(options.fractions) if options.fractions else DEFAULT_FRACTIONS
    if options.method == "hash":
        return _Split(assign_by_hash(units, fractions), "hash", fractions)
    by_folder = options.method == "auto" and not options.ignore_folder_split and bool((gathered.given != NO_SPLIT).any())
    if options.method == "auto" and not by_folder:
        return _Split(assign_units(units, rows, fractions), "auto", fractions)
    given, validation = gathered.given, _validation(options)
    if options.split_file is not None:
        given, validation = file_splits(source, read_split_file(options.split_file, options.seed), rows, gathered.tile_keys), {}
    leaks = leaking_units(units, given)
    if len(leaks):
        raise leak(source, np.flatnonzero(units.of_tile == leaks[0]), given, len(leaks))
    return _Split(complete_split(units, rows, given, validation), "file" if options.split_file else "folder", None)


def _validation(options: ManifestOptions) -> dict[str, Fraction]:
    """Return the shares of train and val in the train folder: those asked for, without test."""
    if not options.fractions:
        return DEFAULT_VALIDATION
    asked = {name: value for name, value in exact_fractions(options.fractions).items() if name != "test"}
    total = sum(asked.values())
    return {name: value / total for name, value in asked.items()} if len(asked) > 1 else {}


def _rows(opened: pq.ParquetFile, label_map: LabelMap, options: ManifestOptions, splits: np.ndarray, advance: Advance) -> Iterator[pa.Table]:
    """Yield the manifest's rows, pass 2."""
    end = 0
    for chunk in tables.read_batches(opened, _PASS_2, _PIECE):
        derived = derive(chunk, label_map, options.conditional_threshold)
        start, end = end, end + int(derived.usable.sum())
        yield _manifest_table(chunk, derived, splits[start:end], label_map)
        advance(chunk.num_rows)


def _manifest_table(chunk: pa.Table, derived: Derived, splits: np.ndarray, label_map: LabelMap) -> pa.Table:
    usable = derived.usable
    kept = chunk.select(_COPIED).filter(pa.array(usable))
    core = derived.core[usable]
    ids = np.array([one.id for one in label_map.classes], dtype=np.uint8)
    offsets = np.concatenate([[0], np.cumsum(core.sum(axis=1))]).astype(np.int32)
    columns: dict[str, Any] = {name: kept[name] for name in _COPIED}
    columns["split"] = pa.array(SPLITS).take(pa.array(splits))
    columns["pool"] = pa.array((UNCONDITIONAL, CONDITIONAL)).take(pa.array(derived.conditional[usable].astype(np.int8)))
    columns["class_pixels"] = pa.FixedSizeListArray.from_arrays(pa.array(derived.pixels[usable].ravel()), len(ids))
    columns["classes"] = pa.ListArray.from_arrays(offsets, pa.array(ids[np.nonzero(core)[1]]))
    wanted = schema(len(ids))
    columns |= {name: pa.nulls(kept.num_rows, wanted.field(name).type) for name in SHARD_COLUMNS}
    return pa.table([columns[name] for name in wanted.names], schema=wanted)


def _excluded_batches(opened: pq.ParquetFile, label_map: LabelMap) -> Iterator[pa.Table]:
    for chunk in tables.read_batches(opened, manifest_rows.COLUMNS):
        yield manifest_rows.describe_exclusions(chunk, derive(chunk, label_map), label_map)


def _joined_warning(units: Units) -> Iterator[str]:
    if units.num_joined:
        largest = int(np.bincount(units.of_tile).max())
        yield f"{units.num_joined} groups share images with other groups and were kept together with them; the largest such unit has {largest} tiles"


def _warnings(pool_overlaps: int, certificate: Mapping[str, Any]) -> Iterator[str]:
    if pool_overlaps:
        yield f"{pool_overlaps} images are in the conditional and in the unconditional pool (HP704)"
    if certificate["missing"]:
        yield "no tile of " + ", ".join(certificate["missing"][:10]) + " (HP801)"


def raw_label_map(tiles_path: str | Path) -> LabelMap:
    """Return the map of each label in a tiles table to itself; a table without masks gives the one class 0."""
    opened, _ = tables.open_table(Path(tiles_path), kind=tiles.KIND, schema_version=tiles.SCHEMA_VERSION)
    found: set[int] = set()
    for chunk in tables.read_batches(opened, ["label_ids"]):
        found.update(pc.unique(pc.list_flatten(chunk["label_ids"])).to_pylist())
    return identity_map(found or {0})


def regrouped(workspace: Workspace, group_by: str | None) -> ScanOptions | None:
    """Return how the data set was scanned last, but grouped by `group_by`; None, which means unchanged, without it."""
    return None if group_by is None else replace(TileTable(workspace).options.scan, group_by=group_by)
