"""Clean masks that look like damaged ones to a careless eye: straight boundaries, staircases,
enlarged masks, predictions.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from benchmarks.lossy_sets import Family, Mask, binary, layers


def rectangles(rng: np.random.Generator, size: int, step: int = 1) -> Mask:
    """Return boxes of 0 and 1 whose edges lie anywhere, or at multiples of `step`: nothing but
    straight boundaries and corners.
    """
    labels = np.zeros((size, size), np.uint8)
    for _ in range(10):
        top, left = (step * rng.integers(0, size // step, 2)).tolist()
        height, width = (step * rng.integers(4 // step + 1, size // (3 * step), 2)).tolist()
        labels[top : top + height, left : left + width] ^= 1
    return labels


def polygons(rng: np.random.Generator, size: int) -> Mask:
    """Return polygons of 3 to 8 corners, labels 1 to 4 on 0."""
    labels = np.zeros((size, size), np.uint8)
    for _ in range(7):
        angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        radius = rng.uniform(size / 12, size / 4) * rng.uniform(0.6, 1, len(angle))
        corners = rng.uniform(0, size, 2) + radius[:, None] * np.stack(
            [np.cos(angle), np.sin(angle)], axis=1
        )
        cv2.fillPoly(labels, [corners.astype(np.int32)], int(rng.integers(1, 5)))
    return labels


def diamonds(rng: np.random.Generator, size: int) -> Mask:
    """Return squares that stand on a corner: every boundary is a staircase of single pixels."""
    labels, (rows, columns) = np.zeros((size, size), np.uint8), np.mgrid[:size, :size]
    for _ in range(8):
        (row, column), radius = rng.integers(0, size, 2), rng.integers(6, size // 5)
        labels[np.abs(rows - row) + np.abs(columns - column) < radius] = rng.integers(1, 5)
    return labels


def predictions(rng: np.random.Generator, size: int, stride: int = 8) -> Mask:
    """Return what a network of that stride predicts: the largest of three scores that were enlarged
    with interpolation.
    """
    scores = [
        cv2.GaussianBlur(rng.normal(size=(size // stride + 2,) * 2).astype(np.float32), (0, 0), 1.0)
        for _ in range(3)
    ]
    large = [
        cv2.resize(score, None, fx=stride, fy=stride, interpolation=cv2.INTER_LINEAR)[:size, :size]
        for score in scores
    ]
    return np.argmax(large, axis=0).astype(np.uint8)


def enlarged(rng: np.random.Generator, size: int, family: Family, factor: int) -> Mask:
    """Return a mask of a family enlarged by the nearest pixel, cut out anywhere."""
    top, left = rng.integers(0, factor, 2).tolist()
    large = np.kron(family(rng, size // factor + 8), np.ones((factor, factor), np.uint8))
    return np.ascontiguousarray(large[top : top + size, left : left + size])


TEMPTING: dict[str, Family] = {
    "rectangles, 0 and 1": rectangles,
    "rectangles, 0 and 1, even places": partial(rectangles, step=2),
    "rectangles, 0 and 1, places by 4": partial(rectangles, step=4),
    "polygons": polygons,
    "diamonds": diamonds,
    "predictions of stride 8": predictions,
    "one class enlarged by 2": partial(enlarged, family=binary, factor=2),
    "one class enlarged by 3": partial(enlarged, family=binary, factor=3),
    "one class enlarged by 4": partial(enlarged, family=binary, factor=4),
    "skin layers enlarged by 2": partial(enlarged, family=layers, factor=2),
    "polygons enlarged by 8": partial(enlarged, family=polygons, factor=8),
}
