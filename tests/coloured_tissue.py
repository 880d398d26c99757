"""Generated tiles whose colour depends on the class of their mask."""

from __future__ import annotations

import cv2
import numpy as np

SIDE_PX = 192
# Glass, stroma, epithelium and nuclei-rich tissue: RGB of transmitted light.
_COLOURS = np.array([(236, 232, 238), (214, 150, 190), (160, 90, 160), (98, 60, 130)], np.float32)


def regions(seed: int, side_px: int = SIDE_PX, num_classes: int = 3) -> np.ndarray:
    """Return a mask uint8 [side, side] of smooth regions, labels 0 to `num_classes` - 1."""
    rng = np.random.default_rng([seed, 1])
    coarse = rng.normal(size=(7, 7)).astype(np.float32)
    field = cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    cuts = np.quantile(field, np.arange(1, num_classes) / num_classes)
    return np.digitize(field, cuts).astype(np.uint8)


def stained(labels: np.ndarray, seed: int, noise: float = 14.0) -> np.ndarray:
    """Return the image of a mask, uint8 RGB [height, width, 3]: each class in its colour, with a
    texture of several sizes and a stain that differs from tile to tile.
    """
    rng = np.random.default_rng([seed, 2])
    height, width = labels.shape
    image = _COLOURS[labels % len(_COLOURS)].copy()
    for size in (4, 12, 40):
        texture = rng.normal(size=(height // size + 2, width // size + 2)).astype(np.float32)
        image += noise * cv2.resize(texture, (width, height))[..., None]
    image *= rng.uniform(0.85, 1.1)
    return np.clip(image, 0, 255).astype(np.uint8)


def tile(seed: int, side_px: int = SIDE_PX, num_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and the mask that fits it."""
    labels = regions(seed, side_px, num_classes)
    return stained(labels, seed), labels
