"""Bytes of many files, read ahead by threads where storage is slow, so that it does not stop
decoding.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from histoprep import rule_ids
from histoprep.errors import BrokenFileError
from histoprep.remote import object_of
from histoprep.storage import ObjectStore

THREADS = 16
# Files a thread takes at once: handing over single files costs more than reading them.
_FILES_PER_TASK = 8
# Bytes that may wait decoded or not; bounds memory when tiles are large.
BUDGET_BYTES = 64 << 20
# Seconds spent waiting for storage after which threads read.
_PATIENCE_S = 0.002
ANY_TIME = -1


class FileStat(NamedTuple):
    """Size and modification time, by which a changed file is known; a time of `ANY_TIME` is not
    compared.
    """

    num_bytes: int
    mtime_ns: int


class Request(NamedTuple):
    """A file to read and what the listing said of it; `path` is absolute."""

    path: str
    expected: FileStat


def stat_file(path: str) -> FileStat | None:
    """Return size and time of a file, or None when it is not there or not to be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return FileStat(found.st_size, found.st_mtime_ns)


def read_file(request: Request, max_bytes: int) -> bytes | BrokenFileError:
    """Return the file's bytes, or the error that says why they cannot be had (returned: other files
    go on).
    """
    found = object_of(request.path)
    if found is not None:
        return _read_object(*found, request.expected, max_bytes)
    try:
        descriptor = os.open(request.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return refused(error)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            return BrokenFileError(
                rule_ids.UNREADABLE_FILE.verdict("not-a-file"), "not a regular file"
            )
        if before.st_size > max_bytes:
            return _too_large(before.st_size, max_bytes)
        data = _read_all(descriptor, before.st_size)
        after = os.fstat(descriptor)
    except OSError as error:
        return refused(error)
    finally:
        os.close(descriptor)
    size, time_ns = request.expected
    listed = FileStat(size, before.st_mtime_ns if time_ns == ANY_TIME else time_ns)
    return _unchanged(data, FileStat(after.st_size, after.st_mtime_ns), listed)


def _read_object(
    store: ObjectStore, name: str, expected: FileStat, max_bytes: int
) -> bytes | BrokenFileError:
    """Return the bytes of an object in the same way."""
    if expected.num_bytes > max_bytes:
        return _too_large(expected.num_bytes, max_bytes)
    try:
        data, found = store.fetch(name)
    except OSError as error:
        return refused(error)
    return _unchanged(data, FileStat(found.num_bytes, found.mtime_ns), expected)


def _too_large(num_bytes: int, max_bytes: int) -> BrokenFileError:
    return BrokenFileError(
        rule_ids.HUGE_IMAGE.verdict("huge-file"),
        f"{num_bytes:,} bytes, more than --max-file-bytes {max_bytes:,}",
    )


def _unchanged(data: bytes, seen: FileStat, expected: FileStat) -> bytes | BrokenFileError:
    """Return the bytes of a file that is as it was listed."""
    size, time_ns = expected
    if seen.num_bytes != size or time_ns not in (ANY_TIME, seen.mtime_ns) or len(data) != size:
        return BrokenFileError(
            rule_ids.CHANGED_WHILE_READING.verdict("changed"),
            f"listed with {size:,} bytes, {len(data):,} when read",
        )
    return data


def _read_all(descriptor: int, size: int) -> bytes:
    data = os.read(descriptor, size + 1)
    while 0 < len(data) < size:
        more = os.read(descriptor, size + 1 - len(data))
        if not more:
            break
        data += more
    return data


def refused(error: OSError) -> BrokenFileError:
    """Return the error of a file that the system does not let us read."""
    names = {
        errno.ENOENT: "vanished",
        errno.EACCES: "permission",
        errno.EPERM: "permission",
        errno.EIO: "input-output",
    }
    subcode = names.get(error.errno or 0, "cannot-open")
    return BrokenFileError(rule_ids.UNREADABLE_FILE.verdict(subcode), error.strerror or str(error))


def read_ahead(requests: Sequence[Request], max_bytes: int) -> Iterator[bytes | BrokenFileError]:
    """Yield the bytes of each file in order, or the error that stands for it.

    Files that come at once are read when they are due: handing bytes from thread to thread takes
    several times as long. As soon as storage is seen to be slow, threads read.
    """
    waited_s = 0.0
    for number, request in enumerate(requests):
        if waited_s > _PATIENCE_S:
            yield from _read_in_threads(requests[number:], max_bytes)
            return
        waits, begun = _num_waits(), time.perf_counter()
        data = read_file(request, max_bytes)
        # A busy processor makes reading last, too, but is no reason for threads.
        if _num_waits() > waits:
            waited_s += time.perf_counter() - begun
        yield data


def _num_waits() -> int:
    """Return how often this thread has gone to sleep until something came."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _read_in_threads(
    requests: Sequence[Request], max_bytes: int
) -> Iterator[bytes | BrokenFileError]:
    """Yield the same, read by sixteen threads in front of the caller as far as the byte budget
    reaches; only a larger file goes beyond it.
    """
    waiting: deque[tuple[int, Future[list[bytes | BrokenFileError]]]] = deque()
    budget = BUDGET_BYTES
    upcoming = _chunks(requests, max_bytes)
    chunk, size = next(upcoming, ([], 0))
    pool = ThreadPoolExecutor(THREADS)
    try:
        while chunk or waiting:
            while chunk and (size <= budget or not waiting) and len(waiting) < 2 * THREADS:
                waiting.append((size, pool.submit(_read_chunk, chunk, max_bytes)))
                budget -= size
                chunk, size = next(upcoming, ([], 0))
            taken, done = waiting.popleft()
            yield from done.result()
            budget += taken
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(requests: Sequence[Request], max_bytes: int) -> Iterator[tuple[list[Request], int]]:
    """Yield the requests in chunks for one thread, and the bytes of each chunk: few files, and a
    small part of the budget.
    """
    chunk: list[Request] = []
    total = 0
    for request in requests:
        size = request.expected.num_bytes if request.expected.num_bytes <= max_bytes else 0
        if chunk and (len(chunk) == _FILES_PER_TASK or total + size > BUDGET_BYTES // THREADS):
            yield chunk, total
            chunk, total = [], 0
        chunk.append(request)
        total += size
    if chunk:
        yield chunk, total


def _read_chunk(chunk: Sequence[Request], max_bytes: int) -> list[bytes | BrokenFileError]:
    return [read_file(path, max_bytes) for path in chunk]
