"""Outlines of annotations -> pixels, each by the rules of the program that made them.

Which pixels belong to a polygon is a convention, and programs differ by half a pixel and more along
every boundary. Nothing is gained by one convention for all: the masks should be those that the
program itself exports.

| outline | by | a pixel belongs to it when |
|---|---|---|
| `CocoPolygons` | pycocotools `frPyObjects` | its column of the boundary, sampled 5 times finer, says so: `annToMask`, bit for bit |
| `PillowPolygon`, ... | Pillow `ImageDraw` | it is inside or under the drawn outline, as in labelme |
| `Rings` | rasterio (GDAL) | its centre, at half numbers, is inside; even-odd, so that holes are holes |
| `Ellipse` | OpenCV `ellipse` | it is in the filled ellipse of rounded centre and axes, as in CVAT |
| `Bitmap`, `RunLengths` | - | it is set |
"""  # noqa: E501 (a table)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from histoprep.importing.canvas import Bounds, Patch
from histoprep.importing.extras import coco_masks, rasterio_features
from histoprep.importing.model import ImageSize
from histoprep.importing.run_lengths import decompress

Points = np.ndarray
"""Corners of a ring: float64 [corners, 2], x and y in pixels."""

NO_PIXELS = Patch(0, 0, np.zeros((0, 0), bool))
_LEAST_CORNERS = 3


