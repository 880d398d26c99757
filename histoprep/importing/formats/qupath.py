"""QuPath: GeoJSON of annotations or detections, for an image or for a slide that tiles were cut
from.

A file belongs to the image of its name. Where there are tiles called
`slide [d=2,x=0,y=0,w=1024,h=1024].png`, as QuPath's exporter calls them, the file `slide.geojson`
is cut into them: x, y, w and h are pixels of the slide, d is the downsampling. Larger areas lie below
smaller ones, as in QuPath's hierarchy, where what lies in another object is drawn on it.

Sources: RFC 7946; GeoJSON as QuPath 0.2 to 0.6 writes it.
"""  # noqa: E501

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from histoprep.choices import DrawingOrder, PixelRule
from histoprep.errors import UsageError
from histoprep.importing.canvas import Annotation, draw
from histoprep.importing.extras import rasterio_features
from histoprep.importing.formats import Search, as_image, number_names
from histoprep.importing.images import ImageIndex, is_image_name, safe_names
from histoprep.importing.legend import hexadecimal, refuse_ignored_label
from histoprep.importing.model import Collection, Drawing, ImageFile, ImageSize, Item
from histoprep.importing.outlines import Rings
from histoprep.importing.reading import Node
from histoprep.labels import IGNORED_ID
from histoprep.names import pairing_key
from histoprep.phrases import plural

ORDER = DrawingOrder.AREA
UNCLASSIFIED = "Unclassified"
NO_GEOMETRY = "no geometry"
IGNORED_NAME = "Ignore*"
"""The class of areas that belong to no class, as QuPath's own classifiers leave them out."""
_TILE = re.compile(r"(?P<slide>.*?)[\s_-]*\[(?P<region>[^\[\]]*=[^\[\]]*)\]$")
_AREAS = ("Polygon", "MultiPolygon")
_FULL = 0xFF
MOST_SLIDE_PX = 1e8
# Outlines are moved instead of pixels.
_SHIFTS = {PixelRule.CENTRE: 0.0, PixelRule.CORNER: 0.5}


class _Region(NamedTuple):
    """Where a tile lies in its slide: pixels of the slide, and how many of them are one of the
    tile's.
    """

    x: float
    y: float
    width: float
    height: float
    downsampling: float


@dataclass(slots=True)
class _Slide:
    """The objects of a GeoJSON file; `boxes` are left, top, right and bottom of each, float64
    [objects, 4].
    """

    file: Path
    shapes: list[tuple[str, Rings]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    colours: dict[str, str] = field(default_factory=dict)
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))

    def leave_out(self, classes: Sequence[str]) -> None:
        """Leave out the objects of classes that QuPath ignores, unless they are requested."""
        kept = [not _is_left_out(name) or name in classes for name, _ in self.shapes]
        self.skipped.update(
            name for (name, _), is_kept in zip(self.shapes, kept, strict=True) if not is_kept
        )
        self.shapes = list(itertools.compress(self.shapes, kept))
        self.boxes = self.boxes[np.array(kept, bool)]

    def meeting(self, region: _Region) -> np.ndarray:
        """Return the numbers of the objects that may share pixels with a tile, int64 [n]."""
        left, top, right, bottom = self.boxes.T
        return np.flatnonzero(
            (right > region.x)
            & (bottom > region.y)
            & (left < region.x + region.width)
            & (top < region.y + region.height)
        )


def read(
    source: Path,
    search: Search,
    *,
    classes: Sequence[str] = (),
    pixels: PixelRule = PixelRule.CENTRE,
) -> Collection:
    """Return the images of a GeoJSON file, or of all below a folder.

    Args:
        source: The file or folder.
        search: Where images and tiles are looked for.
        classes: Classes in the order of their labels, from 1 on.
        pixels: Which point of a pixel has to lie in an outline: its centre or, as in label images
            that QuPath exports, its upper left corner.

    Raises:
        UsageError: It is no such file; AnnotationError names the place.
    """
    rasterio_features()
    nodes = [Node.of_json(path) for path in search.files(source, ".geojson", ".json")]
    slides = [_read_slide(node) for node in nodes]
    index = search.index(source)
    tiles = _tiles_by_slide(index)
    colours = {name: colour for slide in slides for name, colour in slide.colours.items()}
    for slide in slides:
        slide.leave_out(classes)
    seen = {name for slide in slides for name, _ in slide.shapes}
    is_ignored = IGNORED_NAME in seen and IGNORED_NAME not in classes
    if is_ignored:
        seen.remove(IGNORED_NAME)
    labels, numbers = number_names(seen, classes, colours, last=UNCLASSIFIED)
    if is_ignored:
        refuse_ignored_label(labels, source, IGNORED_NAME)
        numbers[IGNORED_NAME] = IGNORED_ID
    entries = [entry for slide in slides for entry in _entries(slide, index, tiles)]
    names = safe_names(name for name, *_ in entries)
    order = search.order or ORDER
    items = tuple(
        Item(
            name,
            slide.file.name,
            image,
            partial(_draw, slide, region, numbers, order, _SHIFTS[pixels]),
            columns={} if region is None else {"group": _slide_name(slide.file)},
        )
        for name, (_, slide, image, region) in zip(names, entries, strict=True)
    )
    notes = [note for slide in slides for note in _notes(slide, entries)]
    left_out = sorted({name for slide in slides for name in slide.skipped if _is_left_out(name)})
    notes += [_convention_note(name) for name in [IGNORED_NAME] * is_ignored + left_out]
    return Collection(
        labels,
        items,
        tuple(slide.file for slide in slides),
        tuple(notes),
        (IGNORED_ID,) if is_ignored else (),
        skipped=_skipped_beside_tiles(slides, entries),
        intended=frozenset(left_out),
    )


