"""The places that the page marks are those that were measured."""

from __future__ import annotations

import numpy as np
import pytest

from histoprep.auditing.marks import MAX_BOXES, find_marks
from histoprep.findings import Mark
from histoprep.labels import LabelMap, TargetClass
from histoprep.labels.model import SourceLabel
from histoprep.tiles.measure import measure_mask


def test_specks_are_the_regions_that_are_too_small() -> None:
    labels = np.full((64, 96), 3, np.uint8)
    labels[10:20, 10:20] = 1
    labels[30:33, 40:45] = 1
    # One region of 8 neighbours.
    labels[50, 60] = labels[51, 61] = 7
    assert find_marks(labels, Mark.SPECKS, 64, None) == [(30, 40, 33, 45), (50, 60, 52, 62)]
    assert find_marks(labels, Mark.SPECKS, 15, None) == [(50, 60, 52, 62)]
    assert find_marks(labels, Mark.SPECKS, 2, None) == []


def test_hairlines_are_the_regions_of_labels_that_are_nowhere_thick() -> None:
    labels = np.zeros((96, 96), np.uint8)
    labels[:, 20:23] = 5
    labels[40:60, 40:60] = 6
    labels[5:8, 50:90] = 6
    assert find_marks(labels, Mark.HAIRLINES, 64, None) == [(0, 20, 96, 23)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_unmapped_labels_are_found_by_the_map(dtype: type) -> None:
    labels = np.zeros((40, 40), dtype)
    odd = np.iinfo(dtype).max
    labels[3:5, 7:9] = odd
    labels[20:30, 20:30] = 1
    label_map = LabelMap(
        "m",
        (SourceLabel(0, "a"), SourceLabel(1, "b")),
        (TargetClass(0, "a", "#000000"), TargetClass(1, "b", "#ff0000")),
        {0: 0, 1: 1},
    )
    assert find_marks(labels, Mark.UNMAPPED, 64, label_map) == [(3, 7, 5, 9)]


def test_there_are_as_many_specks_as_were_measured_up_to_a_limit() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((128, 128)) < 0.01).astype(np.uint8)
    specks = int(measure_mask(labels, 64).specks.sum())
    assert specks > MAX_BOXES == len(find_marks(labels, Mark.SPECKS, 64, None))
    few = labels[:48, :48].copy()
    assert len(find_marks(few, Mark.SPECKS, 64, None)) == measure_mask(few, 64).specks.sum() > 5
