"""A stop is a stop, wherever the signal lands: in a read, in the loading of a codec, in an
import.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coordinate_tiles import write_tiles
from small_codecs import save_kl

import trainer.encode
from histoprep.errors import Interrupted, Terminated
from trainer.cli import run
from trainer.signals import saying, stop_signals

REPOSITORY = Path(__file__).parents[2]
NUM_TILES = 12
CHUNK = 2


class _Signaller:
    """Counts the openings of files in this process and sends it SIGTERM at one of them; audit hooks
    cannot be removed, so there is one.
    """

    def __init__(self) -> None:
        self.at: int | None = None
        self.count = 0
        self.listening = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, _: tuple[Any, ...]) -> None:
        if self.listening and event == "open":
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def during(self, at: int | None) -> Iterator[None]:
        self.at, self.count, self.listening = at, 0, True
        try:
            yield
        finally:
            self.listening = False


@pytest.fixture(scope="module")
def signaller() -> _Signaller:
    return _Signaller()


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_kl(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("stops") / "data", NUM_TILES, 32)


def contents(folder: Path) -> dict[str, bytes]:
    # Times and inodes are in the states, which are never the same twice.
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name not in (".lock", ".hp-states")
    }


@pytest.mark.slow
def test_encode_takes_no_stop_for_an_unreadable_tile(
    manifest: Path,
    codec_folder: Path,
    tmp_path: Path,
    signaller: _Signaller,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With --on-unreadable skip, a good tile stood in `skipped` for good, and the command ended
    with 3.
    """
    monkeypatch.setattr(trainer.encode, "_CHUNK_BYTES", CHUNK * 2 * 2 * 4 * 4 * 4)

    def encode(out: Path) -> int:
        chosen = [
            "--codec",
            str(codec_folder),
            "--image-size",
            "32",
            "--batch-size",
            "2",
            "--on-unreadable",
            "skip",
        ]
        return run(["encode", "--manifest", str(manifest), *chosen, "--out", str(out)])

    assert encode(tmp_path / "first") == 0, "from here on everything is imported"
    with signaller.during(None):
        assert encode(tmp_path / "whole") == 0
    expected, total = contents(tmp_path / "whole"), signaller.count
    assert total > NUM_TILES
    messages = set()
    for at in np.unique(np.linspace(1, total, 5).astype(int)).tolist():
        out = tmp_path / f"at{at}"
        capsys.readouterr()
        with signaller.during(at):
            assert encode(out) == 143, f"stopped at opening {at} of {total}"
        text = capsys.readouterr().err
        assert "stopped by SIGTERM" in text
        if "crops are kept" in text:
            said = int(text.split("; ")[1].split(" of ")[0])
            messages.add(said)
            journal = [
                line
                for path in out.glob("*journal*")
                for line in path.read_text("utf-8").splitlines()
                if line.startswith("{")
            ]
            assert said == CHUNK * (len(journal) - 1), (
                "what is said to be kept is in the journal, after its head"
            )
        assert encode(out) == 0
        assert contents(out) == expected, f"stopped at opening {at} of {total}"
    assert len(messages) > 1


def test_fit_ends_as_stopped_wherever_the_signal_lands(
    toy_config: Callable[..., Any], tmp_path: Path, signaller: _Signaller
) -> None:
    from trainer.engine.fit import fit

    def command(out: str) -> int:
        try:
            with stop_signals():
                fit(toy_config(out, duration__steps=4))
        except Interrupted as stop:
            return stop.exit_code
        return 0

    assert command("first") == 0
    with signaller.during(None):
        assert command("whole") == 0
    total = signaller.count
    for at in np.unique(np.linspace(1, total, 6).astype(int)).tolist():
        with signaller.during(at):
            assert command(f"run{at}") == 143, f"stopped at opening {at} of {total}"
        assert command(f"run{at}") == 0


_IMPORTS = """
import json, os, signal, sys
import torch, histoprep.errors, trainer.cli
from trainer.cli import run
arguments, points = json.loads(sys.argv[1]), json.loads(sys.argv[2])
codes = {}
for at in points:
    child = os.fork()
    if not child:
        count = 0
        def hook(event, details):
            global count
            if event == "import":
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGTERM)
        sys.addaudithook(hook)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        code = run(arguments + [f"{sys.argv[3]}/{at}"])
        print(json.dumps({"code": code, "count": count}), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_a_stop_inside_an_import_is_no_bug(
    manifest: Path, codec_folder: Path, tmp_path: Path
) -> None:
    """Diffusers turns whatever fails inside its imports into a RuntimeError, which was reported as
    a bug, with exit code 70.
    """
    arguments = [
        "encode",
        "--manifest",
        str(manifest),
        "--codec",
        str(codec_folder),
        "--image-size",
        "32",
        "--out",
    ]

    def codes(points: list[int]) -> list[dict[str, int]]:
        command = [
            sys.executable,
            "-c",
            _IMPORTS,
            json.dumps(arguments),
            json.dumps(points),
            str(tmp_path),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=600, check=True, cwd=REPOSITORY
        )
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    whole = codes([0])[0]
    assert whole["code"] == 0
    points = np.unique(np.linspace(1, whole["count"] * 0.9, 4).astype(int)).tolist()
    assert [point["code"] for point in codes(points)] == [143] * len(points)


@pytest.mark.slow
def test_a_stop_is_no_exception_that_a_handler_could_catch() -> None:
    assert not issubclass(Interrupted, Exception)
    caught = []
    for path in sorted(
        [*(REPOSITORY / "histoprep").rglob("*.py"), *(REPOSITORY / "trainer").rglob("*.py")]
    ):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                names = ast.unparse(node.type) if node.type else "BaseException"
                if "BaseException" in names and not any(
                    isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node)
                ):
                    caught.append(f"{path.name}:{node.lineno}")
    assert caught == []


@pytest.mark.parametrize("package", ["histoprep", "trainer"])
def test_a_stop_that_a_library_swallowed_is_raised_at_the_end(package: str) -> None:
    from histoprep.execution.signals import stop_signals as of_toolkit

    with pytest.raises(Terminated), (of_toolkit if package == "histoprep" else stop_signals)():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:  # noqa: BLE001 (what a library might do)
            swallowed = True
        assert swallowed


def test_a_stop_says_what_is_kept() -> None:
    with pytest.raises(Terminated, match="finished work is kept"), stop_signals():
        with saying(lambda: "3 of 9 crops are kept"):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
    with (
        pytest.raises(Terminated, match="3 of 9 crops are kept"),
        stop_signals(),
        saying(lambda: "3 of 9 crops are kept"),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
