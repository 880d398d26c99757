"""What formats are given of a tile, and what they make of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from histoprep.exporting.numbering import Numbers
from histoprep.image_formats import ImageFormat

_NUM_USUAL = 2
UNLABELLED = "unlabelled"
"""Stands for the split of tiles without a mask."""


class ExportTile(NamedTuple):
    """A tile to be exported.

    Attributes:
        row: Its row in the manifest.
        tile_id: Its id, as text.
        name: Its path in the folders of the export, without suffix.
        split: train, val or test; `UNLABELLED` without a mask.
        fold: Its cross-validation fold; None for none.
        group: Its slide, case or patient.
        label: Its image-level class.
        image_path: Path of the image as the manifest has it.
        has_mask: Whether it has a mask.
        size: Height and width in pixels.
    """

    row: int
    tile_id: str
    name: str
    split: str
    fold: int | None
    group: str | None
    label: str | None
    image_path: str
    has_mask: bool
    size: tuple[int, int]


@dataclass(slots=True)
class Annotated:
    """What a format makes of the mask of a tile.

    Attributes:
        data: The file of its annotations; None without one.
        content: What the summary files say of it, as JSON values; None for nothing.
        regions: Regions of each class id; empty for formats of masks.
        num_holes: Holes of these regions.
    """

    data: bytes | None = None
    content: Any = None
    regions: Counter[int] = field(default_factory=Counter)
    num_holes: int = 0


@dataclass(frozen=True, slots=True)
class ImageRule:
    """Which images a format takes as they are; others become PNG files of 8-bit RGB.

    Attributes:
        formats: Image formats; files need one of the two usual suffixes.
        modes: Pillow's names of modes.
    """

    formats: tuple[ImageFormat, ...]
    modes: frozenset[str]

    @property
    def suffixes(self) -> dict[str, ImageFormat]:
        """Return the suffixes that programs know, in lower case, with their formats."""
        return {
            suffix: image_format
            for image_format in self.formats
            for suffix in image_format.suffixes[:_NUM_USUAL]
        }


@dataclass(frozen=True, slots=True)
class ExportedRow:
    """A tile that was exported, as the summary files need it."""

    tile: ExportTile
    image_path: str
    output_path: str | None
    content: Any


@dataclass(frozen=True, slots=True)
class Contents:
    """All that was exported.

    Attributes:
        title: Name of the data set.
        numbers: The number of each class.
        splits: The splits with tiles, in order.
        rows: Returns the exported tiles, from the first on, at each call.
        num_ignored_pixels: Pixels without a class.
        folds: Number of cross-validation folds; 0 without.
    """

    title: str
    numbers: Numbers
    splits: tuple[str, ...]
    rows: Callable[[], Iterator[ExportedRow]]
    num_ignored_pixels: int
    folds: int


class Format(Protocol):
    """One format of other programs; it travels to the workers."""

    name: ClassVar[str]
    title: ClassVar[str]
    consecutive: ClassVar[bool]
    """Whether the numbers of classes may have no gaps."""
    first_number: ClassVar[int]
    """Number of the first class in its files: 1, or 0 without a background."""
    is_flat: ClassVar[bool]
    """Whether tiles of all folders lie in one."""
    keeps_ignored: ClassVar[bool]
    """Whether the format can say of pixels that they have no class."""
    image_rule: ClassVar[ImageRule]

    def image_name(self, tile: ExportTile) -> str:
        """Return the path of the image in the folder, without suffix."""

    def output_name(self, tile: ExportTile) -> str | None:
        """Return the path of the file of annotations of a tile; None without one."""

    def annotate(self, tile: ExportTile, numbers: np.ndarray, meaning: Numbers) -> Annotated:
        """Return what becomes of a mask, uint8 or uint16 [height, width] of numbers."""

    def summaries(self, contents: Contents) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield the path and the pieces of text of each file about all tiles."""
