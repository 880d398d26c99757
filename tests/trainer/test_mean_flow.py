"""Average velocities: the closed form of a Gaussian, the identity they obey, a network that learns
them, and the recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_codecs import save_kl
from torch import Tensor, nn

from trainer.cli import run as trainer
from trainer.diffusion.guidance import guided
from trainer.diffusion.mean_flow import (
    Intervals,
    average_target,
    draw_intervals,
    guided_velocity,
)
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Solver, sample
from trainer.models.denoisers.mask_unet import Config
from trainer.recipes.ldm_stage import average_losses

OBJECTIVE = Objective("mean_flow")
MEAN = torch.tensor([0.8, -0.5]).view(1, 2, 1, 1)
STD = torch.tensor([0.4, 1.5]).view(1, 2, 1, 1)


def deviation(t: Tensor) -> Tensor:
    """Standard deviation of the noised Gaussian, [batch, 2, 1, 1]."""
    t = t.view(-1, 1, 1, 1)
    return ((1 - t) ** 2 * STD**2 + t**2).sqrt()


def exact_average(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """(x_t - x_r) / (t - r) on the path of a Gaussian, which keeps its quantiles; r < t."""
    time, end = t.view(-1, 1, 1, 1), r.view(-1, 1, 1, 1)
    quantile = (x - (1 - time) * MEAN) / deviation(t)
    return (x - (1 - end) * MEAN - deviation(r) * quantile) / (time - end)


def exact_velocity(x: Tensor, t: Tensor) -> Tensor:
    """Mean of noise minus clean, given x: regression of jointly normal numbers."""
    time = t.view(-1, 1, 1, 1)
    slope = (time - (1 - time) * STD**2) / deviation(t) ** 2
    return -MEAN + slope * (x - (1 - time) * MEAN)


def uniforms(count: int, columns: int, seed: int = 0) -> Tensor:
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(seed))


def normals(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, 2, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_perfect_network_needs_one_step(steps: int) -> None:
    # The gate is .02 in one step.
    noise = normals(64)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (64, 2)
        return exact_average(x, t[:, 0] / 1000, t[:, 1] / 1000)

    found = sample(denoise, noise, OBJECTIVE, Solver("euler", steps))
    error = (found - MEAN - STD * noise).abs() / STD
    assert float(error.max()) < 1e-4


def test_the_exact_average_is_what_the_identity_asks_for() -> None:
    drawn = draw_intervals(Objective("mean_flow", interval_share=1.0), uniforms(256, 4))
    intervals = Intervals(drawn.t, 0.9 * drawn.r, drawn.guidance)
    x = normals(256, 3)
    velocity = exact_velocity(x, intervals.t)
    target = average_target(
        lambda x, t, r, _: exact_average(x, t, r), x, velocity, velocity, intervals
    )
    expected = exact_average(x, intervals.t, intervals.r)
    assert torch.allclose(target, expected, atol=2e-3, rtol=1e-3)


def test_the_derivative_is_that_of_differences() -> None:
    torch.manual_seed(0)
    network = Config(dim=8, dim_mults=(1, 2), block_per_layer=1, interval=True).build(3, 2)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    network = network.double().eval()
    mask = torch.randint(0, 3, (3, 1, 64, 64), dtype=torch.uint8)

    def predict(x: Tensor, t: Tensor, r: Tensor, w: Tensor) -> Tensor:
        return network(x, torch.stack((1000 * t, 1000 * r, w), dim=1), mask)

    generator = torch.Generator().manual_seed(1)
    x, way = torch.randn(2, 3, 2, 8, 8, generator=generator, dtype=torch.float64)
    t, r = torch.tensor([0.9, 0.5, 0.3]).double(), torch.tensor([0.1, 0.5, 0.2]).double()
    intervals = Intervals(t, r, torch.tensor([1.0, 2.0, 3.0]).double())
    found = average_target(predict, x, way, way, intervals)
    step = 1e-5
    ahead, behind = (
        predict(x + sign * step * way, t + sign * step, r, intervals.guidance) for sign in (1, -1)
    )
    expected = way - (t - r).view(-1, 1, 1, 1) * (ahead - behind) / (2 * step)
    assert torch.allclose(found, expected.detach(), atol=1e-5)
    assert torch.allclose(found[1], way[1])


def test_intervals_are_ordered_and_as_many_as_there_should_be() -> None:
    t, r, guidance = draw_intervals(Objective("mean_flow", interval_share=0.3), uniforms(5000, 4))
    assert bool((r <= t).all())
    assert 0.27 < float((r < t).float().mean()) < 0.33
    assert float(guidance.min()) >= 1
    assert float(guidance.max()) <= 4
    assert float((1 / guidance).mean()) == pytest.approx(0.625, abs=0.02)
    half = Objective("mean_flow", interval_share=0.0)
    assert torch.equal(*draw_intervals(half, uniforms(99, 4))[:2])


def test_guidance_in_the_target_is_that_of_two_passes() -> None:
    conditional, null = normals(8, 1), normals(8, 2)
    drop = torch.arange(8) >= 6
    intervals = draw_intervals(OBJECTIVE, uniforms(8, 4))
    weights = torch.where(drop, 1.0, intervals.guidance).view(-1, 1, 1, 1)
    exact = null + weights * (conditional - null)
    found, own = guided_velocity(
        lambda *_: exact, lambda *_: null, conditional, conditional, intervals, drop
    )
    # A network that has learned it stays where it is.
    assert torch.allclose(found, exact, atol=1e-5)
    assert torch.equal(own, exact)


class Affine(nn.Module):
    """u = a(t, r) x + b(t, r) by channel: what the average velocity of a Gaussian is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)
        )

    def forward(self, x: Tensor, t: Tensor, r: Tensor, guidance: Tensor) -> Tensor:
        numbers = self.layers(torch.stack((t, t - r), dim=1))[:, :, None, None]
        return numbers[:, :2] * x + numbers[:, 2:]


