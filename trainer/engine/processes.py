"""The processes of a run on several devices: how many there are, and what is said when one of them
is lost.

torchrun and SLURM start the processes themselves; otherwise Fabric starts the command again for
every further device.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from trainer.config import RunConfig
from trainer.errors import ConfigError, DeviceError, LostProcessError

# Where Fabric says that a process it started has ended, just before it kills the others.
_FABRIC_LOG = "lightning_fabric.strategies.launchers.subprocess_script"
_ENDED = re.compile(r"terminated with code (-?\d+)")
# What gloo, NCCL and the store of torch say when the other end of a connection is gone.
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|remote (worker|process)|timed? ?out"
    r"|socket|nccl|gloo",
    re.IGNORECASE,
)


def count_processes(config: RunConfig, num_local: int) -> tuple[int, int]:
    """Return the devices of each machine and the number of machines of a run.

    Args:
        config: The run; what it leaves to "auto" comes from torchrun or SLURM, if one of them
            started this process.
        num_local: Devices to take where nothing says how many.

    Raises:
        ConfigError: When torchrun or SLURM started another number of processes.
    """
    started = _started_by_launcher()
    if started is None:
        devices = config.devices if config.devices != "auto" else max(1, num_local)
        return devices, config.num_nodes if config.num_nodes != "auto" else 1
    launcher, variable, world_size, per_node = started
    devices = per_node if config.devices == "auto" else config.devices
    num_nodes = (
        max(1, world_size // max(1, devices)) if config.num_nodes == "auto" else config.num_nodes
    )
    if devices * num_nodes != world_size:
        raise ConfigError(
            f"{launcher} started another number of processes than the run has",
            seen=f"{variable} {world_size}, devices {devices} x num_nodes {num_nodes}",
            expected="the same number",
            hint=(
                f"--set devices={per_node} --set num_nodes={max(1, world_size // per_node)}, or"
                " leave both at auto"
            ),
        )
    return devices, num_nodes


def _started_by_launcher() -> tuple[str, str, int, int] | None:
    """Return who started this process, the variable with the number of processes, that number, and
    how many of them are on this machine; None when nobody did.
    """
    if TorchElasticEnvironment.detect():
        world_size = int(os.environ["WORLD_SIZE"])
        return (
            "torchrun",
            "WORLD_SIZE",
            world_size,
            int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
        )
    if SLURMEnvironment.detect():
        world_size = int(os.environ["SLURM_NTASKS"])
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        per_node = int(os.environ.get("SLURM_NTASKS_PER_NODE") or max(1, world_size // nodes))
        return "SLURM", "SLURM_NTASKS", world_size, per_node
    return None


@contextlib.contextmanager
def explaining_lost_processes(fabric: Fabric) -> Iterator[None]:
    """Say of a connection that broke that another process of the run ended.

    Raises:
        LostProcessError: Instead of the error of the library.
    """
    try:
        yield
    except RuntimeError as error:
        if fabric.world_size == 1 or isinstance(error, DeviceError) or not _is_lost(error):
            raise
        rank = fabric.global_rank
        others = [other for other in range(fabric.world_size) if other != rank]
        named = f"process {others[0]}" if len(others) == 1 else "another process"
        raise LostProcessError(
            f"{named} of this run has ended",
            seen=(
                f"process {rank} of {fabric.world_size} lost its connection:"
                f" {str(error).splitlines()[0][:200]}"
            ),
            hint=(
                "see what it said above; rerun the same command to resume from the last"
                " checkpoint, which is whole"
            ),
        ) from error


@contextlib.contextmanager
def ending_process_group(fabric: Fabric) -> Iterator[None]:
    """Take the connections between the processes down at the end, before the interpreter does:
    threads of gloo that are still there then would abort it.

    Where a process was lost, its connections cannot be taken down in order.
    """
    try:
        yield
    except LostProcessError:
        raise
    except BaseException:
        _destroy(fabric)
        raise
    _destroy(fabric)


def _destroy(fabric: Fabric) -> None:
    if fabric.world_size > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    return type(error).__name__.startswith("Dist") or bool(_LOST.search(str(error)))


def report_lost_children(num_ranks: int) -> None:
    """Have the end of a process that Fabric started reported on stderr, before Fabric kills all
    others of this machine.
    """
    logger = logging.getLogger(_FABRIC_LOG)
    if num_ranks == 1 or any(isinstance(handler, _Report) for handler in logger.handlers):
        return
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(_Report())


class _Report(logging.Handler):
    """Writes which process ended, from Fabric's message."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message, or nothing where it tells of no end."""
        text = record.getMessage()
        found = _ENDED.search(text)
        if found is None:
            return
        code = int(found[1])
        rank = re.search(r"\[rank: (\d+)\]", text)
        named = f"process {rank[1]}" if rank else "a process"
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        os.write(
            2,
            f"error: {named} of this run has ended ({how}), so all others are stopped; the last"
            " checkpoint is whole\n  try: rerun the same command to resume\n".encode(),
        )
