"""Runs of commands: through the zygote, with or without strace at their side, and what they
leave.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from histoprep.durable import is_temporary

TESTS = Path(__file__).parents[1]
CLI = "histoprep.cli:main"
# Calls that change what is on disk or ask for it.
CALLS = (
    "rename",
    "renameat",
    "renameat2",
    "write",
    "pwrite64",
    "fsync",
    "openat",
    "unlink",
    "unlinkat",
    "mkdir",
    "syncfs",
    "ftruncate",
)
# What clocks, places and restarts may change in a JSON file.
_CHANGING = ("created", "seconds", "num_reused", "inputs", "text", "workspace")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code, or minus the signal."""

    code: int
    stdout: str
    stderr: str
    seconds: float


@dataclass
class Run:
    """A command under way."""

    pid: int
    _zygote: Zygote
    _started: float

    def wait(self) -> Outcome:
        code = os.waitstatus_to_exitcode(json.loads(self._zygote.read_line()))
        texts = [path.read_text("utf-8", "replace") for path in self._zygote.outputs]
        return Outcome(code, *texts, time.monotonic() - self._started)


class Zygote:
    """The other side of `zygote.py`; one run at a time."""

    def __init__(self, folder: Path, prefix: Iterable[str] = ()) -> None:
        self.folder = folder
        self.outputs = (folder / "stdout", folder / "stderr")
        self.gate = folder / "gate"
        os.mkfifo(self.gate)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "COLUMNS": "100",
        }
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=TESTS,
        )
        self.forkserver_pid = 0
        assert self.read_line() == "ready\n"

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(20)

    def read_line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the zygote has ended: {self._process.wait(20)}"
        return line

    @contextlib.contextmanager
    def start(
        self,
        arguments: Iterable[str],
        call: str = CLI,
        beside: list[str] | None = None,
        pid_of: str = "command",
    ) -> Iterator[Run]:
        """Yield a run; `beside` are strace's arguments, which is attached before the run passes the
        gate.
        """
        for path in self.outputs:
            path.write_bytes(b"")
        request: dict[str, Any] = {
            "args": list(arguments),
            "call": call,
            "cwd": str(self.folder),
            "gate": str(self.gate),
            "learned": str(self.folder / "learned"),
        }
        request |= {"stdout": str(self.outputs[0]), "stderr": str(self.outputs[1])}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        pid, self.forkserver_pid = json.loads(self.read_line())
        # Opens as soon as the run stands at the gate.
        with (
            self.gate.open("wb", buffering=0) as gate,
            _strace(beside, pid if pid_of == "command" else self.forkserver_pid),
        ):
            gate.write(b".")
            yield Run(pid, self, time.monotonic())

    def run(
        self,
        arguments: Iterable[str],
        call: str = CLI,
        beside: list[str] | None = None,
        pid_of: str = "command",
    ) -> Outcome:
        """Return how a run ended."""
        with self.start(arguments, call, beside, pid_of) as run:
            return run.wait()


@contextlib.contextmanager
def _strace(arguments: list[str] | None, pid: int) -> Iterator[None]:
    if arguments is None:
        yield
        return
    tracer = subprocess.Popen(
        ["strace", *arguments, "-p", str(pid)], stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr
    line = tracer.stderr.readline()
    assert "attached" in line, f"strace did not attach: {line}"
    try:
        yield
    finally:
        # Detaches; a tracer of a process that is gone has ended already.
        tracer.terminate()
        try:
            tracer.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            # It waits for a thread that will not stop any more; the system lets its processes go
            # when it ends.
            tracer.kill()
            tracer.communicate()


def count_calls(zygote: Zygote, arguments: list[str], log: Path, call: str = CLI) -> dict[str, int]:
    """Return how often the main thread of a command makes each of `CALLS`."""
    zygote.run(
        arguments,
        call,
        beside=["-e", f"trace={','.join(CALLS)}", "-e", "signal=none", "-o", str(log)],
    )
    found = Counter(
        match[1] for match in re.finditer(r"^(\w+)\(", log.read_text("utf-8", "replace"), re.M)
    )
    return {name: found[name] for name in CALLS if found[name]}


def kill_at(call: str, number: int) -> list[str]:
    """Return strace's arguments that end the process as it enters `call` for the `number`-th
    time.
    """
    return [
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:signal=SIGKILL:when={number}",
        "-o",
        os.devnull,
    ]


def fail_at(call: str, number: int | str, error: str) -> list[str]:
    """Return strace's arguments that make `call` fail when it is made for the `number`-th time
    (`3+`: from then on).
    """
    return [
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:error={error}:when={number}",
        "-o",
        os.devnull,
    ]


def every_file(folder: Path) -> dict[str, str]:
    """Return path -> digest of content, size, mode and time of everything below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.stat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (
            f"{content} {stat.st_size} {stat.st_mode} {stat.st_mtime_ns}"
        )
    return found


def results(folder: Path) -> dict[str, object]:
    """Return path -> content of every file of a workspace, without what clocks, places and restarts
    may change.
    """
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (".lock", ".hp-states"):
            found[str(path.relative_to(folder))] = _content(path)
    return found


def _content(path: Path) -> object:
    if path.name == "checksums.json":
        # Reports have the time in them, and so have their digests.
        return sorted(json.loads(path.read_text("utf-8"))["files"])
    if path.suffix == ".json":
        return _lasting(json.loads(path.read_text("utf-8")))
    if path.suffix == ".html":
        return "</html>" in path.read_text("utf-8")[-20:]
    return path.read_bytes()


def _lasting(value: object) -> object:
    if isinstance(value, dict):
        return {key: _lasting(entry) for key, entry in value.items() if key not in _CHANGING}
    return [_lasting(entry) for entry in value] if isinstance(value, list) else value


def unreadable(folder: Path) -> list[str]:
    """Return the published files that are not whole: what a reader could stumble over."""
    broken = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not is_temporary(path.name):
            try:
                _read_whole(path)
            except Exception as error:  # noqa: BLE001 (any reason is a finding)
                broken.append(f"{path.relative_to(folder)}: {error}")
    return broken


def _read_whole(path: Path) -> None:
    if path.suffix == ".parquet":
        pq.ParquetFile(path, page_checksum_verification=True).read()
    elif path.suffix == ".json":
        json.loads(path.read_text("utf-8"))
    elif path.suffix == ".html":
        assert "</html>" in path.read_text("utf-8")[-20:], "cut off"
    elif path.suffix == ".png":
        assert path.read_bytes()[-8:-4] == b"IEND", "cut off"


def temporaries(folder: Path) -> list[str]:
    """Return unfinished files of ours, and parts that should be gone."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if is_temporary(path.name) or (path.parent.name == "parts" and path.is_file())
    )


