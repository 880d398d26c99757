"""COCO: one JSON file with images, annotations and categories.

Annotations are polygons (several are one area), run lengths or compressed run lengths, both down
the columns. Later annotations lie on top, and crowds below all others.

Source of the format: https://cocodataset.org/#format-data and pycocotools 2.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from histoprep.choices import DrawingOrder
from histoprep.errors import UsageError
from histoprep.importing.canvas import Annotation, Outline, draw
from histoprep.importing.extras import coco_masks
from histoprep.importing.formats import Search, as_image
from histoprep.importing.images import safe_names
from histoprep.importing.legend import hexadecimal, number_labels
from histoprep.importing.model import Collection, Drawing, ImageSize, Item
from histoprep.importing.outlines import CocoPolygons, RunLengths, corners
from histoprep.importing.reading import Node
from histoprep.importing.run_lengths import decompress
from histoprep.phrases import first_of, plural

ORDER = DrawingOrder.FILE
NO_OUTLINE, CROWD = "without outline", "crowd"
_CROWD_LAYER = -1


class _Options(NamedTuple):
    """What is drawn of annotations that are no plain outlines."""

    skip_crowds: bool
    boxes: bool


@dataclass(slots=True)
class _Image:
    """An image of an annotation file, its annotations, and how many of those that were skipped have
    a box.
    """

    node: Node
    name: str
    size: ImageSize
    folder: Path
    annotations: list[Annotation] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    num_boxes: int = 0


def read(
    source: Path, search: Search, *, skip_crowds: bool = False, boxes: bool = False
) -> Collection:
    """Return the images of a COCO file, or of all COCO files below a folder.

    Args:
        source: The file, or a folder such as an export with a file for each split.
        search: Where images are looked for.
        skip_crowds: Whether annotations with `iscrowd` are left out.
        boxes: Whether the box of an annotation without an outline is drawn.

    Raises:
        UsageError: It is no such file; AnnotationError names the place.
    """
    coco_masks()
    files = _coco_files(source, search)
    labels, numbers = number_labels(_categories(files))
    options = _Options(skip_crowds, boxes)
    images = [image for file in files for image in _images(file, numbers, options)]
    index = search.index(source)
    names = safe_names(_place_of(image, source) for image in images)
    order = search.order or ORDER
    items = tuple(
        Item(
            name,
            f"{image.node.file.name}, {image.node.place}",
            as_image(index.find(image.name, beside=image.folder)),
            partial(_draw, image, order),
            image.size,
        )
        for name, image in zip(names, images, strict=True)
    )
    return Collection(
        labels,
        items,
        tuple(file.file for file in files),
        _notes(images),
        intended=frozenset((CROWD,)),
    )


def _notes(images: Sequence[_Image]) -> tuple[str, ...]:
    number = sum(image.num_boxes for image in images)
    if not number:
        return ()
    have = "has a box and no outline" if number == 1 else "have a box and no outline"
    return (f"{plural(number, 'annotation')} {have}: with --boxes, boxes are drawn",)


def _coco_files(source: Path, search: Search) -> list[Node]:
    nodes = [Node.of_json(path) for path in search.files(source, ".json")]
    chosen = [node for node in nodes if _is_coco(node)]
    if chosen:
        return chosen
    seen = nodes[0].value
    keys = ", ".join(map(repr, list(seen)[:8])) if isinstance(seen, dict) else "no object"
    panoptic = isinstance(seen, dict) and _is_panoptic(nodes[0])
    raise UsageError(
        "this is no COCO file of polygons or run lengths",
        path=nodes[0].file,
        seen="segments_info, a panoptic file" if panoptic else keys,
        expected="an object with 'images', 'annotations' and 'categories'",
        hint=f"histoprep import panoptic {source} --out DIR" if panoptic else None,
    )


def _is_coco(node: Node) -> bool:
    return (
        isinstance(node.value, dict)
        and {"images", "annotations", "categories"} <= node.value.keys()
        and not _is_panoptic(node)
    )


def _is_panoptic(node: Node) -> bool:
    annotations = node.value.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    return isinstance(first, dict) and "segments_info" in first


def _categories(files: Iterable[Node]) -> list[tuple[int, str, str | None]]:
    found: dict[int, tuple[str, str | None]] = {}
    for file in files:
        for node in file.entry("categories").items():
            number, name = node.entry("id").whole(least=0), node.entry("name").text()
            known = found.setdefault(number, (name, colour_in(node)))
            if known[0] != name:
                raise node.fault(
                    f"category {number} has two names",
                    seen=repr(name),
                    expected=repr(known[0]),
                    hint="import the files one by one",
                )
    return [(number, *rest) for number, rest in found.items()]


def colour_in(node: Node) -> str | None:
    """Return the colour of a category: `color` as three numbers or as text; None without."""
    colour = node.value.get("color", node.value.get("colour"))
    if isinstance(colour, str):
        return colour
    numbers = colour if isinstance(colour, list) else []
    usable = [value for value in numbers[:3] if isinstance(value, int) and 0 <= value < 256]
    return hexadecimal(*usable) if len(usable) == 3 else None


def _images(file: Node, numbers: dict[int, int], options: _Options) -> Iterable[_Image]:
    images: dict[str, _Image] = {}
    for node in file.entry("images").items():
        key = _key(node.entry("id"))
        named = node.at(f"image {key}")
        if key in images:
            raise named.fault("two images have this id")
        images[key] = _Image(
            named,
            named.entry("file_name").text(),
            ImageSize(named.entry("height").whole(least=1), named.entry("width").whole(least=1)),
            file.file.absolute().parent,
        )
    for place, node in enumerate(file.entry("annotations").items()):
        named = node.at(f"annotation {node.value['id'] if _has_id(node) else f'no. {place}'}")
        key = _key(named.entry("image_id"))
        if key not in images:
            raise named.fault(
                "its image is not among the images",
                seen=f"image_id {key}",
                expected=f"one of {first_of(list(images), limit=5)}",
            )
        _add(images[key], named, numbers, options)
    return images.values()


def _has_id(node: Node) -> bool:
    return isinstance(node.value, dict) and "id" in node.value


def _key(node: Node) -> str:
    # Most files have numbers, some have texts, and some have both.
    return node.text() if isinstance(node.value, str) else str(node.whole())


def _add(image: _Image, node: Node, numbers: dict[int, int], options: _Options) -> None:
    category = node.entry("category_id").whole()
    if not numbers:
        raise node.fault(
            "the file has no categories",
            seen=f"category_id {category}",
            expected="'categories' with the id and name of each",
        )
    if category not in numbers:
        raise node.fault(
            "its category is not among the categories",
            seen=f"category_id {category}",
            expected=f"one of {first_of(sorted(numbers), limit=10)}",
        )
    crowd = node.find("iscrowd")
    is_crowd = crowd is not None and bool(crowd.value)
    if is_crowd and options.skip_crowds:
        image.skipped[CROWD] += 1
        return
    outline = _outline(node, image.size)
    box = node.find("bbox") if outline is None else None
    if box is not None and options.boxes:
        outline = _box(box)
    if outline is None:
        image.skipped[NO_OUTLINE] += 1
        image.num_boxes += box is not None
        return
    layer = _CROWD_LAYER if is_crowd else 0
    image.annotations.append(Annotation(numbers[category], outline, layer))


def _outline(node: Node, size: ImageSize) -> Outline | None:
    segmentation = node.find("segmentation")
    if segmentation is None or segmentation.value in ([], {}):
        return None
    if isinstance(segmentation.value, dict):
        return run_lengths(segmentation, size)
    parts = list(segmentation.items())
    # Some tools write the numbers of a single polygon without a list around them.
    if all(isinstance(part.value, int | float) for part in parts):
        parts = [segmentation]
    return CocoPolygons(tuple(corners(_coordinates(part)) for part in parts))


def _box(node: Node) -> Outline:
    """Return the area of a `bbox`: left, top, width, height."""
    numbers = node.coordinates()
    if len(numbers) != 4 or min(numbers[2:]) < 0:
        raise node.fault("no box", expected="left, top, width and height, none of them below 0")
    left, top, width, height = numbers
    right, bottom = left + width, top + height
    return CocoPolygons((corners([left, top, right, top, right, bottom, left, bottom]),))


def _coordinates(node: Node) -> list[float]:
    numbers = node.coordinates()
    if len(numbers) % 2:
        raise node.fault(
            "a polygon of an odd number of coordinates",
            seen=f"{len(numbers)} numbers",
            expected="x, y, x, y, ...",
        )
    return numbers


def run_lengths(node: Node, size: ImageSize) -> RunLengths:
    """Return the mask of a `segmentation` of run lengths, compressed or not.

    Raises:
        AnnotationError: They are not those of an image of this size. pycocotools takes too few of
            them for a mask, and fills the rest with what is in memory.
    """
    stated = node.entry("size").numbers()
    if stated != [float(size.height_px), float(size.width_px)]:
        raise node.fault(
            "a mask of another size than its image",
            seen=f"size {node.entry('size').value}",
            expected=f"[{size.height_px}, {size.width_px}], height first",
        )
    counts = node.entry("counts")
    if isinstance(counts.value, str):
        runs = _decompressed(counts)
    else:
        runs = np.array([item.whole(least=0) for item in counts.items()], np.int64)
    if runs.sum() != size.height_px * size.width_px or runs.min(initial=0) < 0:
        raise counts.fault(
            "run lengths of another number of pixels than the image has",
            seen=f"{int(runs.sum()):,} pixels in {len(runs):,} runs",
            expected=f"{size.height_px * size.width_px:,}",
        )
    return RunLengths(runs, size)


def _decompressed(node: Node) -> np.ndarray:
    try:
        return decompress(node.text().encode("utf-8"))
    except ValueError as error:
        raise node.fault(str(error), expected="characters from 0 to o") from error


def _place_of(image: _Image, source: Path) -> str:
    """Return the path of an image in the tree: its name, below the folder of its file."""
    if not source.is_dir():
        return image.name
    folder = image.node.file.parent.relative_to(source)
    return f"{folder.as_posix()}/{image.name}"


def _draw(image: _Image, order: DrawingOrder, size: ImageSize) -> Drawing:
    return draw(image.annotations, order, size, skipped=image.skipped)
