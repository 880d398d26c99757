"""A data set -> a corrected copy of it as a tree: links where nothing changes, and a ledger with a
row a file.

The tree has every file of the data set at its place, but for extensions that changed, and beside
them `fix.json`, `ledger.parquet` and, last of all, `_SUCCESS.json`. It is a tree of new files
(`mask_tree`): a stopped run resumes, and the bytes do not depend on workers, partitions or
interruptions. Before it is sealed, the new tree is listed as the data set was: tiles, groups,
splits and labels must be the same. The data set is only read.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from histoprep import mask_tree, rule_ids
from histoprep.errors import BrokenFileError
from histoprep.execution import Engine, run_tasks
from histoprep.execution.marker import Marker
from histoprep.fixing.check import CheckedNames
from histoprep.fixing.fixer import FileRow, Fixer
from histoprep.fixing.names_in_tables import Renamed
from histoprep.fixing.plan import FixPlan
from histoprep.fixing.result import FixCounts, FixResult
from histoprep.fixing.tables import try_tables, with_tables
from histoprep.key_index import KeyIndex, hash_names
from histoprep.links import HARD_LINK
from histoprep.mask_tree.files import count_stale
from histoprep.mask_tree.task import FAILED, WRITTEN, TreeTask, beside
from histoprep.progress import Advance, TaskProgress, silent
from histoprep.read_ahead import FileStat, Request, read_ahead
from histoprep.schemas.ledgers import FIX
from histoprep.tiles.table import renew_states


def run_fix(plan: FixPlan, engine: Engine | None = None, advance: Advance = silent) -> FixResult:
    """Write the tree that was planned and return what came of it; a stopped run resumes.

    Args:
        plan: What `plan_fix` returned.
        engine: Where the work runs; None for worker processes.
        advance: Called with the number of files done and of all files.

    Raises:
        OutputError: The folder cannot be written.
        LockedError: Another process writes there.
        IntegrityError: Files were changed since they were written, or the new tree has other tiles
            than the data set.
    """
    counts = FixCounts()

    def observer() -> Callable[[pa.Table], None]:
        nonlocal counts
        counts = FixCounts()
        return counts.add

    with mask_tree.locked(plan):
        totals = mask_tree.finished(plan, observer())
        if totals is None:
            mask_tree.begin(plan)
            progress = TaskProgress(advance, plan.num_masks)
            work = run_tasks(plan.tasks(), engine or Engine(), progress.under_way)
            with contextlib.closing(work) as parts:
                names = CheckedNames(plan)
                rows = names.watch(with_tables(plan, parts))
                totals = mask_tree.finish(plan, rows, observer(), progress, names.compare)
            if counts.how[HARD_LINK] and plan.options.begun_ns:
                renew_states(plan.workspace, names.is_trusted)
    rest = totals.num_stale_removed, totals.unexpected, totals.up_to_date
    return FixResult(plan.out, counts, *rest)


@dataclass(frozen=True, slots=True)
class _Trial:
    """One partition of a trial run: what would be done, and no file is written."""

    root: str
    rows: tuple[FileRow, ...]
    fixer: Fixer
    max_file_bytes: int
    marker: Path
    time_limit_s: float
    left_out: tuple[tuple[int, str], ...] = ()

    def run(self) -> list[dict[str, Any]]:
        """Return the rows of the ledger, as far as they are counted."""
        with contextlib.closing(Marker(self.marker, self.time_limit_s)) as marker:
            return list(self._rows(marker))

    def num_done(self, index: int | None) -> int:
        """Return how many files are done at item `index`; all of them for None."""
        return len(self.rows) if index is None else index

    def without(self, index: int, reason: str) -> _Trial:
        """Return the trial that leaves out item `index`."""
        return replace(self, left_out=(*self.left_out, (index, reason)))

    def _rows(self, marker: Marker) -> Iterator[dict[str, Any]]:
        failures = dict(self.left_out)
        read = [row for index, row in enumerate(self.rows) if index not in failures]
        contents = read_ahead(
            [
                Request(beside(self.root, row.file), FileStat(row.num_bytes, row.mtime_ns))
                for row in read
                if not row.is_kept
            ],
            self.max_file_bytes,
        )
        for index, row in enumerate(self.rows):
            marker.at(index)
            if index in failures:
                yield _failed(row, rule_ids.UNREADABLE_FILE.verdict("worker-died"), failures[index])
                continue
            data = None if row.is_kept else next(contents)
            if isinstance(data, BrokenFileError):
                yield _failed(row, data.verdict, data.detail)
                continue
            new = self.fixer.fix(data, "", row)
            how = {"how": "", "changed_names": 0, "reason": None}
            yield {"path": row.path, "output_path": new.output, "status": WRITTEN} | how | new.facts


def _failed(row: FileRow, verdict: str, detail: str) -> dict[str, Any]:
    return {
        "path": row.path,
        "operations": (),
        "left": row.left,
        "status": FAILED,
        "reason": f"{verdict}: {detail}",
    }


def try_fix(plan: FixPlan, engine: Engine | None = None, advance: Advance = silent) -> FixCounts:
    """Return what a run would do, from the files themselves; nothing is written into the tree."""
    counts, files = FixCounts(), list[Renamed]()
    with tempfile.TemporaryDirectory(prefix="histoprep-fix-") as folder:

        def trials() -> Iterator[_Trial]:
            for number, task in enumerate(plan.tasks()):
                yield _trial_of(task, plan.fixer, Path(folder) / f"{number}.at")

        progress = TaskProgress(advance, plan.num_masks)
        work = run_tasks(trials(), engine or Engine(), progress.under_way)
        with contextlib.closing(work) as done:
            for rows in done:
                for row in rows:
                    counts.add_row(row)
                    if row["status"] == WRITTEN:
                        files.append(Renamed(row["role"], row["path"], row["output_path"]))
                progress.add(len(rows))
    written = [file.after for file in files]
    for row in try_tables(plan, files):
        counts.add_row(row)
        written += [row["output_path"]] if row["status"] == WRITTEN else []
    counts.num_stale = count_stale(plan.out, KeyIndex(hash_names(written)), FIX)
    return counts


def _trial_of(task: TreeTask, fixer: Fixer, marker: Path) -> _Trial:
    limits = task.max_file_bytes, marker, task.time_limit_s
    return _Trial(task.root, task.rows, fixer, *limits)
