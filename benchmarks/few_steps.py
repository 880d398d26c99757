"""How few steps will do? Sampling of mask-unet with 50 steps against fewer, by time and by log-SNR.

    python -m benchmarks.few_steps --codec FOLDER [--write FILE]

Networks, tissue and probe are those of `benchmarks.following`. KID is the unbiased squared maximum
mean discrepancy to the real windows of the same masks, on mean and standard deviation of the
probe's last features and of the latents. The error is that of the latents to those of 200 steps
from the same noise, over their standard deviation. Means over seeds ± half their range.

Below: the same network with intervals, trained on as many images, for three quarters of the steps
as a flow and then as a mean flow, in 1, 2 and 4 steps, over the flow at 25 steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.following import (
    BATCH,
    DROP_SHARE,
    NETWORKS,
    NUM_CLASSES,
    NUM_SAMPLED,
    WINDOW,
    Tissue,
    build,
    kept_tissue,
    read_latents,
    sample_windows,
    spread_of,
    train_network,
    train_probe,
    warm_cosine,
)
from benchmarks.measuring import print_page
from trainer.diffusion.guidance import guided
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Solver, sample
from trainer.metrics.distribution import polynomial_kernel, squared_mmd
from trainer.models.denoisers import mask_unet
from trainer.models.denoisers.interface import Denoiser
from trainer.recipes.ldm_stage import average_losses

SOLVERS = [
    Solver("dpm++", 50),
    *(
        Solver("dpm++", steps, spacing=spacing)
        for steps in (10, 6)
        for spacing in ("time", "log_snr")
    ),
]
EXACT = Solver("dpm++", 200)
RATE, STEPS = 4e-3, 300


@torch.no_grad()
def features_of(probe: nn.Module, latents: Tensor) -> np.ndarray:
    """Return features of windows, [windows, 72]."""
    hidden = probe[:-1](latents)
    parts = [part for maps in (hidden, latents) for part in (maps.mean((2, 3)), maps.std((2, 3)))]
    return torch.cat(parts, dim=1).double().numpy()


def distance(probe: nn.Module, real: Tensor, found: Tensor) -> float:
    """Return the squared maximum mean discrepancy of two sets of windows."""
    kernel = polynomial_kernel(features_of(probe, real), features_of(probe, found))
    rows = np.arange(len(real))
    return squared_mmd(kernel, rows, rows + len(real))


def measure(train: Tissue, held_out: Tissue, num_seeds: int) -> Iterator[str]:
    """Yield the lines of the table."""
    probe = train_probe(train)
    real, mask = held_out.windows(NUM_SAMPLED, torch.Generator().manual_seed(3000))
    rows: dict[tuple[float, Solver], list[tuple[float, ...]]] = {}
    for seed in range(num_seeds):
        network = build(NETWORKS["mask-unet"], seed)
        train_network(network, train, rate=RATE, steps=STEPS, seed=seed)
        for scale in (1.0, 2.0):
            exact = sample_windows(network, mask[:32], scale, EXACT)
            for solver in SOLVERS:
                found = sample_windows(network, mask, scale, solver)
                accuracy, iou, _ = read_latents(probe, found, mask, real)
                error = float((found[:32] - exact).square().mean().sqrt() / exact.std())
                figures = (error, accuracy, iou, distance(probe, real, found))
                rows.setdefault((scale, solver), []).append(figures)
                print(seed, scale, solver, figures, file=sys.stderr, flush=True)
    yield "| guidance | steps | spacing | error | accuracy | mean IoU | KID | KID over 50 steps |"
    yield "|---|---|---|---|---|---|---|---|"
    for (scale, solver), found_rows in rows.items():
        columns = [spread_of(list(values), ".3f") for values in zip(*found_rows, strict=True)]
        base = rows[scale, SOLVERS[0]]
        ratios = [row[3] / first[3] for row, first in zip(found_rows, base, strict=True)]
        yield (
            f"| {scale:g} | {solver.num_inference_steps} | {solver.spacing} |"
            f" {' | '.join(columns)} | {statistics.mean(ratios):.2f} |"
        )


MEAN_FLOW = Objective("mean_flow")
FEW, BASE = (1, 2, 4), Solver("dpm++", 25)
FLOW_SHARE = 0.75


def train_mean_flow(network: Denoiser, tissue: Tissue, *, steps: int, seed: int) -> Denoiser:
    """Train a network with intervals in place and return it; windows as in `train_network`."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed)
    schedule = warm_cosine(optimiser, steps)
    network.train()
    for step in range(steps):
        clean, mask = tissue.windows(BATCH, generator)
        noise = torch.randn(clean.shape, generator=generator)
        drawn = torch.rand(BATCH, 5, generator=generator)
        batch = {"u": drawn[:, 0]}
        if step >= FLOW_SHARE * steps:
            batch["interval"] = drawn[:, 1:4]
        drop = drawn[:, 4] < DROP_SHARE
        loss = average_losses(network, MEAN_FLOW, clean, noise, batch, mask, drop).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return network.eval()


