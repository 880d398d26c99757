"""CVAT for images 1.1: an XML file with polygons, boxes, ellipses and masks.

`z_order` says what lies on top; within it, what comes later. Polygons and boxes are those of
pycocotools, ellipses those of OpenCV: what CVAT itself exports as masks.

Source: CVAT's documentation of the XML annotation format, version 1.1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from histoprep.choices import DrawingOrder
from histoprep.importing.canvas import Annotation, Outline, draw
from histoprep.importing.extras import coco_masks
from histoprep.importing.formats import Search, as_image, number_names
from histoprep.importing.images import safe_names
from histoprep.importing.model import Collection, Drawing, ImageSize, Item
from histoprep.importing.outlines import CocoPolygons, Ellipse, RunLengths
from histoprep.importing.reading import MOST_PX, AnnotationError, read_bytes

ORDER = DrawingOrder.FILE
_NO_AREAS = ("polyline", "points", "cuboid", "skeleton", "tag")


@dataclass(frozen=True, slots=True)
class _Element:
    """An element of the XML file and where it stands."""

    file: Path
    place: str
    xml: ElementTree.Element

    def fault(self, what: str, *, seen: object = None, expected: str = "") -> AnnotationError:
        return AnnotationError(
            f"{self.place}: {what}", path=self.file, seen=seen, expected=expected or None
        )

    def text(self, name: str) -> str:
        value = self.xml.get(name)
        if value is None:
            seen = ", ".join(self.xml.keys()) or "no attributes"
            raise self.fault(f"the attribute {name!r} is missing", seen=seen)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        if default is not None and self.xml.get(name) is None:
            return default
        return self.parse(name, self.text(name))

    def parse(self, name: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= MOST_PX:
            raise self.fault(
                f"{name} is no usable number",
                seen=text.strip()[:40] or "nothing",
                expected=f"a number of at most {MOST_PX:,.0f}",
            )
        return value

    def whole(self, name: str, *, least: int) -> int:
        value = self.number(name)
        if value != int(value) or value < least:
            raise self.fault(
                f"{name} is not usable",
                seen=self.text(name),
                expected=f"a whole number of at least {least}",
            )
        return int(value)


@dataclass(slots=True)
class _Image:
    element: _Element
    name: str
    size: ImageSize
    shapes: list[tuple[str, Outline, float]]
    skipped: Counter[str]


def read(source: Path, search: Search, *, classes: Sequence[str] = ()) -> Collection:
    """Return the images of a CVAT file, or of all below a folder.

    Args:
        source: The file or folder.
        search: Where images are looked for.
        classes: Classes in the order of their labels, from 1 on; by default those of the file.

    Raises:
        UsageError: It is no such file; AnnotationError names the place.
    """
    coco_masks()
    roots = [_root(path) for path in search.files(source, ".xml")]
    images = [image for root in roots for image in _images(root)]
    colours = {name: colour for root in roots for name, colour in _declared(root).items()}
    seen = {name for image in images for name, *_ in image.shapes}
    # The order of the project, then what it does not list.
    order_of_file = [*colours, *sorted(seen - colours.keys())]
    known = {name: colour for name, colour in colours.items() if colour}
    labels, numbers = number_names(seen, classes or order_of_file, known)
    index = search.index(source)
    names = safe_names(image.name for image in images)
    order = search.order or ORDER
    items = tuple(
        Item(
            name,
            f"{image.element.file.name}, {image.element.place}",
            as_image(index.find(image.name, beside=image.element.file.absolute().parent)),
            partial(_draw, image, numbers, order),
            image.size,
        )
        for name, image in zip(names, images, strict=True)
    )
    return Collection(labels, items, tuple(root.file for root in roots))


def _root(path: Path) -> _Element:
    data = read_bytes(path)
    if b"<!DOCTYPE" in data or b"\0" in data:
        raise AnnotationError(
            "an annotation file with a document type or in UTF-16, which CVAT does not write",
            path=path,
            expected="<annotations> in UTF-8",
        )
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise AnnotationError(
            f"this file is no XML, or cut off: {error}", path=path, seen=f"{len(data):,} bytes"
        ) from error
    element = _Element(path, f"<{root.tag}>", root)
    if root.tag != "annotations":
        raise element.fault("this is no CVAT file", expected="<annotations>")
    if root.find("track") is not None:
        raise element.fault(
            "tracks of a video",
            seen="<track>",
            expected="CVAT for images 1.1; export the task in that format",
        )
    return element


def _declared(root: _Element) -> dict[str, str | None]:
    """Return the labels of the task, job or project, and their colours."""
    names: dict[str, str | None] = {}
    for label in root.xml.iterfind("./meta/*/labels/label"):
        name = label.findtext("name")
        if name:
            names.setdefault(name, label.findtext("color"))
    return names


def _images(root: _Element) -> list[_Image]:
    images = []
    for xml in root.xml.iterfind("image"):
        element = _Element(root.file, f"image {xml.get('name') or xml.get('id')!r}", xml)
        size = ImageSize(element.whole("height", least=1), element.whole("width", least=1))
        image = _Image(element, element.text("name"), size, [], Counter())
        for place, shape in enumerate(xml):
            _add(image, _Element(root.file, f"{element.place}, {shape.tag} {place}", shape))
        images.append(image)
    return images


def _add(image: _Image, shape: _Element) -> None:
    kind = shape.xml.tag
    reader = _READERS.get(kind)
    if reader is not None:
        z_order = shape.number("z_order", 0.0)
        image.shapes.append((shape.text("label"), reader(shape), z_order))
    elif kind in _NO_AREAS:
        image.skipped[kind] += 1
    else:
        raise shape.fault(
            "an element that CVAT does not write here",
            seen=f"<{kind}>",
            expected=", ".join(_READERS),
        )


def _polygon(shape: _Element) -> Outline:
    points = [
        [shape.parse("a coordinate", part) for part in pair.split(",")]
        for pair in shape.text("points").split(";")
        if pair.strip()
    ]
    if any(len(point) != 2 for point in points):
        raise shape.fault(
            "a point that is no pair of numbers",
            seen=shape.text("points")[:40],
            expected="x,y;x,y;...",
        )
    return CocoPolygons((np.array(points, np.float64).reshape(-1, 2),))


def _box(shape: _Element) -> Outline:
    left, top, right, bottom = (shape.number(name) for name in ("xtl", "ytl", "xbr", "ybr"))
    if right < left or bottom < top:
        raise shape.fault(
            "a box of a width or height below 0",
            seen=f"xtl {left:g}, ytl {top:g}, xbr {right:g}, ybr {bottom:g}",
            expected="xtl at most xbr, ytl at most ybr",
        )
    corners = np.array([[left, top], [left, bottom], [right, bottom], [right, top]])
    turn = math.radians(shape.number("rotation", 0.0))
    if not turn:
        return CocoPolygons((corners,))
    # Clockwise on the screen, where y grows downwards, about the centre of the box.
    centre = np.array([(left + right) / 2, (top + bottom) / 2])
    matrix = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return CocoPolygons(((corners - centre) @ matrix + centre,))


def _ellipse(shape: _Element) -> Outline:
    x, y, radius_x, radius_y = (shape.number(name) for name in ("cx", "cy", "rx", "ry"))
    if min(radius_x, radius_y) < 0:
        raise shape.fault(
            "a radius below 0",
            seen=f"rx {radius_x:g}, ry {radius_y:g}",
            expected="rx and ry of at least 0",
        )
    return Ellipse((x, y), (radius_x, radius_y), shape.number("rotation", 0.0))


def _mask(shape: _Element) -> Outline:
    """Return run lengths along the rows of a box, the first of them without the area."""
    runs = np.array(
        [shape.parse("a run length", part) for part in shape.text("rle").split(",")], np.float64
    )
    size = ImageSize(shape.whole("height", least=1), shape.whole("width", least=1))
    if (runs != runs.round()).any() or runs.min() < 0 or runs.sum() != math.prod(size):
        raise shape.fault(
            "run lengths of another number of pixels than the mask has",
            seen=f"{runs.sum():,.0f} pixels in {len(runs):,} runs",
            expected=f"{math.prod(size):,}",
        )
    top, left = (int(shape.number(name)) for name in ("top", "left"))
    return RunLengths(runs.astype(np.int64), size, top, left, by_column=False)


_READERS: dict[str, Callable[[_Element], Outline]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
}


def _draw(image: _Image, numbers: dict[str, int], order: DrawingOrder, size: ImageSize) -> Drawing:
    annotations = [
        Annotation(numbers[name], outline, layer) for name, outline, layer in image.shapes
    ]
    return draw(annotations, order, size, skipped=image.skipped)
