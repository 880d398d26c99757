"""`dataset.csv`: image names and what is declared of them.

Two forms are read: without a header, `image name,labels separated by blanks`; or with a
header whose first column (or one called image, file, filename, name or path) names the image.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from histoprep.errors import UsageError

FILE_NAME = "dataset.csv"
_NAME_COLUMNS = ("image", "file", "filename", "name", "path", "image_path", "img")
_LABEL_COLUMNS = ("labels", "classes", "label_ids")


@dataclass(slots=True)
class DatasetCsv:
    """The rows of a dataset.csv by image name; remembers which were asked for."""

    path: Path
    header: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    labels_at: int | None
    _seen: set[str] = field(default_factory=set)

    @classmethod
    def find(cls, root: Path, given: Path | None) -> DatasetCsv | None:
        """Return `given`, or the dataset.csv of `root`, or None; raises UsageError when it cannot be read."""
        path = given or root / FILE_NAME
        if given is None and not path.is_file():
            return None
        try:
            with open(path, encoding="utf-8-sig", newline="") as stream:
                lines = [tuple(cell.strip() for cell in row) for row in csv.reader(stream) if row and any(row)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"the table cannot be read: {error}", path=path, expected="a CSV file in UTF-8") from error
        return cls._of(path, lines)

    @classmethod
    def _of(cls, path: Path, lines: list[tuple[str, ...]]) -> DatasetCsv:
        has_header = bool(lines) and "." not in lines[0][0]
        header = tuple(cell.lower() for cell in lines[0]) if has_header else ()
        name_at = next((header.index(name) for name in _NAME_COLUMNS if name in header), 0)
        labels_at = next((header.index(name) for name in _LABEL_COLUMNS if name in header), None) if has_header else 1
        rows: dict[str, tuple[str, ...]] = {}
        for number, row in enumerate(lines[has_header:], start=1 + has_header):
            if len(row) <= name_at:
                raise UsageError(f"row {number} has no image name", path=path, seen=",".join(row))
            if row[name_at] in rows:
                raise UsageError(f"row {number} names an image for the second time", path=path, seen=row[name_at], hint="keep one row for each image")
            rows[row[name_at]] = row
        return cls(path, header, rows, labels_at)

    def _row(self, image_path: str) -> tuple[str, ...] | None:
        """Return the row that names the image by path or by file name, with or without suffix."""
        base = image_path.rpartition("/")[2]
        for name in (image_path, base, image_path.rpartition(".")[0], base.rpartition(".")[0]):
            row = self.rows.get(name)
            if row is not None:
                self._seen.add(name)
                return row
        return None

    def labels(self, image_path: str) -> tuple[str, ...] | None:
        """Return the labels declared of an image, or None when the table says nothing of them."""
        row = self._row(image_path)
        if row is None or self.labels_at is None or len(row) <= self.labels_at:
            return None
        return tuple(row[self.labels_at].split())

    def column(self, name: str) -> Callable[[str, str | None], str | None]:
        """Return a function from (tile id, image path) to the cell of column `name`; None for no row or an empty cell."""
        if name.lower() not in self.header:
            raise UsageError(f"the table has no column {name!r}", path=self.path, seen=", ".join(self.header) or "no header", expected=name)
        index = self.header.index(name.lower())

        def read(_: str, image_path: str | None) -> str | None:
            row = self._row(image_path) if image_path else None
            return (row[index] or None) if row and len(row) > index else None

        return read

    def unseen(self) -> Iterator[str]:
        """Yield the image names that were never asked for, in order of the table."""
        return (name for name in self.rows if name not in self._seen)
