"""Thin labels that no block and no core speaks for: a repair finds them, or refuses, and lets no
false ones in.
"""

from __future__ import annotations

import contextlib

import cv2
import lossy_masks as made
import numpy as np
import pytest

from benchmarks.lossy_sets import Mask, distant_bands, layers, nuclei, stripes, walls
from histoprep.errors import BrokenFileError
from histoprep.lossy import jpeg_repair, missing
from histoprep.lossy.jpeg_repair import repair_jpeg
from histoprep.lossy.under_repair import UnderRepair
from histoprep.tiles.measure import measure_mask


def drawn(draw: object, count: int) -> list[Mask]:
    """Return masks on seeds of this file's own."""
    assert callable(draw)
    return [draw(np.random.default_rng([907, seed]), 256) for seed in range(count)]


@pytest.fixture(autouse=True)
def _repairs_of_small_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at what the search finds also where the command would refuse it."""
    monkeypatch.setattr(jpeg_repair, "_MIN_CHANGED_SHARE", 0.0)


def outcome(truth: Mask, quality: int) -> tuple[float, int] | None:
    """Return the share of wrong pixels after repair, relative to the damage, and the thick labels
    that went; None when refused.
    """
    damaged = made.jpeg(truth, quality)
    try:
        repaired = repair_jpeg(damaged, quality).labels
    except BrokenFileError as error:
        assert error.verdict == "HP403 too-thin"
        return None
    seen = measure_mask(truth, 1)
    lost = set(seen.ids[seen.radius_px >= 3].tolist()) - set(np.unique(repaired).tolist())
    return float(np.mean(repaired != truth) / np.mean(damaged != truth)), len(lost)


# Of masks that are repaired at all: the most of the damage that may be left, 1 is all of it, and
# how many a repair without this would refuse.
@pytest.mark.parametrize(
    ("draw", "quality", "most", "refused"),
    [(layers, 85, 1.1, 4), (layers, 95, 1.2, 3), (stripes, 75, 0.2, 4)],
)
@pytest.mark.slow
def test_thin_labels_are_found(
    draw: object, quality: int, most: float, refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = drawn(draw, 6)
    found = [item for truth in masks if (item := outcome(truth, quality))]
    assert len(found) >= 4
    assert sum(lost for _, lost in found) == 0
    assert np.mean([wrong for wrong, _ in found]) < most
    monkeypatch.setattr(missing, "_MOST_LABELS", 0)
    assert sum(outcome(truth, quality) is None for truth in masks) >= max(
        refused, len(masks) - len(found) + 1
    )


def test_a_thin_label_is_found_where_clipping_hides_that_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = distant_bands(np.random.default_rng([11, 9]), 256)
    damaged = made.jpeg(truth, 90)
    assert set(np.unique(repair_jpeg(damaged, 90).labels)) == set(np.unique(truth))
    monkeypatch.setattr(missing, "_MIN_FITTING", 0.0)
    assert set(np.unique(repair_jpeg(damaged, 90).labels)) < set(np.unique(truth))


def test_regions_get_no_label_that_jpeg_made() -> None:
    for seed in range(6):
        truth = made.regions(seed, 256)
        repaired = repair_jpeg(made.jpeg(truth, 75), 75).labels
        assert set(np.unique(repaired)) <= set(np.unique(truth))


def test_a_repair_that_explains_less_than_the_damage_is_refused() -> None:
    # Borders of one pixel, which no radius tells from what JPEG made.
    for truth in drawn(nuclei, 3):
        damaged = made.jpeg(truth, 90)
        with pytest.raises(
            BrokenFileError, match="times less likely than the mask as it is"
        ) as caught:
            repair_jpeg(damaged, 90)
        assert caught.value.verdict == "HP403 too-thin"


@pytest.mark.slow
def test_labels_of_the_mask_count_in_every_block_that_shows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masks = drawn(walls, 4)
    wrong = [outcome(truth, 95) for truth in masks]
    monkeypatch.setattr(UnderRepair, "shown", lambda mask: np.zeros((256, len(mask.rows)), bool))
    without = [outcome(truth, 95) for truth in masks]
    both = [
        (item[0], other[0]) for item, other in zip(wrong, without, strict=True) if item and other
    ]
    assert len(both) >= 2
    assert np.mean([side for side, _ in both]) < 0.9 * np.mean([other for _, other in both])


def test_one_object_of_a_label_that_the_source_holds_is_repaired() -> None:
    # No block holds its label only, and fewer show it than are asked of labels nobody knows.
    repaired = 0
    for seed in range(12):
        rng, true = np.random.default_rng([41, seed]), np.zeros((64, 64), np.uint8)
        centre, axes = rng.integers(20, 44, 2).tolist(), rng.integers(4, 7, 2).tolist()
        cv2.ellipse(true, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
        damaged = made.jpeg(true, 75)
        with contextlib.suppress(BrokenFileError):
            labels = repair_jpeg(damaged, 75, (0, 255)).labels
            assert np.count_nonzero(labels != true) <= 2
            repaired += 1
    assert repaired >= 7
