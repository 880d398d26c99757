"""Files that are whole or not there: atomic single files, batches of files, the lock.

The rules are R1-R3 of the reliability contract in CONTRIBUTING.md: a temporary name in the same
folder, write, close checked, rename; single files are synced one by one, many
small ones once a batch with syncfs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from histoprep.errors import ELSEWHERE, LockedError, OutputError

TEMPORARY_PREFIX = ".hp-"
TEMPORARY_SUFFIX = ".tmp"

# Names in here stand for devices and open files.
_DEVICES = frozenset({Path("/dev")})
# Folders this process has locked: one command may call another's function.
_held: set[Path] = set()

_libc = ctypes.CDLL(None, use_errno=True)
# Of Linux's linux/fs.h: begin with the pages that nobody writes back yet, and do not wait.
_SYNC_FILE_RANGE_WRITE = 2


def temporary_beside(path: Path) -> Path:
    """Return a fresh hidden name in the folder of `path`."""
    return path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"


def is_temporary(name: str) -> bool:
    """Return whether `name` is one of our unfinished files."""
    return name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX)


def write_file(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call `write` on a binary file open for writing and reading, and publish the result as `path`,
    durably.

    Readers see the old file or the whole new one. Raises OutputError with the system's reason; the
    old file and nothing else is left then. Devices and pipes are refused: a file would take their
    place.
    """
    temporary = temporary_beside(path)
    try:
        _refuse_special(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("x+b") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError.from_os_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _refuse_special(path: Path) -> None:
    """Raise OutputError for a device, pipe or socket, such as /dev/null or, whatever it leads to,
    /dev/stdout; IsADirectoryError for a folder.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode) or path.parent.resolve() in _DEVICES:
        hint = (
            "name a regular file, or one that is not there yet; without the option, a report is"
            " printed"
        )
        raise OutputError("cannot replace a device or pipe by a file", path=path, hint=hint)


def write_bytes(path: Path, data: bytes) -> None:
    """Publish `data` as `path`, durably; see `write_file`."""
    write_file(path, lambda stream: stream.write(data))


def write_text(path: Path, text: str) -> None:
    """Publish `text` as UTF-8 in `path`, durably; see `write_file`."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as indented JSON with sorted keys in `path`, durably."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_in_batch(path: Path, data: bytes) -> None:
    """Publish `data` as `path` without syncing; follow a batch of these with `sync_file_system`."""
    temporary = temporary_beside(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sync_file_system(folder: Path) -> None:
    """Write everything pending on the file system of `folder` to the device.

    Raises OSError; after that, redo the batch from its source: a second call
    would report success although data was lost.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)


def begin_writing_back(descriptor: int, start: int, length: int) -> None:
    """Have the device begin with `length` bytes of an open file from `start` on, so that syncing it
    later takes less; what fails, syncing tells.
    """
    _libc.sync_file_range(
        descriptor, ctypes.c_int64(start), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE
    )


def remove_temporaries(folder: Path) -> int:
    """Delete unfinished files of ours below `folder` and return how many; hold the lock."""
    removed = 0
    for parent, _, names in os.walk(folder):
        for name in filter(is_temporary, names):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(parent, name))
                removed += 1
    return removed


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for writing; raise LockedError at once if another process does.

    The lock is an flock on `folder/.lock`, so it ends with the process however
    it ends; the file says who holds it. Within one process it can be taken again.
    Unfinished files that a killed process left in the folder itself are deleted.
    """
    place = Path(os.path.realpath(folder))
    if place in _held:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not through a link: what it points to is not ours to write into.
        descriptor = os.open(
            folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
        )
    except OSError as error:
        if error.errno == errno.ELOOP:
            what, hint = (
                "the lock file is a link, so that writing it would overwrite something else",
                f"delete the link {folder / '.lock'}",
            )
            raise OutputError(
                what,
                path=folder / ".lock",
                seen=f"a link to {os.readlink(folder / '.lock')}",
                hint=hint,
            ) from None
        raise OutputError.from_os_error(error, folder) from error
    stream = os.fdopen(descriptor, "r+")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise LockedError(
                "another process is writing here",
                path=folder,
                seen=stream.read().strip() or "an unknown process",
                hint=f"wait for it to end, or {ELSEWHERE}",
            ) from None
        except OSError as error:
            raise OutputError.from_os_error(error, folder / ".lock") from error
        # On a full disk the lock still holds; it only cannot say by whom.
        with contextlib.suppress(OSError):
            os.ftruncate(stream.fileno(), 0)
            os.pwrite(
                stream.fileno(), f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0
            )
        _sweep(folder)
        _held.add(place)
        try:
            yield
        finally:
            _held.discard(place)


def _sweep(folder: Path) -> None:
    for name in filter(is_temporary, os.listdir(folder)):
        with contextlib.suppress(OSError):
            os.unlink(folder / name)
