"""Files are whole or not there: on a full disk, in a read-only folder, with two writers, after a
kill.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from histoprep import durable
from histoprep.errors import LockedError, OutputError

REPOSITORY = Path(__file__).parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(
    code: str, *arguments: object, prefix: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [*(prefix or []), sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_written_files_are_what_was_written(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "new" / "deep" / "a", b"one")
    durable.write_text(tmp_path / "b", "ü\udcff")
    durable.write_json(tmp_path / "c.json", {"b": 1, "a": "ü"})
    assert (tmp_path / "new" / "deep" / "a").read_bytes() == b"one"
    assert (tmp_path / "b").read_bytes() == "ü".encode() + b"\xff"
    assert (tmp_path / "c.json").read_text() == '{\n  "a": "ü",\n  "b": 1\n}\n'
    assert names(tmp_path) == ["b", "c.json", "new"]


def dirty_pages(descriptor: int) -> int:
    """Return how many pages of a file wait in memory and are not yet on their way to the device
    (cachestat, Linux 6.5).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    whole, found = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    if libc.syscall(ctypes.c_long(451), descriptor, whole, found, 0) != 0:
        pytest.skip(f"cachestat: {os.strerror(ctypes.get_errno())}")
    return found[1]


def test_writing_back_begins_before_syncing(tmp_path: Path) -> None:
    with (tmp_path / "a").open("xb", buffering=0) as stream:
        stream.write(os.urandom(8 << 20))
        if not dirty_pages(stream.fileno()):
            pytest.skip("this file system has no device")
        durable.begin_writing_back(stream.fileno(), 0, 4 << 20)
        assert 0 < dirty_pages(stream.fileno()) <= (4 << 20) // mmap.PAGESIZE
        durable.begin_writing_back(stream.fileno(), 4 << 20, 4 << 20)
        assert dirty_pages(stream.fileno()) == 0
    # Of no file: a hint has nothing to tell.
    durable.begin_writing_back(-1, 0, 1)


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        durable.write_bytes(tmp_path / "a", b"")
        durable.publish_in_batch(tmp_path / "b", b"")
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in "ab"} == {0o640}


