"""Laws of the split: published counts, nothing crosses, order does not matter, the integer program
is the optimum.
"""

from __future__ import annotations

import itertools
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histoprep.errors import UsageError
from histoprep.split import (
    SPLITS,
    SplitRows,
    assign_by_hash,
    assign_units,
    complete_split,
    exact_fractions,
    join_units,
    largest_remainders,
    leaking_units,
    parse_fractions,
)
from histoprep.split import certificate as split_certificate
from histoprep.split import units as split_units
from histoprep.split.certificate import certify, crossing
from histoprep.split.given import read_split_file
from histoprep.split.solver import (
    MAX_INTEGERS,
    MISSING_PENALTY,
    SplitProblem,
    greedy,
    improve,
    integer_program,
    solve,
)
from histoprep.split.units import NO_SPLIT, name_keys, repeated

TRAIN, VAL, TEST = range(3)
NINE_ONE = parse_fractions("0.9/0.1")
EIGHT_ONE_ONE = parse_fractions("0.8/0.1/0.1")


Tile = tuple[str | None, str, bool, set[int]]


def make_rows(
    tiles: list[Tile], num_classes: int, seed: int = 0, pixels: list[str | None] | None = None
) -> SplitRows:
    """Return rows of (group, image, conditional, classes)."""
    groups = name_keys([tile[0] for tile in tiles], seed, "group")
    images = name_keys([tile[1] for tile in tiles], seed, "image")
    same_pixels = name_keys(pixels or [None] * len(tiles), seed, "pixels")
    member = np.array(
        [[cls[2], not cls[2], *(index in cls[3] for index in range(num_classes))] for cls in tiles],
        dtype=np.int64,
    )
    profiles, strata = np.unique(member, axis=0, return_inverse=True)
    columns = ("conditional", "unconditional", *(f"class {index}" for index in range(num_classes)))
    names = np.where(groups != 0, groups, images)
    copies = (
        np.concatenate(pair) for pair in zip(repeated(images), repeated(same_pixels), strict=True)
    )
    return SplitRows(
        names, groups != 0, *copies, strata.ravel().astype(np.int32), profiles, columns
    )


def random_tiles(count: int, num_groups: int, seed: int, copies: float = 0.05) -> list[Tile]:
    draw = np.random.default_rng(seed)
    tiles = []
    for index in range(count):
        conditional = bool(draw.random() < 0.4)
        classes = (
            {int(item) for item in np.flatnonzero(draw.random(4) < (0.6, 0.3, 0.1, 0.03))}
            if conditional
            else set()
        )
        group = f"g{draw.integers(num_groups)}" if num_groups and draw.random() < 0.9 else None
        image = f"copy{draw.integers(5)}" if draw.random() < copies else f"i{index}"
        tiles.append((group, image, conditional, classes))
    return tiles


class TestFractions:
    def test_three_spellings_are_read(self) -> None:
        assert parse_fractions("0.9/0.1") == {"train": Fraction(9, 10), "test": Fraction(1, 10)}
        assert parse_fractions("0.8/0.1/0.1") == {
            "train": Fraction(8, 10),
            "val": Fraction(1, 10),
            "test": Fraction(1, 10),
        }
        assert parse_fractions("test=0.1, train=0.9") == NINE_ONE
        assert list(parse_fractions("test=0.1,train=0.9")) == ["train", "test"]

    def test_the_decimal_is_meant_not_its_binary_neighbour(self) -> None:
        assert exact_fractions({"train": 0.7, "test": 0.3})["train"] == Fraction(7, 10)

    @pytest.mark.parametrize(
        "text",
        [
            "0.9",
            "0.9/0.2",
            "train=0.9",
            "train=0.5,train=0.5",
            "dev=0.1,train=0.9",
            "1.1/-0.1",
            "a/b",
            "0.5/0.3/0.1/0.1",
            "",
        ],
    )
    def test_nonsense_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError):
            parse_fractions(text)

    @given(
        total=st.integers(0, 10**9), weights=st.lists(st.integers(1, 1000), min_size=1, max_size=5)
    )
    def test_largest_remainders_conserve_and_stay_within_one(
        self, total: int, weights: list[int]
    ) -> None:
        shares = [Fraction(weight, sum(weights)) for weight in weights]
        counts = largest_remainders(total, shares)
        assert counts.sum() == total
        assert all(
            abs(count - share * total) < 1
            for count, share in zip(counts.tolist(), shares, strict=True)
        )