def _is_left_out(name: str) -> bool:
    return name.endswith("*") and name != IGNORED_NAME


def _convention_note(name: str) -> str:
    """Return what became of a class whose name ends in `*`, which QuPath itself ignores."""
    done = (
        f"its pixels belong to no class (label {IGNORED_ID})"
        if name == IGNORED_NAME
        else "its objects are not drawn"
    )
    return f"QuPath ignores classes called ...*, such as {name}: {done}; --classes can name it"


def _skipped_beside_tiles(slides: Sequence[_Slide], entries: Sequence[_Entry]) -> Counter[str]:
    """Return what is left out of slides that were cut into tiles: of which tile, nobody knows."""
    tiled = {id(slide) for _, slide, _, region in entries if region is not None}
    total: Counter[str] = Counter()
    for slide in slides:
        if id(slide) in tiled:
            total.update(slide.skipped)
    return total


def _read_slide(node: Node) -> _Slide:
    slide = _Slide(node.file)
    for place, feature in enumerate(_features(node)):
        named = feature.at(f"feature {place}")
        geometry = named.find("geometry")
        properties = named.find("properties")
        if geometry is None:
            slide.skipped[NO_GEOMETRY] += 1
            continue
        kind = geometry.entry("type").text()
        rings = _rings(geometry)
        if rings is None:
            slide.skipped[kind] += 1
            continue
        name, colour = _classification(properties)
        if colour:
            slide.colours.setdefault(name, colour)
        slide.shapes.append((name, rings))
    boxes = [shape.bounds() for _, shape in slide.shapes]
    slide.boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return slide


def _features(node: Node) -> list[Node]:
    """Return the features of a collection, of a list, or a single one."""
    if isinstance(node.value, list):
        return list(node.items())
    kind = node.find("type")
    if kind is not None and kind.value == "FeatureCollection":
        return list(node.entry("features").items())
    if kind is not None and kind.value == "Feature":
        return [node]
    raise node.fault(
        "this is no GeoJSON of features",
        seen="no type" if kind is None else f"type {kind.value!r}",
        expected="a FeatureCollection, as File > Export objects as GeoJSON writes it",
    )


def _classification(properties: Node | None) -> tuple[str, str | None]:
    """Return the name of an object's class and its colour, as any version of QuPath writes them."""
    found = properties.find("classification") if properties is not None else None
    if found is None:
        return UNCLASSIFIED, None
    if isinstance(found.value, str):
        return found.text() or UNCLASSIFIED, None
    names = found.find("names")
    if names is not None:
        name = ": ".join(part.text() for part in names.items())
    else:
        entry = found.find("name")
        name = UNCLASSIFIED if entry is None else entry.text()
    return name or UNCLASSIFIED, _colour(found)


def _colour(node: Node) -> str | None:
    listed, packed = node.find("color"), node.find("colorRGB")
    if listed is not None:
        numbers = [int(number) & _FULL for number in listed.numbers()]
        return hexadecimal(*numbers[:3]) if len(numbers) >= 3 else None
    if packed is None:
        return None
    value = packed.whole()
    return hexadecimal(value >> 16 & _FULL, value >> 8 & _FULL, value & _FULL)


def _rings(geometry: Node) -> Rings | None:
    """Return the areas of a geometry, those in a collection too; None where it has none."""
    kind = geometry.entry("type").text()
    if kind == "GeometryCollection":
        parts = [_rings(part) for part in geometry.entry("geometries").items()]
        areas = [part for part in parts if part is not None]
        return Rings(tuple(ring for area in areas for ring in area.polygons)) if areas else None
    if kind not in _AREAS:
        return None
    coordinates = geometry.entry("coordinates")
    polygons = [coordinates] if kind == "Polygon" else list(coordinates.items())
    return Rings(tuple(tuple(map(_ring, polygon.items())) for polygon in polygons))


