"""Pairs of tiles that belong together -> groups of tiles, without those that hang by one thread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Components:
    """Tiles that belong together.

    Attributes:
        of_tile: The number of each tile's component, int64 [n]; a tile of its own has one, too.
        is_cut: Which pairs were cut, as the only weak one between two components, bool [m].
    """

    of_tile: np.ndarray
    is_cut: np.ndarray


def join_pairs(
    number: int, first: np.ndarray, second: np.ndarray, is_weak: np.ndarray
) -> Components:
    """Return the components of tiles.

    Strong pairs join. Weak ones join two components where there are at least two between them; a
    single one is cut.

    Args:
        number: How many tiles there are, n.
        first: Positions of tiles, int64 [m].
        second: Positions of the tiles that belong to them, int64 [m].
        is_weak: Which pairs are not beyond doubt, bool [m].
    """
    joined = _components(number, first[~is_weak], second[~is_weak])
    is_cut = np.zeros(len(first), bool)
    weak = np.flatnonzero(is_weak)
    ends = np.sort(np.stack([joined[first[weak]], joined[second[weak]]], axis=1), axis=1)
    apart = ends[:, 0] != ends[:, 1]
    weak, ends = weak[apart], ends[apart]
    if len(weak):
        _, which, counts = np.unique(
            ends[:, 0] * number + ends[:, 1], return_inverse=True, return_counts=True
        )
        is_cut[weak] = counts[which] == 1
    kept = ~is_cut
    return Components(_components(number, first[kept], second[kept]), is_cut)


def _components(number: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    # scipy takes a quarter of a second to import, and most audits find no pairs.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(number, number))
    _, labels = connected_components(links, directed=False)
    result: np.ndarray = labels.astype(np.int64)
    return result