class TestPublishedCounts:
    def test_the_reference_data_set_is_split_exactly(self) -> None:
        total, conditional = 246_750, 90_726
        draw = np.random.default_rng(5)
        strata = np.full(total, 0, dtype=np.int32)
        chosen = draw.permutation(total)[:conditional]
        strata[chosen] = 1 + draw.choice(15, size=conditional, p=np.arange(15, 0, -1) / 120)
        bits = np.array([[code >> bit & 1 for bit in range(4)] for code in range(16)])
        profiles = np.column_stack([np.arange(16) > 0, np.arange(16) == 0, bits]).astype(np.int64)
        keys = draw.integers(1, 2**63, total).astype(np.uint64)
        none = np.zeros(0, dtype=np.int64)
        columns = ("conditional", "unconditional", *(f"class {index}" for index in range(4)))
        rows = SplitRows(
            keys,
            np.zeros(total, dtype=bool),
            none,
            none.astype(np.uint64),
            strata,
            profiles,
            columns,
        )
        split = assign_units(join_units(rows), rows, NINE_ONE).splits
        certificate = certify(rows, split, {"train": 0.9, "test": 0.1})["splits"]
        assert (certificate["train"]["conditional"], certificate["train"]["unconditional"]) == (
            81_653,
            140_422,
        )
        assert (certificate["test"]["conditional"], certificate["test"]["unconditional"]) == (
            9_073,
            15_602,
        )
        for index in range(4):
            of_class = (profiles[strata][:, 2 + index] > 0).sum()
            in_test = certificate["test"]["classes"][str(index)]
            # Each of the 15 kinds of tiles is off by less than one tile.
            assert abs(in_test - 0.1 * of_class) < 1.5

    @settings(max_examples=40)
    @given(seed=st.integers(0, 10**6), count=st.integers(30, 200))
    def test_single_tiles_meet_the_pools_exactly(self, seed: int, count: int) -> None:
        tiles = [
            (None, f"i{index}", copy[2], copy[3])
            for index, copy in enumerate(random_tiles(count, 0, seed, copies=0))
        ]
        rows = make_rows(tiles, 4)
        split = assign_units(join_units(rows), rows, EIGHT_ONE_ONE).splits
        pool = np.array([tile[2] for tile in tiles])
        for wanted in (True, False):
            counts = np.bincount(split[pool == wanted], minlength=3)
            assert (
                counts.tolist()
                == largest_remainders(int((pool == wanted).sum()), EIGHT_ONE_ONE.values()).tolist()
            )

    def test_the_pools_are_exact_also_beyond_the_integer_program(self) -> None:
        draw = np.random.default_rng(4)
        some = [set(np.flatnonzero(draw.random(14) < 0.5).tolist()) for _ in range(4000)]
        tiles: list[Tile] = [
            (None, f"i{i}", i % 3 == 0, some[i] if i % 3 == 0 else set()) for i in range(4000)
        ]
        rows = make_rows(tiles, 14)
        assert len(rows.profiles) * 3 > MAX_INTEGERS
        assignment = assign_units(join_units(rows), rows, EIGHT_ONE_ONE)
        assert "greedy" in assignment.solver
        pool = np.array([tile[2] for tile in tiles])
        for wanted in (True, False):
            counts = np.bincount(assignment.splits[pool == wanted], minlength=3)
            assert (
                counts.tolist()
                == largest_remainders(int((pool == wanted).sum()), EIGHT_ONE_ONE.values()).tolist()
            )
        assert (
            certify(rows, assignment.splits, {"train": 0.8, "val": 0.1, "test": 0.1})[
                "worst_class"
            ]["points"]
            < 1
        )


def _closure(tiles: list[Tile]) -> list[set[int]]:
    """Return connected tiles by repeated merging: the slow oracle of `join_units`."""
    sets = [{index} for index in range(len(tiles))]
    merged = True
    while merged:
        merged = False
        for item, other in itertools.combinations(range(len(sets)), 2):
            linked = any(
                tiles[a][1] == tiles[b][1]
                or (tiles[a][0] is not None and tiles[a][0] == tiles[b][0])
                for a in sets[item]
                for b in sets[other]
            )
            if linked:
                sets[item] |= sets.pop(other)
                merged = True
                break
    return sets


