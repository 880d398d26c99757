"""The runs in a folder side by side: how far each stage is, what it reached, and what differs
between their configurations.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histoprep.errors import HistoprepError, UsageError
from histoprep.figures import plain_text
from trainer.config import RunConfig
from trainer.engine.checkpoint_files import STATE
from trainer.engine.checkpoints import CONFIG, list_checkpoints, load_run_config
from trainer.engine.run_folder import FINISHED, flatten

METRICS = "metrics.csv"
# Places, periods and devices: they change no result.
_NOT_COMPARED = (
    "out",
    "preset",
    "every",
    "keep_checkpoints",
    "accelerator",
    "devices",
    "num_nodes",
    "start_timeout_s",
)
_GREY = "#8a8f98"
_STYLE = {"font.family": "DejaVu Sans", "font.size": 8.0, "axes.edgecolor": _GREY}
_DPI = 150
_MAX_CURVES = 12


@dataclass(frozen=True)
class StageState:
    """One stage of a run.

    Attributes:
        run: The run folder, relative to the folder that was looked through.
        stage: Name of the stage, "" where there is one only.
        state: finished, stopped (nothing says whether it is training right now) or not begun.
        step: Optimiser steps of the newest checkpoint, or of the end.
        best: Metric that selects checkpoints, its best value and step; None before a validation.
        metrics: Columns of the log, by name, the last value of each.
        history: Step and value of each logged number, by name.
    """

    run: str
    stage: str
    state: str
    step: int
    best: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: Mapping[str, tuple[list[int], list[float]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return run and stage in one word."""
        return f"{self.run}/{self.stage}" if self.stage else self.run


@dataclass(frozen=True)
class FoundRuns:
    """What was found in a folder.

    Attributes:
        stages: A row for each stage of each run, in order of their names.
        recipes: Recipe of each run by its folder.
        differing: Key of the configuration -> value by run, for keys that are not alike in all
            runs of a recipe.
        problems: Run folder -> why it cannot be read.
    """

    stages: Sequence[StageState]
    recipes: Mapping[str, str]
    differing: Mapping[str, Mapping[str, Any]]
    problems: Mapping[str, str]


def read_runs(folder: Path) -> FoundRuns:
    """Return the runs in a folder and the folders below it; nothing is written.

    Raises:
        UsageError: When there is none.
    """
    stages: list[StageState] = []
    configs: dict[str, RunConfig] = {}
    problems: dict[str, str] = {}
    for run in _find_runs(folder):
        name = run.relative_to(folder).as_posix() if run != folder else run.name
        try:
            configs[name] = load_run_config(run)
            stages += _read_stages(run, name)
        except (HistoprepError, OSError, ValueError) as error:
            problems[name] = str(error).partition("\n")[0]
    if not configs and not problems:
        raise UsageError(
            "there are no runs here",
            path=folder,
            expected=f"folders of `trainer fit`, with {CONFIG}",
        )
    recipes = {name: config.recipe for name, config in configs.items()}
    return FoundRuns(stages, recipes, _differing(configs), problems)


def _find_runs(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        if CONFIG in files and _is_run(Path(place)):
            folders.clear()
            yield Path(place)


def _is_run(place: Path) -> bool:
    """Return whether a config.yml belongs to a run: other programs have files of that name."""
    return any((place / name).exists() for name in ("environment.json", "checkpoints", METRICS))


def _read_stages(run: Path, name: str) -> list[StageState]:
    inside = sorted(
        path
        for path in run.iterdir()
        if path.is_dir() and path.name != "checkpoints" and (path / "checkpoints").is_dir()
    )
    return [
        _read_stage(folder, name, "" if folder == run else folder.name)
        for folder in inside or [run]
    ]


def _read_stage(folder: Path, run: str, stage: str) -> StageState:
    history = read_history(folder / METRICS)
    last = {name: values[-1] for name, (_, values) in history.items()}
    if (folder / FINISHED).is_file():
        ended = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        return StageState(run, stage, "finished", ended["step"], ended["best"], last, history)
    newest = list_checkpoints(folder / "checkpoints", "last")[-1:]
    if not newest:
        bests = list_checkpoints(folder / "checkpoints", "best")[-1:]
        state = "weights only" if bests else "not begun"
        return StageState(run, stage, state, 0, None, last, history)
    saved = json.loads((newest[0] / STATE).read_text(encoding="utf-8"))
    return StageState(run, stage, "stopped", saved["step"], saved["best"], last, history)


def read_history(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return steps and values of each column of a metrics.csv, empty without one.

    Lines and cells that a run under way has not finished are left out.
    """
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    history: dict[str, tuple[list[int], list[float]]] = {}
    for row in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")):
        for name, cell in row.items():
            if name is None or name == "step" or not cell:
                continue
            steps, values = history.setdefault(name, ([], []))
            steps.append(int(row["step"]))
            values.append(float(cell))
    return history


def _differing(configs: Mapping[str, RunConfig]) -> dict[str, dict[str, Any]]:
    """Return the keys that are not alike in all runs of the same recipe."""
    flat = {
        name: flatten(config.model_dump(mode="json", by_alias=True))
        for name, config in configs.items()
    }
    found: dict[str, dict[str, Any]] = {}
    for recipe in {config.recipe for config in configs.values()}:
        names = [name for name, config in configs.items() if config.recipe == recipe]
        keys = dict.fromkeys(key for name in names for key in flat[name])
        for key in keys:
            if any(f"{key}.".startswith(f"{free}.") for free in _NOT_COMPARED):
                continue
            values = {name: flat[name].get(key) for name in names}
            if len({json.dumps(value) for value in values.values()}) > 1:
                found.setdefault(key, {}).update(values)
    return dict(sorted(found.items()))


def draw_runs(runs: FoundRuns) -> bytes:
    """Return a PNG with a panel for each metric that selects checkpoints: its course in each run.

    Where a stage was never validated, the training loss stands for it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str, str], list[StageState]] = {}
    for stage in runs.stages:
        metric = _shown_metric(stage)
        if metric:
            panels.setdefault((runs.recipes[stage.run], stage.stage, metric), []).append(stage)
    with plain_text(_STYLE):
        figure = Figure(figsize=(5.0 * max(len(panels), 1), 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
        for place, ((recipe, name, metric), stages) in zip(axes, panels.items(), strict=False):
            for stage in stages[:_MAX_CURVES]:
                place.plot(*stage.history[metric], marker="o", markersize=2.5, label=stage.run)
            title = f"{recipe} {name}".strip()
            if len(stages) > _MAX_CURVES:
                title += f", the first {_MAX_CURVES} of {len(stages)} runs"
            place.set(xlabel="step", ylabel=_axis_name(metric), title=title)
            place.legend(fontsize=7)
            place.grid(alpha=0.3)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()


def _axis_name(metric: str) -> str:
    name = metric.removeprefix("val_")
    return f"validation {name}" if name != metric else f"training {name}"


def _shown_metric(stage: StageState) -> str | None:
    wanted = [f"val_{stage.best['metric']}"] if stage.best else []
    return next((name for name in (*wanted, "loss") if name in stage.history), None)
