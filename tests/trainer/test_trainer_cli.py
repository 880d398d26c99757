"""The command line of the trainer: its table of commands, exit codes, and what it does not
import.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from trainer import __version__
from trainer.cli import COMMANDS, run
from trainer.errors import ExitCode


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capfd.readouterr().out == f"trainer {__version__}\n"


def test_help_lists_every_command_in_the_order_of_the_work(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(["--help"]) == 0
    printed = capfd.readouterr().out
    places = [printed.index(f"  {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert "Usage: trainer" in capfd.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["fit", "--no-such-option"],
        ["fit", "--preset", "ldm-tiny"],
        ["fit", "--manifest", "missing.parquet", "--preset", "nothing"],
    ],
)
def test_mistakes_of_usage(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == ExitCode.USAGE
    assert "Traceback" not in capfd.readouterr().err


def test_a_manifest_that_is_not_there_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        run(["fit", "--manifest", "missing.parquet", "--preset", "ldm-tiny", "--codec", "c"])
        == ExitCode.USAGE
    )
    assert "missing.parquet" in capfd.readouterr().err


def test_other_processes_of_a_run_keep_quiet(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (
        run(["fit", "--manifest", "missing.parquet", "--preset", "ldm-tiny", "--codec", "c"])
        == ExitCode.USAGE
    )
    assert capfd.readouterr().err == ""


def test_help_does_not_wait_for_torch() -> None:
    script = (
        "import sys; from trainer.cli import run; run(['--help']); run(['fit', '--help']); print([n"
        " for n in sys.modules if n == 'torch'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
