"""Do generated images follow their masks? The denoisers side by side at equal size and images.

    python -m benchmarks.following --codec FOLDER [--write FILE]

Generated tissue of several slides, encoded once; windows of 128 px. Each network has about 0.21
million parameters (mask-unet 0.18 or 0.22) and sees the same windows, noise and times (rectified
flow, the same optimiser; the learning rate of each is the best of three by the validation loss of a
short run). Held-out slides give validation loss and masks. A probe, trained on real latents of the
training slides, reads the class of every latent of the images sampled for those masks: accuracy and
mean IoU against the mask, beside what it reads on the real tiles themselves. "Spread" is the
standard deviation of generated latents inside a class over that of real ones: guidance that
exaggerates narrows it. CPU time of a step is that of forward, backward and optimiser, one thread,
networks in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import print_page
from histoprep.demo.layout import RECIPES, lay_out
from histoprep.demo.tissue import Stain, paint
from histoprep.labels import find_label_map, load_label_map
from trainer.data.transforms import to_float
from trainer.diffusion.guidance import guided
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Solver, sample
from trainer.models.denoisers import mask_unet, reference_unet
from trainer.models.denoisers.footprint import count_flops, count_parameters
from trainer.models.denoisers.interface import Denoiser, DenoiserConfig
from trainer.models.denoisers.masks import class_fractions
from trainer.models.frozen import frozen_weights
from trainer.recipes.codecs import load_codec

NUM_CLASSES = 5
BATCH, WINDOW, FACTOR = 16, 16, 8
TILE_PX, TILES_OF_SLIDE = 256, 16
TRAIN_SLIDES, HELD_OUT_SLIDES = 12, 4
DROP_SHARE = 0.15
RATES = (2e-3, 4e-3, 8e-3)
NUM_SAMPLED, SOLVER = 128, Solver("dpm++", 20)
_SMALL = {"dim": 16, "dim_mults": (1, 2), "block_per_layer": 1}
BY_CLASS, BINARY = "reference, class query", "reference, binary query"
NETWORKS: dict[str, DenoiserConfig] = {
    "mask-unet": mask_unet.Config(**{**_SMALL, "dim": 20}),
    "mask-unet, a tenth wider": mask_unet.Config(**{**_SMALL, "dim": 22}),
    BY_CLASS: reference_unet.Config(**_SMALL, mask_query="class", dropout=0.0),
    BINARY: reference_unet.Config(**_SMALL, mask_query="binary", dropout=0.0),
}


@dataclass(frozen=True)
class Tissue:
    """Tiles: normalised `latents` [n, 4, side, side] and `masks` uint8 [n, 1, 8 side, 8 side]."""

    latents: Tensor
    masks: Tensor

    def windows(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return `count` random windows: latents [count, 4, 16, 16], masks [count, 1, 128, 128]."""
        rows = torch.randint(len(self.latents), (count,), generator=generator).tolist()
        places = torch.randint(
            self.latents.shape[-1] - WINDOW + 1, (count, 2), generator=generator
        ).tolist()
        latents, masks = [], []
        for row, (y, x) in zip(rows, places, strict=True):
            latents.append(self.latents[row, :, y : y + WINDOW, x : x + WINDOW])
            top, left, side = FACTOR * y, FACTOR * x, FACTOR * WINDOW
            masks.append(self.masks[row, :, top : top + side, left : left + side])
        return torch.stack(latents), torch.stack(masks)