def ring_area(points: Points) -> float:
    """Return the area of a ring by the shoelace formula, also when it is not closed."""
    x, y = points[:, 0], points[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def bounds_of(points: Points) -> Bounds:
    """Return the box around points; one outside of every image when there are none."""
    if not len(points):
        return Bounds(-1, -1, -1, -1)
    return Bounds(*map(float, (*points.min(0), *points.max(0))))


def whole_patch(pixels: np.ndarray) -> Patch:
    """Return the part of a mask, bool [height, width], that has pixels, as a patch."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not len(rows):
        return NO_PIXELS
    top, left = int(rows[0]), int(columns[0])
    return Patch(top, left, pixels[top : rows[-1] + 1, left : columns[-1] + 1])


@dataclass(frozen=True, slots=True)
class CocoPolygons:
    """The polygons of a COCO annotation, which together are one area."""

    polygons: tuple[Points, ...]

    def bounds(self) -> Bounds:
        """Return the box around all polygons."""
        return bounds_of(np.concatenate([np.zeros((0, 2)), *self.polygons]))

    def area(self) -> float:
        """Return the sum of their areas."""
        return sum(map(ring_area, self.polygons))

    def fill(self, size: ImageSize) -> Patch:
        """Return the pixels of `pycocotools.coco.COCO.annToMask`."""
        # A polygon of two points is read as a box where it is the first.
        rings = [ring.ravel().tolist() for ring in self.polygons if len(ring) >= _LEAST_CORNERS]
        if not rings or not self.bounds().meets(size):
            return NO_PIXELS
        mask = coco_masks()
        merged = mask.merge(mask.frPyObjects(rings, *size))
        return whole_patch(RunLengths(decompress(merged["counts"]), size).fill(size).pixels)


@dataclass(frozen=True, slots=True)
class Rings:
    """A polygon or several, with holes: the first ring of each is its outer one."""

    polygons: tuple[tuple[Points, ...], ...]

    def moved(self, origin: tuple[float, float], scale: float, shift: float = 0.0) -> Rings:
        """Return the shape in pixels of an image that begins at `origin`, where `scale` pixels of
        the old one are one of the new, moved by `shift` of these.
        """
        start = np.array(origin, np.float64)
        return Rings(
            tuple(
                tuple((ring - start) / scale + shift for ring in rings) for rings in self.polygons
            )
        )

    def bounds(self) -> Bounds:
        """Return the box around the outer rings."""
        outer = [rings[0] for rings in self.polygons if rings]
        return bounds_of(np.concatenate([np.zeros((0, 2)), *outer]))

    def area(self) -> float:
        """Return the area without the holes."""
        return sum(
            ring_area(rings[0]) - sum(map(ring_area, rings[1:])) for rings in self.polygons if rings
        )

    def fill(self, size: ImageSize) -> Patch:
        """Return the pixels whose centre, at half numbers, lies inside."""
        box = self.bounds()
        if not box.meets(size):
            return NO_PIXELS
        top, left = max(0, math.floor(box.top)), max(0, math.floor(box.left))
        bottom = min(size.height_px, math.ceil(box.bottom))
        right = min(size.width_px, math.ceil(box.right))
        shape = bottom - top, right - left
        if min(shape) < 1:
            return NO_PIXELS
        origin = np.array([left, top], np.float64)
        coordinates = [
            [_closed(ring - origin) for ring in rings if len(ring) >= _LEAST_CORNERS]
            for rings in self.polygons
            if rings and len(rings[0]) >= _LEAST_CORNERS
        ]
        if not coordinates:
            return NO_PIXELS
        geometry = {"type": "MultiPolygon", "coordinates": coordinates}
        pixels = rasterio_features().rasterize([(geometry, 1)], out_shape=shape, dtype=np.uint8)
        return Patch(top, left, pixels.astype(bool))


def _closed(ring: Points) -> list[tuple[float, float]]:
    corners = [(float(x), float(y)) for x, y in ring]
    return corners if corners[0] == corners[-1] else [*corners, corners[0]]


@dataclass(frozen=True, slots=True)
class PillowPolygon:
    """A polygon as labelme draws it."""

    points: Points

    def bounds(self) -> Bounds:
        """Return the box around it."""
        return bounds_of(self.points)

    def area(self) -> float:
        """Return its area."""
        return ring_area(self.points)

    def fill(self, size: ImageSize) -> Patch:
        """Return its pixels, those under its outline among them."""
        if len(self.points) < _LEAST_CORNERS:
            return NO_PIXELS
        image, pen = _paper(size)
        pen.polygon([(x, y) for x, y in self.points.tolist()], outline=1, fill=1)
        return whole_patch(np.asarray(image, bool))


@dataclass(frozen=True, slots=True)
class PillowBox:
    """A rectangle or, `round`, the ellipse in it, as labelme draws them; corners in any order."""

    points: Points
    round: bool = False

    def bounds(self) -> Bounds:
        """Return the box."""
        return bounds_of(self.points)

    def area(self) -> float:
        """Return its area."""
        box = self.bounds()
        sides = (box.right - box.left) * (box.bottom - box.top)
        return sides * math.pi / 4 if self.round else sides

    def fill(self, size: ImageSize) -> Patch:
        """Return its pixels, those under its outline among them."""
        image, pen = _paper(size)
        (pen.ellipse if self.round else pen.rectangle)(tuple(self.bounds()), outline=1, fill=1)
        return whole_patch(np.asarray(image, bool))


def _paper(size: ImageSize) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (size.width_px, size.height_px))
    return image, ImageDraw.Draw(image)


@dataclass(frozen=True, slots=True)
class Ellipse:
    """An ellipse as CVAT turns it into a mask."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    rotation_degrees: float = 0.0

    def bounds(self) -> Bounds:
        """Return a box that holds it, however it is turned."""
        (x, y), reach = self.centre, max(self.radii)
        return Bounds(x - reach, y - reach, x + reach, y + reach)

    def area(self) -> float:
        """Return its area."""
        return math.pi * self.radii[0] * self.radii[1]

    def fill(self, size: ImageSize) -> Patch:
        """Return the pixels of OpenCV's filled ellipse of rounded centre and axes."""
        if not self.bounds().meets(size):
            return NO_PIXELS
        pixels = np.zeros(size, np.uint8)
        centre, radii = (tuple(map(round, pair)) for pair in (self.centre, self.radii))
        cv2.ellipse(pixels, centre, radii, self.rotation_degrees, 0, 360, 1, thickness=-1)
        return whole_patch(pixels.astype(bool))


@dataclass(frozen=True, slots=True)
class Bitmap:
    """Pixels themselves: bool [height, width], and the row and column of the first one; they may
    reach beyond the image.
    """

    pixels: np.ndarray
    top: int = 0
    left: int = 0

    def bounds(self) -> Bounds:
        """Return the box of the bitmap."""
        height, width = self.pixels.shape
        return Bounds(self.left, self.top, self.left + width, self.top + height)

    def area(self) -> float:
        """Return the number of pixels."""
        return float(self.pixels.sum())

    def fill(self, size: ImageSize) -> Patch:
        """Return the pixels that lie in the image."""
        above, before = max(0, -self.top), max(0, -self.left)
        top, left = max(0, self.top), max(0, self.left)
        pixels = self.pixels[
            above : above + max(0, size.height_px - top),
            before : before + max(0, size.width_px - left),
        ]
        return Patch(top, left, pixels) if pixels.size else NO_PIXELS


@dataclass(frozen=True, slots=True)
class RunLengths:
    """A mask as lengths of runs, in turn without and with the area.

    Attributes:
        runs: The lengths, int64 [runs]; their sum is the number of pixels.
        size: Size of the mask.
        top: Row of its first pixel in the image.
        left: Column of it.
        by_column: Whether runs go down the columns, as in COCO, or along the rows, as in CVAT.
    """

    runs: np.ndarray
    size: ImageSize
    top: int = 0
    left: int = 0
    by_column: bool = True

    def bounds(self) -> Bounds:
        """Return the box of the mask."""
        height, width = self.size
        return Bounds(self.left, self.top, self.left + width, self.top + height)

    def area(self) -> float:
        """Return the number of pixels."""
        return float(self.runs[1::2].sum())

    def fill(self, size: ImageSize) -> Patch:
        """Return the pixels that lie in the image."""
        values = np.arange(len(self.runs)) % 2 == 1
        pixels = np.repeat(values, self.runs)
        height, width = self.size
        grid = pixels.reshape(width, height).T if self.by_column else pixels.reshape(height, width)
        return Bitmap(grid, self.top, self.left).fill(size)


def corners(numbers: Sequence[float]) -> Points:
    """Return the corners of a ring from x, y, x, y, ..."""
    return np.array(numbers, np.float64).reshape(-1, 2)
