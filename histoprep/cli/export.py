"""`histoprep export`: a manifest or shards -> the folders of other programs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from histoprep.choices import EngineName
from histoprep.cli.options import Workers, engine_of, progress_of
from histoprep.command_style import Commands
from histoprep.errors import ExitCode
from histoprep.phrases import plural

if TYPE_CHECKING:
    from histoprep.exporting import ExportResult

_HELP = """Write the tiles of a manifest or of shards for other programs.

Images are linked or copied, splits and names of classes kept. The data set is only read, and
interrupted runs resume.

Examples:
    histoprep export coco tiles.histoprep/manifest.parquet --out coco
    histoprep export nnunet shards --out nnUNet_raw/Dataset501_Colon
"""
app = Commands("export", _HELP)

Manifest = Annotated[
    str, typer.Argument(help="A manifest, or the folder of shards.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)]
Background = Annotated[
    str | None,
    typer.Option(
        "--background",
        help="Class that is the background, by name or number; none makes every class one of its"
        " own.",
        show_default="the class whose name says so",
    ),
]
Copy = Annotated[bool, typer.Option("--copy", help="Copy images instead of linking them.")]
KeepUnlabelled = Annotated[
    bool,
    typer.Option(
        "--keep-unlabelled", help="Also write tiles without a mask, apart from all splits."
    ),
]
LeaveOutIgnored = Annotated[
    bool,
    typer.Option("--leave-out-ignored", help="Leave out tiles with pixels that have no class."),
]
Root = Annotated[
    str | None, typer.Option(help="Folder of the data set.", show_default="as in the manifest")
]


def _export_command(name: str) -> Callable[[Callable[[], None]], Callable[..., None]]:
    """Return the decorator that makes the command of a format: the function has its help."""

    def decorate(described: Callable[[], None]) -> Callable[..., None]:
        def run(
            manifest: Manifest,
            *,
            out: Out,
            background: Background = None,
            keep_unlabelled: KeepUnlabelled = False,
            leave_out_ignored: LeaveOutIgnored = False,
            copy: Copy = False,
            root: Root = None,
            workers: Workers = None,
        ) -> None:
            choices = copy, background, keep_unlabelled, leave_out_ignored
            _export(name, manifest, out, choices, root, workers)

        run.__doc__ = described.__doc__
        return app.command(name)(run)

    return decorate


@_export_command("coco")
def coco() -> None:
    """Write COCO annotations: a JSON file a split, an annotation a region.

    A region without holes is a polygon along the edges of its pixels, one with holes has run
    lengths; pycocotools draws exactly the mask. Pixels without a class are a crowd called ignore.

    Exit codes: 0 written; 2 refused; 3 some tiles could not be read (listed in the output).

    Examples:
        histoprep export coco tiles.histoprep/manifest.parquet --out coco
        histoprep export coco shards --background none --out coco
    """


@_export_command("yolo-seg")
def yolo_seg() -> None:
    """Write segments of YOLO: a text file an image, a polygon a region, and data.yaml.

    Holes are connected with the outline of their region. The format cannot say that pixels have no
    class: they are background, unless --leave-out-ignored leaves out their tiles.

    Exit codes: 0 written; 2 refused; 3 some tiles could not be read (listed in the output).

    Examples:
        histoprep export yolo-seg tiles.histoprep/manifest.parquet --out yolo
        histoprep export yolo-seg shards --leave-out-ignored --out yolo
    """


@_export_command("nnunet")
def nnunet() -> None:
    """Write a raw data set of nnU-Net v2: PNG images and masks, dataset.json, splits_final.json.

    Training and validation tiles are cases of imagesTr, test tiles of imagesTs. Images that are no
    PNG files of 8-bit RGB are written as such. Pixels without a class have nnU-Net's ignore label.

    Exit codes: 0 written; 2 refused; 3 some tiles could not be read (listed in the output).

    Examples:
        histoprep export nnunet tiles.histoprep/manifest.parquet --out nnUNet_raw/Dataset501_Colon
        histoprep export nnunet shards --background glass --out nnUNet_raw/Dataset502_Skin
    """


@_export_command("fiftyone")
def fiftyone() -> None:
    """Write a data set of FiftyOne: images, masks, and samples with split, group and label.

    In Python: `fiftyone.Dataset.from_dir(dataset_dir="DIR",
    dataset_type=fiftyone.types.FiftyOneDataset)`.

    Exit codes: 0 written; 2 refused; 3 some tiles could not be read (listed in the output).

    Examples:
        histoprep export fiftyone tiles.histoprep/manifest.parquet --out fiftyone
        histoprep export fiftyone shards --keep-unlabelled --out fiftyone
    """


def _export(
    name: str,
    manifest: str,
    out: Path,
    choices: tuple[bool, str | None, bool, bool],
    root: str | None,
    workers: int | None,
) -> None:
    """Export and print what came of it; `choices` as in `ExportOptions`."""
    from histoprep.exporting import ExportOptions, plan_export, run_export

    plan = plan_export(name, manifest, ExportOptions(out, *choices), root)
    if root is None and not plan.source.is_sharded:
        plan.manifest.check_root(f"histoprep export {name} {shlex.quote(manifest)}")
    with progress_of("exporting") as advance:
        result = run_export(plan, engine_of(EngineName.LOCAL, None, workers), advance)
    _print(result)
    raise typer.Exit(ExitCode.INCOMPLETE if result.num_failed else ExitCode.OK)


def _print(result: ExportResult) -> None:
    from histoprep.exporting.formats.nnunet import FOLDS

    _print_classes(result)
    background = result.numbers.background
    if background is None:
        console.note(
            "every class is annotated; --background CLASS makes one of them the background"
        )
    else:
        console.note(f"the background is class {background.id} {background.name}")
    if result.num_unlabelled:
        console.note(
            f"{plural(result.num_unlabelled, 'tile')} without a mask left out; --keep-unlabelled"
            " writes them, too"
        )
    if result.num_left_out:
        console.note(
            f"{plural(result.num_left_out, 'tile')} with pixels that have no class left out"
        )
    if result.num_ignored_pixels:
        _print_ignored(result)
    failed = [f"not exported: {tile}: {reason}" for tile, reason in result.failed]
    console.warn_each(failed, total=result.num_failed, rest=f"all are in {result.ledger}")
    if result.format.name == "yolo-seg" and not result.num_tiles["val"]:
        console.warn("no tile is for validation, and Ultralytics refuses a data set without")
    if result.format.name == "nnunet" and FOLDS not in result.files:
        console.warn(
            "no tile is for validation and the manifest has no folds: nnU-Net splits at random,"
            " tiles of a slide onto both sides; histoprep manifest --folds 5 makes folds of groups"
        )
    if result.up_to_date:
        console.note("nothing had changed")
    splits = ", ".join(f"{split} {number:,}" for split, number in result.num_tiles.items())
    how = ", ".join(f"{number:,} {word}" for word, number in sorted(result.how.items()))
    console.out(
        f"{plural(result.num_tiles.total(), 'tile')} ({splits or 'none'}),"
        f" {result.num_failed:,} failed; images: {how or 'none'} | {result.out}"
    )


def _print_classes(result: ExportResult) -> None:
    has_regions = bool(result.class_regions)
    rows = [
        (
            str(number - 1 + result.format.first_number),
            cls.name,
            result.class_tiles[cls.id],
            result.class_pixels[cls.id],
            *([result.class_regions[cls.id]] if has_regions else []),
        )
        for number, cls in result.numbers.classes
    ]
    columns = ("number", "name", "tiles", "pixels", *(["regions"] if has_regions else []))
    console.table(columns, rows, title=f"Classes of {result.format.title}")
    if result.num_holes:
        console.note(f"{plural(result.num_holes, 'hole')} in these regions")


def _print_ignored(result: ExportResult) -> None:
    pixels = plural(result.num_ignored_pixels, "pixel")
    tiles = plural(result.num_with_ignored, "tile")
    if result.format.keeps_ignored:
        number = result.numbers.ignored
        console.note(f"{pixels} without a class in {tiles}: number {number} in the export")
    else:
        console.warn(
            f"{pixels} without a class in {tiles} are background here, which the format cannot tell"
            " apart; --leave-out-ignored leaves these tiles out"
        )
