"""How few steps will do? Sampling of mask-unet with 50 steps against fewer, by time and by log-SNR.

    python -m benchmarks.few_steps --codec FOLDER [--write FILE]

Networks, tissue and probe are those of `benchmarks.following`. KID is the unbiased squared maximum
mean discrepancy to the real windows of the same masks, on mean and standard deviation of the
probe's last features and of the latents. The error is that of the latents to those of 200 steps
from the same noise, over their standard deviation. Means over seeds ± half their range.
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
    NETWORKS,
    NUM_SAMPLED,
    Tissue,
    build,
    kept_tissue,
    read_latents,
    sample_windows,
    spread_of,
    train_network,
    train_probe,
)
from benchmarks.measuring import print_page
from trainer.diffusion.samplers import Solver
from trainer.metrics.distribution import polynomial_kernel, squared_mmd

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


def main() -> int:
    """Print the page, or write it to a file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", required=True, help="folder of a codec: 4 channels, factor 8")
    parser.add_argument("--tissue", type=Path, help="file to keep the encoded tissue in")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        *measure(*kept_tissue(options.codec, options.tissue), options.seeds),
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
