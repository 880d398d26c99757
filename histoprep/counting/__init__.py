"""What is in a data set: class shares, pairs of classes and class weights, from the tiles table
alone.

`counts.count` makes sums of integers from rows, `summary.summarise` turns these into
what people read, `compute_stats` streams a workspace through both and
`write_stats` publishes stats.parquet, stats.json and the plot. No pixel is read again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep import checksums, durable, tables
from histoprep.counting.counts import COLUMNS, DIMENSIONS, Counts, count, merge
from histoprep.counting.summary import (
    EFFECTIVE_NUMBER_BETA,
    WEIGHTS,
    ClassSummary,
    class_weights,
    summarise,
)
from histoprep.errors import UsageError
from histoprep.key_index import KeyIndex
from histoprep.labels import IGNORED, LabelMap, identity_map
from histoprep.labels import UNMAPPED as NO_CLASS
from histoprep.manifest.inclusion import COLUMNS as INCLUSION_COLUMNS
from histoprep.manifest.inclusion import INCLUDED, REASONS, UNMAPPED, reason_codes
from histoprep.notebook import html_result
from histoprep.phrases import plural
from histoprep.schemas import tiles
from histoprep.schemas.manifest import KIND as MANIFEST_KIND
from histoprep.schemas.manifest import SCHEMA_VERSION as MANIFEST_VERSION
from histoprep.schemas.repaired import IS_REPAIRED, RepairedMasks, TileRows, open_repaired
from histoprep.schemas.stats import KIND, SCHEMA, SCHEMA_VERSION
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.image_labels import CrossTable, ImageLabelCounts, are_ignored
from histoprep.visible import visible

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "COLUMNS",
    "DIMENSIONS",
    "ClassSummary",
    "Counts",
    "Stats",
    "class_weights",
    "compute_stats",
    "count",
    "csv_text",
    "summarise",
    "write_stats",
]

_MAX_JSON_KEYS = 1_000
_PARTS_HELD = 16
_READ = tuple(dict.fromkeys((*COLUMNS, "tile_id", "label", *INCLUSION_COLUMNS, IS_REPAIRED)))


@dataclass(frozen=True, slots=True)
class Ignored:
    """Pixels that the label map ignores, and the tiles that hold any."""

    tiles: int = 0
    pixels: int = 0

    def __add__(self, other: Ignored) -> Ignored:
        """Return the sums of both."""
        return Ignored(self.tiles + other.tiles, self.pixels + other.pixels)


@dataclass(frozen=True, repr=False)
class Stats:
    """The summaries of a data set: raw, and mapped when there is a label map.

    `split_source` says where splits and pools come from (manifest or tiles); `left_out` why and how
    many rows of the tiles table were not counted, of which `raw` counts those with an unmapped
    label; `num_repaired` masks were repaired by `repair`; `num_unlisted` tiles are counted, but not
    in the manifest; `ignored` is what no count has because the label map ignores it, None where it
    ignores nothing. `image_labels` holds image-level labels against those of masks.
    """

    root: Path
    by: tuple[str, ...]
    raw_map: LabelMap
    raw: ClassSummary
    label_map: LabelMap | None
    mapped: ClassSummary | None
    split_source: str
    left_out: Mapping[str, int]
    num_repaired: int = 0
    num_unlisted: int = 0
    ignored: Ignored | None = None
    image_labels: CrossTable = field(default_factory=CrossTable)

    @property
    def main(self) -> ClassSummary:
        """Return the mapped summary, or the raw one when there is no label map."""
        return self.raw if self.mapped is None else self.mapped

    def __repr__(self) -> str:
        """Return the counts in one line."""
        return f"<Stats of {visible(self.root.name)}: {self._counts()}>"

    def _repr_html_(self) -> str:
        """Return the counts and a row a class, for notebooks."""
        names = ["class_id", "class_name", "pixels", "pixel_percent", "tiles", "core_tiles"]
        rows = [_plain_row(row) for row in self.main.classes[names].to_numpy(object)]
        return html_result(f"{self.root.name}: {self._counts()}", names, rows)

    def _counts(self) -> str:
        tiles, pixels = plural(self.main.num_tiles, "tile"), plural(self.main.num_pixels, "pixel")
        name = "labels" if self.label_map is None else f"classes of {self.label_map.name}"
        return f"{tiles}, {pixels}, {len(self.main.classes):,} {name}"

    def to_pandas(self) -> DataFrame:
        """Return a row for each class, over all tiles and by each key of each dimension, raw and
        mapped: the columns of stats.parquet.
        """
        return long_table(self)


@dataclass(frozen=True)
class TableCounts:
    """The counts of a tiles table under the map of every label to itself, and under a label map."""

    raw_map: LabelMap
    raw: Counts
    mapped: Counts | None
    split_source: str
    left_out: Mapping[str, int]
    num_repaired: int = 0
    ignored: Ignored | None = None
    image_labels: CrossTable = field(default_factory=CrossTable)


def count_table(
    workspace: Workspace,
    label_map: LabelMap | None,
    *,
    by_group: bool,
    repaired: RepairedMasks | None = None,
    included_only: bool = False,
) -> TableCounts:
    """Return the counts of the workspace's tiles table, read in pieces; of `repaired` masks in
    place of damaged ones.

    With `included_only`, tiles that no manifest takes are counted in `left_out` alone; those with a
    label that the map does not list are also in `raw` and `mapped.unmapped`. Splits and pools are
    the manifest's when there is one; else splits are the table's own and pools as in `count`. A
    tile that the manifest does not list has split "". Groups are counted apart only when asked for.
    Raises IntegrityError for a damaged table.
    """
    opened, _ = open_tiles_table(workspace.tiles)
    source = TileRows(opened, repaired)
    kind_of = _ManifestKinds.read(workspace.manifest) if workspace.manifest.exists() else None
    raw_map = _raw_map(source.read_batches(["label_ids"]), label_map)
    empty = pa.schema([tiles.SCHEMA.field(name) for name in COLUMNS]).empty_table()
    raw = [count(empty, raw_map)]
    mapped = [count(empty, label_map)] if label_map is not None else []
    gone = np.zeros(len(REASONS), dtype=np.int64)
    num_repaired = 0
    ignored = Ignored() if label_map is not None and label_map.ignore else None
    image_labels = ImageLabelCounts()
    for chunk in source.read_batches(_READ):
        reason = (
            reason_codes(chunk, _unmapped_rows(chunk, label_map))
            if included_only
            else np.full(chunk.num_rows, INCLUDED)
        )
        gone += np.bincount(reason[reason != INCLUDED], minlength=len(REASONS))
        num_repaired += int(chunk[IS_REPAIRED].to_numpy()[reason == INCLUDED].sum())
        counted = (reason == INCLUDED) | (reason == UNMAPPED)
        chosen = chunk.filter(pa.array(counted))
        image_labels.add(chosen, are_ignored(chosen, label_map))
        prepared = _prepared(chosen, kind_of, keep_group=by_group)
        _add(raw, count(prepared, raw_map))
        if label_map is not None:
            _add(mapped, _count_mapped(prepared, reason[counted] == INCLUDED, label_map))
            if ignored is not None:
                ignored += _ignored_in(prepared, label_map)
    split_source = "tiles" if kind_of is None else "manifest"
    left_out = {
        reason: number for reason, number in zip(REASONS, gone.tolist(), strict=True) if number
    }
    found = image_labels.table
    sums = merge(raw), merge(mapped) if mapped else None
    return TableCounts(raw_map, *sums, split_source, left_out, num_repaired, ignored, found)


def _add(parts: list[Counts], part: Counts) -> None:
    """Add the counts of a piece; every few pieces are summed, not every one, which takes longer the
    more groups there are.
    """
    parts.append(part)
    if len(parts) >= _PARTS_HELD:
        parts[:] = [merge(parts)]


def _ignored_in(chunk: pa.Table, label_map: LabelMap) -> Ignored:
    lengths = pc.fill_null(pc.list_value_length(chunk["label_ids"]), 0).to_numpy()
    ignored = are_ignored(chunk, label_map)
    pixels = pc.list_flatten(chunk["label_pixels"]).to_numpy()
    rows = np.unique(np.repeat(np.arange(chunk.num_rows), lengths)[ignored])
    return Ignored(len(rows), int(pixels[ignored].sum()))


def _unmapped_rows(chunk: pa.Table, label_map: LabelMap | None) -> np.ndarray:
    """Return the numbers of the rows with a label that the map does not list; a row may be named
    twice.
    """
    if label_map is None:
        return np.zeros(0, dtype=np.int64)
    lengths = pc.fill_null(pc.list_value_length(chunk["label_ids"]), 0).to_numpy()
    unmapped: np.ndarray = (
        label_map.apply_to_ids(pc.list_flatten(chunk["label_ids"]).to_numpy()) == NO_CLASS
    )
    result: np.ndarray = np.repeat(np.arange(chunk.num_rows), lengths)[unmapped]
    return result


def _count_mapped(chunk: pa.Table, included: np.ndarray, label_map: LabelMap) -> Counts:
    """Return the counts of the rows that are `included` (bool [n]), but the unmapped labels of
    all.
    """
    counts, others = (
        count(chunk.filter(pa.array(rows)), label_map) for rows in (included, ~included)
    )
    return replace(counts, unmapped=(counts + others).unmapped)


def compute_stats(
    workspace: Workspace, label_map: LabelMap | None = None, by: Sequence[str] = ("split", "pool")
) -> Stats:
    """Return the statistics of a data set, raw and under a label map, with repaired masks in the
    place of damaged ones; see `count_table`.

    Args:
        workspace: Workspace with an up-to-date tiles table; its manifest says splits and pools.
        label_map: Label map whose classes are counted, too; None for raw labels alone.
        by: Dimensions of the breakdown, of `DIMENSIONS`.

    Raises:
        UsageError: There is no such dimension.
        IntegrityError: A table is damaged, or repaired masks are gone.
    """
    unknown = sorted(set(by) - set(DIMENSIONS))
    if unknown:
        raise UsageError(
            "no such breakdown", seen=", ".join(unknown), expected=", ".join(DIMENSIONS)
        )
    counts = count_table(
        workspace,
        label_map,
        by_group="group" in by,
        repaired=open_repaired(workspace.folder),
        included_only=True,
    )
    counted = (counts.raw if counts.mapped is None else counts.mapped).tiles
    num_unlisted = (
        int(counted["tiles"][counted["split"] == ""].sum())
        if counts.split_source == "manifest"
        else 0
    )
    return Stats(
        root=workspace.root,
        by=tuple(by),
        raw_map=counts.raw_map,
        raw=summarise(counts.raw, counts.raw_map, by),
        label_map=label_map,
        mapped=summarise(counts.mapped, label_map, by)
        if counts.mapped is not None and label_map is not None
        else None,
        split_source=counts.split_source,
        left_out=counts.left_out,
        num_repaired=counts.num_repaired,
        num_unlisted=num_unlisted,
        ignored=counts.ignored,
        image_labels=counts.image_labels,
    )


def _raw_map(batches: Iterator[pa.Table], label_map: LabelMap | None) -> LabelMap:
    """Return the map of every label to itself, named as in `label_map` where it knows the label;
    what that ignores is no class.
    """
    present: set[int] = set()
    for chunk in batches:
        present.update(pc.unique(pc.list_flatten(chunk["label_ids"])).to_pylist())
    if label_map is None:
        return identity_map(present)
    ids = np.array(sorted(present), np.int64)
    plain = identity_map(ids[label_map.apply_to_ids(ids) != IGNORED].tolist())
    return replace(
        plain,
        classes=tuple(replace(cls, name=label_map.source_name(cls.id)) for cls in plain.classes),
        ignore=label_map.ignore,
    )


@dataclass(frozen=True)
class _ManifestKinds:
    """The split and pool of each tile of a manifest, by a 64-bit hash of the tile id: 17 bytes a
    tile.

    Two of 10 million ids share a hash with a probability of 3e-6.
    """

    index: KeyIndex
    codes: np.ndarray
    kinds: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, path: Path) -> _ManifestKinds:
        opened, _ = tables.open_table(path, kind=MANIFEST_KIND, schema_version=MANIFEST_VERSION)
        codes_of = {("", ""): 0}
        hashes, codes = [np.zeros(0, np.uint64)], [np.zeros(0, np.int8)]
        for chunk in tables.read_batches(opened, ["tile_id", "split", "pool"]):
            columns = (pc.fill_null(chunk[name], "").to_pylist() for name in ("split", "pool"))
            codes.append(
                np.array(
                    [
                        codes_of.setdefault(kind, len(codes_of))
                        for kind in zip(*columns, strict=True)
                    ],
                    dtype=np.int8,
                )
            )
            hashes.append(_hash(chunk["tile_id"]))
        return cls(KeyIndex(np.concatenate(hashes)), np.concatenate(codes), tuple(codes_of))

    def of(self, tile_ids: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
        """Return split and pool of each tile, both "" for one that the manifest does not list."""
        position = self.index.find(_hash(tile_ids))
        # The last one is for tiles that are not listed.
        codes = np.append(self.codes, np.int8(0))[position]
        split, pool = (
            pa.array(names).take(pa.array(codes)) for names in zip(*self.kinds, strict=True)
        )
        return split, pool


def _hash(tile_ids: pa.ChunkedArray) -> np.ndarray:
    import pandas as pd

    return pd.util.hash_array(np.asarray(tile_ids.to_pylist(), dtype=object), categorize=False)


def _prepared(chunk: pa.Table, kind_of: _ManifestKinds | None, *, keep_group: bool) -> pa.Table:
    # Groups that nobody asked for would only make the counts grow.
    if not keep_group:
        chunk = chunk.set_column(
            chunk.schema.get_field_index("group"), "group", pa.nulls(chunk.num_rows, pa.string())
        )
    if kind_of:
        split, pool = kind_of.of(chunk["tile_id"])
        chunk = chunk.set_column(
            chunk.schema.get_field_index("split"), "split", split
        ).append_column("pool", pool)
    return chunk


def long_table(stats: Stats) -> DataFrame:
    """Return every summary of `stats` as rows of `SCHEMA`."""
    import pandas as pd

    pieces = []
    for labels, summary in (("raw", stats.raw), ("mapped", stats.mapped)):
        if summary is not None:
            pieces.append(summary.classes.assign(labels=labels, by="all", key=""))
            pieces.append(summary.breakdown.assign(labels=labels, **dict.fromkeys(WEIGHTS, np.nan)))
    result: DataFrame = pd.concat(pieces, ignore_index=True)[SCHEMA.names]
    return result


def csv_text(stats: Stats) -> str:
    """Return the long table as CSV; all text is quoted, so that none is taken for a formula, and
    absent weights are empty.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(SCHEMA.names)
    for row in long_table(stats).itertuples(index=False):
        writer.writerow([None if value != value else value for value in row])  # noqa: PLR0124 (NaN)
    return stream.getvalue()


