"""Two processes (gloo, on the CPU) train as one does at the same global batch."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.engine.checkpoints import CheckpointFolder
from trainer.engine.fit import fit
from trainer.errors import ExitCode

Make = Callable[..., Any]
pytestmark = pytest.mark.timeout(600)


def _run(config: Any) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here)]),
    }
    command = [
        sys.executable,
        str(here / "ddp_run.py"),
        json.dumps(config.model_dump(mode="json", by_alias=True)),
    ]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


def _lines(run: str) -> list[dict[str, float]]:
    with (Path(run) / "metrics.csv").open(newline="") as stream:
        return [
            {key: float(value) for key, value in line.items() if value}
            for line in csv.DictReader(stream)
        ]


@pytest.mark.slow
def test_two_processes_are_one_at_the_same_global_batch(toy_config: Make) -> None:
    settings = {"plain": True, "accelerator": "cpu", "batch_size": 8, "accumulate": 2}
    item, two = (
        toy_config(out="one", devices=1, **settings),
        toy_config(out="two", devices=2, **settings),
    )
    fit(item)
    done = _run(two)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = _lines(item.out), _lines(two.out)
    assert len(first) == len(second) == 6
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"images_per_s", "tflop_per_s", "data_wait_share"}:
            assert b[name] == pytest.approx(a[name], rel=1e-4), name
    weights = [
        CheckpointFolder(Path(run.out) / "checkpoints").newest().tensors["ema"]
        for run in (item, two)
    ]  # type: ignore[union-attr]
    for name, value in weights[0].items():
        assert weights[1][name].numpy() == pytest.approx(value.numpy(), abs=1e-5), name
    # And it goes on where it stopped, with the processes it has now.
    (Path(two.out) / "finished.json").unlink()
    assert fit(two.model_copy(update={"devices": 1})).stages[""]["step"] == 12


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_stops_both_and_names_its_tile(
    toy_config: Make,
) -> None:
    config = toy_config(
        plain=True, accelerator="cpu", devices=2, batch_size=8, accumulate=2, poison=29
    )
    done = _run(config)
    assert done.returncode == ExitCode.FINDINGS, done.stderr[-3000:]
    assert "at step 4" in done.stderr and "tile-29" in done.stderr and "tile-28" not in done.stderr
