"""Counts and lists of messages."""

from __future__ import annotations

import pytest

from histoprep.phrases import first_of, plural


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 masks"), (1, "1 mask"), (2, "2 masks"), (1234, "1,234 masks")]
)
def test_a_number_with_its_noun(number: int, text: str) -> None:
    assert plural(number, "mask") == text


@pytest.mark.parametrize(
    ("items", "separator", "limit", "text"),
    [
        ([], ", ", 10, ""),
        (["a"], ", ", 10, "a"),
        (["a", "b"], ", ", 2, "a, b"),
        (["a", "b", "c"], ", ", 2, "a, b and 1 more"),
        ([3, 5, 7, 9], ", ", 1, "3 and 3 more"),
        (["a", "b", "c"], "; ", 2, "a; b; and 1 more"),
        (list(range(2000)), ", ", 1, "0 and 1,999 more"),
    ],
)
def test_the_first_items_and_how_many_more(
    items: list[object], separator: str, limit: int, text: str
) -> None:
    assert first_of(items, separator=separator, limit=limit) == text
