"""The search for what JPEG was given: its model of JPEG against real encoders, and its labels
against the truth.
"""

from __future__ import annotations

import io

import cv2
import lossy_masks as made
import numpy as np
import pytest
from PIL import Image

from histoprep.lossy.blocks import as_blocks, uniform_blocks
from histoprep.lossy.jpeg_history import find_quality
from histoprep.lossy.jpeg_repair import repair_jpeg
from histoprep.lossy.observations import MaskObservation, table_of
from histoprep.lossy.search import kept_coefficients, quantisation_steps, search_blocks
from histoprep.lossy.verdict import LossKind, judge

QUALITIES = [75, 85, 90, 95]


def coefficients(block: np.ndarray) -> np.ndarray:
    return cv2.dct(block.astype(np.float32)).ravel()


@pytest.mark.parametrize("quality", [50, *QUALITIES, 99, 100])
def test_steps_are_those_that_pillow_writes(quality: int) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(stream, "JPEG", quality=quality)
    assert quantisation_steps(quality).tolist() == list(Image.open(stream).quantization[0])


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize(("high", "share"), [(1, 0.998), (20, 0.97), (255, 0.92)])
def test_kept_coefficients_are_those_of_the_original_rounded(
    quality: int, high: int, share: float
) -> None:
    truth = (made.regions(3) > 20).astype(np.uint8) * np.uint8(high)
    seen, mixed = as_blocks(made.jpeg(truth, quality)), ~uniform_blocks(truth)
    steps, middle = quantisation_steps(quality), np.array([1024, *[0] * 63])
    kept = kept_coefficients(seen[mixed], steps)
    multiples = (kept - middle) / steps
    assert np.abs(multiples - np.round(multiples)).max() < 1e-3
    true, decoded = (
        np.stack([coefficients(block) for block in blocks[mixed]])
        for blocks in (as_blocks(truth), seen)
    )

    def possible(found: np.ndarray) -> float:
        # Encoders and decoders round to whole numbers.
        return float(np.mean(np.abs(true - found) < steps / 2 + 0.7))

    assert possible(kept) > share
    # The darkest and the lightest values were cut off in decoding; some of that is found again.
    assert possible(kept) >= possible(np.round((decoded - middle) / steps) * steps + middle) + (
        0.01 if high == 255 else 0
    )


@pytest.mark.parametrize("quality", QUALITIES)
def test_search_repairs_what_nearest_values_leave(
    quality: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the search finds is looked at also where the command would refuse it.
    monkeypatch.setattr("histoprep.lossy.jpeg_repair._MIN_CHANGED_SHARE", 0.0)
    monkeypatch.setattr("histoprep.lossy.jpeg_repair._MAX_AGAINST_NONE", np.inf)
    # Labels that are two and three apart, next to each other.
    truths = [
        np.array([0, 2, 5], np.uint8)[np.digitize(made.regions(seed), [18, 34])]
        for seed in range(2)
    ]
    damaged = [made.jpeg(truth, quality) for truth in truths]
    searched = [
        np.mean(repair_jpeg(item, quality).labels != truth)
        for item, truth in zip(damaged, truths, strict=True)
    ]
    monkeypatch.setattr("histoprep.lossy.jpeg_repair.MAX_BLOCKS", -1)
    snapped = [
        np.mean(repair_jpeg(item, quality).labels != truth)
        for item, truth in zip(damaged, truths, strict=True)
    ]
    assert np.mean(searched) < 0.9 * np.mean(snapped)


def test_the_same_blocks_give_the_same_labels_among_their_choices() -> None:
    truth = made.regions(4)
    damaged = made.jpeg(truth, 85)
    mixed = np.nonzero(~uniform_blocks(damaged))
    seen, ids = as_blocks(damaged)[mixed], np.unique(truth)
    choices = np.tile(np.append(ids, -1).astype(np.int16), (len(seen), 1))
    start = ids[np.abs(damaged[..., None].astype(int) - ids).argmin(axis=2)]
    first, second = (
        search_blocks(start.astype(np.uint8), seen, mixed, choices, 85) for _ in range(2)
    )
    assert (first == second).all()
    assert set(np.unique(first)) <= set(ids.tolist())
    assert np.mean(first != as_blocks(truth)[mixed]) < 0.02


@pytest.mark.parametrize("quality", [75, 80, 85, 88, 90, 95])
def test_masks_of_two_labels_that_follow_each_other_are_found_and_dated(quality: int) -> None:
    clean = [(made.regions(seed, 256) > 20).astype(np.uint8) for seed in range(36)]
    assert judge(table_of([MaskObservation.of(mask) for mask in clean])) == []
    (found,) = judge(table_of([MaskObservation.of(made.jpeg(mask, quality)) for mask in clean]))
    assert found.kind is LossKind.JPEG_HISTORY
    assert found.quality is not None
    assert abs(found.quality - quality) <= 5


def test_of_equally_good_qualities_a_common_one_is_named() -> None:
    found = find_quality(made.jpeg((made.regions(1, 256) > 20).astype(np.uint8), 75))
    assert found is not None
    assert (found.quality, found.share) == (75, 1.0)


def test_stripes_of_part_of_a_tile_stay_silent() -> None:
    # The source of the calibration that fixed points above quality 96 alone once gave away as JPEG.
    from benchmarks.lossy_sets import stripes

    assert (
        judge(
            table_of(
                [
                    MaskObservation.of(stripes(np.random.default_rng([11, seed]), 256))
                    for seed in range(36)
                ]
            )
        )
        == []
    )
