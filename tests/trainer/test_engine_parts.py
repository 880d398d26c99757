"""The parts of the engine by their laws: schedules, moving average, positions of ranks, the log
window, metrics.csv, sheets.
"""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_recipe import ToyData

from trainer.config import Optimiser, Schedule
from trainer.engine.checkpoints import load_weights
from trainer.engine.devices import RankPositions, seed_step
from trainer.engine.ema import MovingAverage
from trainer.engine.fit import fit
from trainer.engine.images import colour_mask, sheet, write_sheet
from trainer.engine.inspection import describe_batch, describe_tensor
from trainer.engine.logs import MetricsLog
from trainer.engine.optimisers import build_optimiser, load_optimiser, optimiser_tensors, set_lr
from trainer.engine.schedules import lr_factor
from trainer.engine.speed import Stopwatch
from trainer.engine.window import LossWindow
from trainer.reporter import Reporter
from trainer.stage import StepOutput

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_steps", [2, 3, 10, 101, 1000])
def test_one_cycle_is_torchs_one_cycle(num_steps: int) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=0.37, total_steps=num_steps, cycle_momentum=False
    )
    expected = []
    for _ in range(num_steps):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if len(expected) < num_steps:
            theirs.step()
    ours = [
        0.37 * lr_factor(Schedule(kind="one_cycle"), step, num_steps) for step in range(num_steps)
    ]
    assert ours == pytest.approx(expected, rel=1e-9)


def test_cosine_is_torchs_cosine_after_its_warmup() -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=40, eta_min=0.01)
    expected = []
    for _ in range(40):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()
    schedule = Schedule(kind="cosine", warmup_steps=10, final_ratio=0.01)
    assert [lr_factor(schedule, step, 50) for step in range(10, 50)] == pytest.approx(
        expected, rel=1e-9
    )
    assert [lr_factor(schedule, step, 50) for step in range(10)] == pytest.approx(
        [(step + 1) / 10 for step in range(10)]
    )


