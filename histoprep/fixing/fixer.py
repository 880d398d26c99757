"""One file of a data set -> the file in its place and what the ledger says of it, in a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from histoprep.digests import digest
from histoprep.errors import BrokenFileError
from histoprep.fixing.operations import operation_called
from histoprep.fixing.operations.base import NotDoneError, TreeFile
from histoprep.mask_reading import Reading
from histoprep.mask_tree.task import NewFile

MADE = "written"


class FileRow(NamedTuple):
    """What is to be done with one file.

    Attributes:
        path: Its path relative to the data set, as text.
        file: The file to begin with: `path`, or the repaired mask.
        num_bytes: Size of that file.
        mtime_ns: Its modification time.
        digest: Digest of its bytes, None where it is not known.
        role: image, mask, table or other.
        tile_id: The tile, None for other files.
        steps: Names of operations, in order, each with its ticket.
        left: Operations that cannot be done, with the reason, as the ledger has them.
        blocked: Suffixes that the new file cannot have, with the reason.
        source_digest: Digest of the file of the data set.
        ids: Labels of the mask before, and of the file to begin with.
        pixels: Pixels of each.
    """

    path: str
    file: str
    num_bytes: int
    mtime_ns: int
    digest: str | None
    role: str
    tile_id: str | None = None
    steps: tuple[tuple[str, Any], ...] = ()
    left: tuple[str, ...] = ()
    blocked: tuple[tuple[str, str], ...] = ()
    source_digest: str | None = None
    ids: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None)
    pixels: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None)

    @property
    def failure(self) -> str | None:
        """Return None: every file comes into the tree."""
        return None

    @property
    def is_replaced(self) -> bool:
        """Return whether another file is put in its place."""
        return self.file != self.path

    @property
    def is_kept(self) -> bool:
        """Return whether the file to begin with comes into the tree as it is."""
        return not self.steps or (self.is_replaced and len(self.steps) == 1)


@dataclass(frozen=True, slots=True)
class Fixer:
    """Changes one file after another; travels to the workers."""

    reading: Reading

    def open(self) -> Callable[[bytes | None, str, FileRow], NewFile]:
        """Return the function from the bytes of a file, their digest and its row to the new file;
        None for bytes stands for a file that is kept.
        """
        return self.fix

    def fix(self, data: bytes | None, key: str, row: FileRow) -> NewFile:
        """Return what becomes of a file."""
        stem, suffix = split_suffix(row.path)
        if data is None:
            begin = TreeFile(b"", suffix, self.reading).with_data(b"", split_suffix(row.file)[1])
            done = [name for name, _ in row.steps]
            return self._kept(row, key, done, list(row.left), begin.suffix)
        begin = TreeFile(data, suffix, self.reading).with_data(data, split_suffix(row.file)[1])
        content, done, left = begin, list[str](), list(row.left)
        for name, ticket in row.steps:
            try:
                content = _step(name, ticket, content, row)
            except _UnchangedError:
                continue
            except NotDoneError as error:
                left.append(f"{name}: {error}")
            except BrokenFileError as error:
                left.append(f"{name}: {error.verdict}: {error.detail}")
            else:
                done.append(name)
        if content.data == data:
            return self._kept(row, key, done, left, content.suffix)
        facts = _facts(row, done, left) | _changes(row, begin, content)
        new_key = digest(content.data)
        return NewFile(content.data, new_key, facts | {"how": MADE}, stem + content.suffix)

    def _kept(
        self, row: FileRow, key: str, done: list[str], left: list[str], suffix: str
    ) -> NewFile:
        facts = _facts(row, done, left)
        return NewFile(None, key, facts, split_suffix(row.path)[0] + suffix)


class _UnchangedError(Exception):
    """There was nothing to be done."""


def _step(name: str, ticket: Any, content: TreeFile, row: FileRow) -> TreeFile:
    """Return the file after one more operation.

    Raises:
        NotDoneError: It cannot be done, or the new name is taken.
        BrokenFileError: The file is damaged.
    """
    changed = operation_called(name).apply(content, ticket)
    if changed is content:
        raise _UnchangedError
    blocked = dict(row.blocked)
    if changed.suffix != content.suffix and changed.suffix in blocked:
        raise NotDoneError(blocked[changed.suffix])
    return changed


def split_suffix(path: str) -> tuple[str, str]:
    """Return a path without its suffix, and the suffix with its dot; "" where it has none."""
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    return (folder + slash + stem, dot + suffix) if stem else (path, "")


def _facts(row: FileRow, done: list[str], left: list[str]) -> dict[str, Any]:
    before, after = row.ids
    pixels_before, pixels_after = row.pixels
    facts = {
        "role": row.role,
        "tile_id": row.tile_id,
        "operations": done,
        "left": left,
        "label_ids": before,
        "label_pixels": pixels_before,
        "output_label_ids": after,
        "output_label_pixels": pixels_after,
    }
    return facts | ({"source_digest": row.source_digest} if row.is_replaced else {})


def _changes(row: FileRow, begin: TreeFile, content: TreeFile) -> dict[str, Any]:
    """Return what changed of the labels of a mask."""
    if content.labels is None:
        return {}
    ids, pixels = np.unique(content.labels, return_counts=True)
    before = begin.read_labels()
    changed = {"output_label_ids": ids.tolist(), "output_label_pixels": pixels.tolist()}
    if row.is_replaced:
        # Of the mask before the repair nobody read the pixels.
        return changed
    return changed | {"changed_pixels": int(np.count_nonzero(before != content.labels))}
