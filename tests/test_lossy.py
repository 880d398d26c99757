"""Signals of one mask, the quality it names, and the verdict on a source; damage by real encoders,
each case with its clean twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import cv2
import lossy_masks as made
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from histoprep.imageio import through_jpeg
from histoprep.lossy import jpeg_history, measure_signals
from histoprep.lossy.blocks import (
    as_blocks,
    count_grids,
    mixed_blocks,
    uniform_blocks,
    uniform_cells,
    whole_blocks,
)
from histoprep.lossy.jpeg_history import MAX_TELLING_QUALITY, find_quality, is_fixed
from histoprep.lossy.observations import MaskObservation, table_of
from histoprep.lossy.verdict import FIRM_MASKS, LossKind, Verdict, judge

NUM_MASKS = 32
CLEAN: dict[str, Callable[[int], np.ndarray]] = {
    "regions": made.regions,
    "nuclei": made.nuclei,
    "stripes": made.stripes,
    "boxes": made.boxes,
    "nearest x8": made.enlarged,
    "nearest x2": partial(made.enlarged, factor=2),
    "one class": lambda seed: (made.regions(seed) == made.regions(seed)[64, 64]).astype(np.uint8),
}


def verdicts(masks: Iterable[np.ndarray]) -> list[Verdict]:
    return judge(table_of([MaskObservation.of(mask) for mask in masks]))


def slow_counts(labels: np.ndarray) -> tuple[int, float]:
    """Count mixed blocks by loops: steps between neighbours count unless they cross a line of the 8
    px grid.
    """
    height, width = (size // 8 * 8 for size in labels.shape)

    def mixed(top: int, left: int) -> bool:
        for y in range(top, top + 8):
            for x in range(left, left + 8):
                if x + 1 < left + 8 and (x + 1) % 8 and labels[y, x] != labels[y, x + 1]:
                    return True
                if y + 1 < top + 8 and (y + 1) % 8 and labels[y, x] != labels[y + 1, x]:
                    return True
        return False

    def share(down: int, right: int) -> float:
        places = [(y, x) for y in range(down, height - 7, 8) for x in range(right, width - 7, 8)]
        return sum(mixed(y, x) for y, x in places) / len(places)

    blocks = height * width // 64
    return round(share(0, 0) * blocks), min(share(0, 4), share(4, 0), share(4, 4)) * blocks


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(16, 41),
    width=st.integers(16, 41),
    wide=st.booleans(),
)
def test_block_counts_are_those_of_plain_loops(
    seed: int, height: int, width: int, wide: bool
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(
        np.repeat(rng.integers(0, 3, (-(-height // 4), -(-width // 4))), 4, 0), 4, 1
    )[:height, :width]
    labels[rng.integers(0, height, 3), rng.integers(0, width, 3)] = 5
    labels = labels.astype(np.uint16 if wide else np.uint8) * (300 if wide else 1)
    counts = count_grids(*uniform_cells(whole_blocks(labels)))
    own, shifted = slow_counts(labels)
    assert counts.own == own
    assert counts.shifted == pytest.approx(shifted)


def test_blocks_keep_their_order() -> None:
    labels = np.arange(24 * 20, dtype=np.uint16).reshape(24, 20)
    assert (as_blocks(labels)[1, 1] == labels[8:16, 8:16]).all()
    labels = np.zeros((24, 24), np.uint8)
    labels[3, 17] = labels[20, 2] = 1
    assert np.argwhere(~uniform_blocks(labels)).tolist() == [[0, 2], [2, 0]]
    assert mixed_blocks(labels)[0, 3, 1] == 1
    assert mixed_blocks(labels)[1, 4, 2] == 1
    assert len(mixed_blocks(labels, 1)) == 1


@pytest.mark.parametrize(
    "labels", [np.zeros((64, 64), np.uint8), np.eye(8, dtype=np.uint8)], ids=["uniform", "tiny"]
)
def test_masks_that_cannot_say_anything_say_nothing(labels: np.ndarray) -> None:
    assert measure_signals(labels) is None


def test_signals_of_a_straight_boundary() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 30:] = 9
    seen = measure_signals(labels)
    assert seen is not None
    assert seen.blocks.own == 8
    assert seen.roughness == 8
    assert (seen.contacts, seen.soft_contacts, seen.ramp_ids) == (64, 0, ())
    ramp = labels.copy()
    ramp[:, 30], ramp[:, 31] = 3, 6
    seen = measure_signals(ramp)
    assert seen is not None
    assert (seen.contacts, seen.soft_contacts, seen.ramp_ids, seen.ramp_pixels) == (
        192,
        192,
        (3, 6),
        128,
    )


def test_contacts_of_labels_that_follow_each_other_tell_nothing() -> None:
    seen = measure_signals((made.regions(1) == 28).astype(np.uint8))
    assert seen is not None
    assert seen.contacts == 0


@pytest.mark.parametrize("quality", [60, 75, 90, 95])
def test_a_strip_of_blocks_goes_through_jpeg_as_in_the_whole_mask(quality: int) -> None:
    labels = made.regions(3)
    whole = made.jpeg(labels, quality)
    assert (through_jpeg(labels, quality) == whole).all()
    kept = (as_blocks(made.jpeg(whole, quality)) == as_blocks(whole)).all(axis=(2, 3))
    assert (is_fixed(mixed_blocks(whole), quality) == kept[~uniform_blocks(whole)]).all()


@pytest.mark.parametrize("quality", [60, 75, 80, 85, 90, 95])
def test_the_quality_of_one_mask_is_named(quality: int) -> None:
    found = [find_quality(made.jpeg(made.regions(seed, 256), quality)) for seed in range(6)]
    near = [item for item in found if item is not None and abs(item.quality - quality) <= 1]
    assert len(near) >= 5
    assert min(item.share for item in near) > 0.1


def test_a_clean_mask_is_no_fixed_point() -> None:
    found = [find_quality(made.regions(seed), tuple(range(50, 96))) for seed in range(6)]
    assert all(item is not None and item.share < 0.2 for item in found)


def test_quality_is_not_looked_for_where_nothing_can_be_found() -> None:
    assert find_quality(np.zeros((64, 64), np.uint8)) is None
    assert find_quality(made.regions(0).astype(np.uint16) * 300) is None


@pytest.mark.parametrize("name", CLEAN)
def test_clean_sources_stay_silent(name: str) -> None:
    assert verdicts(CLEAN[name](seed) for seed in range(NUM_MASKS)) == []


@pytest.mark.parametrize("name", ["regions", "nuclei", "boxes"])
@pytest.mark.parametrize("quality", [75, 90, 95])
def test_a_source_that_was_jpeg_is_found_and_its_quality_named(name: str, quality: int) -> None:
    (found,) = verdicts(made.jpeg(CLEAN[name](seed), quality) for seed in range(NUM_MASKS))
    assert found.kind is LossKind.JPEG_HISTORY
    assert found.firm
    assert found.quality is not None
    assert abs(found.quality - quality) <= 5
    # Those that do not show it by themselves are not listed, and said to be unclear.
    assert len(found.masks) >= 0.7 * NUM_MASKS
    assert len(found.masks) + len(found.unclear) == NUM_MASKS
    assert f"JPEG quality {found.quality}" in found.evidence


@pytest.mark.parametrize("quality", [75, 90, 95])
def test_a_label_map_hides_the_quality_and_not_the_damage(quality: int) -> None:
    (found,) = verdicts(
        made.many_to_one(made.jpeg(made.regions(seed), quality)) for seed in range(NUM_MASKS)
    )
    assert found.kind is LossKind.JPEG_HISTORY
    assert found.quality is None
    assert verdicts(made.many_to_one(made.regions(seed)) for seed in range(NUM_MASKS)) == []


@pytest.mark.parametrize("quality", [65, 75, 85, 93])
@pytest.mark.parametrize(
    "values", [(0, 255), (0, 50, 100, 150, 200)], ids=["0 and 255", "0 to 200"]
)
def test_the_quality_of_clipped_masks_is_named(values: tuple[int, ...], quality: int) -> None:
    table = np.array(values, np.uint8)
    drawn = [table[made.regions(seed) % len(values)] for seed in range(NUM_MASKS)]
    assert verdicts(drawn) == []
    (found,) = verdicts(
        made.jpeg(drawing, quality) for drawing in drawn if drawing.min() != drawing.max()
    )
    assert (found.kind, found.quality) == (LossKind.JPEG_HISTORY, quality)


def test_neither_interpolation_nor_a_label_map_is_taken_for_clipping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    white = [(255 * (made.regions(seed) % 2)).astype(np.uint8) for seed in range(8)]
    smooth = [
        cv2.resize(
            cv2.resize(mask, (64, 64), interpolation=cv2.INTER_NEAREST),
            (128, 128),
            interpolation=cv2.INTER_LINEAR,
        )
        for mask in white
    ]
    mapped = [
        np.random.default_rng(3).integers(0, 5, 256).astype(np.uint8)[made.jpeg(mask, 85)]
        for mask in white
    ]
    found = [fixed for item in white + smooth + mapped if (fixed := find_quality(item))]
    assert len(found) >= 16
    # Above 97 a quality tells nothing, and without a block that it explains.
    assert all(item.quality > MAX_TELLING_QUALITY or not item.fixed for item in found)
    assert all(item.quality > MAX_TELLING_QUALITY for item in map(find_quality, smooth) if item)
    monkeypatch.setattr(jpeg_history, "_BLOCKS_MADE_AGAIN", 0.0)
    assert any(item.quality <= MAX_TELLING_QUALITY for item in map(find_quality, smooth) if item)


def test_another_encoder_is_found_too() -> None:
    def through_simplejpeg(labels: np.ndarray) -> np.ndarray:
        encoded = simplejpeg.encode_jpeg(labels[..., None].copy(), quality=90, colorspace="GRAY")
        return np.asarray(simplejpeg.decode_jpeg(encoded, colorspace="GRAY")[..., 0])

    (found,) = verdicts(through_simplejpeg(made.regions(seed)) for seed in range(NUM_MASKS))
    assert (found.kind, found.quality) == (LossKind.JPEG_HISTORY, 90)


def test_steps_of_one_are_known_by_their_fixed_points() -> None:
    def layers(seed: int) -> np.ndarray:
        depth = np.mgrid[:128, :128][0] + 6 * np.sin(np.arange(128) / (5 + seed % 7)) + seed
        return (depth // 11).astype(np.uint8)

    (found,) = verdicts(made.jpeg(layers(seed), 85) for seed in range(NUM_MASKS))
    assert found.kind is LossKind.JPEG_HISTORY
    assert found.quality is not None
    assert abs(found.quality - 85) <= 5
    assert verdicts(layers(seed) for seed in range(NUM_MASKS)) == []


def test_good_and_bad_masks_in_one_folder_are_told_apart() -> None:
    bad = {seed: made.jpeg(made.regions(seed), 90) for seed in range(0, 2 * NUM_MASKS, 2)}
    (found,) = verdicts(bad.get(seed, made.regions(seed)) for seed in range(2 * NUM_MASKS))
    assert found.masks.tolist() == sorted(bad)


def test_interpolated_masks_are_known_by_their_ramps() -> None:
    (found,) = verdicts(made.bilinear(made.regions(seed)) for seed in range(NUM_MASKS))
    assert found.kind is LossKind.INTERPOLATED
    assert found.quality is None
    assert len(found.masks) == NUM_MASKS


def test_smoothed_masks_are_told_from_clean_ones_beside_them() -> None:
    two = [(255 * (made.regions(seed) > 20)).astype(np.uint8) for seed in range(2 * NUM_MASKS)]
    masks = [
        item if index % 2 else cv2.GaussianBlur(item, (0, 0), 0.8) for index, item in enumerate(two)
    ]
    (found,) = verdicts(masks)
    assert found.kind is LossKind.INTERPOLATED
    assert found.masks.tolist() == [
        index for index, item in enumerate(two) if index % 2 == 0 and item.min() != item.max()
    ]


def test_few_masks_give_a_weaker_verdict() -> None:
    (found,) = verdicts(made.jpeg(made.regions(seed), 90) for seed in range(FIRM_MASKS - 1))
    assert not found.firm
    (found,) = verdicts(made.jpeg(made.regions(seed), 90) for seed in range(FIRM_MASKS))
    assert found.firm


def test_containers_need_no_other_evidence() -> None:
    masks = [made.regions(0), np.zeros((64, 64), np.uint8)]
    seen = [
        MaskObservation(measure_signals(mask), find_quality(mask), "jpeg") for mask in masks
    ] + [
        MaskObservation(None, None, "webp"),
        MaskObservation.of(made.regions(1)),
    ]
    found = judge(table_of(seen))
    assert [(item.kind, item.masks.tolist(), item.firm) for item in found] == [
        (LossKind.JPEG_CONTAINER, [0, 1], True),
        (LossKind.WEBP_CONTAINER, [2], True),
    ]


def one_ellipse(seed: int) -> np.ndarray:
    """Return a mask of one nucleus of radius 2 to 4 px."""
    rng = np.random.default_rng([99, seed])
    row, column = np.mgrid[:128, :128]
    centre, radius = rng.uniform(12, 116, 2), rng.uniform(2, 4, 2)
    inside = ((row - centre[0]) / radius[0]) ** 2 + ((column - centre[1]) / radius[1]) ** 2 < 1
    return inside.astype(np.uint8)


def test_clean_masks_of_one_small_object_stay_silent() -> None:
    table = table_of([MaskObservation.of(one_ellipse(seed)) for seed in range(300)])
    assert judge(table) == []
    # The density of steps knows no grid: the same wherever an object lies in its block.
    moved = [np.roll(one_ellipse(0), shift, axis=(0, 1)) for shift in range(8)]
    density = table_of([MaskObservation.of(mask) for mask in moved]).density
    assert np.ptp(density) == 0 and 0.24 < density[0] < 0.29
