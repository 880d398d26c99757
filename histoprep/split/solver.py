"""How many units of each type go to each split, so that every column is shared out as asked.

One cost, three searches: a greedy start, local improvement (moves and exchanges of single units)
and, up to a size limit, an integer program (HiGHS through scipy.optimize.milp). The cheapest result
wins. Pure and deterministic: searches end after a number of steps, not of seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from histoprep.errors import UsageError

MISSING_PENALTY = 2.0
"""Cost of a split with no tile of a column that it could have: a deviation of 200 points."""

MAX_INTEGERS = 1_200
_NODE_LIMIT = 200
_TIME_LIMIT_S = 120.0
_WORK_LIMIT = 1_000_000_000
_MAX_STEPS = 2_000
_CANDIDATES = 48
_TINY = 1e-9


@dataclass(frozen=True)
class SplitProblem:
    """Units of T types to be shared among S splits.

    `profiles`: int64 [T, D], tiles of a unit in each column (the first is all tiles). `amounts`:
    int64 [T], units of each type. `targets`: float64 [S, D], wanted sums. `weights`: float64 [D],
    cost of one tile off target. `floors`: int64 [T, S], units that are placed from the start. The
    first `num_exact` columns must meet their (whole) targets exactly; then every unit is one tile.
    """

    profiles: np.ndarray
    amounts: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    floors: np.ndarray
    num_exact: int = 0

    @cached_property
    def spreadable(self) -> np.ndarray:
        """Return which columns (bool [D]) have enough units for every split."""
        result: np.ndarray = ((self.profiles > 0) * self.amounts[:, None]).sum(axis=0) >= len(
            self.targets
        )
        return result

    def cost(self, placed: np.ndarray) -> float:
        """Return the cost of `placed` (int64 [T, S]): weighted deviations and penalties of missing
        columns.
        """
        return float(_cost_of_sums(self, (placed.T @ self.profiles).astype(np.float64)))


def _cost_of_sums(problem: SplitProblem, sums: np.ndarray) -> np.ndarray:
    """Return the cost of `sums` (float64 [..., S, D])."""
    deviation = (problem.weights * np.abs(sums - problem.targets)).sum(axis=(-1, -2))
    result: np.ndarray = deviation + MISSING_PENALTY * ((sums <= 0) & problem.spreadable).sum(
        axis=(-1, -2)
    )
    return result


def solve(problem: SplitProblem) -> tuple[np.ndarray, str]:
    """Return the units of each type in each split (int64 [T, S]) and how they were found, in
    words.
    """
    placed = improve(problem, greedy(problem))
    solver = "greedy with exchanges"
    if problem.floors.sum() == problem.amounts.sum():
        solver = "proportional"
    elif placed.size <= MAX_INTEGERS:
        solution, optimal = integer_program(problem)
        cost = problem.cost(placed)
        if solution is not None:
            solution = solution if optimal else improve(problem, solution)
            if problem.cost(solution) <= cost + _TINY:
                placed, solver = (
                    solution,
                    f"integer program, {'optimal' if optimal else 'best found'}",
                )
    sums = placed.T @ problem.profiles
    if not np.array_equal(sums[:, : problem.num_exact], problem.targets[:, : problem.num_exact]):
        raise UsageError(
            "no split meets the pool sizes exactly", seen=sums[:, : problem.num_exact].tolist()
        )  # pragma: no cover (a bug)
    return placed, solver


def greedy(problem: SplitProblem) -> np.ndarray:
    """Return a start: units of the largest share first, each to the split that it helps most
    (squared relative deficits).
    """
    placed = problem.floors.copy()
    if not problem.num_exact:
        # Many alike: all but a remainder go in proportion to what each split still lacks.
        lacks = (problem.targets - placed.T @ problem.profiles)[:, 0].clip(0.0)
        shares = lacks / (lacks.sum() or 1.0)
        placed += np.floor((problem.amounts - placed.sum(axis=1))[:, None] * shares).astype(
            np.int64
        ) * (problem.amounts[:, None] > 4 * len(shares))
    left = problem.amounts - placed.sum(axis=1)
    deficits = problem.targets - placed.T @ problem.profiles
    weights = np.where(np.arange(len(problem.weights)) < problem.num_exact, 0.0, problem.weights)
    scale = weights**2 / np.maximum(problem.targets, 1.0) * problem.targets.sum(axis=0).clip(1.0)
    largest = (problem.profiles * weights).max(axis=1)
    for kind in np.argsort(-largest, kind="stable").tolist():
        unit = problem.profiles[kind]
        for _ in range(int(left[kind])):
            gains = (scale * ((deficits - unit) ** 2 - deficits**2)).sum(axis=1)
            full = (deficits[:, : problem.num_exact] < unit[: problem.num_exact]).any(axis=1)
            split = int(np.argmin(np.where(full, np.inf, gains)))
            deficits[split] -= unit
            placed[kind, split] += 1
    return placed


def improve(problem: SplitProblem, placed: np.ndarray) -> np.ndarray:
    """Return `placed` after moves and exchanges of single units, best first, until none lowers the
    cost or the work limit is met.
    """
    placed = placed.copy()
    num_splits = len(problem.targets)
    work = problem.profiles.size * num_splits**2
    for _ in range(min(_MAX_STEPS, max(1, _WORK_LIMIT // work))):
        sums = (placed.T @ problem.profiles).astype(np.float64)
        cost = float(_cost_of_sums(problem, sums))
        options = [
            option
            for source in range(num_splits)
            for target in range(num_splits)
            if source != target
            for option in (
                _best_move(problem, placed, sums, source, target),
                _best_exchange(problem, placed, sums, source, target),
            )
            if option is not None
        ]
        best = min(options, key=lambda option: option[0], default=None)
        if best is None or best[0] >= cost - _TINY:
            break
        for kind, source, target in best[1]:
            placed[kind, source] -= 1
            placed[kind, target] += 1
    return placed


_Option = tuple[float, list[tuple[int, int, int]]]


def _free(problem: SplitProblem, placed: np.ndarray, split: int) -> np.ndarray:
    return np.flatnonzero(placed[:, split] > problem.floors[:, split])


def _move_costs(
    problem: SplitProblem, sums: np.ndarray, kinds: np.ndarray, source: int, target: int
) -> np.ndarray:
    """Return the cost (float64 [kinds]) after moving one unit of each kind, one at a time."""
    pair = [source, target]
    before = _pair_cost(problem, sums[pair][None], pair)
    units = problem.profiles[kinds]
    after = np.stack([sums[source] - units, sums[target] + units], axis=1)
    result: np.ndarray = (
        float(_cost_of_sums(problem, sums)) - before + _pair_cost(problem, after, pair)
    )
    return result


def _pair_cost(problem: SplitProblem, sums: np.ndarray, pair: list[int]) -> np.ndarray:
    deviation = (problem.weights * np.abs(sums - problem.targets[pair])).sum(axis=(-1, -2))
    result: np.ndarray = deviation + MISSING_PENALTY * ((sums <= 0) & problem.spreadable).sum(
        axis=(-1, -2)
    )
    return result


def _best_move(
    problem: SplitProblem, placed: np.ndarray, sums: np.ndarray, source: int, target: int
) -> _Option | None:
    kinds = _free(problem, placed, source)
    if not len(kinds) or problem.num_exact:  # a single move always breaks an exact pool
        return None
    costs = _move_costs(problem, sums, kinds, source, target)
    best = int(np.argmin(costs))
    return float(costs[best]), [(int(kinds[best]), source, target)]


def _best_exchange(
    problem: SplitProblem, placed: np.ndarray, sums: np.ndarray, source: int, target: int
) -> _Option | None:
    """Return the best exchange of one unit for another, tried among those that fit best by
    themselves.
    """
    if source > target:
        return None
    there, back = _free(problem, placed, source), _free(problem, placed, target)
    if not len(there) or not len(back):
        return None
    there, back = (
        _promising(problem, sums, there, source, target),
        _promising(problem, sums, back, target, source),
    )
    change = problem.profiles[back][None, :, :] - problem.profiles[there][:, None, :]
    pair = [source, target]
    after = np.stack([sums[source] + change, sums[target] - change], axis=2)
    before = _pair_cost(problem, sums[pair][None], pair)
    costs = float(_cost_of_sums(problem, sums)) - before + _pair_cost(problem, after, pair)
    first, second = np.unravel_index(int(np.argmin(costs)), costs.shape)
    return float(costs[first, second]), [
        (int(there[first]), source, target),
        (int(back[second]), target, source),
    ]


def _promising(
    problem: SplitProblem, sums: np.ndarray, kinds: np.ndarray, source: int, target: int
) -> np.ndarray:
    """Return a few of `kinds`; with exact pools, the best of each pool, since only these can be
    exchanged.
    """
    costs = _move_costs(problem, sums, kinds, source, target)
    order = kinds[np.argsort(costs, kind="stable")]
    if not problem.num_exact:
        return order[:_CANDIDATES]
    pools = problem.profiles[order, 1]
    return np.concatenate([order[pools == pool][:_CANDIDATES] for pool in (0, 1)])


def integer_program(
    problem: SplitProblem, node_limit: int = _NODE_LIMIT
) -> tuple[np.ndarray | None, bool]:
    """Return the cheapest placement that HiGHS finds (int64 [T, S]; None if none) and whether it is
    proven to be the cheapest.

    Variables: x[t, s] units (whole), d[s, c] >= |sum - target| * weight, m[s, c] >= 1 - units of
    column c in split s, in [0, 1]; minimise sum d + MISSING_PENALTY * sum m subject to sum_s x[t,
    s] = amounts[t].
    """
    from scipy import optimize, sparse

    types, splits = problem.floors.shape
    columns = problem.profiles.shape[1]
    eye = sparse.identity(splits)
    # Row-major x[t, s] and d[s, c]: kron puts the split last among the types and first among the
    # columns.
    sums = sparse.kron(eye, sparse.csr_matrix(problem.profiles.T)).tocsr()[
        :, _type_major(types, splits)
    ]
    # Exact columns are held by equations: their weight in the cost would only spoil the scaling.
    exact = np.arange(columns) < problem.num_exact
    weights = np.where(exact, 0.0, problem.weights)
    scaled, goal = (
        sparse.diags(np.tile(weights, splits)) @ sums,
        (weights * problem.targets).ravel(),
    )
    units = sparse.kron(
        eye, sparse.csr_matrix((problem.profiles.T > 0).astype(np.float64))
    ).tocsr()[:, _type_major(types, splits)]
    cells = sparse.identity(splits * columns)
    empty = sparse.csr_matrix((splits * columns, splits * columns))
    able = np.tile(problem.spreadable, splits)
    fixed = np.tile(exact, splits)
    none = sparse.csr_matrix((types, splits * columns))
    constraints = [
        optimize.LinearConstraint(
            _beside(sparse.kron(sparse.identity(types), np.ones((1, splits))), none, none),
            problem.amounts,
            problem.amounts,
        ),
        optimize.LinearConstraint(_beside(scaled, -cells, empty), -np.inf, goal),
        optimize.LinearConstraint(_beside(scaled, cells, empty), goal, np.inf),
        optimize.LinearConstraint(_beside(units, empty, cells)[able], 1.0, np.inf),
    ]
    if exact.any():
        wanted = problem.targets.ravel()[fixed]
        constraints.append(
            optimize.LinearConstraint(_beside(sums, empty, empty)[fixed], wanted, wanted)
        )
    missing = np.where(able, MISSING_PENALTY, 0.0)
    free = np.zeros(splits * columns)
    result = optimize.milp(
        c=np.concatenate([np.zeros(types * splits), np.ones(splits * columns), missing]),
        integrality=np.concatenate([np.ones(types * splits), free, free]),
        bounds=optimize.Bounds(
            np.concatenate([problem.floors.ravel(), free, free]),
            np.concatenate(
                [np.repeat(problem.amounts, splits).astype(np.float64), free + np.inf, free + 1.0]
            ),
        ),
        constraints=constraints,
        options={"node_limit": node_limit, "time_limit": _TIME_LIMIT_S, "mip_rel_gap": 0.0},
    )
    if result.x is None:
        return None, False
    placed = np.rint(result.x[: types * splits]).astype(np.int64).reshape(types, splits)
    valid = np.array_equal(placed.sum(axis=1), problem.amounts) and (placed >= problem.floors).all()
    return (placed if valid else None), bool(valid and result.status == 0)


def _beside(*blocks: Any) -> Any:
    from scipy import sparse

    return sparse.csr_matrix(sparse.hstack(blocks))


def _type_major(types: int, splits: int) -> np.ndarray:
    """Return the split-major column of each x[t, s] in type-major order."""
    return (np.arange(splits)[None, :] * types + np.arange(types)[:, None]).ravel()
