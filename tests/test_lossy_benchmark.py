"""The calibration of lossy masks: what counts as damaged, what nobody can repair, the page; and
clean masks that tempt to a verdict.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lossy_masks as made
import numpy as np
import pytest

from benchmarks import lossy
from benchmarks.lossy_sets import Harm, many_to_one
from benchmarks.lossy_tempting import TEMPTING
from histoprep.lossy.observations import MaskObservation, table_of
from histoprep.lossy.verdict import judge

NUM_MASKS = 32
REGIONS = lossy.Source("regions", tuple(made.regions(seed) for seed in range(NUM_MASKS)))


def cells(harm: Harm) -> list[str]:
    return list(lossy.harm_rows([REGIONS], [harm]))[-1].split(" | ")


def test_what_damage_left_as_it_was_does_not_count() -> None:
    found = Harm("JPEG", lambda mask: made.jpeg(mask, 90), "jpeg-history", 90)
    assert cells(found)[2:5] == ["1 of 1", "1", "1 of 1"]
    none = Harm("none", np.copy, "jpeg-history")
    assert cells(none)[1:4] == ["-", "0 of 0", "0"]
    assert "(1 unchanged)" in cells(none)[-1]
    mapped = Harm("map only", many_to_one, "jpeg-history", without_damage=many_to_one)
    assert cells(mapped)[2] == "0 of 0"
    missed = Harm("one pixel", one_pixel, "jpeg-history")
    assert cells(missed)[1:3] == ["0.01 to 0.01", "0 of 1"]
    assert "regions" in cells(missed)[-1]


def one_pixel(mask: np.ndarray) -> np.ndarray:
    changed = mask.copy()
    changed[50, 50] += 1
    return changed


def test_hidden_pixels_are_those_that_jpeg_made_nothing_of() -> None:
    truth = np.zeros((64, 64), np.uint8)
    truth[:, 32:] = 60
    # One pixel one step off leaves no trace at quality 75.
    truth[20, 20] = 1
    harm = Harm("JPEG", lambda mask: made.jpeg(mask, 75), "jpeg-history", 75)
    found = lossy._repair(truth, harm, held=[0, 60])
    assert found is not None
    wrong, left, hidden = found[:3]
    assert wrong == left == hidden == pytest.approx(100 / truth.size)


@pytest.mark.slow
def test_the_page_has_the_tables_and_what_they_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "lossy",
            "--quick",
            "--data",
            str(tmp_path / "none"),
            "--tables",
            "clean",
            "colour",
            "--write",
            str(page),
        ],
    )
    assert lossy.main() == 0
    text = page.read_text()
    assert text.startswith("# Lossy masks: calibration\n")
    assert [line for line in text.splitlines() if line.startswith("##")] == [
        "## clean",
        "## colour",
    ]
    assert text.count(" s of one processor.") == 2
    assert "| stripes of period 8 and 16 | 8 |" in text
    assert text.endswith("processor.\n")


@pytest.mark.parametrize("name", TEMPTING)
def test_clean_masks_that_look_damaged_stay_silent(name: str) -> None:
    masks = [TEMPTING[name](np.random.default_rng([33, seed]), 128) for seed in range(NUM_MASKS)]
    for seen in (masks, [many_to_one(mask) for mask in masks]):
        assert judge(table_of([MaskObservation.of(observation) for observation in seen])) == []
