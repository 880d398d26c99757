"""Runs on several processes: what started them says how many there are, one that does not come or
is lost is named, and a signal ends one that waits.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.engine.launchers import count_processes
from trainer.errors import ConfigError, ExitCode

Make = Callable[..., Any]
HERE = Path(__file__).parent
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
LAUNCHERS = (
    *("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK"),
    *("GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"),
    *("SLURM_NNODES", "SLURM_JOB_NAME", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
)
pytestmark = pytest.mark.timeout(300)


def _command(config: Any, *before: str) -> list[str]:
    text = json.dumps(config.model_dump(mode="json", by_alias=True))
    return [*(before or (sys.executable,)), str(HERE / "ddp_run.py"), text]


def _start(command: list[str], **variables: object) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
        **{name: str(value) for name, value in variables.items()},
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


@pytest.mark.slow
def test_the_recipe_for_torchrun_trains_on_all_its_processes(toy_config: Make) -> None:
    config = toy_config(out="two", accelerator="cpu", plain=True, batch_size=8)
    assert (config.devices, config.num_nodes) == ("auto", "auto")
    options = [word.replace("8", "2") for word in _torchrun_options()]
    process = _start(_command(config, *TORCHRUN, *options))
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr[-3000:]
    assert "training with 2 processes" in stderr
    assert json.loads((Path(config.out) / "finished.json").read_text())["step"] == 12


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set the environment that torchrun or SLURM starts a process with."""

    def start(**variables: int | str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    yield start


def test_processes_that_torchrun_started_are_counted(toy_config: Make, launcher: Any) -> None:
    assert count_processes(toy_config(), 3) == (3, 1)
    launcher(TORCHELASTIC_RUN_ID="x", WORLD_SIZE=8, LOCAL_WORLD_SIZE=4)
    assert count_processes(toy_config(), 1) == (4, 2)
    assert count_processes(toy_config(devices=4), 1) == (4, 2)
    assert count_processes(toy_config(devices=4, num_nodes=2), 1) == (4, 2)
    several = {"devices": 4, "num_nodes": 4}, {"devices": 2, "num_nodes": 4}
    for settings in ({"devices": 3}, {"num_nodes": 1}, *several):
        with pytest.raises(ConfigError, match=r"was started by torchrun") as raised:
            count_processes(toy_config(**settings), 1)
        assert "WORLD_SIZE 8" in str(raised.value.seen)
        assert "--set devices=4 --set num_nodes=2" in str(raised.value.hint)


def test_processes_that_slurm_started_are_counted(toy_config: Make, launcher: Any) -> None:
    launcher(SLURM_NTASKS=16, SLURM_NNODES=2, SLURM_JOB_NAME="train")
    with pytest.raises(ConfigError, match="SLURM_PROCID is not set") as raised:
        count_processes(toy_config(), 1)
    assert "srun" in str(raised.value.hint)
    launcher(SLURM_PROCID=0, SLURM_LOCALID=0, SLURM_NODEID=0)
    with pytest.raises(ConfigError, match="how many processes a machine has") as raised:
        count_processes(toy_config(), 1)
    assert "--ntasks-per-node=8" in str(raised.value.hint)
    launcher(SLURM_NTASKS=12, SLURM_NTASKS_PER_NODE=4, SLURM_NNODES=3)
    with pytest.raises(ConfigError, match="was started by SLURM"):
        count_processes(toy_config(devices=3, num_nodes=4), 1)
    assert count_processes(toy_config(), 1) == (4, 3)
    with pytest.raises(ConfigError, match="SLURM") as raised:
        count_processes(toy_config(devices=2, num_nodes=3), 1)
    assert "SLURM_NTASKS 12 (4 of them on this machine), devices 2 x" in str(raised.value.seen)


# Variables, devices, num_nodes, and what is said.
WRONG_STARTS: dict[str, tuple[dict[str, object], int | str, int | str, str]] = {
    "fewer": ({"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0}, 4, "auto", "was started by hand"),
    "more": ({"WORLD_SIZE": 4, "RANK": 0, "LOCAL_RANK": 0}, 2, 1, "was started by hand"),
    "one": ({"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0}, 1, 1, "was started by hand"),
    "no place": ({"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0}, 2, 1, "MASTER_ADDR is not set"),
    "no local rank": ({"WORLD_SIZE": 2, "RANK": 1}, 1, "auto", "which it is on its machine"),
    "machines": ({"WORLD_SIZE": 4, "NODE_RANK": 0}, 1, 2, "another number of processes than the"),
    "no address": ({}, 2, 2, "MASTER_ADDR is not set"),
    "no number": ({"WORLD_SIZE": "two", "LOCAL_RANK": 0}, 2, 1, "WORLD_SIZE in the environment is"),
    "beyond": ({"LOCAL_RANK": 1}, "auto", "auto", "MASTER_ADDR is not set"),
}
PLACE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
WRONG_PLACES: dict[str, tuple[dict[str, object], int | str, int | str, str]] = {
    "beyond": ({"LOCAL_RANK": 2, "WORLD_SIZE": 2}, 2, 1, "a number that the run does not have"),
    "machine": ({"LOCAL_RANK": 0, "RANK": 1, "WORLD_SIZE": 2}, 1, 2, "NODE_RANK is not set"),
    "rank": (
        {"LOCAL_RANK": 0, "RANK": 1, "WORLD_SIZE": 2, "NODE_RANK": 0},
        *(1, 2, "RANK is not that of this machine"),
    ),
    "port": ({"LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": 99999}, 2, 1, "is no port"),
}


@pytest.mark.parametrize("name", WRONG_STARTS)
def test_processes_started_by_hand_are_counted(name: str, toy_config: Make, launcher: Any) -> None:
    variables, devices, num_nodes, said = WRONG_STARTS[name]
    launcher(**variables)
    with pytest.raises(ConfigError, match=said) as raised:
        count_processes(toy_config(devices=devices, num_nodes=num_nodes), 1)
    assert raised.value.hint or raised.value.expected


@pytest.mark.parametrize("name", WRONG_PLACES)
def test_a_process_started_by_hand_must_be_one_of_the_run(
    name: str, toy_config: Make, launcher: Any
) -> None:
    variables, devices, num_nodes, said = WRONG_PLACES[name]
    launcher(**PLACE | variables)
    with pytest.raises(ConfigError, match=said):
        count_processes(toy_config(devices=devices, num_nodes=num_nodes), 1)


def test_processes_started_by_hand_that_fit_are_taken(toy_config: Make, launcher: Any) -> None:
    launcher(WORLD_SIZE=1, RANK=0)
    assert count_processes(toy_config(), 3) == (3, 1)
    launcher(LOCAL_RANK=0)
    assert count_processes(toy_config(), 3) == (1, 1)
    launcher(WORLD_SIZE=4, RANK=3, LOCAL_RANK=1, NODE_RANK=1, **PLACE)
    assert count_processes(toy_config(num_nodes=2), 1) == (2, 2)
    assert count_processes(toy_config(devices=2), 1) == (2, 2)


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def _by_hand(config: Any, rank: int, port: int, **variables: object) -> subprocess.Popen[str]:
    """Start one of two processes, as someone does who has no torchrun."""
    fixed = {"WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return _start(_command(config), **fixed | place | variables)


def _wait_until(is_there: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not is_there():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_served(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_one_process_by_hand_of_another_number_than_the_run_ends(toy_config: Make) -> None:
    config = toy_config(accelerator="cpu", devices=4, plain=True, batch_size=8)
    process = _start(_command(config), WORLD_SIZE=2, RANK=0, LOCAL_RANK=0)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == ExitCode.USAGE, stderr[-3000:]
    assert "WORLD_SIZE 2, devices 4 x num_nodes 1" in stderr and "unset WORLD_SIZE" in stderr


def test_two_processes_started_by_hand_train(toy_config: Make) -> None:
    config = toy_config(accelerator="cpu", plain=True, batch_size=8)
    port = _free_port()
    both = [_by_hand(config, rank, port) for rank in (1, 0)]
    for process in both:
        _, stderr = process.communicate(timeout=200)
        assert process.returncode == 0, stderr[-3000:]
    assert "training with 2 processes" in stderr
    assert json.loads((Path(config.out) / "finished.json").read_text())["step"] == 12


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_whose_others_do_not_come_says_who_and_ends(rank: int, toy_config: Make) -> None:
    config = toy_config(accelerator="cpu", plain=True, batch_size=8, start_timeout_s=3)
    process = _by_hand(config, rank, _free_port())
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == ExitCode.OUTPUT, stderr[-3000:]
    said = ("only 1 of the 2 processes of this run came within 3 s", "not there: process 1")
    for text in said if rank == 0 else ("process 1 of this run did not reach process 0",):
        assert text in stderr
    assert "Traceback" not in stderr and "MASTER_PORT" in stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_that_waits_for_others_to_come(
    number: signal.Signals, toy_config: Make
) -> None:
    config = toy_config(accelerator="cpu", plain=True, batch_size=8)
    port = _free_port()
    first = _by_hand(config, 0, port)
    _wait_until(lambda: _is_served(port), first)
    os.kill(first.pid, number)
    _, stderr = first.communicate(timeout=60)
    assert first.returncode == 128 + number, stderr[-3000:]
    assert f"stopped by {number.name}" in stderr and "Traceback" not in stderr


def test_two_processes_with_one_number_and_a_taken_port_are_named(toy_config: Make) -> None:
    config = toy_config(accelerator="cpu", plain=True, batch_size=9, devices=3, start_timeout_s=90)
    port = _free_port()
    first = _by_hand(config, 0, port, WORLD_SIZE=3)
    _wait_until(lambda: _is_served(port), first)
    others = [_by_hand(config, rank, port, WORLD_SIZE=3) for rank in (1, 1, 0)]
    # One of the two that say 1 ends, and the second that says 0.
    deadline = time.monotonic() + 80
    while sum(process.poll() is not None for process in others) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ended = [process for process in others if process.poll() is not None]
    said = "".join(process.communicate()[1] for process in ended)
    assert "two processes of this run say that they are process 1" in said
    assert "cannot open its port" in said
    assert {process.returncode for process in ended} == {ExitCode.OUTPUT}
    first.kill()
    waiting = next(process for process in others if process not in ended)
    _, stderr = waiting.communicate(timeout=60)
    assert waiting.returncode == ExitCode.OUTPUT, stderr[-3000:]
    assert "process 0 of this run has ended before all processes were there" in stderr
    first.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_that_waits_in_a_step_for_one_that_hangs(
    number: signal.Signals, toy_config: Make
) -> None:
    config = toy_config(accelerator="cpu", plain=True, batch_size=8, duration={"steps": 1_000_000})
    port = _free_port()
    first, second = (_by_hand(config, rank, port) for rank in (0, 1))
    try:
        _wait_until(lambda: list((Path(config.out) / "checkpoints").glob("last-*")), first)
        os.kill(second.pid, signal.SIGSTOP)
        time.sleep(2)  # So that the first waits for it.
        os.kill(first.pid, number)
        _, stderr = first.communicate(timeout=60)
    finally:
        second.kill()
        second.communicate()
    assert first.returncode == 128 + number, stderr[-3000:]
    assert f"stopped at once by {number.name} while waiting for another process" in stderr


@pytest.mark.slow
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
