"""The formats that can be imported, one module each, and what they have in common.

A module has one function `read(source, search, ...)`, which returns a `Collection`, and stands in
`FORMATS` under its name. docs/adding-an-import.md shows one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from histoprep.choices import DrawingOrder
from histoprep.errors import UsageError
from histoprep.importing.images import ImageIndex, files_below
from histoprep.importing.model import Collection, ImageFile

FORMATS = {
    "coco": "coco",
    "combine": "combine",
}
"""The name of each format, as the command has it, and its module."""

_ANNOTATION_FOLDERS = frozenset(
    ("annotations", "annotation", "ann", "annots", "labels", "json", "jsons", "xml", "geojson")
)


@dataclass(frozen=True, slots=True)
class Search:
    """Where things are looked for.

    Attributes:
        images: Folder of the images, where somebody named it.
        skip: The tree that is being made; it is no part of the source.
        order: Which of two annotations lies on top; None for the format's own order.
    """

    images: Path | None = None
    skip: Path | None = None
    order: DrawingOrder | None = None

    def index(self, source: Path) -> ImageIndex:
        """Return the images of a source: below the folder of images, else below the source or, for
        a file, below its folder; above that where it is a folder of annotations alone.
        """
        if self.images is not None:
            if not self.images.is_dir():
                raise UsageError("--images is no folder", path=self.images)
            return ImageIndex(self.images, files_below(self.images, skip=self.skip))
        folder = source if source.is_dir() else source.absolute().parent
        index = ImageIndex(folder, files_below(folder, skip=self.skip))
        if not index.paths and folder.absolute().name.lower() in _ANNOTATION_FOLDERS:
            above = folder.absolute().parent
            return ImageIndex(above, files_below(above, skip=self.skip))
        return index

    def files(self, source: Path, *suffixes: str) -> list[Path]:
        """Return the source itself if it is a file, else the files below it with these suffixes.

        Raises:
            UsageError: There is none.
        """
        if source.is_file():
            return [source]
        if not source.exists():
            raise UsageError("there is no such file or folder", path=source)
        found = [
            path
            for path in files_below(source, skip=self.skip)
            if path.name.lower().endswith(suffixes)
        ]
        if not found:
            raise UsageError(
                f"there is no file *{' or *'.join(suffixes)} here", path=source, expected="one"
            )
        return found


def as_image(found: Path | str) -> ImageFile | str:
    """Return an image that was looked for, or the reason why there is none."""
    return ImageFile(found) if isinstance(found, Path) else found


def read_source(name: str, source: Path, search: Search, **options: Any) -> Collection:
    """Return what the format of that name reads of a source.

    Args:
        name: One of `FORMATS`.
        source: File or folder.
        search: Where things are looked for.
        **options: What `read` of the format's module takes besides.

    Raises:
        UsageError: The source cannot be read as this format; AnnotationError names the place.
    """
    if not source.exists():
        raise UsageError("there is no such file or folder", path=source)
    module = import_module(f"{__name__}.{FORMATS[name]}")
    read = cast(Callable[..., Collection], module.read)
    return read(source, search, **options)


def unique(values: Iterable[str]) -> list[str]:
    """Return texts in the order in which each comes first."""
    return list(dict.fromkeys(values))