@dataclass(frozen=True)
class Figures:
    """What was measured of one trained network."""

    loss: float
    reads: dict[float, tuple[float, float, float]]
    """Guidance scale -> accuracy, mean IoU, spread."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Figures:
        """Return the figures that `asdict` wrote as JSON."""
        reads = {float(scale): tuple(read) for scale, read in value["reads"].items()}
        return cls(value["loss"], reads)


def make_tissue(codec_folder: str) -> tuple[Tissue, Tissue]:
    """Return the tiles of the training slides and of those held out."""
    codec = load_codec(codec_folder)
    if codec.factor != FACTOR or codec.channels != 4:
        raise SystemExit("a codec with 4 channels and a factor of 8 is needed")
    label_map = load_label_map(find_label_map("label_map_5"))
    parts = []
    for slides in (range(TRAIN_SLIDES), range(TRAIN_SLIDES, TRAIN_SLIDES + HELD_OUT_SLIDES)):
        latents, masks = [], []
        for slide in slides:
            stain = Stain.of_slide(np.random.default_rng([11, 1, slide]))
            for number in range(TILES_OF_SLIDE):
                rng = np.random.default_rng([11, slide, number])
                labels = lay_out(rng, TILE_PX, RECIPES[number % len(RECIPES)])
                image = torch.from_numpy(to_float(paint(rng, labels, stain)[None]))
                latents.append(codec.encode(image).mean)
                masks.append(label_map.apply_to_ids(labels).astype(np.uint8))
        parts.append((torch.cat(latents), torch.from_numpy(np.stack(masks))[:, None]))
    mean = parts[0][0].mean((0, 2, 3), keepdim=True)
    std = parts[0][0].std((0, 2, 3), keepdim=True)
    train, held_out = (Tissue((latents - mean) / std, masks) for latents, masks in parts)
    return train, held_out


def train_network(
    network: Denoiser,
    tissue: Tissue,
    *,
    rate: float,
    steps: int,
    seed: int,
    loss: Loss | None = None,
) -> Denoiser:
    """Train a network in place, by `flow_loss` unless told otherwise, and return it."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed)
    schedule = warm_cosine(optimiser, steps)
    network.train()
    for _ in range(steps):
        step_of(network, tissue, generator, optimiser, loss or flow_loss)
        schedule.step()
    return network.eval()


