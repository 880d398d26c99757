"""Where keys stand among others: names by their hashes, in 16 bytes a name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from histoprep.digests import hash_text


def hash_names(names: Iterable[str]) -> np.ndarray:
    """Return the XXH3-64 of each name, uint64 [names]."""
    return np.fromiter(map(hash_text, names), np.uint64)


class KeyIndex:
    """Positions of keys; of equal keys the first one counts."""

    def __init__(self, keys: np.ndarray) -> None:
        """Sort the keys, uint64 [n]."""
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._sorted)

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """Return the position of each wanted key among the keys, int64 [wanted], -1 for none."""
        if not len(self):
            return np.full(len(wanted), -1, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, wanted), len(self) - 1)
        return np.where(self._sorted[at] == wanted, self._order[at], -1)
