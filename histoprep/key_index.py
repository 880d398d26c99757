"""Where keys stand among others: names by their hashes, in 16 bytes a name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from histoprep.digests import hash_text

_DIGEST_DIGITS = 32
# Odd numbers without a pattern: products differ in all bits where the factors differ in one.
_FACTORS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64
)


def hash_names(names: Iterable[str]) -> np.ndarray:
    """Return the XXH3-64 of each name, uint64 [names]."""
    return np.fromiter(map(hash_text, names), np.uint64)


def digest_keys(digests: pa.ChunkedArray) -> np.ndarray:
    """Return a key of each digest, uint64 [digests]: equal for equal digests, 0 for null.

    Two of 10 million different ones share a key with probability 3e-6.
    """
    pieces = [_keys_of_piece(piece) for piece in digests.chunks]
    return np.concatenate([np.zeros(0, np.uint64), *pieces])


def _keys_of_piece(digests: pa.Array) -> np.ndarray:
    valid = digests.is_valid().to_numpy(zero_copy_only=False)
    keys = np.zeros(len(digests), np.uint64)
    texts = digests.drop_null().cast(pa.string())
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts) + 1]
    if len(texts) and (np.diff(offsets) == _DIGEST_DIGITS).all():
        digits = np.frombuffer(texts.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
        words = digits.copy().view(np.uint64).reshape(len(texts), -1)
        # Hex digits differ in few of their bits: spread them over all.
        mixed = (words ^ (words >> np.uint64(29))) * _FACTORS
        mixed ^= mixed >> np.uint64(32)
        found = (mixed * _FACTORS[::-1]).sum(axis=1, dtype=np.uint64)
    else:
        found = hash_names(texts.to_pylist())
    keys[valid] = np.maximum(found, 1)
    return keys


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
