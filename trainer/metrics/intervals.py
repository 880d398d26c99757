"""Bootstrap intervals of classification measures, drawn by tile or by group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from trainer.metrics.classification import count_scores

NUM_DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A measure and the percentile interval of its bootstrap distribution."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return for instance `0.812 (0.771-0.853)`."""
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"

    def to_json(self) -> dict[str, float | None]:
        """Return value, low and high, null where undefined."""
        values = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if math.isnan(value) else value for name, value in values.items()}


def draw_counts(
    groups: Integer[np.ndarray, " tiles"], num_draws: int, seed: int
) -> Integer[np.ndarray, "{num_draws} tiles"]:
    """Return how often each tile is in each draw: whole groups drawn with replacement, as many as
    there are.

    Source: Efron and Tibshirani 1993, chapter 8.

    Args:
        groups: Group of each tile: tiles of a case are not independent, so a case comes whole.
        num_draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        int64 [num_draws, tiles].
    """
    names, place = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num_draws)
    return drawn[:, place]


def score_intervals(
    truth: Integer[np.ndarray, " tiles"],
    predicted: Integer[np.ndarray, " tiles"],
    num_classes: int,
    groups: Integer[np.ndarray, " tiles"],
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return every measure of `count_scores` with its bootstrap interval.

    Args:
        truth: True classes, int [tiles].
        predicted: Predicted classes, int [tiles].
        num_classes: Number of classes.
        groups: Group of each tile, int [tiles]; whole groups are drawn.
        num_draws: Number of draws.
        seed: Seed of the draws.
    """
    draws = draw_counts(groups, num_draws, seed)
    return _intervals(*_scores(_cells(truth, predicted, num_classes), draws))


def difference_intervals(
    truth: Integer[np.ndarray, " tiles"],
    first: Integer[np.ndarray, " tiles"],
    second: Integer[np.ndarray, " tiles"],
    num_classes: int,
    groups: Integer[np.ndarray, " tiles"],
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return `first` minus `second` in every measure, with intervals, paired: both are scored on
    the same draws of the same tiles.

    Args:
        truth: True classes, int [tiles].
        first: Predicted classes of one classifier, int [tiles].
        second: Predicted classes of the other, int [tiles].
        num_classes: Number of classes.
        groups: Group of each tile, int [tiles]; whole groups are drawn.
        num_draws: Number of draws.
        seed: Seed of the draws.
    """
    draws = draw_counts(groups, num_draws, seed)
    (whole, drawn), (other_whole, other_drawn) = (
        _scores(_cells(truth, cls, num_classes), draws) for cls in (first, second)
    )
    return _intervals(
        {name: whole[name] - other_whole[name] for name in whole},
        {name: drawn[name] - other_drawn[name] for name in drawn},
    )


def _cells(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return each tile's one count in a flat confusion matrix, int64 [n, C * C]."""
    cells = np.zeros((len(truth), num_classes**2), dtype=np.int64)
    cells[np.arange(len(truth)), truth * num_classes + predicted] = 1
    return cells


def _scores(
    cells: np.ndarray, draws: np.ndarray
) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Return the measures of all tiles, and of each draw."""
    num_classes = math.isqrt(cells.shape[1])
    return count_scores(cells.sum(axis=0).reshape(num_classes, num_classes)), count_scores(
        (draws @ cells).reshape(-1, num_classes, num_classes)
    )


def _intervals(
    values: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]
) -> dict[str, Interval]:
    return {name: percentile_interval(float(value), drawn[name]) for name, value in values.items()}


def percentile_interval(value: float, drawn: Float[np.ndarray, " draws"]) -> Interval:
    """Return a measure with the 95 % percentile interval of its draws; draws where it is undefined
    (NaN) are left out.
    """
    tail = (1 - LEVEL) / 2
    defined = drawn[~np.isnan(drawn)]
    low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (np.nan, np.nan)
    return Interval(value, float(low), float(high))
