"""Every item is done, in order, whatever becomes of the workers; only items that end them are left
out.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.tasks import LEFT_OUT, FatalTask, ItemsTask, PidTask

from histoprep.errors import ExitCode, Interrupted
from histoprep.execution import Engine, Marker, WorkerError, read_marker, run_tasks
from histoprep.execution.signals import stop_signals
from histoprep.execution.workers import wait_for

# Quick items share a deadline, so the limit must be well above what an item takes.
LIMIT_S = 1.5
KILLERS = ("exit", "kill", "crash", "spin", "stall")
TESTS = Path(__file__).parent


def tasks_of(folder: Path, *partitions: tuple[str, ...]) -> list[ItemsTask]:
    return [
        ItemsTask(items, folder / f"{number}.at", LIMIT_S)
        for number, items in enumerate(partitions)
    ]


def expected(partitions: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [tuple(LEFT_OUT if item in KILLERS else item for item in items) for items in partitions]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order(workers: int, tmp_path: Path) -> None:
    partitions = [(f"sleep {0.05 if number % 3 == 0 else 0}", str(number)) for number in range(12)]
    assert list(run_tasks(tasks_of(tmp_path, *partitions), Engine(workers))) == partitions
    assert not list(tmp_path.glob("*.at"))


def test_only_few_tasks_are_under_way(tmp_path: Path) -> None:
    taken = []

    def upcoming() -> Iterator[ItemsTask]:
        for task in tasks_of(tmp_path, *[("a",)] * 30):
            taken.append(task)
            yield task

    ahead = [len(taken) - done for done, _ in enumerate(run_tasks(upcoming(), Engine(2)))]
    assert max(ahead) <= 2 * 2 + 1


@pytest.mark.parametrize("killer", KILLERS)
def test_an_item_that_ends_its_process_is_left_out_and_nothing_else(
    killer: str, tmp_path: Path
) -> None:
    partitions = [("a", "b"), ("c", killer, "d"), ("e",), ("f", "g"), ("h",), ("i",)]
    assert list(run_tasks(tasks_of(tmp_path, *partitions), Engine(2))) == expected(partitions)


def test_a_plain_pool_loses_the_others_control(tmp_path: Path) -> None:
    partitions = [("a", "b"), ("c", "kill", "d"), ("e",), ("f", "g")]
    with ProcessPoolExecutor(2) as pool, pytest.raises(BrokenProcessPool):
        list(pool.map(ItemsTask.run, tasks_of(tmp_path, *partitions)))


def test_two_killers_in_one_partition_and_one_in_the_next(tmp_path: Path) -> None:
    partitions = [("a", "exit", "b", "crash", "c"), ("kill", "d"), ("e", "f")]
    assert list(run_tasks(tasks_of(tmp_path, *partitions), Engine(2))) == expected(partitions)


@pytest.mark.parametrize("seed", range(6))
def test_random_arrangements_of_killers(seed: int, tmp_path: Path) -> None:
    choice = random.Random(seed)
    partitions = [
        tuple(
            choice.choice(["exit", "kill"]) if choice.random() < 0.12 else f"{number}-{at}"
            for at in range(5)
        )
        for number in range(8)
    ]
    assert list(
        run_tasks(tasks_of(tmp_path, *partitions), Engine(choice.choice([1, 2])))
    ) == expected(partitions)


def test_a_death_that_does_not_come_again_blames_nobody(tmp_path: Path) -> None:
    partitions = [
        ("a",),
        ("b", f"once {tmp_path / 'one'}", "c"),
        (f"once {tmp_path / 'two'}", "d"),
        ("e",),
    ]
    assert list(run_tasks(tasks_of(tmp_path, *partitions), Engine(2))) == partitions
    assert (tmp_path / "one").exists() and (tmp_path / "two").exists()


def test_an_item_that_was_ended_with_the_pool_is_no_suspect(tmp_path: Path) -> None:
    # The second task is ended by the pool while it sleeps in its item, which then dies once on its
    # own.
    partitions = [("sleep 0.4 then kill",), (f"sleep 1 then once {tmp_path / 'one'}",)]
    assert list(run_tasks(tasks_of(tmp_path, *partitions), Engine(2))) == [
        (LEFT_OUT,),
        partitions[1],
    ]
    assert (tmp_path / "one").exists()


@pytest.mark.parametrize("seed", range(5))
def test_a_worker_killed_from_outside_costs_nothing(seed: int, tmp_path: Path) -> None:
    partitions = [tuple(f"sleep 0.01{number}{at}" for at in range(3)) for number in range(12)]
    run = run_tasks(tasks_of(tmp_path, *partitions), Engine(2))
    done = [next(run)]
    time.sleep(random.Random(seed).random() * 0.2)
    os.kill(random.Random(seed).choice(worker_pids()), signal.SIGKILL)
    assert done + list(run) == partitions


def test_a_worker_killed_while_it_holds_the_queue_does_not_hold_up_the_end(tmp_path: Path) -> None:
    # One worker: a second, idle one would hold the lock.
    with Engine(1).executor(1) as executor:
        assert executor.submit(os.getpid).result() in worker_pids()
        task = ItemsTask(("sleep 0.3",), tmp_path / "0.at")
        busy = executor.submit(task.run)
        # Until a worker has taken the task, it needs the lock itself.
        assert holds(lambda: read_marker(task.marker) == 0)
        # As an idle process does that waits for work, and whoever kills it leaves the lock taken.
        assert executor._call_queue._rlock.acquire(timeout=30)  # type: ignore[attr-defined]
        busy.result()
    assert not worker_pids()


def test_a_death_that_the_pool_does_not_notice_breaks_it() -> None:
    with Engine(1).executor() as executor:
        os.kill(executor.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(BrokenProcessPool, match="unnoticed"):
            wait_for(Future(), executor)


def test_workers_have_the_variables_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_BEFORE", "x")
    with Engine(1).executor() as executor:
        assert executor.submit(os.getenv, "OF_BEFORE").result() == "x"
    monkeypatch.delenv("OF_BEFORE")
    monkeypatch.setenv("OF_NOW", "y")
    with Engine(1).executor() as executor:
        assert executor.submit(os.getenv, "OF_BEFORE").result() is None
        assert executor.submit(os.getenv, "OF_NOW").result() == "y"


def test_a_long_task_breaks_nothing() -> None:
    with Engine(1).executor() as executor:
        future = executor.submit(time.sleep, 2.5)
        wait_for(future, executor)
        assert future.done()


def worker_pids() -> list[int]:
    """Return the workers of this process: children of its fork server."""
    (server,) = [
        pid
        for pid in children(os.getpid())
        if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return children(server)


def children(pid: int) -> list[int]:
    return [
        int(path)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for path in (task / "children").read_text().split()
    ]


@pytest.mark.parametrize("after", [False, True])
def test_a_process_that_ends_at_no_item_is_given_up(after: bool, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(WorkerError, match="at no file") as caught:
        list(run_tasks([FatalTask(tmp_path / "0.at", after)], Engine(2)))
    assert caught.value.exit_code == ExitCode.OUTPUT
    assert time.monotonic() - started < 30


class Stillborn(Engine):
    """Its processes end before they can take any work."""

    started = 0

    @contextmanager
    def executor(self, num_workers: int | None = None) -> Iterator[Executor]:
        Stillborn.started += 1
        with ProcessPoolExecutor(1, initializer=os._exit, initargs=(1,)) as pool:
            yield pool


def test_a_pool_that_cannot_start_is_an_error_and_no_loop(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="at no file"):
        list(run_tasks(tasks_of(tmp_path, ("a",), ("b",)), Stillborn(1)))
    assert Stillborn.started <= 5


def script(
    text: str, *arguments: object, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Return how a Python program that knows the tests' modules ended."""
    code = (
        f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]\n"
        + textwrap.dedent(text)
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_no_descriptors_left_is_said_plainly(tmp_path: Path) -> None:
    done = script(
        """
        import resource
        from pathlib import Path
        from faults.tasks import PidTask
        from histoprep.execution import Engine, WorkerError, run_tasks
        resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))
        try:
            print(list(run_tasks([PidTask(Path(sys.argv[1]))] * 20, Engine(8))))
        except WorkerError as error:
            print(error.exit_code, error)
        """,
        tmp_path / "0.at",
    )
    assert done.stdout.startswith("4 worker processes cannot be started"), done.stdout + done.stderr
    assert "Too many open files" in done.stdout


