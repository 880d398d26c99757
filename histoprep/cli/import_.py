"""`histoprep import`: annotation files, stacks, or several masks of an image -> a plain tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histoprep import console
from histoprep.choices import CombineBy, DrawingOrder
from histoprep.cli.options import progress_of, separated
from histoprep.command_style import Commands
from histoprep.errors import ExitCode

if TYPE_CHECKING:
    from histoprep.importing import ImportResult

_HELP = """Make a plain tree of images and masks from annotation files, stacks or several masks of
an image.

The tree has images/, masks/ (PNG), label_map.yml and, where the source has groups, dataset.csv;
every other command reads it. The source is only read.

Examples:
    histoprep import coco instances.json --out tiles
    histoprep import combine nuclei --by instance --out tiles
"""
app = Commands("import", _HELP)

Source = Annotated[
    Path, typer.Argument(help="Annotation file, or the folder that holds it.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the new tree.", show_default=False)]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images", help="Folder of the images.", show_default="that of the annotation file"
    ),
]
Copy = Annotated[bool, typer.Option("--copy", help="Copy images instead of linking them.")]
OrderOption = Annotated[
    DrawingOrder | None,
    typer.Option(
        "--order",
        help=(
            "Which of two annotations lies on top: the last of the file, of the file reversed, by"
            " falling area, or by label."
        ),
        show_default="as the format's own programs do",
    ),
]
KeepInstances = Annotated[
    bool,
    typer.Option(
        "--keep-instances",
        help="Keep the number of the annotation on top of each pixel, in .instances/ of the tree.",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Write nothing when an image is missing.")]


@app.command()
def coco(
    source: Source,
    *,
    out: Out,
    images: Images = None,
    order: OrderOption = None,
    skip_crowds: Annotated[
        bool, typer.Option("--skip-crowds", help="Leave out annotations of crowds.")
    ] = False,
    keep_instances: KeepInstances = False,
    copy: Copy = False,
    strict: Strict = False,
) -> None:
    """Import COCO annotations: polygons, run lengths, crowds.

    Masks are those of pycocotools, bit for bit. Later annotations lie on top, crowds below all.
    Interrupted runs resume.

    Exit codes: 0 all images have a mask; 2 refused; 3 some images are missing or cannot be used.

    Examples:
        histoprep import coco instances.json --out tiles
        histoprep import coco export --images export/photos --order area --out tiles
    """
    _run("coco", source, out, images, order, keep_instances, copy, strict, skip_crowds=skip_crowds)


@app.command()
def combine(
    source: Annotated[Path, typer.Argument(help="Folder of images and masks.", show_default=False)],
    *,
    out: Out,
    by: Annotated[
        CombineBy,
        typer.Option("--by", help="What each mask file is for.", show_default=False),
    ],
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of the images.", show_default="by the names"),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option("--masks", help="Folder of the masks.", show_default="by the names"),
    ] = None,
    mask_pattern: Annotated[
        str | None,
        typer.Option(
            "--mask-pattern",
            help=(
                "Regular expression for the path of a mask below SOURCE, without suffix, with"
                " groups `key` (stem of its image) and `class`."
            ),
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--classes",
            help="Classes in the order of their labels, from 1 on; the last lies on top.",
            show_default="by name",
        ),
    ] = None,
    order: OrderOption = None,
    keep_instances: KeepInstances = False,
    copy: Copy = False,
    strict: Strict = False,
) -> None:
    """Combine several mask files of an image, one for each class or each object, into one.

    Classes lie over each other in the order of their labels, objects in the order of their names;
    the last lies on top. Images without any mask stay without one. Interrupted runs resume.

    Exit codes: 0 all masks are used; 2 refused; 3 some images are missing or cannot be used.

    Examples:
        histoprep import combine tiles --by class --classes stroma,tumour --out combined
        histoprep import combine stage1_train --by instance --out combined
    """
    _run(
        *("combine", source, out, images, order, keep_instances, copy, strict),
        by=by,
        masks=masks,
        mask_pattern=mask_pattern,
        classes=separated(classes),
    )


def _run(
    name: str,
    source: Path,
    out: Path,
    images: Path | None,
    order: DrawingOrder | None,
    keep_instances: bool,
    copy: bool,
    strict: bool,
    **own: Any,
) -> None:
    """Import and print what came of it."""
    from histoprep.importing import ImportOptions, plan_import, run_import
    from histoprep.importing.formats import Search, read_source

    search = Search(images, out.absolute(), order)
    collection = read_source(name, source, search, **own)
    for text in collection.notes:
        console.note(text)
    stated = {"order": str(order) if order else None, "images": _stated(images)}
    stated |= {key: _stated(value) for key, value in own.items()}
    options = ImportOptions(out, copy, keep_instances, strict, stated)
    plan = plan_import(name, source, collection, options)
    with progress_of("importing", "images") as advance:
        result = run_import(plan, advance)
    _print(result)
    raise typer.Exit(ExitCode.INCOMPLETE if result.num_failed else ExitCode.OK)


def _stated(value: object) -> object:
    """Return an option as the request has it."""
    if isinstance(value, tuple | list):
        return [_stated(item) for item in value]
    return value if value is None or isinstance(value, bool | int) else str(value)


def _print(result: ImportResult) -> None:
    total = sum(result.label_pixels.values()) or 1
    rows = []
    for source in result.label_map.sources:
        pixels = result.label_pixels.get(source.id, 0)
        rows.append((str(source.id), source.name, pixels, f"{100 * pixels / total:.2f}"))
    console.table(("label", "name", "pixels", "pixel %"), rows, title="Labels of the masks")
    failed = [f"not imported: {name}: {reason}" for name, reason in result.failed]
    console.warn_each(failed, total=result.num_failed, rest=f"all are in {result.ledger}")
    for name in result.unexpected[:10]:
        console.warn(f"not written by import, left alone: {result.out / name}")
    if result.up_to_date:
        console.note("nothing had changed")
    for line in summary_lines(result):
        console.out(line)
    console.note(f"next: {next_command(result)}")


def summary_lines(result: ImportResult) -> list[str]:
    """Return the counts of an import: annotations, overlaps, images."""
    counts = result.counts
    skipped = ", ".join(f"{number:,} {kind}" for kind, number in sorted(counts.skipped.items()))
    parts = [
        f"{counts.drawn:,} drawn",
        f"{counts.empty:,} empty",
        f"{counts.outside:,} outside the image",
        f"{counts.skipped.total():,} no areas" + (f" ({skipped})" if skipped else ""),
    ]
    how = ", ".join(f"{number:,} {word}" for word, number in sorted(result.how.items()))
    images = [
        f"{result.num_written:,} images with masks",
        *([f"{result.num_unlabelled:,} without"] if result.num_unlabelled else []),
        f"{result.num_failed:,} failed",
    ]
    return [
        f"annotations: {counts.read:,} read: {', '.join(parts)}; {counts.hidden:,} hidden by later"
        " ones",
        f"overlaps: {counts.overlapped_pixels:,} pixels, {counts.contested_pixels:,} of them of"
        " several labels",
        f"{', '.join(images)} ({how or 'none'}) | {result.out}",
    ]


def next_command(result: ImportResult) -> str:
    """Return the command that audits the tree."""
    from histoprep.importing.job import SYMBOLIC_LINK

    words = ["histoprep audit", str(result.out)]
    words += [f"--{name}-by csv:{name}" for name in ("group", "label") if name in result.columns]
    if SYMBOLIC_LINK in result.how:
        words.append("--follow-links")
    return " ".join(words)
