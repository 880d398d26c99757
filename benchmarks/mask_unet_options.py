"""Three additions to mask-unet, each measured over three seeds: does one of them win?

    python -m benchmarks.mask_unet_options --codec FOLDER [--manifest FILE] [--write FILE]

Tissue, windows, probe and figures are those of `benchmarks.following`; `--manifest` takes real
tiles instead, its training split against the others. The additions are here and not in the product.
Class tokens: after the middle and after each stage on the way up, every pixel attends to one
learned token a class and one for the null, with the log of the class's share as a bias; a twentieth
more parameters. Region loss: part of each mask becomes another class; predictions of the same noisy
latents under both masks must differ inside by at least as much as the means of classes do, and
agree outside (arXiv 2508.05772). It costs a second pass, so mask-unet with twice the steps stands
beside it. Class-mean source: noise begins at the mean of its class, weighed by shares, in training
and in sampling, with and without the mask (arXiv 2509.19300). "Wins" is yes where accuracy and mean
IoU at guidance 1 are higher for each of the seeds and the mean validation loss is not.
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
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.following import (
    BATCH,
    FACTOR,
    NETWORKS,
    NUM_CLASSES,
    NUM_SAMPLED,
    RATES,
    Figures,
    Loss,
    Source,
    Tissue,
    flow_loss,
    kept_tissue,
    measure_network,
    read_latents,
    spread_of,
    step_of,
    train_network,
    train_probe,
    validation_loss,
)
from benchmarks.measuring import print_page
from histoprep.shards import open_tiles
from trainer.data.transforms import to_float
from trainer.diffusion.objectives import Objective
from trainer.models.denoisers import mask_unet
from trainer.models.denoisers.footprint import count_parameters
from trainer.models.denoisers.interface import Denoiser
from trainer.models.denoisers.mask_unet import Block, MaskUNet, PixelNorm, zeroed
from trainer.models.denoisers.masks import class_fractions
from trainer.recipes.codecs import load_codec

_HEADS, _LEAST_SHARE = 4, 1e-4
_PLAIN = "mask-unet"
_BASE = NETWORKS[_PLAIN]
assert isinstance(_BASE, mask_unet.Config)


class TokenAttention(nn.Module):
    """Attention from pixels to one token a class and one for the null; nothing at first.

    The logit of a token is query . key / sqrt(width) + log(share of its class in the pixel).
    """

    def __init__(self, dim: int, num_tokens: int) -> None:
        super().__init__()
        self.norm = PixelNorm(dim, gain=True)
        self.query = nn.Conv2d(dim, dim, 1, bias=False)
        self.keys = nn.Parameter(torch.randn(_HEADS, num_tokens, dim // _HEADS))
        self.values = nn.Parameter(torch.randn(_HEADS, num_tokens, dim // _HEADS))
        self.out = zeroed(nn.Conv2d(dim, dim, 1))

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        """Return [batch, dim, h, w] for features x and shares [batch, tokens, h, w]."""
        query = self.query(self.norm(x)).unflatten(1, (_HEADS, -1))
        logits = torch.einsum("bdchw,dkc->bdkhw", query, self.keys) * query.shape[2] ** -0.5
        logits = logits + shares.clamp(min=_LEAST_SHARE).log()[:, None]
        found = torch.einsum("bdkhw,dkc->bdchw", logits.softmax(2), self.values)
        result: Tensor = x + self.out(found.flatten(1, 2))
        return result


class _Followed(nn.ModuleList):
    """The blocks of a stage, the last of them with attention to class tokens after it."""

    def __init__(self, blocks: nn.ModuleList, dim: int, num_tokens: int) -> None:
        last = _BlockWithTokens(blocks[-1], TokenAttention(dim, num_tokens))
        super().__init__([*blocks[:-1], last])


class _BlockWithTokens(nn.Module):
    def __init__(self, block: nn.Module, attention: TokenAttention) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, time: Tensor, shares: Tensor) -> Tensor:
        result: Tensor = self.attention(self.block(x, time, shares), shares)
        return result


class TokenUNet(MaskUNet):
    """mask-unet with class tokens."""

    def __init__(self, config: mask_unet.Config, num_classes: int, channels: int) -> None:
        super().__init__(config, num_classes, channels)
        tokens = num_classes + 1
        widths = [config.dim * mult for mult in config.dim_mults]
        middle = _BlockWithTokens(self.middle, TokenAttention(widths[-1], tokens))
        self.middle = cast(Block, middle)
        self.ups = nn.ModuleList(
            _Followed(cast(nn.ModuleList, stage), width, tokens)
            for stage, width in zip(self.ups.children(), widths, strict=True)
        )


@dataclass(frozen=True)
class Option:
    """What is measured: a network, its losses in training and validation, what is added to noise,
    and how many times the steps it has.
    """

    build: Callable[[], Denoiser]
    training: Loss = flow_loss
    validating: Loss = flow_loss
    source: Source | None = None
    steps: int = 1


def build_plain() -> Denoiser:
    """Return mask-unet."""
    return _BASE.build(NUM_CLASSES, 4)


def build_with_tokens() -> Denoiser:
    """Return mask-unet with class tokens."""
    assert isinstance(_BASE, mask_unet.Config)
    return TokenUNet(_BASE, NUM_CLASSES, 4)


def altered_masks(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Return masks in which one class of each that is there has become another one."""
    altered = mask.clone()
    for changed in altered:
        present = changed.unique()
        old = present[torch.randint(len(present), (), generator=generator)]
        step = torch.randint(1, NUM_CLASSES, (), generator=generator)
        changed[changed == old] = ((old + step) % NUM_CLASSES).to(changed.dtype)
    return altered