def test_an_error_in_a_task_is_raised_and_leaves_no_worker(tmp_path: Path) -> None:
    pids = list(run_tasks([PidTask(tmp_path / "0.at")] * 3, Engine(1)))
    assert len(set(pids)) == 1 and pids[0] != os.getpid()
    run = run_tasks(
        [
            PidTask(tmp_path / "0.at"),
            *tasks_of(tmp_path, ("sleep 0.5", "raise me")),
            *busy(tmp_path)[1:],
        ],
        Engine(2),
    )
    next(run)
    pids = worker_pids()
    with pytest.raises(ValueError, match="raise me"):
        next(run)
    assert pids and gone(pids)


def gone(pids: list[int], seconds: float = 5.0) -> bool:
    """Return whether all these processes end in time."""
    return holds(lambda: not any(alive(pid) for pid in pids), seconds)


def holds(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Return whether a condition becomes true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def busy(folder: Path) -> list[PidTask]:
    """Return a quick task and two that keep their workers busy."""
    return [PidTask(folder / "0.at", seconds) for seconds in (0.0, 60.0, 60.0)]


def test_leaving_early_ends_the_workers(tmp_path: Path) -> None:
    run = run_tasks(busy(tmp_path), Engine(2))
    next(run)
    pids = worker_pids()
    started = time.monotonic()
    run.close()
    assert pids and gone(pids) and time.monotonic() - started < 5


def test_a_stop_ends_workers_of_a_run_that_somebody_still_holds(tmp_path: Path) -> None:
    run = run_tasks(busy(tmp_path), Engine(2))
    with pytest.raises(Interrupted, match="finished work was kept"), stop_signals():
        next(run)
        pids = worker_pids()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    assert pids and gone(pids)
    run.close()


def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    text = """
        from pathlib import Path
        from faults.tasks import PidTask
        from histoprep.execution import Engine, run_tasks
        tasks = [PidTask(Path(sys.argv[1]), seconds) for seconds in (0.2, 0.2, 60.0, 60.0)]
        run = run_tasks(tasks, Engine(2))
        print(next(run), next(run), flush=True)
        next(run)
    """
    code = (
        f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]\n"
        + textwrap.dedent(text)
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "0.at")],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    pids = [int(item) for item in process.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    process.kill()
    assert gone(pids)
    process.communicate()


def test_the_time_limit_holds_for_each_of_two_tasks_in_one_process(tmp_path: Path) -> None:
    """As in a dask worker with threads: the end of one task must not call off the watch over the
    other.
    """
    done = script(
        """
        import threading, time
        from pathlib import Path
        from histoprep.execution import Marker
        slow, quick = Marker(Path(sys.argv[1]), 1.0), Marker(Path(sys.argv[2]), 60.0)
        slow.at(0)
        threading.Thread(target=lambda: (quick.at(0), quick.close())).start()
        time.sleep(20)
        print("still here")
        """,
        tmp_path / "0.at",
        tmp_path / "1.at",
    )
    assert done.returncode == 1 and not done.stdout and not done.stderr
    assert read_marker(tmp_path / "0.at") == 0


def test_a_marker_tells_where_a_task_is_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "0.at"
    assert read_marker(path) is None
    marker = Marker(path, 60.0)
    assert read_marker(path) is None
    for index in (0, 7, 123_456):
        marker.at(index)
        assert read_marker(path) == index
    marker.close()
    assert not path.exists()
    path.write_bytes(b"abc")
    assert read_marker(path) is None


def test_the_watch_ends_with_the_task(tmp_path: Path) -> None:
    quick, slow = PidTask(tmp_path / "1.at"), PidTask(tmp_path / "2.at", 2 * LIMIT_S)
    before, done, after = run_tasks([quick, *tasks_of(tmp_path, ("a",)), slow], Engine(1))
    assert done == ("a",)
    assert before == after, "the worker was ended while it waited for nothing"


OF_A_COMMAND = """
import os, sys, threading
from pathlib import Path
from faults.tasks import describe_process
from histoprep.durable import locked
from histoprep.execution import Engine
from histoprep.execution.workers import own_process
from rich.console import Console
from rich.progress import Progress

own_process()
if sys.argv[2] == "threads":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
if sys.argv[2] == "progress bar":
    bar = Progress(console=Console(stderr=True, force_terminal=True))
    bar.start()
    assert threading.active_count() == 2
sys.__stdout__.write("said once\\n")
with locked(Path(sys.argv[1])), Engine(1).executor() as executor:
    for line in executor.submit(describe_process).result():
        print(line, file=sys.__stdout__)
"""


@pytest.mark.parametrize("threads", ["alone", "progress bar", "threads"])
def test_workers_of_a_command_are_forks_where_it_has_no_threads(
    threads: str, tmp_path: Path
) -> None:
    """They hold neither its lock nor what it wrote and did not flush."""
    ended = subprocess.run(
        [sys.executable, "-c", OF_A_COMMAND, str(tmp_path), threads],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )
    said, command, handler, *files = ended.stdout.splitlines()
    assert said == "said once" and "said once" not in files
    assert ("forkserver" in command) == (threads == "threads")
    assert handler == "0"
    assert not any(file.endswith(".lock") for file in files)
