"""Sampling with guidance: CPU time of a step, against a loop that calls the network as it is.

    python -m benchmarks.sampling [--write FILE]

The loop makes one call of the network a step for both predictions, as diffusers' pipelines do, with
the same network, masks and noise; both return the same bits, which is checked. One thread, median
of five rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import ROUNDS, machine
from trainer.diffusion.guidance import guided
from trainer.models.denoisers.reference_unet import Config, ReferenceUNet
from trainer.models.frozen import frozen_weights

_SCALE, _NUM_CLASSES = 2.0, 5
_CASES = (
    ("ldm-tiny, 64 px, batch 12", Config(dim=32, mask_query="class"), 64, 12, 20),
    ("a third of the width, 256 px", Config(dim=64, mask_query="class"), 256, 1, 10),
    ("reference-class, 256 px", Config(mask_query="class"), 256, 1, 10),
)


def measure(config: Config, size_px: int, batch: int, steps: int) -> tuple[float, float]:
    """Return the seconds of a step of the loop and of ours, medians over rounds."""
    torch.manual_seed(0)
    network = config.build(_NUM_CLASSES, 4).eval()
    mask = torch.randint(0, _NUM_CLASSES, (batch, 1, size_px, size_px), dtype=torch.uint8)
    noise = torch.randn(batch, 4, size_px // 8, size_px // 8)

    def ours() -> Tensor:
        denoise = guided(network, mask, _SCALE)
        with frozen_weights(network):
            return _steps(denoise, noise, steps)

    def loop() -> Tensor:
        return _steps(_plain(network, mask), noise, steps)

    taken: dict[str, list[float]] = {"loop": [], "ours": []}
    with torch.no_grad():
        if not torch.equal(loop(), ours()):
            raise AssertionError("the results differ")
        for _ in range(ROUNDS):
            for name, work in (("loop", loop), ("ours", ours)):
                before = time.process_time()
                work()
                taken[name].append((time.process_time() - before) / steps)
    return statistics.median(taken["loop"]), statistics.median(taken["ours"])


def _steps(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, steps: int) -> Tensor:
    for step in range(steps):
        x = 0.9 * x + 0.1 * denoise(x, torch.full((len(x),), 999 - step * (999 // steps)))
    return x


def _plain(network: ReferenceUNet, mask: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    without = torch.ones(len(mask), dtype=torch.bool)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        null, conditional = network(
            torch.cat((x, x)),
            torch.cat((t, t)),
            torch.cat((mask, mask)),
            torch.cat((without, ~without)),
        ).chunk(2)
        return null + _SCALE * (conditional - null)

    return denoise


def main() -> int:
    """Print the table, or write it to a file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Sampling",
        "",
        "Written by `python -m benchmarks.sampling --write FILE`.",
        "",
        " ".join((__doc__ or "").split("\n\n")[2].split()),
        "",
        machine(),
        "",
        "| network | steps | loop, ms a step | histoprep, ms a step | times as fast |",
        "|---|---|---|---|---|",
    ]
    for name, config, size_px, batch, steps in _CASES:
        plain, ours = measure(config, size_px, batch, steps)
        lines.append(
            f"| {name} | {steps} | {1e3 * plain:,.0f} | {1e3 * ours:,.0f} | {plain / ours:.2f} |"
        )
    page = "\n".join([*lines, ""])
    if options.write:
        options.write.write_text(page)
    print(page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