def test_readers_see_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    durable.write_bytes(path, b"0" * 100_000)
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            data = path.read_bytes()
            seen.add(bytes(set(data)) + bytes([len(data) == 100_000]))

    reader = threading.Thread(target=look)
    reader.start()
    for digit in b"123456789":
        durable.write_bytes(path, bytes([digit]) * 100_000)
    done.set()
    reader.join()
    assert all(len(observation) == 2 and observation[1] for observation in seen)


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    durable.write_bytes(path, b"old")

    def fail(stream: IO[bytes]) -> None:
        stream.write(b"half")
        raise OSError("unexpected pos")

    with pytest.raises(OutputError, match="unexpected pos") as caught:
        durable.write_file(path, fail)
    assert caught.value.path == str(path)

    def bug(_: IO[bytes]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        durable.write_file(path, bug)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_a_full_disk_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "a"
    durable.write_bytes(path, b"old")
    with pytest.raises(OutputError, match="No space left on device") as caught:
        durable.write_bytes(path, bytes(100_000))
    assert caught.value.path == str(path) and caught.value.hint
    with pytest.raises(OSError, match="No space left") as raw:
        durable.publish_in_batch(path, bytes(100_000))
    assert raw.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old" and names(small_disk) == ["a"]


def test_a_full_disk_can_still_be_locked(small_disk: Path) -> None:
    (small_disk / ".lock").touch()
    with contextlib.suppress(OSError):
        (small_disk / "filler").write_bytes(bytes(65536))
    with durable.locked(small_disk):
        pass


def test_a_file_over_the_size_limit_leaves_the_old_one(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "a", b"old")
    code = """
import resource, sys
from pathlib import Path
from histoprep import durable
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
durable.write_bytes(Path(sys.argv[1]), bytes(100_000))
"""
    done = run(code, tmp_path / "a")
    assert "OutputError" in done.stderr and "File too large" in done.stderr
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become nobody")
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    durable.write_bytes(tmp_path / "a", b"old")
    code = """
import os, sys
from pathlib import Path
from histoprep import durable
from histoprep.errors import OutputError
folder = Path(sys.argv[1])
os.setgid(65534); os.setuid(65534)
def hold():
    with durable.locked(folder):
        pass
def write():
    durable.write_bytes(folder / "a", b"new")
def write_below():
    durable.write_bytes(folder / "b/c", b"new")
for act in (write, write_below, hold):
    try:
        act()
    except OutputError as error:
        print(error.what)
"""
    done = run(code, tmp_path)
    assert done.stdout.splitlines() == ["cannot write: Permission denied"] * 3, done.stderr
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_a_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="directory"):
        durable.write_bytes(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"]


def test_batches(tmp_path: Path) -> None:
    for index in range(50):
        durable.publish_in_batch(tmp_path / f"{index}.png", bytes([index]) * 70_000)
    durable.sync_file_system(tmp_path)
    assert all(
        (tmp_path / f"{index}.png").read_bytes() == bytes([index]) * 70_000 for index in range(50)
    )
    durable.publish_in_batch(tmp_path / "0.png", b"")
    assert (tmp_path / "0.png").read_bytes() == b"" and len(names(tmp_path)) == 50
    with pytest.raises(FileNotFoundError):
        durable.publish_in_batch(tmp_path / "no" / "a", b"")
    with pytest.raises(FileNotFoundError):
        durable.sync_file_system(tmp_path / "no")


def test_a_write_that_is_synced_is_synced(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    tracer = ["strace", "-f", "-e", "trace=openat,fsync,rename,close,syncfs", "-o", str(trace)]
    if subprocess.run(
        ["sh", "-c", "command -v strace"], capture_output=True, check=False
    ).returncode:
        pytest.skip("strace is not installed")
    code = """
import sys
from pathlib import Path
from histoprep import durable
durable.write_bytes(Path(sys.argv[1]), b"x")
durable.sync_file_system(Path(sys.argv[1]).parent)
"""
    done = run(code, tmp_path / "a", prefix=tracer)
    assert done.returncode == 0, done.stderr
    lines = trace.read_text().splitlines()
    calls = [
        line.split()[1].partition("(")[0]
        for line in lines[next(i for i, line in enumerate(lines) if ".hp-" in line) :]
    ]
    order = [call for call in calls if call in ("fsync", "rename", "syncfs")]
    assert order == ["fsync", "rename", "fsync", "syncfs"]


def test_temporaries_are_known_and_removed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        durable.temporary_beside(folder / "a").touch()
        (folder / "keep.tmp").touch()
        (folder / ".hp-keep").touch()
    assert durable.remove_temporaries(tmp_path) == 2
    assert names(tmp_path) == [".hp-keep", "keep.tmp", "sub"] and names(tmp_path / "sub") == [
        ".hp-keep",
        "keep.tmp",
    ]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    durable.write_bytes(path, b"old")
    code = """
import sys, time
from pathlib import Path
from histoprep import durable
def slow(stream):
    stream.write(b"half"); stream.flush(); print("writing", flush=True); time.sleep(60)
durable.write_file(Path(sys.argv[1]), slow)
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert writer.stdout and writer.stdout.readline() == b"writing\n"
    writer.kill()
    writer.wait()
    assert path.read_bytes() == b"old"
    assert durable.remove_temporaries(tmp_path) == 1


# --- the lock --------------------------------------------------------------------------------

_HOLD = """
import sys, time
from pathlib import Path
from histoprep import durable
with durable.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    try:
        assert process.stdout and process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_process_is_told_at_once_who_holds_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    with holder(folder) as process:
        start = time.monotonic()
        with pytest.raises(LockedError) as caught, durable.locked(folder):
            pytest.fail("two writers")
        assert time.monotonic() - start < 1
        assert str(caught.value.seen).startswith(f"process {process.pid} on ")
        assert caught.value.exit_code == 5


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_ends_with_its_process(tmp_path: Path, end: signal.Signals) -> None:
    with holder(tmp_path) as process:
        process.send_signal(end)
        process.wait()
        with durable.locked(tmp_path):
            assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_lock_ends_with_its_block(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError), durable.locked(tmp_path):
        raise RuntimeError
    with holder(tmp_path):
        pass


def test_only_the_latest_holder_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 123456789 on a host with a long name\n" * 3)
    with durable.locked(tmp_path):
        assert (
            tmp_path / ".lock"
        ).read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"


def test_taking_the_lock_sweeps_what_a_killed_process_left(tmp_path: Path) -> None:
    durable.temporary_beside(tmp_path / "a").touch()
    (tmp_path / "keep.tmp").touch()
    with durable.locked(tmp_path):
        assert names(tmp_path) == [".lock", "keep.tmp"]


def test_a_folder_held_under_one_name_is_held_under_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with durable.locked(Path("results")), durable.locked(tmp_path / "results"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    device = tmp_path / "null"
    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with pytest.raises(OutputError, match="device or pipe"):
        durable.write_text(device, "report")
    assert stat.S_ISCHR(device.stat().st_mode) and os.listdir(tmp_path) == ["null"]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="device or pipe"):
        durable.write_text(pipe, "report")
    assert pipe.is_fifo()


def test_links_that_stand_for_open_files_are_not_replaced() -> None:
    # /dev/stdout, if a regular file is what it leads to.
    with pytest.raises(OutputError, match="device or pipe"):
        durable.write_text(Path("/dev/../dev/null"), "report")
