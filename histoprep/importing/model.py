"""What a format gives of a source: labels, and images with what is to be drawn on each.

Nothing in here depends on a format. A reader (`formats/*.py`) makes a `Collection`; the job
(`job.py`) draws it and writes the tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

BACKGROUND = 0
MAX_LABEL = 65_535
"""The largest label that a grey PNG of 16 bits holds."""


class ImageSize(NamedTuple):
    """Height and width of an image in pixels."""

    height_px: int
    width_px: int

    def __str__(self) -> str:
        """Return `640 x 480 px`, width first, as messages say it."""
        return f"{self.width_px:,} x {self.height_px:,} px"


@dataclass(frozen=True, slots=True)
class Label:
    """A label of the masks: its number, its name as the source has it, and its colour `#rrggbb`."""

    id: int
    name: str
    colour: str | None = None


@dataclass(slots=True)
class AnnotationCounts:
    """What became of the annotations of one image, or of all.

    Attributes:
        read: Annotations in the source; the sum of drawn, empty, outside and skipped.
        drawn: Those that cover at least one pixel of the image.
        hidden: Drawn ones of which nothing is left to see, since later ones cover them.
        empty: Outlines without area, or too thin to cover the centre of a pixel.
        outside: Outlines that lie outside the image.
        overlapped_pixels: Pixels that two annotations or more cover.
        contested_pixels: Those of them whose annotations have different labels.
        several_values: Mask files of one class or object whose set pixels differ.
        skipped: Annotations that are no areas, by their kind.
    """

    NUMBERS: ClassVar = (
        *("read", "drawn", "hidden", "empty", "outside"),
        *("overlapped_pixels", "contested_pixels", "several_values"),
    )

    read: int = 0
    drawn: int = 0
    hidden: int = 0
    empty: int = 0
    outside: int = 0
    overlapped_pixels: int = 0
    contested_pixels: int = 0
    several_values: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, other: AnnotationCounts) -> None:
        """Add the counts of another image."""
        for name in self.NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.skipped.update(other.skipped)


@dataclass(frozen=True, slots=True)
class Drawing:
    """The labels of an image: uint8 or uint16 [height, width], what became of its annotations, and
    the number of the annotation on top, uint16 [height, width], 0 for none.
    """

    labels: np.ndarray
    counts: AnnotationCounts
    instances: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image that lies in a file, which is linked or copied."""

    path: Path


@dataclass(frozen=True, slots=True)
class MadeImage:
    """An image that is no file of its own: `encode` returns the bytes of one with this suffix."""

    encode: Callable[[], bytes]
    suffix: str = ".png"


@dataclass(frozen=True, slots=True)
class Item:
    """One image of the tree to be.

    Attributes:
        name: Its path below the folders of images and masks, without suffix.
        source: The annotations that it is from, for messages and the ledger.
        image: The image, or why there is none.
        draw: Returns the labels of an image of the given size, as the source has them; None for an
            image that the source says nothing of, which gets no mask.
        size: The size that the source says the image has; None where it says nothing.
        columns: Further columns of dataset.csv, such as the group.
        state: What the drawing depends on besides the annotation files, such as sizes and times of
            mask files.
    """

    name: str
    source: str
    image: ImageFile | MadeImage | str
    draw: Callable[[ImageSize], Drawing | None]
    size: ImageSize | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    state: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """All that a format read of a source.

    Attributes:
        labels: The labels of the masks, the background among them.
        items: The images in the order of the source.
        files: The annotation files; their bytes are part of the request.
        notes: What the user should know of how the source was understood.
        ignored: Labels of pixels that belong to no class; they are not among `labels`.
        found: Options that were not stated and that the source answered, as the request has them.
        skipped: What was left out of the source and belongs to no image, by its kind.
        intended: Kinds of what is skipped that are left out on request or by convention.
    """

    labels: tuple[Label, ...]
    items: tuple[Item, ...]
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    ignored: tuple[int, ...] = ()
    found: Mapping[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    intended: frozenset[str] = frozenset()
