"""Local worker processes: started by a fork server, deaf to Ctrl-C, never longer alive than their
parent.

In a process of our own the fork server is itself a fork, which has everything imported already.
Anywhere else it is a new interpreter: a process with threads (torch, a notebook) may hold a lock at
that moment, and its copy would wait for it for ever. The thread that draws a progress bar holds
those of the terminal alone, which no worker writes to.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import connection, forkserver, resource_tracker, util
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
# Those with threads of their own that a fork does not survive.
_NEVER_FORKED = ("torch", "tensorflow", "jax", "dask", "distributed", "obstore")
# Module of the thread that draws a progress bar.
_DRAWS = "rich.live"
_own_processes: set[int] = set()
# How often a wait for a result looks after the processes itself.
_PATROL_S = 1.0


def own_process() -> None:
    """Say that this process runs one command of ours and nothing else."""
    _own_processes.add(os.getpid())


def start_pool(num_workers: int) -> ProcessPoolExecutor:
    """Return a pool of at most `num_workers` processes, each started when it is first needed."""
    context = _Context()
    when_interrupted(_end_fork_server)
    # First, because starting it unblocks SIGINT.
    resource_tracker.ensure_running()
    with _without_interrupts(), _forked() if _may_fork() else contextlib.nullcontext():
        # The fork server and all its children inherit the blocked SIGINT: the parent decides when
        # they stop.
        forkserver.ensure_running()
    return ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start_worker, initargs=(dict(os.environ),)
    )


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


def _may_fork() -> bool:
    return (
        os.getpid() in _own_processes
        and sys.platform == "linux"
        and all(
            thread is threading.main_thread() or type(thread).__module__ == _DRAWS
            for thread in threading.enumerate()
        )
        and not any(name in sys.modules for name in _NEVER_FORKED)
    )


@contextlib.contextmanager
def _forked() -> Iterator[None]:
    """Have the fork server be a fork of this process: `multiprocessing` starts it by the name that
    is another function in here.
    """
    # Here, since this process is about to need most of them.
    for name in _PRELOADED:
        import_module(name)
    spawn = util.spawnv_passfds
    util.spawnv_passfds = _fork  # type: ignore[assignment]
    try:
        yield
    finally:
        util.spawnv_passfds = spawn


def _fork(_: Any, arguments: Sequence[Any], kept: Sequence[int]) -> int:
    """Return the id of a fork that runs the code of `python -c` with the open files `kept`."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()  # type: ignore[union-attr]
    with warnings.catch_warnings():
        # Libraries of ours have threads that know how to be forked: those of OpenBLAS and Arrow.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    try:
        gc.freeze()
        # Without a progress bar in between.
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _leave_files(set(kept) | {0, 1, 2})
        exec(arguments[-1], {})
    finally:
        os._exit(1)


def _leave_files(kept: set[int]) -> None:
    """Let go of all open files but `kept`, such as locks and the end of a pipe by which the server
    knows that its parent lives. Their numbers stay in use, so that objects of the parent that are
    freed here close nothing else.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in kept and number != nothing:
            with contextlib.suppress(OSError):
                os.fstat(number)
                os.dup2(nothing, number, inheritable=False)
    os.close(nothing)


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


def _start_worker(variables: dict[str, str]) -> None:
    # The fork server may be older than keys of an object store that were set since.
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
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
