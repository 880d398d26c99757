"""`trainer test`: measure a classifier or segmenter on the test split, or a model of masks."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from trainer.errors import ConfigError
from trainer.reporter import Reporter

if TYPE_CHECKING:
    from trainer.classification.evaluation import ClassifierResults
    from trainer.evaluation.layouts import LayoutScores
    from trainer.segmentation.scores import SegmentationScores

_SHOWN = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "weighted_f1",
    "macro_precision",
    "macro_recall",
    "kappa",
    "quadratic_kappa",
)
_NUMBERS = ("auc_one_vs_rest", "auc_one_vs_one", "calibration_error", "brier")


def test(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help=(
                "Run folders of `trainer fit`, recipes diffmic, segmenter or masks; of several"
                " classifiers, such as those of folds, the mean and spread are printed, too."
            ),
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results.", show_default="RUN/test")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps.", show_default="as in the run")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Denoisings of each image.", show_default="as in the run"),
    ] = None,
    sheets: Annotated[int, typer.Option(min=0, help="Number of images to draw a sheet of.")] = 12,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Verify all inputs first: the run, and its manifest or shards."
        ),
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Test a run that was tested before; the number of tests is recorded."
        ),
    ] = False,
) -> None:
    """Classify every test tile once and compare the diffusion with the guidance classifier alone,
    on the same tiles; of a segmenter, predict the mask of every labelled test tile; of a model of
    masks, generate some and compare them with real ones of all splits.

    Writes metrics.json, predictions.csv and .parquet, and for each head classes-*.csv,
    confusion-*.csv and .png; roc.png, training.png, sheets/. Of a segmenter: metrics.json, masks/,
    label_map.yml, worst.png. Of a model of masks: metrics.json, masks/, label_map.yml, masks.png.

    Examples:
        trainer test runs/diffmic
        trainer test runs/diffmic-fold0 runs/diffmic-fold1 runs/diffmic-fold2
        trainer test runs/segmenter
    """
    from trainer.classification.evaluate import FOLDER, TestOptions, evaluate_run, read_measures

    if out is not None and len(runs) > 1:
        raise ConfigError(
            "--out is the folder of one test",
            seen=f"{len(runs)} runs",
            hint="leave it out: each run has its results in its own folder test",
        )
    from trainer.device import choose_device
    from trainer.engine.checkpoints import load_run_config

    options = TestOptions(sheets, steps, samples, device, again)
    reporter = Reporter(console.note, console.warn, console.progress)
    choose_device(device)
    configs = [load_run_config(run) for run in runs]
    for run, config in zip(runs, configs, strict=True):
        if verify:
            from trainer.verify import require_whole

            require_whole(run, config.manifest)
        folder = out or run / FOLDER
        if config.recipe == "segmenter":
            from trainer.segmentation.evaluate import SegmenterTestOptions as SegmenterOptions
            from trainer.segmentation.evaluate import test_segmenter

            refuse_diffusion_options(steps, samples, config.recipe)
            chosen = SegmenterOptions(sheets, device, again)
            _print_masks(test_segmenter(run, out, chosen, reporter=reporter))
            console.out(str(folder))
            continue
        if config.recipe == "masks":
            from trainer.evaluation.mask_models import test_masks

            refuse_diffusion_options(steps, samples, config.recipe)
            _print_layouts(test_masks(run, out, device=device, again=again, reporter=reporter))
            console.out(str(folder))
            continue
        if len(runs) > 1 and not again and read_measures(folder):
            console.note(f"{run} was tested before: its results are taken")
            continue
        _print(evaluate_run(run, out, options, reporter=reporter))
        console.out(str(folder))
    classifiers = [
        run
        for run, config in zip(runs, configs, strict=True)
        if config.recipe not in ("segmenter", "masks")
    ]
    if len(classifiers) > 1:
        _print_spread([read_measures(run / FOLDER) for run in classifiers])


def refuse_diffusion_options(steps: int | None, samples: int | None, recipe: str) -> None:
    """Raise ConfigError for options of classification by denoising beside a run of another
    recipe.
    """
    if steps is not None or samples is not None:
        raise ConfigError(
            "--steps and --samples belong to runs of the recipe diffmic",
            seen=f"a run of the recipe {recipe}",
            hint="leave them out",
        )


def _print_masks(scores: SegmentationScores) -> None:
    rows = [
        (name, f"{row['pixels']:,}", str(row["iou"]), _cell(row["dice"]))
        for name, row in scores.by_class.items()
        if row["pixels"]
    ]
    title = (
        f"{scores.tiles:,} test tiles of {scores.groups:,} groups; 95 % intervals drawn by group"
    )
    console.table(("class", "pixels", "IoU", "Dice"), rows, title=title)
    console.out(f"mIoU {scores.miou} over {', '.join(scores.counted)}")
    console.out(f"pixel accuracy {scores.accuracy}")


def _print_layouts(scores: LayoutScores) -> None:
    rows = [
        (
            name.replace("_", " "),
            f"{measured.value:.3f}",
            f"{measured.floor:.3f} ({measured.floor_low:.3f}-{measured.floor_high:.3f})",
            f"{measured.more['kept']:.3f}",
        )
        for name, measured in scores.measures.items()
    ]
    title = "Generated masks against real ones; floor: real masks of other groups"
    console.table(("measure", "generated", "floor", "kept by the cells"), rows, title=title)
    copies = scores.copies
    console.out(
        f"copies of training masks: {copies.verdict} ({len(copies.found):,} of {copies.judged:,} as"
        f" near as a copy, of held-out masks {copies.control:.1%}; {copies.planted_found} of"
        f" {copies.planted} planted copies found)"
    )
    console.out(scores.verdict)


def _print_spread(measures: list[dict[str, float]]) -> None:
    """Print each measure of the diffusion over several runs."""
    rows = []
    for name in (*_SHOWN, *_NUMBERS):
        values = [found[name] for found in measures if math.isfinite(found.get(name, math.nan))]
        spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "undefined"
        mean = f"{statistics.mean(values):.3f}" if values else "undefined"
        each = ", ".join(f"{value:.3f}" for value in values)
        rows.append((name.replace("_", " "), mean, spread, each))
    title = f"Diffusion, over {len(measures)} runs"
    console.table(("measure", "mean", "standard deviation", "each run"), rows, title=title)


def _print(result: ClassifierResults) -> None:
    heads = list(result.heads)
    rows = [
        (name.replace("_", " "), *(str(result.heads[head].intervals[name]) for head in heads))
        for name in _SHOWN
    ]
    rows += [
        (name.replace("_", " "), *(f"{result.heads[head].numbers[name]:.3f}" for head in heads))
        for name in _NUMBERS
    ]
    title = (
        f"{result.tiles:,} test tiles of {result.groups:,} groups; 95 % intervals drawn by group"
    )
    console.table(("measure", *(head.replace("_", " ") for head in heads)), rows, title=title)
    table = result.heads["diffusion"].by_class
    by_class = [
        (name, *(_cell(table[key][index]) for key in table))
        for index, name in enumerate(result.names)
    ]
    console.table(("class", *table), by_class, title="Diffusion, by class")
    console.out(result.verdict)


def _cell(value: float) -> str:
    return (
        "undefined"
        if math.isnan(value)
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:.3f}"
    )
