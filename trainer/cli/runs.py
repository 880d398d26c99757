"""`trainer runs`: compare the runs in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histoprep import console

if TYPE_CHECKING:
    from trainer.runs import FoundRuns, StageState


def runs(
    folder: Annotated[
        Path, typer.Argument(help="Folder with run folders in it.", show_default=False)
    ] = Path("runs"),
    *,
    plot: Annotated[
        Path | None,
        typer.Option(help="PNG file to draw the validation metrics in.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the runs as JSON.")] = False,
) -> None:
    """Print a line for each run: state, steps, best validation, speed; and what differs between
    their configurations.

    Nothing is written but the plot.

    Examples:
        trainer runs runs
        trainer runs runs --plot runs.png
        trainer runs runs --json
    """
    from trainer.runs import draw_runs, read_runs

    found = read_runs(folder)
    if plot is not None:
        from histoprep.durable import write_bytes

        write_bytes(plot, draw_runs(found))
    if as_json:
        console.raw(json.dumps(_as_json(found), indent=2))
        return
    _print(found)
    for name, problem in found.problems.items():
        console.warn(f"{name} cannot be read: {problem}")
    if plot is not None:
        console.out(str(plot))


def _print(found: FoundRuns) -> None:
    rows = [
        (
            stage.name,
            found.recipes[stage.run],
            stage.state,
            f"{stage.step:,}",
            *_best(stage),
            f"{stage.metrics['loss']:.4g}" if "loss" in stage.metrics else "-",
            f"{stage.metrics['images_per_s']:,.0f}" if "images_per_s" in stage.metrics else "-",
        )
        for stage in found.stages
    ]
    columns = ("run", "recipe", "state", "steps", "best", "at step", "loss", "images/s")
    console.table(columns, rows, title=f"{len(found.recipes)} runs")
    if found.differing:
        names = list(found.recipes)
        console.table(
            ("key", *names),
            [
                (key, *(_cell(values.get(name, "")) for name in names))
                for key, values in found.differing.items()
            ],
            title="What differs between the runs of a recipe",
        )


def _best(stage: StageState) -> tuple[str, str]:
    if not stage.best:
        return "-", "-"
    return f"{stage.best['metric']} {stage.best['value']:.4g}", f"{stage.best['step']:,}"


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _as_json(found: FoundRuns) -> dict[str, Any]:
    return {
        "runs": [
            {
                "run": stage.run,
                "stage": stage.stage,
                "recipe": found.recipes[stage.run],
                "state": stage.state,
                "step": stage.step,
                "best": stage.best,
                "metrics": dict(stage.metrics),
            }
            for stage in found.stages
        ],
        "differing": dict(found.differing),
        "problems": dict(found.problems),
    }
