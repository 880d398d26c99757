"""The machine: can results be written, is there room, memory, how many processors."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from histoprep import durable
from histoprep.doctor.check import Check, CheckStatus
from histoprep.errors import HistoprepError

_SPACE_FAIL_BYTES, _SPACE_WARN_BYTES = 200_000_000, 5_000_000_000
_MEMORY_WARN_BYTES = 4_000_000_000
_OTHER_PLACE = "choose another place with --workspace"


def check_writing(workspace: Path) -> Iterator[Check]:
    """Yield whether a file can be written, made durable, renamed and locked where results would
    go.
    """
    place = existing(workspace)
    try:
        with tempfile.TemporaryDirectory(prefix=".hp-doctor-", dir=place) as made:
            folder = Path(made)
            durable.write_bytes(folder / "probe", b"histoprep")
            same = (folder / "PROBE").exists()
            right = (folder / "probe").read_bytes() == b"histoprep"
            with (folder / "lock").open("w") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, HistoprepError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else error.what
        yield Check("workspace", CheckStatus.FAIL, f"{place}: {reason}", _OTHER_PLACE)
        return
    if not right:
        yield Check(
            "workspace",
            CheckStatus.FAIL,
            f"{place}: a file that was written reads back differently",
            _OTHER_PLACE,
        )
    elif same:
        yield Check(
            "workspace",
            CheckStatus.WARN,
            f"{place}: upper and lower case are one here",
            "names that differ in case alone would collide",
        )
    else:
        yield Check("workspace", CheckStatus.OK, f"{place}: written, renamed, locked")


def check_space(workspace: Path) -> Iterator[Check]:
    """Yield the free space where results would go."""
    place = existing(workspace)
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:,.1f} GB free at {place}"
    if free < _SPACE_FAIL_BYTES:
        yield Check("free space", CheckStatus.FAIL, detail, f"free some, or {_OTHER_PLACE}")
    elif free < _SPACE_WARN_BYTES:
        yield Check(
            "free space",
            CheckStatus.WARN,
            detail,
            "shards and latents are about as large as the tiles; checkpoints take 1 to 5 GB at full"
            " size",
        )
    else:
        yield Check("free space", CheckStatus.OK, detail)


def check_memory() -> Iterator[Check]:
    """Yield the memory that is free now."""
    available = _available_bytes()
    if available is None:
        yield Check("memory", CheckStatus.WARN, "this system does not say how much is free", "")
    elif available < _MEMORY_WARN_BYTES:
        yield Check(
            "memory",
            CheckStatus.WARN,
            f"{available / 1e9:.1f} GB available",
            "use fewer --workers, and small presets for training",
        )
    else:
        yield Check("memory", CheckStatus.OK, f"{available / 1e9:.1f} GB available")


def check_processors() -> Iterator[Check]:
    """Yield how many processors we may use; that many worker processes start by default."""
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    yield Check("processors", CheckStatus.OK, f"{usable} usable of {os.cpu_count() or usable}")


def existing(path: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    absolute = path.absolute()
    return next((path for path in (absolute, *absolute.parents) if path.is_dir()), Path("/"))


def _available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        available = next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration, ValueError):
        return None
    limit = _control_group_limit()
    return available if limit is None else min(available, limit)


def _control_group_limit() -> int | None:
    # A container may have less than the machine.
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text("ascii"))
    except (OSError, ValueError):
        return None
