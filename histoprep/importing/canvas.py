"""Annotations of an image -> its labels: one is drawn over the other, in a stated order, and what
that hides is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from histoprep.choices import DrawingOrder
from histoprep.errors import UsageError
from histoprep.importing.model import MAX_LABEL, AnnotationCounts, Drawing, ImageSize


class Bounds(NamedTuple):
    """Smallest and largest coordinates of an outline in pixels of the image."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, size: ImageSize) -> bool:
        """Return whether the box shares an area or a line with an image of this size."""
        return (
            self.right > 0
            and self.bottom > 0
            and self.left < size.width_px
            and self.top < size.height_px
        )


class Patch(NamedTuple):
    """The pixels of an outline: bool [height, width], and where its first row and column lie in the
    image. It lies inside of the image wholly; a patch without pixels has no true value.
    """

    top: int
    left: int
    pixels: np.ndarray


class Outline(Protocol):
    """An area that an annotation marks."""

    def bounds(self) -> Bounds:
        """Return the box around it."""

    def area(self) -> float:
        """Return its area in pixels, for the order by area."""

    def fill(self, size: ImageSize) -> Patch:
        """Return its pixels in an image of this size."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """An area with its label.

    Attributes:
        label: Number of the label.
        outline: The area.
        layer: What the source itself says of the order: lower layers lie below.
    """

    label: int
    outline: Outline
    layer: float = 0


def in_order(annotations: Iterable[Annotation], order: DrawingOrder) -> list[Annotation]:
    """Return annotations from the lowest to the topmost.

    The source's layers come first (z_order of CVAT; crowds of COCO lie below). Within a layer it is
    the order of the file, that order reversed, by falling area (small ones on top), or by rising
    label (the last one of the label map on top); ties are in the order of the file.
    """
    chosen = list(annotations)
    if order is DrawingOrder.REVERSED:
        chosen.reverse()
    keys: dict[DrawingOrder, Callable[[Annotation], float]] = {
        DrawingOrder.AREA: lambda annotation: -annotation.outline.area(),
        DrawingOrder.LABEL: lambda annotation: annotation.label,
    }
    if order in keys:
        chosen.sort(key=keys[order])
    chosen.sort(key=lambda annotation: annotation.layer)
    return chosen


def draw(
    annotations: Sequence[Annotation],
    order: DrawingOrder,
    size: ImageSize,
    *,
    background: int = 0,
    skipped: Counter[str] | None = None,
) -> Drawing:
    """Return the labels of an image.

    Args:
        annotations: Its annotations in the order of the file.
        order: Which one lies on top.
        size: Size of the image.
        background: The label of pixels that none covers.
        skipped: Annotations that are no areas, by kind; they are only counted.
    """
    counts = AnnotationCounts(len(annotations), skipped=Counter(skipped or {}))
    counts.read += counts.skipped.total()
    canvas = Canvas(size, background)
    for annotation in in_order(annotations, order):
        patch = annotation.outline.fill(size)
        if canvas.put(annotation.label, patch):
            counts.drawn += 1
        elif annotation.outline.bounds().meets(size):
            counts.empty += 1
        else:
            counts.outside += 1
    return canvas.finish(counts)


class Canvas:
    """An image that areas are put on, one over the other."""

    def __init__(self, size: ImageSize, background: int = 0) -> None:
        """Begin with an image of the background's label."""
        self._labels = np.full(size, background, np.uint16)
        self._top = np.zeros(size, np.int32)
        self._overlapped = np.zeros(size, bool)
        self._contested = np.zeros(size, bool)
        self._num_put = 0

    def put(self, label: int, patch: Patch) -> bool:
        """Put an area on top of the others and return whether it has a pixel at all."""
        pixels = patch.pixels
        if not pixels.any():
            return False
        self._num_put += 1
        height, width = pixels.shape
        window = slice(patch.top, patch.top + height), slice(patch.left, patch.left + width)
        covered = pixels & (self._top[window] > 0)
        self._overlapped[window] |= covered
        self._contested[window] |= covered & (self._labels[window] != label)
        self._labels[window][pixels] = label
        self._top[window][pixels] = self._num_put
        return True

    def finish(self, counts: AnnotationCounts) -> Drawing:
        """Return the image and add to `counts` what was hidden."""
        visible = np.unique(self._top[self._top > 0]).size
        counts.hidden += self._num_put - visible
        counts.overlapped_pixels += int(self._overlapped.sum())
        counts.contested_pixels += int(self._contested.sum())
        instances = self._top.astype(np.uint16) if self._num_put <= MAX_LABEL else None
        return Drawing(self._labels, counts, instances)


def label_instances(ids: np.ndarray, labels: Mapping[int, int], what: str) -> Drawing:
    """Return the labels of a map of objects, which cannot overlap.

    Args:
        ids: Number of the object at each pixel, 0 for none, integers [height, width].
        labels: Label of each object.
        what: What an object is called in messages.

    Raises:
        UsageError: An object of the map has no label.
    """
    present, place = np.unique(ids, return_inverse=True)
    numbers = present.tolist()
    unknown = [number for number in numbers if number and number not in labels]
    if unknown:
        raise UsageError(
            f"{what} without an entry",
            seen=", ".join(map(str, unknown[:5])),
            expected=f"one of {len(labels):,} numbers that are listed",
        )
    table = np.array([labels.get(number, 0) if number else 0 for number in numbers], np.uint16)
    drawn = sum(number != 0 for number in numbers)
    counts = AnnotationCounts(len(labels), drawn, empty=len(labels) - drawn)
    order = {number: rank for rank, number in enumerate(labels, start=1)}
    ranks = np.array([order.get(number, 0) for number in numbers])
    kept = len(labels) <= MAX_LABEL
    instances = ranks[place].reshape(ids.shape).astype(np.uint16) if kept else None
    return Drawing(table[place].reshape(ids.shape), counts, instances)
