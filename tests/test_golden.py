"""Values that must never change by accident: whatever was stored, split or trained with them would
not be the same any more.

A change of one of these is a change of format: give it a version, say so in the change log, and
only then write the new value here.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from histoprep.digests import digest, digest_text, hash_text
from histoprep.lossy.verdict import LossKind, MaskSignals, judge
from histoprep.permutation import keys_of, permute
from histoprep.split import assign_by_hash, assign_units, join_units
from histoprep.split.units import SplitRows, name_keys
from histoprep.streams import Stream, Streams
from histoprep.tiles.measure import gradient_hash


def test_twenty_positions_of_a_stream() -> None:
    streams = Streams(
        (
            Stream("a", 0, np.arange(50), 0.5),
            Stream("b", 1, np.arange(50, 57), 0.3),
            Stream("u", None, np.arange(57, 100), 0.2),
        )
    )
    positions = np.array(
        [
            0,
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            9,
            255,
            256,
            257,
            1000,
            65_535,
            65_536,
            10**6,
            10**9,
            2**40,
            2**46 - 1,
        ]
    )
    stream, row = streams.place(positions, seed=7)
    assert stream.tolist() == [0, 0, 2, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 2, 0, 0, 1, 1]
    assert row.tolist() == [
        37,
        23,
        67,
        33,
        45,
        50,
        52,
        32,
        28,
        12,
        20,
        24,
        50,
        51,
        54,
        99,
        3,
        19,
        52,
        52,
    ]


def test_a_permutation() -> None:
    key = keys_of(3, 1, np.array([5]))
    assert key.tolist() == [14418691831088769660]
    assert permute(np.arange(10), np.full(10, 10), np.full(10, keys_of(3, 1)[0])).tolist() == [
        9,
        0,
        3,
        7,
        1,
        5,
        4,
        2,
        8,
        6,
    ]


def test_digests() -> None:
    assert digest(b"histoprep") == "0032766fd9916fab6f2273dcb9b984d8"
    assert digest_text("é/ü") == "36bcf62d9f25556dc97853c3d1ac6e5e"
    assert hash_text("a") == 16629034431890738719


def test_the_hash_of_an_image() -> None:
    grey = ((np.arange(32)[:, None] * 7 + np.arange(40)[None] * 11) % 256).astype(np.uint8)
    assert gradient_hash(grey) == 0xF7E7EFCEDE9C3D79


def test_a_split() -> None:
    keys = name_keys([f"slide{index // 5}" for index in range(60)], 0, "group")
    none = np.zeros(0, np.int64)
    profiles = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 0, 1, 1]])
    columns = ("conditional", "unconditional", "class 1", "class 2")
    rows = SplitRows(
        keys,
        np.ones(60, bool),
        none,
        none.astype(np.uint64),
        (np.arange(60) % 4).astype(np.int32),
        profiles,
        columns,
    )
    units = join_units(rows)
    solved = assign_units(
        units, rows, {"train": Fraction(8, 10), "val": Fraction(1, 10), "test": Fraction(1, 10)}
    )
    assert solved.splits[::5].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    hashed = assign_by_hash(units, {"train": Fraction(8, 10), "test": Fraction(2, 10)})
    assert hashed.splits[::5].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2]


def signals(
    *, mixed: int = 100, shifted: int, rough_pairs: int, num_masks: int = 40
) -> MaskSignals:
    """Return alike masks whose contacts, fixed points and ramps say nothing."""
    zeros = np.zeros(num_masks, np.int64)
    full = np.ones(num_masks, np.int64)
    return MaskSignals(
        mixed * full,
        shifted * full,
        rough_pairs * full,
        4 * rough_pairs * full,
        rough_pairs * full,
        zeros,
        zeros,
        zeros,
        zeros,
        zeros,
        zeros,
        zeros > 0,
        np.full(num_masks, ""),
        *[zeros] * 6,
        np.full(num_masks, np.nan),
        zeros,
        zeros,
    )


@pytest.mark.parametrize(
    ("shifted", "rough_pairs", "is_lossy"),
    [
        (
            107,
            950,
            True,
        ),  # 9.5 differing neighbours a block, and a phase of .065 where .063 is asked for
        (107, 949, False),
        (106, 950, False),
        (112, 0, False),  # without rough blocks, .107 where .11 is asked for
        (113, 0, True),
    ],
)
def test_where_a_source_begins_to_be_lossy(shifted: int, rough_pairs: int, is_lossy: bool) -> None:
    verdicts = judge(signals(shifted=shifted, rough_pairs=rough_pairs))
    assert [verdict.kind for verdict in verdicts] == [LossKind.JPEG_HISTORY] * is_lossy


def test_a_verdict_is_firm_from_thirty_masks_on() -> None:
    for number, firm in ((29, False), (30, True)):
        [verdict] = judge(signals(shifted=140, rough_pairs=950, num_masks=number))
        assert verdict.firm is firm
