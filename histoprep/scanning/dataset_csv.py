"""`dataset.csv`, and tables that other tools write: what is declared of images or of slides.

Three forms are read: without a header, `image name,labels separated by blanks`; with a header, one
of whose columns names the image (see `NAME_COLUMNS`; otherwise the one with names of image files,
otherwise the first); and with a header that has no such column but one of slides or cases: then a
row holds for all tiles of that slide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from histoprep.errors import UsageError
from histoprep.image_formats import is_image
from histoprep.name_index import NameIndex, SlideIndex, is_slide
from histoprep.text_table import Row, TextTable, read_text_table

FILE_NAME = "dataset.csv"
NAME_COLUMNS = (
    "image",
    "file",
    "filename",
    "file_name",
    "name",
    "path",
    "image_path",
    "image_name",
    "img",
    "img_path",
    "tile",
    "tile_id",
    "tile_path",
    "patch",
    "patch_path",
)
SLIDE_COLUMNS = ("slide_id", "slide", "slide_name", "wsi", "wsi_id", "wsi_name", "slide_path")
CASE_COLUMNS = ("case_id", "case", "patient_id", "patient")
_LABEL_COLUMNS = ("labels", "classes", "label_ids")


@dataclass(slots=True)
class DatasetCsv:
    """The rows of a table by the name of an image or a slide; remembers which were found.

    Attributes:
        path: The file.
        header: The names of its columns in lower case; empty without a header.
        rows: Each row by the name in it.
        names_slides: Whether the names are those of slides or cases.
        labels_at: The column of the labels of an image, if there is one.
    """

    path: Path
    header: Row
    rows: dict[str, Row]
    names_slides: bool
    labels_at: int | None
    _separator: str = ","
    _index: NameIndex | SlideIndex = field(init=False, repr=False)
    _found: dict[str, str] = field(default_factory=dict)
    _shared: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Index the names."""
        self._index = SlideIndex(self.rows) if self.names_slides else NameIndex(self.rows)

    @classmethod
    def find(cls, root: Path, given: Path | None) -> DatasetCsv | None:
        """Return `given`, or the dataset.csv of `root`, or None; raises UsageError when it cannot
        be read.
        """
        path = given or root / FILE_NAME
        if given is None and not path.is_file():
            return None
        return cls._of(read_text_table(path))

    @classmethod
    def _of(cls, table: TextTable) -> DatasetCsv:
        has_header = _has_header(table.rows)
        header = tuple(cell.lower() for cell in table.rows[0]) if has_header else ()
        columns = _NameColumn.of(header, table.rows[has_header:])
        labels_at = _first_of(_LABEL_COLUMNS, header) if has_header else 1
        rows: dict[str, Row] = {}
        for index in range(has_header, len(table.rows)):
            row = table.rows[index]
            line = table.lines[index]
            if len(row) <= columns.at or not row[columns.at]:
                raise UsageError(
                    f"row {line} has no {columns.what} name",
                    path=table.path,
                    seen=table.show(index),
                )
            name = row[columns.at]
            if rows.setdefault(name, row) != row:
                raise UsageError(
                    f"row {line} names {columns.article} {columns.what} for the second time",
                    path=table.path,
                    seen=table.show(index),
                    expected=f"one row for each {columns.what}{columns.where(header)}",
                    hint=_NAME_HINT if header else f"keep one row for each {columns.what}",
                )
        return cls(table.path, header, rows, columns.what == "slide", labels_at, table.separator)

    def row_of(self, image_path: str) -> Row | None:
        """Return the row that names an image, or its slide, or None."""
        name = self._index.find(image_path)
        if name is None:
            return None
        first = self._found.setdefault(name, image_path)
        if first != image_path and not self.names_slides:
            shared = self._shared.setdefault(name, [first])
            if image_path not in shared:
                shared.append(image_path)
        return self.rows[name]

    def labels(self, image_path: str) -> tuple[str, ...] | None:
        """Return the labels declared of an image, or None when the table says nothing of them."""
        row = self.row_of(image_path)
        if row is None or self.labels_at is None or len(row) <= self.labels_at:
            return None
        return tuple(row[self.labels_at].split())

    def column(self, name: str) -> Callable[[str, str | None], str | None]:
        """Return a function from (tile id, image path) to the cell of column `name`; None for no
        row or an empty cell.
        """
        if name.lower() not in self.header:
            raise UsageError(
                f"the table has no column {name!r}",
                path=self.path,
                seen=", ".join(self.header) or self._without_header(),
                expected=f"a header with {name}, and with image or slide_id, for one",
            )
        index = self.header.index(name.lower())

        def read(_: str, image_path: str | None) -> str | None:
            row = self.row_of(image_path) if image_path else None
            return (row[index] or None) if row and len(row) > index else None

        return read

    def _without_header(self) -> str:
        first = next(iter(self.rows.values()), None)
        if first is None:
            return "an empty table"
        return f"no header that is known: the first row is {self._separator.join(first)}"

    def unseen(self) -> Iterator[str]:
        """Yield the names that no image was found for, in order of the table."""
        return (name for name in self.rows if name not in self._found)

    def shared(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the names of images that fit several, with those."""
        yield from self._shared.items()

    def refuse_foreign(self, image_path: str) -> None:
        """Raise UsageError if no row was found for any image; `image_path` is one of them."""
        if self._found or not self.rows:
            return
        name, row = next(iter(self.rows.items()))
        what = "slide" if self.names_slides else "image"
        raise UsageError(
            f"no row of the table names {'a' if what == 'slide' else 'an'} {what} of the data set",
            path=self.path,
            seen=f"{what} {name} in the row {self._separator.join(row)}",
            expected=f"{'the slide' if what == 'slide' else 'the name'} of {image_path}, for one",
            hint=_NAME_HINT,
        )


_NAME_HINT = (
    "name the column of image files `image`, or, where a row holds for all tiles of a slide,"
    " the one of slides `slide_id`"
)


@dataclass(frozen=True, slots=True)
class _NameColumn:
    """Which column names what: an image, or a slide."""

    at: int
    what: str = "image"

    @classmethod
    def of(cls, header: Row, rows: Sequence[Row]) -> _NameColumn:
        if not header:
            return cls(0)
        images, files = _first_of(NAME_COLUMNS, header), _column_of_files(len(header), rows)
        if images is not None and not (rows and all(map(is_slide, _cells(rows, images)))):
            return cls(images)
        if files is not None:
            return cls(files)
        if images is not None:
            return cls(images, "slide")
        slides = _first_of((*SLIDE_COLUMNS, *CASE_COLUMNS), header)
        return cls(0) if slides is None else cls(slides, "slide")

    @property
    def article(self) -> str:
        return "an" if self.what == "image" else "a"

    def where(self, header: Row) -> str:
        return f", named in column {header[self.at]!r}" if header else ""


def _cells(rows: Sequence[Row], at: int) -> Iterator[str]:
    return (row[at] if len(row) > at else "" for row in rows)


def _first_of(wanted: tuple[str, ...], header: Row) -> int | None:
    return next((header.index(name) for name in wanted if name in header), None)


def _column_of_files(num_columns: int, rows: Sequence[Row]) -> int | None:
    """Return the first column that holds names of image files alone."""
    for at in range(num_columns):
        if rows and all(map(is_image, _cells(rows, at))):
            return at
    return None


def _has_header(rows: Sequence[Row]) -> bool:
    """Return whether the first row names columns: by a known name, or by having no suffix where
    later rows have one.
    """
    if not rows:
        return False
    words = {*NAME_COLUMNS, *SLIDE_COLUMNS, *CASE_COLUMNS, *_LABEL_COLUMNS}
    known = {cell.lower() for cell in rows[0]} & words
    return bool(known) or ("." not in rows[0][0] and any("." in row[0] for row in rows[1:]))
