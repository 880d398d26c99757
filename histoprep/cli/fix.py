"""`histoprep fix`."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from histoprep.choices import EngineName, LinkKind
from histoprep.cli.options import (
    DaskScheduler,
    EngineOption,
    Root,
    Verify,
    Workers,
    WorkspaceFolder,
    engine_of,
    progress_of,
    separated,
)
from histoprep.cli.reading import read_tiles
from histoprep.errors import ExitCode, UsageError
from histoprep.names import to_name
from histoprep.phrases import plural
from histoprep.schemas.workspace import Workspace

if TYPE_CHECKING:
    from histoprep.fixing import FixCounts, FixPlan, FixResult

_CHOICE = "What is done"
_NUM_SHOWN = 10


def fix(
    root: Root = Path(),
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the new tree.", show_default=False),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAMES",
            help="Do these operations alone, by name or by the code of a finding.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="NAMES",
            help="Do these besides those done by default; with a value: orientation=drop.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="NAMES",
            help="Leave these out.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    specks: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="PIXELS",
            help="Give regions of masks under this area to their surroundings: specks=PIXELS.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    link: Annotated[
        LinkKind,
        typer.Option(
            help=(
                "How files that do not change come into the tree; where hard links are impossible,"
                " links are symbolic."
            )
        ),
    ] = LinkKind.HARD,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be done and write nothing."),
    ] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="Print the operations and which are done by default.")
    ] = False,
    verify: Verify = False,
    workspace: WorkspaceFolder = None,
    workers: Workers = None,
    engine: EngineOption = EngineName.LOCAL,
    scheduler: DaskScheduler = None,
) -> None:
    """Make a corrected copy of a data set: every file in its place, linked where nothing changes.

    The data set is only read. Without --only, operations that are exact and need no choice are
    done: --list prints them. Names of renamed files are changed in tables of the data set. Tiles,
    groups, splits and labels are compared before the tree is finished. Interrupted runs resume.

    Exit codes: 0 done; 2 wrong usage; 3 some files could not be read (listed in the output); 6
    files of the tree were changed since, or its tiles would be other ones.

    Examples:
        histoprep fix tiles --out tiles-fixed --dry-run
        histoprep fix tiles --out tiles-fixed --specks 64 --without metadata
        histoprep fix tiles --out tiles-fixed --only HP203,HP207
    """
    from histoprep.fixing import FixOptions, choose_operations, plan_fix, run_fix, try_fix

    if show_list:
        _print_operations()
        return
    if out is None:
        raise UsageError(
            "--out is missing: the corrected copy needs a folder",
            hint=f"histoprep fix {shlex.quote(str(root))} --out"
            f" {shlex.quote(f'{root.resolve()}-fixed')} --dry-run",
        )
    further = [*separated(also), *([f"specks={specks}"] if specks is not None else [])]
    operations = choose_operations(separated(only), further, separated(without))
    where = Workspace.of(root, workspace)
    chosen = engine_of(engine, scheduler, workers)
    begun_ns = time.time_ns()
    seen = read_tiles(where, workers=workers, verify=verify)
    plan = plan_fix(where, FixOptions(out, operations, link, verify, begun_ns=begun_ns))
    with progress_of("trying" if dry_run else "fixing", "files") as advance:
        if dry_run:
            counts = try_fix(plan, chosen, advance)
        else:
            result = run_fix(plan, chosen, advance)
            counts = result.counts
    _print_counts(plan, counts, "would be changed" if dry_run else "changed")
    if dry_run:
        if counts.num_stale:
            console.note(f"{plural(counts.num_stale, 'file')} of an earlier run would be removed")
        console.out(f"{counts.num_files:,} files would be in {plan.out} | nothing was written")
    else:
        _print_result(plan, result)
    raise typer.Exit(ExitCode.INCOMPLETE if counts.num_failed else seen)


def _print_operations() -> None:
    from histoprep.fixing import OPERATIONS

    rows = [
        (
            f"{operation.name}={operation.value}" if operation.value else operation.name,
            ", ".join(operation.codes),
            "yes" if operation.is_default else "no",
            operation.does,
        )
        for operation in OPERATIONS
    ]
    console.table(("operation", "findings", "by default", "files are"), rows)


def _print_counts(plan: FixPlan, counts: FixCounts, changed: str) -> None:
    from histoprep.fixing import OPERATIONS

    rows = [
        (
            operation.name,
            counts.done[operation.name],
            operation.does,
            ", ".join(counts.examples.get(operation.name, [])),
        )
        for operation in OPERATIONS
        if operation.name in plan.options.operations
    ]
    console.table(("operation", "files", "they are", "such as"), rows)
    left = [
        f"left as before: {plural(number, 'file')}, such as {counts.left_examples[reason]}:"
        f" {reason}"
        for reason, number in counts.left.items()
    ]
    console.warn_each(left[:_NUM_SHOWN], total=len(left), rest="the ledger has all, column left")
    failed = [f"not in the tree: {path}: {reason}" for path, reason in counts.failed]
    console.warn_each(failed, total=counts.num_failed, rest="the ledger has all")
    for path, number in counts.changed_names.items():
        console.note(f"{path}: {plural(number, 'name')} of renamed files {changed}")
    if counts.num_other_labels and (csv := _declaring_table(plan)) is not None:
        masks = plural(counts.num_other_labels, "mask")
        console.warn(f"{masks} with other labels than before: {csv} may declare the old ones")
    if plan.left_out:
        console.warn(
            f"not in the tree: {plural(len(plan.left_out), 'link or special file')} of no tile,"
            f" such as {plan.left_out[0]}"
        )
    outside = [folder for folder in plan.table.scan.unlabelled if not _is_inside(plan, folder)]
    for folder in outside:
        console.note(f"{folder} lies outside of the data set and stays as it is")


def _declaring_table(plan: FixPlan) -> Path | None:
    """Return the table that may declare labels of tiles."""
    from histoprep.scanning.dataset_csv import FILE_NAME

    named = plan.table.scan.csv or plan.workspace.root / FILE_NAME
    return named if named.is_file() else None


def _is_inside(plan: FixPlan, folder: Path) -> bool:
    return folder.resolve().is_relative_to(plan.workspace.root)


def _print_result(plan: FixPlan, result: FixResult) -> None:
    counts = result.counts
    for name in result.unexpected:
        console.warn(f"not written by fix, left alone: {result.out / to_name(name)}")
    if result.num_stale_removed:
        console.note(f"removed {plural(result.num_stale_removed, 'file')} of an earlier run")
    if result.up_to_date:
        console.note("nothing had changed")
    how = ", ".join(f"{number:,} {word}" for word, number in sorted(counts.how.items()))
    console.out(f"{counts.num_files - counts.num_failed:,} files ({how}) | {result.out}")
    console.next_steps(next_audit(plan, counts))


def next_audit(plan: FixPlan, counts: FixCounts) -> tuple[str | Path, ...]:
    """Return the command that audits the tree as the data set was audited."""
    from histoprep.fixing import options_there
    from histoprep.links import SYMBOLIC_LINK
    from histoprep.scanning.commands import scan_words

    has_links = bool(counts.how[SYMBOLIC_LINK])
    options = options_there(plan, plan.requested, counts.copied_tables, has_links=has_links)
    reading = plan.table.tiles.mask_reading.describe().split()
    return ("histoprep", "audit", plan.out, *scan_words(options), *reading)
