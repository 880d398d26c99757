"""The system refuses to write: exit 4 with path and reason, nothing half-written to be seen, and the work ends when there is room."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.running import Outcome, Stage, Zygote, every_file, fail_at, results, temporaries, unreadable
from faults.test_kills import COMMANDS, prepared
from histoprep.errors import ExitCode

REASONS = {
    "ENOSPC": "No space left on device",
    "EIO": "Input/output error",
    "EROFS": "Read-only file system",
    "EACCES": "Permission denied",
    "EDQUOT": "Disk quota exceeded",
}
# Calls that only writing makes; from the k-th on they fail, as on a disk that stays full.
POINTS = [("fsync", 1, "EIO"), ("fsync", 4, "ENOSPC"), ("rename", 1, "EROFS"), ("rename", 2, "EACCES"), ("ftruncate", 1, "EIO")]
# These are also made for reading and for the terminal, so not each is an error of output.
MIXED = [
    ("openat", 1, "EACCES"),
    ("openat", 9, "EROFS"),
    ("openat", 20, "ENOSPC"),
    ("write", 2, "ENOSPC"),
    ("write", 8, "EIO"),
    ("write", 14, "ENOSPC"),
]
MORE = [(call, number, error) for call in ("openat", "write", "mkdir") for number in range(1, 60, 3) for error in ("ENOSPC", "EACCES")]


def check_after(zygote: Zygote, stage: Stage, arguments: list[str], first: Outcome, expected: dict[str, object]) -> None:
    """Nothing half-written is there, and the same command now ends the work."""
    assert not unreadable(stage.workspace)
    again = zygote.run(arguments)
    assert again.code == first.code, again.stderr
    assert results(stage.workspace) == expected
    assert not temporaries(stage.workspace)
    assert every_file(stage.data) == stage.data_before


def undisturbed(zygote: Zygote, stage: Stage, name: str, saved: Path) -> tuple[list[str], Outcome, dict[str, object]]:
    prepared(zygote, stage, COMMANDS[name], saved)
    stage.reset()
    arguments = COMMANDS[name].full(stage)
    first = zygote.run(arguments)
    expected = results(stage.workspace)
    stage.reset()
    return arguments, first, expected


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("point", POINTS, ids=str)
@pytest.mark.parametrize("name", ["audit", "remap", "stats", "manifest"])
def test_a_refusal_to_write_is_exit_4_and_leaves_nothing_half_done(
    name: str, point: tuple[str, int, str], zygote: Zygote, stage: Stage, tmp_path: Path
) -> None:
    call, number, error = point
    arguments, first, expected = undisturbed(zygote, stage, name, tmp_path / "saved")
    refused = zygote.run(arguments, beside=fail_at(call, f"{number}+", error))
    if call == "ftruncate" and refused.code == first.code:
        pytest.skip("makes no such call")
    assert refused.code == ExitCode.OUTPUT, refused.stderr
    assert REASONS[error] in refused.stderr and f"at: {stage.workspace}" in refused.stderr
    assert "Traceback" not in refused.stderr
    check_after(zygote, stage, arguments, first, expected)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("point", [*MIXED, *[pytest.param(one, marks=pytest.mark.faults) for one in MORE]], ids=str)
@pytest.mark.parametrize("name", ["audit", "remap", "stats", "manifest"])
def test_any_call_may_fail(name: str, point: tuple[str, int, str], zygote: Zygote, stage: Stage, tmp_path: Path) -> None:
    call, number, error = point
    arguments, first, expected = undisturbed(zygote, stage, name, tmp_path / "saved")
    refused = zygote.run(arguments, beside=fail_at(call, number, error))
    assert refused.code in (first.code, *ExitCode) and refused.code != ExitCode.INTERNAL, refused.stderr
    if refused.code == ExitCode.OUTPUT:
        assert REASONS[error] in refused.stderr
    check_after(zygote, stage, arguments, first, expected)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("point", [("fsync", 1, "ENOSPC"), ("rename", 1, "EDQUOT"), ("ftruncate", 1, "ENOSPC"), ("openat", 1, "EIO")], ids=str)
@pytest.mark.parametrize("name", ["audit", "remap"])
def test_a_worker_that_may_not_write_is_exit_4(name: str, point: tuple[str, int, str], zygote: Zygote, stage: Stage, tmp_path: Path) -> None:
    call, number, error = point
    arguments, first, expected = undisturbed(zygote, stage, name, tmp_path / "saved")
    refused = zygote.run(arguments, beside=["-f", *fail_at(call, f"{number}+", error)], pid_of="workers")
    if call == "ftruncate" and refused.code == first.code:
        pytest.skip("makes no such call")
    assert refused.code == ExitCode.OUTPUT, refused.stderr
    assert REASONS[error] in refused.stderr and f"at: {stage.workspace}" in refused.stderr
    check_after(zygote, stage, arguments, first, expected)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system of `size` at `folder`, or skip."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_is_really_full(zygote: Zygote, stage: Stage, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    stage.workspace = disk / "workspace"
    arguments = COMMANDS["audit"].full(stage)
    with small_disk(disk, "64m"):
        first = zygote.run(arguments)
        expected = results(stage.workspace)
        used_kb = sum(one.stat().st_size for one in stage.workspace.rglob("*")) // 1024
    full = 0
    for share in range(0, 10):
        disk = tmp_path / f"disk{share}"
        stage.workspace = disk / "workspace"
        arguments = COMMANDS["audit"].full(stage)
        with small_disk(disk, f"{max(12, used_kb * share // 9 + 4 * share)}k"):
            refused = zygote.run(arguments)
            if refused.code != first.code:
                full += 1
                assert refused.code == ExitCode.OUTPUT, refused.stderr
                assert REASONS["ENOSPC"] in refused.stderr and f"at: {stage.workspace}" in refused.stderr
                assert not unreadable(stage.workspace)
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            again = zygote.run(arguments)
            assert again.code == first.code, again.stderr
            assert results(stage.workspace) == expected
            assert not temporaries(stage.workspace)
    assert full >= 5, "the disks were not small enough to prove anything"


def test_a_writer_that_ignores_errors_is_seen_control(stage: Stage, tmp_path: Path) -> None:
    """As `open(path, 'wb').write(...)` without close checked would: half a file under its final name."""
    disk = tmp_path / "disk"
    with small_disk(disk, "8k"):
        path = disk / "tiles.parquet"
        with contextlib.suppress(OSError):
            path.write_bytes(b"PAR1" + bytes(100_000))
        assert unreadable(disk)
