"""Small masks, and what encoders and interpolation make of them; shared by the tests of lossy
masks.
"""

from __future__ import annotations

import io
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from histoprep.demo.layout import RECIPES, lay_out


def regions(seed: int, size: int = 128) -> np.ndarray:
    """Return smooth regions of three to five labels of 55."""
    return _regions(seed, size).copy()


@lru_cache(maxsize=512)
def _regions(seed: int, size: int) -> np.ndarray:
    return lay_out(np.random.default_rng([21, seed]), size, RECIPES[seed % len(RECIPES)])


def nuclei(seed: int, size: int = 128) -> np.ndarray:
    """Return cells (2) with a border of one pixel (1) whose label lies between inside and outside
    (0).
    """
    rng = np.random.default_rng([22, seed])
    labels = np.zeros((size, size), np.uint8)
    for _ in range(size * size // 1500):
        centre, axes, angle = (
            rng.integers(0, size, 2).tolist(),
            rng.integers(5, 11, 2).tolist(),
            float(rng.uniform(0, 180)),
        )
        cv2.ellipse(labels, centre, axes, angle, 0, 360, 2, -1)
        cv2.ellipse(labels, centre, axes, angle, 0, 360, 1, 1)
    return labels


def stripes(seed: int, size: int = 128) -> np.ndarray:
    """Return stripes of period 8, beginning anywhere."""
    return np.broadcast_to(7 * ((np.arange(size) + seed % 8) // 4 % 2), (size, size)).astype(
        np.uint8
    )


def boxes(seed: int, size: int = 128) -> np.ndarray:
    """Return boxes whose borders lie on the 8 px grid, over smooth regions."""
    rng, labels = np.random.default_rng([23, seed]), regions(seed, size)
    for _ in range(5):
        top, left, height, width = (
            8 * rng.integers([0, 0, 2, 2], [size // 8, size // 8, 6, 6])
        ).tolist()
        labels[top : top + height, left : left + width] = rng.integers(1, 50)
    return labels


def enlarged(seed: int, size: int = 128, factor: int = 8) -> np.ndarray:
    """Return regions drawn at 1 / factor of the size and enlarged by the nearest pixel."""
    return np.kron(regions(seed, size)[::factor, ::factor], np.ones((factor, factor), np.uint8))


def jpeg(labels: np.ndarray, quality: int) -> np.ndarray:
    """Return what Pillow reads from the grey JPEG that it wrote."""
    stream = io.BytesIO()
    Image.fromarray(labels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).copy()


def bilinear(labels: np.ndarray) -> np.ndarray:
    """Return the mask after it was halved and brought back with bilinear interpolation."""
    return cv2.resize(
        np.ascontiguousarray(labels[::2, ::2]), labels.shape[::-1], interpolation=cv2.INTER_LINEAR
    )


def many_to_one(labels: np.ndarray) -> np.ndarray:
    """Return five classes, each of many labels far apart."""
    return np.random.default_rng(3).integers(0, 5, 256).astype(np.uint8)[labels]


def stream(data: bytes) -> io.BytesIO:
    """Return bytes as an open file."""
    return io.BytesIO(data)
