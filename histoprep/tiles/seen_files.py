"""Sizes and times of files that one walk through a data set read from the file system, for the next
walk.

Kept in a temporary file, so that memory does not grow with the data set.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from histoprep.digests import hash_text
from histoprep.read_ahead import FileStat

if TYPE_CHECKING:
    from histoprep.scanning import Pair

# Key of the pair; size and time of image and mask, -1 as the size of none; the local state.
_RECORD = struct.Struct("<QqqqqqQ")
_IN_MEMORY_BYTES = 1 << 20
_AT_ONCE = 4096


class SeenPair(NamedTuple):
    """What the file system said of a pair: image, mask, and both numbers of its local state."""

    image: FileStat | None
    mask: FileStat | None
    changed_ns: int
    number: int


class SeenFiles:
    """Sizes and times of the files of a walk, read in the same order by the next one.

    Nothing is known where the disk has no room for them, and from the first pair on that differs.
    """

    def __init__(self) -> None:
        self._file: tempfile.SpooledTemporaryFile[bytes] | None = tempfile.SpooledTemporaryFile(  # noqa: SIM115 (closed with this)
            _IN_MEMORY_BYTES
        )

    def note(self, pair: Pair, seen: SeenPair) -> None:
        """Keep what was seen of the next pair."""
        if self._file is not None:
            record = _RECORD.pack(_key(pair), *_flat(seen.image), *_flat(seen.mask), *seen[2:])
            try:
                self._file.write(record)
            except OSError:
                self._forget()

    def of(self, pairs: Iterable[Pair]) -> Iterator[tuple[Pair, SeenPair | None]]:
        """Yield each pair with what was seen of it; None from the first one on that differs."""
        records = self._records()
        for pair in pairs:
            record = next(records, None)
            if record is not None and record[0] != _key(pair):
                records, record = iter(()), None
            yield pair, None if record is None else _seen(record)

    def _records(self) -> Iterator[tuple[int, ...]]:
        if self._file is None:
            return
        self._file.seek(0)
        while piece := self._file.read(_RECORD.size * _AT_ONCE):
            yield from _RECORD.iter_unpack(piece[: len(piece) // _RECORD.size * _RECORD.size])

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None


def _key(pair: Pair) -> int:
    return hash_text(f"{pair.image_path}\0{pair.mask_path}")


def _flat(file: FileStat | None) -> tuple[int, int]:
    return (-1, 0) if file is None else file


def _seen(record: tuple[int, ...]) -> SeenPair:
    _, image_bytes, image_ns, mask_bytes, mask_ns, changed_ns, number = record
    files = [
        None if size < 0 else FileStat(size, time_ns)
        for size, time_ns in ((image_bytes, image_ns), (mask_bytes, mask_ns))
    ]
    return SeenPair(files[0], files[1], changed_ns, number)
