"""What a split may not cut: groups of tiles, joined where they share an image.

Names come in as seeded 64-bit keys, so that ten million tiles fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xxhash

from histoprep.errors import UsageError

SPLITS = ("train", "val", "test")
"""Names of the splits; a split code is an index into this."""

CONDITIONAL, UNCONDITIONAL = "conditional", "unconditional"
POOLS = (CONDITIONAL, UNCONDITIONAL)
NO_SPLIT = -1
MAX_SEED = 2**62 - 1

_KINDS = ("group", "image", "pixels", "tile")
_PIECE = 1 << 20


def name_keys(names: Iterable[str | None], seed: int, kind: str) -> np.ndarray:
    """Return the seeded keys (uint64, never 0) of `names` of a kind: group, image, pixels or tile;
    0 for None.

    XXH3-64; two of 10 million names share a key with probability 3e-6, and then merely stay
    together.
    """
    if not 0 <= seed <= MAX_SEED:
        raise UsageError("the seed is out of range", seen=seed, expected=f"0 to {MAX_SEED}")
    salt = seed * 4 + _KINDS.index(kind)
    digest = xxhash.xxh3_64_intdigest
    return np.array(
        [
            0 if name is None else digest(name.encode("utf-8", "surrogateescape"), salt) or 1
            for name in names
        ],
        dtype=np.uint64,
    )


@dataclass(frozen=True, slots=True)
class SplitRows:
    """What a split needs to know of n tiles; 64-bit keys, see `name_keys`.

    `names`: uint64 [n], key of the group or, where `grouped` (bool [n]) is false, of the image.
    `copy_rows` (int64 [m]) and `copy_keys` (uint64 [m]): rows that share an image with another row,
    and the key they share (see `repeated`). `strata`: int32 [n], rows of `profiles`. `profiles`:
    int64 [strata, columns], 0 or 1: does a tile of that stratum count in that column. `columns`:
    the two pools first, then what else is to be shared out evenly (`class 3`, `label adenoma`).
    """

    names: np.ndarray
    grouped: np.ndarray
    copy_rows: np.ndarray
    copy_keys: np.ndarray
    strata: np.ndarray
    profiles: np.ndarray
    columns: tuple[str, ...]

    def __len__(self) -> int:
        """Return n."""
        return len(self.names)

    def where(self, keep: np.ndarray) -> SplitRows:
        """Return the rows of `keep` (bool [n])."""
        still = keep[self.copy_rows]
        renumbered = (np.cumsum(keep) - 1)[self.copy_rows[still]]
        chosen = (
            self.names[keep],
            self.grouped[keep],
            renumbered,
            self.copy_keys[still],
            self.strata[keep],
        )
        return SplitRows(*chosen, self.profiles, self.columns)


def repeated(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (int64 [m]) whose key (uint64 [n], 0 for none) occurs in several rows, and
    these keys (uint64 [m]).
    """
    ordered = np.sort(keys)
    twice = np.unique(ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)])
    del ordered
    # In pieces: with ten million rows every whole temporary costs 80 MB.
    pieces = [
        start + np.flatnonzero(_among(keys[start : start + _PIECE], twice))
        for start in range(0, len(keys), _PIECE)
    ]
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *pieces])
    return rows, keys[rows]


def _among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return which of `values` occur in `ordered`, which is ascending."""
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    result: np.ndarray = (
        ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values
    )
    return result


@dataclass(frozen=True, slots=True)
class Units:
    """What is split: groups, joined where they share an image, and images without a group.

    `of_tile`: int32 [n], the unit of each tile. `keys`: uint64 [units], ascending: the least key of
    the unit's groups, or of its images when it has none. `num_joined`: how many groups were joined
    to another by a shared image.
    """

    of_tile: np.ndarray
    keys: np.ndarray
    num_joined: int


def join_units(rows: SplitRows) -> Units:
    """Return the finest partition of the tiles that cuts neither a group nor a set of equal
    images.
    """
    codes, keys = _codes(rows.names)
    has_group = np.zeros(len(keys), dtype=bool)
    has_group[codes[rows.grouped]] = True
    pairs = _touching(codes[rows.copy_rows], rows.copy_keys)
    if not len(pairs):
        return Units(codes, keys, 0)
    roots = _roots(len(keys), pairs)
    # A unit is named by its groups, so that a new copy outside any group does not rename it.
    names = np.full(len(keys), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(names, roots[has_group], keys[has_group])
    named = np.zeros(len(keys), dtype=bool)
    named[roots[has_group]] = True
    nameless = ~named[roots]
    np.minimum.at(names, roots[nameless], keys[nameless])
    unit_roots = np.flatnonzero(roots == np.arange(len(roots)))
    order = np.argsort(names[unit_roots], kind="stable")
    rank = np.zeros(len(keys), dtype=np.int32)
    rank[unit_roots[order]] = np.arange(len(order), dtype=np.int32)
    return Units(
        rank[roots[codes]], names[unit_roots[order]], int(has_group.sum()) - int(named.sum())
    )


def _codes(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each key among the distinct ones (int32) and these, ascending; leaner than
    numpy.unique.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    new = np.ones(len(keys), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    distinct = ordered[new]
    del ordered
    rank = np.cumsum(new, dtype=np.int32)
    rank -= 1
    codes = np.empty(len(keys), dtype=np.int32)
    codes[order] = rank
    return codes, distinct


def _touching(codes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the distinct pairs (int64 [pairs, 2]) of codes that hold the same non-zero key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0))
    first, second = codes[order[same]], codes[order[same + 1]]
    apart = first != second
    low, high = (
        np.minimum(first, second)[apart].astype(np.int64),
        np.maximum(first, second)[apart].astype(np.int64),
    )
    packed = np.unique(low << 32 | high)
    return np.stack([packed >> 32, packed & 0xFFFFFFFF], axis=1)


def _roots(size: int, pairs: np.ndarray) -> np.ndarray:
    """Return the least member of each node's connected component (int32 [size]); union-find with
    path halving.
    """
    nodes = np.unique(pairs)
    parent = list(range(len(nodes)))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in np.searchsorted(nodes, pairs).tolist():
        low, high = sorted((find(first), find(second)))
        parent[high] = low
    roots = np.arange(size, dtype=np.int32)
    roots[nodes] = nodes[[find(node) for node in range(len(nodes))]]
    return roots


def leaking_units(units: Units, given: np.ndarray) -> np.ndarray:
    """Return the units (int64) whose tiles were given two splits; `given` holds split codes or
    `NO_SPLIT` (int8 [n]).
    """
    size = len(units.keys)
    known = given != NO_SPLIT
    low, high = np.full(size, 127, dtype=np.int8), np.full(size, -128, dtype=np.int8)
    np.minimum.at(low, units.of_tile[known], given[known])
    np.maximum.at(high, units.of_tile[known], given[known])
    return np.flatnonzero(low < high)
