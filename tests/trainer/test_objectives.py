"""Objectives: exact answers recover the clean latents, weights agree across predictions, timesteps
follow their law; guidance is linear.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainer.diffusion.guidance import guided
from trainer.diffusion.objectives import Objective
from trainer.diffusion.schedule import NoiseSchedule

torch.set_num_threads(1)

KINDS = ["epsilon", "v", "flow"]


def _latents(seed: int, batch: int = 64) -> Tensor:
    # Far outside [-1, 1], where latents of unit variance often are.
    return 3 * torch.randn(batch, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def _uniforms(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) / count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_an_exact_answer_recovers_the_clean_latents(kind, schedule):
    objective = Objective(kind, NoiseSchedule(schedule))
    clean, noise = _latents(1), _latents(2) / 3
    t = objective.timesteps_from_uniform(0.9 * _uniforms(64))
    target = objective.training_target(clean, noise, t)
    assert torch.allclose(
        objective.clean_from(target, objective.noised(clean, noise, t), t), clean, atol=2e-3
    )


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_schedule_is_the_published_one(schedule):
    num = 1000
    if schedule == "linear":
        betas = [1e-4 + (0.02 - 1e-4) * i / (num - 1) for i in range(num)]
    else:

        def power(share: float) -> float:
            return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - power((i + 1) / num) / power(i / num), 0.999) for i in range(num)]
    expected, left = [], 1.0
    for beta in betas:
        left *= 1 - beta
        expected.append(left)
    found = NoiseSchedule(schedule).alpha_bars()
    assert torch.allclose(
        found.double(), torch.tensor(expected, dtype=torch.float64), rtol=2e-4, atol=0
    )
    assert bool((found.diff() < 0).all())


def test_targets_by_hand():
    clean, noise, t = (
        torch.full((1, 1, 1, 1), 2.0),
        torch.full((1, 1, 1, 1), -1.0),
        torch.tensor([400]),
    )
    power = float(NoiseSchedule("linear").alpha_bars()[400])
    signal, sigma = math.sqrt(power), math.sqrt(1 - power)
    v = Objective("v", NoiseSchedule("linear"))
    assert float(v.training_target(clean, noise, t)) == pytest.approx(-signal - 2 * sigma, rel=1e-5)
    assert float(v.noised(clean, noise, t)) == pytest.approx(2 * signal - sigma, rel=1e-5)
    flow = Objective("flow")
    assert float(flow.training_target(clean, noise, t)) == -3.0
    assert float(flow.noised(clean, noise, torch.tensor([0.25]))) == pytest.approx(0.75 * 2 - 0.25)
    assert float(flow.model_time(torch.tensor([0.25]))) == 250


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_whole_timesteps_are_equally_likely_and_stay_in_range(kind):
    objective = Objective(kind)
    counts = torch.bincount(objective.timesteps_from_uniform(_uniforms(20_000)), minlength=1000)
    assert counts.tolist() == [20] * 1000
    edges = objective.timesteps_from_uniform(torch.tensor([0.0, 1 - 2**-24, 1.0]))
    assert edges.tolist() == [0, 999, 999]
    assert edges.dtype == torch.int64


def test_flow_times_are_logit_normal():
    objective = Objective("flow", flow_mean=0.4, flow_std=1.3)
    t = objective.timesteps_from_uniform(_uniforms(100_000)).double()
    logits = torch.log(t / (1 - t))
    assert float(logits.mean()) == pytest.approx(0.4, abs=1e-3)
    assert float(logits.std()) == pytest.approx(1.3, rel=1e-3)
    assert bool(
        torch.isfinite(objective.timesteps_from_uniform(torch.tensor([0.0, 1 - 2**-24]))).all()
    )


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_a_shift_divides_the_signal_to_noise_ratio_at_every_time(shift):
    plain, shifted = (Objective("flow", flow_shift=value) for value in (1.0, shift))
    u = _uniforms(1000)
    before, after = (objective.timesteps_from_uniform(u).double() for objective in (plain, shifted))
    ratio = (1 - before) / before / ((1 - after) / after)
    assert torch.allclose(ratio, torch.full_like(ratio, shift), rtol=1e-4)
    ends = shifted.shifted(torch.tensor([0.0, 1.0]))
    assert ends.tolist() == [0.0, 1.0]


def test_losses_are_means_over_each_sample():
    output, target, t = _latents(3, 5), _latents(4, 5), torch.zeros(5, dtype=torch.int64)
    for kind, power in (("l1", 1), ("l2", 2)):
        found = Objective(loss=kind).per_sample_loss(output, target, t)
        expected = [
            sum(
                abs(float(a - b)) ** power
                for a, b in zip(output[i].flatten(), target[i].flatten(), strict=True)
            )
            / 64
            for i in range(5)
        ]
        assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_losses_are_float32_in_low_precision():
    output, target = _latents(3, 2), _latents(4, 2)
    exact = Objective().per_sample_loss(output.bfloat16().float(), target, torch.zeros(2).long())
    assert torch.equal(
        Objective().per_sample_loss(output.bfloat16(), target, torch.zeros(2).long()), exact
    )


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_the_error_of_the_clean_latents_the_same_for_noise_and_velocity(gamma):
    clean, noise, wrong = _latents(5), _latents(6) / 3, 0.1 * _latents(7)
    t = torch.arange(5, 965, 15)
    signal, sigma = Objective().signal_and_sigma(t)
    expected = wrong.square().flatten(1).mean(1) * (signal / sigma).square().flatten().clamp(
        max=gamma
    )
    for kind, output in (
        ("epsilon", noise - signal / sigma * wrong),
        ("v", signal * noise - sigma * clean - wrong / sigma),
    ):
        # Both outputs claim the clean latents clean + wrong.
        objective = Objective(kind, min_snr_gamma=gamma)
        found = objective.per_sample_loss(output, objective.training_target(clean, noise, t), t)
        assert torch.allclose(found, expected, rtol=2e-3)
    assert torch.equal(Objective("v").loss_weight(t), torch.ones(64))


@pytest.mark.parametrize(
    "wrong",
    [
        {"prediction_type": "x0"},
        {"loss": "huber"},
        {"min_snr_gamma": 0.0},
        {"prediction_type": "flow", "min_snr_gamma": 5.0},
        {"prediction_type": "flow", "flow_shift": 0.0},
        {"prediction_type": "v", "flow_shift": 2.0},
    ],
)
def test_objectives_that_do_not_exist_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Objective(**wrong)


def test_schedules_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="cosine, linear"):
        NoiseSchedule("sigmoid")


class _Counting:
    """A network that says the mean class id for a mask and -1 for the null, and remembers how many
    samples it was asked.
    """

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, mask: Tensor, drop: Tensor | None = None) -> Tensor:
        self.calls.append(len(x))
        said = mask.float().mean((1, 2, 3))
        if drop is not None:
            said = torch.where(drop, -1.0, said)
        return said.view(-1, 1, 1, 1) + 0.01 * x + t.view(-1, 1, 1, 1)


@pytest.mark.parametrize(("scale", "cost"), [(0.0, 3), (0.5, 6), (1.0, 3), (4.0, 6)])
def test_guidance_goes_from_the_null_through_the_conditional_prediction_in_one_call(scale, cost):
    network, x, t = _Counting(), torch.randn(3, 1, 2, 2), torch.tensor([1, 2, 3])
    mask = torch.arange(3).view(3, 1, 1, 1).expand(3, 1, 16, 16)
    found = guided(network, mask, scale)(x, t)
    conditional = torch.arange(3.0).view(3, 1, 1, 1)
    expected = -1 + scale * (conditional + 1) + 0.01 * x + t.view(3, 1, 1, 1)
    assert torch.allclose(found, expected, atol=1e-6)
    assert network.calls == [cost]
