"""Pixels of tiles, from files or from shards, and how they are sent to the page.

Label images are sent as RGB PNG that hold a number a pixel: red + 256 * green. Files of the data
set themselves are never sent: what a browser gets was decoded and encoded here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from histoprep import imageio
from histoprep.browse.columns import Columns
from histoprep.errors import BrokenFileError, HistoprepError
from histoprep.labels import IGNORED, UNMAPPED, LabelMap
from histoprep.mask_reading import UNDECIDED, Reading
from histoprep.remote import file_bytes
from histoprep.report.thumbnails import shrink_labels
from histoprep.shards import TileSource
from histoprep.tiles.listing import absolute_path

# Larger files would only slow the page down.
MAX_PIXELS = 100_000_000
JPEG_QUALITY = 85
# Classes that no label map has.
NOT_LISTED, IGNORED_CLASS, OTHER_LABELS = -1, -2, -3


class UnreadableError(Exception):
    """A tile cannot be shown; the message says why."""


class PixelReader(Protocol):
    """Reads pixels of tiles by row number; several threads use it at once."""

    def stamp(self, row: int) -> str:
        """Return a text that differs once the files of a tile differ."""

    def image(self, row: int) -> np.ndarray:
        """Return the image, uint8 RGB [height, width, 3]; raises UnreadableError."""

    def labels(self, row: int) -> np.ndarray | None:
        """Return the labels of the mask, unsigned integers [height, width], None without a mask;
        raises UnreadableError.
        """

    def class_ids(self, labels: np.ndarray) -> np.ndarray:
        """Return the class of each label, int64, same shape; negative ones as `NOT_LISTED`."""


@dataclass(frozen=True)
class FilePixels:
    """Reads the files of a data set.

    Attributes:
        root: Folder that relative paths start from.
        columns: Paths by row.
        reading: What was decided of masks that readers understand in two ways.
        class_ids: From labels to classes.
        path_of: From the path of a row to where the file is now.
        refused: Paths of files that ended the process that read them, with the reason: this one
            answers everybody, and does not try.
    """

    root: Path
    columns: Columns
    reading: Reading
    class_ids: Callable[[np.ndarray], np.ndarray]
    path_of: Callable[[str], str] = str
    refused: Mapping[str, str] = field(default_factory=dict)

    def stamp(self, row: int) -> str:
        """Return paths, sizes and times of both files."""
        return "\0".join(self._stamp(name) for name in self._names(row))

    def image(self, row: int) -> np.ndarray:
        """Return the image; raises UnreadableError."""
        name, _ = self._names(row)
        if name is None:
            raise UnreadableError("there is no image: this is an orphan mask")
        data, header = self._read(name, UNDECIDED)
        with _explained():
            return imageio.decode_rgb(data, header)

    def labels(self, row: int) -> np.ndarray | None:
        """Return the labels of the mask, None without one; raises UnreadableError."""
        _, name = self._names(row)
        if name is None:
            return None
        data, header = self._read(name, self.reading)
        with _explained():
            labels = imageio.decode_mask(data, header, self.reading)
        if labels.ndim != 2 or labels.dtype.kind != "u":
            raise UnreadableError("the mask holds no labels")
        return labels

    def _names(self, row: int) -> tuple[str | None, str | None]:
        return self.columns.image_paths[row].as_py(), self.columns.mask_paths[row].as_py()

    def _place(self, name: str) -> Path:
        return Path(absolute_path(self.root, self.path_of(name)))

    def _stamp(self, name: str | None) -> str:
        if name is None:
            return ""
        try:
            state = self._place(name).stat()
        except OSError:
            return f"{name}\0gone"
        return f"{name}\0{state.st_size}\0{state.st_mtime_ns}"

    def _read(self, name: str, reading: Reading) -> tuple[bytes, imageio.Header]:
        if name in self.refused:
            raise UnreadableError(self.refused[name])
        with _explained():
            data = file_bytes(self._place(name))
            header = imageio.read_header(data, reading)
        if header.num_pixels > MAX_PIXELS:
            raise UnreadableError(f"too large to be shown: {header.num_pixels:,} pixels")
        return data, header


@dataclass(frozen=True)
class ShardPixels:
    """Reads tiles from shards; their masks hold classes."""

    source: TileSource

    def stamp(self, row: int) -> str:
        """Return the digest of the manifest of the shards, and the row."""
        return f"{self.source.digest}\0{row}"

    def image(self, row: int) -> np.ndarray:
        """Return the image; raises UnreadableError."""
        with _explained():
            return self.source.read(row).image

    def labels(self, row: int) -> np.ndarray | None:
        """Return the classes of the mask, None without one; raises UnreadableError."""
        with _explained():
            return self.source.read(row).mask

    def class_ids(self, labels: np.ndarray) -> np.ndarray:
        """Return the labels themselves, which are classes."""
        return labels.astype(np.int64)


class _explained:  # noqa: N801 (used as a function)
    """Turn what goes wrong in reading into UnreadableError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BrokenFileError):
            raise UnreadableError(f"{error.verdict}: {error.detail}") from error
        if isinstance(error, HistoprepError):
            raise UnreadableError(error.what) from error
        if isinstance(error, OSError):
            raise UnreadableError(error.strerror or str(error)) from error


