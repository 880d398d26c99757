"""Kills runs of the toy recipe at enumerated points and lets them go on; started as a program,
since it forks and must not have trained itself.

A point is the k-th time that the process opens, renames, makes, deletes something in the run
folder, or reads a batch. Python reports each to an audit hook, so no line of the engine knows of
it. Prints JSON: the number of points, and those after which the end was not the same.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard
import toy_recipe

import trainer.engine.fit as engine
from trainer.config_layers import build_config
from trainer.engine.logs import MetricsLog
from trainer.engine.state import Training

WATCHED = frozenset(
    {
        "open",
        "os.rename",
        "os.mkdir",
        "os.remove",
        "os.rmdir",
        "os.chmod",
        "toy.batch",
        "shutil.rmtree",
    }
)
TIMINGS = ("images_per_s", "tflop_per_s", "data_wait_share")


def main() -> None:
    """Run once undisturbed, then with a kill at every chosen point."""
    options = _parse()
    toy_recipe.register()
    torch.set_num_threads(1)
    BROKEN[options.broken]()
    whole, killed = options.folder / "whole", options.folder / "killed"
    shutil.rmtree(whole, ignore_errors=True)
    _in_child(lambda: _run(options, whole, _counting(options.folder / "count", whole)))
    total = int((options.folder / "count").read_text())
    points = (
        [int(item) for item in options.points.split(",")]
        if options.points
        else range(1, total + 1, options.stride)
    )
    different, reached = {}, 0
    for point in points:
        shutil.rmtree(killed, ignore_errors=True)
        status = _in_child(lambda point=point: _run(options, killed, _killing(point, killed)))  # type: ignore[misc]
        if not os.WIFSIGNALED(status):
            # Counting takes a few points more than there are: the last ones do not come.
            assert status == 0 and point > 0.9 * total, f"the run failed before point {point}"
            continue
        reached += 1
        assert _in_child(lambda: _run(options, killed, None)) == 0, (
            f"the run did not go on after point {point}"
        )
        found = compare(whole, killed)
        if found:
            different[point] = found
    print(json.dumps({"total": total, "points": reached, "different": different}))


def compare(whole: Path, other: Path) -> list[str]:
    """Return what differs between two runs: bytes of checkpoints, lines of metrics.csv."""
    folders = [sorted((path / "checkpoints").iterdir()) for path in (whole, other)]
    if [folder.name for folder in folders[0]] != [folder.name for folder in folders[1]]:
        return [f"checkpoints {[folder.name for folder in folders[1]]}"]
    found = [
        a.name
        for a, b in zip(*folders, strict=True)
        if (a / "SHA256SUMS").read_bytes() != (b / "SHA256SUMS").read_bytes()
    ]
    if _metrics(whole) != _metrics(other):
        found.append("metrics.csv")
    if (whole / "finished.json").read_bytes() != (other / "finished.json").read_bytes():
        found.append("finished.json")
    return found


def _metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return [
            {key: value for key, value in row.items() if key not in TIMINGS}
            for row in csv.DictReader(stream)
        ]


def _parse() -> Any:
    parser = argparse.ArgumentParser()
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--points", default="")
    parser.add_argument("--broken", default="nothing")
    return parser.parse_args()


def _run(options: Any, out: Path, hook: Callable[[str, tuple[Any, ...]], None] | None) -> None:
    values = {
        "recipe": "toy",
        "manifest": options.manifest,
        "out": str(out),
        "batch_size": 4,
        "accumulate": 2,
        "duration": {"steps": 10},
        "data": {"num_workers": options.workers},
        "optimiser": {"lr": 1e-2},
        "schedule": {"kind": "one_cycle"},
        "ema": {"decay": 0.9, "every": 2},
        "every": {"log": 4, "validate": 5, "checkpoint": 3, "images": None},
    }
    if hook:
        sys.addaudithook(hook)
    engine.fit(build_config(toy_recipe.Config, values))


def _counting(target: Path, folder: Path) -> Callable[[str, tuple[Any, ...]], None]:
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if _concerns(event, arguments, folder):
            count += 1
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(descriptor, str(count).encode())
            os.close(descriptor)

    return hook


def _killing(point: int, folder: Path) -> Callable[[str, tuple[Any, ...]], None]:
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if _concerns(event, arguments, folder):
            count += 1
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _concerns(event: str, arguments: tuple[Any, ...], folder: Path) -> bool:
    return event in WATCHED and (event == "toy.batch" or str(arguments[0]).startswith(str(folder)))


def _in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def _forget_average() -> None:
    restore = Training.restore

    def broken(self: Training, snapshot: Any) -> None:
        restore(self, snapshot)
        if self.average:
            self.average.module.load_state_dict(self.stage.module.state_dict())

    Training.restore = broken  # type: ignore[method-assign]


def _forget_moments() -> None:
    import trainer.engine.state as state

    state.load_optimiser = lambda optimiser, tensors: None


def _forget_window() -> None:
    from trainer.engine.window import LossWindow

    LossWindow.load = lambda self, state: None  # type: ignore[method-assign]


def _forget_seed() -> None:
    engine.seed_step = lambda seed, stage, position: None


def _keep_later_lines() -> None:
    start = MetricsLog.__init__
    MetricsLog.__init__ = lambda self, folder, step: start(self, folder, 10**9)  # type: ignore[method-assign]


def _forget_step() -> None:
    restore = Training.restore

    def broken(self: Training, snapshot: Any) -> None:
        restore(self, snapshot)
        self.step = 0

    Training.restore = broken  # type: ignore[method-assign]


def _nothing() -> None:
    pass


BROKEN: dict[str, Callable[[], None]] = {
    "nothing": _nothing,
    "average": _forget_average,
    "moments": _forget_moments,
    "window": _forget_window,
    "seed": _forget_seed,
    "lines": _keep_later_lines,
    "step": _forget_step,
}

if __name__ == "__main__":
    main()
