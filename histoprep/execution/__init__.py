"""An ordered parallel map through a concurrent.futures.Executor that survives dying workers.

A task is a picklable object with `run()`; it writes its own result under a temporary name and
renames it, so running it twice is harmless. Local worker processes are the default; a
dask scheduler fits the same line. What a task is doing stands in its marker file,
so that after a worker's death the file that killed it is known.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from histoprep.errors import ExitCode, HistoprepError, UsageError
from histoprep.execution.marker import Marker, read_marker
from histoprep.execution.signals import at_stop
from histoprep.execution.workers import end_workers, start_pool, wait_for
from histoprep.extras import install_command

__all__ = ["Engine", "Marker", "Task", "WorkerError", "read_marker", "run_tasks"]

_BLAMED = "its decoder ended the worker process, or took longer than the time limit"
# Deaths of a process of its own, while it was at no item, after which a task is given up.
_MAX_UNEXPLAINED = 3

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class WorkerError(HistoprepError):
    """Work cannot be given to worker processes, or they end without a file to blame."""

    exit_code = ExitCode.OUTPUT


class Task(Protocol[R_co]):
    """A piece of work for one worker."""

    @property
    def marker(self) -> Path:
        """Return the file in which the task tells what it is at."""

    def run(self) -> R_co:
        """Do the work and return something small."""

    def num_done(self, index: int | None) -> int:
        """Return how many tiles or masks are done at item `index`; all of them for None."""

    def without(self, index: int, reason: str) -> Task[R_co]:
        """Return the same task that leaves item `index` out and records why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Where tasks run.

    Attributes:
        num_workers: Local processes; 0 for one per core.
        scheduler: Address of a dask scheduler that runs them instead.
        spares_few: Whether work on a few plain files may be done in this process, since nobody
            chose a number of workers and starting them takes longer.
        in_process: Whether tasks run in this process, one after the other. A decoder that ends its
            process ends the command then.
    """

    num_workers: int = 0
    scheduler: str | None = None
    spares_few: bool = False
    in_process: bool = False

    def __post_init__(self) -> None:
        """Fill in the number of cores when no number of workers is given."""
        if self.num_workers < 1:
            object.__setattr__(self, "num_workers", len(os.sched_getaffinity(0)))

    @contextlib.contextmanager
    def executor(self, num_workers: int | None = None) -> Iterator[Executor]:
        """Yield an executor; its local workers are ended at once when it is left, so everything
        asked of it must be done by then.
        """
        if self.scheduler:
            with _dask(self.scheduler) as remote:
                yield remote
            return
        with _starting():
            pool = start_pool(num_workers or self.num_workers)
        with at_stop(lambda: end_workers(pool)):
            try:
                yield pool
            finally:
                end_workers(pool)

    def num_under_way(self, executor: Executor) -> int:
        """Return how many tasks `executor` should be given at once: those in work and as many
        again.
        """
        remote = getattr(executor, "_client", None)
        return 2 * (max(1, sum(remote.nthreads().values())) if remote else self.num_workers)


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(
            "--engine dask needs dask.distributed",
            hint=install_command("cluster"),
        ) from error
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            "no dask scheduler answers",
            path=address,
            seen=str(error),
            hint="start one with: dask scheduler",
        ) from error
    with client:
        # retries: a task whose worker died starts again on another.
        yield client.get_executor(retries=2, pure=False)


def _unwatched(num_done: int) -> None:
    """Tell nobody what tasks under way have done."""


def run_tasks(
    tasks: Iterable[Task[R]], engine: Engine, under_way: Callable[[int], None] = _unwatched
) -> Generator[R, None, None]:
    """Yield the results of `tasks` in their order, with a bounded number of them under way.

    While it waits, calls `under_way` about once a second with how many tiles or masks the tasks
    whose results were not yielded yet have done.

    When worker processes die, every task under way is run again, one at a time in a process of its
    own. An item at which such a process dies twice is left out: once may be bad luck, such as the
    system's out-of-memory killer, and a pool that breaks ends the work on innocent items too.
    Raises WorkerError when processes die for no such reason.
    """
    if engine.in_process:
        for task in tasks:
            yield task.run()
        return
    upcoming = iter(tasks)
    waiting: deque[tuple[Task[R], Future[R] | None]] = deque()

    def meanwhile() -> None:
        if under_way is not _unwatched:
            under_way(sum(_num_done(task, future) for task, future in waiting))

    while True:
        while waiting:
            yield _again(*waiting[0], engine, meanwhile)
            waiting.popleft()
        try:
            with engine.executor() as executor:
                most = engine.num_under_way(executor)
                for task in upcoming:
                    # In the queue before it is submitted: a pool that broke meanwhile refuses it.
                    waiting.append((task, None))
                    waiting[-1] = (task, _submit(executor, task))
                    if len(waiting) > most:
                        yield _result(*waiting[0], executor, engine, meanwhile)
                        waiting.popleft()
                while waiting:
                    yield _result(*waiting[0], executor, engine, meanwhile)
                    waiting.popleft()
                return
        except BrokenProcessPool:
            continue


def _submit(executor: Executor, task: Task[R]) -> Future[R]:
    # A local pool starts its processes here.
    with _starting():
        return executor.submit(_run, task)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        hint = "use fewer --workers, or raise the limits on processes and memory"
        raise WorkerError("worker processes cannot be started", seen=reason, hint=hint) from error


def _num_done(task: Task[R], future: Future[R] | None) -> int:
    if future is not None and future.done():
        return task.num_done(None)
    index = read_marker(task.marker)
    return 0 if index is None else task.num_done(index)


def _result(
    task: Task[R],
    future: Future[R] | None,
    executor: Executor,
    engine: Engine,
    meanwhile: Callable[[], None],
) -> R:
    assert future is not None
    try:
        wait_for(future, executor, meanwhile)
        return future.result()
    except CancelledError as error:
        raise WorkerError(
            "the dask scheduler lost the work",
            path=engine.scheduler,
            seen=str(error),
            hint="run the same command again",
        ) from error
    except Exception as error:
        # Of dask: this task was under way whenever one of several workers died.
        if type(error).__name__ != "KilledWorker":
            raise
        return _run_carefully(task, engine, meanwhile)


def _again(
    task: Task[R], future: Future[R] | None, engine: Engine, meanwhile: Callable[[], None]
) -> R:
    """Return the result of a task of a pool that broke, from before that if it was done."""
    if (
        future is not None
        and future.done()
        and not future.cancelled()
        and future.exception() is None
    ):
        return future.result()
    return _run_carefully(task, engine, meanwhile)


def _run_carefully(task: Task[R], engine: Engine, meanwhile: Callable[[], None]) -> R:
    """Return the result of a task run alone in local processes, without the items that end them."""
    local = replace(engine, num_workers=1, scheduler=None)
    suspects: set[int] = set()
    left_out: set[int] = set()
    unexplained = 0
    while True:
        # A stale marker must not be blamed for a death that came before the first item.
        task.marker.unlink(missing_ok=True)
        try:
            with local.executor(1) as executor:
                return _result(task, _submit(executor, task), executor, local, meanwhile)
        except BrokenProcessPool as error:
            index = read_marker(task.marker)
            unexplained += index is None or index in left_out
            if unexplained == _MAX_UNEXPLAINED:
                raise WorkerError(
                    "worker processes end while they are at no file",
                    seen=(
                        f"{unexplained} times"
                        if index is None
                        else f"item {index} is left out, and they still end there"
                    ),
                    hint=(
                        "look for a message of the system's out-of-memory killer; use fewer"
                        " --workers"
                    ),
                ) from error
        if index is None or index in left_out:
            continue
        if index in suspects:
            left_out.add(index)
            task = task.without(index, _BLAMED)
        suspects.add(index)


def _run(task: Task[R]) -> R:
    return task.run()
