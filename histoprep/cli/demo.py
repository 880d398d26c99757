"""`histoprep demo`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from histoprep import console
from histoprep.errors import ExitCode


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to make; results go beside it, to FOLDER.histoprep.")] = Path("demo"),
    tiles: Annotated[int, typer.Option(min=48, help="Number of tiles.")] = 96,
    tile_px: Annotated[int, typer.Option(min=64, help="Side of a tile.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives another data set.")] = 7,
) -> None:
    """Make a small histology-like data set with planted defects, then audit, repair, remap, count and split it.

    Each step is shown as the command that you would type. A second run keeps what is done.
    """
    from histoprep.cli import run
    from histoprep.demo import GROUP_PATTERN, make_demo
    from histoprep.workspace import Workspace

    with console.progress("demo data", tiles) as meter:
        plan = make_demo(folder, num_tiles=tiles, tile_px=tile_px, seed=seed, meter=meter)
    console.out(f"{plan.num_tiles} tiles of {len(plan.slides)} slides and {len(plan.planted)} planted oddities in {folder}")
    name, map_option = str(folder), ["--map", "label_map_5.yml"]
    # Exit codes that planted defects lead to: 1, there are findings; 3, broken files were left out.
    steps: list[tuple[list[str], set[int]]] = [
        (["audit", name, *map_option, "--group-by", GROUP_PATTERN], {ExitCode.FINDINGS}),
        (["repair", name], {ExitCode.OK}),
        (["remap", name, *map_option, "--on-unmapped", "unknown"], {ExitCode.OK}),
        (["manifest", name, *map_option], {ExitCode.INCOMPLETE}),
        (["stats", name, *map_option], {ExitCode.OK}),
    ]
    for arguments, expected in steps:
        console.out(f"\n$ histoprep {shlex.join(arguments)}")
        code = run(arguments)
        if code not in expected:
            console.error(f"that step left with exit code {code}")
            raise typer.Exit(code or ExitCode.INTERNAL)
    where = Workspace.of(folder)
    console.out(f"\nopen {where.report} in a browser; everything else is beside it in {where.folder}")
