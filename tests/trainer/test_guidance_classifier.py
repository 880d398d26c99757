"""The guidance classifier: shapes, laws between its outputs, and where it looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainer.models.guidance_classifier import GuidanceClassifier, top_mean
from trainer.models.regions import (
    SALIENCY_RULES,
    combine_saliency,
    corners_in_pixels,
    crop_regions,
    pick_windows,
    window_cells,
)
from trainer.models.resnet import ResNet18Trunk, SmallTrunk

torch.set_num_threads(1)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def guidance():
    torch.manual_seed(0)
    classifier = GuidanceClassifier(ResNet18Trunk, num_classes=4, roi_saliency="sum_minmax").eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        return classifier, images, classifier(images)


def test_shapes_and_laws(guidance):
    _, _, seen = guidance
    assert seen.fused.shape == seen.global_logits.shape == seen.local_logits.shape == (2, 4)
    assert seen.crops.shape == (2, 6, 3, 32, 32)
    assert seen.attention.shape == (2, 6)
    assert seen.saliency.shape == (2, 4, 7, 7)
    torch.testing.assert_close(seen.attention.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(seen.fused, 0.5 * (seen.global_logits + seen.local_logits))
    torch.testing.assert_close(seen.global_logits, seen.saliency.mean(dim=(-2, -1)))


def test_crops_are_slices_of_the_image_on_its_grid(guidance):
    _, images, seen = guidance
    assert (seen.corners % 32 == 0).all()
    for sample, corners in enumerate(seen.corners.tolist()):
        assert len({tuple(corner) for corner in corners}) == 6
        for region, (row, column) in enumerate(corners):
            assert torch.equal(
                seen.crops[sample, region], images[sample, :, row : row + 32, column : column + 32]
            )


@pytest.mark.parametrize("num_classes", [4, 5, 7, 15])
def test_parameter_count(num_classes):
    assert (
        parameters(GuidanceClassifier(ResNet18Trunk, num_classes=num_classes))
        == 22_484_224 + 1024 * num_classes
    )


def test_red_crops_repeat_the_red_channel():
    torch.manual_seed(0)
    classifier = GuidanceClassifier(
        SmallTrunk, num_classes=3, num_regions=4, crop_px=16, red_crops=True
    ).eval()
    images = torch.randn(2, 3, 64, 64)
    seen = classifier(images)
    assert torch.equal(seen.crops[:, :, 0], seen.crops[:, :, 2])
    row, column = seen.corners[1, 2].tolist()
    assert torch.equal(seen.crops[1, 2, 1], images[1, 0, row : row + 16, column : column + 16])


def test_both_branches_learn_but_not_through_the_positions():
    torch.manual_seed(0)
    classifier = GuidanceClassifier(SmallTrunk, num_classes=3, num_regions=4, crop_px=16)
    classifier(torch.randn(2, 3, 64, 64)).local_logits.sum().backward()
    assert all(parameter.grad is None for parameter in classifier.global_trunk.parameters())
    assert all(parameter.grad is not None for parameter in classifier.local_trunk.parameters())


def test_a_share_of_the_cells():
    maps = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert top_mean(maps, 1.0).item() == 7.5
    assert top_mean(maps, 0.25).item() == 13.5
    assert top_mean(maps, 0.001).item() == 15


def published_example() -> torch.Tensor:
    maps = torch.zeros(1, 2, 7, 7)
    maps[0, 0, 1, 2], maps[0, 0, 3, 3], maps[0, 1, 6, 0], maps[0, 1, 1, 2] = 5, 2.5, 1, 0.5
    return maps


def test_windows_of_the_published_rule():
    combined = combine_saliency(published_example(), torch.zeros(1, 2), "sum_minmax")
    cells = pick_windows(combined, (1, 1), 6)[0].tolist()
    assert cells[:3] == [[1, 2], [6, 0], [3, 3]]
    # Ties at zero: reading order, never the same window twice.
    assert cells[3:] == [[0, 0], [0, 1], [0, 2]]


def test_the_rule_decides_what_is_seen():
    logits = torch.tensor([[-3.0, 3.0]])
    firsts = {
        rule: pick_windows(combine_saliency(published_example(), logits, rule), (1, 1), 1)[
            0, 0
        ].tolist()
        for rule in SALIENCY_RULES
    }
    assert firsts == {"sum_minmax": [1, 2], "prob_weighted": [6, 0], "predicted_class": [6, 0]}
    with pytest.raises(ValueError, match="nonsense"):
        combine_saliency(published_example(), logits, "nonsense")


def test_the_sum_rule_avoids_a_lesion_that_the_weighted_rules_find():
    # At the lesion one class is high, the others at their minimum; elsewhere every class is at mid
    # level.
    torch.manual_seed(0)
    hits = dict.fromkeys(SALIENCY_RULES, 0)
    for trial in range(50):
        maps = 0.5 + 0.05 * torch.randn(1, 4, 8, 8)
        true, row, column = trial % 4, trial % 7, (3 * trial) % 7
        maps[0, :, row : row + 2, column : column + 2] = 0.0
        maps[0, true, row : row + 2, column : column + 2] = 1.0
        logits = 3 * torch.nn.functional.one_hot(torch.tensor([true]), 4).float()
        for rule in SALIENCY_RULES:
            cells = pick_windows(combine_saliency(maps, logits, rule), (2, 2), 1)[0]
            hits[rule] += [row, column] in cells.tolist()
    assert hits["predicted_class"] == hits["prob_weighted"] == 50
    assert hits["sum_minmax"] < 10


def pick_one_by_one(
    saliency: np.ndarray, window: tuple[int, int], count: int
) -> list[tuple[int, int]]:
    """The algorithm of the page, in plain loops."""
    remaining, chosen = saliency.copy(), []
    for _ in range(count):
        best = None
        for row in range(saliency.shape[0] - window[0] + 1):
            for column in range(saliency.shape[1] - window[1] + 1):
                mean = remaining[row : row + window[0], column : column + window[1]].mean()
                if (row, column) not in chosen and (best is None or mean > best[0]):
                    best = (mean, row, column)
        chosen.append(best[1:])
        remaining[best[1] : best[1] + window[0], best[2] : best[2] + window[1]] = 0
    return chosen


@pytest.mark.parametrize("window", [(1, 1), (2, 2), (3, 2)])
def test_windows_agree_with_plain_loops(window):
    # Sixteenths, so that means are exact and ties are ties.
    maps = torch.randint(0, 17, (20, 8, 6), generator=torch.Generator().manual_seed(1)) / 16
    for found, item in zip(
        pick_windows(maps, window, 5).tolist(), maps.double().numpy(), strict=True
    ):
        assert [tuple(cell) for cell in found] == pick_one_by_one(item, window, 5)


@pytest.mark.parametrize(
    ("crop", "image", "cells"),
    [
        (32, 224, 1),
        (112, 224, 4),
        (64, 224, 2),
        (32, 64, 4),
        (32, 128, 2),
        (32, 160, 1),
        (16, 512, 1),
    ],
)
def test_window_sides(crop, image, cells):
    assert window_cells(crop, image, 7) == cells


def test_a_constant_map_gives_distinct_windows():
    combined = combine_saliency(torch.full((2, 3, 7, 7), 4.0), torch.zeros(2, 3), "sum_minmax")
    assert torch.isfinite(combined).all()
    assert len({tuple(cell) for cell in pick_windows(combined, (1, 1), 6)[0].tolist()}) == 6


def test_too_many_windows_are_refused():
    with pytest.raises(ValueError, match="5 windows"):
        pick_windows(torch.zeros(1, 2, 2), (1, 1), 5)


def test_corners_stay_inside_the_image():
    cells = torch.tensor([[[0, 0], [6, 6], [3, 1]]])
    assert corners_in_pixels(cells, (7, 7), (224, 224), 32).tolist() == [
        [[0, 0], [192, 192], [96, 32]]
    ]
    assert corners_in_pixels(cells, (7, 7), (100, 100), 32).tolist()[0][1] == [68, 68]
    crops = crop_regions(
        torch.randn(1, 3, 100, 100), corners_in_pixels(cells, (7, 7), (100, 100), 32), 32
    )
    assert crops.shape == (1, 3, 3, 32, 32)


def test_an_unknown_rule_is_refused_when_built():
    with pytest.raises(ValueError, match="nonsense"):
        GuidanceClassifier(SmallTrunk, num_classes=2, roi_saliency="nonsense")
