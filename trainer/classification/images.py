"""Images of a test: confusion matrix, ROC curves, training curves and a sheet of what the
classifier saw in one image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoprep.figures import plain_text
from trainer.metrics.classification import auc_one_vs_rest, roc_curve

_GREY = "#8a8f98"
_STYLE = {"font.family": "DejaVu Sans", "font.size": 8.0, "axes.edgecolor": _GREY}
_DPI = 150
_NAME_LENGTH = 28


@dataclass(frozen=True, eq=False)
class SheetFacts:
    """What the classifier saw in one image of C classes.

    `image` uint8 [H, W, 3]; `saliency` [h, w] of the predicted class; `corners` [K, 2] (row,
    column) and `weights` [K] of regions of `crop_px`; `guidance_map` [C, N]: guidance by |i - j|;
    `path` [steps, C]: mean label after each step; `guidance` and `probabilities` [C].
    """

    title: str
    image: np.ndarray
    saliency: np.ndarray
    corners: np.ndarray
    weights: np.ndarray
    crop_px: int
    guidance_map: np.ndarray
    path: np.ndarray
    guidance: np.ndarray
    probabilities: np.ndarray


def draw_confusion(counts: np.ndarray, names: Sequence[str], title: str) -> bytes:
    """Return a PNG of counts [C, C], rows the truth; a cell is as dark as its share of its row."""
    side = 2.2 + 0.42 * len(names)
    with _figure((side + 0.6, side)) as (figure, png):
        axes = figure.subplots()
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        labels = [_text(name) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), labels)
        axes.set(xlabel="predicted", ylabel="truth", title=_text(title))
        for (row, column), count in np.ndenumerate(counts):
            axes.text(
                column,
                row,
                f"{count:,}",
                ha="center",
                va="center",
                color="white" if shares[row, column] > 0.5 else "black",
            )
        return png()


def draw_roc(truth: np.ndarray, scores: Mapping[str, np.ndarray], names: Sequence[str]) -> bytes:
    """Return a PNG with one panel for each head (name -> scores [n, C]) and one curve a class,
    against all others.
    """
    with _figure((4.2 * len(scores), 4.0)) as (figure, png):
        for axes, (head, values) in zip(
            np.atleast_1d(figure.subplots(1, len(scores))), scores.items(), strict=True
        ):
            areas = auc_one_vs_rest(truth, values)
            for index, name in enumerate(names):
                if not np.isnan(areas[index]):
                    false, true = roc_curve(truth == index, values[:, index])
                    axes.plot(
                        false, true, label=f"{_text(name)}: {areas[index]:.3f}", linewidth=1.2
                    )
            axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.6)
            axes.set(
                xlabel="false positive rate",
                ylabel="true positive rate",
                title=head.replace("_", " "),
                aspect="equal",
            )
            if axes.lines[:-1]:
                axes.legend(loc="lower right", fontsize=7)
        return png()


def draw_training(histories: Mapping[str, Path]) -> bytes:
    """Return a PNG of loss and validation F1 over the steps of each stage, from its metrics.csv."""
    with _figure((4.5 * max(len(histories), 1), 3.2)) as (figure, png):
        for axes, (stage, path) in zip(
            np.atleast_1d(figure.subplots(1, max(len(histories), 1))),
            histories.items(),
            strict=False,
        ):
            with path.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            axes.plot(*_column(rows, "loss"), color="tab:blue")
            axes.set(xlabel="step", ylabel="training loss", title=stage)
            right = axes.twinx()
            right.plot(*_column(rows, "val_f1"), color="tab:orange", marker="o", markersize=2.5)
            right.set(ylabel="validation macro F1", ylim=(0, 1.02))
        return png()


def draw_sheet(facts: SheetFacts, names: Sequence[str]) -> bytes:
    """Return a PNG of one image: regions with their weights, saliency, guidance map, the way of the
    labels, and both answers.
    """
    labels = [_text(name) for name in names]
    with _figure((15.0, 3.4)) as (figure, png):
        panels = figure.subplots(1, 5)
        _draw_regions(panels[0], facts)
        height, width = facts.image.shape[:2]
        panels[1].imshow(facts.image)
        panels[1].imshow(
            facts.saliency,
            cmap="inferno",
            alpha=0.55,
            extent=(0, width, height, 0),
            interpolation="bilinear",
        )
        panels[1].set_title("saliency of the predicted class")
        drawn = panels[2].imshow(facts.guidance_map, cmap="viridis", aspect="auto")
        panels[2].set_yticks(range(len(names)), labels)
        panels[2].set(xlabel="|i - j|: global to local", title="guidance map")
        figure.colorbar(drawn, ax=panels[2], fraction=0.05)
        for index, label in enumerate(labels):
            panels[3].plot(
                range(1, len(facts.path) + 1), facts.path[:, index], label=label, linewidth=1.2
            )
        panels[3].set(xlabel="denoising step", ylabel="mean label", title="denoising")
        panels[3].legend(fontsize=6)
        _draw_answers(panels[4], facts, labels)
        for panel in panels[:2]:
            panel.set_axis_off()
        figure.suptitle(_text(facts.title, 120))
        return png()


def _draw_regions(axes: Any, facts: SheetFacts) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(facts.image)
    for (row, column), weight in zip(facts.corners.tolist(), facts.weights.tolist(), strict=True):
        axes.add_patch(
            Rectangle(
                (column, row),
                facts.crop_px,
                facts.crop_px,
                fill=False,
                edgecolor="cyan",
                linewidth=0.6 + 2 * weight,
            )
        )
        axes.text(
            column + 1,
            row + 1,
            f"{weight:.2f}",
            color="black",
            fontsize=5.5,
            va="top",
            backgroundcolor="cyan",
        )
    axes.set_title("regions and their weights")


def _draw_answers(axes: Any, facts: SheetFacts, labels: Sequence[str]) -> None:
    place = np.arange(len(labels))
    axes.barh(place - 0.2, facts.guidance, height=0.38, color=_GREY, label="guidance alone")
    axes.barh(place + 0.2, facts.probabilities, height=0.38, color="tab:blue", label="diffusion")
    axes.set_yticks(place, labels)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), title="probability")
    axes.legend(fontsize=6)


def _column(rows: Iterable[Mapping[str, str]], name: str) -> tuple[list[int], list[float]]:
    found = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    return [step for step, _ in found], [value for _, value in found]


def _text(name: str, length: int = _NAME_LENGTH) -> str:
    """Return a name that is not too long."""
    return name if len(name) <= length else name[: length - 1] + "…"


@contextmanager
def _figure(size: tuple[float, float]) -> Iterator[tuple[Any, Callable[[], bytes]]]:
    """Yield an empty figure of `size` inches and what makes a PNG of it: the same figure gives the
    same bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with plain_text(_STYLE):
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)

        def png() -> bytes:
            stream = io.BytesIO()
            figure.savefig(stream, format="png", metadata={"Software": None})
            return stream.getvalue()

        yield figure, png
