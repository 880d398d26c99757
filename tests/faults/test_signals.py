"""Ctrl-C and SIGTERM at any moment: their exit code, finished work kept, no worker left behind, and
the same table in the end.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_execution import children, gone

from faults.running import TESTS, Stage, Zygote, every_file, results, temporaries

CALL = "faults.commands:cli_in_parts"
CODE = {signal.SIGINT: 130, signal.SIGTERM: 143}
NUM_PARTS = 14


def arguments(stage: Stage) -> list[str]:
    return ["audit", str(stage.data), "--workspace", str(stage.workspace), "--workers", "2"]


def parts(stage: Stage) -> int:
    return len(list((stage.workspace / "parts").glob("*.parquet")))


def descendants(pid: int) -> list[int]:
    try:
        below = children(pid)
    except OSError:
        return []
    return [*below, *(item for child in below for item in descendants(child))]


def _is_importing(pid: int) -> bool:
    """Return whether the fork server of a process has started a moment ago, after the tracker of
    its resources.
    """
    found = len(descendants(pid)) >= 2
    time.sleep(0.15 * found)
    return found


MOMENTS: dict[str, Callable[[Stage, int], bool]] = {
    "before any part": lambda stage, _: (stage.workspace / ".lock").exists(),
    "as workers start": lambda _, pid: _is_importing(pid),
    "after one part": lambda stage, _: parts(stage) >= 1,
    "after five parts": lambda stage, _: parts(stage) >= 5,
    "after the table": lambda stage, _: (stage.workspace / "tiles.parquet").exists(),
}
CASES = [
    *[(moment, signal.SIGINT, False) for moment in MOMENTS],
    *[
        (moment, signal.SIGTERM, False)
        for moment in ("as workers start", "after five parts", "after the table")
    ],
    *[(moment, signal.SIGINT, True) for moment in MOMENTS],
    ("after one part", signal.SIGTERM, True),
]


def interrupt(
    stage: Stage, is_time: Callable[[Stage, int], bool], number: signal.Signals, group: bool
) -> tuple[int, str, list[int]]:
    """Run the audit, send it a signal at the moment, and return exit code, stderr and the processes
    it had started.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    code = "import sys; from faults.commands import cli_in_parts; cli_in_parts(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments(stage)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not is_time(stage, process.pid) and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.002)
    started = descendants(process.pid)
    # It may have ended by itself.
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(process.pid, number)
    try:
        text = process.communicate(timeout=20)[1]
    finally:
        process.kill()
    return process.returncode, text, started


@pytest.fixture(scope="module")
def expected(
    zygote: Zygote, demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """Return the results of a run that nobody stopped."""
    stage = Stage(demo, tmp_path_factory.mktemp("undisturbed"))
    assert zygote.run(arguments(stage), CALL).code == 1
    return results(stage.workspace)


@pytest.mark.parametrize(
    "case", CASES, ids=lambda item: f"{item[0]}-{item[1].name}{'-group' * item[2]}"
)
def test_a_stop_keeps_what_is_done(
    case: tuple[str, signal.Signals, bool],
    zygote: Zygote,
    stage: Stage,
    expected: dict[str, object],
) -> None:
    moment, number, group = case
    code, text, started = interrupt(stage, MOMENTS[moment], number, group)
    assert code == CODE[number], text
    assert (
        f"stopped by {number.name}; finished work was kept" in text
        and "rerun the same command" in text
    )
    assert "Traceback" not in text and "KeyboardInterrupt" not in text, text
    assert gone(started), "processes are left behind"
    kept = parts(stage)
    assert kept >= {"after one part": 1, "after five parts": 5}.get(moment, 0)
    has_table = (stage.workspace / "tiles.parquet").exists()
    again = zygote.run(arguments(stage), CALL)
    assert again.code == 1, again.stderr
    if not has_table:
        resumed = re.search(r"resumed (\d+) of (\d+)", again.stderr)
        assert resumed and resumed.groups() == (str(kept), str(NUM_PARTS)), again.stderr
    assert results(stage.workspace) == expected
    assert not temporaries(stage.workspace)
    assert every_file(stage.data) == stage.data_before


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(40))
def test_a_stop_at_a_random_time(
    seed: int, zygote: Zygote, stage: Stage, expected: dict[str, object]
) -> None:
    choice = random.Random(seed)
    until = time.monotonic() + 60
    delay = choice.random() * 3
    lock: list[float] = []

    def is_time(stage: Stage, _: int) -> bool:
        if not lock and (stage.workspace / ".lock").exists():
            lock.append(time.monotonic())
        assert time.monotonic() < until
        return bool(lock) and time.monotonic() - lock[0] > delay

    number = choice.choice(list(CODE))
    code, text, started = interrupt(stage, is_time, number, choice.random() < 0.3)
    # After its last line Python gives signals back to the system before it ends.
    is_done = code == -number and "results: " in text
    assert code in (1, CODE[number]) or is_done, text
    assert gone(started)
    assert zygote.run(arguments(stage), CALL).code == 1
    assert results(stage.workspace) == expected
    assert not temporaries(stage.workspace)


def test_workers_left_behind_are_seen_control(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '30'])"]
    )
    until = time.monotonic() + 20
    while not (started := descendants(process.pid)):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not gone(started, 0.5)
    os.kill(started[0], signal.SIGKILL)
    assert gone(started)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_run_whose_end_takes_long(number: signal.Signals) -> None:
    code = """
import time
from histoprep.execution.signals import at_stop, stop_signals
def held():
    with at_stop(lambda: (print("ending", flush=True), time.sleep(60))):
        yield
run = held()
with stop_signals():
    next(run)
    print("begun", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TESTS.parent,
    )
    assert process.stdout
    for line in ("begun\n", "ending\n"):
        assert process.stdout.readline() == line
        process.send_signal(number)
    started = time.monotonic()
    text = process.communicate(timeout=20)[1]
    assert process.returncode == CODE[number] and time.monotonic() - started < 10
    assert text == f"stopped at once by {number.name}; finished work was kept\n"
