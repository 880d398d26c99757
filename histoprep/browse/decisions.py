"""Decisions about tiles: appended to decisions.csv at once, and held as rows in memory."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.durable import sync_folder
from histoprep.errors import OutputError, UsageError
from histoprep.schemas.decisions import (
    Action,
    Decisions,
    Row,
    format_rows,
    parse_rows,
    replay,
)

NAME = "decisions.csv"
MAX_TAG_CHARACTERS = 60


class Journal:
    """decisions.csv of a workspace: read when it changes, appended to under a lock.

    What `append` wrote is on the device when it returns. The beginning of a row that a crash cut
    off is removed by the next `append`.
    """

    def __init__(self, path: Path, who: str = "") -> None:
        """Read nothing yet.

        Args:
            path: The file; it need not be there.
            who: Who decides, for the column of that name, with the time; empty for neither.
        """
        self.path = path
        self._who = who
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._size = -1

    def read(self) -> tuple[int, Decisions] | None:
        """Return the size of the file and what holds, None where nothing changed since.

        Raises:
            UsageError: A row is no decision.
        """
        with self._lock:
            size = self.path.stat().st_size if self.path.is_file() else 0
            if size == self._size:
                return None
            self._load(self.path.read_bytes() if size else b"")
            return self._size, replay(self._rows)

    def append(self, action: Action, tile_ids: Sequence[str], tag: str = "") -> int:
        """Append one decision about tiles and return its number.

        Raises:
            UsageError: The tag is empty or too long, or a row of the file is no decision.
            OutputError: The file cannot be written.
        """
        if action in (Action.TAG, Action.UNTAG):
            _check_tag(tag)
        with self._open() as descriptor:
            number = replay(self._rows).last + 1
            self._write(
                descriptor, [self._row(tile_id, action, tag, number) for tile_id in tile_ids]
            )
            return number

    def undo(self) -> int | None:
        """Take the last decision back and return its number, None where there is none."""
        with self._open() as descriptor:
            undoable = replay(self._rows).undoable
            if not undoable:
                return None
            self._write(descriptor, [self._row("", Action.UNDO, "", undoable[-1])])
            return undoable[-1]

    def _row(self, tile_id: str, action: Action, tag: str, number: int) -> Row:
        when = datetime.now(UTC).isoformat(timespec="seconds") if self._who else ""
        return Row(tile_id, action, tag, number, self._who, when)

    @contextmanager
    def _open(self) -> Iterator[int]:
        """Hold the file for writing, its rows read and its torn end cut off."""
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                is_new = not self.path.exists()
                # Not through a link: what it leads to is not ours to write into.
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                descriptor = os.open(self.path, flags, 0o666)
            except OSError as error:
                raise OutputError.from_os_error(error, self.path) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                data = _read_all(descriptor)
                self._load(data)
                if self._size < len(data):
                    os.ftruncate(descriptor, self._size)
                yield descriptor
                os.fsync(descriptor)
                if is_new:
                    sync_folder(self.path.parent)
            except OSError as error:
                self._size = -1
                raise OutputError.from_os_error(error, self.path) from error
            finally:
                os.close(descriptor)

    def _load(self, data: bytes) -> None:
        try:
            self._rows, self._size = parse_rows(data)
        except UsageError as error:
            error.path = str(self.path)
            raise

    def _write(self, descriptor: int, rows: list[Row]) -> None:
        data = memoryview(format_rows(rows, header=self._size == 0))
        # Read again by the next `read`, which sees another size.
        while data:
            data = data[os.write(descriptor, data) :]


def _read_all(descriptor: int) -> bytes:
    pieces = []
    os.lseek(descriptor, 0, os.SEEK_SET)
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def _check_tag(tag: str) -> None:
    if not tag.strip() or len(tag) > MAX_TAG_CHARACTERS or not tag.isprintable():
        raise UsageError(
            "this is no tag",
            seen=repr(tag[:80]),
            expected=f"1 to {MAX_TAG_CHARACTERS} letters, digits or signs",
        )


class MarkedRows:
    """What decisions say of the rows of a set of tiles."""

    def __init__(self, journal: Journal, tile_ids: pa.ChunkedArray) -> None:
        """Read nothing yet."""
        self.journal = journal
        self._tile_ids = tile_ids
        self._dropped = np.zeros(len(tile_ids), bool)
        self._tags: dict[str, np.ndarray] = {}
        self._version = 0
        self._lock = threading.Lock()
        self.num_undoable = 0
        self.num_foreign = 0

    @property
    def version(self) -> int:
        """Return a number that grows with every change."""
        return self._version

    @property
    def dropped(self) -> np.ndarray:
        """Return which rows are dropped, bool [n]."""
        return self._dropped

    @property
    def tags(self) -> dict[str, int]:
        """Return the number of tiles of each tag."""
        return {tag: len(rows) for tag, rows in sorted(self._tags.items())}

    def tagged(self, tag: str) -> np.ndarray:
        """Return the rows that have a tag, int64, ascending."""
        return self._tags.get(tag, np.zeros(0, np.int64))

    def tags_of(self, row: int) -> list[str]:
        """Return the tags of a tile."""
        found = []
        for tag, rows in self._tags.items():
            at = int(np.searchsorted(rows, row))
            if at < len(rows) and rows[at] == row:
                found.append(tag)
        return sorted(found)

    def refresh(self) -> None:
        """Take in what was appended, also by another process; raises UsageError."""
        with self._lock:
            changed = self.journal.read()
            if changed is None:
                return
            _, decisions = changed
            named = sorted(decisions.dropped | decisions.tags.keys())
            row_of = self._rows_of(named)
            dropped = np.zeros(len(self._tile_ids), bool)
            dropped[[row_of[name] for name in decisions.dropped if name in row_of]] = True
            tags: dict[str, list[int]] = {}
            for name, own in decisions.tags.items():
                if name in row_of:
                    for tag in own:
                        tags.setdefault(tag, []).append(row_of[name])
            self._dropped = dropped
            self._tags = {tag: np.array(sorted(rows), np.int64) for tag, rows in tags.items()}
            self.num_undoable = len(decisions.undoable)
            self.num_foreign = len(named) - len(row_of)
            self._version += 1

    def _rows_of(self, names: list[str]) -> dict[str, int]:
        if not names:
            return {}
        place = pc.index_in(self._tile_ids, value_set=pa.array(names, pa.string()))
        rows = np.flatnonzero(pc.is_valid(place).to_numpy()).tolist()
        return {names[at]: row for row, at in zip(rows, place.drop_null().to_pylist(), strict=True)}
