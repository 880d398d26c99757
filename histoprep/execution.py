"""An ordered parallel map through a concurrent.futures.Executor that survives dying workers.

A task is a picklable object with `run()`; it writes its own result under a temporary name and
renames it, so running it twice is harmless. Local worker processes are the default; a
dask scheduler fits the same line. What a task is doing stands in its marker file,
so that after a worker's death the file that killed it is known.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import multiprocessing
import os
import signal
import struct
import sys
import time
import types
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Protocol, TypeVar

from histoprep.errors import HistoprepError, UsageError

_PRELOADED = ["histoprep.tile_table", "histoprep.measurer", "histoprep.remap", "histoprep.audit_pictures"]
_IDLE = (1 << 64) - 1

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Task(Protocol[R_co]):
    """A piece of work for one worker."""

    marker: Path

    def run(self) -> R_co:
        """Do the work and return something small."""

    def without(self, index: int, reason: str) -> Task[R_co]:
        """Return the same task that leaves item `index` out and records why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Where tasks run: `num_workers` local processes, or a dask scheduler at `scheduler`."""

    num_workers: int = 0
    scheduler: str | None = None

    def __post_init__(self) -> None:
        """Fill in the number of cores when no number of workers is given."""
        if self.num_workers < 1:
            object.__setattr__(self, "num_workers", len(os.sched_getaffinity(0)))

    @contextlib.contextmanager
    def executor(self, num_workers: int | None = None) -> Iterator[Executor]:
        """Yield an executor; when left by an exception its workers are ended at once."""
        if self.scheduler:
            with _dask_executor(self.scheduler) as remote:
                yield remote
            return
        pool = ProcessPoolExecutor(num_workers or self.num_workers, mp_context=_Context(), initializer=_start_worker)
        try:
            yield pool
        except BaseException:
            _end_workers(pool)
            raise
        pool.shutdown()


@contextlib.contextmanager
def _dask_executor(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("--engine dask needs dask.distributed", hint="pip install 'histoprep-diffusion[cluster]'") from error
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except OSError as error:
        raise UsageError("no dask scheduler answers", path=address, seen=str(error), hint="start one with: dask scheduler") from error
    with client:
        # retries: a task whose worker died starts again on another.
        yield client.get_executor(retries=2, pure=False)


def run_tasks(tasks: Iterable[Task[R]], engine: Engine) -> Iterator[R]:
    """Yield the results of `tasks` in their order, with a bounded number of them under way.

    When worker processes die, every task under way is run again, one at a time in a process
    of its own; one that kills its process is run without the item it was at.
    """
    upcoming = iter(tasks)
    waiting: deque[tuple[Task[R], Future[R] | None]] = deque()
    while True:
        while waiting:
            yield _run_carefully(waiting[0][0], engine)
            waiting.popleft()
        try:
            with engine.executor() as executor:
                for task in upcoming:
                    # In the queue before it is submitted: a pool that broke meanwhile refuses it.
                    waiting.append((task, None))
                    waiting[-1] = (task, executor.submit(_run, task))
                    if len(waiting) > 2 * engine.num_workers:
                        yield _result(waiting[0][1])
                        waiting.popleft()
                while waiting:
                    yield _result(waiting[0][1])
                    waiting.popleft()
                return
        except BrokenProcessPool:
            continue


def _result(future: Future[R] | None) -> R:
    assert future is not None  # noqa: S101 (for the type checker)
    try:
        return future.result()
    except Exception as error:
        if type(error).__name__ == "KilledWorker":
            hint = "run without --engine dask: local workers name the file that ends them"
            raise HistoprepError("a task ended several dask workers", seen=str(error), hint=hint) from error
        raise


def _run_carefully(task: Task[R], engine: Engine) -> R:
    blamed = -1
    while True:
        # A stale marker must not be blamed for a death that came before the first item.
        task.marker.unlink(missing_ok=True)
        try:
            with engine.executor(1) as executor:
                return executor.submit(_run, task).result()
        except BrokenProcessPool as error:
            index = read_marker(task.marker)
            if index is None or index == blamed:
                raise HistoprepError(
                    "a worker process ended before it could begin, twice or more",
                    path=task.marker,
                    hint="look for a message of the system's out-of-memory killer; use fewer --workers",
                ) from error
            blamed = index
            task = task.without(index, "its decoder ended the worker process, or took longer than the time limit")


def _run(task: Task[R]) -> R:
    return task.run()


class Marker:
    """Tells from outside which item a task is at, and ends the process when one takes too long.

    The time limit works even while a decoder holds the interpreter: it is a watchdog
    thread in C. A file mapped into memory outlives the process.
    """

    def __init__(self, path: Path, time_limit_s: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(struct.pack("<Q", _IDLE))
        with open(path, "r+b") as stream:
            self._map = mmap.mmap(stream.fileno(), 8)
        self._path = path
        self._limit_s = time_limit_s
        self._armed = 0.0
        self._silent = open(os.devnull, "w")  # noqa: SIM115 (faulthandler needs it open)

    def at(self, index: int) -> None:
        """Say that item `index` begins."""
        struct.pack_into("<Q", self._map, 0, index)
        now = time.monotonic()
        if now - self._armed > min(1.0, self._limit_s / 4):
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._silent)
            self._armed = now

    def close(self) -> None:
        """Say that the task is done."""
        faulthandler.cancel_dump_traceback_later()
        self._map.close()
        self._silent.close()
        self._path.unlink(missing_ok=True)


def read_marker(path: Path) -> int | None:
    """Return the item at which a task ended, or None when it had not begun."""
    try:
        (index,) = struct.unpack("<Q", path.read_bytes())
    except (OSError, struct.error):
        return None
    return None if index == _IDLE else int(index)


class _Worker(ForkServerProcess):
    """A process that imports histoprep and nothing of the caller's script."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 (the hook's name in multiprocessing)
        # multiprocessing would import the caller's __main__ again in every worker.
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            return ForkServerProcess._Popen(process_obj)  # type: ignore[attr-defined]
        finally:
            sys.modules["__main__"] = main


class _Context(ForkServerContext):
    Process = _Worker  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.set_forkserver_preload(_PRELOADED)


def _start_worker() -> None:
    # The parent decides when to stop; a Ctrl-C reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc keep decoded pictures' memory instead of returning it page by page (1.2x on masks)."""
    import ctypes  # noqa: PLC0415

    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 16 << 20)
        libc.mallopt(trim_threshold, 64 << 20)


def _end_workers(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        with contextlib.suppress(OSError):
            process.kill()
    pool.shutdown(wait=True, cancel_futures=True)
