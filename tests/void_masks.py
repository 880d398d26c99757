"""Masks in which a value marks pixels without a label, for tests of what becomes of these."""

from __future__ import annotations

import cv2
import numpy as np

SIDE_PX = 96


def blobs(seed: int, num_labels: int = 3, side_px: int = SIDE_PX) -> np.ndarray:
    """Return labels 0 to `num_labels`, uint8 [side, side]: a disc each on label 0."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side_px, side_px), np.uint8)
    for label in range(1, num_labels + 1):
        centre = rng.integers(side_px // 4, 3 * side_px // 4, 2).tolist()
        radius = int(rng.integers(side_px // 8, side_px // 4))
        cv2.circle(labels, centre, radius, label, -1)
    return labels


def boundary(labels: np.ndarray, width_px: int = 3) -> np.ndarray:
    """Return where labels meet, bool, in a band of about `width_px` pixels."""
    kernel = np.ones((width_px, width_px), np.uint8)
    return cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)


COLOURS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]], np.uint8)


def coloured(labels: np.ndarray, void: int) -> np.ndarray:
    """Return labels 0 to 3 in colours, uint8 [side, side, 3]; 255 becomes `void`, 0xRRGGBB."""
    image = COLOURS[np.where(labels == 255, 0, labels)]
    image[labels == 255] = list(void.to_bytes(3, "big"))
    return image


def with_void(labels: np.ndarray, value: int = 255, width_px: int = 3) -> np.ndarray:
    """Return labels with `value` along their boundaries; uint16 for a value above 255."""
    result = labels.astype(np.uint8 if value < 256 else np.uint16)
    result[boundary(labels, width_px)] = value
    return result
