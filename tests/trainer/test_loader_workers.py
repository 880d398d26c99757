"""Processes that read for a training do not outlive it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

_SCRIPT = """
import os, sys, time
import torch
from trainer.data.loader import loader

class Pids:
    def batch(self, positions):
        return {"pid": torch.tensor([os.getpid()])}

if __name__ == "__main__":
    batches = loader(Pids(), range(1000), 1, 2)
    print(*{int(next(batches)["pid"]) for _ in range(8)}, flush=True)
    time.sleep(600)
"""


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_workers_end_with_a_killed_training(tmp_path: Path) -> None:
    script = tmp_path / "reads.py"
    script.write_text(_SCRIPT)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        workers = [int(word) for word in training.stdout.readline().split()]
        assert len(workers) == 2 and all(map(_is_running, workers))
        training.kill()
    deadline = time.monotonic() + 60
    while any(map(_is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_is_running, workers))