def test_constant_schedules() -> None:
    assert {lr_factor(Schedule(), step, 9) for step in range(9)} == {1.0}
    schedule = Schedule(kind="warmup_constant", warmup_steps=4)
    assert [lr_factor(schedule, step, 9) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["constant", "warmup_constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_rates_of_short_runs_are_shares(kind: str, num_steps: int) -> None:
    factors = [
        lr_factor(Schedule(kind=kind, warmup_steps=3), step, num_steps) for step in range(num_steps)
    ]  # type: ignore[arg-type]
    assert all(0 <= factor <= 1 for factor in factors)


def test_the_average_is_the_recursion_written_out() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = MovingAverage(module, decay=0.7, every=3)
    expected = module[0].weight.detach().clone().double()
    generator = torch.Generator().manual_seed(1)
    for step in range(1, 31):
        with torch.no_grad():
            module[0].weight.copy_(torch.randn(2, 3, generator=generator))
            module[1].running_mean.fill_(step)
        average.update(step)
        if step % 3 == 0:
            n = step // 3
            decay = min(0.7, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * module[0].weight.detach().double()
    torch.testing.assert_close(average.module[0].weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert average.module[1].running_mean.tolist() == [30.0, 30.0]
    assert not average.module.training and not any(
        parameter.requires_grad for parameter in average.module.parameters()
    )


@pytest.mark.parametrize(("num_ranks", "accumulate"), [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2)])
def test_ranks_share_the_positions_of_every_step(num_ranks: int, accumulate: int) -> None:
    batch_size, micro = 12, 12 // (num_ranks * accumulate)
    ranks = [
        RankPositions(5, 9, batch_size=batch_size, micro=micro, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    assert {len(rank) for rank in ranks} == {4 * batch_size // num_ranks}
    for step, at in itertools.product(range(4), [0]):
        own = slice(at + step * micro * accumulate, at + (step + 1) * micro * accumulate)
        together = np.concatenate([rank[own] for rank in ranks])
        assert sorted(together.tolist()) == list(
            range((5 + step) * batch_size, (6 + step) * batch_size)
        )
    assert all(
        rank[0:micro].tolist() == list(range(rank[0:1][0], rank[0:1][0] + micro)) for rank in ranks
    ), "a micro-batch is a run"


def test_dropout_is_keyed() -> None:
    def drawn(*key: object) -> list[float]:
        seed_step(*key)  # type: ignore[arg-type]
        return torch.rand(3).tolist()

    base = drawn(1, "stage", 7)
    assert drawn(1, "stage", 7) == base
    assert all(
        drawn(*other) != base for other in [(2, "stage", 7), (1, "other", 7), (1, "stage", 8)]
    )


def _feed(window: LossWindow, steps: range) -> None:
    for step in steps:
        for half in range(2):
            loss = torch.arange(4.0) + 10 * step + half
            window.add(
                StepOutput(loss, {"size": loss * 2}, {"kind": torch.tensor([0, 1, 1, -1])}), 0.5
            )
        window.end_step(torch.tensor(float(step)))


def test_the_window_means_are_those_of_all_samples() -> None:
    window = LossWindow({"kind": ("a", "b", "never")}, CPU)
    _feed(window, range(3))
    samples = np.array(
        [[np.arange(4.0) + 10 * step + half for half in range(2)] for step in range(3)]
    )
    read = window.read(lambda item: item, 1)
    assert read["loss"] == pytest.approx(samples.mean()) and read["size"] == pytest.approx(
        2 * samples.mean()
    )
    assert read["gradient_norm"] == pytest.approx(1.0)
    assert read["loss_kind_a"] == pytest.approx(samples[..., 0].mean()) and read[
        "loss_kind_b"
    ] == pytest.approx(samples[..., 1:3].mean())
    assert "loss_kind_never" not in read
    _feed(window, range(1))
    assert window.read(lambda item: item, 1)["loss"] == pytest.approx(samples[0].mean()), (
        "a reading begins anew"
    )


def test_a_window_goes_on_from_a_checkpoint_to_the_last_bit() -> None:
    whole, first, second = (LossWindow({"kind": ("a", "b", "c")}, CPU) for _ in range(3))
    _feed(whole, range(5))
    _feed(first, range(2))
    second.load(first.state())
    _feed(second, range(2, 5))
    assert second.read(lambda item: item, 1) == whole.read(lambda item: item, 1)


def test_steps_that_were_skipped_leave_the_means_alone() -> None:
    window = LossWindow({"kind": ("a", "b", "c")}, CPU)
    _feed(window, range(1))
    window.add(
        StepOutput(torch.full((4,), torch.nan), groups={"kind": torch.zeros(4, dtype=torch.int64)}),
        1.0,
    )
    window.end_step(torch.tensor(torch.nan), used=False)
    read = window.read(lambda item: item, 1)
    assert all(np.isfinite(value) for value in read.values()) and window.num_skipped == 1


def _lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_metrics_keep_every_bit_and_take_new_columns(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.write(1, {"loss": 0.1 + 0.2})
    log.write(2, {"loss": 1e-300, "a,b\n": 3.0})
    log.write(3, {"loss": float("nan")})
    lines = _lines(tmp_path)
    assert float(lines[0]["loss"]) == 0.1 + 0.2 and float(lines[1]["loss"]) == 1e-300
    assert lines[0]["a,b\n"] == "" and lines[1]["a,b\n"] == "3.0" and lines[2]["loss"] == "nan"


def test_metrics_go_on_without_later_and_half_lines(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for step in range(1, 6):
        log.write(step, {"loss": step / 3})
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("6,0.1")
    again = MetricsLog(tmp_path, 4)
    again.write(5, {"loss": 9.0})
    assert [(item["step"], float(item["loss"])) for item in _lines(tmp_path)] == [
        ("1", 1 / 3),
        ("2", 2 / 3),
        ("3", 1.0),
        ("4", 4 / 3),
        ("5", 9.0),
    ]


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_optimisers_are_torchs(kind: str) -> None:
    mine = build_optimiser(
        Optimiser(kind=kind, betas=(0.8, 0.9), weight_decay=0.1),
        [torch.zeros(1, requires_grad=True)],
        fused=False,
    )  # type: ignore[arg-type]
    assert type(mine).__name__.lower() == kind
    assert (mine.param_groups[0]["betas"], mine.param_groups[0]["weight_decay"]) == (
        (0.8, 0.9),
        0.1,
    )


def test_groups_keep_their_share_of_the_rate() -> None:
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)]},
        {"params": [torch.zeros(1, requires_grad=True)], "lr_scale": 0.1},
    ]
    optimiser = build_optimiser(Optimiser(), groups, fused=False)
    set_lr(optimiser, 0.5)
    assert [group["lr"] for group in optimiser.param_groups] == [0.5, 0.05]


def test_moments_come_back_in_the_layout_of_their_parameter() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        module = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module, build_optimiser(Optimiser(), module.parameters(), fused=False)

    module, optimiser = build()
    module(torch.ones(1, 4, 5, 5)).sum().backward()
    optimiser.step()
    _, other = build()
    load_optimiser(
        other, {name: value.contiguous() for name, value in optimiser_tensors(optimiser).items()}
    )
    moment = next(iter(other.state.values()))["exp_avg"]
    assert moment.is_contiguous(memory_format=torch.channels_last)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            optimiser_tensors(optimiser).values(), optimiser_tensors(other).values(), strict=True
        )
    )


def test_waiting_for_data_is_told_from_working() -> None:
    now = [0.0]
    watch = Stopwatch(lambda: now[0])

    def slow():
        for item in range(3):
            now[0] += 2.0
            yield item

    for _ in watch.waiting(slow()):
        now[0] += 6.0
        watch.count(4)
    go_on = watch.pause()
    now[0] += 100.0
    go_on()
    assert watch.read() == pytest.approx({"images_per_s": 12 / 24, "data_wait_share": 6 / 24})


def test_sheets(tmp_path: Path) -> None:
    from PIL import Image

    red = colour_mask(np.array([[0, 3]], dtype=np.uint8), {3: (255, 0, 0)})
    assert red.tolist() == [[[0, 0, 0], [255, 0, 0]]]
    made = sheet([[red, red], [red]])
    assert made.shape == (1 + 4 + 1, 2 + 4 + 2, 3) and made[5, 6:].min() == 255
    write_sheet(tmp_path / "a" / "sheet.png", made)
    with Image.open(tmp_path / "a" / "sheet.png") as image:
        assert (
            np.array_equal(np.asarray(image), made)
            and "made by a model" in image.info["histoprep-synthetic"]
        )


def test_debug_tells_what_a_step_works_on(toy_config: Any) -> None:
    said: list[str] = []
    reporter = Reporter(said.append, said.append)
    config = toy_config(log_level="debug", batch_size=4)
    fit(config, reporter=reporter)
    # The log is written after steps 3, 6, 9 and 12.
    steps = {line.partition(":")[0] for line in said if ": batch inputs" in line}
    assert steps == {"step 3", "step 6", "step 9", "step 12"}
    batch = ToyData(config.seed).batch(np.arange(8, 12))
    expected = describe_tensor(batch["inputs"])
    assert f"step 3: batch inputs: {expected}" in said
    assert f"step 3: network input 0: {expected}" in said
    assert any(line.startswith("step 3: network part 0: 4 x 8 float32") for line in said)
    # What is printed changes no result.
    quiet = toy_config("quiet", batch_size=4)
    fit(quiet)
    first, second = (load_weights(run.out)[0] for run in (config, quiet))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_mask_is_described_by_the_shares_of_its_classes() -> None:
    mask = torch.tensor([[0, 0, 0, 2]], dtype=torch.uint8)
    lines = describe_batch({"mask": mask, "t": torch.tensor([3.0, 5.0])})
    assert lines[1] == "batch mask, share of pixels: 0: 75.00%, 2: 25.00%"
    assert lines[2] == "batch t: 2 float32 on cpu: 3, 5"