def region_loss(weight: float, margin: float) -> Loss:
    """Return `flow_loss` with the region loss, of a weight: inside changed cells the root mean
    square of the difference falls short of the margin, squared; outside its mean square.
    """
    generator = torch.Generator().manual_seed(4000)
    objective = Objective("flow")

    def loss(
        network: Denoiser, clean: Tensor, noise: Tensor, u: Tensor, mask: Tensor, drop: Tensor
    ) -> Tensor:
        t = objective.timesteps_from_uniform(u)
        noisy, time = objective.noised(clean, noise, t), objective.model_time(t)
        other = altered_masks(mask, generator)
        own = network(noisy, time, mask, drop)
        plain = objective.per_sample_loss(own, objective.training_target(clean, noise, t), t).mean()
        change = own - network(noisy, time, other, drop)
        first, second = (class_fractions(each, NUM_CLASSES, FACTOR) for each in (mask, other))
        inside = ((first - second).abs().sum(1, keepdim=True) / 2) * ~drop[:, None, None, None]
        outside = (inside == 0) & ~drop[:, None, None, None]
        size = (change.square().mean(1, keepdim=True) + 1e-6).sqrt()
        short = (functional.relu(margin - size).square() * inside).sum() / inside.sum().clamp(1)
        leak = (size.square() * outside).sum() / outside.sum().clamp(1)
        result: Tensor = plain + weight * (short + leak)
        return result

    return loss


def class_means(tissue: Tissue) -> Tensor:
    """Return the mean latents of each class, [classes, 4]; cells count by the class's share."""
    shares = class_fractions(tissue.masks, NUM_CLASSES, FACTOR)
    sums = torch.einsum("bkhw,bchw->kc", shares, tissue.latents)
    return sums / shares.sum((0, 2, 3))[:, None].clamp(min=1)


def class_mean_source(means: Tensor) -> Source:
    """Return masks -> the means of their classes [classes, 4], weighed by shares."""
    return lambda mask: torch.einsum(
        "bkhw,kc->bchw", class_fractions(mask, NUM_CLASSES, FACTOR), means
    )