def _ring(node: Node) -> np.ndarray:
    points = [point.point(MOST_SLIDE_PX) for point in node.items()]
    return np.array(points, np.float64).reshape(-1, 2)


def _slide_name(file: Path) -> str:
    """Return the name of the image that a file is about: `x` for x.geojson and x.svs.geojson."""
    stem = file.stem
    return stem.rpartition(".")[0] if is_image_name(stem) else stem


def _tiles_by_slide(index: ImageIndex) -> dict[str, list[tuple[Path, _Region]]]:
    tiles: dict[str, list[tuple[Path, _Region]]] = {}
    for path in index.paths:
        match = _TILE.fullmatch(path.stem)
        region = _region(match["region"]) if match else None
        if match and region:
            slide = match["slide"]
            slide = slide.rpartition(".")[0] if is_image_name(slide) else slide
            tiles.setdefault(pairing_key(slide), []).append((path, region))
    return tiles


def _region(text: str) -> _Region | None:
    """Return the region that `d=2,x=0,y=0,w=1024,h=1024` says; None for anything else."""
    entries = dict(part.strip().partition("=")[::2] for part in text.split(","))
    try:
        numbers = {key.strip(): float(value) for key, value in entries.items()}
        x, y, width, height = (numbers[key] for key in "xywh")
    except (KeyError, ValueError):
        return None
    downsampling = numbers.get("d", 1.0)
    usable = min(width, height, downsampling) > 0 and np.isfinite([*numbers.values()]).all()
    return _Region(x, y, width, height, downsampling) if usable else None


_Entry = tuple[str, _Slide, "ImageFile | str", "_Region | None"]


def _entries(
    slide: _Slide, index: ImageIndex, tiles: dict[str, list[tuple[Path, _Region]]]
) -> list[_Entry]:
    """Return the images of a slide: its tiles, or else the image of its name."""
    name = _slide_name(slide.file)
    cut = tiles.get(pairing_key(name), [])
    if cut:
        return [
            (path.relative_to(index.folder).as_posix(), slide, ImageFile(path), region)
            for path, region in cut
        ]
    found = index.find_start(name, beside=slide.file.absolute().parent)
    if isinstance(found, Path):
        return [(found.relative_to(index.folder).as_posix(), slide, ImageFile(found), None)]
    return [(name, slide, as_image(found), None)]


def _draw(
    slide: _Slide,
    region: _Region | None,
    numbers: dict[str, int],
    order: DrawingOrder,
    shift: float,
    size: ImageSize,
) -> Drawing:
    if region is None:
        annotations = [
            Annotation(numbers[name], shape.moved((0.0, 0.0), 1.0, shift))
            for name, shape in slide.shapes
        ]
        return draw(annotations, order, size, skipped=slide.skipped)
    _refuse_other_size(region, size)
    chosen = [slide.shapes[number] for number in slide.meeting(region)]
    origin = region.x, region.y
    annotations = [
        Annotation(numbers[name], shape.moved(origin, region.downsampling, shift))
        for name, shape in chosen
    ]
    return draw(annotations, order, size)


def _refuse_other_size(region: _Region, size: ImageSize) -> None:
    """Raise UsageError unless the tile has the size that its name says; QuPath rounds it."""
    expected = region.height / region.downsampling, region.width / region.downsampling
    if any(abs(seen - wanted) > 1 for seen, wanted in zip(size, expected, strict=True)):
        raise UsageError(
            "the tile has another size than its name says",
            seen=str(size),
            expected=f"{expected[1]:g} x {expected[0]:g} px, from w, h and d of its name",
        )


def _notes(slide: _Slide, entries: Sequence[_Entry]) -> list[str]:
    """Return how many objects of a slide lie in no tile, and which ones have no area."""
    regions = [region for _, owner, _, region in entries if owner is slide and region is not None]
    if not regions:
        return []
    used = {number for region in regions for number in slide.meeting(region).tolist()}
    lost = len(slide.shapes) - len(used)
    skipped = ", ".join(f"{number:,} {kind}" for kind, number in sorted(slide.skipped.items()))
    objects, tiles = plural(len(slide.shapes), "object"), plural(len(regions), "tile")
    return [
        f"{slide.file.name}: {objects} in {tiles}, {lost:,} in none of them"
        + (f"; no areas: {skipped}" if skipped else "")
    ]
