"""Runs on several processes: torchrun and SLURM say how many there are, and a process that is lost
is named.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.engine.processes import count_processes
from trainer.errors import ConfigError, ExitCode

Make = Callable[..., Any]
HERE = Path(__file__).parent
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
pytestmark = pytest.mark.timeout(300)


def _command(config: Any, *before: str) -> list[str]:
    text = json.dumps(config.model_dump(mode="json", by_alias=True))
    return [*(before or (sys.executable,)), str(HERE / "ddp_run.py"), text]


def _start(command: list[str]) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _torchrun_options() -> list[str]:
    """Return the options of torchrun in the recipe for one machine in the documentation."""
    text = (HERE.parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    found = re.search(r"^torchrun (.*) -m trainer fit ", text, re.MULTILINE)
    assert found, "docs/training.md has no torchrun recipe"
    return found[1].split()


def test_the_recipe_for_torchrun_trains_on_all_its_processes(toy_config: Make) -> None:
    config = toy_config(out="two", accelerator="cpu", plain=True, batch_size=8)
    assert (config.devices, config.num_nodes) == ("auto", "auto")
    options = [word.replace("8", "2") for word in _torchrun_options()]
    process = _start(_command(config, *TORCHRUN, *options))
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr[-3000:]
    assert "Starting with 2 processes" in stderr
    assert json.loads((Path(config.out) / "finished.json").read_text())["step"] == 12


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set the environment that torchrun or SLURM starts a process with."""

    def start(**variables: int | str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    yield start


def test_processes_that_torchrun_started_are_counted(toy_config: Make, launcher: Any) -> None:
    assert count_processes(toy_config(), 3) == (3, 1)
    launcher(TORCHELASTIC_RUN_ID="x", WORLD_SIZE=8, LOCAL_WORLD_SIZE=4)
    assert count_processes(toy_config(), 1) == (4, 2)
    assert count_processes(toy_config(devices=4), 1) == (4, 2)
    assert count_processes(toy_config(devices=4, num_nodes=2), 1) == (4, 2)
    for settings in ({"devices": 3}, {"num_nodes": 1}, {"devices": 4, "num_nodes": 4}):
        with pytest.raises(ConfigError, match=r"torchrun started another number") as raised:
            count_processes(toy_config(**settings), 1)
        assert "WORLD_SIZE 8" in str(raised.value.seen)
        assert "--set devices=4 --set num_nodes=2" in str(raised.value.hint)


def test_processes_that_slurm_started_are_counted(toy_config: Make, launcher: Any) -> None:
    launcher(SLURM_NTASKS=16, SLURM_NNODES=2, SLURM_JOB_NAME="train")
    assert count_processes(toy_config(), 1) == (8, 2)
    launcher(SLURM_NTASKS=12, SLURM_NTASKS_PER_NODE=4, SLURM_NNODES=3)
    assert count_processes(toy_config(), 1) == (4, 3)
    with pytest.raises(ConfigError, match="SLURM") as raised:
        count_processes(toy_config(devices=2, num_nodes=3), 1)
    assert "SLURM_NTASKS 12, devices 2 x num_nodes 3" in str(raised.value.seen)


def test_a_lost_process_is_named_and_the_checkpoint_stays_whole(toy_config: Make) -> None:
    # So long that it cannot end before its process is killed.
    config = toy_config(
        out="lost",
        accelerator="cpu",
        devices=2,
        plain=True,
        batch_size=8,
        duration={"steps": 1_000_000},
    )
    process = _start(_command(config))
    checkpoints = Path(config.out) / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("last-*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    second = next(
        child
        for child in children
        if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes()
    )
    os.kill(int(second), signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    # Fabric may kill the first process before its own connection breaks.
    assert process.returncode in (ExitCode.OUTPUT, -signal.SIGKILL), stderr[-3000:]
    assert "process 1 of this run has ended" in stderr and "last checkpoint" in stderr
    assert "Traceback" not in stderr
