"""The same table from a dask cluster: a real scheduler and worker processes on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.tasks import LEFT_OUT, ItemsTask

from histoprep.cli import main
from histoprep.demo import make_demo
from histoprep.errors import UsageError
from histoprep.execution import Engine, WorkerError, run_tasks
from histoprep.progress import Advance, silent
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import TableOptions, TileTable

pytest.importorskip("distributed")
TESTS = Path(__file__).parent


class Cluster:
    """A scheduler and its workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[subprocess.Popen[bytes]] = []
        note = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(note),
        )
        until = time.monotonic() + 60
        while not note.exists() or not note.read_text().strip():
            assert time.monotonic() < until, "the scheduler did not start"
            time.sleep(0.1)
        self.address = json.loads(note.read_text())["address"]

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
        with (self.folder / f"{arguments[0]}-{len(self.workers)}.log").open("wb") as log:
            command = [sys.executable, "-m", "dask", *arguments]
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )

    def add_worker(self, *options: str) -> subprocess.Popen[bytes]:
        self.workers.append(
            self._start(
                "worker",
                self.address,
                "--nthreads",
                "1",
                "--memory-limit",
                "0",
                "--no-dashboard",
                *options,
            )
        )
        return self.workers[-1]

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            # The process and what it started, such as the worker of a nanny.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


@contextmanager
def cluster(folder: Path, *options: str) -> Iterator[Cluster]:
    started = Cluster(folder)
    try:
        for _ in range(2):
            started.add_worker(*options)
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "demo"
    make_demo(root, num_tiles=48, tile_px=64)
    return root


@pytest.mark.slow
def test_a_cluster_makes_the_same_table_although_a_worker_is_killed(
    demo: Path, tmp_path: Path
) -> None:
    local = Workspace.of(demo, tmp_path / "local")
    TileTable(local).build(Engine(1))
    with cluster(tmp_path, "--no-nanny") as found:
        where, calls = Workspace.of(demo, tmp_path / "remote"), []

        def kill_one(done: int, total: int) -> None:
            calls.append((done, total))
            if len(calls) == 5:
                found.workers[0].kill()

        def phases(label: str, unit: str) -> Advance:
            return kill_one if label == "reading" else silent

        TileTable(where, TableOptions(partition_tiles=2)).build(Engine(1, found.address), phases)
        assert found.workers[0].wait(10) == -signal.SIGKILL
        assert found.workers[1].poll() is None
    assert where.tiles.read_bytes() == local.tiles.read_bytes()
    assert where.listing_issues.read_bytes() == local.listing_issues.read_bytes()
    assert calls == sorted(calls) and calls[-1][0] == calls[-1][1]


@pytest.mark.slow
def test_a_file_that_kills_every_worker_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    with cluster(tmp_path, "--nanny") as found:
        partitions = [("a", "b"), ("c", "kill", "d"), *[(f"{number}",) for number in range(8)]]
        tasks = [
            ItemsTask(items, tmp_path / f"{number}.at") for number, items in enumerate(partitions)
        ]
        done = list(run_tasks(tasks, Engine(1, found.address)))
    assert done == [
        tuple(LEFT_OUT if item == "kill" else item for item in items) for items in partitions
    ]


@pytest.mark.slow
def test_the_command_line_takes_a_scheduler(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cluster(tmp_path, "--no-nanny") as found, pytest.raises(SystemExit) as left:
        main(
            [
                "audit",
                str(demo),
                "--workspace",
                str(tmp_path / "workspace"),
                "--engine",
                "dask",
                "--scheduler",
                found.address,
            ]
        )
    assert left.value.code == 1, capsys.readouterr().err
    assert (tmp_path / "workspace" / "tiles.parquet").exists()


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_an_error_and_no_wait(tmp_path: Path) -> None:
    with cluster(tmp_path, "--no-nanny") as found:
        tasks = [ItemsTask(("sleep 0.5",), tmp_path / f"{number}.at") for number in range(40)]
        run = run_tasks(tasks, Engine(1, found.address))
        next(run)
        threading.Timer(0.2, found.scheduler.kill).start()
        started = time.monotonic()
        with pytest.raises(WorkerError, match="the dask scheduler lost the work"):
            list(run)
        assert time.monotonic() - started < 60


@pytest.mark.slow
def test_no_scheduler_is_said_plainly(tmp_path: Path) -> None:
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        with pytest.raises(UsageError, match="no dask scheduler answers"):
            list(run_tasks([ItemsTask(("a",), tmp_path / "0.at")], Engine(1, address)))
