"""`histoprep audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from histoprep.cli.options import (
    DaskScheduler,
    EngineName,
    FormatName,
    Layout,
    MapName,
    Part,
    Root,
    Workers,
    WorkspaceFolder,
    engine_of,
    parse_part,
    progress_of,
)
from histoprep.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from histoprep.findings import Severity


def audit(
    root: Root = Path(),
    map_name: MapName = None,
    workspace: WorkspaceFolder = None,
    layout: Annotated[Layout, typer.Option(help="How images and masks lie beside each other.", rich_help_panel="What is read")] = Layout.AUTO,
    mask_suffix: Annotated[str, typer.Option(help="What a mask's name ends with, before its extension.", rich_help_panel="What is read")] = "_mask",
    images: Annotated[str | None, typer.Option(help="Folder of the images.", show_default="images, tiles, ...", rich_help_panel="What is read")] = None,
    masks: Annotated[str | None, typer.Option(help="Folder of the masks.", show_default="masks, labels, ...", rich_help_panel="What is read")] = None,
    unlabelled: Annotated[list[Path] | None, typer.Option(help="Further folder of images without masks; repeatable.", rich_help_panel="What is read")] = None,
    csv: Annotated[Path | None, typer.Option(help="Table of images and labels.", show_default="ROOT/dataset.csv", rich_help_panel="What is read")] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Slide, case or patient of a tile: a regular expression, `folder`, or `csv:COLUMN`.", rich_help_panel="What is read")
    ] = None,
    label_by: Annotated[str | None, typer.Option(help="Image-level class of a tile, in the same ways.", rich_help_panel="What is read")] = None,
    min_area: Annotated[int, typer.Option(min=1, help="Regions with fewer pixels are specks.", rich_help_panel="What is read")] = 64,
    tile_size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT that images must have.", show_default="most common", rich_help_panel="What is read")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger pictures are refused by their header.", rich_help_panel="What is read")] = 64_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="Names and headers only; results go to WORKSPACE/quick.", rich_help_panel="What is read")] = False,
    sample: Annotated[int | None, typer.Option(min=1, help="Look at this many tiles; results go to WORKSPACE/sample.", rich_help_panel="What is read")] = None,
    no_reuse: Annotated[bool, typer.Option("--no-reuse", help="Read every file again.", rich_help_panel="What is read")] = False,
    select: Annotated[list[str] | None, typer.Option(help="Codes, prefixes or rule names to look for; repeatable.", rich_help_panel="What counts")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Codes, prefixes or rule names to leave out.", rich_help_panel="What counts")] = None,
    severity: Annotated[list[str] | None, typer.Option(help="CODE=error|warning|info.", rich_help_panel="What counts")] = None,
    expect: Annotated[Path | None, typer.Option(help="File with the counts there should be.", rich_help_panel="What counts")] = None,
    baseline: Annotated[Path | None, typer.Option(help="File of accepted findings.", rich_help_panel="What counts")] = None,
    write_baseline: Annotated[Path | None, typer.Option(help="Accept today's findings in this file.", rich_help_panel="What counts")] = None,
    fail_on: Annotated[str, typer.Option(help="error, warning, info or never.", rich_help_panel="What counts")] = "error",
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Leave with 0 whatever was found.", rich_help_panel="What counts")] = False,
    format_: FormatName = "text",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result to this file instead of stdout.")] = None,
    workers: Workers = None,
    engine: EngineName = "local",
    scheduler: DaskScheduler = None,
    part: Part = None,
) -> None:
    """Find what is wrong with a data set: which files, why, and what to do.

    Results go to ROOT.histoprep beside the data set; nothing in it is changed. Exit codes: 0 nothing
    at or above --fail-on, 1 findings, 3 some files could not be looked at.
    """
    from histoprep.audit import AuditOptions, default_map, run_audit
    from histoprep.findings import Selection
    from histoprep.labels import find_label_map
    from histoprep.scan import ScanOptions
    from histoprep.tile_table import TableOptions, TileTable
    from histoprep.tiles import TileOptions
    from histoprep.workspace import Workspace

    where = Workspace.of(root, workspace)
    if quick or sample is not None:
        where = Workspace(where.root, where.folder / ("quick" if quick else "sample"))
    table = TableOptions(
        scan=ScanOptions(layout, mask_suffix, images, masks, group_by, label_by, tuple(unlabelled or ()), csv),
        tiles=TileOptions(min_area_px=min_area, max_pixels=max_pixels, headers_only=quick),
        sample=sample,
        reuse=not no_reuse,
    )
    chosen = engine_of(engine, scheduler, workers)
    if part:
        number, count = parse_part(part)
        with progress_of("partitions", "partitions") as advance:
            done = TileTable(where, table).build_part(number, count, chosen, advance)
        console.note(f"part {number} of {count}: {done} partitions done; when all parts are: histoprep collect {root}")
        return
    options = AuditOptions(
        table=table,
        selection=Selection(tuple(select or ()), tuple(ignore or ()), _severities(severity or [])),
        map_path=find_label_map(map_name, where.root) if map_name else default_map(where.root),
        expectation=expect,
        baseline=baseline,
        tile_size_px=_size(tile_size),
        fail_on=_severity(fail_on),
    )
    with progress_of("audit") as advance:
        result = run_audit(where, options, chosen, advance, want_report=format_ != "text" or write_baseline is not None)
    if write_baseline and result.report:
        from histoprep.baseline import write_baseline as write

        console.note(f"accepted {write(write_baseline, result.report.findings):,} entries in {write_baseline}")
    _print(result.text if result.report is None or format_ == "text" else _rendered(result.report, format_), output)
    console.note(f"results: {where.folder}")
    raise typer.Exit(ExitCode.OK if exit_zero else result.exit_code)


def _rendered(report: object, name: str) -> str:
    from histoprep.report import Report, render

    assert isinstance(report, Report)  # noqa: S101 (for the type checker)
    return render(report, name)


def _print(text: str, output: Path | None) -> None:
    if output is None:
        console.out(text.rstrip("\n"))
    else:
        from histoprep.durable import write_text

        write_text(output, text)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and (height or width).isdecimal()):
        raise UsageError("--tile-size is no size", seen=text, expected="WIDTHxHEIGHT, such as 512x512")
    return int(width), int(height or width)


def _severity(text: str) -> Severity | None:
    from histoprep.findings import Severity

    if text == "never":
        return None
    try:
        return Severity(text)
    except ValueError:
        raise UsageError("no such severity", seen=text, expected="error, warning, info or never") from None


def _severities(entries: list[str]) -> dict[str, Severity]:
    graded = {}
    for entry in entries:
        key, _, value = entry.partition("=")
        grade = _severity(value) if value else None
        if grade is None:
            raise UsageError("--severity needs CODE=SEVERITY", seen=entry, expected="such as HP303=error")
        graded[key] = grade
    return graded
