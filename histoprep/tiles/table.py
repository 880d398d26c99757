"""Listing -> tiles.parquet: partitions, reuse of rows whose files did not change, merging.

A partition of the listing becomes one part file whose name is the digest of everything its
rows depend on. Finished parts are skipped, so a stopped run goes on where it was, parts can be
made on many machines, and doing one twice is harmless. The table is the parts in
order, cut into row groups of one size: its bytes do not depend on workers or partitions.
It is written after the issues of the listing, so a table that is there says that both are.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from histoprep import image_formats, tables
from histoprep.checksums import CHECKSUMS, STATES, FileStates, publish_json
from histoprep.digests import digest_text
from histoprep.durable import locked, remove_temporaries
from histoprep.errors import IncompleteError, IntegrityError, OutputError, UsageError
from histoprep.execution import Engine, run_tasks
from histoprep.job_folder import JobFolder
from histoprep.mask_reading import UNDECIDED, Reading
from histoprep.phrases import first_of
from histoprep.progress import Advance, Phases, TaskProgress, silent, silent_phases
from histoprep.scanning import IssueKind, ScanOptions
from histoprep.scanning.pixel_groups import groups_by_pixels
from histoprep.schemas.tiles import (
    ISSUES_KIND,
    ISSUES_SCHEMA,
    ISSUES_VERSION,
    KIND,
    PIXEL_GROUPS,
    SCHEMA,
    SCHEMA_VERSION,
    open_tiles_table,
    read_issues,
)
from histoprep.schemas.workspace import Workspace, check_outside
from histoprep.tiles import TileOptions
from histoprep.tiles.listing import ListedTile, Listing, absolute_path, batched
from histoprep.tiles.options import (
    TableOptions,
    chosen_words,
    earlier_options,
    keeping_options,
    refuse_foreign_workspace,
    settle,
    stored_options,
)
from histoprep.tiles.reuse import EarlierTable, earlier_table
from histoprep.tiles.seen_files import SeenFiles
from histoprep.tiles.task import TileTask, read_part
from histoprep.version import __version__

__all__ = [
    "TableOptions",
    "TableResult",
    "TileTable",
    "absolute_path",
    "unlisted_folders",
]

_PARTS_OPTIONS = "options.json"
# Up to so many tiles neighbours are looked for without being asked for: some seconds.
MAX_UNASKED_TILES = 10_000
# Starting workers takes longer than reading so many tiles of so many bytes.
_FEW_TILES, _FEW_BYTES = 64, 64 << 20
_PLAIN = (image_formats.PNG, image_formats.JPEG)
# After so many listed tiles progress is shown.
_LISTED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class TableResult:
    """What making the table came to; `up_to_date` when nothing had changed.

    `num_listed` is larger than `num_tiles` when a sample was taken. `warning` says that the earlier
    table could not be used, so that every file was read again, and why. `understood` says how the
    data set is read where that was found out, in one line.
    """

    path: Path
    num_tiles: int
    num_reused: int
    up_to_date: bool
    num_listed: int
    warning: str | None = None
    understood: str = ""


@dataclass(slots=True)
class _Few:
    """How many tiles were listed, and whether they are so few, small and plain that this process
    may read them.
    """

    num_tiles: int = 0
    num_bytes: int = 0
    is_plain: bool = True

    def add(self, tile: ListedTile) -> None:
        """Count a tile."""
        self.num_tiles += 1
        if not self.are_few:
            return
        for path, stat in (
            (tile.pair.image_path, tile.image),
            (tile.pair.mask_path, tile.mask),
        ):
            if path is not None:
                self.num_bytes += stat.num_bytes if stat else 0
                self.is_plain = self.is_plain and image_formats.format_of(path) in _PLAIN

    @property
    def are_few(self) -> bool:
        """Return whether they are."""
        return self.is_plain and self.num_tiles <= _FEW_TILES and self.num_bytes <= _FEW_BYTES


@dataclass(slots=True)
class _Count:
    """How many rows were reused; counted while partitions are made."""

    reused: int = 0


def renew_states(workspace: Workspace, is_trusted: Callable[[ListedTile], bool]) -> bool:
    """Remember change times and inodes anew after something of ours changed them, such as a hard
    link to a file, so that files need not be read again; return whether that was possible.

    Args:
        workspace: Workspace with a tiles table.
        is_trusted: Returns whether a pair that has another state than before was changed by nobody
            else; one that was stays to be read again.
    """
    _, header = open_tiles_table(workspace.tiles)
    earlier = FileStates.read(workspace.folder / STATES)
    listing = Listing()
    for tile in listing.walk(workspace.root, stored_options(header["options"])):
        listing.note_keys([tile])
        known = int(earlier.find_keys(np.array([tile.key], np.uint64))[0])
        if known != tile.local.number and not is_trusted(tile):
            listing.restate_last(known)
    if listing.digest != header.get("listing_digest"):
        return False
    listing.states.write(workspace.folder / STATES)
    return True


class TileTable:
    """Makes and renews tiles.parquet of one workspace."""

    def __init__(self, workspace: Workspace, options: TableOptions | None = None) -> None:
        """Without options those of the last audit are used again; raises UsageError when the
        workspace is of another data set.
        """
        self.workspace = workspace
        if options is None:
            options = earlier_options(workspace)
        else:
            refuse_foreign_workspace(workspace)
        check_outside(
            workspace.folder,
            [folder.resolve() for folder in options.scan.unlabelled],
            "results",
            "--workspace",
        )
        settled = settle(workspace, options)
        self.options = settled.used
        self.requested = settled.requested
        self.understood = settled.understood
        self._few = _Few()

    @classmethod
    def of_parts(cls, workspace: Workspace) -> TileTable:
        """Return the table with the options that the array jobs were given, or else with those of
        the table that is there.

        Raises UsageError when there is neither.
        """
        noted = _parts_job(workspace).read_request()
        if noted is not None:
            return cls(workspace, stored_options(noted))
        if not workspace.tiles.exists():
            raise _nothing_to_collect(workspace)
        return cls(workspace)

    def build(
        self, engine: Engine, phases: Phases = silent_phases, *, keeps_cells: bool = False
    ) -> TableResult:
        """Bring the table up to date.

        With `keeps_cells`, images in cells are left in files of `small_images.py` for tiles that
        are compared afterwards, unless there are too many.

        The phases are `listing` and, where files have to be read, `reading`. The options are kept
        for later commands before any file is read. The caller holds the workspace's lock. Raises
        OutputError, or whatever the scan refuses.
        """
        seen = SeenFiles()
        with keeping_options(self.workspace, self.requested):
            listing = self._list(phases("listing", "tiles"), seen)
        self._settle_neighbours(listing)
        earlier, warning = self._earlier()
        if earlier is not None and self._is_current(earlier, listing):
            # A run that was stopped at its very end leaves its parts; those of array jobs are for
            # collect.
            if not _parts_job(self.workspace).is_begun:
                self._drop_parts()
            return self._result(listing, listing.num_tiles, up_to_date=True)
        # The listing is walked again while work goes on, so that memory does not grow with it.
        again, count = Listing(), _Count()
        tasks = self._tasks(again, earlier, count, seen)
        if keeps_cells and listing.num_tiles <= MAX_UNASKED_TILES:
            tasks = (replace(task, keeps_cells=task.options.neighbours or False) for task in tasks)
        engine = self.engine_of_few(engine)
        progress = TaskProgress(phases("reading", "tiles"), listing.num_tiles)
        with contextlib.closing(run_tasks(tasks, engine, progress.under_way)) as parts:
            self._merge(parts, again, progress)
        again.states.write(self.workspace.folder / STATES)
        self._group_by_pixels(engine)
        self._drop_parts()
        return self._result(again, count.reused, warning=warning)

    def engine_of_few(self, engine: Engine) -> Engine:
        """Return the engine for what was listed last: in this process where it may be and the files
        are a few small PNG and JPEG files, which are checked before a decoder sees them.
        """
        return replace(engine, in_process=engine.spares_few and self._few.are_few)

    def build_part(self, number: int, count: int, engine: Engine, advance: Advance = silent) -> int:
        """Make every partition whose index is `number` - 1 modulo `count`, and return how many."""
        self._settle_neighbours()
        self._note_options()
        chosen = itertools.islice(self._tasks(Listing()), number - 1, None, count)
        done = 0
        with contextlib.closing(run_tasks(chosen, engine)) as parts:
            for _ in parts:
                done += 1
                advance(done, 0)
        return done

    def collect(self) -> TableResult:
        """Merge the parts of array jobs; raises IncompleteError naming what is missing.

        Does nothing when the table has been made already: collecting can be stopped and run again.
        """
        self._settle_neighbours()
        earlier, warning = self._earlier()
        if earlier is not None:
            listing = self._list()
            if self._is_current(earlier, listing):
                self._drop_parts()
                return self._result(listing, 0, up_to_date=True)
        if not _parts_job(self.workspace).is_begun:
            raise _nothing_to_collect(self.workspace)
        self._refuse_missing()
        again = Listing()
        with keeping_options(self.workspace, self.requested):
            parts = (task.part for task in self._tasks(again))
            self._merge(parts, again, TaskProgress(silent, 0))
        again.states.write(self.workspace.folder / STATES)
        self._group_by_pixels(Engine(0))
        self._drop_parts()
        return self._result(again, 0, warning=warning)

    def _group_by_pixels(self, engine: Engine) -> None:
        """Write the groups that are found in the images into the table, where these are wanted."""
        if groups_by_pixels(self.options.scan.group_by):
            from histoprep.tiles.pixel_groups import write_pixel_groups

            write_pixel_groups(self.workspace, engine)

    def _settle_neighbours(self, listing: Listing | None = None) -> None:
        """Decide whether what neighbours are found by is measured, where nobody said so: as in the
        table that is there, or else if there are few tiles.
        """
        tiles = self.options.tiles
        by_pixels = groups_by_pixels(self.options.scan.group_by)
        wanted = True if by_pixels else tiles.neighbours
        if wanted is None:
            wanted = self._measured_neighbours()
        if wanted is None:
            wanted = (listing or self._list()).num_tiles <= MAX_UNASKED_TILES
        wanted = wanted and not tiles.headers_only
        self.options = replace(self.options, tiles=replace(tiles, neighbours=wanted))

    def _measured_neighbours(self) -> bool | None:
        """Return whether the table that is there has them; None where there is none."""
        with contextlib.suppress(FileNotFoundError, IntegrityError):
            _, header = open_tiles_table(self.workspace.tiles)
            stored = header["options"]["tiles"]
            return None if stored.get("headers_only") else stored.get("neighbours")
        return None

    def _earlier(self) -> tuple[EarlierTable | None, str | None]:
        """Return the table that is there, if its rows may hold, and a warning when it cannot be
        used at all.
        """
        if not self.options.reuse:
            return None, None
        try:
            return earlier_table(self.workspace.tiles, self.options), None
        except IntegrityError as error:
            words = ", ".join(chosen_words(self.workspace, self.options.scan)) or "the defaults"
            return (
                None,
                (
                    f"{self.workspace.tiles} could not be used ({error.what}): every file was read"
                    f" again; options: {words}"
                ),
            )

    def _list(self, advance: Advance = silent, keep: SeenFiles | None = None) -> Listing:
        listing, self._few = Listing(), _Few()
        tiles = listing.walk(self.workspace.root, self.options, keep=keep)
        for done, tile in enumerate(tiles, start=1):
            self._few.add(tile)
            if not done % _LISTED_AT_ONCE:
                advance(done, 0)
        return listing

    def _is_current(self, earlier: EarlierTable, listing: Listing) -> bool:
        """Return whether a table and its issues are what would be made now; files that could not be
        read are tried again.
        """
        wanted = self._header() | {"listing_digest": listing.digest}
        if (
            earlier.num_unread
            or not listing.is_same_as(earlier.states)
            or any(earlier.header.get(key) != value for key, value in wanted.items())
            # It was stopped before the groups were found.
            or groups_by_pixels(self.options.scan.group_by) != (PIXEL_GROUPS in earlier.header)
        ):
            return False
        try:
            opened, issues = tables.open_table(
                self.workspace.listing_issues, kind=ISSUES_KIND, schema_version=ISSUES_VERSION
            )
            tables.check_pages(opened)
        except (FileNotFoundError, IntegrityError):
            return False
        return issues.get("listing_digest") == listing.digest

    def _header(self) -> dict[str, Any]:
        return {"root": str(self.workspace.root), "options": self.options.identity()}

    def _tasks(
        self,
        listing: Listing,
        earlier: EarlierTable | None = None,
        count: _Count | None = None,
        seen: SeenFiles | None = None,
    ) -> Iterator[TileTask]:
        """Yield the partitions in order; `listing` and `count` are complete when all were
        yielded.
        """
        identity = self.options.identity()
        tiles = listing.walk(self.workspace.root, self.options, seen=seen)
        for listed in batched(tiles, self.options.partition_tiles):
            facts = ", ".join(tile.facts for tile in listed)
            key = digest_text(f"{SCHEMA_VERSION}\0{__version__}\0{identity}\0[{facts}]")
            listing.note_keys(listed)
            reused = earlier.find(listed) if earlier else None
            if count is not None and reused:
                count.reused += len(reused.at)
            part = self.workspace.parts / f"{key}.parquet"
            yield TileTask(
                root=str(self.workspace.root),
                listed=tuple(listed),
                options=self.options.tiles,
                part=part,
                marker=part.with_suffix(".at"),
                time_limit_s=self.options.time_limit_s,
                reused=reused,
            )

    def _merge(self, parts: Iterable[Path], listing: Listing, progress: TaskProgress) -> None:
        """Write the issues and then the table; `listing` is complete only when all parts were
        seen.
        """

        def rows() -> Iterator[pa.Table]:
            for part in parts:
                for batch in read_part(part):
                    yield batch
                    progress.add(batch.num_rows)

        def digest_of_all() -> dict[str, Any]:
            self._write_issues(listing)
            return {"listing_digest": listing.digest}

        tables.write_table(
            self.workspace.tiles,
            rows(),
            SCHEMA,
            kind=KIND,
            schema_version=SCHEMA_VERSION,
            metadata=self._header(),
            late_metadata=digest_of_all,
        )

    def _write_issues(self, listing: Listing) -> None:
        columns = zip(*listing.issues, strict=True) if listing.issues else ((), (), ())
        issues = pa.table(
            [pa.array(map(str, column), pa.string()) for column in columns], schema=ISSUES_SCHEMA
        )
        path, noted = self.workspace.listing_issues, {"listing_digest": listing.digest}
        tables.write_table(
            path,
            [issues],
            ISSUES_SCHEMA,
            kind=ISSUES_KIND,
            schema_version=ISSUES_VERSION,
            metadata=noted,
        )

    def _note_options(self) -> None:
        """Leave the options for `collect`, and refuse to mix parts made with others."""
        job = _parts_job(self.workspace)
        mine = self.options.identity() | {"partition_tiles": self.options.partition_tiles}
        noted = job.read_request()
        job.refuse_other_request(noted, mine, hint=f"use the same options, or delete {job.path}")
        if noted is None:
            publish_json(job.path, job.request_name, mine)

    def _refuse_missing(self) -> None:
        done = [task.is_done() for task in self._tasks(Listing())]
        missing = [index for index, is_done in enumerate(done) if not is_done]
        if missing:
            raise IncompleteError(
                f"{len(missing)} of {len(done)} partitions are not done",
                path=self.workspace.parts,
                seen=f"partitions {first_of(missing)} missing",
                hint=(
                    "of n jobs, job i makes partitions i-1, i-1+n, ...: run the missing ones again"
                    " with --part i/n"
                ),
            )

    def _result(
        self,
        listing: Listing,
        num_reused: int,
        *,
        up_to_date: bool = False,
        warning: str | None = None,
    ) -> TableResult:
        return TableResult(
            self.workspace.tiles,
            listing.num_tiles,
            num_reused,
            up_to_date,
            listing.num_found,
            warning,
            self.understood,
        )

    def _drop_parts(self) -> None:
        """Delete the parts; the note of array jobs last, because it says that there may be some."""
        try:
            remove_temporaries(self.workspace.parts)
            for pattern in ("*.parquet", "*.at", CHECKSUMS, _PARTS_OPTIONS):
                for part in self.workspace.parts.glob(pattern):
                    part.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError.from_os_error(
                error, error.filename or self.workspace.parts
            ) from error


def ensure_tiles(
    workspace: Workspace,
    scan_options: ScanOptions | None = None,
    *,
    workers: int | None = None,
    phases: Phases = silent_phases,
    warn: Callable[[str], object] = lambda text: None,
    note: Callable[[str], object] = lambda text: None,
    reading: Reading = UNDECIDED,
    verify: bool = False,
    least_max_pixels: int = 0,
) -> Path:
    """Return the path of an up-to-date tiles.parquet; only new and changed files are read.

    Args:
        workspace: Workspace of the data set.
        scan_options: How to scan; None for the options of the last audit.
        workers: Number of worker processes; None for one per core.
        phases: Called as `TileTable.build` says.
        warn: Called with a message when the earlier table cannot be used.
        note: Called with how the data set is read, where that was found out.
        reading: Adds to what was decided about masks that readers understand in two ways.
        verify: Read every file, not only those that changed.
        least_max_pixels: Images of up to so many pixels are read, if the options say less.

    Raises:
        UsageError: The options make no sense.
        IntegrityError: The options of the last audit are lost.
        OutputError: The workspace cannot be written.
        LockedError: Another process writes into the workspace.
    """
    earlier = earlier_options(workspace)
    decided = earlier.tiles.mask_reading.updated(reading)
    options = TableOptions(scan=scan_options, tiles=TileOptions()) if scan_options else earlier
    max_pixels = max(options.tiles.max_pixels, least_max_pixels)
    tiles = replace(options.tiles.with_reading(decided), max_pixels=max_pixels)
    options = replace(options, tiles=tiles)
    with locked(workspace.folder):
        table = TileTable(workspace, options)
        if verify:
            table.options = replace(table.options, reuse=False)
        result = table.build(Engine(workers or 0, spares_few=workers is None), phases)
    if result.warning:
        warn(result.warning)
    if result.understood:
        note(result.understood)
    return result.path


def unlisted_folders(workspace: Workspace) -> list[tuple[str, str]]:
    """Return path and reason of each folder that could not be listed, so that none of its tiles is
    in the table.
    """
    return [
        (issue["path"], issue["detail"])
        for issue in read_issues(workspace).to_pylist()
        if issue["kind"] == IssueKind.UNREADABLE
    ]


def broken_links(workspace: Workspace) -> list[tuple[str, str]]:
    """Return path and target, in words, of each link of the data set that leads to nothing."""
    return [
        (issue["path"], issue["detail"])
        for issue in read_issues(workspace).to_pylist()
        if issue["kind"] == IssueKind.BROKEN_LINK
    ]


def _parts_job(workspace: Workspace) -> JobFolder:
    """Return the folder of parts as one that the jobs of an array fill; its request are their
    options.
    """
    remake = f"delete {workspace.parts}, and run the jobs again"
    return JobFolder(workspace.parts, _PARTS_OPTIONS, "histoprep audit --part i/n", "parts", remake)


def _nothing_to_collect(workspace: Workspace) -> UsageError:
    return UsageError(
        "there are no parts to collect",
        path=workspace.parts,
        hint="make them first: histoprep audit --part i/n",
    )
