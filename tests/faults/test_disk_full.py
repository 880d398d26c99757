"""The system refuses to write: exit 4 with path and reason, nothing half-written to be seen, and
the work ends when there is room.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.running import (
    COMMANDS,
    Command,
    Outcome,
    Stage,
    Undisturbed,
    Undisturbeds,
    Zygote,
    every_file,
    fail_at,
    results,
    temporaries,
    unreadable,
)
from histoprep.errors import ExitCode

REASONS = {
    "ENOSPC": "No space left on device",
    "EIO": "Input/output error",
    "EROFS": "Read-only file system",
    "EACCES": "Permission denied",
    "EDQUOT": "Disk quota exceeded",
}
# Calls that only writing makes; from the k-th on they fail, as on a disk that stays full.
POINTS = [
    ("fsync", 1, "EIO"),
    ("fsync", 4, "ENOSPC"),
    ("rename", 1, "EROFS"),
    ("rename", 2, "EACCES"),
]
# These are also made for reading and for the terminal, so not each is an error of output.
MIXED = [
    ("openat", 9, "EROFS"),
    ("openat", 20, "ENOSPC"),
    ("write", 2, "ENOSPC"),
    ("write", 8, "EIO"),
]
MORE = [
    (call, number, error)
    for call in ("openat", "write", "mkdir")
    for number in range(1, 60, 6)
    for error in ("ENOSPC", "EACCES")
]
IN_WORKERS = [("fsync", "1+", "ENOSPC"), ("rename", "1+", "EDQUOT"), ("openat", 20, "EIO")]
MORE_IN_WORKERS = [("openat", number, "EIO") for number in (1, 2, 5, 10, 30, 40, 60, 90, 120)]


def check_refused(refused: Outcome, stage: Stage, error: str) -> None:
    """The exit code says what kind of error it was, the message where and why."""
    assert refused.code == ExitCode.OUTPUT, refused.stderr
    assert REASONS[error] in refused.stderr and f"at: {stage.workspace}" in refused.stderr
    assert "Traceback" not in refused.stderr


def check_after(zygote: Zygote, stage: Stage, command: Command, first: Undisturbed) -> None:
    """Nothing half-written is there, and the same command now ends the work."""
    assert not unreadable(stage.workspace)
    again = zygote.run(command.full(stage))
    assert again.code == first.code, again.stderr
    assert results(stage.workspace) == first.results
    assert not temporaries(stage.workspace)
    assert every_file(stage.data) == stage.data_before


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("point", POINTS, ids=str)
@pytest.mark.parametrize("name", ["audit", "remap", "stats", "manifest"])
def test_a_refusal_to_write_is_exit_4_and_leaves_nothing_half_done(
    name: str, point: tuple[str, int, str], zygote: Zygote, undisturbed: Undisturbeds, stage: Stage
) -> None:
    call, number, error = point
    first = undisturbed.set(stage, COMMANDS[name])
    refused = zygote.run(COMMANDS[name].full(stage), beside=fail_at(call, f"{number}+", error))
    check_refused(refused, stage, error)
    check_after(zygote, stage, COMMANDS[name], first)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    "point", [*MIXED, *[pytest.param(item, marks=pytest.mark.faults) for item in MORE]], ids=str
)
@pytest.mark.parametrize(
    "name", ["audit", "remap", pytest.param("stats", marks=pytest.mark.faults), "manifest"]
)
def test_any_call_may_fail(
    name: str, point: tuple[str, int, str], zygote: Zygote, undisturbed: Undisturbeds, stage: Stage
) -> None:
    call, number, error = point
    first = undisturbed.set(stage, COMMANDS[name])
    refused = zygote.run(COMMANDS[name].full(stage), beside=fail_at(call, number, error))
    assert refused.code in (first.code, *ExitCode) and refused.code != ExitCode.INTERNAL, (
        refused.stderr
    )
    if refused.code == ExitCode.OUTPUT:
        assert REASONS[error] in refused.stderr
    check_after(zygote, stage, COMMANDS[name], first)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    "point",
    [
        *IN_WORKERS,
        *[
            pytest.param(more_in_worker, marks=pytest.mark.faults)
            for more_in_worker in MORE_IN_WORKERS
        ],
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["audit", "remap"])
def test_workers_that_the_system_refuses(
    name: str,
    point: tuple[str, int | str, str],
    zygote: Zygote,
    undisturbed: Undisturbeds,
    stage: Stage,
) -> None:
    call, number, error = point
    first = undisturbed.set(stage, COMMANDS[name])
    refused = zygote.run(
        COMMANDS[name].full(stage), beside=["-f", *fail_at(call, number, error)], pid_of="workers"
    )
    if call == "openat":
        # A file that cannot be read is a finding; one of Python's own ends the worker.
        assert refused.code in (first.code, ExitCode.INCOMPLETE, ExitCode.OUTPUT), refused.stderr
    else:
        check_refused(refused, stage, error)
    check_after(zygote, stage, COMMANDS[name], first)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system of `size` at `folder`, or skip."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"may not mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(
    zygote: Zygote, undisturbed: Undisturbeds, stage: Stage, tmp_path: Path
) -> None:
    command, num_full = COMMANDS["audit"], 0
    first = undisturbed.of(command)
    for size_kb in (8, 16, 32, 64, 128, 192, 256, 384, 512, 768):
        disk = tmp_path / f"disk{size_kb}"
        stage.workspace = disk / "workspace"
        with small_disk(disk, f"{size_kb}k"):
            refused = zygote.run(command.full(stage))
            if refused.code != first.code:
                num_full += 1
                check_refused(refused, stage, "ENOSPC")
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            check_after(zygote, stage, command, first)
    print(f"{num_full} of 10 disks were too small")
    assert num_full >= 4, "the disks were not small enough to prove anything"


def test_a_writer_that_ignores_errors_is_seen_control(tmp_path: Path) -> None:
    """As one that writes under the final name would: half a file for everybody to see."""
    disk = tmp_path / "disk"
    with small_disk(disk, "8k"):
        with contextlib.suppress(OSError):
            (disk / "tiles.parquet").write_bytes(b"PAR1" + bytes(100_000))
        assert unreadable(disk)
