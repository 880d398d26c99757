"""`dataset.csv`: image names and what is declared of them.

Two forms are read: without a header, `image name,labels separated by blanks`; or with a
header whose first column (or one called image, file, filename, name or path) names the image.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from histoprep.durable import write_bytes
from histoprep.errors import UsageError
from histoprep.names import to_name, to_text

FILE_NAME = "dataset.csv"
_NAME_COLUMNS = ("image", "file", "filename", "name", "path", "image_path", "img")
_LABEL_COLUMNS = ("labels", "classes", "label_ids")
_FORMULA_STARTS = ("=", "+", "-", "@")

Row = tuple[str, ...]


def write_dataset_csv(path: Path, rows: Iterable[tuple[str, Iterable[object]]]) -> None:
    """Publish a dataset.csv without header from (image path as in tiles.parquet, its labels).

    Rows whose name a spreadsheet could take for a formula are quoted.
    """
    stream = io.StringIO()
    plain, quoted = (
        csv.writer(stream, lineterminator="\n", quoting=quoting)
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    for image, labels in rows:
        writer = quoted if image.startswith(_FORMULA_STARTS) else plain
        writer.writerow((to_name(image), " ".join(map(str, labels))))
    write_bytes(path, stream.getvalue().encode("utf-8", "surrogateescape"))


@dataclass(slots=True)
class DatasetCsv:
    """The rows of a dataset.csv by image name; remembers which were asked for.

    Names are compared in Unicode's composed form, since some systems store the decomposed one.
    """

    path: Path
    header: Row
    rows: dict[str, Row]
    labels_at: int | None
    _seen: set[str] = field(default_factory=set)

    @classmethod
    def find(cls, root: Path, given: Path | None) -> DatasetCsv | None:
        """Return `given`, or the dataset.csv of `root`, or None; raises UsageError when it cannot
        be read.
        """
        path = given or root / FILE_NAME
        if given is None and not path.is_file():
            return None
        if path.exists() and not path.is_file():
            # Opening a pipe waits for a writer, and later commands read the table again.
            raise UsageError(
                "the table is no regular file", path=path, expected="a CSV file in UTF-8"
            )
        try:
            # Names that are not UTF-8 are bytes like any other.
            with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
                text = stream.read()
            rows = csv.reader(io.StringIO(text, newline=""), strict=True)
            # Most tables are ASCII, which needs no look at each cell.
            read = str.strip if text.isascii() else _stored
            lines = [row for cells in rows if any(row := tuple(map(read, cells)))]
        except (OSError, csv.Error) as error:
            raise UsageError(
                f"the table cannot be read: {error}", path=path, expected="a CSV file in UTF-8"
            ) from error
        return cls._of(path, lines)

    @classmethod
    def _of(cls, path: Path, lines: list[Row]) -> DatasetCsv:
        has_header = _has_header(lines)
        header = tuple(cell.lower() for cell in lines[0]) if has_header else ()
        name_at = next((header.index(name) for name in _NAME_COLUMNS if name in header), 0)
        labels_at = (
            next((header.index(name) for name in _LABEL_COLUMNS if name in header), None)
            if has_header
            else 1
        )
        rows: dict[str, Row] = {}
        for number, row in enumerate(lines[has_header:], start=1 + has_header):
            if len(row) <= name_at or not row[name_at]:
                raise UsageError(f"row {number} has no image name", path=path, seen=",".join(row))
            name = _composed(row[name_at].removeprefix("./"))
            if name in rows:
                raise UsageError(
                    f"row {number} names an image for the second time",
                    path=path,
                    seen=row[name_at],
                    hint="keep one row for each image",
                )
            rows[name] = row
        return cls(path, header, rows, labels_at)

    def _row(self, image_path: str) -> Row | None:
        """Return the row that names the image by path or by file name, with or without suffix."""
        whole = _composed(image_path)
        base = whole.rpartition("/")[2]
        for name in (whole, base, whole.rpartition(".")[0], base.rpartition(".")[0]):
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
        """Return a function from (tile id, image path) to the cell of column `name`; None for no
        row or an empty cell.
        """
        if name.lower() not in self.header:
            raise UsageError(
                f"the table has no column {name!r}",
                path=self.path,
                seen=", ".join(self.header) or "no header",
                expected=name,
            )
        index = self.header.index(name.lower())

        def read(_: str, image_path: str | None) -> str | None:
            row = self._row(image_path) if image_path else None
            return (row[index] or None) if row and len(row) > index else None

        return read

    def unseen(self) -> Iterator[str]:
        """Yield the image names that were never asked for, in order of the table."""
        return (name for name in self.rows if name not in self._seen)


def _has_header(lines: list[Row]) -> bool:
    """Return whether the first row names columns: by a known name, or by having no suffix where
    later rows have one.
    """
    if not lines:
        return False
    known = {cell.lower() for cell in lines[0]} & {*_NAME_COLUMNS, *_LABEL_COLUMNS}
    return bool(known) or ("." not in lines[0][0] and any("." in row[0] for row in lines[1:]))


def _stored(cell: str) -> str:
    return to_text(cell.strip())


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)
