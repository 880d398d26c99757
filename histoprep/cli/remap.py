"""`histoprep remap`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from histoprep.choices import EngineName, OnUnmapped
from histoprep.cli.label_maps import chosen_map
from histoprep.cli.options import (
    DaskScheduler,
    DepthOption,
    EngineOption,
    MapName,
    MinIsWhiteOption,
    PageOption,
    PaletteOption,
    Part,
    RgbOption,
    Root,
    Verify,
    Workers,
    WorkspaceFolder,
    engine_of,
    parse_part,
    progress_of,
)
from histoprep.cli.reading import read_tiles
from histoprep.errors import ExitCode, UsageError
from histoprep.labels import IGNORED_ID, load_label_map
from histoprep.mask_reading import Reading
from histoprep.phrases import plural
from histoprep.schemas.workspace import Workspace

if TYPE_CHECKING:
    from histoprep.labels import LabelMap
    from histoprep.remapping import RemapResult
    from histoprep.schemas.workspace import Workspace


def remap(
    root: Root = Path(),
    *,
    map_name: MapName = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the new masks.", show_default="WORKSPACE/masks-MAP"),
    ] = None,
    on_unmapped: Annotated[
        OnUnmapped,
        typer.Option(
            help="Labels that the map does not list: refuse, or assign its unknown class."
        ),
    ] = OnUnmapped.ERROR,
    palette: PaletteOption = None,
    min_is_white: MinIsWhiteOption = None,
    depth: DepthOption = None,
    rgb: RgbOption = None,
    page: PageOption = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help=(
                "Remap masks that seem to be remapped already, or other than those the map was made"
                " for, or named otherwise in the map than the images (HP510); replace masks of"
                " another map, or changed since."
            ),
        ),
    ] = False,
    verify: Verify = False,
    workspace: WorkspaceFolder = None,
    workers: Workers = None,
    engine: EngineOption = EngineName.LOCAL,
    scheduler: DaskScheduler = None,
    part: Part = None,
) -> None:
    """Apply a label map to all masks: new 8-bit PNG files in a tree of their own.

    The data set is only read. Masks whose labels depend on the reader are refused until --palette,
    --min-is-white or --depth decides what they are; later commands follow. Everything is checked
    before the first file is written. Interrupted runs resume.

    Exit codes: 0 all masks are written; 2 refused; 3 some masks could not be used or some folders
    could not be read (listed in the output); 6 new masks were changed since they were written.

    Examples:
        histoprep remap tiles --map my_map.yml
        histoprep remap tiles --map my_map.yml --on-unmapped unknown --out masks-new
        histoprep remap tiles --map my_map.yml --palette grey
    """
    from histoprep.remapping import RemapOptions, plan_remap, run_remap, run_remap_part
    from histoprep.repairing.record import damage_warnings

    where = Workspace.of(root, workspace)
    chosen = engine_of(engine, scheduler, workers)
    numbers = parse_part(part) if part else None
    label_map = _label_map(map_name, where)
    # Jobs of an array start at once; only one process may make the table.
    reading = Reading.from_json(
        {
            "palette": palette,
            "min-is-white": min_is_white,
            "depth": depth,
            "rgb": rgb,
            "page": page,
        }
    )
    if numbers is None:
        seen = read_tiles(where, workers=workers, reading=reading, verify=verify)
    elif reading.as_json():
        raise UsageError(
            "parts of an array job do not read masks again",
            seen=reading.describe(),
            hint=f"histoprep audit {where.root} {reading.describe()}",
        )
    else:
        seen = ExitCode.OK
    plan = plan_remap(where, label_map, RemapOptions(out, on_unmapped, force, verify))
    if numbers is not None:
        with progress_of("partitions", "partitions") as advance:
            done = run_remap_part(plan, *numbers, chosen, advance)
        console.note(
            f"part {numbers[0]} of {numbers[1]}: {done} partitions done; when all parts are: the"
            " same command without --part"
        )
        return
    with progress_of("remapping", "masks") as advance:
        result = run_remap(plan, chosen, advance)
    _print(result)
    if plan.num_ignored_pixels:
        console.note(
            f"ignored: {plural(plan.num_ignored_pixels, 'pixel')}, {IGNORED_ID} in new masks"
        )
    for warning in (*plan.warnings, *damage_warnings(where)):
        console.warn(warning)
    named_map = ("--map", map_name) if map_name else ()
    console.next_steps(
        ("histoprep", "manifest", root, *named_map), ("histoprep", "stats", root, *named_map)
    )
    raise typer.Exit(ExitCode.INCOMPLETE if result.num_failed else seen)


def _label_map(name: str | None, where: Workspace) -> LabelMap:
    from histoprep.remapping.fit import which_map

    path = chosen_map(name, where.root)
    if path is None:
        raise which_map(where.root, where.tiles)
    return load_label_map(path)


def _print(result: RemapResult) -> None:
    total = sum(result.class_pixels) or 1
    classes = zip(result.label_map.classes, result.class_pixels, strict=True)
    rows = [
        (str(cls.id), cls.name, pixels, f"{100 * pixels / total:.2f}") for cls, pixels in classes
    ]
    console.table(
        ("class", "name", "pixels", "pixel %"), rows, title=f"Classes of {result.label_map.name}"
    )
    failed = [f"not remapped: {mask.path}: {mask.reason}" for mask in result.failed]
    console.warn_each(failed, total=result.num_failed, rest=f"all are in {result.ledger}")
    for name in result.unexpected:
        console.warn(f"not written by remap, left alone: {result.out / name}")
    if result.num_stale_removed:
        console.note(
            f"removed {result.num_stale_removed:,} masks of an earlier run whose source is gone or"
            " cannot be used"
        )
    if result.up_to_date:
        console.note("nothing had changed")
    console.out(f"{result.num_written:,} masks, {result.num_failed:,} failed | {result.out}")
