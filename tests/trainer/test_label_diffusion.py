"""Noise levels, DDIM, guidance maps, starts and the focal loss, against values worked out by hand
or by another implementation.
"""

from __future__ import annotations

import pytest
import torch

from trainer.diffusion.label_diffusion import (
    DIAGONAL_STARTS,
    STARTS,
    focal_weights,
    interpolate_map,
    label_loss,
    label_map,
    label_probabilities,
    local_shares,
    point_layout,
    start_map,
)
from trainer.diffusion.label_schedule import (
    add_noise,
    alpha_bars,
    ddim_step,
    denoise_labels,
    inference_timesteps,
)

torch.set_num_threads(1)

PUBLISHED_LEVELS = {
    0: 0.99989998,
    1: 0.99978006,
    100: 0.89514136,
    200: 0.65634704,
    300: 0.39401102,
    400: 0.19357197,
    500: 0.07779665,
    600: 0.02556749,
    700: 0.00686828,
    800: 0.00150752,
    900: 0.00027024,
    990: 0.00004837,
    999: 0.00004036,
}


def test_levels_are_those_of_the_published_schedule():
    levels = alpha_bars()
    for timestep, level in PUBLISHED_LEVELS.items():
        assert levels[timestep].item() == pytest.approx(level, abs=1e-6, rel=1e-4)


def test_a_short_schedule_ends_as_noisy_as_the_long_one():
    # The logarithm of the last level is a sum of log(1 - beta) and so about the same integral.
    assert alpha_bars(100)[-1] < 5e-5
    assert alpha_bars(100)[49].item() == pytest.approx(alpha_bars(1000)[499].item(), rel=0.1)


@pytest.mark.parametrize(
    ("steps", "first", "last"), [(10, 900, 0), (100, 990, 0), (1, 0, 0), (1000, 999, 0)]
)
def test_timesteps_lead_and_fall(steps, first, last):
    timesteps = inference_timesteps(1000, steps)
    assert (timesteps[0], timesteps[-1], len(timesteps)) == (first, last, steps)
    assert timesteps == sorted(timesteps, reverse=True)


def test_ten_timesteps_are_the_hundreds():
    assert inference_timesteps(1000, 10) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=str(steps)):
        inference_timesteps(1000, steps)


def test_noise_is_added_by_the_formula():
    noisy = add_noise(torch.tensor([0.0, 1.0]), torch.tensor([1.0, -1.0]), alpha_bars()[500])
    assert noisy.tolist() == pytest.approx([0.960314, -0.681394], abs=1e-6)


@pytest.mark.parametrize(
    ("timestep", "expected", "clean"),
    [
        (900, -0.161022, 1.0),
        (500, 0.260365, None),
        (100, 0.383517, 0.385537),
        (0, 0.302015, 0.302015),
    ],
)
def test_one_step_of_ddim(timestep, expected, clean):
    levels = alpha_bars()
    before = levels[timestep - 100] if timestep else torch.tensor(1.0)
    after, estimate = ddim_step(
        torch.tensor(0.3),
        torch.tensor(-0.2),
        levels[timestep],
        before,
        prediction_type="epsilon",
        clip=True,
    )
    assert after.item() == pytest.approx(expected, abs=2e-6)
    if clean is not None:
        assert estimate.item() == pytest.approx(clean, abs=2e-6)


def test_one_step_of_ddim_on_a_vector():
    levels = alpha_bars()
    after, clean = ddim_step(
        torch.tensor([0.3, 1.2]),
        torch.tensor([0.35, 1.1]),
        levels[500],
        levels[400],
        prediction_type="epsilon",
        clip=True,
    )
    assert after.tolist() == pytest.approx([0.257345, 1.214415], abs=2e-6)
    assert clean.tolist() == pytest.approx([-0.129463, 0.515037], abs=2e-6)


def test_steps_agree_with_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        timestep_spacing="leading",
        clip_sample=True,
    )
    scheduler.set_timesteps(10)
    noise = torch.Generator().manual_seed(3)
    start, answers = (
        torch.randn(2, 4, 6, 6, generator=noise),
        torch.randn(10, 2, 4, 6, 6, generator=noise),
    )
    theirs, replies = start, iter(answers)
    for timestep, answer in zip(scheduler.timesteps, answers, strict=True):
        theirs = scheduler.step(answer, timestep, theirs).prev_sample
    ours = list(denoise_labels(lambda _noisy, _timestep: next(replies), start, alpha_bars(), 10))[
        -1
    ]
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
def test_a_perfect_network_recovers_the_labels(steps, prediction_type):
    levels = alpha_bars()
    clean = label_map(torch.tensor([1, 0]), 2, 3)

    def oracle(noisy, timestep):
        return (
            clean
            if prediction_type == "sample"
            else (noisy - levels[timestep].sqrt() * clean) / (1 - levels[timestep]).sqrt()
        )

    start = 5 * torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    path = list(denoise_labels(oracle, start, levels, steps, prediction_type=prediction_type))
    assert len(path) == steps
    torch.testing.assert_close(path[-1], clean, atol=1e-4, rtol=0)


def test_clipped_results_lie_between_minus_one_and_one():
    wild = torch.Generator().manual_seed(1)
    result = list(
        denoise_labels(
            lambda noisy, _: 9 * torch.randn(noisy.shape, generator=wild),
            torch.randn(4, 3, 2, 2),
            alpha_bars(),
            10,
        )
    )[-1]
    assert result.abs().max() <= 1
    unclipped = list(
        denoise_labels(
            lambda noisy, _: 9 * torch.ones_like(noisy),
            torch.randn(4, 3, 2, 2),
            alpha_bars(),
            10,
            clip=False,
        )
    )[-1]
    assert unclipped.abs().max() > 1


