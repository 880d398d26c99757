"""`histoprep demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histoprep import console
from histoprep.errors import UsageError
from histoprep.schemas.workspace import SUFFIX, Workspace

if TYPE_CHECKING:
    from histoprep.demo.stages import DemoOptions

_DEMO_MAP = "label_map_5.yml"


def _made(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Synthetic tiles", **more)


def _own(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Your own tiles", **more)


def demo(
    folder: Annotated[
        Path,
        typer.Argument(
            help=(
                "Folder to create; results go beside it, to FOLDER.histoprep. With --data, they go"
                " to FOLDER."
            )
        ),
    ] = Path("demo"),
    *,
    tiles: Annotated[int, _made("Number of tiles.", min=48)] = 96,
    tile_px: Annotated[int, _made("Side of a tile.", min=64)] = 256,
    seed: Annotated[int, _made("Another seed gives another data set.", min=0)] = 7,
    data: Annotated[
        Path | None,
        _own("Folder of tiles and masks; it is only read.", "--data", show_default=False),
    ] = None,
    map_name: Annotated[
        str | None,
        _own("Label map.", "--map", show_default="the labels of the masks are the classes"),
    ] = None,
    group_by: Annotated[
        str | None,
        _own(
            "Slide, case or patient of a tile, as in audit.",
            show_default="each tile is its own group",
        ),
    ] = None,
    csv: Annotated[
        Path | None, _own("Table for --group-by csv:COLUMN, as in audit.", show_default=False)
    ] = None,
    masks: Annotated[
        str | None, _own("Folder of the masks, as in audit.", show_default=False)
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(help="Folder of a codec to use instead of training one.", show_default=False),
    ] = None,
    codec_steps: Annotated[int, typer.Option(help="Training steps of the codec.", min=1)] = 300,
    fit_steps: Annotated[
        int, typer.Option(help="Training steps of the diffusion model.", min=1)
    ] = 600,
) -> None:
    """Run the full pipeline on a small synthetic data set, from audit to generated tiles.

    The stages are audit, repair, remap, manifest, stats, shard, fit and sample. The synthetic tiles
    have planted defects; --data runs the stages on tiles of your own. Each stage is shown as the
    command that you would type, and all of them on one page, demo.html. Interrupted runs resume.

    Examples:
        histoprep demo
        histoprep demo small --tiles 48 --tile-px 64
        histoprep demo results --data tiles --map my_map.yml
    """
    from histoprep.demo.ledger import NAME, Ledger
    from histoprep.demo.page import write_page
    from histoprep.demo.run import missing_train_packages, run_stages
    from histoprep.demo.stages import toolkit_stages

    if data is None and any((map_name, group_by, csv, masks)):
        raise UsageError(
            "--map, --group-by, --csv and --masks belong to tiles of your own",
            hint="name their folder with --data",
        )
    if data is None:
        options = _options_of_made(folder, tiles, tile_px, seed, codec, (codec_steps, fit_steps))
    else:
        options = _options_of_own(
            folder,
            data,
            map_name,
            group_by,
            _audit_options(csv, masks),
            codec,
            (codec_steps, fit_steps),
        )
    ledger = Ledger(options.workspace / NAME)
    stages = toolkit_stages(options)
    run_stages(stages, ledger, _run_here, console.out)
    page = write_page(options, stages, ledger.read())
    missing = missing_train_packages()
    if not missing:
        console.note(f"so far: {page}")
        later = _trainer_stages(options)
        run_stages(later, ledger, _run_here, console.out)
        write_page(options, (*stages, *later), ledger.read())
    else:
        console.block(
            f"\nTraining is left out: {', '.join(missing)} not installed. In the folder of the"
            " source: pip install '.[train]'"
        )
    console.block(
        f"\nopen {page} in a browser; everything else is beside it in {options.workspace}"
    )


def _options_of_made(
    folder: Path, tiles: int, tile_px: int, seed: int, codec: str | None, steps: tuple[int, int]
) -> DemoOptions:
    from histoprep.demo import GROUP_PATTERN, make_demo
    from histoprep.demo.stages import DemoOptions

    with console.progress("demo data", tiles) as meter:
        plan = make_demo(folder, num_tiles=tiles, tile_px=tile_px, seed=seed, meter=meter)
    console.out(
        f"{plan.num_tiles} tiles of {len(plan.slides)} slides and {len(plan.planted)} planted"
        f" defects in {folder}"
    )
    return DemoOptions(
        folder, folder.with_name(folder.name + SUFFIX), _DEMO_MAP, GROUP_PATTERN, codec, *steps
    )


def _options_of_own(
    folder: Path,
    data: Path,
    map_name: str | None,
    group_by: str | None,
    audit: tuple[str, ...],
    codec: str | None,
    steps: tuple[int, int],
) -> DemoOptions:
    from histoprep.demo.stages import DemoOptions

    Workspace.of(data, folder)
    return DemoOptions(
        data, folder, map_name, group_by, codec, *steps, named=True, audit_options=audit
    )


def _audit_options(csv: Path | None, masks: str | None) -> tuple[str, ...]:
    return (*(("--csv", str(csv)) if csv else ()), *(("--masks", masks) if masks else ()))


def _trainer_stages(options: DemoOptions) -> tuple[Any, ...]:
    from histoprep.demo.stages import trainer_stages
    from histoprep.schemas.manifest import open_manifest

    manifest = open_manifest(options.manifest)
    table = manifest.read(["height_px", "width_px"])
    sides = {side for name in table.column_names for side in table[name].unique().to_pylist()}
    splits = manifest.certificate["splits"]
    # A small data set may have no labelled tile in its test split.
    labelled = [
        name for name in ("test", "val", "train") if splits.get(name, {}).get("conditional")
    ]
    return trainer_stages(options, sorted(sides), *labelled[:1])


def _run_here(arguments: Any) -> int:
    from histoprep.cli import run

    return run(list(arguments))
