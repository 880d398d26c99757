"""Names of files in tables and other texts, after files got other extensions: text in, text out.

A table names images by path, by the end of a path or by file name (see `name_index.py`). Only names
with an extension can become wrong, so only those are changed, and nothing else of the text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from histoprep.fixing.operations.base import IMAGE, MASK
from histoprep.name_index import common_end, composed

_MASK_COLUMN = re.compile(r"mask|label|annot|segment|truth|(^|[\W_])(gt|seg)($|[\W_])", re.I)
_WORD = re.compile(r"[^\s,;|\"'<>()\[\]{}]+")


class Renamed(NamedTuple):
    """An image or mask: its role, and its paths before and after, which may be the same."""

    role: str
    before: str
    after: str


@dataclass(slots=True)
class Rewritten:
    """A text with new names.

    Attributes:
        text: The text.
        num_changed: Names that were changed.
        num_ambiguous: Names that fit files of which some were renamed and others were not; they
            are as before.
    """

    text: str
    num_changed: int = 0
    num_ambiguous: int = 0


@dataclass(slots=True)
class Names:
    """The files whose name is that of a renamed one, by that name."""

    _files: dict[str, list[Renamed]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, files: Iterable[Renamed]) -> Names:
        """Take in all files that have the name of a renamed one."""
        names = cls()
        for file in files:
            names._files[composed(_base(file.before))].append(file)
        return names

    def __bool__(self) -> bool:
        """Return whether any file was renamed."""
        return bool(self._files)

    def new_name(self, name: str, *, is_mask: bool) -> str | None:
        """Return the new name of the file that a name means; the name itself where the file keeps
        it, and None where files fit of which some were renamed and others were not.

        Args:
            name: A path of any machine, or a file name.
            is_mask: Whether a mask is meant where the name fits an image and a mask.
        """
        plain = name.replace("\\", "/")
        found = self._files.get(composed(_base(plain)), [])
        if not found:
            return name
        ends = [common_end(plain, file.before) for file in found]
        best = [file for file, end in zip(found, ends, strict=True) if end == max(ends)]
        wanted = MASK if is_mask else IMAGE
        best = [file for file in best if file.role == wanted] or best
        new = {_base(file.after) for file in best}
        if len(new) > 1:
            return None
        base = _base(plain)
        return name[: len(name) - len(base)] + _suffix_of(base, new.pop())

    def rewrite_table(self, text: str, separator: str) -> Rewritten:
        """Return the text of a table with new names in its cells."""
        result = Rewritten("")
        parts, header, at = [], list[str](), 0
        for cell in _cells(text, separator):
            if cell.row == 0:
                header.append(cell.value)
            column = header[cell.column] if cell.column < len(header) else ""
            parts.append(text[at : cell.start])
            parts.append(self._new_cell(cell, bool(_MASK_COLUMN.search(column)), result))
            at = cell.end
        result.text = "".join([*parts, text[at:]])
        return result

    def _new_cell(self, cell: _Cell, is_mask: bool, result: Rewritten) -> str:
        whole = self._new_word(cell.value, is_mask, result)
        if whole != cell.value or composed(_base(cell.value)) in self._files:
            return cell.text.replace(cell.value, whole) if whole != cell.value else cell.text
        # Lists of names and labels are separated by blanks.
        return re.sub(r"\S+", lambda word: self._new_word(word[0], is_mask, result), cell.text)

    def _new_word(self, word: str, is_mask: bool, result: Rewritten) -> str:
        new = self.new_name(word, is_mask=is_mask)
        result.num_ambiguous += new is None
        result.num_changed += new not in (None, word)
        return word if new is None else new

    def count(self, text: str) -> int:
        """Return how many names of renamed files a text has."""
        words = (match[0] for match in _WORD.finditer(text))
        return sum(self.new_name(word, is_mask=False) != word for word in words)


class _Cell(NamedTuple):
    row: int
    column: int
    start: int
    end: int
    text: str

    @property
    def value(self) -> str:
        """Return what is in the cell, without quotes and blanks around it."""
        stripped = self.text.strip()
        is_quoted = len(stripped) > 1 and stripped[0] == stripped[-1] == '"'
        return stripped[1:-1].strip() if is_quoted else stripped


def _cells(text: str, separator: str) -> Iterator[_Cell]:
    """Yield the cells of a table; a quoted one may hold separators and line breaks."""
    mark = re.escape(separator)
    pattern = re.compile(rf'(?:[^\S\r\n]*"(?:[^"]|"")*"[^{mark}\r\n]*|[^{mark}\r\n]*)')
    at = row = column = 0
    while at <= len(text):
        match = pattern.match(text, at)
        assert match is not None, "the pattern fits the empty text"
        yield _Cell(row, column, match.start(), match.end(), match[0])
        at = match.end()
        if at >= len(text):
            return
        if text[at] == separator:
            column += 1
        else:
            row, column = row + 1, 0
            at += text.startswith("\r\n", at)
        at += 1


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _suffix_of(base: str, new: str) -> str:
    """Return a file name with the extension of another one; its stem keeps its Unicode form."""
    return base.rpartition(".")[0] + "." + new.rpartition(".")[2]