def classes_by(label_map: LabelMap) -> Callable[[np.ndarray], np.ndarray]:
    """Return what maps labels to the classes of a label map."""

    def class_ids(labels: np.ndarray) -> np.ndarray:
        classes = label_map.apply_to_ids(labels).astype(np.int64)
        classes[classes == UNMAPPED] = NOT_LISTED
        classes[classes == IGNORED] = IGNORED_CLASS
        return classes

    return class_ids


def classes_as_labels(listed: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what leaves labels as they are, but for those that are not `listed` (sorted)."""

    def class_ids(labels: np.ndarray) -> np.ndarray:
        values = labels.astype(np.int64)
        return np.where(np.isin(values, listed), values, OTHER_LABELS)

    return class_ids


def encode_thumbnail(image: np.ndarray, longest_px: int) -> bytes:
    """Return an image, uint8 RGB [height, width, 3], as a JPEG of at most `longest_px` a side."""
    small = imageio.shrink_rgb(image, longest_px)
    return imageio.encode_rgb_jpeg(small, JPEG_QUALITY)


def decode_thumbnail(data: bytes) -> np.ndarray:
    """Return the pixels of a thumbnail, uint8 RGB [height, width, 3]."""
    return imageio.decode_rgb(data)


def encode_image(image: np.ndarray) -> bytes:
    """Return an image, uint8 RGB [height, width, 3], as a PNG with the same pixels."""
    return imageio.encode_rgb_png(image)


def encode_numbers(numbers: np.ndarray) -> bytes:
    """Return integers [height, width] in [0, 65535] as a PNG: red + 256 * green."""
    small = numbers.astype(np.uint16)
    coded = np.zeros((*small.shape, 3), np.uint8)
    coded[..., 0], coded[..., 1] = small & 255, small >> 8
    return imageio.encode_rgb_png(coded)


def class_places(labels: np.ndarray, reader: PixelReader, class_ids: list[int]) -> np.ndarray:
    """Return for each pixel 1 + the place of its class in `class_ids`, 0 where it has none."""
    present, index = np.unique(labels, return_inverse=True)
    places = {class_id: place for place, class_id in enumerate(class_ids, start=1)}
    table = np.array([places.get(int(each), 0) for each in reader.class_ids(present)], np.uint16)
    result: np.ndarray = table[index.reshape(labels.shape)]
    return result


def small_labels(labels: np.ndarray, longest_px: int) -> np.ndarray:
    """Return labels of at most `longest_px` a side, none of them blended."""
    return shrink_labels(labels, longest_px)
