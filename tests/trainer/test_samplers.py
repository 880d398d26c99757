"""Solvers against closed forms: a Gaussian, whose exact denoiser is known, goes from noise to std *
noise along the exact path.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import SOLVERS, Elsewhere, Known, Solver, sample
from trainer.diffusion.schedule import NoiseSchedule

torch.set_num_threads(1)

STD = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64).view(1, 3, 1, 1)
MEAN = torch.tensor([2.0, -1.5, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
# mean_flow goes all the way in a step: see test_mean_flow.
PAIRS = [
    (kind, solver) for kind, solvers in SOLVERS.items() for solver in solvers if kind != "mean_flow"
]


def _levels(objective: Objective, t: Tensor) -> tuple[Tensor, Tensor]:
    if objective.prediction_type == "flow":
        time = t.double().view(-1, 1, 1, 1) / objective.schedule.num_train_timesteps
        return 1 - time, time
    power = objective.schedule.alpha_bars().double()[t].view(-1, 1, 1, 1)
    return power.sqrt(), (1 - power).sqrt()


def _exact_denoiser(objective: Objective, mean: Tensor = MEAN, std: Tensor = STD):
    """The best answer there is for latents that are normal with `mean` and `std`: what a perfect
    network says.
    """

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        signal, sigma = _levels(objective, t)
        x = x.double()
        clean = mean + signal * std**2 / (signal**2 * std**2 + sigma**2) * (x - signal * mean)
        noise = (x - signal * clean) / sigma
        return {"epsilon": noise, "v": signal * noise - sigma * clean, "flow": noise - clean}[
            objective.prediction_type
        ]

    return denoise


def _noise(batch: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(
        batch, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def _error(kind: str, solver: str, num_steps: int) -> float:
    objective, noise, times = Objective(kind), _noise(), []
    exact = _exact_denoiser(objective)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        times.append(t)
        return exact(x, t)

    found = sample(denoise, noise, objective, Solver(solver, num_steps))
    # The path of the probability flow from where the solver started: a Gaussian keeps its
    # quantiles.
    signal, sigma = _levels(objective, times[0])
    quantile = (noise - signal * MEAN) / torch.sqrt(signal**2 * STD**2 + sigma**2)
    return float((found - MEAN - STD * quantile).abs().mean())


@pytest.mark.parametrize(("kind", "solver"), PAIRS)
def test_a_perfect_network_gives_the_distribution_it_knows(kind, solver):
    assert _error(kind, solver, 100) < (0.04 if solver in ("ddim", "euler") else 0.006)


@pytest.mark.parametrize(("kind", "solver"), PAIRS)
def test_the_order_of_convergence(kind, solver):
    steps = (10, 20, 40) if solver != "heun" else (11, 21, 41)
    errors = [_error(kind, solver, num_steps) for num_steps in steps]
    order = math.log2(errors[0] / errors[-1]) / 2
    if solver in ("ddim", "euler"):
        assert 0.8 < order < 1.2
    else:
        assert order > 1.5, errors


def _solve(objective: Objective, solver: Solver) -> tuple[float, list[float]]:
    """Return the largest relative error of a standard deviation, and log(signal / sigma) of the
    calls.
    """
    exact, noise, ratios = _exact_denoiser(objective), _noise(64), []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        signal, sigma = _levels(objective, t[:1])
        ratios.append(float(torch.log(signal / sigma)))
        return exact(x, t)

    found = sample(denoise, noise, objective, solver)
    spread = (found - MEAN).std((0, 2, 3)) / (STD.flatten() * noise.std((0, 2, 3)))
    return float((spread - 1).abs().max()), ratios


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("num_steps", [10, 25])
def test_steps_of_equal_log_snr_are_more_exact_where_they_are_few(kind, schedule, num_steps):
    objective = Objective(kind, NoiseSchedule(schedule))
    by_time, _ = _solve(objective, Solver("dpm++", num_steps))
    by_log_snr, ratios = _solve(objective, Solver("dpm++", num_steps, spacing="log_snr"))
    assert by_log_snr < min(0.6 * by_time, 0.025 if num_steps == 10 else 0.012)
    assert len(ratios) == num_steps
    steps = torch.tensor(ratios).diff()[1:]
    assert float(steps.std() / steps.mean()) < 0.1


def test_flow_times_of_equal_log_snr():
    error, ratios = _solve(Objective("flow"), Solver("dpm++", 25, spacing="log_snr"))
    assert error < 0.02
    steps = torch.tensor(ratios).diff()[1:]
    assert torch.allclose(steps, steps.mean().expand_as(steps), rtol=1e-3)


@pytest.mark.parametrize("num_steps", [1, 2, 900, 960])
def test_any_number_of_steps_has_timesteps_of_its_own(num_steps):
    for kind in ("epsilon", "v", "flow"):
        solver = Solver("dpm++", num_steps, spacing="log_snr")
        _, ratios = _solve(Objective(kind), solver)
        assert len(ratios) == num_steps
        assert all(a < b for a, b in pairwise(ratios))


@pytest.mark.parametrize(("kind", "solver"), PAIRS)
def test_outside_the_interval_another_network_is_called(kind, solver):
    objective, called = Objective(kind), {"inside": [], "outside": []}
    exact = _exact_denoiser(objective)

    def network(name: str):
        def denoise(x: Tensor, t: Tensor) -> Tensor:
            signal, sigma = _levels(objective, t[:1])
            called[name].append(float(sigma / signal))
            return exact(x, t)

        return denoise

    elsewhere = Elsewhere((0.3, 3.0), network("outside"))
    found = sample(network("inside"), _noise(), objective, Solver(solver, 20), elsewhere=elsewhere)
    assert all(0.3 <= level <= 3.0 for level in called["inside"]) and called["inside"]
    assert all(not 0.3 <= level <= 3.0 for level in called["outside"]) and called["outside"]
    assert torch.equal(found, sample(exact, _noise(), objective, Solver(solver, 20)))


def _ddim_by_hand(
    objective: Objective, noise: Tensor, num_steps: int, eta: float, fresh: list[Tensor], first: int
) -> Tensor:
    """Song et al. 2020, equations 12 and 16, on a grid of whole timesteps from `first` down."""
    powers = objective.schedule.alpha_bars().double()
    stride, denoise, x = 1000 // num_steps, _exact_denoiser(objective), noise
    for index in range(num_steps):
        t = first - index * stride
        here, there = float(powers[t]), float(powers[t - stride]) if t >= stride else 1.0
        epsilon = denoise(x, torch.full((len(x),), t))
        clean = (x - math.sqrt(1 - here) * epsilon) / math.sqrt(here)
        spread = eta * math.sqrt((1 - there) / (1 - here)) * math.sqrt(1 - here / there)
        x = (
            math.sqrt(there) * clean
            + math.sqrt(1 - there - spread**2) * epsilon
            + spread * fresh[index]
        )
    return x


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_the_published_formula(eta):
    objective = Objective("epsilon", NoiseSchedule("linear"))
    fresh = [_noise(seed=100 + index) for index in range(25)]
    found = sample(
        _exact_denoiser(objective),
        _noise(),
        objective,
        Solver("ddim", 25, eta),
        step_noise=lambda index: fresh[index],
    )
    # The linear schedule starts at its last timestep.
    assert torch.allclose(found, _ddim_by_hand(objective, _noise(), 25, eta, fresh, 999), atol=1e-4)


def test_euler_is_the_formula():
    objective, x = Objective("flow"), _noise()
    denoise = _exact_denoiser(objective)
    for step in range(8):
        x = x - denoise(x, torch.full((len(x),), 1000 * (1 - step / 8))) / 8
    assert torch.allclose(sample(denoise, _noise(), objective, Solver("euler", 8)), x, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS["flow"])
@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_a_shift_moves_the_times_of_every_solver_and_not_its_result(solver, shift):
    objective, noise, times = Objective("flow", flow_shift=shift), _noise(), []
    exact = _exact_denoiser(objective)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        times.append(float(t[0]) / 1000)
        return exact(x, t)

    found = sample(denoise, noise, objective, Solver(solver, 100))
    plain = sample(exact, noise, Objective("flow"), Solver(solver, 100))
    assert float((found - plain).abs().mean()) < (0.1 if solver == "euler" else 0.01)
    # Half of the steps lie above the time that a half is shifted to, and the last above the least.
    middle = shift * 0.5 / (1 + (shift - 1) * 0.5)
    assert sum(time >= middle for time in times) / len(times) == pytest.approx(0.5, abs=0.02)
    assert max(times) > 0.99 and 0 < min(times) < 0.04


@pytest.mark.parametrize(("kind", "solver"), PAIRS)
def test_latents_far_from_zero_are_not_clipped(kind, solver):
    objective = Objective(kind)
    far = torch.full((1, 3, 1, 1), 9.0, dtype=torch.float64)
    found = sample(
        _exact_denoiser(objective, far, torch.full_like(STD, 0.01)),
        _noise(),
        objective,
        Solver(solver, 25),
    )
    assert torch.allclose(found, far.expand_as(found), atol=0.1)


@pytest.mark.parametrize(
    ("solver", "num_steps"),
    [("ddim", 25), ("ddim", 250), ("ddim", 1000), ("dpm++", 25), ("dpm++", 990)],
)
def test_a_network_that_is_a_little_wrong_gives_latents_that_are_a_little_wrong(solver, num_steps):
    # At the end of the cosine schedule noise tells nothing: starting there multiplies an error by a
    # thousand.
    objective = Objective("epsilon", NoiseSchedule("cosine"))
    exact = _exact_denoiser(objective)
    found = sample(lambda x, t: exact(x, t) + 0.002, _noise(), objective, Solver(solver, num_steps))
    right = sample(exact, _noise(), objective, Solver(solver, num_steps))
    assert float((found - right).abs().max()) < 0.1


@pytest.mark.parametrize(("kind", "solver"), PAIRS)
def test_each_sample_is_its_own(kind, solver):
    objective = Objective(kind)
    noise = _noise().float()
    together = sample(_exact_denoiser(objective), noise, objective, Solver(solver, 10))
    alone = torch.cat(
        [
            sample(_exact_denoiser(objective), noise[i : i + 1], objective, Solver(solver, 10))
            for i in range(len(noise))
        ]
    )
    assert torch.allclose(together, alone, atol=1e-6)


# Inpainting.


def _known(batch: int = 16) -> Known:
    latents = MEAN + STD * _noise(batch, seed=9)
    where = torch.zeros(batch, 1, 2, 2, dtype=torch.bool)
    where[:, :, 0] = True
    return Known(latents, where)


@pytest.mark.parametrize(("kind", "solver"), PAIRS)
def test_known_latents_are_kept_exactly_and_the_rest_is_made(kind, solver):
    objective, known = Objective(kind), _known()
    found = sample(_exact_denoiser(objective), _noise(), objective, Solver(solver, 20), known=known)
    assert torch.equal(found[:, :, 0], known.latents[:, :, 0])
    free = sample(_exact_denoiser(objective), _noise(), objective, Solver(solver, 20))
    assert torch.allclose(found[:, :, 1], free[:, :, 1], atol=1e-6)


@pytest.mark.parametrize(("kind", "solver"), PAIRS)
def test_the_network_sees_the_known_region_at_the_level_it_is_told(kind, solver):
    objective, known, noise = Objective(kind), _known(), _noise()
    exact, seen = _exact_denoiser(objective), []

    def watching(x: Tensor, t: Tensor) -> Tensor:
        signal, sigma = _levels(objective, t)
        seen.append(float((x - signal * known.latents - sigma * noise)[:, :, 0].abs().max()))
        return exact(x, t)

    sample(watching, noise, objective, Solver(solver, 10), known=known)
    assert len(seen) == (19 if solver == "heun" else 10)
    assert max(seen) < 1e-5


def test_the_unknown_region_listens_to_the_known_one():
    """Two latents that are always equal: where one is known, the other must follow."""
    objective = Objective("v")

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        signal, sigma = _levels(objective, t)
        x = x.double()
        # clean = (z, z) with z standard normal: the best guess uses the mean of both.
        both = x.mean(2, keepdim=True)
        clean = (signal / (signal**2 + sigma**2 / 2) * both).expand_as(x)
        return signal * (x - signal * clean) / sigma - sigma * clean

    noise = torch.randn(
        400, 1, 2, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    latents = torch.randn(
        400, 1, 1, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    ).expand(400, 1, 2, 1)
    where = torch.zeros(400, 1, 2, 1, dtype=torch.bool)
    where[:, :, 0] = True
    found = sample(denoise, noise, objective, Solver("dpm++", 50), known=Known(latents, where))
    together = torch.corrcoef(torch.stack((found[:, 0, 1, 0], latents[:, 0, 0, 0])))[0, 1]
    assert float(together) > 0.6


@pytest.mark.parametrize(
    ("kind", "solver", "words"),
    [
        ("epsilon", Solver("euler", 10), "dpm\\+\\+ or ddim expected"),
        ("flow", Solver("ddim", 10), "euler"),
        ("v", Solver("ddim", 10, spacing="log_snr"), "expected"),
        ("v", Solver("ddim", 30), "divisor of 1000"),
        ("v", Solver("dpm++", 0), "1 to 999"),
        ("epsilon", Solver("dpm++", 1000), "1 to 995"),
        ("v", Solver("dpm++", 10, eta=0.5), "eta"),
        ("v", Solver("ddim", 10, eta=0.5), "step_noise"),
    ],
)
def test_solvers_that_do_not_fit_are_refused(kind, solver, words):
    objective = Objective(kind)
    with pytest.raises(ValueError, match=words):
        sample(_exact_denoiser(objective), _noise(), objective, solver)
