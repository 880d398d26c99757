"""Intervals of an evaluation in words: what was not measured, and what a single group gave."""

from __future__ import annotations

import math

from trainer.evaluation.page import between


def test_an_interval_says_when_it_is_not_known_or_of_one_group() -> None:
    assert between(0.25, 0.5) == "0.25 to 0.50"
    assert between(math.nan, 0.5) == between(0.25, math.inf) == "not known"
    assert between(0.7, 0.7) == "0.70 in all draws"
