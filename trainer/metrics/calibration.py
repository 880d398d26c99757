"""Calibration: how close predicted probabilities are to observed frequencies."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer

NUM_BINS = 15


def expected_calibration_error(
    truth: Integer[np.ndarray, " tiles"],
    probabilities: Float[np.ndarray, "tiles classes"],
    num_bins: int = NUM_BINS,
) -> float:
    """Return the mean distance between confidence and accuracy, in [0, 1]; NaN without a tile.

    The mean is over bins of equal width, weighted by their tiles. Source: Guo et al. 2017, arXiv
    1706.04599, equation 3.

    Args:
        truth: True classes.
        probabilities: Class probabilities; the confidence is the largest of a row.
        num_bins: Number of bins.
    """
    bins = reliability(truth, probabilities, num_bins)
    total = bins["tiles"].sum()
    return (
        float(np.sum(bins["tiles"] * np.abs(bins["accuracy"] - bins["confidence"])) / total)
        if total
        else float("nan")
    )


def reliability(
    truth: Integer[np.ndarray, " tiles"],
    probabilities: Float[np.ndarray, "tiles classes"],
    num_bins: int = NUM_BINS,
) -> dict[str, np.ndarray]:
    """Return tiles, mean confidence and accuracy of each bin (low, high], [num_bins]; 0 where a bin
    is empty.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    place = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    tiles = np.bincount(place, minlength=num_bins)
    share = np.maximum(tiles, 1)
    return {
        "tiles": tiles,
        "confidence": np.bincount(place, weights=confidence, minlength=num_bins) / share,
        "accuracy": np.bincount(place, weights=right, minlength=num_bins) / share,
    }


def brier_score(
    truth: Integer[np.ndarray, " tiles"], probabilities: Float[np.ndarray, "tiles classes"]
) -> float:
    """Return the mean squared distance to the one-hot truth, in [0, 2] (Brier 1950); NaN without a
    tile.
    """
    if not len(truth):
        return float("nan")
    return float(
        np.square(probabilities - np.eye(probabilities.shape[1])[truth]).sum(axis=1).mean()
    )
