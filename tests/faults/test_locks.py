"""One writer for a workspace: the second leaves at once and says who is there; a lock ends with its
process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.running import TESTS, Stage, Zygote, every_file

COMMANDS = ("audit", "stats", "manifest", "remap", "collect")


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that holds the lock."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    code = f"from faults.commands import hold; hold([{str(folder)!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def arguments(stage: Stage, command: str) -> list[str]:
    more = {"remap": ["--map", "label_map_5", "--on-unmapped", "unknown"]}
    return [command, str(stage.data), "--workspace", str(stage.workspace), *more.get(command, [])]


def test_the_second_writer_leaves_and_names_the_first(zygote: Zygote, stage: Stage) -> None:
    assert zygote.run(arguments(stage, "audit")).code == 1
    before = every_file(stage.workspace)
    with holder(stage.workspace) as process:
        # The holder wrote its name into the lock file, and nobody else writes anything.
        before |= {".lock": every_file(stage.workspace)[".lock"]}
        for command in COMMANDS:
            started = time.monotonic()
            outcome = zygote.run(arguments(stage, command))
            assert outcome.code == 5, f"{command}: {outcome.stderr}"
            assert (
                f"process {process.pid} on {os.uname().nodename}" in outcome.stderr
                and str(stage.workspace) in outcome.stderr
            )
            assert time.monotonic() - started < 20
        assert every_file(stage.workspace) == before
        process.send_signal(signal.SIGKILL)
        process.wait()
        # Control: the file is still there and still names the dead; only the lock on it is gone.
        assert str(process.pid) in (stage.workspace / ".lock").read_text()
        for command in COMMANDS:
            assert zygote.run(arguments(stage, command)).code in (0, 1, 3), command


@pytest.mark.parametrize("number", range(2))
def test_of_two_audits_at_once_none_spoils_the_other(
    number: int, zygote: Zygote, stage: Stage
) -> None:
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    command = [
        sys.executable,
        "-c",
        "import sys; from histoprep.cli import main; main(sys.argv[1:])",
        *arguments(stage, "audit"),
        "--workers",
        "1",
    ]
    both = [
        subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
        )
        for _ in range(2)
    ]
    texts = [side.communicate(timeout=120)[1] for side in both]
    codes = sorted(side.returncode for side in both)
    assert codes in ([1, 5], [1, 1]), texts
    table = (stage.workspace / "tiles.parquet").read_bytes()
    stage.reset()
    zygote.run(arguments(stage, "audit"))
    assert (stage.workspace / "tiles.parquet").read_bytes() == table
