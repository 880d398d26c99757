"""The processes of a run on several devices: what is said when one of them is lost."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator

import torch
from lightning_fabric import Fabric

from trainer.engine.joining import JoiningStrategy
from trainer.errors import DeviceError, LostProcessError
from trainer.signals import ending_blocked_waits

# Where Fabric says that a process it started has ended, just before it kills the others.
_FABRIC_LOG = "lightning_fabric.strategies.launchers.subprocess_script"
_ENDED = re.compile(r"terminated with code (-?\d+)")
# What gloo, NCCL and the store of torch say when the other end of a connection is gone.
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|remote (worker|process)|timed? ?out"
    r"|socket|nccl|gloo",
    re.IGNORECASE,
)


@contextlib.contextmanager
def _explaining_lost_processes(fabric: Fabric) -> Iterator[None]:
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
def _ending_process_group(fabric: Fabric) -> Iterator[None]:
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


@contextlib.contextmanager
def started(fabric: Fabric) -> Iterator[None]:
    """Launch Fabric, and keep its processes together until the end of the block.

    Raises:
        DeviceError: When the processes do not find each other.
        LostProcessError: When one of them ends before the others.
    """
    if not isinstance(fabric.strategy, JoiningStrategy):
        fabric.launch()
        yield
        return
    _report_lost_children()
    if "LOCAL_RANK" not in os.environ:
        # The processes that Fabric starts would take it for theirs.
        os.environ.pop("RANK", None)
    with ending_blocked_waits():
        fabric.launch()
        with _ending_process_group(fabric), _explaining_lost_processes(fabric):
            yield


def _report_lost_children() -> None:
    """Have the end of a process that Fabric started reported on stderr, before Fabric kills all
    others of this machine.
    """
    logger = logging.getLogger(_FABRIC_LOG)
    if any(isinstance(handler, _Report) for handler in logger.handlers):
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
