"""The proof of a split: counts, the worst class, and what crosses splits, computed from the rows
and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from histoprep.split.units import NO_SPLIT, POOLS, SPLITS, SplitRows

_PIECE = 1 << 20


def certify(rows: SplitRows, splits: np.ndarray, fractions: Mapping[str, float]) -> dict[str, Any]:
    """Return the certificate of `splits` (int8 [n], codes) as JSON values.

    `splits`: for each split its tiles, tiles by pool, groups, and tiles by class and by image-level
    label. `worst_class`: the class (or label) and split whose share of the class's tiles is
    farthest from the split's fraction, in percentage points, with the tiles it has and those it
    should have. `missing`: classes without a tile in a split. `shared_groups`, `shared_duplicates`:
    groups and images found in two splits (must be 0).
    """
    names = [
        name for name in SPLITS if name in fractions or bool((splits == SPLITS.index(name)).any())
    ]
    counts = np.array([_column_counts(rows, splits == SPLITS.index(name)) for name in names])
    return {
        "splits": {
            name: _describe(rows, splits == SPLITS.index(name), counts[index])
            for index, name in enumerate(names)
        },
        "worst_class": _worst(
            rows.columns, counts, [float(fractions.get(name, 0.0)) for name in names], names
        ),
        "missing": [
            f"{rows.columns[index]} in {name}"
            for index in range(len(POOLS), len(rows.columns))
            for name in _empty(counts, index, names)
        ],
        "shared_groups": crossing(rows.names[rows.grouped], splits[rows.grouped]),
        "shared_duplicates": crossing(rows.copy_keys, splits[rows.copy_rows]),
    }


def certify_folds(rows: SplitRows, folds: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Return the proof of folds as JSON values: tiles and groups of each, what lies in two folds
    (must be 0), and the class whose share in a fold is farthest from that of an equal one, in
    percentage points.

    Args:
        rows: The tiles.
        folds: The fold of each, or `NO_SPLIT` (int8 [n]).
        names: The names of the folds.
    """
    known = folds != NO_SPLIT
    members = [folds == fold for fold in range(len(names))]
    counts = np.array(
        [
            np.bincount(rows.strata[member], minlength=len(rows.profiles)) @ rows.profiles
            for member in members
        ]
    )
    totals = counts.sum(axis=0)
    used = np.flatnonzero((totals > 0) & (np.arange(len(totals)) >= len(POOLS)))
    points = 100.0 * np.abs(counts[:, used] / totals[used] - 1 / len(names))
    worst = None
    if len(used):
        fold, column = np.unravel_index(int(np.argmax(points)), points.shape)
        worst = {
            "column": rows.columns[used[column]],
            "fold": names[fold],
            "points": round(float(points[fold, column]), 6),
        }
    grouped = rows.grouped & known
    copies = known[rows.copy_rows]
    return {
        "folds": {
            name: {
                "tiles": int(member.sum()),
                "groups": len(np.unique(rows.names[rows.grouped & member])),
            }
            for name, member in zip(names, members, strict=True)
        },
        "worst_class": worst,
        "shared_groups": crossing(rows.names[grouped], folds[grouped]),
        "shared_duplicates": crossing(rows.copy_keys[copies], folds[rows.copy_rows[copies]]),
    }


def crossing(keys: np.ndarray, codes: np.ndarray) -> int:
    """Return how many distinct keys (0 counts as none) occur with two different codes."""
    order = np.argsort(keys, kind="stable")
    crossings = [np.zeros(0, dtype=keys.dtype)]
    # In overlapping pieces, since with ten million rows every whole temporary costs 80 MB.
    for start in range(0, max(len(order) - 1, 0), _PIECE):
        here = order[start : start + _PIECE + 1]
        ordered, seen = keys[here], codes[here]
        crossings.append(
            ordered[1:][
                (ordered[1:] == ordered[:-1]) & (ordered[1:] != 0) & (seen[1:] != seen[:-1])
            ]
        )
    return len(np.unique(np.concatenate(crossings)))


def _column_counts(rows: SplitRows, member: np.ndarray) -> np.ndarray:
    by_stratum = np.bincount(rows.strata[member], minlength=len(rows.profiles))
    result: np.ndarray = by_stratum @ rows.profiles
    return result


def _describe(rows: SplitRows, member: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    named = dict(zip(rows.columns, counts.tolist(), strict=True))
    return {
        "tiles": int(member.sum()),
        **{pool: named[pool] for pool in POOLS},
        "groups": len(np.unique(rows.names[rows.grouped & member])),
        "classes": {
            name.removeprefix("class "): count
            for name, count in named.items()
            if name.startswith("class ")
        },
        "labels": {
            name.removeprefix("label "): count
            for name, count in named.items()
            if name.startswith("label ")
        },
    }


def _worst(
    columns: tuple[str, ...], counts: np.ndarray, fractions: list[float], names: list[str]
) -> dict[str, Any] | None:
    totals = counts.sum(axis=0)
    used = np.flatnonzero((totals > 0) & (np.arange(len(totals)) >= len(POOLS)))
    if not len(used):
        return None
    points = 100.0 * np.abs(counts[:, used] / totals[used] - np.array(fractions)[:, None])
    split, column = np.unravel_index(int(np.argmax(points)), points.shape)
    return {
        "column": columns[used[column]],
        "split": names[split],
        "points": round(float(points[split, column]), 6),
        "tiles": int(counts[split, used[column]]),
        "wanted": round(float(totals[used[column]]) * fractions[split], 3),
    }


def _empty(counts: np.ndarray, column: int, names: list[str]) -> list[str]:
    """Return the splits without a tile of a column that occurs somewhere."""
    if not counts[:, column].any():
        return []
    return [name for index, name in enumerate(names) if not counts[index, column]]
