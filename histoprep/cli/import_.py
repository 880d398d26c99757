"""`histoprep import`: annotation files, stacks, or several masks of an image -> a plain tree."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histoprep import console
from histoprep.choices import (
    BackgroundChannel,
    CombineBy,
    DrawingOrder,
    MaskSide,
    PixelRule,
    TypesAre,
)
from histoprep.cli.options import progress_of, separated
from histoprep.command_style import Commands
from histoprep.errors import ExitCode
from histoprep.phrases import plural

if TYPE_CHECKING:
    from histoprep.importing import ImportResult
    from histoprep.importing.model import AnnotationCounts, Collection
    from histoprep.labels import LabelMap

_HELP = """Make a plain tree of images and masks from annotation files, stacks or several masks of
an image.

The tree has images/, masks/ (PNG), label_map.yml and, where the source has groups, dataset.csv;
every other command reads it. The source is only read.

Examples:
    histoprep import coco instances.json --out tiles
    histoprep import combine nuclei --by instance --out tiles
"""
_NUM_WITHOUT = 10
"""Labels without a pixel that are shown at most."""
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


Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--classes",
        help="Classes in the order of their labels, from 1 on.",
        show_default="those of the source",
    ),
]

# What imports have in common, each option with its default: those that stand before and behind the
# own ones of an import.
_BEFORE: dict[str, tuple[Any, Any]] = {
    "source": (Source, Parameter.empty),
    "out": (Out, Parameter.empty),
    "images": (Images, None),
    "classes": (Classes, None),
}
_BEHIND: dict[str, tuple[Any, Any]] = {
    "order": (OrderOption, None),
    "keep_instances": (KeepInstances, False),
    "copy": (Copy, False),
    "strict": (Strict, False),
}
_ALWAYS = frozenset({"source", "out"})
_OF_IMAGES = ("images", "copy", "strict")
Own = Mapping[str, Any]


def _import_command(
    name: str, *shared: str, **instead: Any
) -> Callable[[Callable[..., Own]], Callable[..., None]]:
    """Return the decorator of an import: of a function from the options that only this import has
    to those that its format reads.

    Args:
        name: Name of the format and of the command.
        shared: The options of `_BEFORE` and `_BEHIND` that it has besides source and --out.
        instead: Other declarations of them, whose help differs.
    """

    def decorate(function: Callable[..., Own]) -> Callable[..., None]:
        wanted = _ALWAYS | {*shared} | instead.keys()

        def declared(options: Mapping[str, tuple[Any, Any]]) -> Iterator[Parameter]:
            for option, (annotation, default) in options.items():
                if option in wanted:
                    kind = instead.get(option, annotation)
                    yield Parameter(
                        option, Parameter.KEYWORD_ONLY, default=default, annotation=kind
                    )

        own = list(signature(function, eval_str=True).parameters.values())
        parameters = [*declared(_BEFORE), *own, *declared(_BEHIND)]

        @wraps(function)
        def run(**options: Any) -> None:
            read = dict(function(**{option.name: options.pop(option.name) for option in own}))
            if "classes" in options:
                read["classes"] = separated(options.pop("classes"))
            _run(name, **options, own=read)

        vars(run)["__signature__"] = Signature(parameters)
        run.__annotations__ = {option.name: option.annotation for option in parameters}
        return app.command(name)(run)

    return decorate


@_import_command("coco", *_OF_IMAGES, "order", "keep_instances")
def coco(
    *,
    skip_crowds: Annotated[
        bool, typer.Option("--skip-crowds", help="Leave out annotations of crowds.")
    ] = False,
    boxes: Annotated[
        bool, typer.Option("--boxes", help="Draw the boxes of annotations without an outline.")
    ] = False,
) -> Own:
    """Import COCO annotations: polygons, run lengths, crowds.

    Masks are those of pycocotools, bit for bit. Later annotations lie on top, crowds below all.
    Interrupted runs resume.

    Exit codes: 0 all images have a mask; 2 refused; 3 some images are missing or cannot be used, or
    no annotation covers a pixel.

    Examples:
        histoprep import coco instances.json --out tiles
        histoprep import coco export --images export/photos --order area --out tiles
    """
    return {"skip_crowds": skip_crowds} | ({"boxes": True} if boxes else {})


@_import_command("labelme", *_OF_IMAGES, "classes", "order", "keep_instances")
def labelme() -> Own:
    """Import labelme annotations: polygons, rectangles, circles, masks.

    Masks are those that labelme draws, pixels under the outline included. Later shapes lie on top.
    An image that is only inside its file is written out. Interrupted runs resume.

    Exit codes: 0 all images have a mask; 2 refused; 3 some images are missing or cannot be used, or
    no annotation covers a pixel.

    Examples:
        histoprep import labelme annotated --out tiles
        histoprep import labelme json --images photos --classes stroma,tumour --out tiles
    """
    return {}


@_import_command("cvat", *_OF_IMAGES, "classes", "order", "keep_instances")
def cvat() -> Own:
    """Import annotations of CVAT for images 1.1: polygons, boxes, ellipses, masks.

    Higher z_order lies on top; within it, what comes later or, with --order, what that says.
    Interrupted runs resume.

    Exit codes: 0 all images have a mask; 2 refused; 3 some images are missing or cannot be used, or
    no annotation covers a pixel.

    Examples:
        histoprep import cvat annotations.xml --out tiles
        histoprep import cvat export --images export/images --out tiles
    """
    return {}


@_import_command("qupath", *_OF_IMAGES, "classes", "order", "keep_instances")
def qupath(
    *,
    pixels: Annotated[
        PixelRule,
        typer.Option(
            help=(
                "Which point of a pixel lies in an object: its centre, or its upper left corner as"
                " in label images that QuPath exports."
            )
        ),
    ] = PixelRule.CENTRE,
) -> Own:
    """Import objects that QuPath exported as GeoJSON, for images or for tiles of a slide.

    Tiles called `slide [d=2,x=0,y=0,w=1024,h=1024].png` take their part of slide.geojson, and the
    slide is their group. Smaller objects lie on
    top. Interrupted runs resume.

    Exit codes: 0 all images have a mask; 2 refused; 3 some images are missing or cannot be used, or
    no annotation covers a pixel.

    Examples:
        histoprep import qupath export --out tiles
        histoprep import qupath slide.geojson --images tiles --order file --out tree
    """
    return {"pixels": pixels}


@_import_command("panoptic", *_OF_IMAGES, "keep_instances")
def panoptic(
    *,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks", help="Folder of the PNG files.", show_default="the JSON file's name"
        ),
    ] = None,
) -> Own:
    """Import COCO panoptic annotations: a PNG of segments an image, a JSON file of what they are.

    Interrupted runs resume.

    Exit codes: 0 all images have a mask; 2 refused; 3 some images are missing or cannot be used, or
    no annotation covers a pixel.

    Examples:
        histoprep import panoptic panoptic_val.json --images val --out tiles
        histoprep import panoptic panoptic.json --masks segments --out tiles
    """
    return {"masks": masks}


@_import_command(
    "npy-stack",
    "order",
    "keep_instances",
    source=Annotated[
        Path, typer.Argument(help="Folder of images.npy and masks.npy.", show_default=False)
    ],
    classes=Annotated[
        list[str] | None,
        typer.Option(
            "--classes",
            help="Names of the channels, without the background.",
            show_default="PanNuke's for six channels",
        ),
    ],
)
def npy_stack(
    *,
    background_channel: Annotated[
        BackgroundChannel | None,
        typer.Option(help="Which channel is the background.", show_default="what the masks show"),
    ] = None,
    types: Annotated[
        TypesAre, typer.Option(help="What types.npy says of a tile: its label or its group.")
    ] = TypesAre.LABEL,
) -> Own:
    """Import stacks of tiles as NumPy arrays, such as PanNuke's.

    Each channel of the masks is a class; later channels lie on top. Stacks are mapped into memory.
    Interrupted runs resume.

    Exit codes: 0 all images have a mask; 2 refused; 3 some images cannot be used, or no
    annotation covers a pixel.

    Examples:
        histoprep import npy-stack pannuke --out tiles
        histoprep import npy-stack fold1 --types group --keep-instances --out tiles
    """
    return {"background_channel": background_channel, "types": types}


@_import_command("mat", *_OF_IMAGES, "classes", "keep_instances")
def mat(
    *,
    label_key: Annotated[
        str | None,
        typer.Option(
            "--label-key",
            help="Variable with the label of each pixel.",
            show_default="type_map, or inst_map and class",
        ),
    ] = None,
) -> Own:
    """Import MATLAB files with maps of nuclei: Lizard (inst_map, class), CoNSeP (type_map).

    Interrupted runs resume.

    Exit codes: 0 all images have a mask; 2 refused; 3 some images are missing or cannot be used, or
    no annotation covers a pixel.

    Examples:
        histoprep import mat Lizard_Labels/Labels --images Lizard_Images --out tiles
        histoprep import mat consep --label-key type_map --out tiles
    """
    return {"label_key": label_key}


@_import_command(
    "side-by-side",
    source=Annotated[
        Path, typer.Argument(help="Folder of the files, or a file.", show_default=False)
    ],
)
def side_by_side(
    *,
    mask: Annotated[
        MaskSide | None,
        typer.Option(
            help="On which side the mask is.", show_default="the half that looks like a mask"
        ),
    ] = None,
    colours: Annotated[
        list[str] | None,
        typer.Option(
            "--colours",
            help=(
                "Colours or grey values of the mask and their names, `#ff0000=tumour,255=lesion`;"
                " each pixel gets the nearest."
            ),
            show_default="those of the masks",
        ),
    ] = None,
) -> Own:
    """Import files that hold an image and its mask beside each other, A|B.

    Files are cut in the middle. Grey values of a mask are labels as they are; of a coloured one,
    every colour is a label, black the background. Interrupted runs resume.

    Exit codes: 0 all images have a mask; 2 refused; 3 some files cannot be used, or no
    annotation covers a pixel.

    Examples:
        histoprep import side-by-side pairs --out tiles
        histoprep import side-by-side pairs --mask left --colours '#ff0000=tumour' --out tiles
    """
    return {"mask": mask, "colours": separated(colours)}


@_import_command(
    "combine",
    *_OF_IMAGES,
    "order",
    "keep_instances",
    source=Annotated[Path, typer.Argument(help="Folder of images and masks.", show_default=False)],
    images=Annotated[
        Path | None,
        typer.Option("--images", help="Folder of the images.", show_default="by the names"),
    ],
    classes=Annotated[
        list[str] | None,
        typer.Option(
            "--classes",
            help="Classes in the order of their labels, from 1 on; the last lies on top.",
            show_default="by name",
        ),
    ],
)
def combine(
    *,
    by: Annotated[
        CombineBy,
        typer.Option("--by", help="What each mask file is for.", show_default=False),
    ],
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
) -> Own:
    """Combine several mask files of an image, one for each class or each object, into one.

    Classes lie over each other in the order of their labels, objects in the order of their names;
    the last lies on top. Images without any mask stay without one. Interrupted runs resume.

    Exit codes: 0 all masks are used; 2 refused; 3 some images are missing or cannot be used, or
    no annotation covers a pixel.

    Examples:
        histoprep import combine tiles --by class --classes stroma,tumour --out combined
        histoprep import combine stage1_train --by instance --out combined
    """
    return {"by": by, "masks": masks, "mask_pattern": mask_pattern}


def _run(
    name: str,
    *,
    source: Path,
    out: Path,
    own: Own,
    images: Path | None = None,
    order: DrawingOrder | None = None,
    keep_instances: bool = False,
    copy: bool = False,
    strict: bool = False,
) -> None:
    """Import and print what came of it."""
    from histoprep.importing import ImportOptions, plan_import, run_import
    from histoprep.importing.formats import Search, read_source

    search = Search(images, out.absolute(), order)
    collection = read_source(name, source, search, **own)
    for text in collection.notes:
        console.note(text)
    stated = {"order": str(order) if order else None, "images": _stated(images)}
    stated |= {key: _stated(value) for key, value in own.items()} | dict(collection.found)
    options = ImportOptions(out, copy, keep_instances, strict, stated)
    plan = plan_import(name, source, collection, options)
    with progress_of("importing", "images") as advance:
        result = run_import(plan, advance)
    _print(result)
    _warn_of_labels(collection, plan.label_map)
    _warn_without_area(result.counts, collection)
    has_annotations = bool(result.counts.read or collection.skipped)
    is_empty = has_annotations and not result.counts.drawn
    if is_empty:
        console.warn(f"no annotation covers a pixel: every mask in {result.out} is empty")
    console.note(f"next: {next_command(result)}")
    raise typer.Exit(ExitCode.INCOMPLETE if result.num_failed or is_empty else ExitCode.OK)


def _warn_of_labels(collection: Collection, label_map: LabelMap) -> None:
    """Say that a label map cannot have as many classes as there are labels."""
    from histoprep.labels.format import MAX_CLASS_ID

    if label_map.num_classes < len(collection.labels):
        console.warn(
            f"{len(collection.labels):,} labels are more than the {MAX_CLASS_ID + 1} classes that a"
            f" label map can have: masks keep them all, label_map.yml has"
            f" {label_map.num_classes} classes,"
            f" {' and '.join(cls.name for cls in label_map.classes)}; edit it to tell them apart"
        )


def _warn_without_area(counts: AnnotationCounts, collection: Collection) -> None:
    """Say how many annotations of which kind are in no mask, without those left out on purpose."""
    skipped = counts.skipped + collection.skipped
    kinds = {kind: skipped[kind] for kind in sorted(skipped) if kind not in collection.intended}
    if kinds:
        console.warn(
            f"{plural(sum(kinds.values()), 'annotation')} without an area, in no mask:"
            f" {', '.join(f'{number:,} {kind}' for kind, number in kinds.items())}"
        )


def _stated(value: object) -> object:
    """Return an option as the request has it."""
    if isinstance(value, tuple | list):
        return [_stated(item) for item in value]
    return value if value is None or isinstance(value, bool | int) else str(value)


def _print(result: ImportResult) -> None:
    total = sum(result.label_pixels.values()) or 1
    rows = []
    sources = result.label_map.sources
    shown = [source for source in sources if result.label_pixels.get(source.id)]
    if len(sources) - len(shown) > _NUM_WITHOUT:
        console.note(f"{len(sources) - len(shown):,} labels without a pixel are not shown")
        sources = tuple(shown)
    for source in sources:
        pixels = result.label_pixels.get(source.id, 0)
        rows.append((str(source.id), source.name, pixels, f"{100 * pixels / total:.2f}"))
    for value, _ in result.label_map.ignore:
        pixels = result.label_pixels.get(value, 0)
        rows.append((str(value), "(ignored)", pixels, f"{100 * pixels / total:.2f}"))
    console.table(("label", "name", "pixels", "pixel %"), rows, title="Labels of the masks")
    failed = [f"not imported: {name}: {reason}" for name, reason in result.failed]
    console.warn_each(failed, total=result.num_failed, rest=f"all are in {result.ledger}")
    if result.counts.several_values:
        console.warn(
            f"{plural(result.counts.several_values, 'mask file')} with several values, where one"
            " class or object was expected: whatever is not 0 counts as set; is each a whole mask"
            f" of several labels? They are in {result.ledger}, column several_values"
        )
    for name in result.unexpected[:10]:
        console.warn(f"not written by import, left alone: {result.out / name}")
    if result.up_to_date:
        console.note("nothing had changed")
    for line in summary_lines(result):
        console.out(line)


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
    how = ", ".join(_how(word, number) for word, number in sorted(result.how.items()))
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


def _how(word: str, number: int) -> str:
    return plural(number, word) if word.endswith("link") else f"{number:,} {word}"


def next_command(result: ImportResult) -> str:
    """Return the command that audits the tree."""
    from histoprep.links import SYMBOLIC_LINK

    words = ["histoprep audit", shlex.quote(str(result.out))]
    words += [f"--{name}-by csv:{name}" for name in ("group", "label") if name in result.columns]
    if SYMBOLIC_LINK in result.how:
        words.append("--follow-links")
    return " ".join(words)
