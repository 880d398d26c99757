"""The formats that can be imported, one module each, and what they have in common.

A module has one function `read(source, search, ...)`, which returns a `Collection`, and stands in
`FORMATS` under its name. docs/importing.md says more.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from histoprep.choices import DrawingOrder
from histoprep.errors import UsageError
from histoprep.importing.images import ImageIndex, files_below
from histoprep.importing.legend import is_background, number_labels
from histoprep.importing.model import BACKGROUND, Collection, ImageFile, Label
from histoprep.phrases import first_of

FORMATS = {
    "coco": "coco",
    "labelme": "labelme",
    "cvat": "cvat",
    "qupath": "qupath",
    "panoptic": "panoptic",
    "npy-stack": "npy_stack",
    "mat": "mat",
    "side-by-side": "side_by_side",
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

    def command(self, name: str, source: Path, *words: object) -> str:
        """Return the command that imports a source into the same tree.

        Args:
            name: One of `FORMATS`.
            source: File or folder.
            *words: Further options and their values.
        """
        out = ("--out", self.skip) if self.skip is not None else ()
        images = ("--images", self.images) if self.images is not None else ()
        return shlex.join(
            str(word) for word in ("histoprep", "import", name, source, *words, *images, *out)
        )

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


def number_names(
    seen: Iterable[str],
    classes: Sequence[str] = (),
    colours: Mapping[str, str] | None = None,
    *,
    last: str | None = None,
) -> tuple[tuple[Label, ...], dict[str, int]]:
    """Return the labels of a source that has names alone, and the label of each name.

    Args:
        seen: The names in the source.
        classes: Names in the order of their labels, from 1 on; without them, in the order of the
            alphabet.
        colours: Colours by name.
        last: A name that always comes last.

    Raises:
        UsageError: The source has a name that `classes` does not list.
    """
    wanted = set(seen)
    names = list(classes) or sorted(wanted, key=lambda name: (name == last, name))
    unknown = sorted(name for name in wanted if name not in names and not is_background(name))
    if unknown:
        raise UsageError(
            "the source has classes that --classes does not list",
            seen=first_of(unknown),
            expected=", ".join(names),
        )
    labels, numbers = number_labels((None, name, (colours or {}).get(name)) for name in names)
    by_name = {name: numbers[place] for place, name in enumerate(names, start=1)}
    return labels, {name: by_name.get(name, BACKGROUND) for name in {*wanted, *names}}
