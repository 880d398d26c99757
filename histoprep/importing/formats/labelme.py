"""labelme: one JSON file an image, with polygons, rectangles, circles and masks.

Later shapes lie on top, and pixels under the outline belong to a shape: both as in labelme's own
export. The image may be part of the file (`imageData`); it is used where no file is found.

Source: labelme 5, `labelme.utils.shape`, and the JSON that it writes.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from histoprep import image_formats
from histoprep.choices import DrawingOrder
from histoprep.errors import BrokenFileError
from histoprep.imageio import decode_stored, read_header
from histoprep.importing.canvas import Annotation, Outline, draw
from histoprep.importing.formats import Search, number_names
from histoprep.importing.images import ImageIndex, safe_names
from histoprep.importing.legend import refuse_ignored_label
from histoprep.importing.model import Collection, Drawing, ImageFile, ImageSize, Item, MadeImage
from histoprep.importing.outlines import Bitmap, PillowBox, PillowPolygon
from histoprep.importing.reading import Node
from histoprep.labels import IGNORED_ID

ORDER = DrawingOrder.FILE
IGNORED_NAME = "__ignore__"
"""A label that labelme exports as -1: such pixels belong to no class."""
_POLYGONS = ("polygon", "oriented_rectangle")


@dataclass(slots=True)
class _Sheet:
    """What a file says of its image."""

    node: Node
    shapes: list[tuple[str, Outline]]
    skipped: Counter[str]
    size: ImageSize | None


def read(source: Path, search: Search, *, classes: Sequence[str] = ()) -> Collection:
    """Return the images of a labelme file, or of all below a folder.

    Args:
        source: The file or folder.
        search: Where images are looked for.
        classes: Classes in the order of their labels, from 1 on.

    Raises:
        UsageError: It is no such file; AnnotationError names the place.
    """
    sheets = [_read_sheet(Node.of_json(path)) for path in search.files(source, ".json")]
    index = search.index(source)
    seen = {name for sheet in sheets for name, _ in sheet.shapes}
    labels, numbers = number_names(seen - {IGNORED_NAME}, classes)
    ignored = (IGNORED_ID,) if IGNORED_NAME in seen else ()
    if ignored:
        refuse_ignored_label(labels, source, IGNORED_NAME)
    numbers[IGNORED_NAME] = IGNORED_ID
    names = safe_names(_place_of(sheet, source) for sheet in sheets)
    order = search.order or ORDER
    items = tuple(
        Item(
            name,
            sheet.node.file.name,
            _image(sheet, index),
            partial(_draw, sheet, numbers, order),
            sheet.size,
        )
        for name, sheet in zip(names, sheets, strict=True)
    )
    return Collection(labels, items, tuple(sheet.node.file for sheet in sheets), ignored=ignored)


def _read_sheet(node: Node) -> _Sheet:
    if not isinstance(node.value, dict) or "shapes" not in node.value:
        seen = ", ".join(map(repr, node.value)) if isinstance(node.value, dict) else None
        raise node.fault(
            "this is no labelme file", seen=seen, expected="an object with 'shapes' and 'imagePath'"
        )
    shapes: list[tuple[str, Outline]] = []
    skipped: Counter[str] = Counter()
    for place, entry in enumerate(node.entry("shapes").items()):
        named = entry.at(f"shape {place}")
        kind = named.find("shape_type")
        word = "polygon" if kind is None else kind.text()
        reader = _READERS.get(word)
        if reader is None:
            skipped[word] += 1
        else:
            shapes.append((named.entry("label").text(), reader(named)))
    height, width = node.find("imageHeight"), node.find("imageWidth")
    known = height is not None and width is not None
    size = ImageSize(height.whole(least=1), width.whole(least=1)) if known else None  # type: ignore[union-attr]
    return _Sheet(node, shapes, skipped, size)


def _points(node: Node, *, number: int | None = None) -> np.ndarray:
    points = node.entry("points")
    rows = [point.point() for point in points.items()]
    if number is not None and len(rows) != number:
        raise points.fault(
            "another number of points than this shape has",
            seen=f"{len(rows)} points",
            expected=f"{number}",
        )
    return np.array(rows, np.float64).reshape(-1, 2)


def _circle(node: Node) -> Outline:
    (x, y), (edge_x, edge_y) = _points(node, number=2)
    radius = math.hypot(x - edge_x, y - edge_y)
    return PillowBox(np.array([[x - radius, y - radius], [x + radius, y + radius]]), round=True)


def _mask(node: Node) -> Outline:
    """Return a bitmap: its corners, and a PNG in base64."""
    corners = _points(node, number=2)
    (left, top), (right, bottom) = corners.round().astype(int)
    content = node.entry("mask")
    try:
        data = base64.b64decode(content.text(), validate=True)
        header = read_header(data)
        stored = decode_stored(data, header)
    except (binascii.Error, BrokenFileError) as error:
        raise content.fault(
            f"no PNG in base64: {error}", seen=f"{len(content.text()):,} characters"
        ) from error
    pixels = stored != 0 if stored.ndim == 2 else (stored != 0).any(-1)
    # Corners with fractions are rounded each on its own, which may change the extent.
    is_whole = bool((corners == corners.round()).all())
    if is_whole and pixels.shape != (bottom - top + 1, right - left + 1):
        raise content.fault(
            "a bitmap of another size than its corners say",
            seen=str(ImageSize(*pixels.shape)),
            expected=str(ImageSize(int(bottom - top + 1), int(right - left + 1))),
        )
    return Bitmap(np.asarray(pixels, bool), int(top), int(left))


_READERS: dict[str, Callable[[Node], Outline]] = {
    **dict.fromkeys(_POLYGONS, lambda node: PillowPolygon(_points(node))),
    "rectangle": lambda node: PillowBox(_points(node, number=2)),
    "circle": _circle,
    "mask": _mask,
}


def _place_of(sheet: _Sheet, source: Path) -> str:
    file = sheet.node.file
    place = file.relative_to(source) if source.is_dir() else Path(file.name)
    return place.with_suffix("").as_posix()


def _image(sheet: _Sheet, index: ImageIndex) -> ImageFile | MadeImage | str:
    """Return the image that a file names, else the one of its own name, else the one inside it."""
    folder, path = sheet.node.file.absolute().parent, sheet.node.find("imagePath")
    named = "it names no image" if path is None else index.find(path.text(), beside=folder)
    if isinstance(named, Path):
        return ImageFile(named)
    own = index.find_stem(sheet.node.file.stem, beside=folder)
    if isinstance(own, Path):
        return ImageFile(own)
    inside = sheet.node.find("imageData")
    if inside is None:
        return named
    try:
        data = base64.b64decode(inside.text(), validate=True)
    except binascii.Error:
        return "imageData is no base64"
    known = image_formats.sniff(data)
    if known is None:
        return f"imageData is no {image_formats.titles()}"
    return MadeImage(lambda: data, f".{known.suffixes[0]}")


def _draw(sheet: _Sheet, numbers: dict[str, int], order: DrawingOrder, size: ImageSize) -> Drawing:
    annotations = [Annotation(numbers[name], outline) for name, outline in sheet.shapes]
    return draw(annotations, order, size, skipped=sheet.skipped)