def shifted_loss(source: Source) -> Loss:
    """Return `flow_loss` from noise to which something is added."""

    def loss(
        network: Denoiser, clean: Tensor, noise: Tensor, u: Tensor, mask: Tensor, drop: Tensor
    ) -> Tensor:
        return flow_loss(network, clean, noise + source(mask), u, mask, drop)

    return loss


def options_for(tissue: Tissue) -> dict[str, Option]:
    """Return what is measured, by name."""
    means = class_means(tissue)
    source = class_mean_source(means)
    shifted = shifted_loss(source)
    margin = float(
        (means[:, None] - means).square().mean(2).sqrt().sum() / (NUM_CLASSES**2 - NUM_CLASSES)
    )
    regions = {
        f"region loss, weight {weight:g}": Option(build_plain, region_loss(weight, margin))
        for weight in (0.03, 0.3)
    }
    return {
        _PLAIN: Option(build_plain),
        "class tokens": Option(build_with_tokens),
        **regions,
        "mask-unet, twice the steps": Option(build_plain, steps=2),
        "class-mean source": Option(build_plain, shifted, shifted, source),
    }


def tissue_of(manifest: Path, codec_folder: str) -> tuple[Tissue, Tissue]:
    """Return the tiles of a manifest's training split, and those of the others; as large as the
    smallest allows, from the middle.
    """
    codec = load_codec(codec_folder)
    tiles = open_tiles(manifest)
    read = [tiles.read(row) for row in np.flatnonzero(tiles.pool == "conditional").tolist()]
    side = min(min(tile.image.shape[:2]) for tile in read) // FACTOR * FACTOR
    splits = tiles.split[tiles.pool == "conditional"]
    parts = []
    for chosen in (splits == "train", splits != "train"):
        latents, masks = [], []
        for number in np.flatnonzero(chosen).tolist():
            image, mask = read[number].image, read[number].mask
            assert mask is not None
            top, left = ((length - side) // 2 for length in image.shape[:2])
            area = (slice(top, top + side), slice(left, left + side))
            values = torch.from_numpy(to_float(np.ascontiguousarray(image[area])[None]))
            latents.append(codec.encode(values).mean)
            masks.append(torch.from_numpy(np.ascontiguousarray(mask[area]).astype(np.uint8)))
        parts.append((torch.cat(latents), torch.stack(masks)[:, None]))
    mean = parts[0][0].mean((0, 2, 3), keepdim=True)
    std = parts[0][0].std((0, 2, 3), keepdim=True)
    train, held_out = (Tissue((latents - mean) / std, masks) for latents, masks in parts)
    return train, held_out


def best_rate(option: Option, train: Tissue, held_out: Tissue, steps: int) -> float:
    """Return the learning rate with the least validation loss after a third of the steps."""
    losses = {}
    for rate in RATES:
        torch.manual_seed(0)
        network = train_network(
            option.build(), train, rate=rate, steps=steps // 3, seed=0, loss=option.training
        )
        losses[rate] = validation_loss(network, held_out, loss=option.validating)
    return min(losses, key=losses.__getitem__)


def step_seconds(options: dict[str, Option], tissue: Tissue, rounds: int = 12) -> dict[str, float]:
    """Return the CPU time of a training step of each, the median of rounds in turn."""
    generator = torch.Generator().manual_seed(0)
    networks = {name: option.build() for name, option in options.items()}
    optimisers = {
        name: torch.optim.AdamW(network.parameters(), lr=1e-4) for name, network in networks.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in options}
    for _ in range(rounds):
        for name, option in options.items():
            before = time.process_time()
            step_of(networks[name], tissue, generator, optimisers[name], option.training)
            taken[name].append(time.process_time() - before)
    return {name: statistics.median(values[2:]) for name, values in taken.items()}


def measure(
    train: Tissue,
    held_out: Tissue,
    names: Sequence[str],
    place: Path | None,
    *,
    steps: int,
    seeds: int,
) -> Iterator[str]:
    """Yield the lines of the page: networks of `names`, and those whose figures are in the file
    `place` already.
    """
    probe = train_probe(train)
    real, mask = held_out.windows(NUM_SAMPLED, torch.Generator().manual_seed(3000))
    accuracy, iou, _ = read_latents(probe, real, mask, real)
    options = options_for(train)
    seconds = step_seconds(options, train)
    figures = read_figures(place)
    for name, option in options.items():
        if name not in names:
            continue
        figures[name] = []
        rate = best_rate(option, train, held_out, steps)
        print(name, rate, file=sys.stderr, flush=True)
        for seed in range(seeds):
            torch.manual_seed(seed)
            network = train_network(
                option.build(),
                train,
                rate=rate,
                steps=steps * option.steps,
                seed=seed,
                loss=option.training,
            )
            found = measure_network(network, probe, held_out, option.validating, option.source)
            figures[name].append(found)
            print(name, seed, found, file=sys.stderr, flush=True)
        if place is not None:
            kept = {name: [asdict(each) for each in found] for name, found in figures.items()}
            place.write_text(json.dumps(kept, indent=1))
    yield (
        f"{seeds} seeds, {steps:,} steps of {BATCH} windows; real tiles read by the probe: accuracy"
        f" {accuracy:.3f}, mean IoU {iou:.3f}. Values are means over seeds ± half their range."
    )
    yield ""
    yield (
        "| network | parameters | CPU ms a step | validation loss | accuracy, IoU, spread at"
        " guidance 1 | at guidance 2 | wins |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name, option in options.items():
        if name not in figures:
            continue
        own = figures[name]
        columns = [
            f"{count_parameters(option.build()):,}",
            f"{1e3 * seconds[name]:.0f}",
            spread_of([each.loss for each in own], ".4f"),
            *(
                ", ".join(
                    spread_of([each.reads[scale][part] for each in own], ".3f") for part in range(3)
                )
                for scale in (1.0, 2.0)
            ),
            "-" if name == _PLAIN else ("yes" if wins(own, figures[_PLAIN]) else "no"),
        ]
        yield f"| {name} | {' | '.join(columns)} |"


def read_figures(place: Path | None) -> dict[str, list[Figures]]:
    """Return figures by network from a file of earlier ones, none where there is no file."""
    if place is None or not place.is_file():
        return {}
    return {
        name: [Figures.from_json(value) for value in found]
        for name, found in json.loads(place.read_text()).items()
    }


def wins(found: list[Figures], plain: list[Figures]) -> bool:
    """Return whether each seed follows the mask better, and the loss is not higher in the mean."""
    better = (
        ours.reads[1.0][part] > base.reads[1.0][part]
        for ours, base in zip(found, plain, strict=True)
        for part in (0, 1)
    )
    loss, limit = (statistics.mean(each.loss for each in figures) for figures in (found, plain))
    return all(better) and loss <= limit


def main() -> int:
    """Print the page, or write it to a file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", required=True, help="folder of a codec: 4 channels, factor 8")
    parser.add_argument("--manifest", type=Path, help="real tiles, at most five classes")
    parser.add_argument("--tissue", type=Path, help="file to keep the encoded tissue in")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="*", help="only these; all by default")
    parser.add_argument(
        "--results", type=Path, help="JSON file of earlier figures, to which these are added"
    )
    parser.add_argument("--write", type=Path, help="write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tissue = (
        tissue_of(options.manifest, options.codec)
        if options.manifest
        else kept_tissue(options.codec, options.tissue)
    )
    known = list(options_for(tissue[0]))
    names = known if options.networks is None else options.networks
    if not set(names) <= set(known):
        parser.error(f"--networks: some of {', '.join(known)}")
    print_page(
        "Additions to mask-unet",
        "benchmarks.mask_unet_options --codec FOLDER --write FILE",
        __doc__,
        list(
            measure(
                *tissue,
                names,
                options.results,
                steps=options.steps,
                seeds=options.seeds,
            )
        ),
        options.write,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
