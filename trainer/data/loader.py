"""Positions -> batches, in order, read by this process or by worker processes. The position is all
the state there is.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from histoprep.errors import HistoprepError, OutputError

if TYPE_CHECKING:
    from trainer.stage import PositionDataset

Batch = dict[str, Tensor]
# Parameters of mallopt in malloc.h.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


def loader(
    dataset: PositionDataset,
    positions: Sequence[int] | np.ndarray,
    batch_size: int,
    num_workers: int = 0,
    *,
    pin_memory: bool = False,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """Yield the batches of `positions` in order; the last may be shorter.

    Worker processes read ahead and change nothing in the samples.

    Args:
        dataset: Returns the batch of some positions; picklable.
        positions: The positions of this rank, a range or array; start anywhere by giving later
            ones.
        batch_size: Samples in a batch.
        num_workers: Processes that read ahead; 0 reads in this process.
        pin_memory: Whether batches lie in memory that a GPU copies from.
        drop_last: Whether a last batch that is shorter is left out.

    Raises:
        OutputError: When a worker process dies. What reading raised is raised here, from whichever
            process.
    """
    _keep_memory()
    groups = _Groups(dataset, positions, batch_size, drop_last)
    spare = (
        {}
        if num_workers == 0
        else {
            "multiprocessing_context": _context(),
            "prefetch_factor": 2,
            "worker_init_fn": _start_worker,
        }
    )
    # A generator of its own: by default the loader would draw a number from torch's global state.
    batches = DataLoader(
        groups,
        batch_size=None,
        shuffle=False,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
        **spare,
    )
    try:
        for batch in batches:
            if isinstance(batch, _Failure):
                raise batch.error
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OutputError(
            f"a process that reads tiles died: {str(error).splitlines()[0]}",
            hint=(
                "it may lack memory, or shared memory (/dev/shm in a container): try fewer"
                " data.num_workers, or 0"
            ),
        ) from error


class _Failure:
    """An error on its way from a worker: torch would rebuild it from its text and lose the rest."""

    def __init__(self, error: HistoprepError) -> None:
        self.error = error


class _Groups(Dataset[Any]):
    """Number of a batch -> the batch."""

    def __init__(
        self,
        dataset: PositionDataset,
        positions: Sequence[int] | np.ndarray,
        batch_size: int,
        drop_last: bool,
    ) -> None:
        self.dataset, self.positions, self.batch_size = dataset, positions, batch_size
        whole, rest = divmod(len(positions), batch_size)
        self.count = whole + (rest > 0 and not drop_last)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch | _Failure:
        if not 0 <= index < self.count:
            raise IndexError(index)
        chosen = self.positions[index * self.batch_size : (index + 1) * self.batch_size]
        try:
            return self.dataset.batch(np.asarray(chosen, dtype=np.int64))
        except HistoprepError as error:
            return _Failure(error)


def _context() -> Any:
    # Not fork: a process with threads (torch, pyarrow, loggers) may hold a lock at that moment, and
    # the child waits for it for ever.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.data.loader"])
    return context


@functools.cache
def _keep_memory() -> None:
    """Let the allocator keep what a batch gave back: the pages of the next one would otherwise be
    fetched from the system and zeroed anew.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_TRIM_THRESHOLD, 256 << 20)


def _start_worker(_: int) -> None:
    _keep_memory()
    # Ctrl-C reaches every process of the terminal, and a scheduler's SIGTERM every process of the
    # job; the main one saves and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_heed_parent_alone, daemon=True).start()
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _heed_parent_alone() -> None:
    """End this process at a SIGTERM of the one that trains; those of others are not for it."""
    parent = multiprocessing.parent_process()
    while parent is not None:
        if signal.sigwaitinfo([signal.SIGTERM]).si_pid == parent.pid:
            os._exit(0)


def _leave_with_parent() -> None:
    """End this process when the one that trains is gone, even by SIGKILL; torch looks at the
    parent, which here is the fork server.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
