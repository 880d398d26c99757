"""What a user names -> a set of tiles to browse: folder, manifest, shards or synthetic data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histoprep import rule_ids, tables
from histoprep.browse.beside import matching_rows
from histoprep.browse.columns import (
    Category,
    ClassShares,
    Columns,
    SharesBuilder,
    ShownClass,
    chunked,
    to_float,
)
from histoprep.browse.findings import RowNames, TileFinding, read_tile_findings
from histoprep.browse.neighbours import NeighbourPairs, read_neighbours
from histoprep.browse.pixels import (
    IGNORED_CLASS,
    NOT_LISTED,
    OTHER_LABELS,
    FilePixels,
    PixelReader,
    ShardPixels,
    classes_as_labels,
    classes_by,
)
from histoprep.digests import file_digest
from histoprep.errors import HistoprepError
from histoprep.labels import PALETTE, LabelMap
from histoprep.schemas.manifest import Manifest, class_matrix, open_manifest, open_named_manifest
from histoprep.schemas.shards import is_index
from histoprep.schemas.synthetic import read_real
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import SUFFIX, Workspace
from histoprep.shards import TileSource
from histoprep.shards.index import open_any
from histoprep.shards.layout import INDEX
from histoprep.tiles.options import earlier_options

UNLISTED_COLOUR = "#ff00ff"
_OTHER_COLOUR, _IGNORED_COLOUR = "#b0b0b0", "#ffffff"
# More labels than these share a colour and a name.
MAX_LABELS = 250
_SIZES = ("width_px", "height_px", "image_bytes")
_MEASURES = ("focus", "luminance", "contrast", "background_share", "jpeg_quality", "fit_explained")
_LISTS = ("label_ids", "label_pixels", "label_core_pixels", "label_specks", "label_regions")


@dataclass(frozen=True)
class TileSet:
    """Tiles to browse.

    Attributes:
        name: What the page calls it.
        path: What was opened, absolute.
        kind: folder, manifest or shards.
        workspace: Folder of results, where thumbnails and decisions go.
        data_folders: Folders of the data, into which nothing is written.
        columns: What is filtered by.
        findings: The findings of the last audit, worst first.
        notes: What cannot be shown, and why, in words.
        reader: Reads pixels.
        tiles_table: The tiles table of the rows, None without one.
        results: Folder of the audit's results that rows refer to; None for the workspace.
    """

    name: str
    path: Path
    kind: str
    workspace: Path
    data_folders: tuple[Path, ...]
    columns: Columns
    findings: tuple[TileFinding, ...]
    notes: tuple[str, ...]
    reader: PixelReader
    tiles_table: Path | None = None
    label_map: LabelMap | None = None
    min_area_px: int = 16
    results: Path | None = None

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.columns)

    @cached_property
    def neighbours(self) -> NeighbourPairs:
        """Return which tiles touch or overlap, as the last audit found."""
        path = (self.results or self.workspace) / "neighbours.parquet"
        return read_neighbours(path, self.columns.image_paths)

    def row_of(self, tile_id: str) -> int | None:
        """Return the row of a tile, None where there is none of that id."""
        place = pc.index(self.columns.tile_ids, pa.scalar(tile_id)).as_py()
        return None if place < 0 else int(place)


def is_data_folder(path: Path) -> bool:
    """Return whether a path is a folder of tiles, not of shards."""
    return path.is_dir() and not (path / INDEX).is_file()


def open_folder(workspace: Workspace, label_map: LabelMap | None) -> TileSet:
    """Return the tiles of a data set, as its tiles table has them.

    Args:
        workspace: The data set; its tiles table exists.
        label_map: Classes to show; None for those of the manifest, or else the labels.

    Raises:
        IntegrityError: The tiles table or the manifest is damaged.
    """
    opened, _ = open_tiles_table(workspace.tiles)
    manifest = open_manifest(workspace.manifest) if workspace.manifest.is_file() else None
    if label_map is None and manifest is not None and not manifest.label_map.is_unnamed:
        label_map = manifest.label_map
    options = earlier_options(workspace)
    (tile_ids, images, masks), categories, numbers = _read_plain(opened, (*_SIZES, *_MEASURES))
    pa.default_memory_pool().release_unused()
    shares, to_classes = _tile_shares(opened, label_map)
    numbers["num_specks"] = _list_sums(opened, "label_specks")
    if manifest is not None:
        categories |= _from_manifest(manifest, tile_ids)
    columns = Columns(tile_ids, images, masks, categories, numbers, shares)
    names = RowNames({"image": images, "mask": masks})
    findings, notes = _results_of(workspace, names, file_digest(workspace.tiles))
    reader = FilePixels(
        workspace.root,
        columns,
        options.tiles.mask_reading,
        to_classes,
        refused=_refused(opened),
    )
    folders = (workspace.root, *options.scan.unlabelled)
    return TileSet(
        workspace.root.name or str(workspace.root),
        workspace.root,
        "folder",
        workspace.folder,
        folders,
        columns,
        tuple(findings),
        tuple(notes),
        reader,
        workspace.tiles,
        label_map,
        options.tiles.min_area_px,
    )


def open_packed(path: Path, workspace: Path | None) -> TileSet:
    """Return the tiles of a manifest, or of the index of shards.

    Args:
        path: A manifest, an index, or the folder of one.
        workspace: Folder for thumbnails and decisions; None for that of the manifest.

    Raises:
        UsageError: It is neither.
        IntegrityError: It is damaged.
    """
    manifest = open_any(path) if path.is_dir() else open_named_manifest(path)
    shards = is_index(manifest)
    if not shards:
        manifest.check_root(f"histoprep browse {path}")
    (tile_ids, images, masks), categories, numbers = _read_plain(manifest.opened, _SIZES)
    shares = _manifest_shares(manifest)
    folder = workspace or _workspace_of(manifest, shards=shards)
    findings: list[TileFinding] = []
    notes: list[str] = []
    known = _known_results(manifest, folder)
    if isinstance(known, str):
        notes.append(known)
    else:
        own, opened, rows = known
        numbers |= {
            name: np.where(rows < 0, np.float32("nan"), column[rows])
            for name, column in _measures(opened).items()
        }
        every = tables.read_table(opened, ["image_path", "mask_path"])
        back = np.full(opened.metadata.num_rows, -1, np.int64)
        back[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        names = RowNames({"image": every["image_path"], "mask": every["mask_path"]})
        found, more = _results_of(own, names, manifest.tiles_digest)
        notes += more
        findings = [_moved(finding, back) for finding in found]
    columns = Columns(tile_ids, images, masks, categories, numbers, shares)
    reader: PixelReader = (
        ShardPixels(TileSource(str(path)))
        if shards
        else FilePixels(
            manifest.root,
            columns,
            manifest.mask_reading,
            classes_by(manifest.label_map),
            manifest.path_of,
        )
    )
    return TileSet(
        manifest.root.name if not shards else manifest.path.parent.name,
        manifest.path.absolute(),
        "shards" if shards else "manifest",
        folder,
        manifest.data_folders,
        columns,
        tuple(findings),
        tuple(notes),
        reader,
        None,
        None if shards else manifest.label_map,
        results=None if isinstance(known, str) else known[0].folder,
    )


def find_real(tiles: TileSet) -> tuple[TileSet | None, str]:
    """Return the real tiles that belong to generated ones, as `trainer sample` noted them, and a
    note: where they were found, or why not; empty for tiles that are not generated.
    """
    root = tiles.data_folders[0]
    named = read_real(root.with_name(root.name + SUFFIX))
    for _, place in named:
        if place is None:
            continue
        try:
            real = open_packed(place, None)
        except HistoprepError:
            continue
        if (matching_rows(tiles.columns.tile_ids, real.columns.tile_ids) >= 0).any():
            return real, f"real tiles stand beside: {place}"
    if not named:
        return None, ""
    return None, (
        f"the real tiles are not where they were ({named[0][0]}): name their manifest with --beside"
    )


def _workspace_of(manifest: Manifest, *, shards: bool) -> Path:
    """Return the folder of results around a manifest, or beside shards."""
    folder = manifest.path.absolute().parent
    around = next((each for each in (folder, *folder.parents) if each.name.endswith(SUFFIX)), None)
    if around is not None:
        return around
    if shards:
        return folder.with_name(folder.name + SUFFIX)
    return manifest.root.with_name(manifest.root.name + SUFFIX)


def _read_plain(
    opened: pq.ParquetFile, numbers: Sequence[str]
) -> tuple[tuple[pa.ChunkedArray, ...], dict[str, Category], dict[str, np.ndarray]]:
    """Return ids and paths, categories, and numbers of a table, one column at a time."""
    there = set(opened.schema_arrow.names)
    texts = tuple(
        chunked((batch[name] for batch in tables.read_batches(opened, [name])), pa.string())
        for name in ("tile_id", "image_path", "mask_path")
    )
    length = len(texts[0])
    categories = {
        name: Category.of(tables.read_table(opened, [name])[name])
        if name in there
        else Category.empty(length)
        for name in ("group", "split", "pool", "label")
    }
    return (
        texts,
        categories,
        {
            name: to_float(tables.read_table(opened, [name])[name])
            for name in numbers
            if name in there
        },
    )


def _refused(opened: pq.ParquetFile) -> dict[str, str]:
    """Return the files that ended the process that read them when the table was made."""
    verdict = rule_ids.UNREADABLE_FILE.verdict("worker-died")
    names = [f"{what}_{column}" for what in ("image", "mask") for column in ("path", "error")]
    found = {}
    for batch in tables.read_batches(opened, names):
        for what in ("image", "mask"):
            ended = pc.fill_null(pc.equal(batch[f"{what}_error"], verdict), False)
            for path in batch[f"{what}_path"].filter(ended).to_pylist():
                found[path] = f"{verdict}: reading it ended the process that tried"
    return found


def _measures(opened: pq.ParquetFile) -> dict[str, np.ndarray]:
    columns = {name: to_float(tables.read_table(opened, [name])[name]) for name in _MEASURES}
    return {**columns, "num_specks": _list_sums(opened, "label_specks")}


def _list_sums(opened: pq.ParquetFile, name: str) -> np.ndarray:
    """Return the sum of the numbers in each list, float32 [n], NaN where there is no list."""
    pieces = []
    for batch in tables.read_batches(opened, [name]):
        column = batch[name].combine_chunks()
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        parents = pc.list_parent_indices(column).to_numpy()
        values = pc.fill_null(pc.list_flatten(column), 0).to_numpy()
        sums = np.bincount(parents, weights=values, minlength=len(valid)).astype(np.float32)
        pieces.append(np.where(valid, sums, np.float32("nan")))
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def _tile_shares(opened: pq.ParquetFile, label_map: LabelMap | None) -> tuple[ClassShares, Any]:
    """Return the classes of every tile, and what maps labels to them."""
    if label_map is None:
        listed, colours = _common_labels(opened)
        to_classes = classes_as_labels(listed)
    else:
        to_classes = classes_by(label_map)
    builder = SharesBuilder()
    start = 0
    for batch in tables.read_batches(opened, ["label_ids", "label_pixels", "label_core_pixels"]):
        ids, pixels, core = (batch[name].combine_chunks() for name in batch.column_names)
        rows = start + pc.list_parent_indices(ids).to_numpy().astype(np.int64)
        builder.add(
            rows,
            to_classes(pc.list_flatten(ids).to_numpy()),
            pc.list_flatten(pixels).to_numpy(),
            pc.list_flatten(core).to_numpy() > 0,
        )
        start += batch.num_rows
    if label_map is None:
        classes = [
            ShownClass(label, f"label {label}", colours.get(label, _palette(label)))
            for label in listed.tolist()
        ]
    else:
        classes = [ShownClass(cls.id, cls.name, cls.colour) for cls in label_map.classes]
    extra = (
        ShownClass(NOT_LISTED, "not listed in the label map", UNLISTED_COLOUR),
        ShownClass(IGNORED_CLASS, "ignored", _IGNORED_COLOUR),
        ShownClass(OTHER_LABELS, "other labels", _OTHER_COLOUR),
    )
    return builder.build(
        [*classes, *(cls for cls in extra if cls.id in builder.class_ids)]
    ), to_classes


def _common_labels(opened: pq.ParquetFile) -> tuple[np.ndarray, dict[int, str]]:
    """Return the labels that most masks hold, in order, and the colours of those that are
    colours.
    """
    counts: dict[int, int] = {}
    coloured: set[int] = set()
    for batch in tables.read_batches(opened, ["label_ids", "mask_encoding"]):
        flat = pc.list_flatten(batch["label_ids"]).combine_chunks()
        for entry in pc.value_counts(flat).to_pylist():
            counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
        is_coloured = pc.is_in(
            batch["mask_encoding"], value_set=pa.array(["colours", "palette-colours"])
        )
        coloured |= set(
            pc.unique(pc.list_flatten(batch["label_ids"].filter(is_coloured))).to_pylist()
        )
    common = sorted(counts, key=lambda label: (-counts[label], label))[:MAX_LABELS]
    return np.array(sorted(common), np.int64), {label: f"#{label:06x}" for label in coloured}


def _palette(label: int) -> str:
    return PALETTE[label % len(PALETTE)]


def _manifest_shares(manifest: Manifest) -> ClassShares:
    classes = manifest.label_map.classes
    ids = np.array([cls.id for cls in classes], np.int64)
    builder = SharesBuilder()
    start = 0
    for batch in manifest.iter_batches(["class_pixels", "classes"]):
        pixels = class_matrix(batch["class_pixels"])
        rows, places = np.nonzero(pixels)
        core = np.zeros(pixels.shape, bool)
        lists = batch["classes"].combine_chunks()
        where = np.searchsorted(ids, pc.list_flatten(lists).to_numpy())
        core[pc.list_parent_indices(lists).to_numpy(), where] = True
        builder.add(start + rows, ids[places], pixels[rows, places], core[rows, places])
        start += batch.num_rows
    return builder.build([ShownClass(cls.id, cls.name, cls.colour) for cls in classes])


def _from_manifest(manifest: Manifest, tile_ids: pa.ChunkedArray) -> dict[str, Category]:
    """Return split and pool of tiles by the manifest, null where it leaves them out."""
    ids = manifest.read(["tile_id"])["tile_id"].combine_chunks()
    rows = pc.fill_null(pc.index_in(tile_ids, value_set=ids), -1).to_numpy()
    table = manifest.read(["split", "pool"])
    return {name: Category.of(table[name]).take(rows) for name in table.column_names}


def _results_of(
    workspace: Workspace, names: RowNames, digest: str
) -> tuple[list[TileFinding], list[str]]:
    """Return the findings of the last audit and of the last review, and what is wrong with them.

    Args:
        workspace: Where they are.
        names: What tiles are called.
        digest: The digest of the tiles table.
    """
    findings, note = read_tile_findings(workspace.findings, names, digest)
    notes = [note] if note else []
    if workspace.review.is_file():
        reviewed, note = read_tile_findings(workspace.review, names, digest)
        findings += reviewed
        notes += [note] if note else []
    return findings, notes


def _known_results(
    manifest: Manifest, around: Path
) -> tuple[Workspace, pq.ParquetFile, np.ndarray] | str:
    """Return the results that a manifest or index was made from: the workspace, its tiles table,
    and the row of each tile there, -1 without one; or why there are none, in words.

    Args:
        manifest: The manifest, or index of shards.
        around: The folder of results around it.
    """
    root = manifest.root.resolve()
    beside = root.with_name(root.name + SUFFIX)
    seen = None
    for folder in dict.fromkeys((beside, around)):
        workspace = Workspace(root, folder)
        try:
            opened, _ = open_tiles_table(workspace.tiles)
        except (HistoprepError, FileNotFoundError):
            continue
        seen = workspace.tiles
        if file_digest(workspace.tiles) != manifest.tiles_digest:
            continue
        ids = tables.read_table(opened, ["tile_id"])["tile_id"].combine_chunks()
        rows = pc.index_in(manifest.read(["tile_id"])["tile_id"], value_set=ids)
        return workspace, opened, pc.fill_null(rows, -1).to_numpy().astype(np.int64)
    if seen is not None:
        return (
            "no findings and no quality are shown: the tiles were read anew since the manifest was"
            f" made; histoprep manifest makes it again from {seen}"
        )
    return (
        "no findings and no quality are shown: the audit's results that the manifest was made from"
        f" are not in {beside}"
    )


def _moved(finding: TileFinding, back: np.ndarray) -> TileFinding:
    """Return a finding with the rows of a manifest in place of those of the tiles table."""
    rows = back[finding.rows]
    kept = np.flatnonzero(rows >= 0)
    order = kept[np.argsort(rows[kept], kind="stable")]
    return replace(
        finding, rows=rows[order].astype(np.int32), details=finding.details.take(pa.array(order))
    )
