"""Which pairs are worth decoding, against a slow search for them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histoprep.auditing import duplicates
from histoprep.auditing.duplicates import (
    MAX_BITS_APART,
    Candidates,
    correlation,
    find_candidates,
)
from histoprep.schemas.tiles import SCHEMA


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows as the tiles table has them; each image is unlike the others unless said
    otherwise.
    """
    defaults = [
        {
            "image_path": f"i{index:04}.jpg", "mask_path": None, "image_digest": f"bytes{index}",
            "luminance_digest": f"grey{index}",
            "contrast": 30.0, "width_px": 64, "height_px": 64, "mask_digest": None,
            "mask_error": None,
            "image_hash": (index * 0x9E3779B97F4A7C15) % 2**64,
        }
        for index in range(len(rows))
    ]  # fmt: skip
    made = [{**default, **row} for default, row in zip(defaults, rows, strict=True)]
    schema = pa.schema(
        [SCHEMA.field(name) for name in (*duplicates.COLUMNS, "image_path", "mask_path")]
    )
    return pa.Table.from_pylist(made, schema=schema)


def candidates_of(rows: list[dict[str, Any]]) -> Candidates:
    tiles = table(rows)
    # In two pieces, as a table with row groups is read.
    return find_candidates(
        [tiles.slice(0, 3), tiles.slice(3)], lambda rows: tiles.take(pa.array(rows))
    )


def pairs_of(rows: list[dict[str, Any]]) -> set[tuple[int, int]]:
    found = candidates_of(rows)
    assert found.num_left_out == 0
    return {(int(a[1:5]), int(b[1:5])) for a, b, _, _ in found.pairs}


def masked(digest: str, error: str | None = None, **more: Any) -> dict[str, Any]:
    return {"mask_path": f"{digest}.png", "mask_digest": digest, "mask_error": error, **more}


def test_unlike_images_are_not_compared() -> None:
    assert pairs_of([{}] * 40) == set()


def test_files_of_equal_bytes_are_compared_for_their_masks_alone() -> None:
    same = {"image_digest": "x", "luminance_digest": "y", "image_hash": 5}
    assert pairs_of([same, same]) == set()
    assert pairs_of([masked("m", **same), masked("m", **same)]) == set()
    assert pairs_of([masked("m", **same), masked("n", **same), masked("m", **same)]) == {(0, 1)}
    # A copy without a mask, or with a broken one, does not hide the others.
    assert pairs_of([same, masked("m", **same), masked("n", **same)]) == {(1, 2)}
    assert pairs_of(
        [masked("q", "HP201 truncated", **same), masked("m", **same), masked("n", **same)]
    ) == {(1, 2)}


def test_equal_grey_images_are_compared_by_a_copy_with_a_mask() -> None:
    first = {"image_digest": "x", "luminance_digest": "grey"}
    other = {"luminance_digest": "grey"}
    assert pairs_of([first, masked("m", **first), masked("n", **other)]) == {(1, 2)}
    assert pairs_of([first, other | {"width_px": 65}]) == set()


def test_images_without_structure_are_left_out() -> None:
    flat = {"luminance_digest": "grey", "contrast": 1.0, "image_hash": 7}
    assert pairs_of([flat, flat]) == set()


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=4)),
        min_size=2,
        max_size=25,
    )
)
def test_near_hashes_are_found_like_by_the_slow_search(made: list[tuple[int, set[int]]]) -> None:
    bases = [0, 0xFFFF_0000_FFFF_0000, 0x0123_4567_89AB_CDEF, 0x8000_0000_0000_0001]
    hashes = [bases[base] ^ sum(1 << bit for bit in bits) for base, bits in made]
    first = {value: index for index, value in reversed(list(enumerate(hashes)))}
    expected = {
        (first[value], index) for index, value in enumerate(hashes) if first[value] != index
    }
    distinct = sorted(first.values())
    expected |= {
        (a, b)
        for a, b in itertools.combinations(distinct, 2)
        if (hashes[a] ^ hashes[b]).bit_count() <= MAX_BITS_APART
    }
    assert pairs_of([{"image_hash": value} for value in hashes]) == expected


def test_too_many_pairs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_COMPARISONS", 10)
    found = candidates_of([{"luminance_digest": "grey"}] * 31)
    assert (len(found.pairs), found.num_left_out) == (10, 20)


def test_too_many_hashes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_MAX_HASH_PAIRS", 50)
    # Half of the bits are the same for all, the others are unlike.
    rng = np.random.default_rng(3)
    hashes = [int(value) << 32 for value in rng.choice(2**32, 200, replace=False)]
    found = candidates_of([{"image_hash": value} for value in hashes])
    assert found.num_left_out >= 200 * 199 // 2 - 50 - 200


def test_correlation() -> None:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    assert correlation(image, image) == pytest.approx(1)
    assert correlation(image, 255 - image) == pytest.approx(-1)
    assert correlation(image, (image // 2 + 30).astype(np.uint8)) > 0.99
    other = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    assert correlation(image, other) == pytest.approx(
        float(np.corrcoef(image.ravel(), other.ravel())[0, 1])
    )
    assert correlation(image, image[:10]) == 0
    assert correlation(np.full_like(image, 9), image) == 0
