"""KID and FD between real and generated features, with floors at equal size between halves of the
real tiles that share no group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.evaluation.measured import Measured
from trainer.metrics.distribution import (
    draw_squared_mmd,
    frechet_distance,
    polynomial_kernel,
    principal_components,
    squared_mmd,
)
from trainer.metrics.intervals import LEVEL

LEAST_GROUPS, LEAST_TILES = 4, 10
"""With fewer groups, or tiles in a half, there is no floor."""
_TAIL = (1 - LEVEL) / 2


@dataclass(frozen=True, slots=True)
class DistanceOptions:
    """`num_halves`: how often the real groups are halved; `num_draws`: bootstrap draws."""

    num_halves: int = 100
    num_draws: int = 500


@dataclass(frozen=True, eq=False)
class Halves:
    """Pairs of sets of `size` real rows without a common group, and `size` generated rows."""

    size: int
    first: list[np.ndarray]
    second: list[np.ndarray]
    generated: list[np.ndarray]


def measure_distances(
    real: np.ndarray,
    generated: np.ndarray,
    groups: np.ndarray,
    generated_groups: np.ndarray,
    *,
    seed: int = 0,
    options: DistanceOptions | None = None,
    subsets: dict[str, np.ndarray] | None = None,
) -> dict[str, Measured]:
    """Return `kid` and `fd`.

    Values are means over the halves: of one real half against as many generated tiles; floors are
    the same of the two real halves. The interval of KID is a block bootstrap by group, that of FD
    the spread over halves, since its bias would grow with draws of fewer different tiles.

    Args:
        real: Features of real tiles, float64 [n, d].
        generated: Features of generated tiles, float64 [m, d].
        groups: Group of each real tile, from 0.
        generated_groups: Group of each generated tile, from 0.
        seed: Seed of halves and draws.
        options: How often to halve and draw.
        subsets: Names of sets of real rows, such as train; the distance to each is told apart.
    """
    options = options or DistanceOptions()
    rng = np.random.default_rng(seed)
    halves = cut_halves(groups, generated_groups, options.num_halves, rng)
    kernel = polynomial_kernel(real, generated)
    shift = len(real)
    mean, directions = principal_components(real)
    reduced, reduced_generated = ((part - mean) @ directions.T for part in (real, generated))

    def kid(first: np.ndarray, second: np.ndarray) -> float:
        return squared_mmd(kernel, first, second)

    def kid_generated(first: np.ndarray, second: np.ndarray) -> float:
        return squared_mmd(kernel, first, second + shift)

    def fd(first: np.ndarray, second: np.ndarray) -> float:
        return frechet_distance(reduced[first], reduced[second])

    def fd_generated(first: np.ndarray, second: np.ndarray) -> float:
        return frechet_distance(reduced[first], reduced_generated[second])

    drawn = draw_squared_mmd(kernel, groups, generated_groups, options.num_draws, seed)
    parts = {
        name: _of_subsets(subsets or {}, halves.size, len(generated), measure, rng)
        for name, measure in (("kid", kid_generated), ("fd", fd_generated))
    }
    return {
        "kid": measure_halves(halves, kid, kid_generated, drawn, parts["kid"]),
        "fd": measure_halves(halves, fd, fd_generated, None, parts["fd"]),
    }


def cut_halves(
    groups: np.ndarray, generated_groups: np.ndarray, count: int, rng: np.random.Generator
) -> Halves:
    """Return `count` cuts of the real groups into two halves, and equally many generated tiles.

    Groups are dealt in a random order, each to the half with fewer tiles; then both halves and the
    generated tiles are thinned to the smallest of the three. Empty with too few groups or tiles.
    """
    numbers, sizes = np.unique(groups, return_counts=True)
    empty = Halves(0, [], [], [])
    if len(numbers) < LEAST_GROUPS:
        return empty
    cuts = []
    for _ in range(count):
        sides: tuple[list[int], list[int]] = ([], [])
        weight = [0, 0]
        for index in rng.permutation(len(numbers)).tolist():
            side = int(weight[1] < weight[0])
            sides[side].append(int(numbers[index]))
            weight[side] += int(sizes[index])
        cuts.append([np.flatnonzero(np.isin(groups, side)) for side in sides])
    size = min(len(generated_groups), *(len(half) for cut in cuts for half in cut))
    if size < LEAST_TILES:
        return empty
    return Halves(
        size,
        [_thin(cut[0], size, rng) for cut in cuts],
        [_thin(cut[1], size, rng) for cut in cuts],
        [_thin(np.arange(len(generated_groups)), size, rng) for _ in cuts],
    )


def _thin(rows: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.choice(rows, size, replace=False))


def _of_subsets(
    subsets: dict[str, np.ndarray],
    size: int,
    num_generated: int,
    measure: Callable[[np.ndarray, np.ndarray], float],
    rng: np.random.Generator,
) -> dict[str, float | None]:
    """Return the distance of the generated tiles to each subset, all at one size."""
    least = min([size, num_generated, *(len(rows) for rows in subsets.values())], default=0)
    found: dict[str, float | None] = {}
    for name, rows in subsets.items():
        values = [
            measure(_thin(rows, least, rng), _thin(np.arange(num_generated), least, rng))
            for _ in range(20 if least >= LEAST_TILES else 0)
        ]
        found[f"to_{name}"] = float(np.mean(values)) if values else None
    return found


def measure_halves(
    halves: Halves,
    between_real: Callable[[np.ndarray, np.ndarray], float],
    to_generated: Callable[[np.ndarray, np.ndarray], float],
    drawn: np.ndarray | None,
    more: dict[str, float | None],
) -> Measured:
    """Return a measure over halves of the real tiles.

    Args:
        halves: Pairs of real halves, and generated rows.
        between_real: The measure of two sets of real rows: the floor.
        to_generated: That of real rows and generated ones: the value.
        drawn: Bootstrap draws of the value; None for its spread over the halves.
        more: Further facts.
    """
    floors = np.array(list(map(between_real, halves.first, halves.second)))
    values = np.array(list(map(to_generated, halves.first, halves.generated)))
    if not len(values):
        nan = float("nan")
        return Measured(nan, nan, nan, nan, nan, nan, {"size": 0, **more})
    spread = values if drawn is None else drawn[np.isfinite(drawn)]
    low, high = np.quantile(spread, [_TAIL, 1 - _TAIL])
    floor_low, floor_high = np.quantile(floors, [_TAIL, 1 - _TAIL])
    value, floor = float(values.mean()), float(floors.mean())
    facts = {"size": halves.size, "ratio": value / floor if floor > 0 else None, **more}
    return Measured(
        value, float(low), float(high), floor, float(floor_low), float(floor_high), facts
    )