def shares_by(summary: ClassSummary, dimension: str) -> DataFrame:
    """Return per cent of pixels, one row a class (id and name), one column a key of `dimension`;
    `-` stands for unknown.
    """
    rows = summary.breakdown[summary.breakdown["by"] == dimension]
    table = rows.pivot_table(index="class_id", columns="key", values="pixel_percent", sort=True)
    keys = summary.tiles.loc[summary.tiles["by"] == dimension, "key"]
    table = (
        table.reindex(index=summary.classes["class_id"], columns=keys)
        .fillna(0.0)
        .rename(columns={"": "-"})
        .reset_index()
    )
    table.insert(1, "class_name", summary.classes["class_name"])
    return table


def as_json(stats: Stats) -> dict[str, Any]:
    """Return `stats` as plain values for JSON: raw, mapped (or null), where splits came from and
    what was not counted.

    Breakdowns with over 1,000 keys are in the Parquet table only and named in `only_in_parquet`.
    """
    sizes = stats.raw.tiles["by"].value_counts()
    large = [name for name in stats.by if sizes.get(name, 0) > _MAX_JSON_KEYS]
    return {
        "schema_version": SCHEMA_VERSION,
        "root": str(stats.root),
        "label_map": stats.label_map.name if stats.label_map else None,
        "label_map_digest": stats.label_map.digest if stats.label_map else None,
        "by": list(stats.by),
        "split_source": stats.split_source,
        "left_out": dict(stats.left_out),
        "not_in_manifest": stats.num_unlisted,
        "repaired_masks": stats.num_repaired,
        **({"ignored": asdict(stats.ignored)} if stats.ignored is not None else {}),
        **({"image_labels": stats.image_labels.as_json()} if stats.image_labels.tiles else {}),
        "effective_number_beta": EFFECTIVE_NUMBER_BETA,
        "only_in_parquet": large,
        "raw": _summary_json(stats.raw, large),
        "mapped": _summary_json(stats.mapped, large) if stats.mapped is not None else None,
    }


