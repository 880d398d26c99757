"""Class streams: frequencies, passes, purity, and the seeded permutation below them."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from histoprep.errors import UsageError
from histoprep.labels import LabelMap, SourceLabel, TargetClass
from histoprep.permutation import keys_of, permute
from histoprep.streams import MAX_POSITION, Stream, Streams, class_streams, single_stream

FIVE = LabelMap(
    "five",
    (SourceLabel(0, "none"),),
    tuple(TargetClass(number, f"class {number}", "#000000") for number in range(5)),
    {0: 0},
)


def table(*tiles: tuple[str, str, list[int]]) -> pa.Table:
    split, pool, classes = (list(column) for column in zip(*tiles, strict=True))
    return pa.table(
        {"split": split, "pool": pool, "classes": pa.array(classes, pa.list_(pa.uint8()))}
    )


def many(sizes: dict[int, int], unconditional: int, split: str = "train") -> pa.Table:
    return table(
        *[(split, "conditional", [value]) for value, size in sizes.items() for _ in range(size)],
        *[(split, "unconditional", [])] * unconditional,
    )


FULL = many({1: 7, 2: 30, 3: 1, 4: 200}, 100)


def made(
    unconditional: float = 0.5, weights: dict[int, float] | None = None, rows: pa.Table = FULL
) -> Streams:
    return class_streams(rows, FIVE, split="train", unconditional=unconditional, weights=weights)


@pytest.mark.parametrize(
    ("unconditional", "cutoffs"),
    [(0.5, [0.5, 0.625, 0.75, 0.875, 1.0]), (0.0, [0.0, 0.25, 0.5, 0.75, 1.0]), (1.0, [1.0] * 5)],
)
def test_published_cutoffs(unconditional: float, cutoffs: list[float]) -> None:
    assert made(unconditional).cutoffs.tolist() == cutoffs


def test_a_stream_holds_the_tiles_in_which_its_class_is_core_present() -> None:
    rows = table(
        ("train", "conditional", [0, 2]),
        ("test", "conditional", [1]),
        ("train", "conditional", [1, 2]),
        ("train", "unconditional", []),
        ("train", "unconditional", [0]),
        ("train", "conditional", [3]),
        ("train", "conditional", [4]),
    )
    found = {
        stream.name: (stream.class_id, stream.rows.tolist()) for stream in made(rows=rows).streams
    }
    assert found == {
        "unconditional": (None, [3, 4]),
        "class 1": (1, [2]),
        "class 2": (2, [0, 2]),
        "class 3": (3, [5]),
        "class 4": (4, [6]),
    }


def test_tiles_that_no_stream_draws_are_told() -> None:
    rows = pa.concat_tables(
        [FULL, table(("train", "conditional", [0]), ("train", "conditional", []))]
    )
    assert made(rows=rows).warnings == (
        "2 of 240 conditional tiles of train have no core-present class, so no stream draws them",
    )
    assert made().warnings == ()


def test_an_empty_stream_gives_its_share_to_the_others_in_proportion() -> None:
    found = made(rows=many({1: 5, 2: 5, 4: 5}, 5))
    # Of 0.875 that is left, 0.5 and three times 0.125.
    assert [stream.probability for stream in found.streams] == pytest.approx(
        [4 / 7, 1 / 7, 1 / 7, 0, 1 / 7]
    )
    assert found.warnings == (
        "stream class 3 has no tile in train; its share of 0.125 goes to the others, in proportion",
    )
    stream, _ = found.place(np.arange(5000), 1)
    assert not (stream == 3).any()
    alone = made(rows=many({2: 5}, 0))
    assert [stream.probability for stream in alone.streams] == [0, 0, 1, 0, 0]
    assert len(alone.warnings) == 4
    assert (alone.place(np.arange(600), 1)[0] == 2).all()


def test_without_any_class_the_unconditional_stream_has_everything() -> None:
    none = LabelMap("none", (SourceLabel(0, "none"),), FIVE.classes[:1], {0: 0})
    found = class_streams(many({}, 5), none, split="train", unconditional=0.15)
    assert [(stream.name, stream.probability) for stream in found.streams] == [
        ("unconditional", 1.0)
    ]
    assert found.warnings == (
        "there is no class but 0, so stream unconditional has everything instead of 0.15",
    )
    assert sorted(found.place(np.arange(5), 1)[1].tolist()) == [0, 1, 2, 3, 4]
    assert class_streams(many({}, 5), none, split="train", unconditional=1.0).warnings == ()


def test_an_empty_stream_that_is_not_asked_for_is_no_warning() -> None:
    assert made(0.0, rows=many({1: 5, 2: 5, 3: 5, 4: 5}, 0)).warnings == ()
    assert made(0.5, {3: 0.0}, many({1: 5, 2: 5, 4: 5}, 5)).warnings == ()


def test_weights_of_the_user_share_what_the_classes_get() -> None:
    found = made(0.2, {1: 3.0, 4: 0.0})
    assert [stream.probability for stream in found.streams] == pytest.approx(
        [0.2, 0.48, 0.16, 0.16, 0]
    )
    stream, _ = found.place(np.arange(100_000), 3)
    assert np.bincount(stream, minlength=5) / 1e5 == pytest.approx(
        [0.2, 0.48, 0.16, 0.16, 0], abs=1e-4
    )


def lines(*texts: str) -> str:
    return "\n  ".join(texts)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: made(1.5),
            lines(
                "unusable probability of the unconditional stream", "seen: 1.5", "expected: 0 to 1"
            ),
        ),
        (
            lambda: made(0.5, {0: 1.0, 9: 1.0}),
            lines(
                "a weight for class 0, which has no stream",
                "seen: [0, 9]",
                "expected: some of [1, 2, 3, 4]",
            ),
        ),
        (
            lambda: made(0.5, {1: -1.0}),
            lines("unusable weight of class 1", "seen: -1.0", "expected: a number of at least 0"),
        ),
        (
            lambda: made(0.5, {1: float("nan")}),
            lines("unusable weight of class 1", "seen: nan", "expected: a number of at least 0"),
        ),
        (
            lambda: made(0.5, dict.fromkeys(range(1, 5), 0.0)),
            lines(
                "every class has the weight 0",
                "try: give one of them a weight, or the unconditional stream the probability 1",
            ),
        ),
        (
            lambda: made(0.5, {2: 1e-6}),
            lines(
                "a stream is too unlikely",
                "seen: probability 1.66707e-07",
                "expected: 0, or at least 1/65536",
            ),
        ),
        (
            lambda: made(rows=many({1: 3}, 3, split="test")),
            lines(
                "no stream of train has both tiles and a share",
                "seen: unconditional: 0 tiles, class 1: 0 tiles, class 2: 0 tiles,"
                " class 3: 0 tiles, class 4: 0 tiles",
                "try: another split, unconditional share or weights",
            ),
        ),
        (
            lambda: single_stream(np.zeros(0, np.int64)),
            lines(
                "there are no tiles to train on", "try: look at the split column of the manifest"
            ),
        ),
        (
            lambda: Streams((Stream("half", None, np.arange(3), 0.5),)),
            lines("the probabilities of the streams do not sum to 1", "seen: 1 streams, sum 0.5"),
        ),
        (
            lambda: Streams((Stream("more", None, np.arange(3), 1.5),)),
            lines("unusable probability of stream more", "seen: 1.5", "expected: 0 to 1"),
        ),
        (
            lambda: Streams((Stream("none", None, np.arange(0), 1.0),)),
            lines("stream none has no tiles and cannot be drawn from", "seen: probability 1"),
        ),
        (
            lambda: made().place(np.array([3, -1]), 0),
            lines("no such training position", "seen: -1 to 3", "expected: 0 to 70368744177663"),
        ),
        (
            lambda: made().place(np.array([0, MAX_POSITION]), 0),
            lines(
                "no such training position",
                "seen: 0 to 70368744177664",
                "expected: 0 to 70368744177663",
            ),
        ),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(draw: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        draw()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("probability", "block"),
    [(0.25, 256), (1 / 256, 256), (1 / 257, 512), (1 / 5000, 8192), (2**-16, 2**16)],
)
def test_a_block_has_a_place_of_every_stream(probability: float, block: int) -> None:
    rare = Stream("rare", 1, np.arange(5), probability)
    streams = Streams((Stream("others", None, np.arange(9), 1 - probability), rare))
    assert streams._block == block
    stream, _ = streams.place(np.arange(4 * block), 0)
    assert np.count_nonzero(stream) == round(4 * block * streams._units[1] / 2**32)


def test_nulls_belong_to_no_stream() -> None:
    rows = table(
        ("train", "conditional", [1]), ("train", "unconditional", []), ("train", "conditional", [1])
    )
    rows = rows.set_column(0, "split", pa.array(["train", "train", None]))
    nothing = pa.table({"split": ["train"], "pool": ["conditional"], "classes": [None]})
    found = made(rows=pa.concat_tables([rows, nothing.cast(rows.schema)]))
    assert [stream.rows.tolist() for stream in found.streams] == [[1], [0], [], [], []]


def test_the_only_stream_is_called_all_and_has_every_row_in_order() -> None:
    [stream] = single_stream(np.array([5, 3, 9])).streams
    assert (stream.name, stream.rows.tolist(), stream.rows.dtype) == ("all", [3, 5, 9], np.int64)


def test_a_pickled_stream_carries_no_drawn_block() -> None:
    streams = made()
    before = len(pickle.dumps(streams))
    streams.place(np.arange(10), 0)
    assert len(pickle.dumps(streams)) == before


def test_a_block_is_drawn_once_for_positions_that_follow_each_other() -> None:
    streams = made()
    streams.place(np.array([5]), 0)
    [(key, drawn)] = streams._last.items()
    streams.place(np.array([6]), 0)
    assert streams._last[key] is drawn
    streams.place(np.array([5]), 1)
    assert list(streams._last) == [(0, 1)]


SHARES = {
    "published": made(),
    "odd": made(0.3, {1: 0.1, 2: 5.0, 3: 1.7}),
    "rare": made(0.5, {1: 0.001}),
}


def chi_square_is_likely(counts: np.ndarray, expected: np.ndarray, freedom: int) -> bool:
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return statistic < chi2.ppf(1 - 1e-6, freedom)


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_streams_come_as_often_as_they_should(name: str, seed: int) -> None:
    streams = SHARES[name]
    stream, _ = streams.place(np.arange(10_000, 210_000), seed)
    shares = np.array([stream.probability for stream in streams.streams])
    expected = shares * len(stream)
    assert chi_square_is_likely(np.bincount(stream, minlength=5), expected, 4)
    # What comes next does not depend on what came.
    pairs = np.bincount(stream[1:] * 5 + stream[:-1], minlength=25)
    assert chi_square_is_likely(pairs, np.outer(shares, shares).ravel() * len(stream), 24)


def test_every_place_in_a_block_is_as_likely_to_be_of_a_stream() -> None:
    counts = np.zeros((64, 5))
    for seed in range(200):
        stream, _ = made().place(np.arange(256), seed)
        np.add.at(counts, (np.arange(256) // 4, stream), 1)
    shares = np.array([stream.probability for stream in made().streams])
    assert chi_square_is_likely(counts, np.broadcast_to(shares * 800, counts.shape), 63 * 4)


def test_frequencies_never_drift() -> None:
    streams = SHARES["odd"]
    shares = np.array([stream.probability for stream in streams.streams])
    stream, _ = streams.place(np.arange(300_000), 5)
    seen = np.cumsum(stream[:, None] == np.arange(5), axis=0)[255::256]
    assert np.abs(seen - np.arange(256, 300_001, 256)[:, None] * shares).max() < 1.01


@pytest.mark.parametrize("name", SHARES)
def test_every_tile_of_a_stream_comes_once_before_any_comes_again(name: str) -> None:
    streams = SHARES[name]
    stream, row = streams.place(np.arange(40_000), 11)
    for index, item in enumerate(streams.streams):
        drawn = row[stream == index]
        size = len(item.rows)
        whole = drawn[: len(drawn) // size * size].reshape(-1, size)
        assert len(whole) or item.probability < 0.001
        np.testing.assert_array_equal(
            np.sort(whole, axis=1), np.broadcast_to(item.rows, whole.shape)
        )
        rest = drawn[len(whole) * size :]
        assert len(np.unique(rest)) == len(rest)


def test_passes_go_on_far_from_the_start() -> None:
    streams = made()
    stream, row = streams.place(np.arange(10**13, 10**13 + 8000), 11)
    for index, item in enumerate(streams.streams):
        drawn, size = row[stream == index], len(item.rows)
        starts = [
            start for start in range(size) if len(np.unique(drawn[start : start + size])) == size
        ]
        assert any(
            (
                np.sort(drawn[start:][: (len(drawn) - start) // size * size].reshape(-1, size))
                == item.rows
            ).all()
            for start in starts
        )


def test_passes_differ_and_seeds_differ() -> None:
    streams = single_stream(np.arange(1000, 1500))
    stream, row = streams.place(np.arange(1500), 4)
    passes = row.reshape(3, 500)
    assert not stream.any()
    np.testing.assert_array_equal(
        np.sort(passes, axis=1), np.broadcast_to(np.arange(1000, 1500), (3, 500))
    )
    assert (passes[0] == passes[1]).mean() < 0.02
    assert (row == streams.place(np.arange(1500), 5)[1]).mean() < 0.02
    assert abs(np.corrcoef(passes[0], np.arange(500))[0, 1]) < 0.2


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, MAX_POSITION - 1) | st.integers(0, 5000), min_size=1, max_size=40),
    st.integers(0, 2**63),
)
def test_a_position_says_the_same_alone_in_any_company_and_in_another_process(
    positions: list[int], seed: int
) -> None:
    streams = SHARES["odd"]
    together = np.stack(streams.place(np.array(positions), seed))
    alone = np.concatenate(
        [np.stack(streams.place(np.array([position]), seed)) for position in positions], axis=1
    )
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(
        np.stack(pickle.loads(pickle.dumps(streams)).place(np.array(positions), seed)), together
    )


def test_ranks_and_batches_see_one_order() -> None:
    streams = made()
    whole = np.stack(streams.place(np.arange(3000), 8))
    by_batch = np.concatenate(
        [
            np.stack(streams.place(np.arange(start, min(start + 77, 3000)), 8))
            for start in range(0, 3000, 77)
        ],
        axis=1,
    )
    np.testing.assert_array_equal(whole, by_batch)
    for rank in range(4):
        np.testing.assert_array_equal(
            whole[:, rank::4], np.stack(streams.place(np.arange(rank, 3000, 4), 8))
        )
    assert streams.place(np.zeros(0, np.int64), 8)[0].shape == (0,)


def test_the_order_is_the_same_on_every_machine_and_for_ever() -> None:
    # A checkpoint stores a position: another order would make resumed runs train on other tiles.
    stream, row = made().place(np.arange(12), 2024)
    assert stream.tolist() == ORDER[0]
    assert row.tolist() == ORDER[1]
    far = made().place(np.array([MAX_POSITION - 1, 10**12]), 2024)
    assert np.stack(far).tolist() == FAR


ORDER = (
    [0, 1, 0, 2, 0, 1, 0, 0, 4, 0, 4, 0],
    [295, 6, 289, 12, 257, 5, 281, 262, 236, 263, 108, 333],
)
FAR = [[1, 4], [6, 79]]


@settings(max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_is_one(size: int, key: int) -> None:
    moved = permute(np.arange(size), np.full(size, size), np.full(size, key, np.uint64))
    np.testing.assert_array_equal(np.sort(moved), np.arange(size))


def test_small_permutations_are_all_about_as_likely() -> None:
    draws = 24_000
    keys = keys_of(3, np.arange(draws))
    moved = np.stack(
        [permute(np.full(draws, value), np.full(draws, 4), keys) for value in range(4)], axis=1
    )
    counts = np.unique(moved @ np.array([64, 16, 4, 1]), return_counts=True)[1]
    assert len(counts) == 24
    assert chi_square_is_likely(counts, np.full(24, draws / 24), 23)


def test_a_large_permutation_moves_far_numbers_without_a_table() -> None:
    size = 10**12 + 39
    values = np.array([0, 1, 2, size - 1])
    moved = permute(values, np.full(4, size), np.full(4, 99, np.uint64))
    assert len(np.unique(moved)) == 4
    assert ((moved >= 0) & (moved < size)).all()
    assert (np.abs(np.diff(moved)) > 1000).all()
