"""Seeded permutations without a table: a Feistel network with cycle walking, vectorised.

A Feistel network mixes the two halves of a number of b bits in rounds, each of which can be undone,
so that it permutes 0 to 2^b - 1 whatever its round function is (Luby and Rackoff 1988, doi
10.1137/0217022). A result outside of 0 to n - 1 is put in again until it falls inside, which makes
it a permutation of those (Black and Rogaway 2002, doi 10.1007/3-540-45760-7_9); with 2^b < 2n that
takes fewer than two rounds on average.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 8
# Odd constants of SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195).
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_MASK_64 = (1 << 64) - 1


def mix(values: np.ndarray) -> np.ndarray:
    """Return a well-mixed bijection of uint64 values, same shape: the output function of
    SplitMix64.
    """
    with np.errstate(over="ignore"):
        mixed = values + _STEP
        mixed ^= mixed >> np.uint64(30)
        mixed *= _FIRST
        mixed ^= mixed >> np.uint64(27)
        mixed *= _SECOND
        mixed ^= mixed >> np.uint64(31)
    return mixed


def keys_of(seed: int, *parts: np.ndarray | int) -> np.ndarray:
    """Return uint64 keys that depend on the seed and on every part and its place; parts are
    integers of 64 bits and broadcast.
    """
    key = mix(np.atleast_1d(np.uint64(seed & _MASK_64)))
    for part in parts:
        number = (
            np.asarray(part).astype(np.int64).view(np.uint64)
            if isinstance(part, np.ndarray)
            else np.uint64(part & _MASK_64)
        )
        key = mix(key ^ mix(np.atleast_1d(number)))
    return key


def permute(values: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return, for every element, where the permutation of 0 to size - 1 with that key takes the
    value: int64 [n].

    `values` int64 [n] in [0, size), `sizes` int64 [n] in [1, 2^53], `keys` uint64 [n]. Equal sizes
    and keys are one permutation.
    """
    current = values.astype(np.uint64)
    limits = sizes.astype(np.uint64)
    right_bits, left_bits = _halves(sizes)
    outside = np.arange(len(current))
    while len(outside):
        moved = _feistel(current[outside], right_bits[outside], left_bits[outside], keys[outside])
        current[outside] = moved
        outside = outside[moved >= limits[outside]]
    return current.astype(np.int64)


def _halves(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bits of the lower and of the upper half of numbers below each size (uint64
    [n]).
    """
    # The exponent of a float64 is the length in bits, exactly below 2^53.
    bits = np.frexp((sizes - 1).astype(np.float64))[1].astype(np.uint64)
    left = bits // np.uint64(2)
    return bits - left, left


def _feistel(
    values: np.ndarray, right_bits: np.ndarray, left_bits: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    unit = np.uint64(1)
    right_mask, left_mask = (unit << right_bits) - unit, (unit << left_bits) - unit
    right, left = values & right_mask, values >> right_bits
    with np.errstate(over="ignore"):
        for turn in range(0, _ROUNDS, 2):
            right ^= mix(left + keys * np.uint64(2 * turn + 1)) & right_mask
            left ^= mix(right + keys * np.uint64(2 * turn + 3)) & left_mask
    result: np.ndarray = (left << right_bits) | right
    return result
