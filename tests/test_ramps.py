"""Maps of numbers in the place of labels: told by long ramps, which no resizing of labels makes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from lossy_masks import bilinear, jpeg, nuclei, regions

from histoprep.tiles.measure import is_gradual, measure_mask
from histoprep.tiles.ramps import has_long_ramps


def is_map_of_numbers(labels: np.ndarray) -> bool:
    labels = np.ascontiguousarray(labels)
    return is_gradual(labels, measure_mask(labels, 64))


def binary(seed: int, size: int = 256) -> np.ndarray:
    return ((regions(seed, size) > np.median(regions(seed, size))) * 255).astype(np.uint8)


def scaled(labels: np.ndarray) -> np.ndarray:
    """Return labels spread over 0 to 255."""
    return (labels.astype(float) * 255 / max(1, labels.max())).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sigma_px", [4, 6, 10])
@pytest.mark.parametrize("peak", [255, 60_000])
def test_smooth_probabilities_are_no_labels(seed: int, sigma_px: int, peak: int) -> None:
    smooth = cv2.GaussianBlur(binary(seed).astype(np.float32) / 255, (0, 0), sigma_px)
    values = (smooth * peak).astype(np.uint8 if peak < 256 else np.uint16)
    assert is_map_of_numbers(values)


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_no_labels(seed: int) -> None:
    distance = cv2.distanceTransform(binary(seed), cv2.DIST_L2, 5)
    assert is_map_of_numbers(distance.astype(np.uint8))


@pytest.mark.parametrize("seed", range(6))
def test_labels_that_were_resized_or_compressed_are_labels(seed: int) -> None:
    for drawn in (regions(seed, 256), scaled(regions(seed, 256)), binary(seed), nuclei(seed, 256)):
        damaged = [jpeg(drawn, quality) for quality in (40, 75, 95)] + [bilinear(drawn)]
        for factor in (2, 3, 4):
            small = np.ascontiguousarray(drawn[::factor, ::factor])
            damaged += [
                cv2.resize(small, drawn.shape[::-1], interpolation=how)
                for how in (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
            ]
        assert not any(map(is_map_of_numbers, damaged))


def test_ramps_are_counted_along_rows_and_columns() -> None:
    ramp = np.tile(np.arange(40, dtype=np.uint8), (40, 1))
    assert has_long_ramps(ramp) and has_long_ramps(ramp.T)
    assert has_long_ramps(np.repeat(ramp, 3, 1))
    # Steps far apart are layers of labels, short ramps edges, and one value is nothing.
    assert not has_long_ramps(np.repeat(ramp, 8, 1))
    assert not has_long_ramps(ramp % 10)
    assert not has_long_ramps(np.zeros((20, 20), np.uint8))
