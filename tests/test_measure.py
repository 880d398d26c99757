"""Measures of masks and images against slow, independent ways to get them: numpy, scipy.ndimage,
plain loops.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histoprep.tiles.measure import (
    MaskMeasures,
    cell_size,
    describe_colours,
    gradient_hash,
    measure_luminance,
    measure_mask,
)

MIN_AREA_PX = 20


def slow_measures(mask: np.ndarray) -> dict[str, list[float]]:
    """What measure_mask should say, one label at a time."""
    found: dict[str, list[float]] = {
        name: [] for name in ("ids", "pixels", "core_pixels", "radius_px", "regions", "specks")
    }
    for label in np.unique(mask):
        own = mask == label
        regions, count = ndimage.label(own, np.ones((3, 3)))
        areas = np.bincount(regions.ravel())[1:]
        half = min(mask.shape) / 2
        found["ids"].append(int(label))
        found["pixels"].append(int(own.sum()))
        found["core_pixels"].append(
            int(ndimage.binary_erosion(own, np.ones((5, 5)), border_value=1).sum())
        )
        found["radius_px"].append(
            half if own.all() else min(half, float(ndimage.distance_transform_edt(own).max()))
        )
        found["regions"].append(count)
        found["specks"].append(int((areas < MIN_AREA_PX).sum()))
    return found


def assert_same(mask: np.ndarray) -> None:
    seen = measure_mask(mask, MIN_AREA_PX)
    expected = slow_measures(mask)
    for name in ("ids", "pixels", "core_pixels", "regions", "specks"):
        assert getattr(seen, name).tolist() == expected[name], name
    radius = np.array(expected["radius_px"])
    allowed = np.where(radius <= 4, 0.5, 2 + 0.02 * radius)
    assert (np.abs(seen.radius_px - radius) <= allowed).all(), (seen.radius_px, radius)


def random_mask(kind: str, height: int, width: int, num_labels: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    if kind == "blobs":
        fields = [
            cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), rng.uniform(1, 20))
            for _ in range(num_labels)
        ]
        return np.argmax(fields, axis=0)
    if kind == "noise":
        return rng.integers(0, num_labels, (height, width))
    if kind == "stripes":
        return (rows if seed % 2 else columns) // int(rng.integers(1, 9)) % num_labels
    if kind == "checkerboard":
        side = int(rng.integers(1, 9))
        return (rows // side + columns // side) % 2
    mask = np.zeros((height, width), np.uint8)
    for _ in range(num_labels):
        ends = [(int(rng.integers(0, width)), int(rng.integers(0, height))) for _ in range(2)]
        cv2.line(
            mask,
            ends[0],
            ends[1],
            int(rng.integers(1, num_labels + 1)),
            1 if kind == "hairlines" else int(rng.integers(2, 14)),
        )
    return mask


@settings(max_examples=250)
@given(
    kind=st.sampled_from(["blobs", "noise", "stripes", "checkerboard", "hairlines", "bands"]),
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    num_labels=st.integers(1, 9),
    wide=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_measure_as_the_slow_way_says(
    kind: str, height: int, width: int, num_labels: int, wide: bool, seed: int
) -> None:
    mask = random_mask(kind, height, width, num_labels, seed)
    assert_same(mask.astype(np.uint16) * 257 if wide else mask.astype(np.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (64, 1), (2, 2), (3, 200)])
def test_masks_of_one_row_or_column(shape: tuple[int, int]) -> None:
    assert_same(np.zeros(shape, np.uint8))
    assert_same((np.arange(shape[0] * shape[1]).reshape(shape) // 3 % 4).astype(np.uint8))


@pytest.mark.slow
def test_all_256_labels_and_many_16_bit_ones() -> None:
    rows = np.repeat(np.arange(256), 8)[:, None]
    assert_same(np.broadcast_to(rows, (2048, 40)).astype(np.uint8).copy())
    assert_same(np.random.default_rng(1).integers(0, 65536, (60, 60)).astype(np.uint16))


def test_a_view_measures_like_its_copy() -> None:
    mask = random_mask("blobs", 90, 120, 4, 7).astype(np.uint8)
    wide = np.zeros((90, 121), np.uint8)
    wide[:, 1:] = mask
    for name in MaskMeasures.__dataclass_fields__:
        np.testing.assert_array_equal(
            getattr(measure_mask(wide[:, 1:], 9), name), getattr(measure_mask(mask, 9), name)
        )


@pytest.mark.parametrize(
    ("thickness", "radius"), [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 3.0), (7, 4.0)]
)
def test_hairlines_are_measured_across_the_whole_tile(thickness: int, radius: float) -> None:
    mask = np.zeros((512, 512), np.uint8)
    mask[200 : 200 + thickness] = 9
    assert abs(measure_mask(mask, 64).radius_px[1] - radius) <= 0.5


@settings(max_examples=100)
@given(
    cell=st.integers(2, 32),
    cells=st.tuples(st.integers(3, 12), st.integers(3, 12)),
    cut=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_enlarged_mask_has_cells_of_that_size(
    cell: int, cells: tuple[int, int], cut: int, seed: int
) -> None:
    # Neighbouring cells differ, so every multiple of `cell` is a border.
    small = (
        np.add.outer(np.arange(cells[0]), np.arange(cells[1]))
        + np.random.default_rng(seed).integers(0, 2)
    ) % 2
    mask = cv2.resize(
        small.astype(np.uint8), None, fx=cell, fy=cell, interpolation=cv2.INTER_NEAREST
    )
    cut = min(cut, cell - 1)
    assert cell_size(mask[: mask.shape[0] - cut]) == cell
    mask[cell + 1, cell + 1] = 7
    assert cell_size(mask) == 1


@pytest.mark.parametrize("borders", [1, 2, 3])
def test_few_borders_prove_no_cells(borders: int) -> None:
    mask = np.zeros((96, 96), np.uint8)
    for number in range(borders):
        mask[:, 16 * (number + 1) :] += 1
    assert cell_size(mask) == 1
    assert cell_size(mask.T) == 1
    mask[16 * borders :, :16] = 200
    mask[80:, :16] = 201
    assert cell_size(mask) == (16 if borders >= 2 else 1)


def test_a_uniform_mask_has_no_cells() -> None:
    assert measure_mask(np.full((64, 64), 3, np.uint8), 64).cell_px is None


def test_a_luminance_image_may_have_one_pixel() -> None:
    assert measure_luminance(np.array([[230]], np.uint8)).background_share == 1
    assert measure_luminance(np.array([[200]], np.uint8)).background_share == 0


def test_luminance_figures_are_those_of_numpy() -> None:
    grey = cv2.GaussianBlur(
        np.random.default_rng(2).integers(0, 256, (64, 64)).astype(np.uint8), (0, 0), 1.5
    )
    seen = measure_luminance(grey)
    padded = np.pad(grey.astype(float), 1, mode="reflect")
    laplacian = (
        padded[:-2, 1:-1]
        + padded[2:, 1:-1]
        + padded[1:-1, :-2]
        + padded[1:-1, 2:]
        - 4 * padded[1:-1, 1:-1]
    )
    assert seen.focus == pytest.approx(laplacian.var(), rel=1e-9)
    assert seen.mean == pytest.approx(grey.mean())
    assert seen.contrast == pytest.approx(grey.std())
    assert seen.background_share == (grey > 220).mean()


def test_hash_survives_brightness_and_tells_images_apart() -> None:
    rng = np.random.default_rng(3)
    images = [
        cv2.GaussianBlur(rng.integers(0, 200, (64, 64)).astype(np.uint8), (0, 0), 6)
        for _ in range(20)
    ]
    hashes = [gradient_hash(image) for image in images]
    assert all(0 <= hash_ < 1 << 64 for hash_ in hashes)
    assert all(
        (gradient_hash(item + 20) ^ seen).bit_count() == 0
        for item, seen in zip(images, hashes, strict=True)
    )
    assert min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]) > 8


def test_colours_are_counted() -> None:
    rgb = np.random.default_rng(4).integers(0, 3, (20, 30, 3)).astype(np.uint8)
    assert describe_colours(rgb) == (len(np.unique(rgb.reshape(-1, 3), axis=0)), False)
    grey = np.repeat(rgb[..., :1], 4, axis=2)
    grey[..., 3] = 255
    assert describe_colours(grey) == (3, True)
    assert describe_colours(rgb[..., :2]) == (3, True)
    assert describe_colours(np.array([[0.0, 0.5], [0.5, np.nan]])) == (3, True)
