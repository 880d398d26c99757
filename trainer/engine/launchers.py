"""Who started the processes of a run, how many there are, and whether that is what the run says.

torchrun and SLURM start the processes themselves, and so does someone who sets LOCAL_RANK by hand;
otherwise Fabric starts the command again for every further device.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from trainer.config import RunConfig
from trainer.errors import ConfigError

_BY_HAND = "by hand"
_SLURM_TASKS = "SLURM_NTASKS"
_NUM_PORTS = 2**16
_ALONE = "unset WORLD_SIZE, RANK and LOCAL_RANK to have this command start its processes itself"


def count_processes(config: RunConfig, num_local: int) -> tuple[int, int]:
    """Return the devices of each machine and the number of machines of a run.

    Args:
        config: The run; what it leaves to "auto" comes from what started this process: torchrun,
            SLURM, or someone by hand, who sets LOCAL_RANK in each process.
        num_local: Devices to take where nothing says how many.

    Raises:
        ConfigError: When another number of processes was started than the run has, or the
            environment does not say which of them this is or where they meet.
    """
    started = _started_by_launcher()
    if started is None:
        devices = config.devices if config.devices != "auto" else max(1, num_local)
        num_nodes = config.num_nodes if config.num_nodes != "auto" else 1
        _check_own_start(devices, num_nodes)
        return devices, num_nodes
    world_size, per_node = started.world_size, started.per_node
    devices = per_node or world_size if config.devices == "auto" else config.devices
    num_nodes = (
        max(1, world_size // max(1, devices)) if config.num_nodes == "auto" else config.num_nodes
    )
    if config.devices == "auto" and per_node is None:
        devices = max(1, world_size // num_nodes)
    if devices * num_nodes != world_size or (per_node or devices) != devices:
        here = "" if per_node is None else f" ({per_node} of them on this machine)"
        shown = per_node or max(1, world_size // num_nodes)
        raise ConfigError(
            f"another number of processes was started {started.by} than the run has",
            seen=(
                f"{started.variable} {world_size}{here}, devices {devices} x num_nodes {num_nodes}"
            ),
            expected="the same number",
            hint=(
                f"--set devices={shown} --set num_nodes={max(1, world_size // shown)}, or"
                f" leave both at auto{started.hint}"
            ),
        )
    if started.by == _BY_HAND:
        _check_places(devices, num_nodes)
    return devices, num_nodes


@dataclass(frozen=True)
class _Started:
    """Who started this process, the variable with the number of processes, that number, how many
    of them are on this machine (None where nothing says so), and what else may help.
    """

    by: str
    variable: str
    world_size: int
    per_node: int | None
    hint: str = ""


def _started_by_launcher() -> _Started | None:
    """Return what started this process, or None where this command starts the others itself.

    Raises:
        ConfigError: When a variable is missing or is no number.
    """
    if TorchElasticEnvironment.detect():
        return _Started(
            "by torchrun", "WORLD_SIZE", _need("WORLD_SIZE", ""), _number("LOCAL_WORLD_SIZE")
        )
    if _SLURM_TASKS in os.environ and SLURMEnvironment.detect():
        return _started_by_slurm()
    world_size = _number("WORLD_SIZE")
    if "LOCAL_RANK" in os.environ and world_size is not None:
        return _Started(
            _BY_HAND, "WORLD_SIZE", world_size, _number("LOCAL_WORLD_SIZE"), f"; {_ALONE}"
        )
    return None


def _started_by_slurm() -> _Started:
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
        _need(name, "start the command with srun, which numbers its processes")
    world_size = _need(_SLURM_TASKS, "")
    per_node = _number("SLURM_NTASKS_PER_NODE")
    if per_node is None and world_size > 1:
        nodes = _number("SLURM_NNODES") or 1
        raise ConfigError(
            "SLURM does not say how many processes a machine has",
            seen=f"{_SLURM_TASKS} {world_size}, but no SLURM_NTASKS_PER_NODE",
            hint=f"give SLURM --ntasks-per-node={max(1, world_size // nodes)} instead of --ntasks",
        )
    return _Started("by SLURM", _SLURM_TASKS, world_size, per_node or world_size)


def _check_own_start(devices: int, num_nodes: int) -> None:
    """Check the environment of a process that says no WORLD_SIZE with its LOCAL_RANK: it starts the
    others of its machine itself, or is one of those that were started so.

    Raises:
        ConfigError: When it belongs to processes that were started otherwise.
    """
    world_size = _number("WORLD_SIZE")
    if "LOCAL_RANK" not in os.environ and world_size is not None and world_size > 1:
        if "RANK" in os.environ and "NODE_RANK" not in os.environ:
            raise ConfigError(
                "one of several processes does not say which it is on its machine",
                seen=f"WORLD_SIZE {world_size}, RANK {os.environ['RANK']}, no LOCAL_RANK",
                hint=f"start them with torchrun, or set LOCAL_RANK; {_ALONE}",
            )
        if world_size != devices * num_nodes:
            raise ConfigError(
                "the environment has another number of processes than the run",
                seen=f"WORLD_SIZE {world_size}, devices {devices} x num_nodes {num_nodes}",
                expected="the same number",
                hint=f"--set devices and num_nodes; {_ALONE}",
            )
    if "LOCAL_RANK" in os.environ or num_nodes > 1:
        _check_places(devices, num_nodes)


def _check_places(devices: int, num_nodes: int) -> None:
    """Check that a process started by hand says which one it is and where all of them meet.

    Raises:
        ConfigError: When it does not, or says two things.
    """
    if devices * num_nodes == 1 and not _number("LOCAL_RANK") and not _number("RANK"):
        return
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise ConfigError(
                f"{name} is not set, so the processes of this run cannot find each other",
                seen=f"devices {devices} x num_nodes {num_nodes}, started {_BY_HAND}",
                expected="MASTER_ADDR and MASTER_PORT, the same for all processes",
                hint=f"set them to a machine and free port of the first process; {_ALONE}",
            )
    if not 0 < _need("MASTER_PORT", "") < _NUM_PORTS:
        raise ConfigError("MASTER_PORT is no port", seen=os.environ["MASTER_PORT"])
    if num_nodes > 1:
        machine = "GROUP_RANK" if "GROUP_RANK" in os.environ else "NODE_RANK"
        _need(machine, "0 on the first machine, 1 on the second, and so on")
    local, rank = _number("LOCAL_RANK") or 0, _number("RANK")
    node = next((_number(name) for name in ("NODE_RANK", "GROUP_RANK") if name in os.environ), 0)
    assert node is not None
    if local >= devices or node >= num_nodes:
        raise ConfigError(
            "this process has a number that the run does not have",
            seen=f"LOCAL_RANK {local} of {devices} devices, NODE_RANK {node} of {num_nodes}",
            expected="numbers from 0 on, below devices and num_nodes",
            hint=_ALONE,
        )
    if "LOCAL_RANK" in os.environ and rank is not None and rank != node * devices + local:
        raise ConfigError(
            "RANK is not that of this machine and device",
            seen=f"RANK {rank}, NODE_RANK {node}, LOCAL_RANK {local}, devices {devices}",
            expected=f"RANK = NODE_RANK x devices + LOCAL_RANK = {node * devices + local}",
            hint=f"set NODE_RANK on each machine, or start with torchrun; {_ALONE}",
        )


def _number(name: str) -> int | None:
    """Return a variable of the environment as a number of 0 or more, None where it is not set.

    Raises:
        ConfigError: When it is something else.
    """
    text = os.environ.get(name, "")
    if text and not text.strip().isdecimal():
        raise ConfigError(
            f"{name} in the environment is no number", seen=text, expected="a number from 0 on"
        )
    return int(text) if text else None


def _need(name: str, hint: str) -> int:
    """Return a variable of the environment that must be set, as `_number` does.

    Raises:
        ConfigError: When it is missing, too.
    """
    value = _number(name)
    if value is None:
        raise ConfigError(f"{name} is not set in the environment", hint=hint)
    return value