class TestUnits:
    @settings(max_examples=60)
    @given(seed=st.integers(0, 10**6), count=st.integers(1, 25), num_groups=st.integers(0, 8))
    def test_units_are_the_connected_tiles(self, seed: int, count: int, num_groups: int) -> None:
        tiles = random_tiles(count, num_groups, seed, copies=0.3)
        of_tile = join_units(make_rows(tiles, 4)).of_tile.tolist()
        assert sorted(map(sorted, _closure(tiles))) == sorted(
            sorted(i for i in range(count) if of_tile[i] == unit) for unit in set(of_tile)
        )

    def test_copies_chain_groups_together(self) -> None:
        chain = [
            (f"g{index}", f"shared{index + side}", True, set())
            for index in range(6)
            for side in (0, 1)
        ]
        units = join_units(make_rows([*chain, ("alone", "x", True, set())], 1))
        assert len(units.keys) == 2
        assert units.num_joined == 5
        assert len(set(units.of_tile[:-1].tolist())) == 1

    def test_equal_pixels_join_like_equal_bytes(self) -> None:
        tiles = [("a", "1", True, set()), ("b", "2", True, set()), ("c", "3", True, set())]
        units = join_units(make_rows(tiles, 1, pixels=["same", "same", "other"]))
        assert units.of_tile[0] == units.of_tile[1] != units.of_tile[2]

    def test_unknown_digests_join_nothing(self) -> None:
        rows, keys = repeated(np.zeros(5, dtype=np.uint64))
        assert len(rows) == len(keys) == 0

    @given(values=st.lists(st.integers(0, 6), max_size=40))
    def test_repeated_finds_what_counting_finds(self, values: list[int]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(split_units, "_PIECE", 3)
            rows, keys = repeated(np.array(values, dtype=np.uint64))
        expected = [
            index for index, value in enumerate(values) if value and values.count(value) > 1
        ]
        assert rows.tolist() == expected
        assert keys.tolist() == [values[index] for index in expected]


def _assert_nothing_crosses(tiles: list[Tile], split: np.ndarray) -> None:
    for place in (0, 1):
        where: dict[str, int] = {}
        for tile, code in zip(tiles, split.tolist(), strict=True):
            name = tile[place]
            assert name is None or where.setdefault(name, code) == code, f"{name} crosses"


class TestAssignment:
    @settings(max_examples=40)
    @given(seed=st.integers(0, 10**6), count=st.integers(40, 150), num_groups=st.integers(8, 40))
    @pytest.mark.slow
    def test_nothing_crosses_and_order_does_not_matter(
        self, seed: int, count: int, num_groups: int
    ) -> None:
        tiles = random_tiles(count, num_groups, seed)
        rows = make_rows(tiles, 4)
        units = join_units(rows)
        shuffle = np.random.default_rng(seed).permutation(count)
        turned = make_rows([tiles[index] for index in shuffle], 4)
        for assign in (
            lambda u, r: assign_units(u, r, EIGHT_ONE_ONE),
            lambda u, _: assign_by_hash(u, EIGHT_ONE_ONE),
        ):
            split = assign(units, rows).splits
            _assert_nothing_crosses(tiles, split)
            assert np.array_equal(assign(join_units(turned), turned).splits, split[shuffle])
        split = assign_units(units, rows, EIGHT_ONE_ONE).splits
        assert set(split.tolist()) == {TRAIN, VAL, TEST}
        certificate = certify(rows, split, {"train": 0.8, "val": 0.1, "test": 0.1})
        assert certificate["shared_groups"] == certificate["shared_duplicates"] == 0
        assert sum(value["tiles"] for value in certificate["splits"].values()) == count

    def test_another_seed_gives_another_split(self) -> None:
        tiles = random_tiles(400, 0, 1, copies=0)
        first, second = (
            assign_units(join_units(rows), rows, NINE_ONE).splits
            for rows in (make_rows(tiles, 4, seed=seed) for seed in (0, 1))
        )
        assert not np.array_equal(first, second)
        assert np.bincount(first).tolist() == np.bincount(second).tolist()

    def test_classes_are_shared_out_evenly_among_groups(self) -> None:
        tiles = random_tiles(5000, 80, 3, copies=0)
        rows = make_rows(tiles, 4)
        certificate = certify(
            rows, assign_units(join_units(rows), rows, NINE_ONE).splits, {"train": 0.9, "test": 0.1}
        )
        assert certificate["worst_class"]["points"] < 1.5
        assert (
            abs(certificate["splits"]["test"]["conditional"] - 0.1 * sum(tile[2] for tile in tiles))
            < 10
        )
        # Positive control: a split that does not look at classes is worse.
        blind = np.where(np.arange(len(tiles)) % 10 == 0, TEST, TRAIN)[join_units(rows).of_tile]
        assert (
            certify(rows, blind.astype(np.int8), {"train": 0.9, "test": 0.1})["worst_class"][
                "points"
            ]
            > certificate["worst_class"]["points"]
        )

    def test_a_giant_group_goes_to_train(self) -> None:
        tiles = [("giant", f"i{index}", True, {0}) for index in range(900)] + [
            (f"s{index // 10}", f"s{index}", True, {0}) for index in range(100)
        ]
        rows = make_rows(tiles, 1)
        split = assign_units(join_units(rows), rows, NINE_ONE).splits
        assert set(split[:900].tolist()) == {TRAIN}
        assert (split == TEST).sum() == 100

    def test_a_class_of_one_group_stays_whole_and_is_named_missing(self) -> None:
        tiles = [
            (f"g{index // 10}", f"i{index}", True, {0, 1} if index < 10 else {0})
            for index in range(200)
        ]
        rows = make_rows(tiles, 2)
        split = assign_units(join_units(rows), rows, NINE_ONE).splits
        assert len(set(split[:10].tolist())) == 1
        missing = certify(rows, split, {"train": 0.9, "test": 0.1})["missing"]
        assert missing == [f"class 1 in {SPLITS[TRAIN if split[0] == TEST else TEST]}"]

    def test_a_class_of_two_groups_reaches_both_splits(self) -> None:
        # By shares alone both groups would go to train: 10 % of the class is less than half a
        # group.
        tiles = [
            (f"g{index // 10}", f"i{index}", True, {0, 1} if index < 20 else {0})
            for index in range(200)
        ]
        rows = make_rows(tiles, 2)
        split = assign_units(join_units(rows), rows, NINE_ONE).splits
        assert {int(split[0]), int(split[10])} == {TRAIN, TEST}

    def test_too_few_groups_is_an_error(self) -> None:
        rows = make_rows([("a", "1", True, {0}), ("b", "2", True, {0})], 1)
        with pytest.raises(UsageError, match="too few groups"):
            assign_units(join_units(rows), rows, EIGHT_ONE_ONE)

    def test_thousands_of_groups_take_the_greedy_way_and_stay_close(self) -> None:
        draw = np.random.default_rng(8)
        tiles = [
            (
                f"g{int(draw.pareto(0.8) * 300) % 4000}",
                f"i{i}",
                i % 3 == 0,
                {i % 7 % 4} if i % 3 == 0 else set(),
            )
            for i in range(20_000)
        ]
        rows = make_rows(tiles, 4)
        assignment = assign_units(join_units(rows), rows, NINE_ONE)
        certificate = certify(rows, assignment.splits, {"train": 0.9, "test": 0.1})
        assert certificate["worst_class"]["points"] < 0.2
        assert certificate["shared_groups"] == 0


class TestHash:
    @settings(max_examples=40)
    @given(seed=st.integers(0, 10**6), old=st.integers(1, 80), new=st.integers(1, 80))
    def test_growth_moves_no_old_tile(self, seed: int, old: int, new: int) -> None:
        grown = [
            (f"g{index % 13}" if index % 3 else None, f"i{index}", True, set())
            for index in range(old + new)
        ]
        before, after = make_rows(grown[:old], 1, seed), make_rows(grown, 1, seed)
        first, second = (
            assign_by_hash(join_units(rows), EIGHT_ONE_ONE).splits for rows in (before, after)
        )
        assert np.array_equal(first, second[:old])

    def test_a_new_copy_of_an_old_image_moves_nothing(self) -> None:
        tiles = [("a", "1", True, set()), (None, "2", True, set()), ("b", "3", True, set())]
        for seed in range(30):
            before = make_rows(tiles, 1, seed)
            after = make_rows([*tiles, (None, "1", True, set()), (None, "2", True, set())], 1, seed)
            first, second = (
                assign_by_hash(join_units(rows), EIGHT_ONE_ONE).splits for rows in (before, after)
            )
            assert np.array_equal(first, second[:3])

    def test_shares_hold_on_average_also_for_joined_groups(self) -> None:
        # Pairs of groups joined by a copy: the least of two keys is not uniform, so it is mixed
        # again.
        tiles = [(f"g{index}", f"i{index // 2}", True, set()) for index in range(20_000)]
        rows = make_rows(tiles, 1)
        split = assign_by_hash(join_units(rows), EIGHT_ONE_ONE).splits
        assert np.abs(np.bincount(split) / len(tiles) - (0.8, 0.1, 0.1)).max() < 0.012

    def test_cutting_validation_from_train_keeps_test(self) -> None:
        rows = make_rows([(f"g{index}", f"i{index}", True, set()) for index in range(500)], 1)
        units = join_units(rows)
        assert np.array_equal(
            assign_by_hash(units, NINE_ONE).splits == TEST,
            assign_by_hash(units, EIGHT_ONE_ONE).splits == TEST,
        )


def _problem(draw: np.random.Generator, num_types: int, columns: int, splits: int) -> SplitProblem:
    profiles = draw.integers(0, 6, (num_types, columns)) * (draw.random((num_types, columns)) < 0.7)
    profiles = np.column_stack([np.maximum(profiles.sum(axis=1), 1), profiles])
    amounts = draw.integers(1, 3, num_types)
    shares = np.array([0.6, 0.25, 0.15]) if splits == 3 else np.array([0.8, 0.2])
    totals = amounts @ profiles
    return SplitProblem(
        profiles,
        amounts,
        shares[:, None] * totals,
        1.0 / np.maximum(totals, 1),
        np.zeros((num_types, splits), dtype=np.int64),
    )


def _brute_force(problem: SplitProblem) -> float:
    splits = len(problem.targets)
    per_type = [
        [
            split
            for split in itertools.product(range(amount + 1), repeat=splits)
            if sum(split) == amount
        ]
        for amount in problem.amounts.tolist()
    ]
    return min(problem.cost(np.array(choice)) for choice in itertools.product(*per_type))


class TestSolver:
    @pytest.mark.parametrize("seed", range(12))
    def test_the_integer_program_is_the_optimum(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        problem = _problem(draw, num_types=5, columns=3, splits=2 + seed % 2)
        found, optimal = integer_program(problem)
        assert found is not None and optimal
        assert problem.cost(found) == pytest.approx(_brute_force(problem), abs=1e-7)
        assert np.array_equal(found.sum(axis=1), problem.amounts)
        # The cost that the oracle uses, in plain words.
        sums = found.T @ problem.profiles
        able = [
            sum(problem.amounts[problem.profiles[:, c] > 0]) >= len(sums)
            for c in range(sums.shape[1])
        ]
        plain = sum(
            problem.weights[c] * abs(sums[s, c] - problem.targets[s, c])
            + MISSING_PENALTY * (sums[s, c] == 0 and able[c])
            for s, c in itertools.product(*map(range, sums.shape))
        )
        assert problem.cost(found) == pytest.approx(plain)

    @pytest.mark.parametrize("seed", range(8))
    def test_local_search_improves_and_never_worsens(self, seed: int) -> None:
        problem = _problem(np.random.default_rng(100 + seed), num_types=40, columns=6, splits=3)
        start = greedy(problem)
        better = improve(problem, start)
        assert problem.cost(better) <= problem.cost(start) + 1e-12
        assert np.array_equal(better.sum(axis=1), problem.amounts)
        assert problem.cost(solve(problem)[0]) <= problem.cost(better) + 1e-12

    def test_local_search_repairs_a_bad_start(self) -> None:
        problem = _problem(np.random.default_rng(0), num_types=30, columns=4, splits=2)
        bad = np.column_stack([np.zeros(30, dtype=np.int64), problem.amounts])
        assert problem.cost(improve(problem, bad)) < 0.2 * problem.cost(bad)


class TestGivenSplits:
    def test_validation_is_taken_from_train_and_test_is_kept(self) -> None:
        tiles = [(f"g{index // 5}", f"i{index}", True, {index // 5 % 2}) for index in range(500)]
        rows = make_rows(tiles, 2)
        units = join_units(rows)
        given_codes = np.where(np.arange(500) < 400, TRAIN, TEST).astype(np.int8)
        assert not len(leaking_units(units, given_codes))
        split = complete_split(
            units, rows, given_codes, exact_fractions({"train": 0.8, "val": 0.2})
        ).splits
        assert (split[400:] == TEST).all()
        assert np.bincount(split[:400]).tolist() == [320, 80]
        _assert_nothing_crosses(tiles, split)

    def test_a_given_validation_is_kept(self) -> None:
        rows = make_rows([(None, f"i{index}", True, set()) for index in range(10)], 1)
        given_codes = np.array([TRAIN] * 6 + [VAL] * 2 + [TEST] * 2, dtype=np.int8)
        split = complete_split(
            join_units(rows), rows, given_codes, exact_fractions({"train": 0.8, "val": 0.2})
        ).splits
        assert np.array_equal(split, given_codes)

    def test_a_tile_without_a_given_split_follows_its_group_or_learns(self) -> None:
        rows = make_rows(
            [
                ("a", "1", True, set()),
                ("a", "2", True, set()),
                ("b", "3", True, set()),
                ("c", "4", True, set()),
            ],
            1,
        )
        given_codes = np.array([TEST, NO_SPLIT, TRAIN, NO_SPLIT], dtype=np.int8)
        assert complete_split(join_units(rows), rows, given_codes, {}).splits.tolist() == [
            TEST,
            TEST,
            TRAIN,
            TRAIN,
        ]

    def test_leaks_are_found(self) -> None:
        rows = make_rows(
            [
                ("a", "1", True, set()),
                ("a", "2", True, set()),
                ("b", "3", True, set()),
                ("c", "3", True, set()),
            ],
            1,
        )
        units = join_units(rows)
        assert len(leaking_units(units, np.array([TRAIN, TRAIN, TEST, TEST], dtype=np.int8))) == 0
        assert leaking_units(
            units, np.array([TRAIN, TEST, TRAIN, TRAIN], dtype=np.int8)
        ).tolist() == [units.of_tile[0]]
        assert leaking_units(
            units, np.array([TRAIN, TRAIN, TRAIN, TEST], dtype=np.int8)
        ).tolist() == [units.of_tile[2]]


class TestCertificate:
    def test_it_is_computed_from_the_rows(self) -> None:
        tiles = [
            ("a", "1", True, {0}),
            ("a", "2", False, set()),
            ("b", "1", True, {0, 1}),
            (None, "3", True, {1}),
        ]
        rows = make_rows(tiles, 2)
        certificate = certify(
            rows, np.array([TRAIN, TEST, TEST, TRAIN], dtype=np.int8), {"train": 0.5, "test": 0.5}
        )
        assert certificate["shared_groups"] == 1
        assert certificate["shared_duplicates"] == 1
        assert certificate["splits"]["train"] == {
            "tiles": 2,
            "conditional": 2,
            "unconditional": 0,
            "groups": 1,
            "classes": {"0": 1, "1": 1},
            "labels": {},
        }
        assert certificate["worst_class"]["points"] == 0
        skewed = certify(
            rows, np.array([TRAIN, TRAIN, TRAIN, TEST], dtype=np.int8), {"train": 0.5, "test": 0.5}
        )
        assert skewed["worst_class"] == {
            "column": "class 0",
            "split": "train",
            "points": 50.0,
            "tiles": 2,
            "wanted": 1.0,
        }
        assert skewed["missing"] == ["class 0 in test"]

    @given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=30))
    def test_crossing_counts_what_sets_count(self, pairs: list[tuple[int, int]]) -> None:
        keys = np.array([key for key, _ in pairs], dtype=np.uint64)
        codes = np.array([code for _, code in pairs], dtype=np.int8)
        expected = sum(
            len({code for key, code in pairs if key == name}) > 1 for name in range(1, 6)
        )
        for piece in (1, 2, 3, 100):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(split_certificate, "_PIECE", piece)
                assert crossing(keys, codes) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("tile_id,split\na,train\n".encode("utf-16")[:-1], "cannot be read"),
        (b"tile_id,split,split\na,train,val\n", "two columns of one name"),
        (None, "no regular file"),
    ],
)
def test_files_that_are_no_split_file_are_refused(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "split.csv"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_split_file(path, 0)
