"""The numbers of a test: the diffusion beside the guidance classifier alone, on the same tiles,
with intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.classification.table import Predictions
from trainer.metrics.calibration import brier_score, expected_calibration_error
from trainer.metrics.classification import (
    auc_one_vs_one,
    auc_one_vs_rest,
    class_table,
    confusion_matrix,
    mean_defined,
)
from trainer.metrics.intervals import LEVEL, Interval, difference_intervals, score_intervals

COMPARED = "macro_f1"


@dataclass(frozen=True, eq=False)
class Head:
    """How one way to classify did: intervals of the counted measures, further single numbers, one
    row a class, counts [C, C].
    """

    intervals: Mapping[str, Interval]
    numbers: Mapping[str, float]
    by_class: Mapping[str, Sequence[float]]
    counts: np.ndarray


@dataclass(frozen=True, eq=False)
class ClassifierResults:
    """All heads of a test, and `difference`: the diffusion minus the fused guidance classifier on
    the same draws of tiles.
    """

    names: tuple[str, ...]
    tiles: int
    groups: int
    heads: Mapping[str, Head]
    difference: Mapping[str, Interval]

    @property
    def verdict(self) -> str:
        """Return in one sentence whether the diffusion stage helps, by the interval of the
        difference in macro F1.
        """
        found = self.difference[COMPARED]
        shown = (
            f"macro F1 {found.value:+.3f} ({LEVEL:.0%} interval {found.low:+.3f} to"
            f" {found.high:+.3f}) against the guidance classifier alone"
        )
        if found.low > 0:
            return f"The diffusion stage helps: {shown}."
        if found.high < 0:
            return f"The diffusion stage does harm: {shown}."
        return f"The diffusion stage makes no difference that this test can show: {shown}."

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; what is undefined is null."""
        return {
            "classes": list(self.names),
            "tiles": self.tiles,
            "groups": self.groups,
            "interval": f"{LEVEL:.0%} bootstrap percentiles, drawn by group",
            "heads": {
                name: {
                    "measures": {key: value.to_json() for key, value in head.intervals.items()},
                    "numbers": {key: _number(value) for key, value in head.numbers.items()},
                    "by_class": {
                        cls: {key: _number(values[index]) for key, values in head.by_class.items()}
                        for index, cls in enumerate(self.names)
                    },
                    "confusion": head.counts.tolist(),
                }
                for name, head in self.heads.items()
            },
            "diffusion_minus_guidance": {
                key: value.to_json() for key, value in self.difference.items()
            },
            "verdict": self.verdict,
        }


def evaluate(
    predictions: Predictions,
    truth: np.ndarray,
    groups: np.ndarray,
    names: tuple[str, ...],
    *,
    seed: int = 0,
) -> ClassifierResults:
    """Return the evaluation of predictions for labels int [n] and groups int [n]."""
    scores = predictions.heads()
    probabilities = scores | {"diffusion": predictions.probabilities}
    heads = {name: _head(scores[name], probabilities[name], truth, groups, seed) for name in scores}
    first, second = (scores[name].argmax(axis=1) for name in ("diffusion", "guidance_fused"))
    difference = difference_intervals(truth, first, second, len(names), groups, seed=seed)
    return ClassifierResults(names, len(truth), len(np.unique(groups)), heads, difference)


def _head(
    scores: np.ndarray, probabilities: np.ndarray, truth: np.ndarray, groups: np.ndarray, seed: int
) -> Head:
    num_classes = scores.shape[1]
    predicted = scores.argmax(axis=1)
    counts = confusion_matrix(truth, predicted, num_classes)
    areas = auc_one_vs_rest(truth, scores)
    numbers = {
        "auc_one_vs_rest": mean_defined(areas),
        "auc_one_vs_one": auc_one_vs_one(truth, probabilities),
        "calibration_error": expected_calibration_error(truth, probabilities),
        "brier": brier_score(truth, probabilities),
    }
    by_class = {name: values.tolist() for name, values in class_table(counts).items()} | {
        "auc": areas.tolist()
    }
    return Head(
        score_intervals(truth, predicted, num_classes, groups, seed=seed), numbers, by_class, counts
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
