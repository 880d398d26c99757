"""Running the stages: one after another, each once, the commands shown; the trainer in a process of
its own.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec

from histoprep.demo.ledger import Ledger
from histoprep.demo.stages import DemoStage
from histoprep.errors import HistoprepError, Terminated

TRAIN_PACKAGES = (
    "torch",
    "lightning_fabric",
    "diffusers",
    "safetensors",
    "einops",
    "sklearn",
    "tensorboard",
)
"""What the trainer imports, by import name; the extra `train` installs it."""


_LEAVE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


class StageFailed(HistoprepError):  # noqa: N818 (it names what happened)
    """The command of a stage ended with an exit code that it may not end with here; its own message
    has been printed.
    """

    def __init__(self, stage: DemoStage, code: int) -> None:
        hint = (
            "see its message above; rerun the same command to resume, or name another folder to"
            " start again"
        )
        super().__init__(
            f"the stage {stage.name} ended with exit code {code}", seen=stage.command, hint=hint
        )
        self.exit_code = code  # type: ignore[assignment]


def missing_train_packages() -> tuple[str, ...]:
    """Return which of `TRAIN_PACKAGES` are not installed; nothing is imported."""
    return tuple(name for name in TRAIN_PACKAGES if find_spec(name) is None)


def run_stages(
    stages: Iterable[DemoStage],
    ledger: Ledger,
    histoprep: Callable[[Sequence[str]], int],
    tell: Callable[[str], None],
    trainer: Callable[[Sequence[str]], int] | None = None,
) -> None:
    """Run what is not done yet; `histoprep` and `trainer` run one command line and return its exit
    code.

    Raises StageFailed with the exit code of a stage that did not end well.
    """
    launch = {"histoprep": histoprep, "trainer": trainer or run_trainer}
    for stage in stages:
        for line in ("", f"{stage.name}: {stage.purpose}", f"$ {stage.command}"):
            tell(line)
        if ledger.is_done(stage):
            tell("done before")
            continue
        started = time.monotonic()
        code = launch[stage.program](stage.arguments)
        if code not in stage.accepted:
            raise StageFailed(stage, code)
        ledger.note(stage, time.monotonic() - started)


def run_trainer(arguments: Sequence[str]) -> int:
    """Run `trainer` with the Python that runs us and return its exit code; a stop of ours is passed
    on, and its end awaited.

    It has a process group of its own, so that Ctrl-C reaches it once, through us: the second would
    end it without a saved state. When we are killed, it is told to stop.
    """
    # -P: a folder of the user's that happens to be called trainer is not ours.
    command = [sys.executable, "-P", "-m", "trainer", *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=_leave_with_parent,  # noqa: PLW1509 (one call of libc)
    )
    try:
        code = process.wait()
    except BaseException as error:
        process.send_signal(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
        process.wait()
        raise
    return 128 - code if code < 0 else code


def _leave_with_parent() -> None:
    _libc.prctl(_LEAVE_WITH_PARENT, signal.SIGTERM)
