"""The diffusion classifier's cost of one image: encoders once and distinct points, against encoders
at every step and all points.

    python -m benchmarks.diffmic [--rounds 3]

Both run in one process, in turn, on random weights (the cost does not depend on them) and give the
same scores: the largest difference is printed and must stay below 1e-4. One thread. Exits with 1
when a gate is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from benchmarks.measuring import Row, machine, markdown, speed_up
from trainer.config_layers import load_config
from trainer.diffusion.label_diffusion import interpolate_map, local_shares, start_map
from trainer.diffusion.label_schedule import alpha_bars, denoise_labels
from trainer.models.trunks import normalise_images
from trainer.recipes.diffmic_inference import (
    build_classifier,
    build_denoiser,
    classify,
    guidance_vectors,
    start_generator,
)

NUM_CLASSES = 4
BATCH = 8
LARGEST_DIFFERENCE = 1e-4
GATE, STRETCH = 4.0, 6.0


def variants(preset: str, batch: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Return (as published: everything at every step and all points, ours) for one preset; both
    give scores [B, C] of the same start.
    """
    config = load_config(
        preset=preset, manifest="none", out="none", sets=["diffusion.num_samples=1"]
    )
    torch.manual_seed(0)
    classifier, denoiser = (
        build_classifier(config, NUM_CLASSES).eval(),
        build_denoiser(config, NUM_CLASSES).eval(),
    )
    images, chosen = (
        torch.rand(batch, 3, config.data.image_size, config.data.image_size) * 2 - 1,
        config.diffusion,
    )

    @torch.no_grad()
    def published() -> Tensor:
        normalised, shares = normalise_images(images), local_shares(chosen.num_points)
        guidance = classifier(normalised)
        shown = interpolate_map(*guidance_vectors(guidance, chosen.guidance), shares)

        def predict(noisy: Tensor, timestep: int) -> Tensor:
            return denoiser(
                normalised, guidance.crops, noisy, shown, torch.full((batch, 1, 1), timestep)
            )

        start = start_map(chosen.start, shown, shares, start_generator(0, 0))
        path = list(
            denoise_labels(
                predict, start, alpha_bars(chosen.num_train_timesteps), chosen.num_inference_steps
            )
        )
        return path[-1].mean(dim=(-2, -1))

    return (
        published,
        lambda: classify(classifier, denoiser, images, chosen, start_generator(0, 0)).scores,
    )


def measure(preset: str, what: str, batch: int, rounds: int) -> tuple[Row, float]:
    """Return the speed-up of a batch and the largest difference between the scores of both
    variants.
    """
    published, ours = variants(preset, batch)
    said: dict[str, Tensor] = {}
    name, baseline = f"{preset}: {what}, batch {batch}", "encoders at every step, 36 points"
    row = speed_up(
        name,
        baseline,
        lambda: said.update(published=published()),
        lambda: said.update(ours=ours()),
        gate=GATE,
        stretch=STRETCH,
        rounds=rounds,
    )
    print(f"{name}: {row.value:.2f}", file=sys.stderr, flush=True)
    return row, float((said["published"] - said["ours"]).abs().max())


def main() -> int:
    """Measure both presets and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    faithful, repaired = (
        ("diffmic-faithful-224", "encoded once, 6 points"),
        ("diffmic-224", "encoded once"),
    )
    measured = [
        measure(*faithful, 1, rounds),
        measure(*faithful, BATCH, rounds),
        measure(*repaired, 1, rounds),
    ]
    rows = [row for row, _ in measured]
    print(machine(), torch.__version__, "one thread")
    print(markdown(rows))
    print(
        "largest difference between the scores:",
        ", ".join(f"{difference:.1e}" for _, difference in measured),
    )
    return int(
        any(row.verdict == "MISSED" for row in rows)
        or any(difference > LARGEST_DIFFERENCE for _, difference in measured)
    )


if __name__ == "__main__":
    sys.exit(main())
