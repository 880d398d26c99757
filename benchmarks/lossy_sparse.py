"""Clean masks that hold little: one object each, as in figures of mitoses and files of one nucleus
each. Such objects lie in few blocks, so that chance moves their signals most.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from benchmarks.lossy_sets import Family, Mask


def ellipses(
    rng: np.random.Generator, size: int, radii: tuple[float, float], number: int = 1, label: int = 1
) -> Mask:
    """Return upright ellipses anywhere but at the border; `radii` are the least and the largest."""
    labels, (rows, columns) = np.zeros((size, size), np.uint8), np.mgrid[:size, :size]
    margin = min(12, size // 4)
    for _ in range(number):
        row, column = rng.uniform(margin, size - margin, 2)
        tall, wide = rng.uniform(*radii, 2)
        labels[((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 < 1] = label
    return labels


def nucleus(rng: np.random.Generator, size: int) -> Mask:
    """Return one turned ellipse of 255, as in sets with a file for each nucleus."""
    labels = np.zeros((size, size), np.uint8)
    centre = rng.integers(0, size, 2).tolist()
    axes = rng.integers(4, 14, 2).tolist()
    cv2.ellipse(labels, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    return labels


def outline(rng: np.random.Generator, size: int) -> Mask:
    """Return one polygon of 5 to 12 corners, 10 to 30 px across."""
    labels = np.zeros((size, size), np.uint8)
    angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 13))))
    radius = rng.uniform(5, 15) * rng.uniform(0.8, 1.2, len(angle))
    corners = rng.uniform(0, size, 2) + radius[:, None] * np.stack(
        [np.cos(angle), np.sin(angle)], axis=1
    )
    cv2.fillPoly(labels, [corners.astype(np.int32)], 2)
    return labels


def box(rng: np.random.Generator, size: int) -> Mask:
    """Return one box of 3 to 20 px a side."""
    labels = np.zeros((size, size), np.uint8)
    top, left = rng.integers(0, size - 20, 2).tolist()
    height, width = rng.integers(3, 21, 2).tolist()
    labels[top : top + height, left : left + width] = 1
    return labels


def dots(rng: np.random.Generator, size: int) -> Mask:
    """Return one to five dots of 1 to 4 px across, labels 1 and 3."""
    labels = np.zeros((size, size), np.uint8)
    for _ in range(int(rng.integers(1, 6))):
        centre = rng.integers(0, size, 2).tolist()
        cv2.circle(labels, centre, int(rng.integers(0, 3)), int(rng.choice([1, 3])), -1)
    return labels


def line(rng: np.random.Generator, size: int) -> Mask:
    """Return one line of 1 to 3 px across the mask."""
    labels = np.zeros((size, size), np.uint8)
    ends = rng.integers(0, size, (2, 2)).tolist()
    cv2.line(labels, ends[0], ends[1], 1, int(rng.integers(1, 4)))
    return labels


SPARSE: dict[str, Family] = {
    "one ellipse of radius 2 to 4": partial(ellipses, radii=(2, 4)),
    "one ellipse of radius 3 to 6": partial(ellipses, radii=(3, 6)),
    "one ellipse of radius 5 to 9": partial(ellipses, radii=(5, 9)),
    "one ellipse of radius 6 to 12, label 255": partial(ellipses, radii=(6, 12), label=255),
    "three ellipses of radius 2 to 5": partial(ellipses, radii=(2, 5), number=3),
    "one nucleus": nucleus,
    "one polygon": outline,
    "one box": box,
    "dots": dots,
    "one line": line,
}
