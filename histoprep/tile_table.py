"""Listing -> tiles.parquet: partitions, reuse of rows whose files did not change, merging.

A partition of the listing becomes one part file whose name is the digest of everything its
rows depend on. Finished parts are skipped, so a stopped run goes on where it was, parts can be
made on many machines, and doing one twice is harmless. The table is the parts in
order, cut into row groups of one size: its bytes do not depend on workers or partitions.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from histoprep import __version__, tables
from histoprep.digests import RunningDigest, digest_text, hash_text
from histoprep.durable import remove_temporaries, write_json
from histoprep.errors import BrokenFileError, IncompleteError, IntegrityError, UsageError
from histoprep.execution import Engine, Marker, run_tasks
from histoprep.names import to_name
from histoprep.read_ahead import THREADS, FileStat, Request, read_ahead, stat_file
from histoprep.layout import Layout
from histoprep.scan import Issue, Pair, ScanOptions, detect_layout, scan
from histoprep.tiles import KIND, LISTED, MEASURED, SCHEMA, SCHEMA_VERSION, TileOptions, measured_schema, to_table
from histoprep.workspace import Workspace

PARTITION_TILES = 1000
TIME_LIMIT_S = 60.0
_PAIRS_A_STAT_TASK = 256
_PARTS_OPTIONS = "options.json"
_ISSUES_SCHEMA = pa.schema([("kind", pa.string()), ("path", pa.string()), ("detail", pa.string())])


class Listed(NamedTuple):
    """A pair and what the file system says of its files; None for a file that is not there."""

    pair: Pair
    image: FileStat | None
    mask: FileStat | None


@dataclass(frozen=True, slots=True)
class TableOptions:
    """Everything that tiles.parquet depends on besides the files, and how the work is cut."""

    scan: ScanOptions = field(default_factory=ScanOptions)
    tiles: TileOptions = field(default_factory=TileOptions)
    sample: int | None = None
    reuse: bool = True
    partition_tiles: int = PARTITION_TILES
    time_limit_s: float = TIME_LIMIT_S

    def identity(self) -> dict[str, Any]:
        """Return what the rows depend on, as JSON values."""
        chosen = {"scan": self.scan, "tiles": self.tiles}
        return {name: json.loads(json.dumps(dataclasses.asdict(value), default=_as_json)) for name, value in chosen.items()} | {"sample": self.sample}


def _as_json(value: object) -> object:
    return str(value) if isinstance(value, Path) else list(value)  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True)
class TableResult:
    """What making the table came to; `up_to_date` when nothing had changed.

    `num_listed` is larger than `num_tiles` when a sample was taken.
    """

    path: Path
    num_tiles: int
    num_reused: int
    up_to_date: bool
    num_listed: int


@dataclass(frozen=True, slots=True)
class TileTask:
    """One partition: measures the pairs that are not reused and writes one part file."""

    root: str
    listed: tuple[Listed, ...]
    options: TileOptions
    part: Path
    marker: Path
    time_limit_s: float
    # Rows of an earlier table and the positions in `listed` they are for.
    reused: pa.Table | None = None
    reused_at: tuple[int, ...] = ()
    left_out: tuple[tuple[int, str], ...] = ()

    def run(self) -> Path:
        """Write the part unless it is there, and return its path."""
        if not self.part.exists():
            fresh_at = sorted(set(range(len(self.listed))) - set(self.reused_at))
            fresh = to_table(self._measure(fresh_at), measured_schema())
            table = _in_order(fresh, fresh_at, self.reused, self.reused_at)
            listed = to_table([dict(zip(LISTED, _listed_values(one.pair), strict=True)) for one in self.listed], pa.schema([SCHEMA.field(n) for n in LISTED]))
            whole = pa.table({name: (listed if name in LISTED else table)[name] for name in SCHEMA.names}, schema=SCHEMA)
            tables.write_table(self.part, [whole], SCHEMA, kind="tiles-part", schema_version=SCHEMA_VERSION, metadata={})
        return self.part

    def without(self, index: int, reason: str) -> TileTask:
        """Return the task that reports item `index` as unreadable instead of decoding it."""
        return replace(self, left_out=(*self.left_out, (index, reason)))

    def _measure(self, positions: list[int]) -> list[dict[str, Any]]:
        # Decoders take longest to import, and only workers need them.
        from histoprep.measurer import Measurer

        measurer = Measurer(self.options)
        refused = dict(self.left_out)
        marker = Marker(self.marker, self.time_limit_s)
        contents = read_ahead(self._requests(positions, refused), self.options.max_file_bytes)
        rows = []
        for index in positions:
            marker.at(index)
            listed = self.listed[index]
            row: dict[str, Any] = {}
            for what, path, seen in (("image", listed.pair.image_path, listed.image), ("mask", listed.pair.mask_path, listed.mask)):
                if path is None:
                    continue
                row[f"{what}_bytes"], row[f"{what}_mtime_ns"] = seen or (None, None)
                if seen is None:
                    data: bytes | BrokenFileError = BrokenFileError("HP201 vanished", "gone between listing and reading")
                elif index in refused:
                    data = BrokenFileError("HP201 worker-died", refused[index])
                else:
                    data = next(contents)
                row.update(measurer.image(data) if what == "image" else measurer.mask(data))
            rows.append(row)
        marker.close()
        return rows

    def _requests(self, positions: list[int], refused: dict[int, str]) -> list[Request]:
        requests = []
        for index in positions:
            listed = self.listed[index]
            for path, seen in ((listed.pair.image_path, listed.image), (listed.pair.mask_path, listed.mask)):
                if path is not None and seen is not None and index not in refused:
                    requests.append(Request(absolute_path(self.root, path), seen))
        return requests


def _listed_values(pair: Pair) -> tuple[Any, ...]:
    return (pair.tile_id, pair.group, pair.split, pair.label, pair.unlabelled, pair.declared_labels, pair.image_path, pair.mask_path)


def _in_order(fresh: pa.Table, fresh_at: list[int], reused: pa.Table | None, reused_at: tuple[int, ...]) -> pa.Table:
    if reused is None or not reused_at:
        return fresh
    positions = np.concatenate((np.array(fresh_at, np.int64), np.array(reused_at, np.int64)))
    return pa.concat_tables([fresh, reused.cast(fresh.schema)]).take(pa.array(np.argsort(positions)))


def absolute_path(root: str | Path, path: str) -> str:
    """Return the file system path of a path stored in a table of ours."""
    return os.path.join(root, to_name(path))


def list_with_stats(root: Path, options: TableOptions, listing: _Listing) -> Iterator[Listed]:
    """Yield every pair with its files' sizes and times; sixteen threads ask the file system."""
    pairs = scan(root, options.scan, listing.issues.append)
    if options.sample is not None:
        pairs = _sampled(pairs, options.sample, listing)
    waiting: deque[Future[list[Listed]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk in _batched(pairs, _PAIRS_A_STAT_TASK):
            waiting.append(pool.submit(_stat_chunk, str(root), chunk))
            if len(waiting) > 2 * THREADS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _stat_chunk(root: str, pairs: list[Pair]) -> list[Listed]:
    return [
        Listed(
            pair,
            stat_file(absolute_path(root, pair.image_path)) if pair.image_path is not None else None,
            stat_file(absolute_path(root, pair.mask_path)) if pair.mask_path is not None else None,
        )
        for pair in pairs
    ]


def _sampled(pairs: Iterable[Pair], num_tiles: int, listing: _Listing) -> Iterator[Pair]:
    """Return the `num_tiles` pairs whose ids hash lowest, in order of the listing: the same ones every time."""
    keyed = [(hash_text(pair.tile_id), index, pair) for index, pair in enumerate(pairs)]
    listing.num_listed = len(keyed)
    chosen = sorted(keyed, key=lambda one: one[:2])[:num_tiles]
    return (pair for _, _, pair in sorted(chosen, key=lambda one: one[1]))


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


class _Previous:
    """Rows of an earlier tiles table, found by the paths, sizes and times of their files."""

    def __init__(self, path: Path) -> None:
        self._file, self.header = tables.open_table(path, kind=KIND, schema_version=SCHEMA_VERSION)
        self._starts = np.cumsum([0] + [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)])
        self._group: tuple[int, pa.Table] | None = None
        keys: list[int] = []
        columns = ["image_path", "image_bytes", "image_mtime_ns", "image_digest", "mask_path", "mask_bytes", "mask_mtime_ns", "mask_digest"]
        for batch in tables.read_batches(self._file, columns):
            keys.extend(_row_key(*row) for row in zip(*(batch[name].to_pylist() for name in columns), strict=True))
        self._order = np.argsort(np.array(keys, np.uint64), kind="stable")
        self._keys = np.array(keys, np.uint64)[self._order]

    def find(self, listed: list[Listed]) -> tuple[pa.Table | None, tuple[int, ...]]:
        """Return the earlier rows that still hold, and the positions in `listed` they are for."""
        if not len(self._keys):
            return None, ()
        wanted = np.array([_listed_key(one) for one in listed], np.uint64)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        found = np.flatnonzero((self._keys[at] == wanted) & (wanted != 0))
        if not len(found):
            return None, ()
        return self._take(self._order[at[found]]), tuple(found.tolist())

    def _take(self, rows: np.ndarray) -> pa.Table:
        pieces = []
        for group in np.unique(np.searchsorted(self._starts, rows, side="right") - 1):
            if self._group is None or self._group[0] != group:
                self._group = (int(group), self._file.read_row_group(int(group), columns=list(MEASURED)))
            inside = (rows >= self._starts[group]) & (rows < self._starts[group + 1])
            pieces.append((np.flatnonzero(inside), self._group[1].take(pa.array(rows[inside] - self._starts[group]))))
        order = np.concatenate([positions for positions, _ in pieces])
        return pa.concat_tables([table for _, table in pieces]).take(pa.array(np.argsort(order)))


def _row_key(image: str | None, image_bytes: int, image_time: int, image_digest: str | None, mask: str | None, mask_bytes: int, mask_time: int, mask_digest: str | None) -> int:
    # A file without a digest could not be read; it is looked at again.
    if (image is not None and image_digest is None) or (mask is not None and mask_digest is None):
        return 0
    return hash_text(f"{image}\0{image_bytes}\0{image_time}\0{mask}\0{mask_bytes}\0{mask_time}") or 1


def _listed_key(one: Listed) -> int:
    image, mask = one.image or (None, None), one.mask or (None, None)
    return hash_text(f"{one.pair.image_path}\0{image[0]}\0{image[1]}\0{one.pair.mask_path}\0{mask[0]}\0{mask[1]}") or 1


@dataclass(slots=True)
class _Listing:
    """A running digest of a listing, its length and its issues."""

    issues: list[Issue] = field(default_factory=list)
    num_tiles: int = 0
    num_listed: int = 0
    _digest: RunningDigest = field(default_factory=RunningDigest)

    def watch(self, listed: Iterable[Listed]) -> Iterator[Listed]:
        for one in listed:
            self.num_tiles += 1
            self._digest.update(repr(one))
            yield one

    @property
    def digest(self) -> str:
        return digest_text(self._digest.value() + repr(self.issues))


class TileTable:
    """Makes and renews tiles.parquet of one workspace."""

    def __init__(self, workspace: Workspace, options: TableOptions | None = None) -> None:
        self.workspace = workspace
        self.options = _resolved(workspace, options or _earlier_options(workspace))

    def build(self, engine: Engine, advance: Callable[[int, int], None] = lambda done, total: None) -> TableResult:
        """Bring the table up to date; `advance(done, total)` is told of every partition.

        The caller holds the workspace's lock. Raises OutputError, or whatever the scan refuses.
        """
        listing = self._list()
        previous = self._previous()
        if previous is not None and previous.header.get("listing_digest") == listing.digest:
            return self._result(listing, listing.num_tiles, up_to_date=True)
        # The listing is walked again while work goes on, so that memory does not grow with it.
        total, reused = listing.num_tiles, [0]
        again = _Listing()
        tasks = self._tasks(again, previous, reused)
        self._merge(self._told(run_tasks(tasks, engine), advance, total), again)
        self._drop_parts()
        return self._result(again, reused[0])

    @classmethod
    def of_parts(cls, workspace: Workspace) -> TileTable:
        """Return the table with the options that the array jobs were given; raises UsageError when there were none."""
        try:
            stored = json.loads((workspace.parts / _PARTS_OPTIONS).read_text("utf-8"))
        except FileNotFoundError:
            raise UsageError("there are no parts to collect", path=workspace.parts, hint="make them first: histoprep audit --part i/n") from None
        return cls(workspace, _stored_options(stored))

    def build_part(self, number: int, count: int, engine: Engine, advance: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Make every partition whose index is `number` - 1 modulo `count`, and return how many."""
        self._note_options()
        chosen = itertools.islice(self._tasks(_Listing(), None, [0]), number - 1, None, count)
        done = 0
        for _ in run_tasks(chosen, engine):
            done += 1
            advance(done, 0)
        return done

    def _note_options(self) -> None:
        """Leave the options for `collect`, and refuse to mix parts made with others."""
        noted = self.workspace.parts / _PARTS_OPTIONS
        mine = self.options.identity() | {"partition_tiles": self.options.partition_tiles}
        if noted.exists() and json.loads(noted.read_text("utf-8")) != mine:
            raise UsageError("parts with other options are here", path=noted, seen=json.dumps(mine), expected=noted.read_text("utf-8"), hint=f"use the same options, or delete {noted.parent}")
        write_json(noted, mine)

    def collect(self) -> TableResult:
        """Merge the parts of array jobs; raises IncompleteError naming what is missing."""
        tasks = list(self._tasks(_Listing(), None, [0]))
        missing = [index for index, task in enumerate(tasks) if not task.part.exists()]
        if missing:
            shown = ", ".join(str(index) for index in missing[:10])
            raise IncompleteError(
                f"{len(missing)} of {len(tasks)} partitions are not done",
                path=self.workspace.parts,
                seen=f"partitions {shown} missing",
                hint="of n jobs, job i makes partitions i-1, i-1+n, ...: run the missing ones again with --part i/n",
            )
        again = _Listing()
        self._merge((task.part for task in self._tasks(again, None, [0])), again)
        self._drop_parts()
        return self._result(again, 0)

    def _result(self, listing: _Listing, num_reused: int, *, up_to_date: bool = False) -> TableResult:
        return TableResult(self.workspace.tiles, listing.num_tiles, num_reused, up_to_date, listing.num_listed or listing.num_tiles)

    def _list(self) -> _Listing:
        listing = _Listing()
        for _ in listing.watch(list_with_stats(self.workspace.root, self.options, listing)):
            pass
        return listing

    def _previous(self) -> _Previous | None:
        if not self.options.reuse or not self.workspace.tiles.exists():
            return None
        try:
            previous = _Previous(self.workspace.tiles)
        except IntegrityError:
            # A damaged or older table is worth nothing; everything is read again.
            return None
        same_tool = previous.header.get("tool_version") == __version__ and previous.header.get("schema_version") == SCHEMA_VERSION
        options = previous.header.get("options", {})
        measured_alike = options.get("tiles") == self.options.identity()["tiles"]
        if options != self.options.identity():
            previous.header.pop("listing_digest", None)
        return previous if same_tool and measured_alike else None

    def _tasks(self, listing: _Listing, previous: _Previous | None, reused: list[int]) -> Iterator[TileTask]:
        root = self.workspace.root
        listed_pairs = listing.watch(list_with_stats(root, self.options, listing))
        for listed in _batched(listed_pairs, self.options.partition_tiles):
            key = digest_text(f"{SCHEMA_VERSION}\0{__version__}\0{self.options.identity()}\0{listed!r}")
            rows, at = previous.find(listed) if previous else (None, ())
            reused[0] += len(at)
            part = self.workspace.parts / f"{key}.parquet"
            yield TileTask(
                str(root), tuple(listed), self.options.tiles, part, part.with_suffix(".at"), self.options.time_limit_s, rows, at
            )

    @staticmethod
    def _told(parts: Iterator[Path], advance: Callable[[int, int], None], total: int) -> Iterator[Path]:
        done = 0
        for part in parts:
            yield part
            done += tables.open_table(part, kind="tiles-part", schema_version=SCHEMA_VERSION)[0].metadata.num_rows
            advance(done, total)

    def _merge(self, parts: Iterable[Path], listing: _Listing) -> None:
        """Write the table and the issues; the header is complete only when all parts were seen."""

        def rows() -> Iterator[pa.Table]:
            for part in parts:
                yield from tables.read_batches(tables.open_table(part, kind="tiles-part", schema_version=SCHEMA_VERSION)[0])

        header = {"root": str(self.workspace.root), "options": self.options.identity()}
        tables.write_table(
            self.workspace.tiles,
            rows(),
            SCHEMA,
            kind=KIND,
            schema_version=SCHEMA_VERSION,
            metadata=header,
            late_metadata=lambda: {"listing_digest": listing.digest},
        )
        issues = pa.Table.from_pylist([one._asdict() for one in listing.issues], schema=_ISSUES_SCHEMA)
        tables.write_table(self.workspace.listing_issues, [issues], _ISSUES_SCHEMA, kind="listing-issues", schema_version="1.0", metadata={})

    def _drop_parts(self) -> None:
        remove_temporaries(self.workspace.parts)
        for pattern in ("*.parquet", "*.at", _PARTS_OPTIONS):
            for part in self.workspace.parts.glob(pattern):
                part.unlink()


def _earlier_options(workspace: Workspace) -> TableOptions:
    """Return the scan options of the table that is there, so that later commands see the same data set."""
    if not workspace.tiles.exists():
        return TableOptions()
    try:
        _, header = tables.open_table(workspace.tiles, kind=KIND, schema_version=SCHEMA_VERSION)
    except IntegrityError:
        return TableOptions()
    return _stored_options(header["options"])


def _stored_options(stored: dict[str, Any]) -> TableOptions:
    """Return the options whose `identity` is `stored`."""
    scan_options = stored["scan"]
    return TableOptions(
        sample=stored["sample"],
        partition_tiles=stored.get("partition_tiles", PARTITION_TILES),
        scan=ScanOptions(
            layout=Layout(scan_options["layout"]),
            mask_suffix=scan_options["mask_suffix"],
            images=scan_options["images"],
            masks=scan_options["masks"],
            group_by=scan_options["group_by"],
            label_by=scan_options["label_by"],
            unlabelled=tuple(Path(one) for one in scan_options["unlabelled"]),
            csv=Path(scan_options["csv"]) if scan_options["csv"] else None,
        ),
        tiles=TileOptions(**stored["tiles"]),
    )


def _resolved(workspace: Workspace, options: TableOptions) -> TableOptions:
    """Return the options with the layout decided and paths made absolute, as the table's header keeps them."""
    chosen = options.scan
    layout = detect_layout(workspace.root) if chosen.layout is Layout.AUTO else chosen.layout
    csv = chosen.csv.resolve() if chosen.csv else None
    return replace(options, scan=replace(chosen, layout=layout, csv=csv, unlabelled=tuple(one.resolve() for one in chosen.unlabelled)))
