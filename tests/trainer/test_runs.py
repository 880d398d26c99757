"""`trainer runs`: what is printed of several runs equals what they wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from histoprep.errors import ExitCode, UsageError
from trainer.cli import run
from trainer.engine.fit import fit
from trainer.runs import draw_runs, read_history, read_runs

Make = Callable[..., Any]


@pytest.fixture
def folder(toy_config: Make, tmp_path: Path) -> Path:
    """Return a folder with two runs that ended, one of two stages, and one that stopped."""
    fit(toy_config("runs/plain"))
    fit(toy_config("runs/faster", optimiser__lr=2e-2))
    fit(toy_config("runs/deep/two", two_stages=True))
    fit(toy_config("runs/stopped"))
    (tmp_path / "runs" / "stopped" / "finished.json").unlink()
    return tmp_path / "runs"


def test_runs_are_found_with_state_best_and_differences(folder: Path) -> None:
    found = read_runs(folder)
    assert [(stage.name, stage.state, stage.step) for stage in found.stages] == [
        ("deep/two/first", "finished", 12),
        ("deep/two/second", "finished", 12),
        ("faster", "finished", 12),
        ("plain", "finished", 12),
        ("stopped", "stopped", 12),
    ]
    assert set(found.differing) == {"optimiser.lr", "two_stages"}
    assert found.differing["optimiser.lr"]["faster"] == 2e-2
    ended = json.loads((folder / "plain" / "finished.json").read_text())
    plain = next(stage for stage in found.stages if stage.run == "plain")
    assert plain.best == ended["best"]
    steps, values = plain.history["val_error"]
    assert steps == [4, 8, 12] and min(values) == ended["best"]["value"]


def test_a_plot_has_a_panel_for_each_stage(folder: Path) -> None:
    found = read_runs(folder)
    image = np.asarray(Image.open(io.BytesIO(draw_runs(found))).convert("RGB"))
    # Stages "", first and second: three panels of 5 x 3.6 inches at 150 dots an inch.
    assert image.shape[:2] == (540, 2250)
    assert all(part.std() > 5 for part in np.split(image, 3, axis=1))


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder / "plain" / "config.yml").open("a") as stream:
        stream.write("# changed\n")
    assert run(["runs", str(folder), "--json"]) == ExitCode.OK
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["problems"]) == ["plain"]
    assert {entry["run"] for entry in printed["runs"]} == {"deep/two", "faster", "stopped"}
    assert run(["runs", str(folder), "--plot", str(folder / "plot.png")]) == ExitCode.OK
    assert "faster" in capsys.readouterr().out and (folder / "plot.png").is_file()


def test_a_log_under_way_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    place = tmp_path / "metrics.csv"
    place.write_text("step,loss,val_f1\n5,1.5,\n10,1.25,0.5\n15,1.1")
    assert read_history(place) == {"loss": ([5, 10], [1.5, 1.25]), "val_f1": ([10], [0.5])}


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("a: 1\n")
    with pytest.raises(UsageError, match="no runs"):
        read_runs(tmp_path)
