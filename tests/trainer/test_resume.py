"""Kill -9 at enumerated points, the same command again, and the end is the same to the last bit:
weights, EMA, moments, best, log.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each point costs two runs of a second or two; a busy machine takes longer.
pytestmark = pytest.mark.timeout(900)

# A point between the checkpoint of step 3 and the log line of step 4 must be among those of the
# controls: all state matters there.
_MID_WINDOW = "100"


def _kill_runs(manifest: Path, folder: Path, *options: str, timeout_s: float = 900) -> dict:
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here)]),
    }
    command = [
        sys.executable,
        str(here / "kill_runs.py"),
        "--manifest",
        str(manifest),
        "--folder",
        str(folder),
        *options,
    ]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been_killed(
    demo_manifest: Path, tmp_path: Path
) -> None:
    found = _kill_runs(demo_manifest, tmp_path, "--stride", "26")
    assert found["total"] > 100 and found["points"] >= found["total"] // 27
    assert found["different"] == {}


@pytest.mark.slow
def test_a_run_with_two_workers_as_well(demo_manifest: Path, tmp_path: Path) -> None:
    # Batches are read elsewhere then, so the points are those of the files alone.
    found = _kill_runs(demo_manifest, tmp_path, "--workers", "2", "--points", "60")
    assert (found["points"], found["different"]) == (1, {})


@pytest.mark.parametrize("broken", ["average", "moments", "window", "seed", "lines", "step"])
@pytest.mark.slow
def test_a_broken_variant_is_caught(demo_manifest: Path, tmp_path: Path, broken: str) -> None:
    assert _kill_runs(demo_manifest, tmp_path, "--points", _MID_WINDOW, "--broken", broken)[
        "different"
    ]


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("workers", "stride"), [("0", "1"), ("2", "5")])
def test_every_point(demo_manifest: Path, tmp_path: Path, workers: str, stride: str) -> None:
    found = _kill_runs(
        demo_manifest, tmp_path, "--workers", workers, "--stride", stride, timeout_s=3500
    )
    assert found["different"] == {}
