"""What a command shows while it works: phases on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from faults.tasks import ItemsTask

from histoprep import console
from histoprep.demo import GROUP_PATTERN, make_demo
from histoprep.execution import Engine, run_tasks
from histoprep.progress import TaskProgress


def test_progress_moves_within_a_task(tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    progress = TaskProgress(lambda done, total: shown.append((done, total)), 5)
    task = ItemsTask(("sleep 0.7",) * 5, tmp_path / "0.at")
    for result in run_tasks([task], Engine(1), progress.under_way):
        progress.add(len(result))
    assert len(shown) > 2 and shown[-1] == (5, 5)
    assert all(before < after for (before, _), (after, _) in pairwise(shown))


def test_a_task_that_is_run_again_does_not_take_progress_back(tmp_path: Path) -> None:
    shown: list[int] = []
    progress = TaskProgress(lambda done, total: shown.append(done), 4)
    once = f"once {tmp_path / 'died'}"
    task = ItemsTask(("sleep 0.6", "sleep 0.6", "sleep 0.6", once), tmp_path / "0.at")
    for result in run_tasks([task], Engine(1), progress.under_way):
        progress.add(len(result))
    assert shown == sorted(shown) and shown[-1] == 4 and max(shown[:-1]) < 4


def on_a_terminal(arguments: list[str]) -> str:
    """Run histoprep on a terminal and return all that was drawn."""
    parent, child = pty.openpty()
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-m", "histoprep", *arguments],
        stdout=child,
        stderr=child,
        env=environment,
    ) as process:
        os.close(child)
        drawn = bytearray()
        while True:
            try:
                data = os.read(parent, 1 << 16)
            except OSError:
                break
            if not data:
                break
            drawn += data
    os.close(parent)
    assert process.returncode == 0, drawn.decode()
    return drawn.decode()


def plain(drawn: str) -> str:
    """Return what was drawn without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)


def phases_in(drawn: str, names: tuple[str, ...]) -> list[str]:
    """Return the phases in the order in which they were first drawn, without their counts."""
    found = re.findall(rf"\b({'|'.join(names)}) [ ╸╺━]", plain(drawn))
    return list(dict.fromkeys(found))


@pytest.mark.slow
def test_each_phase_has_a_bar_that_ends_with_it(tmp_path: Path) -> None:
    demo = tmp_path / "data"
    make_demo(demo, num_tiles=48, tile_px=64, defects=False)
    folder = tmp_path / "results"
    drawn = on_a_terminal(
        ["audit", str(demo), "--workspace", str(folder), "--exit-zero", "--group-by", GROUP_PATTERN]
    )
    names = ("listing", "reading", "comparing", "writing")
    assert phases_in(drawn, names) == list(names)
    assert re.search(r"reading [ ╸╺━]+(\d+)/\1 tiles", plain(drawn))
    # Nothing is left of the bars: after the last one its line is wiped before results are printed.
    end = drawn.rindex("\x1b[2K")
    assert "writing" not in drawn[end:] and "results: " in drawn[end:]
    names = ("listing", "counting", "splitting", "writing")
    drawn = on_a_terminal(["manifest", str(demo), "--workspace", str(folder)])
    assert phases_in(drawn, names) == list(names)


def test_elsewhere_a_line_is_written_each_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with console.phases() as phases:
        advance = phases("reading", "tiles")
        for now, done in ((10.0, 100), (61.0, 1220), (90.0, 1300), (122.0, 2440)):  # noqa: B007
            advance(done, 3660)
        phases("writing", "files")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 1,220 of 3,660 tiles, 20/s, 122 s left",
        "reading: 2,440 of 3,660 tiles, 20/s, 61 s left",
    ]
