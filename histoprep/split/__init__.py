"""Which split every tile belongs to: groups and exact copies never cross, pools and classes are
shared out evenly.

Pure, and independent of the order of rows: `units.py` joins tiles into units, sorted by seeded key;
`solver.py` solves the group-exact case; `certificate.py` proves the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from histoprep.errors import UsageError
from histoprep.split.solver import SplitProblem, solve
from histoprep.split.units import NO_SPLIT, SPLITS, SplitRows, Units, join_units, leaking_units

__all__ = [
    "SPLITS",
    "Assignment",
    "SplitRows",
    "Units",
    "assign_by_hash",
    "assign_folds",
    "assign_units",
    "complete_split",
    "exact_fractions",
    "fill_split",
    "join_units",
    "largest_remainders",
    "leaking_units",
    "parse_fractions",
    "split_of_units",
]

_POOL_WEIGHT = 4.0
_EXACT_WEIGHT = 1e6


def parse_fractions(text: str) -> dict[str, Fraction]:
    """Return the split fractions of `0.9/0.1` (train/test), `0.8/0.1/0.1` (train/val/test) or
    `train=0.9,test=0.1`.

    Raises UsageError for anything else; see `exact_fractions`.
    """
    if "=" in text:
        named = [item.partition("=")[::2] for item in text.split(",")]
        if len({name.strip() for name, _ in named}) < len(named):
            raise UsageError("a split is given twice", seen=text)
        return exact_fractions({name.strip(): value.strip() for name, value in named})
    values = text.split("/")
    names = {2: ("train", "test"), 3: SPLITS}.get(len(values))
    if names is None:
        raise UsageError(
            "cannot read these split fractions",
            seen=text,
            expected="0.9/0.1, 0.8/0.1/0.1 or train=0.9,test=0.1",
        )
    return exact_fractions(dict(zip(names, values, strict=True)))


def exact_fractions(fractions: Mapping[str, float | str | Fraction]) -> dict[str, Fraction]:
    """Return the fractions as decimals say them, in the order of `SPLITS`, without empty splits.

    Raises UsageError for an unknown split, a fraction outside [0, 1] or a sum that is not 1 (to
    1e-6, then normalised).
    """
    unknown = set(fractions) - set(SPLITS)
    if unknown:
        raise UsageError(
            "no such split", seen=", ".join(sorted(unknown)), expected=", ".join(SPLITS)
        )
    try:
        exact = {name: Fraction(str(fractions[name])) for name in SPLITS if name in fractions}
    except (ValueError, ZeroDivisionError):
        raise UsageError(
            "a split fraction is not a number",
            seen=", ".join(f"{name}={value}" for name, value in fractions.items()),
        ) from None
    total = sum(exact.values(), Fraction(0))
    if any(value < 0 for value in exact.values()) or abs(total - 1) > Fraction(1, 10**6):
        raise UsageError(
            "split fractions must lie in [0, 1] and sum to 1",
            seen=", ".join(f"{name}={float(value):g}" for name, value in exact.items())
            + f" (sum {float(total):g})",
            expected="for instance 0.9/0.1",
        )
    return {name: value / total for name, value in exact.items() if value}


@dataclass(frozen=True, slots=True)
class Assignment:
    """The split code of each tile (int8 [n]) and how it was found, in words."""

    splits: np.ndarray
    solver: str


def assign_units(
    units: Units,
    rows: SplitRows,
    fractions: Mapping[str, Fraction],
    fixed: np.ndarray | None = None,
) -> Assignment:
    """Return a split of the tiles by `fractions`, stratified by pool and class, every unit whole.

    When every unit is one tile and none is fixed, each pool is shared out by largest remainders,
    exactly, and each class as nearly as whole tiles allow. Otherwise an integer program (or, above
    a size limit, a greedy search) minimises the deviations of pools and classes.

    Args:
        units: What may not be cut.
        rows: The tiles.
        fractions: The share of each split, of all tiles.
        fixed: The split code that each unit has already (int8 [units]), all of them in `fractions`,
            or `NO_SPLIT`; None where all are free.

    Raises:
        UsageError: There are fewer units than splits, or one would be empty.
    """
    names = list(fractions)
    codes = _codes_of(fractions)
    columns = None if fixed is None else _column_of_code(codes)[fixed]
    found, solver = _share_out(units, rows, list(fractions.values()), columns, names)
    return Assignment(codes[found][units.of_tile], solver)


def assign_folds(
    units: Units, rows: SplitRows, num_folds: int, fixed: np.ndarray | None = None
) -> Assignment:
    """Return the fold of each tile, 0 to `num_folds` - 1, all of equal size and with an equal share
    of pools and classes as far as whole units allow.

    Args:
        units: What may not be cut.
        rows: The tiles.
        num_folds: How many folds.
        fixed: The fold that each unit has already (int8 [units]), or `NO_SPLIT`; None where all are
            free.

    Raises:
        UsageError: There are fewer units than folds, or one would be empty.
    """
    shares = [Fraction(1, num_folds)] * num_folds
    columns = None if fixed is None else fixed.astype(np.int64)
    names = [f"fold {fold}" for fold in range(num_folds)]
    found, solver = _share_out(units, rows, shares, columns, names)
    return Assignment(found.astype(np.int8)[units.of_tile], solver)


def _share_out(
    units: Units,
    rows: SplitRows,
    shares: Sequence[Fraction],
    fixed: np.ndarray | None,
    names: Sequence[str],
) -> tuple[np.ndarray, str]:
    """Return which part each unit belongs to (int64 [units]), parts numbered as their `shares` and
    `names`, and how it was found; `fixed` holds the part of units that have one, or `NO_SPLIT`.
    """
    if len(units.keys) < len(shares):
        raise UsageError(
            "too few groups for the splits",
            seen=f"{len(units.keys)} groups of tiles (identical images join groups)",
            expected=f"at least {len(shares)}: one for each of {', '.join(names)}",
            hint="ask for fewer splits, or remove identical images that join groups",
        )
    if fixed is not None and (fixed != NO_SPLIT).any():
        found, solver = _share_out_free(units, rows, shares, fixed)
    else:
        found, solver = _share_out_all(units, rows, shares)
    if len(np.unique(found)) < len(shares):
        raise UsageError(
            "a split would be empty",
            seen=f"{len(units.keys)} groups of tiles",
            hint="ask for fewer splits or larger fractions",
        )
    return found, solver


def _share_out_all(
    units: Units, rows: SplitRows, shares: Sequence[Fraction]
) -> tuple[np.ndarray, str]:
    single = len(units.keys) == len(rows)
    types, profiles = _single_types(units, rows) if single else _unit_types(units, rows)
    amounts = np.bincount(types, minlength=len(profiles)).astype(np.int64)
    targets, weights = _goals(amounts @ profiles, shares)
    floors = np.zeros((len(profiles), len(shares)), dtype=np.int64)
    if single:
        weights[:3] = (0.0, _EXACT_WEIGHT, _EXACT_WEIGHT)
        targets[:, 1:3] = _exact_pools((amounts @ profiles)[1:3].tolist(), shares)
        targets[:, 0] = targets[:, 1:3].sum(axis=1)
        floors = np.array(
            [[int(int(amount) * share) for share in shares] for amount in amounts], dtype=np.int64
        )
    placed, solver = solve(
        SplitProblem(profiles, amounts, targets, weights, floors, num_exact=3 if single else 0)
    )
    return _hand_out(types, placed), solver


def _share_out_free(
    units: Units, rows: SplitRows, shares: Sequence[Fraction], fixed: np.ndarray
) -> tuple[np.ndarray, str]:
    """Return the parts where some units have one: the others go where they balance them best."""
    single = len(units.keys) == len(rows)
    types, profiles = _single_types(units, rows) if single else _unit_types(units, rows)
    is_free = fixed == NO_SPLIT
    num_fixed = f"{int((~is_free).sum()):,} of {len(fixed):,} groups and single tiles stay"
    found = fixed.astype(np.int64)
    if not is_free.any():
        return found, num_fixed
    # To the solver the fixed units of a part are one large unit that is placed from the start.
    present, free_types = np.unique(types[is_free], return_inverse=True)
    placed_before = [
        np.bincount(types[fixed == part], minlength=len(profiles)) @ profiles
        for part in range(len(shares))
    ]
    amounts = np.concatenate([np.bincount(free_types), np.ones(len(shares), dtype=np.int64)])
    all_profiles = np.concatenate([profiles[present], placed_before])
    floors = np.zeros((len(amounts), len(shares)), dtype=np.int64)
    floors[len(present) :] = np.eye(len(shares), dtype=np.int64)
    targets, weights = _goals(amounts @ all_profiles, shares)
    placed, solver = solve(SplitProblem(all_profiles, amounts, targets, weights, floors))
    found[is_free] = _hand_out(free_types, placed[: len(present)])
    return found, f"{num_fixed}; others: {solver}"


def _goals(totals: np.ndarray, shares: Sequence[Fraction]) -> tuple[np.ndarray, np.ndarray]:
    """Return the wanted sums (float64 [splits, columns]) and the cost of one tile off each
    (float64 [columns]), given the sums of all tiles.
    """
    targets = np.array([[float(share * int(total)) for total in totals] for share in shares])
    weights = np.full(len(totals), 1.0)
    weights[1:3] = _POOL_WEIGHT
    return targets, weights / np.maximum(totals, 1)


def _codes_of(fractions: Mapping[str, Fraction]) -> np.ndarray:
    return np.array([SPLITS.index(name) for name in fractions], dtype=np.int8)


def _column_of_code(codes: np.ndarray) -> np.ndarray:
    """Return the place of each split code among `codes`, and `NO_SPLIT` for all others, so that
    `NO_SPLIT` as an index gives itself.
    """
    columns = np.full(len(SPLITS) + 1, NO_SPLIT, dtype=np.int64)
    columns[codes] = np.arange(len(codes))
    return columns


def _exact_pools(totals: Sequence[int], shares: Sequence[Fraction]) -> np.ndarray:
    """Return the tiles of each pool in each split (int64 [splits, pools]): largest remainders, but
    no split is left without a tile.
    """
    counts = np.stack([largest_remainders(total, shares) for total in totals], axis=1)
    for split in np.flatnonzero(counts.sum(axis=1) == 0):
        donor = int(counts.sum(axis=1).argmax())
        pool = int(counts[donor].argmax())
        counts[donor, pool] -= 1
        counts[split, pool] += 1
    return counts


def largest_remainders(total: int, shares: Iterable[Fraction]) -> np.ndarray:
    """Return whole numbers (int64) nearest to `total` times each share, with sum `total`; equal
    remainders go to the first.
    """
    quotas = [share * total for share in shares]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(
        range(len(quotas)), key=lambda index: (counts[index] - quotas[index], index)
    )
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return np.array(counts, dtype=np.int64)


def _single_types(units: Units, rows: SplitRows) -> tuple[np.ndarray, np.ndarray]:
    """Return the type of each unit and the profile of each type, where units are tiles and types
    strata.
    """
    types = np.empty(len(rows), dtype=np.int32)
    types[units.of_tile] = rows.strata
    return _ordered(types, np.pad(rows.profiles, ((0, 0), (1, 0)), constant_values=1))


def _unit_types(units: Units, rows: SplitRows) -> tuple[np.ndarray, np.ndarray]:
    """Return the type of each unit and the profile of each type: units with equal counts in every
    column are alike.
    """
    size = len(units.keys)
    counts = np.empty((size, rows.profiles.shape[1] + 1), dtype=np.int64)
    counts[:, 0] = np.bincount(units.of_tile, minlength=size)
    for column, member in enumerate(rows.profiles.T, start=1):
        counts[:, column] = np.bincount(units.of_tile[member[rows.strata] > 0], minlength=size)
    profiles, types = np.unique(counts, axis=0, return_inverse=True)
    return _ordered(types.ravel(), profiles)


def _ordered(types: np.ndarray, profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return types renumbered by the least (seeded) unit of each, so that the solver's ties depend
    on the seed, not on names.
    """
    present, first = np.unique(types, return_index=True)
    order = present[np.argsort(first)]
    rank = np.zeros(len(profiles), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[types], profiles[order]


def _hand_out(types: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """Return the column of `placed` (int64 [types, splits]) that each unit gets; units of a type go
    in order of key.
    """
    by_type = np.argsort(types, kind="stable")
    result = np.empty(len(types), dtype=np.int64)
    result[by_type] = np.repeat(np.tile(np.arange(placed.shape[1]), len(placed)), placed.ravel())
    return result


def assign_by_hash(units: Units, fractions: Mapping[str, Fraction]) -> Assignment:
    """Return a split that depends, for each unit, on its own key alone: when data is added, old
    groups stay.

    Shares are met on average only. Test comes first on the line, so that cutting train into train
    and val keeps test. The one exception: a new image that is equal to images of two old groups
    joins them.
    """
    # splitmix64 finaliser (Steele, Lea and Flood 2014): the least of several keys is no uniform
    # number any more.
    bits = units.keys.copy()
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    position = (bits ^ (bits >> np.uint64(31))).astype(np.float64) / 2.0**64
    names = [name for name in reversed(SPLITS) if name in fractions]
    edges = [float(edge) for edge in itertools.accumulate(fractions[name] for name in names)][:-1]
    codes = np.array([SPLITS.index(name) for name in names], dtype=np.int8)
    return Assignment(codes[np.searchsorted(edges, position, side="right")][units.of_tile], "hash")


def split_of_units(units: Units, splits: np.ndarray, number: int = len(SPLITS)) -> np.ndarray:
    """Return the split code of each unit (int8 [units]): that of most of its tiles that have one,
    of equally many the later split (test after val after train); `NO_SPLIT` where none has.

    Args:
        units: The units.
        splits: The code of each tile, below `number`, or `NO_SPLIT` (int8 [n]).
        number: How many splits, or folds, there are.
    """
    size, known = len(units.keys), splits != NO_SPLIT
    votes = np.bincount(
        units.of_tile[known].astype(np.int64) * number + splits[known], minlength=size * number
    ).reshape(size, number)
    last = number - 1 - np.argmax(votes[:, ::-1], axis=1)
    return np.where(votes.any(axis=1), last, NO_SPLIT).astype(np.int8)


def complete_split(
    units: Units,
    rows: SplitRows,
    given: np.ndarray,
    validation: Mapping[str, Fraction],
    kept: np.ndarray | None = None,
) -> Assignment:
    """Return the `given` split (int8 [n]) with validation taken from train when there is none.

    Test tiles stay; tiles without a given split count as train; `validation` has the fractions of
    train and val. A unit with a tile in test is test as a whole. Of tiles in train those stay in
    train or val that `kept` (int8 [n]) has there. Check `leaking_units` first.
    """
    size = len(units.keys)
    per_unit = np.full(size, NO_SPLIT, dtype=np.int8)
    np.maximum.at(per_unit, units.of_tile, given)
    per_unit[per_unit == NO_SPLIT] = SPLITS.index("train")
    splits = per_unit[units.of_tile]
    if SPLITS.index("val") in per_unit or "val" not in validation:
        return Assignment(splits, "given")
    learn = splits == SPLITS.index("train")
    if not learn.any():
        raise UsageError(
            "the given split has no train part",
            expected="a folder, or a split in the table, called train",
        )
    taken = _split_rest(rows, learn, validation, kept)
    splits[learn] = taken.splits
    return Assignment(splits, f"given; validation from train: {taken.solver}")


def fill_split(
    units: Units, rows: SplitRows, given: np.ndarray, fractions: Mapping[str, Fraction]
) -> Assignment:
    """Return the `given` split (int8 [n], `NO_SPLIT` where nothing is said) with the other tiles
    shared out.

    A test that was given is complete: the others go to train and val alone, by their `fractions`,
    of what is not test. So it is with a given split that is not in `fractions`. Without a given
    test all `fractions` are of all tiles. Check `leaking_units` first.

    Raises:
        UsageError: The others are too few for the splits.
    """
    splits = split_of_units(units, given)[units.of_tile]
    if not (splits == NO_SPLIT).any():
        return Assignment(splits, "given")
    test = SPLITS.index("test")
    is_complete = (splits == test) | ~np.isin(splits, [NO_SPLIT, *_codes_of(fractions)])
    shares = {
        name: share
        for name, share in fractions.items()
        if name != "test" or not (splits == test).any()
    } or {"train": Fraction(1)}
    total = sum(shares.values())
    shares = {name: share / total for name, share in shares.items()}
    taken = _split_rest(rows, ~is_complete, shares, splits)
    splits[~is_complete] = taken.splits
    return Assignment(splits, f"given in part; the rest: {taken.solver}")


def _split_rest(
    rows: SplitRows,
    rest: np.ndarray,
    fractions: Mapping[str, Fraction],
    fixed: np.ndarray | None,
) -> Assignment:
    """Return the split of the tiles of `rest` (bool [n]) alone; those with a split of `fractions`
    in `fixed` (int8 [n]) keep it.
    """
    chosen = rows.where(rest)
    units = join_units(chosen)
    if fixed is None:
        return assign_units(units, chosen, fractions)
    known = fixed[rest]
    known = np.where(np.isin(known, _codes_of(fractions)), known, NO_SPLIT).astype(np.int8)
    return assign_units(units, chosen, fractions, split_of_units(units, known))
