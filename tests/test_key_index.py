"""Keys among others: the same positions as a dict of the first occurrences gives."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from histoprep.digests import hash_text
from histoprep.key_index import KeyIndex, hash_names

NUMBERS = st.lists(st.integers(0, 40) | st.integers(2**64 - 3, 2**64 - 1), max_size=30)


@given(NUMBERS, NUMBERS)
def test_positions_are_those_of_the_first_equal_key(keys: list[int], wanted: list[int]) -> None:
    first = {key: position for position, key in reversed(list(enumerate(keys)))}
    index = KeyIndex(np.array(keys, np.uint64))
    found = index.find(np.array(wanted, np.uint64))
    assert len(index) == len(keys)
    assert found.tolist() == [first.get(key, -1) for key in wanted]


def test_names_are_hashed_in_order() -> None:
    names = ["b", "a", "\udcff", ""]
    assert hash_names(names).tolist() == [hash_text(name) for name in names]
    assert hash_names([]).dtype == np.uint64
