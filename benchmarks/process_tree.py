"""What a command and all processes that come of it take: CPU time and memory, however they are
started and whoever their parent is in the end.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command took.

    Attributes:
        cpu_s: User and system time of all its processes, those of a fork server included.
        wall_s: Time until it ended.
        memory_mb: The largest sum of what its processes held at one moment, MB of 2^20 bytes:
            proportional set sizes, in which a page that n processes share counts 1 / n in each.
            0 where it was not asked for.
        num_processes: The largest number of them at one moment; 0 likewise.
    """

    cpu_s: float
    wall_s: float
    memory_mb: float = 0.0
    num_processes: int = 0


def run(
    command: Sequence[str], *, with_memory: bool = False, expected: Sequence[int] = (0, 1)
) -> Usage:
    """Run a command and return what it took; its output is dropped. Python finds its modules
    compiled, as pip leaves them, once it has run before.

    Looking at memory takes time of its own, from another core; without it CPU time is exact.

    Raises:
        RuntimeError: It left with a status that was not expected.
    """
    # Processes that outlive their parent become ours, so that their time is counted.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    )
    memory = most = 0
    while with_memory and process.poll() is None:
        sizes = [_proportional_kb(pid) for pid in session(process.pid)]
        memory, most = max(memory, sum(sizes)), max(most, len(sizes))
        time.sleep(_EVERY_S)
    status = process.wait()
    wall = time.perf_counter() - started
    if status not in expected:
        raise RuntimeError(f"{' '.join(command)} left with {status}")
    while _reap():
        pass
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Usage(cpu, wall, memory / 1024, most)


@cache
def _environment() -> dict[str, str]:
    """Return this environment, with a folder of its own for compiled modules."""
    folder = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": folder}


def _reap() -> bool:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        return False
    return True


def session(leader: int) -> list[int]:
    """Return the processes of a session, by the id of its leader."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader:
                found.append(int(entry.name))
    return found


def _proportional_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
