"""Tables as spreadsheets and other tools write them: bytes -> header and rows. Pure.

The encoding (UTF-8, UTF-16 and UTF-32, with or without a byte order mark) and the separator
(comma, semicolon, tab or bar) are found from the bytes.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from histoprep.errors import UsageError
from histoprep.names import to_text

Row = tuple[str, ...]

SEPARATORS = (",", ";", "\t", "|")
EXPECTED = "a table as text: cells separated by commas, semicolons, tabs or bars"
_SAMPLE_ROWS = 200
_SAMPLE_BYTES = 1 << 18
_MARKS = (
    # UTF-32 first, since its mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SHOWN_OF_JSON = 60
_OTHER_FILES = {
    b"PK\x03\x04": "an Excel workbook or another archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a compressed file",
}
# An object, or a list of texts, lists or objects.
_JSON = re.compile(r'\s*(?:\{\s*["}]|\[\s*["\[{\]])')


@dataclass(frozen=True, slots=True)
class TextTable:
    """The rows of a table that hold anything, as stripped text.

    Attributes:
        path: The file.
        rows: The rows, a header among them if there is one.
        lines: The line of the file, from 1, on which each row begins.
        separator: What is between cells.
    """

    path: Path
    rows: list[Row]
    lines: list[int]
    separator: str = ","

    def show(self, index: int) -> str:
        """Return a row as it stands in the file, but for quotes."""
        return self.separator.join(self.rows[index])


def read_text_table(path: Path, what: str = "the table") -> TextTable:
    """Return the table in a file; `what` is how errors call it.

    Bytes that are no UTF-8 stay what they are, since names of files need not be.

    Raises:
        UsageError: There is no such file, it is no regular file, or it is no table of text.
    """
    _refuse_special(path, what)
    with _explained(path, what):
        data = path.read_bytes()
        decoded = _decoded(data, _encoding(data))
        _refuse_json(decoded)
        separator, text = _separator(decoded)
        rows = list(_rows(text, separator))
    return TextTable(path, [row for row, _ in rows], [line for _, line in rows], separator)


def _refuse_special(path: Path, what: str) -> None:
    if path.exists() and not path.is_file():
        # Opening a pipe waits for a writer, and later commands read the table again.
        raise UsageError(f"{what} is no regular file", path=path, expected=EXPECTED)


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Turn what goes wrong in reading into a UsageError."""
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{what} cannot be read: {error}", path=path, expected=EXPECTED) from error
    except _NoTextError as error:
        raise UsageError(
            f"{what} is no text",
            path=path,
            seen=str(error),
            expected=EXPECTED,
            hint="save it as CSV, and name that file",
        ) from error
    except _JsonError as error:
        raise UsageError(
            f"{what} is JSON",
            path=path,
            seen=str(error),
            expected=EXPECTED,
            hint="write its entries as rows of a table, a header first; of annotations, histoprep"
            " import makes a data set",
        ) from error


class TextFormat(NamedTuple):
    """How the text of a table is written; `skipped` lines before it hold no cells."""

    encoding: str
    separator: str
    skipped: int


def detect_format(path: Path, what: str = "the table") -> TextFormat:
    """Return how a table is written, from its first bytes, for readers of large ones.

    Raises:
        UsageError: As `read_text_table`.
    """
    _refuse_special(path, what)
    with _explained(path, what):
        with path.open("rb") as stream:
            start = stream.read(_SAMPLE_BYTES)
        encoding = _encoding(start)
        text = _decoded(start, encoding, final=len(start) < _SAMPLE_BYTES)
        _refuse_json(text)
        separator, rest = _separator(text)
    return TextFormat(encoding, separator, int(len(rest) < len(text)))


class _JsonError(Exception):
    """A file holds JSON; the message is its beginning."""


class _NoTextError(Exception):
    """A file is no text; the message says what it is."""


def _encoding(data: bytes) -> str:
    for start, kind in _OTHER_FILES.items():
        if data.startswith(start):
            raise _NoTextError(kind)
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    # Text has no zero bytes, but for Latin letters in UTF-16.
    if data[1::2].count(0) > len(data) // 4:
        return "utf-16-le"
    if data[::2].count(0) > len(data) // 4:
        return "utf-16-be"
    if 0 in data:
        raise _NoTextError("bytes that are no text")
    return "utf-8"


def _decoded(data: bytes, encoding: str, *, final: bool = True) -> str:
    """Return the text; bytes that are no UTF-8 stay what they are. A last character that is not
    whole is left out unless `final`.
    """
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    return codecs.getincrementaldecoder(encoding)(errors).decode(data, final)


def _refuse_json(text: str) -> None:
    if _JSON.match(text):
        raise _JsonError(" ".join(text[:_SHOWN_OF_JSON].split()))


def _separator(text: str) -> tuple[str, str]:
    """Return the separator and the text without the line in which Excel names it."""
    first, _, rest = text.partition("\n")
    named = first.strip().lower()
    if len(named) == len("sep=,") and named.startswith("sep=") and named[-1] in SEPARATORS:
        return named[-1], rest
    sample = text[: 1 << 16]
    return max(SEPARATORS, key=lambda separator: _regularity(sample, separator)), text


def _regularity(sample: str, separator: str) -> tuple[float, int, int]:
    """Return how well a separator fits: the share of rows with as many cells as the first, the
    number of cells, and how early it comes in the list; all 0 where it separates nothing.
    """
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
    widths = [len(row) for row in itertools.islice(reader, _SAMPLE_ROWS) if row]
    rank = -SEPARATORS.index(separator)
    if not widths or max(widths) == 1:
        return 0.0, 0, rank
    return sum(width == widths[0] for width in widths) / len(widths), max(widths), rank


def _rows(text: str, separator: str) -> Iterator[tuple[Row, int]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    # Most tables are ASCII, which needs no look at each cell.
    read = str.strip if text.isascii() else _stored
    line = 1
    for cells in reader:
        row = tuple(map(read, cells))
        if any(row):
            yield row, line
        line = reader.line_num + 1


def _stored(cell: str) -> str:
    return to_text(cell.strip())