@pytest.mark.parametrize(
    ("steps", "batch", "most"),
    [(600, 256, 0.12), pytest.param(6000, 1024, 0.02, marks=pytest.mark.slow)],
)
@pytest.mark.slow
def test_a_network_learns_to_go_nearly_all_the_way_in_one_step(
    steps: int, batch: int, most: float
) -> None:
    torch.manual_seed(0)
    network = Affine()
    objective = Objective("mean_flow", max_guidance=1.0, interval_share=0.75, flow_std=2.0)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    nothing = torch.zeros(batch, dtype=torch.bool)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        noise = normals(batch, 2 * step)
        clean = MEAN + STD * normals(batch, 2 * step + 1)
        intervals = draw_intervals(objective, uniforms(batch, 4, step))
        noisy = objective.noised(clean, noise, intervals.t)
        velocity, own = guided_velocity(network, network, noisy, noise - clean, intervals, nothing)
        target = average_target(network, noisy, velocity, own, intervals)
        loss = objective.per_sample_loss(network(noisy, *intervals), target, intervals.t).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    noise, ones = normals(512, 10**6), torch.ones(512)

    def error(denoise: Any) -> float:
        found = sample(denoise, noise, objective, Solver("euler", 1))
        return float((found - MEAN - STD * noise).square().mean().sqrt())

    learned = error(lambda x, t: network(x, t[:, 0] / 1000, t[:, 1] / 1000, ones))
    # A step along the exact velocity leads to the mean, whatever the noise.
    assert error(lambda x, t: exact_velocity(x, t[:, 0] / 1000)) > 1
    assert learned < most


def small_network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = Config(dim=8, dim_mults=(1, 2), block_per_layer=1, interval=True).build(3, 2)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def test_a_time_alone_is_an_interval_of_no_length_without_guidance() -> None:
    network = small_network()
    x = torch.randn(2, 2, 8, 8)
    mask = torch.randint(0, 3, (2, 1, 64, 64), dtype=torch.uint8)
    t = torch.tensor([100.0, 900.0])
    alone = network(x, t, mask)
    assert torch.equal(alone, network(x, torch.stack((t, t, torch.ones(2)), dim=1), mask))
    for other in ([0.0, 1.0], [1.0, 2.0]):
        end = t * other[0]
        times = torch.stack((t, end, torch.full((2,), other[1])), dim=1)
        assert not torch.allclose(alone, network(x, times, mask))


def test_the_scale_goes_to_the_network_and_costs_one_pass() -> None:
    network, calls = small_network(), []
    mask = torch.randint(0, 3, (2, 1, 64, 64), dtype=torch.uint8)

    def model(x: Tensor, t: Tensor, mask: Tensor, drop: Tensor | None = None) -> Tensor:
        calls.append((len(x), t))
        return network(x, t, mask, drop)

    noise = torch.randn(2, 2, 8, 8)
    found = sample(guided(model, mask, 3.0), noise, OBJECTIVE, Solver("euler", 2))
    assert [count for count, _ in calls] == [2, 2]
    assert [call[1][0].tolist() for call in calls] == [[1000, 500, 3], [500, 0, 3]]
    assert torch.equal(
        found, sample(guided(network, mask, 3.0), noise, OBJECTIVE, Solver("euler", 2))
    )


