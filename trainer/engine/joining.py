"""How the processes of a run find each other, and how they wait for the first of them.

Both go through a store that the first process serves (under torchrun its agent does), looked at
again and again from Python: so a signal ends the wait, there is no limit to how long the first
process may prepare, and where processes are missing it is known which.
"""

from __future__ import annotations

import itertools
import os
import pickle
import socket
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from trainer.errors import DeviceError, LostProcessError
from trainer.reporter import Reporter

_LOOK_EVERY_S = 0.1
# A try to connect; between two of them Python sees signals.
_TRY_S = 2
# How long libraries may wait for a key of the store.
_KEY_S = 300
_SAY_AFTER_S = 10.0
_NUM_NAMED = 8
# One store a process: a second run in it meets at the same place. Place -> store.
_STORES: dict[tuple[str, int], TCPStore] = {}
_GROUPS = itertools.count()


class JoiningStrategy(DDPStrategy):
    """Data parallel training whose processes find each other through our own store.

    Args:
        limit_s: How long to wait for the other processes, in seconds.
        reporter: Where is said that others are waited for.
    """

    def __init__(self, limit_s: float, reporter: Reporter) -> None:
        super().__init__()
        self._limit_s, self._reporter = limit_s, reporter
        self._store: Store | None = None
        self._answers = itertools.count()

    def setup_environment(self) -> None:
        """Wait for the other processes and join them.

        Raises:
            DeviceError: When not all of them came in time, or two say the same number.
            LostProcessError: When the first process ended meanwhile.
        """
        environment = self.cluster_environment
        assert environment is not None and self.accelerator is not None
        # torchrun and SLURM know these; they take no note of what is set.
        environment.set_world_size(self.num_nodes * self.num_processes)
        environment.set_global_rank(
            environment.node_rank() * self.num_processes + environment.local_rank()
        )
        self.accelerator.setup_device(self.root_device)
        is_gpu = self.root_device.type == "cuda"
        rank, num_ranks = environment.global_rank(), environment.world_size()
        self._store = join_processes(
            (environment.main_address, environment.main_port),
            rank,
            num_ranks,
            limit_s=self._limit_s,
            reporter=self._reporter,
        )
        dist.init_process_group(
            "nccl" if is_gpu else "gloo",
            store=PrefixStore("group", self._store),
            rank=rank,
            world_size=num_ranks,
            device_id=self.root_device if is_gpu else None,
        )
        super().setup_environment()

    def answer_of_first(self, answer: Any) -> Any:
        """Return the `answer` that the first process gives, in all of them; the others wait for it,
        however long it takes.
        """
        assert self._store is not None
        key = f"answer-{next(self._answers)}"
        if self.global_rank == 0:
            self._store.set(key, pickle.dumps(answer))  # type: ignore[arg-type]
            return answer
        while not self._store.check([key]):
            time.sleep(_LOOK_EVERY_S)
        return pickle.loads(self._store.get(key))


def join_processes(
    place: tuple[str, int],
    rank: int,
    num_ranks: int,
    *,
    limit_s: float,
    reporter: Reporter,
) -> Store:
    """Return a store that all processes of a run share, when all of them are there.

    Args:
        place: Address and port of the store.
        rank: Which process this is; the first, 0, serves the store, except under torchrun.
        num_ranks: How many there are.
        limit_s: How long to wait for the others, in seconds.
        reporter: Where the first process says that it waits.

    Raises:
        DeviceError: When not all came in time, two say the same number, or the port is taken.
        LostProcessError: When the first process ended meanwhile.
    """
    deadline = time.monotonic() + limit_s
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    if place not in _STORES:
        serves = rank == 0 and not is_served
        _STORES[place] = _serve(place) if serves else _connect(place, rank, deadline, limit_s)
    prefix = f"run-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}-{next(_GROUPS)}"
    store = PrefixStore(prefix, _STORES[place])
    try:
        if store.add(f"process-{rank}", 1) > 1:
            raise DeviceError(
                f"two processes of this run say that they are process {rank}",
                seen=f"at {place[0]}:{place[1]}",
                expected=f"numbers from 0 to {num_ranks - 1}, each once",
                hint="set RANK, LOCAL_RANK and NODE_RANK as the processes are, or use torchrun",
            )
        store.add("came", 1)
        _wait_for_all(store, rank, num_ranks, deadline, limit_s, reporter)
    except dist.DistError as error:
        raise LostProcessError(
            "process 0 of this run has ended before all processes were there",
            seen=str(error).splitlines()[0][:200],
            hint="see what it said; then start all of them again",
        ) from error
    return store


def _wait_for_all(
    store: Store,
    rank: int,
    num_ranks: int,
    deadline: float,
    limit_s: float,
    reporter: Reporter,
) -> None:
    say_at = time.monotonic() + _SAY_AFTER_S
    while (num_came := store.add("came", 0)) < num_ranks:
        if time.monotonic() >= deadline:
            raise _missing(store, num_came, num_ranks, limit_s)
        if rank == 0 and time.monotonic() >= say_at:
            say_at = deadline
            left = max(0.0, deadline - time.monotonic())
            reporter.note(
                f"waiting for the other processes of this run: {num_came} of {num_ranks} are"
                f" there; {left:,.0f} s left"
            )
        time.sleep(_LOOK_EVERY_S)


def _missing(store: Store, num_came: int, num_ranks: int, limit_s: float) -> DeviceError:
    missing = [rank for rank in range(num_ranks) if not store.check([f"process-{rank}"])]
    named = ", ".join(map(str, missing[:_NUM_NAMED]))
    more = f" and {len(missing) - _NUM_NAMED} more" if len(missing) > _NUM_NAMED else ""
    return DeviceError(
        f"only {num_came} of the {num_ranks} processes of this run came within {limit_s:,.0f} s",
        seen=f"not there: {'process' if len(missing) == 1 else 'processes'} {named}{more}",
        hint=(
            "see whether they ended with an error; started by hand, all need the same MASTER_ADDR"
            " and MASTER_PORT, and SLURM starts all of them with srun only;"
            " --set start_timeout_s=NUMBER waits longer"
        ),
    )


def _serve(place: tuple[str, int]) -> TCPStore:
    address, port = place
    try:
        return TCPStore(address, port, is_master=True, wait_for_workers=False)
    except RuntimeError as error:
        raise DeviceError(
            "the first process of this run cannot open its port for the others",
            seen=f"{address}:{port}: {str(error).splitlines()[0][:200]}",
            hint="set MASTER_PORT to a free one and MASTER_ADDR to this machine, for all processes",
        ) from error


def _connect(place: tuple[str, int], rank: int, deadline: float, limit_s: float) -> TCPStore:
    address, port = place
    while True:
        try:
            # torch writes pages where nobody listens yet, so look before.
            socket.create_connection(place, timeout=_TRY_S).close()
            store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=_TRY_S * 5))
            store.set_timeout(timedelta(seconds=_KEY_S))
            return store
        except (OSError, RuntimeError) as error:
            if time.monotonic() >= deadline:
                raise DeviceError(
                    f"process {rank} of this run did not reach process 0 within {limit_s:,.0f} s",
                    seen=f"{address}:{port}: {str(error).splitlines()[0][:200]}",
                    hint=(
                        "start process 0, and see that MASTER_ADDR and MASTER_PORT are its own in"
                        " all processes; --set start_timeout_s=NUMBER waits longer"
                    ),
                ) from error
        time.sleep(_LOOK_EVERY_S)
