"""Kernel and Fréchet distances against other computations and known distributions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel as kernel_of_sklearn

from trainer.metrics.distribution import (
    draw_squared_mmd,
    frechet_distance,
    polynomial_kernel,
    principal_components,
    scaled_features,
    squared_mmd,
)


def samples(seed: int, count: int = 40, width: int = 6, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (count, width))


def test_the_kernel_is_that_of_scikit_learn() -> None:
    first, second = samples(0), samples(1, 30)
    joined = np.concatenate([scaled_features(first, first), scaled_features(second, first)])
    kernel = polynomial_kernel(first, second)
    assert kernel.num_first == 40
    assert np.allclose(kernel.values, kernel_of_sklearn(joined, degree=3, gamma=1 / 6, coef0=1))


def test_the_estimate_is_the_mean_over_pairs_of_different_tiles() -> None:
    kernel = polynomial_kernel(samples(0, 7), samples(1, 5))
    first, second = np.array([0, 2, 5, 6]), np.array([7, 9, 11])
    value = kernel.values
    pairs = [
        np.mean([value[i, j] for i in rows for j in rows if i != j]) for rows in (first, second)
    ]
    between = np.mean([value[i, j] for i in first for j in second])
    assert squared_mmd(kernel, first, second) == pytest.approx(sum(pairs) - 2 * between)


def test_it_is_unbiased_for_equal_distributions() -> None:
    values = []
    for seed in range(60):
        kernel = polynomial_kernel(samples(seed, 30), samples(1000 + seed, 30))
        values.append(squared_mmd(kernel, np.arange(30), np.arange(30, 60)))
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error


def test_the_scale_of_a_single_feature_does_not_explode() -> None:
    first, second = samples(0), samples(1)
    first[:, 0], second[:, 0] = 1e-9 * first[:, 0], 1e-3
    kernel = polynomial_kernel(first, second)
    assert abs(squared_mmd(kernel, np.arange(40), np.arange(40, 80))) < 1


def test_draws_of_single_tiles_spread_like_new_samples() -> None:
    estimates = [
        squared_mmd(
            polynomial_kernel(samples(seed, 60, shift=0.3), samples(500 + seed, 60)),
            np.arange(60),
            np.arange(60, 120),
        )
        for seed in range(80)
    ]
    kernel = polynomial_kernel(samples(3, 60, shift=0.3), samples(503, 60))
    drawn = draw_squared_mmd(kernel, np.arange(60), np.arange(60), 300, 0)
    assert 0.5 < np.std(drawn) / np.std(estimates) < 2
    assert abs(np.mean(drawn) - estimates[3]) < 2 * np.std(estimates)


def test_draws_of_groups_spread_like_new_groups_and_draws_of_tiles_do_not() -> None:
    groups, tiles = np.repeat(np.arange(8), 10), np.arange(80)
    estimates, by_group, by_tile = [], [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        first = rng.normal(0, 1, (8, 6))[groups] + 0.2 * rng.normal(size=(80, 6))
        kernel = polynomial_kernel(first, samples(1000 + seed, 80))
        estimates.append(squared_mmd(kernel, tiles, tiles + 80))
        by_group.append(np.std(draw_squared_mmd(kernel, groups, tiles, 100, 0)))
        by_tile.append(np.std(draw_squared_mmd(kernel, tiles, tiles, 100, 0)))
    assert 0.7 < np.mean(by_group) / np.std(estimates) < 1.6
    assert np.mean(by_tile) / np.std(estimates) < 0.75


def test_frechet_of_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (200_000, 2)), rng.normal([3, 0], [2, 1], (200_000, 2))
    # |m|^2 + sum (s1 - s2)^2 where covariances commute.
    assert frechet_distance(first, second) == pytest.approx(9 + 1, rel=0.02)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_frechet_is_that_of_the_direct_formula() -> None:
    from scipy.linalg import sqrtm

    first, second = samples(0), samples(1) @ np.diag([1, 2, 3, 1, 1, 1])
    c1, c2 = np.cov(first.T), np.cov(second.T)
    apart = first.mean(0) - second.mean(0)
    direct = apart @ apart + np.trace(c1 + c2 - 2 * np.real(sqrtm(c1 @ c2)))
    assert frechet_distance(first, second) == pytest.approx(direct)


def test_components_are_orthonormal_and_hold_the_most_variance() -> None:
    features = samples(0) @ np.diag([9, 5, 1, 1, 1, 0.1])
    _, directions = principal_components(features, 2)
    assert np.allclose(directions @ directions.T, np.eye(2))
    kept = ((features - features.mean(0)) @ directions.T).var(axis=0).sum()
    best = np.sort(np.linalg.eigvalsh(np.cov(features.T, bias=True)))[-2:].sum()
    assert kept == pytest.approx(best)
