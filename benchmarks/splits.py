"""Splits against those of other tools, and how they stay when data grow:
`python -m benchmarks.splits [--data DIR] [--quick] [--write FILE]`.

Groups of tiles are drawn from fixed seeds in nine families; DIR holds real tiles with a table of
cases. Every tool gets the same groups, classes and shares. Compared is the deviation of classes:
by how many percentage points the share of a class's tiles in a split misses the share of the split,
in the mean over classes and splits. No setting of ours was chosen on these draws.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from histoprep.split import assign_units, join_units, parse_fractions, split_of_units
from histoprep.split.units import NO_SPLIT, SplitRows, name_keys

SHARES = {"test": 0.1, "train": 0.9}
FRACTIONS = parse_fractions("0.9/0.1")
TEST = 2
_NUM_CLASSES = 6


@dataclass(frozen=True)
class TileSet:
    """Tiles of groups: the group of each (int [n]), the classes that each holds (bool [n, K])."""

    name: str
    groups: np.ndarray
    holds: np.ndarray

    def of_first_groups(self, share: float) -> np.ndarray:
        """Return which tiles (bool [n]) are of the first groups, a share of all."""
        keep: np.ndarray = self.groups < round(share * (self.groups.max() + 1))
        return keep

    def where(self, keep: np.ndarray) -> TileSet:
        """Return the tiles of `keep` (bool [n])."""
        return TileSet(self.name, self.groups[keep], self.holds[keep])


@dataclass(frozen=True)
class Family:
    """How groups are drawn.

    Attributes:
        name: What they are like.
        num_groups: How many there are.
        size: Median tiles of a group.
        spread: Sigma of the logarithm of its size.
        mixing: Concentration of the classes of a group: small where a group has few classes.
        shares: How often a class occurs, by class.
    """

    name: str
    num_groups: int
    size: float
    spread: float
    mixing: float
    shares: tuple[float, ...] = (0.5, 0.35, 0.2, 0.1, 0.05, 0.02)

    def draw(self, seed: int) -> TileSet:
        """Return a set of tiles."""
        rng = np.random.default_rng([seed, self.num_groups])
        sizes = np.maximum(
            1, np.rint(self.size * np.exp(self.spread * rng.normal(size=self.num_groups)))
        ).astype(int)
        groups = np.repeat(np.arange(self.num_groups), sizes)
        rates = np.stack(
            [
                rng.beta(self.mixing * share, self.mixing * (1 - share), self.num_groups)
                for share in self.shares
            ],
            axis=1,
        )
        return TileSet(
            self.name, groups, rng.random((len(groups), len(self.shares))) < rates[groups]
        )


FAMILIES = (
    Family("20 slides of many tiles", 20, 400, 0.5, 2.0),
    Family("60 slides", 60, 100, 0.5, 2.0),
    Family("60 slides of unequal size", 60, 60, 1.2, 2.0),
    Family("200 cases of few tiles", 200, 6, 0.6, 2.0),
    Family("200 cases of one class each", 200, 10, 0.6, 0.3),
    Family("500 cases, rare classes", 500, 8, 0.8, 1.0, (0.4, 0.1, 0.03, 0.01, 0.005, 0.002)),
    Family("1,000 slides", 1000, 50, 0.8, 1.0),
    Family("3,000 slides", 3000, 30, 0.8, 1.0),
    Family("40 patients, half of the tiles in five", 40, 20, 1.8, 1.0),
)


def real_cases(folder: Path) -> TileSet:
    """Return the real tiles of a table with a case and a class for each."""
    with (folder / "ebhi_seg" / "index.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    cases = {case: number for number, case in enumerate(dict.fromkeys(r["case_id"] for r in rows))}
    classes = sorted({row["class"] for row in rows})
    holds = np.array([[row["class"] == name for name in classes] for row in rows])
    return TileSet(
        "colon tiles, real cases", np.array([cases[row["case_id"]] for row in rows]), holds
    )


def rows_of(tiles: TileSet, seed: int = 0) -> SplitRows:
    """Return what the product's split takes."""
    profiles, strata = np.unique(
        np.column_stack([tiles.holds.any(axis=1), ~tiles.holds.any(axis=1), tiles.holds]).astype(
            np.int64
        ),
        axis=0,
        return_inverse=True,
    )
    size = len(tiles.groups)
    columns = ("conditional", "unconditional", *(f"class {k}" for k in range(tiles.holds.shape[1])))
    return SplitRows(
        name_keys([f"g{group}" for group in tiles.groups.tolist()], seed, "group"),
        np.ones(size, bool),
        np.zeros(0, np.int64),
        np.zeros(0, np.uint64),
        strata.ravel().astype(np.int32),
        profiles,
        columns,
    )


