"""`histoprep audit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histoprep import console
from histoprep.choices import EngineName, FailOn, Layout, ReportFormat, Severity
from histoprep.cli.label_maps import chosen_map, note_manifest_map
from histoprep.cli.options import (
    DaskScheduler,
    DepthOption,
    EngineOption,
    FormatOption,
    MapName,
    MinIsWhiteOption,
    PageOption,
    PaletteOption,
    Part,
    RgbOption,
    Root,
    Workers,
    WorkspaceFolder,
    engine_of,
    parse_part,
    progress_of,
    separated,
)
from histoprep.errors import ExitCode, UsageError
from histoprep.findings import Selection
from histoprep.labels import maps_in
from histoprep.mask_reading import UNDECIDED, Reading
from histoprep.report import Report, render
from histoprep.schemas.workspace import Workspace, check_outside
from histoprep.tiles import TileOptions

if TYPE_CHECKING:
    from histoprep.auditing import AuditOptions
    from histoprep.choices import Severity
    from histoprep.labels import LabelMap
    from histoprep.mask_reading import Reading
    from histoprep.scanning import ScanOptions
    from histoprep.schemas.workspace import Workspace


# How each format for programs spells a bracket, since `##[` in a log is a command to a CI runner.
_BRACKETS = {"json": r"\u005b", "sarif": r"\u005b", "junit": "&#91;", "html": "&#91;"}


def _read(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="What is read", **more)


def _graded(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="What counts", **more)


def audit(
    root: Root = Path(),
    *,
    map_name: MapName = None,
    workspace: WorkspaceFolder = None,
    layout: Annotated[
        Layout | None, _read("Arrangement of images and masks in folders.", show_default="auto")
    ] = None,
    mask_suffix: Annotated[
        str | None,
        _read(
            "End of a mask's name, before its extension (_gt) or with it (_gt.png).",
            show_default="_mask",
        ),
    ] = None,
    image_suffix: Annotated[
        str | None,
        _read("End of an image's name, in the same way.", show_default="any"),
    ] = None,
    mask_pattern: Annotated[
        str | None,
        _read(
            "Regular expression for masks' names; its group named key is what image and mask share."
            " With a slash: for paths below ROOT.",
            show_default=False,
        ),
    ] = None,
    image_pattern: Annotated[
        str | None, _read("The same of images' names.", show_default=False)
    ] = None,
    images: Annotated[
        str | None,
        _read(
            "Folder of the images; one * stands for what both folders share.",
            show_default="images, tiles, ...",
        ),
    ] = None,
    masks: Annotated[
        str | None, _read("Folder of the masks.", show_default="masks, labels, ...")
    ] = None,
    follow_links: Annotated[
        bool,
        _read(
            "Read links that leave ROOT too, such as those into a store of files; each folder"
            " once.",
            "--follow-links",
        ),
    ] = False,
    unlabelled: Annotated[
        list[Path] | None, _read("Further folder of images without masks; repeatable.")
    ] = None,
    pairs: Annotated[
        Path | None,
        _read(
            "Table with the columns image and mask, and group, label and split if known; ROOT is"
            " then not searched.",
            show_default=False,
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        _read(
            "Table of images, or of slides, with labels or groups.",
            show_default="ROOT/dataset.csv",
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        _read(
            "Slide, case or patient of a tile: a regular expression, `folder`, `csv:COLUMN`, or"
            " `pixels` for tiles that touch, overlap or are copies; `pixels:HOW` joins both."
        ),
    ] = None,
    label_by: Annotated[str | None, _read("Image-level class of a tile, in the same ways.")] = None,
    palette: PaletteOption = None,
    min_is_white: MinIsWhiteOption = None,
    depth: DepthOption = None,
    rgb: RgbOption = None,
    page: PageOption = None,
    forget: Annotated[
        bool,
        _read(
            "Reset the options above to their defaults instead of reusing those of the previous"
            " audit, and use no label map of an earlier manifest.",
            "--forget",
        ),
    ] = False,
    min_area: Annotated[int, _read("Regions with fewer pixels are specks.", min=1)] = 64,
    tile_size: Annotated[
        str | None,
        _read(
            "Size of images in pixels.", metavar="WIDTHxHEIGHT", show_default="the most common size"
        ),
    ] = None,
    max_pixels: Annotated[
        int, _read("Larger images are refused by their header.", min=1)
    ] = 64_000_000,
    quick: Annotated[
        bool,
        _read(
            "Check names, digests and headers without decoding pixels; results go to"
            " WORKSPACE/quick.",
            "--quick",
        ),
    ] = False,
    neighbours: Annotated[
        bool | None,
        _read(
            "Look for tiles that touch or overlap (HP705, HP706).",
            "--neighbours/--no-neighbours",
            show_default="up to 10,000 tiles",
        ),
    ] = None,
    sample: Annotated[
        int | None, _read("Audit only this many tiles; results go to WORKSPACE/sample.", min=1)
    ] = None,
    no_reuse: Annotated[bool, _read("Read every file again.", "--no-reuse")] = False,
    select: Annotated[
        list[str] | None,
        _graded(
            "Codes, prefixes or names of the rules to apply, such as HP4,blank-image.",
            metavar="RULES",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        _graded("Codes, prefixes or names of the rules to leave out.", metavar="RULES"),
    ] = None,
    severity: Annotated[
        list[str] | None,
        _graded("Severity of a rule: error, warning or info; repeatable.", metavar="CODE=SEVERITY"),
    ] = None,
    expect: Annotated[Path | None, _graded("File with the expected counts.")] = None,
    baseline: Annotated[Path | None, _graded("File of accepted findings.")] = None,
    write_baseline: Annotated[
        Path | None, _graded("Accept all present findings in this file and exit with status 0.")
    ] = None,
    fail_on: Annotated[
        FailOn, _graded("Least severity that leads to exit status 1.")
    ] = FailOn.ERROR,
    strict: Annotated[
        bool,
        _graded("Files of formats that are not read are an error, no warning.", "--strict"),
    ] = False,
    exit_zero: Annotated[
        bool, _graded("Exit with status 0 even if there are findings.", "--exit-zero")
    ] = False,
    format_: FormatOption = ReportFormat.TEXT,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the result to this file instead of stdout."),
    ] = None,
    workers: Workers = None,
    engine: EngineOption = EngineName.LOCAL,
    scheduler: DaskScheduler = None,
    part: Part = None,
) -> None:
    """Find what is wrong with a data set: which files, why, and what to do.

    Results go to ROOT.histoprep beside the data set; nothing in it is changed. Scan options that
    you omit keep their values from the previous audit; --forget resets them.

    Exit codes: 0 nothing at or above --fail-on; 1 findings; 3 some files could not be read (listed
    in the output).

    Examples:
        histoprep audit tiles --map my_map.yml
        histoprep audit tiles --group-by "(case\\d+)_" --format html --output report.html
        histoprep audit tiles --quick --select HP1,HP2
    """
    from histoprep.auditing import AuditOptions, run_audit
    from histoprep.tiles.options import TableOptions
    from histoprep.tiles.table import TileTable

    where = Workspace.of(root, workspace)
    named: dict[str, Any] = {
        "layout": layout,
        "mask_suffix": mask_suffix,
        "image_suffix": image_suffix,
        "mask_pattern": mask_pattern,
        "image_pattern": image_pattern,
        "follow_links": follow_links or None,
        "images": images,
        "masks": masks,
        "csv": csv and csv.absolute(),
        "pairs": pairs and pairs.absolute(),
    }
    given = named | {
        "unlabelled": tuple(unlabelled) if unlabelled else None,
        "group_by": group_by,
        "label_by": label_by,
    }
    scan = _scan_options(
        where, {name: value for name, value in given.items() if value is not None}, forget=forget
    )
    check_outside(where.folder, scan.unlabelled, "results", "--workspace")
    for file, option in ((output, "--output"), (write_baseline, "--write-baseline")):
        if file:
            check_outside(file, (where.root, *scan.unlabelled), "a report", option, text=True)
    reading = _mask_reading(
        where,
        {
            "palette": palette,
            "min-is-white": min_is_white,
            "depth": depth,
            "rgb": rgb,
            "page": page,
        },
        forget=forget,
    )
    if quick or sample is not None:
        where = Workspace(where.root, where.folder / ("quick" if quick else "sample"))
    options = AuditOptions(
        table=TableOptions(
            scan=scan,
            tiles=TileOptions(
                min_area_px=min_area,
                max_pixels=max_pixels,
                headers_only=quick,
                neighbours=neighbours,
            ).with_reading(reading),
            sample=sample,
            reuse=not no_reuse,
        ),
        selection=Selection(separated(select), separated(ignore), _severities(separated(severity))),
        map_path=chosen_map(map_name, where.root),
        takes_manifest_map=not forget,
        expectation=expect,
        baseline=baseline,
        tile_size_px=_size(tile_size),
        fail_on=fail_on.severity,
        strict=strict,
    )
    chosen = engine_of(engine, scheduler, workers)
    if part:
        number, count = parse_part(part)
        with progress_of("partitions", "partitions") as advance:
            done = TileTable(where, options.table).build_part(number, count, chosen, advance)
        console.note(
            f"part {number} of {count}: {done} partitions done; when all parts are: histoprep"
            f" collect {root}"
        )
        return
    _note_maps(where.root, chosen=options.map_path is not None)
    borrowed = None
    if options.map_path is None:
        borrowed = note_manifest_map(where, is_used=options.takes_manifest_map)
    with console.phases() as phases:
        result = run_audit(
            where,
            options,
            chosen,
            phases,
            want_report=format_ is not ReportFormat.TEXT or write_baseline is not None,
        )
    for warning in result.warnings:
        console.warn(warning)
    _print(
        (
            result.text
            if result.report is None or format_ is ReportFormat.TEXT
            else _rendered(result.report, format_, output)
        ),
        format_,
        output,
    )
    console.note(f"results: {where.folder}")
    if write_baseline and result.report:
        from histoprep.auditing.baseline import write_baseline as write

        console.note(
            f"accepted {write(write_baseline, result.report.findings):,} entries in"
            f" {write_baseline}"
        )
    accepted = write_baseline is not None and result.exit_code == ExitCode.FINDINGS
    if result.exit_code == ExitCode.OK and not (quick or sample):
        console.next_steps(*_next_steps(root, where, options, map_name, borrowed))
    raise typer.Exit(ExitCode.OK if exit_zero or accepted else result.exit_code)


def _next_steps(
    root: Path,
    workspace: Workspace,
    options: AuditOptions,
    map_name: str | None,
    borrowed: LabelMap | None,
) -> Iterator[tuple[str | Path, ...]]:
    """Yield what to do after an audit without errors."""
    from histoprep.schemas.repaired import num_labelled

    if borrowed is not None and options.takes_manifest_map:
        # Which file that label map came from nobody knows, and without it the classes change.
        yield "histoprep", "manifest", "check", workspace.manifest
        return
    if options.map_path is None and not maps_in(workspace.root) and num_labelled(workspace.tiles):
        yield "histoprep", "map", "init", root, "--out", _free_map_name()
    yield "histoprep", "manifest", root, *(("--map", map_name) if map_name else ())


def _free_map_name() -> str:
    names = ("label_map.yml", *(f"label_map_{number}.yml" for number in range(2, 100)))
    return next((name for name in names if not Path(name).exists()), names[0])


def _scan_options(workspace: Workspace, given: Mapping[str, Any], *, forget: bool) -> ScanOptions:
    """Return the options that were given and, of the others, those of the last audit; says which
    these are.
    """
    from histoprep.scanning import ScanOptions
    from histoprep.tiles.options import chosen_words, earlier_options, refuse_foreign_workspace

    fresh = ScanOptions(**given)
    if forget:
        refuse_foreign_workspace(workspace)
        return fresh
    chosen = replace(earlier_options(workspace).scan, **given)
    if kept := chosen_words(workspace, chosen, fresh):
        console.note(f"as before: {', '.join(kept)} (--forget resets it)")
    return chosen


def _mask_reading(
    workspace: Workspace, given: Mapping[str, str | int | None], *, forget: bool
) -> Reading:
    """Return what is decided now of masks that readers understand in two ways and, unless
    forgotten, what was before; says which that is.
    """
    from histoprep.tiles.options import earlier_options

    fresh = Reading.from_json(given)
    earlier = UNDECIDED if forget else earlier_options(workspace).tiles.mask_reading
    decided = earlier.updated(fresh)
    if decided != fresh:
        console.note(f"as before: {decided.describe()} (--forget resets it)")
    return decided


def _note_maps(root: Path, *, chosen: bool) -> None:

    found = [] if chosen else maps_in(root)
    if found:
        names = ", ".join(path.name for path in found)
        console.note(
            f"no label map is used, since there are {len(found)} in the data set: choose with --map"
            f" ({names})"
        )


def _rendered(report: Report, name: str, output: Path | None) -> str:
    if output is not None:
        report = replace(report, page_folder=str(output.absolute().parent))
    return render(report, name)


def _print(text: str, format_name: str, output: Path | None) -> None:
    if output is None:
        if format_name in _BRACKETS:
            console.raw(text.rstrip("\n").replace("##[", f"##{_BRACKETS[format_name]}"))
        else:
            show = console.raw if format_name == "github" else console.block
            show(text.rstrip("\n"))
    else:
        from histoprep.durable import write_text

        write_text(output, text)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (
        width.isdecimal() and (height or width).isdecimal() and int(width) and int(height or width)
    ):
        raise UsageError(
            "--tile-size is not a size", seen=text, expected="WIDTHxHEIGHT, such as 512x512"
        )
    return int(width), int(height or width)


def _severities(entries: tuple[str, ...]) -> dict[str, Severity]:
    graded = {}
    for entry in entries:
        key, _, value = entry.partition("=")
        if value not in list(Severity) or not key:
            raise UsageError(
                "--severity needs CODE=SEVERITY",
                seen=entry,
                expected=f"such as HP303=error; severities are {', '.join(Severity)}",
            )
        graded[key] = Severity(value)
    return graded