def test_the_loss_has_gradients_of_the_prediction_alone() -> None:
    network = small_network()
    clean, noise = torch.randn(2, 6, 2, 8, 8)
    mask = torch.randint(0, 3, (6, 1, 64, 64), dtype=torch.uint8)
    batch = {"u": torch.rand(6), "interval": torch.rand(6, 3)}
    drop = torch.arange(6) < 2

    def losses(**more: Tensor) -> Tensor:
        return average_losses(network, OBJECTIVE, clean, noise, {**batch, **more}, mask, drop)

    losses().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    plain = {"u": batch["u"]}
    flow = average_losses(network, OBJECTIVE, clean, noise, plain, mask, drop)
    objective = Objective("flow")
    t = objective.timesteps_from_uniform(batch["u"])
    output = network(objective.noised(clean, noise, t), objective.model_time(t), mask, drop)
    expected = objective.per_sample_loss(output, noise - clean, t)
    assert torch.allclose(flow, expected)
    # An interval of no length and the least guidance is the same.
    point = torch.tensor([0.5, 0.99, 1 - 1e-7]).expand(6, 3)
    assert torch.allclose(losses(interval=point), expected, atol=1e-4)
    assert not torch.allclose(losses(interval=torch.rand(6, 3) * 0.4), expected)


@pytest.mark.slow
def test_the_recipe_trains_samples_and_refuses_what_cannot_be(
    demo_manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    codec, out = save_kl(tmp_path / "codec"), tmp_path / "run"
    command = ["fit", "--preset", "mean-flow-tiny", "--manifest", str(demo_manifest), "--force"]
    command += ["--codec", str(codec), "--out", str(out)]
    sets = ("duration.steps=3", "model.dim=8", "batch_size=4", "validation.num_tiles=4")
    options = [part for entry in sets for part in ("--set", entry)]
    assert trainer([*command, *options, "--set", "model.interval=false"]) == 2
    assert "model.interval=true" in capfd.readouterr().err
    assert trainer([*command, *options]) == 0
    losses = np.genfromtxt(out / "metrics.csv", delimiter=",", names=True)
    assert np.isfinite(np.atleast_1d(losses["val_loss"])[-1])
    capfd.readouterr()
    assert trainer([*command, *options, "--set", "duration.steps=5"]) == 2
    assert "schedule.kind cosine is planned to the end of the run" in capfd.readouterr().err
    wanted = ["sample", "--checkpoint", str(out), "--masks", str(demo_manifest), "--limit", "2"]
    wanted += ["--out", str(tmp_path / "made")]
    assert trainer(wanted) == 0
    assert json_of(tmp_path)["solver"]["num_inference_steps"] == 4
    capfd.readouterr()
    for more, what in (
        (["--guidance-scale", "0"], "1 to 4"),
        (["--solver", "dpm++"], "euler expected"),
    ):
        assert trainer([*wanted, *more, "--force"]) == 2
        assert what in capfd.readouterr().err
    assert trainer(["export", str(out), "--out", str(tmp_path / "exported")]) == 2
    assert "no export yet" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("kind", "share", "bound"),
    [
        ("cosine", 0.0, "schedule.kind cosine"),
        ("constant", 0.75, "diffusion.flow_share 0.75"),
        ("constant", 0.0, ""),
    ],
)
def test_a_share_of_the_training_binds_it_to_its_end(
    tmp_path: Path, kind: str, share: float, bound: str
) -> None:
    from trainer.config_layers import load_config

    config = load_config(
        preset="mean-flow-tiny",
        manifest="manifest.parquet",
        out=str(tmp_path),
        sets=[f"schedule.kind={kind}", f"diffusion.flow_share={share}"],
    )
    assert config.bound_to_end() == bound


def test_a_run_learns_the_flow_first_and_averages_in_whole_steps_after_it(
    demo_manifest: Path, tmp_path: Path
) -> None:
    """Batches without `interval` are those of a flow: see the test of the loss."""
    from histoprep.shards import open_tiles
    from trainer.config_layers import load_config
    from trainer.recipes.ldm_data import open_latents, prepare_latents, training_dataset
    from trainer.reporter import NULL_REPORTER

    codec = save_kl(tmp_path / "codec")

    def steps_with_intervals(share: float) -> list[bool]:
        config: Any = load_config(
            preset="mean-flow-tiny",
            manifest=str(demo_manifest),
            out=str(tmp_path / "run"),
            sets=[
                f"codec={codec}",
                "duration.steps=6",
                "batch_size=4",
                f"diffusion.flow_share={share}",
            ],
        )
        prepare_latents(config, tmp_path / "run", NULL_REPORTER)
        dataset = training_dataset(config, open_tiles(demo_manifest), open_latents(config))
        # A process of two sees half of a step.
        parts = [np.arange(2 * half, 2 * half + 2) for half in range(12)]
        found = ["interval" in dataset.batch(part) for part in parts]
        assert found[::2] == found[1::2]
        return found[::2]

    assert steps_with_intervals(0.5) == [False] * 3 + [True] * 3
    assert steps_with_intervals(0.6) == [False] * 3 + [True] * 3
    assert steps_with_intervals(0.0) == [True] * 6


def json_of(folder: Path) -> Any:
    import json

    return json.loads((folder / "made.histoprep" / "sampling.json").read_text())
