"""Measures of a classifier over a fixed set of classes; what is undefined is NaN, never an
exception and never a zero in disguise.

Counts are a confusion matrix int64 [C, C], rows the truth. Classes without a tile keep their place:
their recall is undefined and counts as 0 in the macro means, as `sklearn.metrics` has it with
`labels` given and `zero_division=0`.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Integer, Real


def confusion_matrix(
    truth: Integer[np.ndarray, " tiles"], predicted: Integer[np.ndarray, " tiles"], num_classes: int
) -> Integer[np.ndarray, "{num_classes} {num_classes}"]:
    """Return the counts int64 [C, C] (row truth, column prediction) of labels int [n]."""
    return np.bincount(truth * num_classes + predicted, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def class_table(counts: Integer[np.ndarray, " *draws classes classes"]) -> dict[str, np.ndarray]:
    """Return precision, recall, f1, specificity and support of each class, [..., C] of counts [...,
    C, C]; 0 where nothing can be divided by.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    support, called = counts.sum(axis=-1), counts.sum(axis=-2)
    total = counts.sum(axis=(-2, -1))[..., None]
    return {
        "precision": _ratio(hits, called),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + called),
        "specificity": _ratio(total - support - called + hits, total - support),
        "support": support,
    }


def count_scores(counts: Integer[np.ndarray, " *draws classes classes"]) -> dict[str, np.ndarray]:
    """Return accuracy, balanced accuracy, macro and weighted precision, recall and F1 and both
    kappas, each [...] of counts [..., C, C].

    Balanced accuracy is the mean recall of the classes that occur; macro means are over all C
    classes.
    """
    table = class_table(counts)
    support = table["support"]
    total = support.sum(axis=-1)
    shares = _ratio(support, total[..., None])
    scores = {
        "accuracy": _ratio(np.trace(counts, axis1=-2, axis2=-1), total),
        "balanced_accuracy": _ratio(table["recall"].sum(-1), (support > 0).sum(-1)),
    }
    for name in ("precision", "recall", "f1"):
        scores[f"macro_{name}"] = table[name].mean(axis=-1)
        scores[f"weighted_{name}"] = (table[name] * shares).sum(axis=-1)
    return scores | {
        "kappa": cohen_kappa(counts),
        "quadratic_kappa": cohen_kappa(counts, quadratic=True),
    }


def cohen_kappa(
    counts: Integer[np.ndarray, " *draws classes classes"], *, quadratic: bool = False
) -> np.ndarray:
    """Return Cohen's kappa [...] of counts [..., C, C], NaN where chance alone would agree always.

    Quadratic weights suit ordered grades only. Source: Cohen 1960 and 1968.
    """
    steps = np.arange(counts.shape[-1])
    distance = (
        (steps[:, None] - steps[None, :]) ** 2 if quadratic else steps[:, None] != steps[None, :]
    )
    rows, columns = counts.sum(axis=-1).astype(float), counts.sum(axis=-2).astype(float)
    expected = (rows[..., :, None] * columns[..., None, :] * distance).sum(
        axis=(-2, -1)
    ) / np.maximum(rows.sum(axis=-1), 1)
    observed = (counts * distance).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - observed / expected, np.nan)


def auc(
    positive: Real[np.ndarray, " positives"], negative: Real[np.ndarray, " negatives"]
) -> float:
    """Return the probability that a score of `positive` exceeds one of `negative`, ties counting
    half; NaN if either is empty.

    Source: Mann and Whitney 1947.
    """
    if not len(positive) or not len(negative):
        return float("nan")
    ordered = np.sort(negative)
    below, upto = (
        np.searchsorted(ordered, positive, side="left"),
        np.searchsorted(ordered, positive, side="right"),
    )
    return float((below + upto).sum() / 2 / (len(positive) * len(negative)))


def auc_one_vs_rest(
    truth: Integer[np.ndarray, " tiles"], scores: Real[np.ndarray, "tiles classes"]
) -> Float[np.ndarray, " classes"]:
    """Return the AUC [C] of each class against all others, of scores [n, C]; NaN for a class that
    is absent or alone.
    """
    return np.array(
        [
            auc(scores[truth == number, number], scores[truth != number, number])
            for number in range(scores.shape[1])
        ]
    )


def auc_one_vs_one(
    truth: Integer[np.ndarray, " tiles"], scores: Real[np.ndarray, "tiles classes"]
) -> float:
    """Return the mean AUC over pairs of occurring classes, both ways; NaN with fewer than two.
    `scores` [n, C] should sum to 1 in a row.

    Source: Hand and Till 2001, equation 7.
    """
    pairs = []
    for cls, other in combinations(np.unique(truth).tolist(), 2):
        first, second = scores[truth == cls], scores[truth == other]
        pairs.append(
            (auc(first[:, cls], second[:, cls]) + auc(second[:, other], first[:, other])) / 2
        )
    return float(np.mean(pairs)) if pairs else float("nan")


def mean_defined(values: Float[np.ndarray, " values"]) -> float:
    """Return the mean of the values that are not NaN; NaN if none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def roc_curve(
    truth: Bool[np.ndarray, " tiles"], scores: Real[np.ndarray, " tiles"]
) -> tuple[Float[np.ndarray, " thresholds"], Float[np.ndarray, " thresholds"]]:
    """Return (false, true) positive rates of falling thresholds, from (0, 0) to (1, 1); `truth`
    bool [n], `scores` [n].
    """
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(truth[order])[last_of_ties]
    false = 1 + last_of_ties - hits
    return np.append(0.0, _ratio(false, np.array((~truth).sum()))), np.append(
        0.0, _ratio(hits, np.array(truth.sum()))
    )


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.divide(
        above, below, out=np.zeros(np.broadcast(above, below).shape), where=np.asarray(below) > 0
    )
    return result
