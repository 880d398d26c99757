"""What an operation of `histoprep fix` is, and what it knows of a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from histoprep.mask_reading import MaskEncoding, Reading
from histoprep.schemas.workspace import Workspace

IMAGE, MASK = "image", "mask"
MAX_LABEL = 65_535
"""The largest label that a grey PNG of 16 bits holds."""


class Size(NamedTuple):
    """Width and height in pixels, as stored."""

    width_px: int
    height_px: int


class StoredFile(NamedTuple):
    """A file: its path relative to the data set, or absolute, its size, and its digest."""

    path: str
    num_bytes: int
    digest: str | None


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the tiles table says of one image or mask.

    Attributes:
        path: Its path relative to the data set, as text.
        role: `IMAGE` or `MASK`.
        tile_id: The tile.
        num_bytes: Size of the file.
        mtime_ns: Its modification time.
        digest: XXH3-128 of its bytes, hex; None where it could not be read.
        error: Code and subcode of what makes it unusable, such as `HP201 truncated`; or None.
        format: Name of its format, as in `image_formats.py`, or None.
        mode: Pillow's name of its mode, or None.
        bit_depth: Bits a channel.
        size: Its size.
        other_size: Size of the mask of an image, or of the image of a mask; None without one.
        metadata: Names of fields that may identify somebody.
        orientation: EXIF orientation of an image, None where it is absent; of a mask see `error`.
        is_other_turned: Whether the other file of the pair has an orientation of its own.
        encoding: How the labels of a mask are stored, None where none were read.
        is_doubtful: Whether readers return two kinds of labels for the mask.
        lossy: Compression with loss that the mask is stored with, or None.
        label_ids: Labels of the mask, None where none were read.
        label_pixels: Pixels of each.
        num_specks: Regions under the `--min-area` of the audit.
        repaired: The repaired mask that takes its place. Then encoding, labels and all that is
            known of the pixels is of that file, and `original_ids` and `original_pixels` are of
            the mask itself.
    """

    path: str
    role: str
    tile_id: str
    num_bytes: int
    mtime_ns: int
    digest: str | None
    error: str | None
    format: str | None
    mode: str | None
    bit_depth: int | None
    size: Size | None
    other_size: Size | None
    metadata: tuple[str, ...] = ()
    orientation: int | None = None
    is_other_turned: bool = False
    encoding: str | None = None
    is_doubtful: bool = False
    lossy: str | None = None
    label_ids: tuple[int, ...] | None = None
    label_pixels: tuple[int, ...] | None = None
    num_specks: int = 0
    repaired: StoredFile | None = None
    original_ids: tuple[int, ...] | None = None
    original_pixels: tuple[int, ...] | None = None

    @property
    def folder(self) -> str:
        """Return the folder of the file relative to the data set."""
        return self.path.rpartition("/")[0]

    @property
    def has_plain_ids(self) -> bool:
        """Return whether this is a mask whose labels were read, are numbers and no colours, and fit
        16 bits.
        """
        return (
            self.role == MASK
            and self.error is None
            and self.encoding is not None
            and self.label_ids is not None
            and not MaskEncoding(self.encoding).is_coloured
            and max(self.label_ids, default=0) <= MAX_LABEL
        )


@dataclass(frozen=True)
class Context:
    """What operations may look at before they choose files.

    Attributes:
        workspace: The workspace of the data set, with an up-to-date tiles table.
        reading: What was decided of masks that readers understand in two ways.
        min_area_px: The `--min-area` of the audit.
    """

    workspace: Workspace
    reading: Reading
    min_area_px: int

    @property
    def table(self) -> Path:
        """Return the path of the tiles table."""
        return self.workspace.tiles

    @cached_property
    def undecided(self) -> frozenset[str]:
        """Return the masks whose labels depend on what nobody decided (HP414): written plainly,
        they would hide the question.
        """
        from histoprep.tiles.readings import MaskReadings

        readings = MaskReadings.of(self.table)
        odd = [*readings.depth, *readings.modes, *readings.channels]
        odd += [] if self.reading.palette else readings.palettes
        return frozenset(mask.path for mask in odd)

    @cached_property
    def lossy(self) -> frozenset[str]:
        """Return the masks that went through compression with loss or interpolation (HP403,
        HP404).
        """
        from histoprep.tiles.lossy_sources import lossy_sources

        return frozenset(path for source in lossy_sources(self.table) for path in source.paths)


class Refusal(NamedTuple):
    """Why an operation that would be right for a file cannot be done."""

    reason: str


Select = Callable[[FileFacts], Any]
"""From a file to the ticket with which it is changed, None to leave it, or a `Refusal`. A ticket is
small: it travels to a worker. One that is `StoredFile` names the file to begin with."""


class NotDoneError(Exception):
    """An operation found, at the file itself, that it cannot be done; the message says why."""


@dataclass(frozen=True)
class TreeFile:
    """A file on its way into the new tree.

    Attributes:
        data: Its bytes.
        suffix: The suffix of its name, with the dot, as spelled there.
        reading: How masks are read.
        labels: Its labels, where an operation made them, uint8 or uint16 [height, width].
    """

    data: bytes
    suffix: str
    reading: Reading
    labels: np.ndarray | None = None

    def read_labels(self) -> np.ndarray:
        """Return the labels, uint8 or uint16 [height, width]; raises BrokenFileError."""
        from histoprep import imageio

        if self.labels is not None:
            return self.labels
        header = imageio.read_header(self.data, self.reading)
        return imageio.decode_mask(self.data, header, self.reading)

    def with_labels(self, labels: np.ndarray, bits: int) -> TreeFile:
        """Return the file with other labels, as a grey PNG of 8 or 16 bits without metadata; the
        note of the label map that a mask went through stays.
        """
        from histoprep import imageio

        name = imageio.read_header(self.data, self.reading).label_map
        text = None if name is None else {imageio.LABEL_MAP_TEXT: name}
        stored = labels.astype(np.uint8 if bits == 8 else np.uint16)
        return self.with_data(imageio.encode_mask_png(stored, text), ".png", labels)

    def with_data(
        self, data: bytes, suffix: str = "", labels: np.ndarray | None = None
    ) -> TreeFile:
        """Return the file with other bytes, under the same suffix unless another is named; one that
        differs in case alone is no other.
        """
        known = self.labels if labels is None else labels
        kept = not suffix or suffix.lower() == self.suffix.lower()
        return replace(self, data=data, suffix=self.suffix if kept else suffix, labels=known)


class Operation(Protocol):
    """One kind of change; `histoprep/fixing/operations/__init__.py` lists them all."""

    @property
    def name(self) -> str:
        """Return what it is called on the command line."""

    @property
    def does(self) -> str:
        """Return what it does, in words that fit behind a count of files."""

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the findings that it acts upon."""

    @property
    def is_default(self) -> bool:
        """Return whether it is done unless it is left out: exact, and without a choice."""

    @property
    def value(self) -> str:
        """Return what a value is called, as in `specks=PIXELS`; empty without one."""

    def prepare(self, context: Context, value: str) -> Select:
        """Return the function that chooses files; raises UsageError for a value that is none."""

    def apply(self, content: TreeFile, ticket: Any) -> TreeFile:
        """Return the changed file, or the same object where nothing had to be changed.

        Raises:
            NotDoneError: It cannot be done with this file.
            BrokenFileError: The file is damaged.
        """