def _summary_json(summary: ClassSummary, large: Sequence[str]) -> dict[str, Any]:
    return {
        "num_tiles": summary.num_tiles,
        "num_unconditional": summary.num_unconditional,
        "num_pixels": summary.num_pixels,
        "classes": _records(summary.classes),
        "breakdown": _records(summary.breakdown[~summary.breakdown["by"].isin(large)]),
        "tiles": _records(summary.tiles[~summary.tiles["by"].isin(large)]),
        "cooccurrence": {
            "class_ids": summary.cooccurrence.index.tolist(),
            "tiles": summary.cooccurrence.to_numpy().tolist(),
        },
        "unmapped": _records(summary.unmapped),
    }


def _plain_row(row: Any) -> list[Any]:
    return [_plain(value) for value in row]


def _records(frame: DataFrame) -> list[dict[str, Any]]:
    rows = frame.drop(columns="colour", errors="ignore").to_dict("records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    return None if value != value else value  # noqa: PLR0124 (NaN)


def write_stats(stats: Stats, workspace: Workspace) -> tuple[Path, ...]:
    """Write stats.parquet, stats.json and the plot to the workspace and return their paths.

    Raises:
        LockedError: Another process writes into the workspace.
        OutputError: The workspace cannot be written.
    """
    from histoprep.counting.plot import plot_shares

    metadata = {
        "root": str(stats.root),
        "label_map": json.loads(stats.label_map.to_json()) if stats.label_map else None,
        "by": list(stats.by),
    }
    rows = pa.Table.from_pandas(long_table(stats), schema=SCHEMA, preserve_index=False)
    with durable.locked(workspace.folder):
        tables.write_table(
            workspace.stats_table,
            [rows],
            SCHEMA,
            kind=KIND,
            schema_version=SCHEMA_VERSION,
            metadata=metadata,
        )
        plot = plot_shares(stats)
        checksums.publish_files(
            workspace.folder,
            {
                workspace.stats_json.name: checksums.json_bytes(as_json(stats)),
                workspace.stats_plot.name: plot,
            },
        )
    return workspace.stats_table, workspace.stats_json, workspace.stats_plot
