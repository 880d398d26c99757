"""What shapes say of JPEG where values say nothing: straight boundaries, and labels that a map has
renamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import lossy_masks as made
import numpy as np
import pytest

from benchmarks.lossy_sets import binary, layers, many_to_one, stripes
from histoprep.lossy.blocks import as_blocks, mixed_places
from histoprep.lossy.jpeg_history import FixedPoint, find_renamed
from histoprep.lossy.observations import MaskObservation, table_of
from histoprep.lossy.shapes import is_broken, is_curved, is_upright
from histoprep.lossy.verdict import LossKind, Verdict, judge
from histoprep.tiles import TileOptions
from histoprep.tiles.measurer import Measurer

NUM_MASKS = 36


def verdicts(masks: Iterable[np.ndarray]) -> list[Verdict]:
    return judge(table_of([MaskObservation.of(mask) for mask in masks]))


def rectangles(seed: int) -> np.ndarray:
    """Return boxes of label 1 on 0 whose edges are at even places: straight boundaries and
    corners.
    """
    rng, labels = np.random.default_rng(seed), np.zeros((256, 256), np.uint8)
    for _ in range(10):
        top, left = (2 * rng.integers(0, 120, 2)).tolist()
        height, width = (2 * rng.integers(2, 40, 2)).tolist()
        labels[top : top + height, left : left + width] ^= 1
    return labels


def test_shapes_of_blocks() -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[:16, 3:] = 1
    labels[16:24, 5:] = 1
    labels[24:, 8:] = 1
    labels[28, 20] = 4
    place = mixed_places(labels)
    blocks = as_blocks(labels)[place]
    assert np.transpose(place).tolist() == [[0, 0], [1, 0], [2, 0], [3, 2]]
    assert is_upright(blocks).tolist() == [True, True, True, False]
    assert is_curved(blocks).tolist() == [False, False, False, True]
    # The first one goes on at both ends, as far as the mask does.
    assert is_broken(labels, blocks, place).tolist() == [False, True, True, False]
    turned = np.ascontiguousarray(labels.T)
    place = mixed_places(turned)
    blocks = as_blocks(turned)[place]
    assert not is_upright(blocks[:3]).any()
    assert is_curved(blocks).tolist() == [False, False, False, True]
    assert is_broken(turned, blocks, place).tolist() == [False, True, True, False]


def test_names_of_labels_do_not_matter() -> None:
    damaged = made.jpeg((made.regions(1, 256) > 20).astype(np.uint8), 90)
    two = np.minimum(damaged, 1)
    found = find_renamed(two)
    assert found is not None
    assert found.quality == 0
    assert found.share > 0.5
    assert (
        find_renamed(np.array([3, 200], np.uint8)[two])
        == find_renamed(np.array([7, 9], np.uint16)[two])
        == found
    )


def test_drawn_shapes_are_no_fixed_points() -> None:
    found = [
        find_renamed(number)
        for seed in range(8)
        for number in (made.regions(seed, 256), made.nuclei(seed))
    ]
    shares = [item.share for item in found if item is not None]
    assert len(shares) > 8
    assert max(shares) < 0.24


@pytest.mark.parametrize(
    "labels",
    [
        np.kron(np.eye(8, dtype=np.uint8), np.ones((8, 8), np.uint8)),
        np.full((64, 64), 300, np.uint16),
    ],
)
def test_without_a_curve_nothing_is_said(labels: np.ndarray) -> None:
    assert find_renamed(labels) is None


def of_family(
    family: Callable[[np.random.Generator, int], np.ndarray], start: int
) -> list[np.ndarray]:
    return [family(np.random.default_rng([start, index]), 256) for index in range(NUM_MASKS)]


@pytest.mark.parametrize("family", [binary, layers])
@pytest.mark.parametrize("quality", [75, 90, 95])
def test_labels_one_step_apart_are_found_after_a_label_map(
    family: Callable[[np.random.Generator, int], np.ndarray], quality: int
) -> None:
    drawn = of_family(family, 71)
    assert verdicts(many_to_one(drawing) for drawing in drawn) == []
    (found,) = verdicts(many_to_one(made.jpeg(drawing, quality)) for drawing in drawn)
    assert (found.kind, found.quality, found.firm) == (LossKind.JPEG_HISTORY, None, True)
    assert found.evidence


def test_straight_boundaries_prove_nothing() -> None:
    # Both were taken for JPEG once: quality 90 leaves four in five of these blocks as they are.
    assert verdicts(rectangles(seed) for seed in range(NUM_MASKS)) == []
    assert verdicts(of_family(stripes, 501)) == []
    assert verdicts((stripe == 3).astype(np.uint8) for stripe in of_family(stripes, 501)) == []


@pytest.mark.parametrize("quality", [75, 85])
def test_straight_boundaries_that_jpeg_touched_are_found(quality: int) -> None:
    (found,) = verdicts(made.jpeg(5 * rectangles(seed), quality) for seed in range(NUM_MASKS))
    assert found.kind is LossKind.JPEG_HISTORY
    assert found.quality is not None
    assert abs(found.quality - quality) <= 5


def test_the_tiles_table_has_what_is_judged() -> None:
    from histoprep import imageio

    masks = [
        np.minimum(made.jpeg((made.regions(seed, 256) > 20).astype(np.uint8), 90), 1) * np.uint8(7)
        for seed in range(6)
    ]
    count = 0
    for mask in masks:
        row, seen = (
            Measurer(TileOptions()).mask(imageio.encode_mask_png(mask)),
            MaskObservation.of(mask).fixed,
        )
        fixed = seen or FixedPoint(0, 0, 0)
        assert (
            row["mask_jpeg_quality"] or 0,
            row.get("mask_fixed_blocks", 0),
            row.get("mask_tried_blocks", 0),
        ) == (
            fixed.quality,
            fixed.fixed,
            fixed.blocks,
        )
        count += fixed.blocks > 0
    assert count