def test_guidance_map_of_three_points():
    guidance = interpolate_map(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), local_shares(3)
    )
    assert guidance[0, 0].tolist() == [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]
    assert guidance[0].mean(dim=(-2, -1)).tolist() == pytest.approx([0.55556, 0.44444], abs=1e-5)


def test_guidance_map_of_six_points():
    first, second = torch.tensor([[1.0, 0.0], [3.0, -2.0]]), torch.tensor([[0.0, 1.0], [0.5, 7.0]])
    guidance = interpolate_map(first, second, local_shares(6))
    assert guidance[0, 0, 0].tolist() == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0], abs=1e-6)
    assert guidance[0].mean(dim=(-2, -1)).tolist() == pytest.approx([0.61111, 0.38889], abs=1e-5)
    assert torch.equal(guidance, guidance.mT)
    assert torch.equal(guidance.diagonal(dim1=-2, dim2=-1), first[:, :, None].expand(-1, -1, 6))
    assert torch.equal(guidance[:, :, 0, -1], second)
    assert torch.equal(guidance[:, :, -1, 0], second)


def test_a_single_point_takes_the_average_of_both_answers():
    guidance = interpolate_map(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 4.0]]), local_shares(1)
    )
    assert guidance.flatten().tolist() == [0.5, 2.0]


@pytest.mark.parametrize("num_points", [1, 2, 5, 6])
def test_distinct_points_have_the_mean_of_all_points(num_points):
    first, second = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    (all_shares, all_weights), (shares, weights) = (
        point_layout(num_points, distinct=distinct) for distinct in (False, True)
    )
    whole, few = (interpolate_map(first, second, shares) for shares in (all_shares, shares))
    torch.testing.assert_close((few * weights).sum(dim=(-2, -1)), whole.mean(dim=(-2, -1)))
    torch.testing.assert_close((whole * all_weights).sum(dim=(-2, -1)), whole.mean(dim=(-2, -1)))
    assert weights.sum().item() == pytest.approx(1)
    assert shares.numel() == num_points


def test_multiplicities_of_six_points():
    assert (point_layout(6, distinct=True)[1] * 36).flatten().tolist() == pytest.approx(
        [6, 10, 8, 6, 4, 2]
    )


@pytest.mark.parametrize("kind", STARTS)
def test_starts_are_drawn_from_the_generator_alone(kind):
    guidance = torch.randn(2, 3, 6, 6)
    first, again, other = (
        start_map(kind, guidance, local_shares(6), torch.Generator().manual_seed(seed))
        for seed in (5, 5, 6)
    )
    assert first.shape == guidance.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", STARTS)
def test_only_diagonal_starts_are_equal_along_diagonals(kind):
    start = start_map(
        kind, torch.zeros(2, 3, 6, 6), local_shares(6), torch.Generator().manual_seed(0)
    )
    equal = torch.equal(start[:, :, 1:, 1:], start[:, :, :-1, :-1]) and torch.equal(start, start.mT)
    assert equal == (kind in DIAGONAL_STARTS)


@pytest.mark.parametrize("kind", DIAGONAL_STARTS)
def test_diagonal_starts_are_the_same_draw_on_distinct_points(kind):
    whole = start_map(
        kind, torch.zeros(2, 3, 6, 6), local_shares(6), torch.Generator().manual_seed(4)
    )
    few = start_map(
        kind,
        torch.zeros(2, 3, 1, 6),
        point_layout(6, distinct=True)[0],
        torch.Generator().manual_seed(4),
    )
    assert torch.equal(few[:, :, 0], whole[:, :, 0])


def test_moments_of_the_starts():
    guidance, draw = (
        torch.full((400, 2, 6, 6), 3.0),
        lambda kind: start_map(kind, torch.full((400, 2, 6, 6), 3.0), local_shares(6), generator),
    )
    generator = torch.Generator().manual_seed(0)
    for kind, mean in (
        ("gaussian", 0.0),
        ("gaussian_diagonal", 0.0),
        ("guided", guidance.mean().item()),
    ):
        start = draw(kind)
        assert start.mean().item() == pytest.approx(mean, abs=0.06)
        assert start.std(dim=0).mean().item() == pytest.approx(1, abs=0.05)
    uniform = draw("uniform_map")
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.03)


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="nonsense"):
        start_map("nonsense", torch.zeros(1, 2, 3, 3), local_shares(3), torch.Generator())


def test_focal_weights_and_loss():
    logits = torch.tensor([[2.0, 0, 0], [0, 0, 3]], requires_grad=True)
    labels = torch.tensor([0, 0])
    weights = focal_weights(logits, labels)
    assert weights.tolist() == pytest.approx([3.130140, 10.547215], abs=1e-5)
    assert not weights.requires_grad
    loss = label_loss(torch.full((2, 3, 6, 6), 0.5), torch.zeros(2, 3, 6, 6), weights).mean()
    assert loss.item() == pytest.approx(1.709669, abs=1e-6)


def test_weights_go_from_one_to_eleven():
    assert focal_weights(torch.tensor([[90.0, 0.0]]), torch.tensor([0])).item() == pytest.approx(1)
    assert focal_weights(torch.tensor([[0.0, 90.0]]), torch.tensor([0])).item() == pytest.approx(11)
    assert focal_weights(torch.tensor([[0.0, 90.0]]), torch.tensor([0]), alpha=0.0).item() == 1


def test_scores_become_probabilities():
    probabilities = label_probabilities(
        torch.tensor([[0.5, 0.5, -1.0], [-1.0, -0.2, 0.0], [1.0, 0.25, 0.0]])
    )
    torch.testing.assert_close(
        probabilities, torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.8, 0.2, 0.0]])
    )
