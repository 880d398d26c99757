"""A tree of new files that survives anything: parts, a ledger of what became of each file, a seal.

What `remap`, `repair` and `fix` have in common. Partitions of the files become ledger parts, each
written after its files were synced, so that a stopped run resumes. The tree has the relative paths
of the files (of masks with the suffix `.png`, unless the maker says otherwise), and beside them
what was requested (`<kind>.json`), `ledger.parquet` and, last of all, `_SUCCESS.json`. Its bytes do
not depend on workers, partitions or interruptions. What a file becomes is the `Maker`'s business.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from histoprep import checksums, durable, tables
from histoprep.digests import file_digest, hash_text
from histoprep.errors import IntegrityError, UsageError
from histoprep.execution import Engine, run_tasks
from histoprep.job_folder import JobFolder, output_errors, own_names
from histoprep.key_index import KeyIndex
from histoprep.mask_tree.files import count_files, remove_stale
from histoprep.mask_tree.task import REFUSED, TreeTask
from histoprep.progress import Advance, TaskProgress, silent
from histoprep.read_ahead import FileStat, stat_file
from histoprep.schemas.ledgers import LEDGER, TreeKind, ledger_files, open_ledger
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace, check_outside
from histoprep.version import __version__

NUM_SHOWN = 10
_NUM_FAILED_KEPT = 1000


class FailedMask(NamedTuple):
    """A mask that no new one was written for, and why."""

    path: str
    reason: str


class TreePlan(Protocol):
    """Everything decided before the first file is written."""

    @property
    def kind(self) -> TreeKind:
        """Return the kind of tree."""

    @property
    def workspace(self) -> Workspace:
        """Return the workspace of the data set."""

    @property
    def out(self) -> Path:
        """Return the absolute folder of the new tree."""

    @property
    def job(self) -> JobFolder:
        """Return that folder as one that a job fills."""

    @property
    def request(self) -> dict[str, Any]:
        """Return what was asked for, as JSON values; it stands in the tree."""

    @property
    def rewrites(self) -> bool:
        """Return whether files that were changed since they were written are written again; else
        they are an error.
        """

    @property
    def verifies(self) -> bool:
        """Return whether all files that are there are read again."""

    @property
    def num_masks(self) -> int:
        """Return how many masks there are."""

    @property
    def num_refused(self) -> int:
        """Return how many of them are known to give no new mask."""

    @property
    def tiles_stat(self) -> FileStat | None:
        """Return size and time of the tiles table that the plan was made from."""

    def tasks(self) -> Iterator[TreeTask]:
        """Yield the partitions in order of the tiles table."""

    def seal_facts(self) -> dict[str, Any]:
        """Return what the seal says besides counts: digests of everything the masks depend on."""

    def refuse_other_request(self) -> None:
        """Raise UsageError when the folder holds a tree that was made otherwise and may not be
        replaced.
        """

    def write_notes(self) -> None:
        """Write further files of this kind beside the request."""


@dataclass(slots=True)
class Totals:
    """Sums over a ledger, and the hashes of the names it promises; `observe` is shown every batch
    of it.

    `failures` are masks without a new one, `refusals` those of them that would be refused again.
    """

    observe: Callable[[pa.Table], None]
    written: int = 0
    failures: int = 0
    refusals: int = 0
    first_failed: list[FailedMask] = field(default_factory=list)
    names: array[int] = field(default_factory=lambda: array("Q"))
    num_stale_removed: int = 0
    unexpected: tuple[str, ...] = ()
    up_to_date: bool = False

    def add(self, ledger: pa.Table) -> None:
        """Count one batch of the ledger."""
        self.observe(ledger)
        columns = (
            ledger[name].to_pylist()
            for name in (ledger.column_names[0], "output_path", "reason", "status")
        )
        for mask, output, reason, status in zip(*columns, strict=True):
            if output is not None:
                self.names.append(hash_text(output))
                self.written += 1
                continue
            self.failures += 1
            self.refusals += status == REFUSED
            if len(self.first_failed) < _NUM_FAILED_KEPT:
                self.first_failed.append(FailedMask(mask, reason))


def run_tree(
    plan: TreePlan,
    observer: Callable[[], Callable[[pa.Table], None]],
    engine: Engine | None = None,
    advance: Advance = silent,
) -> Totals:
    """Do what was planned and return what came of it; `observer` makes what is shown the ledger.

    Goes on from a stopped run, and does nothing when all is there already. Raises OutputError,
    LockedError, IntegrityError when written files are gone at the end.
    """
    with locked(plan):
        done = finished(plan, observer())
        if done is not None:
            return done
        begin(plan)
        progress = TaskProgress(advance, plan.num_masks)
        work = run_tasks(plan.tasks(), engine or Engine(), progress.under_way)
        with contextlib.closing(work) as parts:
            return finish(plan, parts, observer(), progress)


def run_tree_part(
    plan: TreePlan, number: int, count: int, engine: Engine | None = None, advance: Advance = silent
) -> int:
    """Make every partition whose index is `number` - 1 modulo `count`, and return how many.

    Takes no lock: many of these run at once, on many machines.
    """
    if finished(plan, lambda _: None) is not None:
        return 0
    begin(plan)
    done = 0
    with contextlib.closing(
        run_tasks(itertools.islice(plan.tasks(), number - 1, None, count), engine or Engine())
    ) as parts:
        for _ in parts:
            done += 1
            advance(done, 0)
    return done


@contextlib.contextmanager
def locked(plan: TreePlan) -> Iterator[None]:
    """Hold the workspace and the tree; raises LockedError."""
    with contextlib.ExitStack() as locks:
        locks.enter_context(durable.locked(plan.workspace.folder))
        if not plan.out.is_relative_to(plan.workspace.folder):
            locks.enter_context(durable.locked(plan.out))
        yield


def finished(plan: TreePlan, observe: Callable[[pa.Table], None]) -> Totals | None:
    """Return the totals of an earlier run if it was this one, is whole, and nothing is left to try
    again.

    Raises IntegrityError for files that were changed since they were written, unless the plan is to
    write them again.
    """
    if stat_file(str(plan.workspace.tiles)) != plan.tiles_stat:
        raise IntegrityError(
            "the tiles table changed meanwhile",
            path=plan.workspace.tiles,
            hint="run the same command again",
        )
    try:
        return _finished(plan, observe)
    except IntegrityError:
        if not plan.rewrites:
            raise
        return None


def _finished(plan: TreePlan, observe: Callable[[pa.Table], None]) -> Totals | None:
    seal = plan.job.read_seal()
    if seal is None or seal != _seal(
        plan, seal.get("written", -1), plan.num_refused, seal.get("refused", 0)
    ):
        return None
    if plan.job.read_request() != plan.request:
        return None
    totals = Totals(observe)
    try:
        for batch in tables.read_batches(
            open_ledger(plan.out / LEDGER, plan.kind.ledger, plan.kind)
        ):
            totals.add(batch)
    except (IntegrityError, FileNotFoundError):
        return None
    notes = (name for name in checksums.read_checksums(plan.out) if "/" not in name)
    expected = ledger_files(plan.out, plan.kind)
    if not plan.job.is_whole(expected, notes=notes, own=plan.kind.notes, verifies=plan.verifies):
        return None
    totals.up_to_date = True
    return totals


def _seal(plan: TreePlan, written: int, failed: int, refused: int) -> dict[str, Any]:
    ledger = plan.out / LEDGER
    counts = {"written": written, "failed": failed} | ({"refused": refused} if refused else {})
    return (
        plan.seal_facts()
        | counts
        | {
            "schema_version": plan.kind.schema_version,
            "tool_version": __version__,
            "ledger_digest": file_digest(ledger) if ledger.exists() else None,
        }
    )


def begin(plan: TreePlan) -> None:
    """Take the seal off the tree and note what is being made."""
    job = plan.job
    job.refuse_foreign_files()
    if plan.rewrites:
        # Perhaps damaged, and everything that it lists is written again.
        with output_errors(plan.out):
            (plan.out / checksums.CHECKSUMS).unlink(missing_ok=True)
    plan.refuse_other_request()
    job.begin(plan.request, unsealed=(LEDGER,))
    plan.write_notes()


def _names_of_notes(plan: TreePlan) -> frozenset[str]:
    return own_names(plan.job, (LEDGER, *plan.kind.notes))


def finish(
    plan: TreePlan,
    parts: Iterable[Path],
    observe: Callable[[pa.Table], None],
    progress: TaskProgress,
    check: Callable[[Sequence[str]], None] = lambda unexpected: None,
) -> Totals:
    """Join the parts of the ledger, clean up, count the files, and seal the tree.

    Args:
        plan: The plan of the tree.
        parts: Parts of the ledger, in order, as they are done.
        observe: Is shown every batch of the ledger.
        progress: Is shown what is done.
        check: Called when files of earlier runs are gone, before the tree is sealed, with the first
            files that are not of the ledger; what it raises leaves the tree unfinished.
    """
    totals, used, kind = Totals(observe), set[Path](), plan.kind
    joined = plan.job.parts / LEDGER

    def batches() -> Iterator[pa.Table]:
        for part in parts:
            used.add(part)
            for batch in tables.read_batches(open_ledger(part, kind.part, kind)):
                totals.add(batch)
                yield batch
            progress.add(totals.written + totals.failures - progress.finished)

    tables.write_table(
        joined,
        batches(),
        kind.ledger_schema,
        kind=kind.ledger,
        schema_version=kind.schema_version,
        metadata=plan.request,
    )
    written = KeyIndex(np.array(totals.names, np.uint64))
    earlier = [
        path
        for path in plan.job.parts.glob("*.parquet")
        if path not in used and path.name != LEDGER
    ]
    with output_errors(plan.out):
        totals.num_stale_removed = remove_stale(
            plan.out,
            written,
            [(plan.out / LEDGER, kind.ledger), *((path, kind.part) for path in earlier)],
            kind,
        )
        durable.remove_temporaries(plan.out)
        totals.unexpected = count_files(plan.out, written, _names_of_notes(plan))
    check(totals.unexpected)
    with output_errors(plan.out):
        # Only now: the earlier ledger was needed to know which files were ours.
        os.replace(joined, plan.out / LEDGER)
        durable.sync_file_system(plan.out)
        checksums.remember_files(plan.out, ledger_files(plan.out, kind))
    plan.job.seal(_seal(plan, totals.written, totals.failures - totals.refusals, totals.refusals))
    return totals


def complete_table(path: Path) -> dict[str, Any]:
    """Return the header of a tiles table of all tiles; raises UsageError when there is none, or one
    of a few.
    """
    try:
        _, header = open_tiles_table(path)
    except FileNotFoundError:
        raise UsageError("there is no tiles table yet", path=path, hint="histoprep audit") from None
    if header["options"]["sample"] is not None or header["options"]["tiles"]["headers_only"]:
        raise UsageError(
            "the tiles table was made by a quick or sampling audit",
            path=path,
            expected="a table of all tiles",
            hint="histoprep audit",
        )
    return header


def usable_out(
    workspace: Workspace, chosen: Path, unlabelled: list[str], what: str = "new masks"
) -> Path:
    """Return the absolute folder of the new tree; raises UsageError where it would touch the data
    or other results. `what` is what it holds, for messages.
    """
    out = chosen.absolute()
    real = out.resolve()
    data = (workspace.root, *(Path(folder).resolve() for folder in unlabelled))
    check_outside(out, data, what)
    for folder in (*data, workspace.folder.resolve()):
        if folder.is_relative_to(real):
            raise UsageError(
                f"{what} need a folder of their own",
                path=out,
                seen=f"it holds {folder}",
                hint="name a new folder with --out",
            )
    if out.exists() and not out.is_dir():
        raise UsageError(f"{what} need a folder", path=out, seen="a file of that name")
    return out