def sample_average(network: Denoiser, mask: Tensor, scale: float, steps: int) -> Tensor:
    """Return latents for masks, from the noise of `sample_windows`."""
    generator = torch.Generator().manual_seed(2000)
    noise = torch.randn(len(mask), 4, WINDOW, WINDOW, generator=generator)
    solver = Solver("euler", steps)
    return sample(guided(network, mask, scale), noise, MEAN_FLOW, solver)


def measure_mean_flow(train: Tissue, held_out: Tissue, num_seeds: int, steps: int) -> Iterator[str]:
    """Yield the lines of the table of the mean flow."""
    probe = train_probe(train)
    real, mask = held_out.windows(NUM_SAMPLED, torch.Generator().manual_seed(3000))
    rows: dict[tuple[float, str], list[tuple[float, ...]]] = {}
    ratios: dict[tuple[float, str], list[float]] = {}
    for seed in range(num_seeds):
        flow = train_network(
            build(NETWORKS["mask-unet"], seed), train, rate=RATE, steps=steps, seed=seed
        )
        torch.manual_seed(seed)
        config = NETWORKS["mask-unet"].model_copy(update={"interval": True})
        assert isinstance(config, mask_unet.Config)
        network = train_mean_flow(config.build(NUM_CLASSES, 4), train, steps=steps, seed=seed)
        for scale in (1.0, 2.0):
            made = {"flow, 25": sample_windows(flow, mask, scale, BASE)}
            made |= {f"mean flow, {few}": sample_average(network, mask, scale, few) for few in FEW}
            made["flow, 4"] = sample_windows(flow, mask, scale, Solver("euler", 4))
            made["flow, 1"] = sample_windows(flow, mask, scale, Solver("euler", 1))
            base = 0.0
            for name, found in made.items():
                accuracy, iou, spread = read_latents(probe, found, mask, real)
                base = base or iou
                figures = (accuracy, iou, spread, distance(probe, real, found))
                rows.setdefault((scale, name), []).append(figures)
                ratios.setdefault((scale, name), []).append(iou / base)
                print(seed, scale, name, figures, file=sys.stderr, flush=True)
    yield f"Mean flow, {num_seeds} seeds, {steps:,} steps of {BATCH} windows each:"
    yield ""
    yield "| guidance | network, steps | accuracy | mean IoU | spread | KID | IoU over 25 steps |"
    yield "|---|---|---|---|---|---|---|"
    for (scale, name), found_rows in rows.items():
        columns = [spread_of(list(values), ".3f") for values in zip(*found_rows, strict=True)]
        ratio = statistics.mean(ratios[scale, name])
        yield f"| {scale:g} | {name} | {' | '.join(columns)} | {ratio:.2f} |"


def main() -> int:
    """Print the page, or write it to a file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", required=True, help="folder of a codec: 4 channels, factor 8")
    parser.add_argument("--tissue", type=Path, help="file to keep the encoded tissue in")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only-mean-flow", action="store_true", help="leave the first table out")
    parser.add_argument("--mean-flow-steps", type=int, default=900)
    parser.add_argument("--write", type=Path, help="write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tissue = kept_tissue(options.codec, options.tissue)
    lines = [
        *([] if options.only_mean_flow else [*measure(*tissue, options.seeds), ""]),
        *measure_mean_flow(*tissue, options.seeds, options.mean_flow_steps),
    ]
    print_page(
        "Few steps",
        "benchmarks.few_steps --codec FOLDER --write FILE",
        __doc__,
        lines,
        options.write,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
