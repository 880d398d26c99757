"""Reading many files ahead: order, memory, verdicts, and hidden latency."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from histoprep import read_ahead as module
from histoprep.errors import BrokenFileError
from histoprep.read_ahead import FileStat, Request, read_ahead, read_file, stat_file

LIMIT = 1 << 30


def request(path: Path) -> Request:
    found = stat_file(str(path))
    assert found
    return Request(str(path), found)


def make(folder: Path, sizes: list[int]) -> list[Request]:
    for index, size in enumerate(sizes):
        (folder / f"{index:05}").write_bytes(bytes([index % 251]) * size)
    return [request(folder / f"{index:05}") for index in range(len(sizes))]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let threads read from the first file on."""
    monkeypatch.setattr(module, "_PATIENCE_S", -1.0)


def thread_names(
    monkeypatch: pytest.MonkeyPatch, slow: int = -1, pause: Callable[[], object] = lambda: None
) -> list[str]:
    """Return a list that fills with the threads that read, file after file; there is a pause before
    file number `slow`.
    """
    names: list[str] = []

    def noted(item: Request, max_bytes: int) -> bytes | BrokenFileError:
        if len(names) == slow:
            pause()
        names.append(threading.current_thread().name)
        return read_file(item, max_bytes)

    monkeypatch.setattr(module, "read_file", noted)
    return names


def be_busy() -> None:
    end = time.perf_counter() + 0.02
    while time.perf_counter() < end:
        pass


def test_quick_files_are_read_by_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = thread_names(monkeypatch)
    assert len(list(read_ahead(make(tmp_path, [100] * 300), LIMIT))) == 300
    assert set(names) == {threading.current_thread().name}


def test_threads_read_from_the_first_slow_file_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = thread_names(monkeypatch, 20, lambda: time.sleep(0.004))
    requests = make(tmp_path, [index % 90 for index in range(300)])
    assert [len(data) for data in read_ahead(requests, LIMIT) if isinstance(data, bytes)] == [
        index % 90 for index in range(300)
    ]
    here = threading.current_thread().name
    assert names[:21] == [here] * 21 and here not in names[21:] and len(names) == 300


def test_a_busy_processor_is_no_slow_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = thread_names(monkeypatch, 20, be_busy)
    list(read_ahead(make(tmp_path, [100] * 100), LIMIT))
    assert set(names) == {threading.current_thread().name}


@pytest.mark.parametrize("patience_s", [-1.0, 1e9])
@pytest.mark.parametrize(
    "sizes", [[], [0], [1], [5] * 7, [100] * 8, [3] * 1000, [0, 1 << 20, 7] * 40]
)
def test_bytes_come_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], patience_s: float
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", patience_s)
    contents = list(read_ahead(make(tmp_path, sizes), LIMIT))
    assert contents == [bytes([index % 251]) * size for index, size in enumerate(sizes)]


def test_latency_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = make(tmp_path, [100] * 512)

    def slow(item: Request, max_bytes: int) -> bytes | BrokenFileError:
        time.sleep(0.004)
        return read_file(item, max_bytes)

    monkeypatch.setattr(module, "read_file", slow)
    start = time.monotonic()
    assert len(list(read_ahead(requests, LIMIT))) == 512
    assert time.monotonic() - start < 512 * 0.004 / 8


