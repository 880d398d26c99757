"""Measures of segmentations; counts are confusion matrices int64 [..., C, C], rows the truth."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer


def pixel_confusion(
    truth: Integer[np.ndarray, "height width"],
    predicted: Integer[np.ndarray, "height width"],
    num_classes: int,
) -> Integer[np.ndarray, "{num_classes} {num_classes}"]:
    """Return the counts of pixels (row truth, column prediction); pixels whose truth is no class,
    such as ignored ones, are left out.
    """
    counted = truth < num_classes
    cells = truth[counted].astype(np.int64) * num_classes + predicted[counted]
    counts: np.ndarray = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def class_iou(
    counts: Integer[np.ndarray, "*draws classes classes"],
) -> Float[np.ndarray, "*draws classes"]:
    """Return intersection over union of each class, in [0, 1]; NaN for a class that is neither in
    the truth nor predicted.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    union = counts.sum(axis=-1) + counts.sum(axis=-2) - hits
    iou: np.ndarray = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)
    return iou


def counted_classes(
    counts: Integer[np.ndarray, "classes classes"],
) -> Bool[np.ndarray, " classes"]:
    """Return which classes a mean is over: those with pixels in the truth but class 0, which is
    what nobody labelled; class 0 alone where there is no other.
    """
    occurs: np.ndarray = counts.sum(axis=1) > 0
    others = occurs.copy()
    others[0] = False
    return others if others.any() else occurs


def mean_iou(
    counts: Integer[np.ndarray, "*draws classes classes"],
    classes: Bool[np.ndarray, " classes"],
) -> Float[np.ndarray, "*draws"]:
    """Return the mean IoU over some classes, in [0, 1].

    Args:
        counts: Confusion matrices.
        classes: The classes; see `counted_classes`. A draw without one of them counts the others.

    Returns:
        Float [...], NaN where none of the classes occurs.
    """
    values = class_iou(counts)[..., classes]
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    number = defined.sum(axis=-1)
    mean: np.ndarray = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    return mean


def dice(
    counts: Integer[np.ndarray, "*draws classes classes"],
) -> Float[np.ndarray, "*draws classes"]:
    """Return 2 I / (A + B) of each class, in [0, 1]; NaN as in `class_iou`."""
    iou = class_iou(counts)
    result: np.ndarray = 2 * iou / (1 + iou)
    return result
