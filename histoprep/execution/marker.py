"""What a task is doing, told in a file that outlives its process, and a time limit for every
item.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import struct
import threading
import time
from pathlib import Path

from histoprep.errors import OutputError

_IDLE = (1 << 64) - 1
_LAYOUT = "<Q"

# Of the tasks under way in this process: a dask worker may run several in threads.
_deadlines: dict[int, float] = {}
_lock = threading.Lock()


class Marker:
    """Tells from outside which item a task is at, and ends the process when one takes too long.

    The time limit works even while a decoder holds the interpreter: it is a watchdog
    thread in C. A file mapped into memory outlives the process. Raises OutputError when
    the file cannot be made.
    """

    def __init__(self, path: Path, time_limit_s: float) -> None:
        """Make the file `path`; an item may take `time_limit_s`."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(struct.pack(_LAYOUT, _IDLE))
            with path.open("r+b") as stream:
                self._map = mmap.mmap(stream.fileno(), struct.calcsize(_LAYOUT))
        except OSError as error:
            raise OutputError.from_os_error(error, path) from error
        self._path = path
        self._limit_s = time_limit_s
        self._armed = 0.0

    def at(self, index: int) -> None:
        """Say that item `index` begins."""
        struct.pack_into(_LAYOUT, self._map, 0, index)
        now = time.monotonic()
        # Arming costs a thread, so quick items share one deadline; none gets less than three
        # quarters of the limit.
        if now - self._armed > min(1.0, self._limit_s / 4):
            _watch(id(self), now + self._limit_s)
            self._armed = now

    def close(self) -> None:
        """Say that the task is done."""
        _watch(id(self), None)
        self._map.close()
        with contextlib.suppress(OSError):
            self._path.unlink()


def _watch(key: int, deadline: float | None) -> None:
    """Set or remove one deadline, and let the watchdog wait for the first of all."""
    with _lock:
        _deadlines.pop(key, None)
        if deadline is not None:
            _deadlines[key] = deadline
        if not _deadlines:
            faulthandler.cancel_dump_traceback_later()
            return
        rest = max(min(_deadlines.values()) - time.monotonic(), 0.001)
        faulthandler.dump_traceback_later(rest, exit=True, file=_silence())


def _silence() -> int:
    """Return a descriptor that swallows the watchdog's traceback; one for the life of the
    process.
    """
    global _silent  # noqa: PLW0603 (opened when first needed)
    if _silent is None:
        _silent = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    return _silent


_silent: int | None = None


def read_marker(path: Path) -> int | None:
    """Return the item at which a task ended, or None when it was at none."""
    try:
        (index,) = struct.unpack(_LAYOUT, path.read_bytes())
    except (OSError, struct.error):
        return None
    return None if index == _IDLE else int(index)
