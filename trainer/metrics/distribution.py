"""Distances between two sets of features: kernel (KID) and Fréchet (FD), for subsets and bootstrap
draws of the same tiles.

Libraries compute both over all tiles at once; here whole groups (slides, cases) are halved and
drawn, on one kernel matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy.linalg import sqrtm

NUM_COMPONENTS = 32
_DEGREE = 3


@dataclass(frozen=True, eq=False)
class KernelMatrix:
    """Kernel values of all pairs of `num_first` tiles followed by those of a second set."""

    values: np.ndarray
    num_first: int


def scaled_features(
    features: Float[np.ndarray, "tiles features"], reference: Float[np.ndarray, "others features"]
) -> Float[np.ndarray, "tiles features"]:
    """Return (x - mean) / s: the mean of a reference set, and one scalar, the root mean square of
    all its centred features.

    Never a scale for each feature: those that hardly change in the reference would make the kernel
    explode.
    """
    centred = reference - reference.mean(axis=0)
    scale = np.sqrt(np.mean(centred**2))
    return np.asarray((features - reference.mean(axis=0)) / max(scale, 1e-12))


def polynomial_kernel(
    first: Float[np.ndarray, "tiles features"], second: Float[np.ndarray, "others features"]
) -> KernelMatrix:
    """Return k(x, y) = (x.y / d + 1)^3 of all pairs of both sets together, d features.

    Source: Binkowski et al. 2018, arXiv 1801.01401, section 4. The reference set is the first.
    """
    joined = np.concatenate([scaled_features(first, first), scaled_features(second, first)])
    return KernelMatrix((joined @ joined.T / joined.shape[1] + 1) ** _DEGREE, len(first))


def squared_mmd(
    kernel: KernelMatrix,
    first: Integer[np.ndarray, " some"],
    second: Integer[np.ndarray, " others"],
) -> float:
    """Return the unbiased squared maximum mean discrepancy of two subsets; below 0 by chance where
    both are alike.

    Args:
        kernel: The kernel of all tiles.
        first: Rows of the first subset, each once.
        second: Rows of the second, each once; rows of the second set of the kernel start at
            `num_first`. Both may be halves of one set.

    Returns:
        The estimate; NaN where a subset has fewer than two tiles.
    """
    n, m = len(first), len(second)
    if min(n, m) < 2:
        return float("nan")
    values = kernel.values
    inside = [
        (values[np.ix_(rows, rows)].sum() - values[rows, rows].sum()) / (k * (k - 1))
        for rows, k in ((first, n), (second, m))
    ]
    return float(inside[0] + inside[1] - 2 * values[np.ix_(first, second)].mean())


def draw_squared_mmd(
    kernel: KernelMatrix,
    groups: Integer[np.ndarray, " first"],
    other_groups: Integer[np.ndarray, " second"],
    num_draws: int,
    seed: int,
) -> Float[np.ndarray, " {num_draws}"]:
    """Return squared discrepancies of block bootstrap draws: whole groups of both sets are drawn
    with replacement.

    A group that is drawn w times weighs pairs inside of it w times, and pairs with another group
    w times that one's weight: pairs of a tile with its own copy never count.

    Args:
        kernel: The kernel of all tiles.
        groups: Group of each tile of the first set, whole numbers from 0.
        other_groups: Group of each tile of the second.
        num_draws: Number of draws.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    n = kernel.num_first
    first, second = _indicators(groups), _indicators(other_groups)
    parts = kernel.values[:n, :n], kernel.values[n:, n:], kernel.values[:n, n:]
    without_self = [part - np.diag(np.diag(part)) for part in parts[:2]]
    sums = [
        first @ without_self[0] @ first.T,
        second @ without_self[1] @ second.T,
        first @ parts[2] @ second.T,
    ]
    sizes = first.sum(axis=1), second.sum(axis=1)
    pairs = [np.outer(size, size) - np.diag(size) for size in sizes]
    drawn = np.empty(num_draws)
    for number in range(num_draws):
        weights = _draw(rng, sizes[0])
        others = _draw(rng, sizes[1])
        inside = [
            _weighted_mean(total, count, weight)
            for total, count, weight in zip(sums, pairs, (weights, others), strict=False)
        ]
        between = weights @ sums[2] @ others / max((weights @ sizes[0]) * (others @ sizes[1]), 1)
        drawn[number] = inside[0] + inside[1] - 2 * between
    return drawn


def _indicators(groups: np.ndarray) -> np.ndarray:
    """Return which group each tile is of, float64 [groups, tiles]."""
    return np.asarray((np.unique(groups)[:, None] == groups).astype(float))


def _draw(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    count = len(sizes)
    return np.asarray(rng.multinomial(count, np.full(count, 1 / count)).astype(float))


def _weighted_mean(sums: np.ndarray, pairs: np.ndarray, weights: np.ndarray) -> float:
    weight = np.outer(weights, weights)
    np.fill_diagonal(weight, weights)
    number = float((weight * pairs).sum())
    return float((weight * sums).sum() / number) if number else float("nan")


def principal_components(
    features: Float[np.ndarray, "tiles features"], num_components: int = NUM_COMPONENTS
) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, "components features"]]:
    """Return the mean and the first principal components of a set, orthonormal rows; fewer where
    the set has fewer tiles or features.
    """
    mean = features.mean(axis=0)
    _, _, directions = np.linalg.svd(features - mean, full_matrices=False)
    return mean, directions[: min(num_components, len(features) - 1)]


def frechet_distance(
    first: Float[np.ndarray, "tiles features"], second: Float[np.ndarray, "others features"]
) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the Gaussians fitted to two sets.

    It grows as the sets get smaller: compare values of equal sizes only. Source: Dowson and Landau
    1982; Heusel et al. 2017, arXiv 1706.08500.
    """
    apart = first.mean(axis=0) - second.mean(axis=0)
    covariances = [np.atleast_2d(np.cov(part, rowvar=False)) for part in (first, second)]
    # tr sqrt(C1 C2) is that of the symmetric sqrt(C1) C2 sqrt(C1).
    root = np.real(sqrtm(covariances[0]))
    middle = np.linalg.eigvalsh(root @ covariances[1] @ root)
    overlap = np.sqrt(np.clip(middle, 0, None)).sum()
    return float(apart @ apart + sum(np.trace(part) for part in covariances) - 2 * overlap)