def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the bytes that were read and not yet given back to the caller's loop."""
    counts = {"now": 0, "most": 0}
    lock = threading.Lock()
    original = read_file

    def counted(item: Request, max_bytes: int) -> bytes | BrokenFileError:
        data = original(item, max_bytes)
        with lock:
            counts["now"] += len(data) if isinstance(data, bytes) else 0
            counts["most"] = max(counts["most"], counts["now"])
        return data

    monkeypatch.setattr(module, "read_file", counted)
    return counts


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("size", [1000, 100_000, 1_500_000])
def test_bytes_that_wait_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    budget = 2_000_000
    monkeypatch.setattr(module, "BUDGET_BYTES", budget)
    counts = watched(monkeypatch)
    total = 0
    for data in read_ahead(make(tmp_path, [size] * min(400, 60_000_000 // size)), LIMIT):
        time.sleep(0.0005)
        counts["now"] -= len(data)  # type: ignore[arg-type]
        total += 1
    assert total == min(400, 60_000_000 // size)
    assert counts["most"] <= budget + 2 * size + budget // 8


@pytest.mark.usefixtures("impatient")
def test_a_caller_who_stops_is_not_kept_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = make(tmp_path, [10] * 2000)
    read: list[str] = []

    def slow(item: Request, max_bytes: int) -> bytes | BrokenFileError:
        if item not in requests[:8]:
            time.sleep(0.05)
        read.append(item.path)
        return read_file(item, max_bytes)

    monkeypatch.setattr(module, "read_file", slow)
    contents = read_ahead(requests, LIMIT)
    next(contents)
    contents.close()  # type: ignore[attr-defined]
    # What sixteen threads had begun, eight files each, is finished; what waited is dropped.
    assert len(read) <= 8 * (1 + 16 + 1)


def verdict(item: bytes | BrokenFileError) -> str:
    assert isinstance(item, BrokenFileError)
    assert item.detail
    return item.verdict


@pytest.mark.parametrize("patience_s", [-1.0, 1e9])
def test_files_that_cannot_be_read_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", patience_s)
    requests = make(tmp_path, [10] * 6)
    os.unlink(requests[0].path)
    os.unlink(requests[1].path)
    os.mkfifo(requests[1].path)
    os.unlink(requests[2].path)
    os.mkdir(requests[2].path)
    Path(requests[3].path).write_bytes(b"longer than before")
    os.utime(requests[4].path, ns=(1, 1))
    contents = list(read_ahead(requests, LIMIT))
    assert [verdict(content) for content in contents[:5]] == [
        "HP201 vanished",
        "HP201 not-a-file",
        "HP201 not-a-file",
        "HP206 changed",
        "HP206 changed",
    ]
    assert contents[5] == b"\5" * 10


def test_a_socket_or_a_name_too_long(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)
        try:
            server.bind("s.png")
        finally:
            os.chdir(here)
        assert (
            verdict(read_file(Request(str(tmp_path / "s.png"), FileStat(0, 0)), LIMIT))
            == "HP201 cannot-open"
        )
    assert (
        verdict(read_file(Request(str(tmp_path / ("x" * 300)), FileStat(0, 0)), LIMIT))
        == "HP201 cannot-open"
    )


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    assert verdict(read_file(request(path), LIMIT)) == "HP205 huge-file"
    assert [verdict(item) for item in read_ahead([request(path)] * 20, LIMIT)] == [
        "HP205 huge-file"
    ] * 20


def test_a_file_that_grows_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = make(tmp_path, [1000])[0]
    original = os.read

    def grow(descriptor: int, size: int) -> bytes:
        data = original(descriptor, size)
        with Path(item.path).open("ab") as stream:
            stream.write(b"more")
        return data

    monkeypatch.setattr(os, "read", grow)
    assert verdict(read_file(item, LIMIT)) == "HP206 changed"


def test_short_reads_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = make(tmp_path, [1000])[0]
    original = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: original(descriptor, min(size, 37)))
    assert read_file(item, LIMIT) == bytes(1000)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become nobody")
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    item = make(tmp_path, [10])[0]
    Path(item.path).chmod(0o600)
    code = """
import os, sys
from histoprep.read_ahead import FileStat, Request, read_file
os.setgid(65534); os.setuid(65534)
print(read_file(Request(sys.argv[1], FileStat(10, 0)), 100).verdict)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, item.path],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert done.stdout.strip() == "HP201 permission", done.stderr


def test_stat_of_what_is_not_there(tmp_path: Path) -> None:
    assert stat_file(str(tmp_path / "nothing")) is None
    (tmp_path / "a").write_bytes(b"abc")
    os.utime(tmp_path / "a", ns=(5, 7))
    assert stat_file(str(tmp_path / "a")) == FileStat(3, 7)
