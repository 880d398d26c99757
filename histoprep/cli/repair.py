"""`histoprep repair`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from histoprep.choices import EngineName
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
from histoprep.errors import ExitCode
from histoprep.phrases import NUM_SHOWN, plural
from histoprep.schemas.workspace import Workspace

if TYPE_CHECKING:
    from histoprep.repairing import RepairPlan, RepairResult


def repair(
    root: Root = Path(),
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder of the repaired masks.", show_default="WORKSPACE/repaired"
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            metavar="RULE",
            help="Repair only masks with this finding, HP403 or HP404; repeatable.",
            show_default=False,
        ),
    ] = None,
    min_confidence: Annotated[
        float, typer.Option(help="Leave masks alone whose repair has a lower confidence, 0 to 1.")
    ] = 0.2,
    unclear: Annotated[
        bool,
        typer.Option(
            "--unclear",
            help="Also repair masks of these slides or folders that cannot be judged alone, where"
            " the JPEG quality of the others shows their damage.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print what would be done; with --diff, also write a preview."
        ),
    ] = False,
    diff: Annotated[
        bool,
        typer.Option(
            "--diff",
            help="Draw every mask before and after the repair, not only those that changed most.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace masks that were repaired with other options, or changed since."
        ),
    ] = False,
    verify: Verify = False,
    workspace: WorkspaceFolder = None,
    workers: Workers = None,
    engine: EngineOption = EngineName.LOCAL,
    scheduler: DaskScheduler = None,
) -> None:
    """Repair masks that were saved as JPEG or resized with interpolation (HP403, HP404), into a
    tree of their own.

    The data set is only read. Only damaged masks are copied; later commands use the repaired copies
    automatically. Interrupted runs resume.

    A slide or folder may hold masks whose boundaries are too short to judge. They stay as they are;
    look at them with --unclear --dry-run --diff before you repair them with --unclear.

    Exit codes: 0 all masks are repaired; 2 wrong usage; 3 some masks could not be repaired or some
    folders could not be read (listed in the output).

    Examples:
        histoprep repair tiles --dry-run --diff
        histoprep repair tiles --min-confidence 0.5
        histoprep repair tiles --unclear --dry-run --diff
    """
    from histoprep.repairing import RULES, RepairOptions, plan_repair, run_repair
    from histoprep.repairing.contact_sheets import write_preview, write_sheets

    where = Workspace.of(root, workspace)
    chosen = engine_of(engine, scheduler, workers)
    seen = read_tiles(where, workers=workers, verify=verify and not force)
    rules = tuple(code.upper() for code in separated(rule)) or RULES
    plan = plan_repair(
        where,
        RepairOptions(
            out or where.folder / "repaired", rules, min_confidence, force, verify, unclear
        ),
    )
    _print_plan(plan)
    if dry_run:
        for path in write_preview(plan) if diff else ():
            console.note(f"preview: {path}")
        console.out(
            f"{plan.num_masks - plan.num_refused:,} masks would be repaired,"
            f" {plan.num_refused:,} cannot be | nothing was written"
        )
        raise typer.Exit(ExitCode.INCOMPLETE if plan.num_refused else seen)
    if not plan.masks:
        console.out("0 masks to repair: no source is lossy or interpolated")
        raise typer.Exit(seen)
    with progress_of("repairing", "masks") as advance:
        result = run_repair(plan, chosen, advance)
    for path in write_sheets(plan, every_mask=diff)[:1]:
        console.note(f"before and after: {path}")
    _print(result)
    if where.manifest.exists() and not result.up_to_date:
        console.note(
            f"{where.manifest} is older than the repaired masks: run histoprep manifest"
            " again, then shard"
        )
    console.next_steps(("histoprep", "manifest", root))
    is_left = result.num_left > result.num_not_shown
    raise typer.Exit(ExitCode.INCOMPLETE if is_left else seen)


def _print_plan(plan: RepairPlan) -> None:
    hopeless = Counter(mask.source for mask in plan.masks if mask.failure)
    rows = [
        (
            finding.source,
            finding.code,
            finding.verdict.kind.value,
            str(finding.verdict.quality or ""),
            f"{len(finding.paths):,}",
            f"{finding.num_unclear:,}",
            f"{hopeless[finding.source]:,}",
        )
        for finding in plan.sources
    ]
    if rows:
        console.table(
            ("source", "rule", "cause", "quality", "masks", "unclear", "cannot be repaired"),
            rows,
            title="Lossy and interpolated masks",
        )
    if plan.num_unclear and not plan.options.unclear:
        console.note(
            f"{plural(plan.num_unclear, 'more mask')} of these cannot be judged alone and"
            f" {'stays' if plan.num_unclear == 1 else 'stay'} as"
            f" {'it is' if plan.num_unclear == 1 else 'they are'}; look at them with --unclear"
            " --dry-run --diff"
        )


def _print(result: RepairResult) -> None:
    failed = [f"not repaired: {mask.path}: {mask.reason}" for mask in result.failed]
    console.warn_each(failed, total=result.num_left, rest=f"all are in {result.ledger}")
    for name in result.unexpected:
        console.warn(f"not written by repair, left alone: {result.out / name}")
    if result.num_stale_removed:
        console.note(f"removed {result.num_stale_removed:,} masks of an earlier run")
    if result.up_to_date:
        console.note("nothing had changed")
    if result.num_unclear:
        console.note(f"{result.num_unclear:,} of the repaired masks are in no finding (--unclear)")
    if result.num_not_shown:
        masks = plural(result.num_not_shown, "unclear mask")
        console.note(f"{masks} without a trace of the damage: left as it is, copied nowhere")
    gone = [
        f"label {label} went from {plural(masks, 'mask')}, where JPEG or a ramp made it"
        for label, masks in result.vanished.items()
    ]
    for line in gone[:NUM_SHOWN]:
        console.note(line)
    if len(gone) > NUM_SHOWN:
        console.note(f"and {len(gone) - NUM_SHOWN:,} more labels; {result.ledger} has each mask")
    console.out(
        f"{result.num_repaired:,} masks repaired, {result.num_left:,} not;"
        f" {result.changed_pixels:,} pixels changed | {result.out}"
    )