def warm_cosine(
    optimiser: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a learning rate that rises over a twentieth of the steps and falls to a twentieth."""
    warmup = max(1, steps // 20)
    return torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(
            (step + 1) / warmup, 0.05 + 0.475 * (1 + float(np.cos(np.pi * step / steps)))
        ),
    )


def step_of(
    network: Denoiser,
    tissue: Tissue,
    generator: torch.Generator,
    optimiser: torch.optim.Optimizer,
    loss_of: Loss,
) -> None:
    """Make one optimiser step on fresh windows."""
    clean, mask = tissue.windows(BATCH, generator)
    noise = torch.randn(clean.shape, generator=generator)
    u, drawn = torch.rand(2, BATCH, generator=generator)
    loss = loss_of(network, clean, noise, u, mask, drawn < DROP_SHARE)
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()


def flow_loss(
    network: Denoiser,
    clean: Tensor,
    noise: Tensor,
    u: Tensor,
    mask: Tensor,
    drop: Tensor,
) -> Tensor:
    """Return the mean loss of a batch at times drawn by the uniform numbers `u` [batch]."""
    objective = Objective("flow")
    t = objective.timesteps_from_uniform(u)
    output = network(objective.noised(clean, noise, t), objective.model_time(t), mask, drop)
    return objective.per_sample_loss(output, objective.training_target(clean, noise, t), t).mean()


Loss = Callable[[Denoiser, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""What `flow_loss` is: (network, clean, noise, u, mask, drop) -> mean loss of a batch."""
Source = Callable[[Tensor], Tensor]
"""Masks -> what is added to their noise, [batch, channels, h, w]."""


@torch.no_grad()
def validation_loss(
    network: Denoiser, tissue: Tissue, count: int = 512, loss: Loss | None = None
) -> float:
    """Return the loss with masks on fixed windows, noise and evenly spread times."""
    generator = torch.Generator().manual_seed(1000)
    losses = []
    for index in range(count // 32):
        clean, mask = tissue.windows(32, generator)
        noise = torch.randn(clean.shape, generator=generator)
        u = (torch.arange(32) + (index + 0.5) / (count // 32)) / 32
        nothing = torch.zeros(32) > 0
        losses.append(float((loss or flow_loss)(network, clean, noise, u, mask, nothing)))
    return statistics.mean(losses)


def train_probe(tissue: Tissue, steps: int = 600) -> nn.Module:
    """Return a small network that reads the class of every latent, trained on real ones."""
    torch.manual_seed(7)
    probe = nn.Sequential(
        nn.Conv2d(4, 32, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, NUM_CLASSES, 1),
    )
    optimiser = torch.optim.AdamW(probe.parameters(), lr=3e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        latents, mask = tissue.windows(32, generator)
        loss = functional.cross_entropy(probe(latents), cells(mask))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return probe.eval()


def cells(mask: Tensor) -> Tensor:
    """Return the class with the largest share in every latent, int64 [batch, h, w]."""
    return class_fractions(mask, NUM_CLASSES, FACTOR).argmax(1)


@torch.no_grad()
def read_latents(
    probe: nn.Module, latents: Tensor, mask: Tensor, real: Tensor
) -> tuple[float, float, float]:
    """Return accuracy and mean IoU of the probe on latents against their masks, and the spread
    inside classes over that of `real` latents of the same masks.
    """
    truth, seen = cells(mask), probe(latents).argmax(1)
    ious, spreads = [], []
    for index in truth.unique().tolist():
        both = ((truth == index) & (seen == index)).sum()
        ious.append(float(both / ((truth == index) | (seen == index)).sum()))
        inside = (truth == index).flatten()
        own, other = (
            values.movedim(1, -1).reshape(-1, values.shape[1])[inside].std(0).mean()
            for values in (latents, real)
        )
        spreads.append(float(own / other))
    return float((truth == seen).float().mean()), statistics.mean(ious), statistics.mean(spreads)


def sample_windows(
    network: Denoiser,
    mask: Tensor,
    scale: float,
    solver: Solver,
    source: Source | None = None,
) -> Tensor:
    """Return latents sampled for masks; window i starts from the same noise for every network, to
    which `source` may add something.
    """
    generator = torch.Generator().manual_seed(2000)
    noise = torch.randn(len(mask), 4, WINDOW, WINDOW, generator=generator)
    noise = noise if source is None else noise + source(mask)
    with frozen_weights(network):
        parts = [
            sample(guided(network, part, scale), start, Objective("flow"), solver)
            for part, start in zip(mask.split(64), noise.split(64), strict=True)
        ]
    return torch.cat(parts)


def measure_network(
    network: Denoiser,
    probe: nn.Module,
    held_out: Tissue,
    loss: Loss | None = None,
    source: Source | None = None,
) -> Figures:
    """Return the figures of a trained network."""
    real, mask = held_out.windows(NUM_SAMPLED, torch.Generator().manual_seed(3000))
    reads = {
        scale: read_latents(probe, sample_windows(network, mask, scale, SOLVER, source), mask, real)
        for scale in (1.0, 2.0)
    }
    return Figures(validation_loss(network, held_out, loss=loss), reads)


def step_seconds(
    networks: dict[str, Denoiser], tissue: Tissue, rounds: int = 30
) -> dict[str, float]:
    """Return the CPU time of a training step of each network: the median of rounds in turn."""
    generator = torch.Generator().manual_seed(0)
    optimisers = {
        name: torch.optim.AdamW(network.parameters(), lr=1e-4) for name, network in networks.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds):
        for name, network in networks.items():
            before = time.process_time()
            step_of(network, tissue, generator, optimisers[name], flow_loss)
            taken[name].append(time.process_time() - before)
    return {name: statistics.median(values[2:]) for name, values in taken.items()}


def build(config: DenoiserConfig, seed: int) -> Denoiser:
    """Return a network with the weights of a seed."""
    torch.manual_seed(seed)
    return config.build(NUM_CLASSES, 4)


def kept_tissue(codec_folder: str, place: Path | None) -> tuple[Tissue, Tissue]:
    """Return the tissue from the file `place` or, where there is none, made and kept there."""
    if place is not None and place.is_file():
        tensors = torch.load(place, weights_only=True)
        return Tissue(*tensors[:2]), Tissue(*tensors[2:])
    train, held_out = make_tissue(codec_folder)
    if place is not None:
        torch.save([train.latents, train.masks, held_out.latents, held_out.masks], place)
    return train, held_out


@dataclass(frozen=True)
class Result:
    """What was measured of one network: CPU time of a step, chosen rate, figures of each seed."""

    step_s: float
    rate: float
    figures: list[Figures]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Result:
        """Return the result that `asdict` wrote as JSON."""
        figures = [Figures.from_json(entry) for entry in value["figures"]]
        return cls(value["step_s"], value["rate"], figures)

    def mean_loss(self) -> float:
        """Return the validation loss, the mean over seeds."""
        return statistics.mean(figures.loss for figures in self.figures)

    def mean_read(self, part: int) -> float:
        """Return accuracy (0) or mean IoU (1) at guidance 1, the mean over seeds."""
        return statistics.mean(figures.reads[1.0][part] for figures in self.figures)


def measure_all(
    train: Tissue,
    held_out: Tissue,
    names: Sequence[str],
    *,
    steps: int,
    seeds: int,
    report: Callable[[str], None],
) -> tuple[dict[str, Result], tuple[float, float]]:
    """Return the results of networks by name, and accuracy and mean IoU of the real tiles."""
    probe = train_probe(train)
    real, mask = held_out.windows(NUM_SAMPLED, torch.Generator().manual_seed(3000))
    accuracy, iou, _ = read_latents(probe, real, mask, real)
    report(f"real tiles: accuracy {accuracy:.3f}, mean IoU {iou:.3f}")
    seconds = step_seconds({name: build(NETWORKS[name], 0) for name in NETWORKS}, train)
    results = {}
    for name in names:
        config = NETWORKS[name]
        short = {
            rate: validation_loss(
                train_network(build(config, 0), train, rate=rate, steps=steps // 3, seed=0),
                held_out,
            )
            for rate in RATES
        }
        rate = min(short, key=short.__getitem__)
        report(f"{name}: " + ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in short.items()))
        figures = []
        for seed in range(seeds):
            network = train_network(build(config, seed), train, rate=rate, steps=steps, seed=seed)
            figures.append(measure_network(network, probe, held_out))
            report(f"{name}, seed {seed}: {figures[-1]}")
        results[name] = Result(seconds[name], rate, figures)
    return results, (accuracy, iou)


def table(results: dict[str, Result]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield (
        "| network | parameters | GFLOP | CPU ms a step | rate | validation loss | accuracy, IoU,"
        " spread at guidance 1 | at guidance 2 |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name, result in results.items():
        network = build(NETWORKS[name], 0)
        columns = [
            f"{count_parameters(network):,}",
            f"{count_flops(network, FACTOR * WINDOW, FACTOR, training=False) / 1e9:.3f}",
            f"{1e3 * result.step_s:.0f}",
            f"{result.rate:g}",
            spread_of([figures.loss for figures in result.figures], ".4f"),
            *(
                ", ".join(
                    spread_of([figures.reads[scale][part] for figures in result.figures], ".3f")
                    for part in range(3)
                )
                for scale in (1.0, 2.0)
            ),
        ]
        yield f"| {name} | {' | '.join(columns)} |"


def gates(results: dict[str, Result]) -> Iterator[str]:
    """Yield the lines of the table of gates: ratios of means over seeds."""
    yield "| ratio | value | gate |"
    yield "|---|---|---|"
    by_class, binary = (results.get(name) for name in (BY_CLASS, BINARY))
    for name, ours in results.items():
        if name in (BY_CLASS, BINARY):
            continue
        rows = []
        if by_class:
            loss = ours.mean_loss() / by_class.mean_loss()
            rows += [("validation loss, reference with class query", loss, "at most 1.02")]
            rows += [
                (f"{what}, reference with class query", ours.mean_read(part) / base, "at least 1.2")
                for part, what in enumerate(("accuracy", "mean IoU"))
                if (base := by_class.mean_read(part))
            ]
            cost = ours.step_s / by_class.step_s
            rows += [("CPU time of a step, reference with class query", cost, "at most 0.6")]
        if binary:
            rows += [
                (
                    f"{what}, reference with binary query",
                    ours.mean_read(part) / base,
                    "at least 1.8",
                )
                for part, what in enumerate(("accuracy", "mean IoU"))
                if (base := binary.mean_read(part))
            ]
        for what, value, gate in rows:
            yield f"| {name}: {what} | {value:.3f} | {gate} |"


def spread_of(values: list[float], form: str) -> str:
    """Return mean and half the range over seeds."""
    half = (max(values) - min(values)) / 2
    return f"{statistics.mean(values):{form}} ± {half:{form}}"


def main() -> int:
    """Print the page, or write it to a file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", required=True, help="folder of a codec: 4 channels, factor 8")
    parser.add_argument("--tissue", type=Path, help="file to keep the encoded tissue in")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS), help="only these"
    )
    parser.add_argument(
        "--results", type=Path, help="JSON file of earlier results, to which these are added"
    )
    parser.add_argument("--write", type=Path, help="write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results, (accuracy, iou) = measure_all(
        *kept_tissue(options.codec, options.tissue),
        options.networks,
        steps=options.steps,
        seeds=options.seeds,
        report=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if options.results:
        if options.results.is_file():
            earlier = json.loads(options.results.read_text())
            results = {name: Result.from_json(value) for name, value in earlier.items()} | results
        options.results.write_text(
            json.dumps({name: asdict(result) for name, result in results.items()}, indent=1)
        )
    lines = [
        f"{options.seeds} seeds, {options.steps:,} steps of {BATCH} windows; real tiles read by"
        f" the probe: accuracy {accuracy:.3f}, mean IoU {iou:.3f}. Values are means over seeds"
        " ± half their range.",
        "",
        *table(results),
        "",
        "Each network over the reference, at guidance 1:",
        "",
        *gates(results),
    ]
    print_page(
        "Following the mask",
        "benchmarks.following --codec FOLDER --write FILE",
        __doc__,
        lines,
        options.write,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
