"""Small tasks whose items can end their process; in a module that worker processes can import."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from histoprep.execution import Marker
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import TableOptions, TileTable
from histoprep.tiles.task import TileTask

LEFT_OUT = "left out"


def do(item: str) -> str:
    """Return the item, or do what its first word says.

    `once FILE` ends the process unless FILE is there, as a system short of memory would; `A then B`
    does both.
    """
    first, then, second = item.partition(" then ")
    if then:
        do(first)
        do(second)
        return item
    what, _, rest = item.partition(" ")
    if what == "exit":
        os._exit(3)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "crash":
        ctypes.string_at(0)
    if what == "spin":
        # Backtracks for years, in C, and lets no other thread run.
        re.match(r"(a+)+$", "a" * 60 + "b")
    if what == "stall":
        ctypes.PyDLL(None).sleep(600)
    if what == "once" and not Path(rest).exists():
        Path(rest).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        time.sleep(float(rest))
    if what == "raise":
        raise ValueError(item)
    return item


@dataclass(frozen=True)
class ItemsTask:
    """Does its items in order and returns them, with `LEFT_OUT` for those that were left out."""

    items: tuple[str, ...]
    marker: Path
    time_limit_s: float = 60.0
    left_out: tuple[int, ...] = ()

    def run(self) -> tuple[str, ...]:
        with contextlib.closing(Marker(self.marker, self.time_limit_s)) as marker:
            done = []
            for index, item in enumerate(self.items):
                marker.at(index)
                done.append(LEFT_OUT if index in self.left_out else do(item))
            return tuple(done)

    def num_done(self, index: int | None) -> int:
        return len(self.items) if index is None else index

    def without(self, index: int, reason: str) -> ItemsTask:
        assert reason
        return replace(self, left_out=(*self.left_out, index))


@dataclass(frozen=True)
class PidTask:
    """Tells which process it runs in, now and as long as asked for."""

    marker: Path
    seconds: float = 0.0

    def run(self) -> int:
        time.sleep(self.seconds)
        return os.getpid()

    def num_done(self, index: int | None) -> int:
        return 1 if index is None else 0

    def without(self, index: int, reason: str) -> PidTask:
        raise AssertionError(f"blamed item {index}: {reason}")


@dataclass(frozen=True)
class FatalTask:
    """Ends its process before any item, or after the last one."""

    marker: Path
    after: bool

    def run(self) -> None:
        if self.after:
            Marker(self.marker, 60).close()
        os._exit(9)

    def num_done(self, index: int | None) -> int:
        return 1 if index is None else 0

    def without(self, index: int, reason: str) -> FatalTask:
        raise AssertionError(f"blamed item {index}: {reason}")


@dataclass(frozen=True, slots=True)
class FragileTask(TileTask):
    """A partition in which some files end the decoder: tile ids by their ends (of masks after
    `mask:`), and what happens there.
    """

    killers: Mapping[str, str] | None = None

    def _measure(self, positions: list[int], marker: Marker) -> Iterator[dict[str, Any]]:
        rows = TileTask._measure(self, positions, marker)
        refused = {item for item, _ in self.left_out}
        for index in positions:
            for end, how in (self.killers or {}).items():
                item = 2 * index + end.startswith("mask:")
                if (
                    self.listed[index].pair.tile_id.endswith(end.removeprefix("mask:"))
                    and item not in refused
                ):
                    marker.at(item)
                    do(how)
            yield next(rows)


class FragileTable(TileTable):
    """A table some of whose files end their worker."""

    def __init__(
        self, workspace: Workspace, options: TableOptions | None, killers: Mapping[str, str]
    ) -> None:
        super().__init__(workspace, options)
        self.killers = killers

    def _tasks(self, *arguments: Any) -> Iterator[TileTask]:
        for task in super()._tasks(*arguments):
            yield FragileTask(
                **{item.name: getattr(task, item.name) for item in fields(TileTask)},
                killers=self.killers,
            )


def describe_process() -> list[str]:
    """Return the command of this process, what it does at SIGTERM and the files it has open."""
    here = Path("/proc/self")
    command = (here / "cmdline").read_bytes().replace(b"\0", b" ").replace(b"\n", b" ").decode()
    files = [os.path.realpath(link) for link in (here / "fd").iterdir()]
    return [command, str(int(signal.getsignal(signal.SIGTERM))), *files]