def deviation(tiles: TileSet, is_test: np.ndarray) -> float:
    """Return the mean deviation of classes and of all tiles in percentage points, over train and
    test (`is_test`: bool [n]); of two splits both deviate equally.
    """
    columns = np.column_stack([np.ones(len(tiles.groups), bool), tiles.holds])
    columns = columns[:, columns.any(axis=0)]
    shares = columns[is_test].sum(axis=0) / columns.sum(axis=0)
    return float(100 * np.abs(shares - SHARES["test"]).mean())


def ours(tiles: TileSet) -> np.ndarray:
    """Return which tiles (bool [n]) the product puts in test."""
    rows = rows_of(tiles)
    return assign_units(join_units(rows), rows, FRACTIONS).splits == TEST


def _group_counts(tiles: TileSet) -> np.ndarray:
    """Return tiles of each group in all and by class, int64 [groups, 1 + K]."""
    columns = np.column_stack([np.ones(len(tiles.groups), bool), tiles.holds])
    size = tiles.groups.max() + 1
    return np.stack([np.bincount(tiles.groups, column, size) for column in columns.T], axis=1)


def stratified_group_k_fold(tiles: TileSet) -> np.ndarray:
    """Return the best of ten folds of scikit-learn's StratifiedGroupKFold, which takes one class a
    tile: the rarest that it holds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    order = np.argsort(tiles.holds.sum(axis=0))
    rarest = np.full(len(tiles.groups), len(order))
    for rank, label in reversed(list(enumerate(order))):
        rarest[tiles.holds[:, label]] = rank
    best = (np.inf, np.zeros(len(rarest), bool))
    folds = StratifiedGroupKFold(10, shuffle=True, random_state=0)
    for _, test in folds.split(rarest, rarest, tiles.groups):
        found = np.zeros(len(rarest), bool)
        found[test] = True
        best = min(best, (deviation(tiles, found), found), key=lambda pair: pair[0])
    return best[1]


def iterative_stratification(tiles: TileSet) -> np.ndarray:
    """Return an iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) of groups: the
    class with the fewest tiles left goes first, each of its groups to the split that lacks most of
    that class.
    """
    counts = _group_counts(tiles)
    lacks = {name: share * counts.sum(axis=0) for name, share in SHARES.items()}
    rng = np.random.default_rng(0)
    left = np.ones(len(counts), bool)
    is_test = np.zeros(len(counts), bool)
    while left.any():
        remaining = counts[left, 1:].sum(axis=0)
        if remaining.any():
            label = 1 + int(np.argmin(np.where(remaining > 0, remaining, np.inf)))
        else:
            label = 0
        members = np.flatnonzero(left & (counts[:, label] > 0))
        rng.shuffle(members)
        for group in members[np.argsort(-counts[members, label], kind="stable")]:
            name = max(lacks, key=lambda name: (lacks[name][label], lacks[name][0]))
            lacks[name] -= counts[group]
            is_test[group], left[group] = name == "test", False
    return is_test[tiles.groups]


def best_of_random(tiles: TileSet, number: int = 1000) -> np.ndarray:
    """Return the best of many random draws of groups, each filled to a tenth of all tiles."""
    counts = _group_counts(tiles)
    rng = np.random.default_rng(0)
    totals = counts.sum(axis=0)
    used = totals > 0
    best = (np.inf, np.zeros(len(counts), bool))
    for _ in range(number):
        order = rng.permutation(len(counts))
        filled = np.cumsum(counts[order, 0])
        chosen = order[: max(1, int(np.argmin(np.abs(filled - SHARES["test"] * totals[0]))) + 1)]
        shares = counts[chosen].sum(axis=0)[used] / totals[used]
        score = float(np.abs(shares - SHARES["test"]).mean())
        if score < best[0]:
            is_test = np.zeros(len(counts), bool)
            is_test[chosen] = True
            best = (score, is_test)
    return best[1][tiles.groups]


TOOLS: dict[str, Callable[[TileSet], np.ndarray]] = {
    "histoprep": ours,
    "StratifiedGroupKFold, best of 10": stratified_group_k_fold,
    "iterative stratification": iterative_stratification,
    "best of 1,000 random": best_of_random,
}


def peer_rows(sets: list[TileSet]) -> Iterator[str]:
    """Yield the table of deviations by set and tool."""
    yield "| set | tiles | groups | " + " | ".join(f"{name}" for name in TOOLS) + " |"
    yield "|---" * (3 + len(TOOLS)) + "|"
    wins = 0
    for tiles in sets:
        scores = [deviation(tiles, tool(tiles)) for tool in TOOLS.values()]
        wins += scores[0] <= min(scores[1:])
        cells = [f"{score:.3f}" for score in scores]
        yield (
            f"| {tiles.name} | {len(tiles.groups):,} | {tiles.groups.max() + 1:,} | "
            + " | ".join(cells)
            + " |"
        )
    yield ""
    yield f"Least deviation: histoprep on {wins} of {len(sets)} sets."


def growth_rows(sets: list[TileSet]) -> Iterator[str]:
    """Yield how a split that stays compares with one made anew when groups are added."""
    yield "| set | growth | tiles moved | deviation | made anew | ratio | moved if made anew |"
    yield "|---|---|---|---|---|---|---|"
    for tiles in sets:
        for growth in (0.01, 0.05, 0.2):
            is_old = tiles.of_first_groups(1 / (1 + growth))
            if is_old.all():
                continue
            before = np.full(len(tiles.groups), NO_SPLIT, np.int8)
            rows = rows_of(tiles.where(is_old))
            before[is_old] = assign_units(join_units(rows), rows, FRACTIONS).splits
            rows = rows_of(tiles)
            units = join_units(rows)
            fixed = split_of_units(units, before)
            kept = assign_units(units, rows, FRACTIONS, fixed).splits
            anew = assign_units(units, rows, FRACTIONS).splits
            moved = ((kept != before) & (before != NO_SPLIT)).sum()
            moved_anew = ((anew != before) & (before != NO_SPLIT)).sum()
            stays, fresh = (deviation(tiles, split == TEST) for split in (kept, anew))
            yield (
                f"| {tiles.name} | {growth:.0%} | {moved} | {stays:.3f} | {fresh:.3f} |"
                f" {stays / fresh if fresh else float('inf'):.2f} | {moved_anew:,} |"
            )


def time_rows() -> Iterator[str]:
    """Yield how long 10,000 groups with 10 classes take, the median of five."""
    shares = tuple(0.5 / (1 + label) for label in range(10))
    tiles = Family("10,000 groups", 10_000, 20, 0.8, 1.0, shares).draw(1)
    rows = rows_of(tiles)
    units = join_units(rows)
    taken = []
    for _ in range(5):
        before = time.perf_counter()
        split = assign_units(units, rows, FRACTIONS)
        taken.append(time.perf_counter() - before)
    points = deviation(tiles, split.splits == TEST)
    yield (
        f"10,000 groups, {len(tiles.groups):,} tiles, 10 classes: {statistics.median(taken):.1f} s"
        f" ({split.solver}), deviation {points:.4f} points."
    )


def main() -> int:
    """Print the tables, or write them to a file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of real tiles")
    parser.add_argument("--quick", action="store_true", help="three sets alone")
    parser.add_argument("--write", type=Path, help="write the page to this file")
    options = parser.parse_args()
    sets = [family.draw(7) for family in FAMILIES[: 2 if options.quick else None]]
    if options.data:
        sets.append(real_cases(options.data))
    lines = [
        "# Splits",
        "",
        "Written by `python -m benchmarks.splits --data DIR --write FILE`.",
        "",
    ]
    lines += [" ".join((__doc__ or "").split("\n\n")[1].split()), "", "## Against other tools", ""]
    lines += [*peer_rows(sets), "", "## When data grow", ""]
    lines += [*growth_rows(sets), "", "## Time", "", *time_rows(), ""]
    page = "\n".join(lines)
    if options.write:
        options.write.write_text(page)
    print(page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
