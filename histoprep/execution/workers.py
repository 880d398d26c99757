"""Local worker processes: started by a fork server, deaf to Ctrl-C, never longer alive than their
parent.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from typing import Any

from histoprep.execution.signals import when_interrupted

# Once for all workers; Arrow imports pandas on its own as soon as a list becomes an array.
_PRELOADED = ("pandas", "histoprep.tiles.task", "histoprep.tiles.measurer")
# Those of other tasks, where the command has imported them by then: it is about to run them.
_PRELOADED_IF_LOADED = (
    "histoprep.remapping",
    "histoprep.auditing.thumbnails",
    "histoprep.shards.task",
)
# How often a wait for a result looks after the processes itself.
_PATROL_S = 1.0


def start_pool(num_workers: int) -> ProcessPoolExecutor:
    """Return a pool of at most `num_workers` processes, each started when it is first needed."""
    context = _Context()
    when_interrupted(_end_fork_server)
    # First, because starting it unblocks SIGINT.
    resource_tracker.ensure_running()
    with _without_interrupts():
        # The fork server and all its children inherit the blocked SIGINT: the parent decides when
        # they stop.
        forkserver.ensure_running()
    return ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker)


def wait_for(
    future: Future[Any], pool: Executor, meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Wait until `future` is done; calls `meanwhile` about once a second.

    Raises BrokenProcessPool when a process has died and the pool does not notice: before Python
    3.12 it may forget a process that was started, or a task that was given to it, at the moment of
    the death.
    """
    died = False
    while not wait([future], _PATROL_S).done:
        if died:
            raise BrokenProcessPool("a worker process died unnoticed")
        died = bool(connection.wait([process.sentinel for process in _processes(pool)], 0))
        meanwhile()


def end_workers(pool: ProcessPoolExecutor) -> None:
    """Kill the processes of a pool and drop what they have not done; harmless when it is closed.

    A pool that is closed in good order waits for ever when a process was killed while it held the
    lock of the queue, as idle ones do: the others never hear that they should leave.
    """
    for process in _processes(pool):
        with contextlib.suppress(OSError):
            process.kill()
    pool.shutdown(wait=True, cancel_futures=True)


def _processes(pool: Executor) -> list[BaseProcess]:
    return list((getattr(pool, "_processes", None) or {}).values())


def _end_fork_server() -> None:
    """Kill the fork server, which may be importing for seconds still and would then start workers
    that nobody wants.
    """
    pid = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker(ForkServerProcess):
    """A process that imports histoprep and nothing of the caller's script."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 (the hook's name in multiprocessing)
        # multiprocessing would import the caller's __main__ again in every worker.
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            return ForkServerProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = main


class _Context(ForkServerContext):
    Process = _Worker

    def __init__(self) -> None:
        super().__init__()
        loaded = [name for name in _PRELOADED_IF_LOADED if name in sys.modules]
        self.set_forkserver_preload([*_PRELOADED, *loaded])


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _keep_freed_memory()


def _leave_with_parent() -> None:
    """End this process when the one that started the pool is gone, even by SIGKILL: nobody waits
    for the result.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _keep_freed_memory() -> None:
    """Let glibc keep decoded images' memory instead of returning it page by page (1.2x on
    masks).
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 16 << 20)
        libc.mallopt(trim_threshold, 64 << 20)
