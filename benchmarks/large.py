"""Large images in tiles: do they equal one pass, have they seams, and what do they take?

    python -m benchmarks.large --run RUN [--largest 8192] [--write FILE]

RUN is a run of mask-unet with its codec. The mask is one of generated tissue, enlarged. "Latents"
is the largest difference of sampled latents in tiles from those of one pass, over their standard
deviation. "Seams" is the mean step of brightness from the last row or column of a tile to the first
of the next, with the band that holds 95 % of the same mean at the other borders between latents of
the same image. Memory is the most that a process of its own had, less what it had before the first
image; time is CPU time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import print_page
from histoprep.demo.layout import RECIPES, lay_out
from histoprep.labels import find_label_map, load_label_map
from trainer.diffusion.samplers import Solver, sample
from trainer.recipes.ldm import load_generator
from trainer.sampling.generator import Generator, SamplingOptions

TILE_PX, EXACT_PX = 512, 1280
OPTIONS = SamplingOptions(2.0, Solver("dpm++", 4), 1)


def make_mask(side_px: int) -> np.ndarray:
    """Return a mask of generated tissue, uint8 [1, side, side]."""
    labels = lay_out(np.random.default_rng(5), 256, RECIPES[0])
    classes = load_label_map(find_label_map("label_map_5")).apply_to_ids(labels)
    rows = (np.arange(side_px) + 0.5) * 256 / side_px
    return np.ascontiguousarray(classes[np.ix_(rows.astype(int), rows.astype(int))][None]).astype(
        np.uint8
    )


@torch.no_grad()
def sample_latents(generator: Generator, mask: np.ndarray) -> Tensor:
    """Return the latents of an image, as `Generator.generate` makes them before it decodes."""
    factor = generator.codec.factor
    shape = (generator.codec.channels, mask.shape[1] // factor, mask.shape[2] // factor)
    noise = generator._noise(OPTIONS.seed, ["large"], shape, "sample")
    denoise = generator._guided(torch.from_numpy(mask)[:, None], OPTIONS.guidance_scale, None)
    return sample(denoise, noise, generator.objective, OPTIONS.solver)


def steps_between(image: np.ndarray, unit_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean step of brightness across each border between units, of rows and of columns
    alike, and where they are, in pixels.
    """
    grey = image.astype(np.float64).mean(axis=2)
    places = np.arange(unit_px, grey.shape[0], unit_px)
    across = [np.abs(turned[places] - turned[places - 1]).mean(axis=1) for turned in (grey, grey.T)]
    return np.concatenate(across), np.concatenate([places, places])


def measure_seams(image: np.ndarray, unit_px: int) -> tuple[float, float, float]:
    """Return the mean step across seams, and the band of 95 % of such means elsewhere."""
    means, places = steps_between(image, unit_px)
    seams = places % TILE_PX == 0
    inside = means[~seams]
    draws = np.random.default_rng(0).choice(inside, (2000, int(seams.sum()))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(means[seams].mean()), float(low), float(high)


def measure_alone(run: str, side_px: int) -> dict[str, float]:
    """Return CPU time and memory of an image that a process of its own makes."""
    command = [sys.executable, "-m", "benchmarks.large", "--run", run, "--alone", str(side_px)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def make_alone(run: str, side_px: int) -> dict[str, float]:
    """Make one image here and return what it took; with its seams."""
    generator = replace(load_generator(run), tile_px=TILE_PX)
    generator.generate(make_mask(TILE_PX // 4), ["warm"], OPTIONS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.process_time()
    [image] = generator.generate(make_mask(side_px), ["large"], OPTIONS, finite_only=True)
    seconds = time.process_time() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seam, low, high = measure_seams(image, generator.codec.factor)
    return {
        "cpu_s": seconds,
        "memory_mib": after - before,
        "image_mib": image.nbytes / 2**20,
        "seam": seam,
        "low": low,
        "high": high,
    }


def measure(run: str, largest_px: int) -> Iterator[str]:
    """Yield the lines of the page."""
    whole = load_generator(run)
    mask = make_mask(EXACT_PX)
    expected = sample_latents(whole, mask)
    found = sample_latents(replace(whole, tile_px=TILE_PX), mask)
    error = float((found - expected).abs().max() / expected.std())
    exact = "a tiny codec" if whole.codec.halo is not None else "a codec that normalises"
    yield f"Tiles of {TILE_PX} px, halo of {whole.halo} latents, decoded by {exact}."
    yield ""
    yield f"Latents, {EXACT_PX} px: tiles differ from one pass by {error:.1e} at most."
    yield ""
    yield "| image | CPU s | memory, MiB | of it the image itself | seams | 95 % elsewhere |"
    yield "|---|---|---|---|---|---|"
    side = 1024
    while side <= largest_px:
        row = measure_alone(run, side)
        yield (
            f"| {side:,} px | {row['cpu_s']:,.0f} | {row['memory_mib']:,.0f} |"
            f" {row['image_mib']:,.0f} | {row['seam']:.2f} |"
            f" {row['low']:.2f} to {row['high']:.2f} |"
        )
        side *= 2


def main() -> int:
    """Print the page, or write it to a file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--largest", type=int, default=8192, help="side of the largest image, px")
    parser.add_argument(
        "--alone", type=int, help="make one image of this size and say what it took"
    )
    parser.add_argument("--write", type=Path, help="write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.alone:
        print(json.dumps(make_alone(options.run, options.alone)))
        return 0
    lines = [
        *measure(options.run, options.largest),
    ]
    print_page(
        "Large images", "benchmarks.large --run RUN --write FILE", __doc__, lines, options.write
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