@dataclass
class Stage:
    """A data set and a workspace that is put back to its first state before every point."""

    data: Path
    workspace: Path
    saved: Path | None = None
    data_before: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data_before = every_file(self.data)

    def reset(self) -> None:
        shutil.rmtree(self.workspace, ignore_errors=True)
        if self.saved is not None:
            shutil.copytree(self.saved, self.workspace)


@dataclass(frozen=True)
class Command:
    """A command, its arguments but for the folders, the commands that are run before it, and
    whether it leaves parts of a table.
    """

    name: str
    arguments: tuple[str, ...]
    before: tuple[str, ...] = ()
    call: str = CLI
    leaves_parts: bool = False

    def full(self, stage: Stage) -> list[str]:
        if self.call != CLI:
            return [str(stage.data), str(stage.workspace)]
        first, *rest = self.arguments
        return [first, str(stage.data), "--workspace", str(stage.workspace), *rest]


COMMANDS = {
    command.name: command
    for command in (
        Command("audit", ("audit", "--workers", "1")),
        Command("audit in parts", (), call="faults.commands:audit_in_parts"),
        Command("audit again", ("audit", "--workers", "1", "--min-area", "32"), before=("audit",)),
        Command("audit part 1", ("audit", "--workers", "1", "--part", "1/2"), leaves_parts=True),
        Command("audit part 2", ("audit", "--workers", "1", "--part", "2/2"), leaves_parts=True),
        Command("collect", ("collect",), before=("audit part 1", "audit part 2")),
        Command(
            "remap",
            ("remap", "--workers", "1", "--map", "label_map_5", "--on-unmapped", "unknown"),
            before=("audit",),
        ),
        Command("stats", ("stats", "--map", "label_map_5"), before=("audit",)),
        Command("manifest", ("manifest",), before=("audit",)),
    )
}


@dataclass(frozen=True)
class Undisturbed:
    """How a command ends and what it leaves when nothing goes wrong; `saved` is the workspace it
    finds.
    """

    code: int
    results: dict[str, object]
    saved: Path | None


class Undisturbeds:
    """The undisturbed run of each command, made once."""

    def __init__(self, zygote: Zygote, data: Path, folder: Path) -> None:
        self._zygote = zygote
        self._data = data
        self._folder = folder
        self._known: dict[Command, Undisturbed] = {}

    def of(self, command: Command) -> Undisturbed:
        if command not in self._known:
            stage, saved = Stage(self._data, self._folder / command.name / "workspace"), None
            stage.workspace.parent.mkdir()
            for name in command.before:
                outcome = self._zygote.run(COMMANDS[name].full(stage))
                assert outcome.code in (0, 1, 3), outcome.stderr
                saved = stage.workspace.with_name("saved")
            if saved is not None:
                shutil.copytree(stage.workspace, saved)
            outcome = self._zygote.run(command.full(stage), command.call)
            assert outcome.code in (0, 1, 3), outcome.stderr
            self._known[command] = Undisturbed(outcome.code, results(stage.workspace), saved)
        return self._known[command]

    def set(self, stage: Stage, command: Command) -> Undisturbed:
        """Set the stage for a command and return how it would end."""
        found = self.of(command)
        stage.saved = found.saved
        stage.reset()
        return found
