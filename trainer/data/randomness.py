"""Random numbers as pure functions of (seed, position, purpose): no state, no history, the same in
every process.

A training position n gets its augmentation, noise and timestep from here, so that a resumed run,
another number of workers or another batch size sees the same numbers. `purpose` names what a number
is for; two purposes are independent.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np
import xxhash
from jaxtyping import Float32, Float64, Integer

_WORD = (1 << 64) - 1
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_LEVELS = 1 << 16


def keyed_generator(seed: int, position: int, purpose: str) -> np.random.Generator:
    """Return a NumPy generator of its own for (seed, position, purpose).

    Philox, a counter-based generator: seed and purpose are its key, the position the upper half of
    its counter, so that streams of different positions are 2^128 draws apart. Source: Salmon et al.
    2011, "Parallel random numbers: as easy as 1, 2, 3".

    Args:
        seed: Seed of the run, any integer.
        position: Training position, from 0.
        purpose: What the numbers are for; two purposes are independent.
    """
    return np.random.Generator(
        np.random.Philox(key=_key(seed, purpose), counter=_counter(position))
    )


def keyed_uniforms(
    seed: int, positions: Integer[np.ndarray, " positions"], purpose: str, count: int = 1
) -> Float64[np.ndarray, "positions {count}"]:
    """Return uniform numbers in [0, 1), each a function of (seed, position, purpose, its column).

    The mixing function of SplitMix64 applied twice to a Weyl sequence. Source: Steele, Lea and
    Flood 2014, section 4.

    Args:
        seed: Seed of the run, any integer.
        positions: Training positions, from 0.
        purpose: What the numbers are for; two purposes are independent.
        count: Numbers for each position.

    Returns:
        float64 [positions, count].
    """
    start = _mix(
        np.asarray(positions).astype(np.uint64) * _GAMMA + np.uint64(_key(seed, purpose)[1])
    )
    columns = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    words = _mix(_mix(start ^ np.uint64(seed & _WORD))[:, None] + columns)
    return np.asarray((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def keyed_normals(
    seed: int,
    positions: Integer[np.ndarray, " positions"],
    purpose: str,
    shape: tuple[int, ...],
    *,
    num_terms: int = 2,
) -> Float32[np.ndarray, " positions *shape"]:
    """Return standard normal numbers, a function of (seed, position, purpose).

    Each number is a sum of `num_terms` quantiles of the normal distribution at 16 random bits, over
    the root of `num_terms`: whole numbers and additions only, hence the same on every machine, and
    five times as fast as NumPy's. With two terms moments and tails agree with the normal
    distribution to beyond 5 standard deviations (the largest value is 6.0); one term ends at 4.2
    and will do where the numbers are scaled down anyway, as in a draw from a codec's posterior.

    Args:
        seed: Seed of the run, any integer.
        positions: Training positions, from 0.
        purpose: What the numbers are for; two purposes are independent.
        shape: Shape of the numbers of a position.
        num_terms: Terms of the sum.

    Returns:
        float32 [positions, *shape].
    """
    quantiles = _quantiles()
    size = math.prod(shape)
    words = -(-size // 4)
    values = np.empty((len(positions), size), dtype=np.float32)
    source = np.random.Philox(key=_key(seed, purpose))
    state = source.state
    state["buffer_pos"], state["has_uint32"] = 4, 0
    term = np.empty(size, dtype=np.float32)
    for index, position in enumerate(np.asarray(positions).tolist()):
        row = values[index]
        state["state"]["counter"] = _counter(position)
        source.state = state
        bits = source.random_raw(words * num_terms).view(np.uint16).reshape(num_terms, -1)[:, :size]
        np.take(quantiles, bits[0], out=row, mode="clip")
        for more in bits[1:]:
            np.add(row, np.take(quantiles, more, out=term, mode="clip"), out=row)
    if num_terms > 1:
        values *= np.float32(1 / math.sqrt(num_terms))
    return values.reshape(len(positions), *shape)


def _key(seed: int, purpose: str) -> np.ndarray:
    return np.array([seed & _WORD, xxhash.xxh3_64_intdigest(purpose.encode())], dtype=np.uint64)


def _counter(position: int) -> np.ndarray:
    if position < 0:
        raise ValueError(f"positions count from 0, not {position}")
    return np.array([0, 0, position & _WORD, position >> 64], dtype=np.uint64)


def _mix(words: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))


@functools.cache
def _quantiles() -> np.ndarray:
    """Return the quantiles of the standard normal at the middles of 2^16 equal parts, scaled to
    unit variance: float32 [65536].
    """
    normal = NormalDist()
    upper = np.array(
        [normal.inv_cdf((index + 0.5) / _LEVELS) for index in range(_LEVELS // 2, _LEVELS)]
    )
    table = np.concatenate([-upper[::-1], upper])
    return np.asarray((table / table.std()).astype(np.float32))
