"""Does the small diffusion model learn? Trains `ldm-tiny` and measures its images.

    python -m benchmarks.learning --manifest M --codec C [--name NAME --write FILE]

Regions: mean colour and texture of every region of a generated image are given to the nearest class
of real regions; the share that finds its own class, beside chance, real regions and images made
without their mask. A wrong mask: one region gets another class, the noise stays; how much more the
image changes inside the region than outside, and how often its colour is then nearer to the new
class. Validation loss is on fixed noise. Whole tiles are then made for the masks of held-out groups
and measured as `trainer evaluate` does: each number stands beside the interval of real tiles
against real tiles of other groups.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import print_page
from histoprep.durable import write_text
from histoprep.shards import open_tiles
from trainer.config_layers import load_config
from trainer.data.latent_dataset import LatentDataset
from trainer.data.latents import LatentSet
from trainer.data.transforms import to_uint8
from trainer.diffusion.samplers import Solver
from trainer.engine.fit import fit
from trainer.engine.images import colour_mask, sheet, write_sheet
from trainer.evaluation.evaluate import evaluate_tiles
from trainer.evaluation.looks import EvaluateOptions
from trainer.evaluation.page import render_page
from trainer.recipes.ldm import load_generator
from trainer.recipes.ldm_data import latents_folder, training_streams, validation_streams
from trainer.sample import sample_dataset
from trainer.sampling.generator import Generator, SamplingOptions
from trainer.sampling.masks import masks_of_tiles

COMMAND = "benchmarks.learning --manifest M --codec C --name NAME --write FILE"
LIMIT = 300
_LEAST_SHARE = 0.1
_LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Tiles:
    """Real windows: `images` uint8 [n, height, width, 3] as the codec gives them back, `masks`
    uint8 [n, height, width].
    """

    images: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class Classes:
    """What real regions of each class look like: mean of the features of its regions, and the
    spread of all, by class id.
    """

    means: dict[int, np.ndarray]
    spread: np.ndarray

    def nearest(self, features: np.ndarray, *, used: slice = slice(None)) -> int:
        """Return the class whose mean is nearest to features, in units of their spread."""
        return min(
            self.means,
            key=lambda item: float(
                (((features - self.means[item]) / self.spread)[used] ** 2).sum()
            ),
        )


def features_of(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return mean red, green, blue, spread of luminance and mean step of luminance between
    neighbours in a region: float64 [5].
    """
    luminance = image @ _LUMINANCE
    steps = np.abs(np.diff(luminance, axis=1, append=luminance[:, -1:]))
    return np.array([*image[region].mean(axis=0), luminance[region].std(), steps[region].mean()])


def regions(tiles: Tiles) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (tile, class id, region) for every class that covers enough of a tile; class 0 is no
    class.
    """
    for index, mask in enumerate(tiles.masks):
        for class_id in np.unique(mask).tolist():
            region = mask == class_id
            if class_id and region.mean() >= _LEAST_SHARE:
                yield index, class_id, region


def describe_classes(tiles: Tiles) -> Classes:
    """Return what the regions of real tiles look like."""
    found: dict[int, list[np.ndarray]] = {}
    for index, class_id, region in regions(tiles):
        found.setdefault(class_id, []).append(features_of(tiles.images[index], region))
    every = np.concatenate([np.stack(value) for value in found.values()])
    return Classes(
        {class_id: np.stack(value).mean(axis=0) for class_id, value in sorted(found.items())},
        every.std(axis=0),
    )


def share_found(tiles: Tiles, classes: Classes) -> dict[str, float]:
    """Return the share of regions whose nearest class is their own, by colour and with texture;
    each class counts alike.
    """
    hits: dict[int, list[tuple[bool, bool]]] = {}
    for index, class_id, region in regions(tiles):
        if class_id in classes.means:
            seen = features_of(tiles.images[index], region)
            found = (
                classes.nearest(seen, used=slice(3)) == class_id,
                classes.nearest(seen) == class_id,
            )
            hits.setdefault(class_id, []).append(found)
    colour, texture = np.mean([np.mean(value, axis=0) for value in hits.values()], axis=0).tolist()
    return {"colour": colour, "colour and texture": texture}


def read_windows(config: Any, generator: Generator, split: str, count: int) -> Tiles:
    """Return windows of a split as the codec gives them back."""
    tiles = open_tiles(config.manifest)
    latents = LatentSet.open(latents_folder(config))
    streams = training_streams(config, tiles) if split == "train" else validation_streams(tiles)[0]
    data = LatentDataset(latents, tiles, streams, 1, flips=False, turns=False, noise=False)
    images, masks = [], []
    for start in range(0, count, 16):
        batch = data.batch(np.arange(start, min(start + 16, count)))
        images.append(
            to_uint8(generator.codec.decode(latents.denormalise(batch["latents"])).numpy())
        )
        masks.append(batch["mask"].numpy())
    return Tiles(np.concatenate(images), np.concatenate(masks))


def generate(generator: Generator, masks: np.ndarray, guidance_scale: float) -> np.ndarray:
    """Return images for masks; image i always starts from the same noise."""
    options = SamplingOptions(guidance_scale, Solver("dpm++", 20))
    names = [f"tile {index}" for index in range(len(masks))]
    pieces = [slice(start, start + 16) for start in range(0, len(masks), 16)]
    return np.concatenate(
        [generator.generate(masks[piece], names[piece], options) for piece in pieces]
    )


def measure_wrong_masks(
    generator: Generator, tiles: Tiles, classes: Classes, guidance_scale: float
) -> dict[str, float]:
    """Return how an image answers when one region gets another class: change inside over outside,
    and how often it turns to the new class.
    """
    changed = tiles.masks.copy()
    places: list[tuple[int, int, int, np.ndarray]] = []
    others = sorted(classes.means)
    for index, class_id, region in regions(tiles):
        # One region a tile, and one with something outside.
        if class_id in others and region.mean() < 0.8 and all(index != path[0] for path in places):
            new = others[(others.index(class_id) + 1 + index % (len(others) - 1)) % len(others)]
            changed[index][region] = new
            places.append((index, class_id, new, region))
    before, after = (generate(generator, item, guidance_scale) for item in (tiles.masks, changed))
    ratios, turned = [], []
    for index, old, new, region in places:
        difference = np.abs(before[index].astype(float) - after[index]).mean(axis=2)
        ratios.append(difference[region].mean() / max(difference[~region].mean(), 1e-6))
        seen = features_of(after[index], region)
        distance = [
            float((((seen - classes.means[cls]) / classes.spread)[:3] ** 2).sum())
            for cls in (old, new)
        ]
        turned.append(distance[1] < distance[0])
    return {
        "regions": len(places),
        "change inside / outside (median)": float(np.median(ratios)),
        "nearer to the new class": float(np.mean(turned)),
    }


def measure(run: Path, config: Any, *, count: int, guidance_scale: float) -> dict[str, Any]:
    """Return all figures of a finished run and write its sheet, learning.png, into the run
    folder.
    """
    generator = load_generator(run)
    train, held_out = (
        read_windows(config, generator, split, size)
        for split, size in (("train", 4 * count), ("val", count))
    )
    classes = describe_classes(train)
    images = generate(generator, held_out.masks, guidance_scale)
    blind = generate(generator, held_out.masks, 0.0)
    colours = {
        cls.id: tuple(bytes.fromhex(cls.colour[1:]))
        for cls in open_tiles(config.manifest).label_map.classes
    }
    rows = zip(held_out.masks[:8], held_out.images, images, blind, strict=False)
    write_sheet(
        run / "learning.png",
        sheet([[colour_mask(mask, colours), *others] for mask, *others in rows]),
    )
    losses = [
        float(line["val_loss"])
        for line in csv.DictReader((run / "metrics.csv").open(newline=""))
        if line["val_loss"]
    ]
    return {
        "validation loss": {"first": losses[0], "last": losses[-1], "best": min(losses)},
        "regions that find their class": {
            "chance": 1 / len(classes.means),
            "real": share_found(held_out, classes),
            "generated": share_found(Tiles(images, held_out.masks), classes),
            "generated without the mask": share_found(Tiles(blind, held_out.masks), classes),
        },
        "a wrong mask": measure_wrong_masks(generator, held_out, classes, guidance_scale),
    }


def evaluate_run(
    run: Path,
    config: Any,
    *,
    count: int,
    guidance_scale: float,
    codec: str,
    split: str,
    name: str = "generated",
) -> tuple[dict[str, Any], Path]:
    """Return what `trainer evaluate` says of whole tiles made for masks of a split, and the folder
    of these tiles, beside the run.
    """
    tiles = open_tiles(config.manifest)
    out = run.with_name(f"{run.name}-{name}")
    options = SamplingOptions(guidance_scale, Solver("dpm++", 20))
    masks = masks_of_tiles(tiles, split)
    sample_dataset(load_generator(run), masks, out, options, limit=count)
    found = evaluate_tiles(config.manifest, str(out), EvaluateOptions(codec=codec, limit=LIMIT))
    write_text(out.with_name(f"{out.name}.html"), render_page(found, config.manifest, str(out)))
    return found.to_json(), out


def as_lines(name: str, figures: Mapping[str, Any]) -> list[str]:
    """Return the figures of a run in Markdown."""
    regions_found = figures["regions that find their class"]
    wrong, loss = figures["a wrong mask"], figures["validation loss"]
    evaluation = figures["evaluation"]
    rows = [f"| {key} | {_cell(value)} |" for key, value in _measures(evaluation)]
    return [
        f"## {name}",
        "",
        f"{figures['training_s']:,.0f} s of training with {figures['threads']} thread(s);"
        f" validation loss {loss['first']:.4f}, then {loss['last']:.4f}.",
        "",
        "| regions that find their class | by colour | with texture |",
        "|---|---|---|",
        *(
            f"| {key} | {found['colour']:.2f} | {found['colour and texture']:.2f} |"
            for key, found in regions_found.items()
            if key != "chance"
        ),
        f"| chance | {regions_found['chance']:.2f} | {regions_found['chance']:.2f} |",
        "",
        f"A wrong mask in {wrong['regions']} regions: the image changes"
        f" {wrong['change inside / outside (median)']:.1f} times as much inside as outside, and"
        f" {wrong['nearer to the new class']:.0%} are nearer to the new class.",
        "",
        "| trainer evaluate | value (95 % interval), real against real |",
        "|---|---|",
        *rows,
        "",
        f"Verdict: {evaluation['verdict']['word']}. {' '.join(evaluation['verdict']['sentences'])}",
        "",
    ]


def _measures(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in ("kid", "fd", "faithfulness", "shares", "spread", "copies"):
        if evaluation[name] is not None:
            yield name, evaluation[name]


def _cell(found: Mapping[str, Any]) -> str:
    shown = {
        key: "-" if found[key] is None else f"{found[key]:.3g}"
        for key in ("value", "low", "high", "floor_low", "floor_high")
    }
    further = "".join(
        f"; {key} {found[key]:.3g}"
        for key in ("ceiling", "shuffled")
        if isinstance(found.get(key), float)
    )
    own = f"{shown['value']} ({shown['low']} to {shown['high']})"
    return f"{own}, {shown['floor_low']} to {shown['floor_high']}{further}"


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="Tiles", help="of the data set, on the page")
    parser.add_argument("--write", type=Path, help="page to which a section is added")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--codec", required=True)
    parser.add_argument("--out", default="runs/learning")
    parser.add_argument("--preset", default="ldm-tiny")
    parser.add_argument("--set", action="append", default=[], help="as in trainer fit")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    options = parser.parse_args()
    config = load_config(
        preset=options.preset,
        sets=options.set,
        manifest=options.manifest,
        codec=options.codec,
        out=options.out,
    )
    started = time.perf_counter()
    run = fit(config).run
    figures = {
        "training_s": round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
    }
    figures |= measure(run, config, count=options.images, guidance_scale=options.guidance_scale)
    has_val = (open_tiles(options.manifest).split == "val").any()
    figures["evaluation"], _ = evaluate_run(
        run,
        config,
        count=options.images,
        guidance_scale=options.guidance_scale,
        codec=options.codec,
        split="val" if has_val else "test",
    )
    print(json.dumps(figures, indent=2))
    lines = as_lines(options.name, figures)
    if options.write and options.write.is_file():
        options.write.write_text(options.write.read_text() + "\n".join(lines))
    else:
        print_page("What ldm-tiny learns", COMMAND, __doc__, lines, options.write)
    (run / "learning.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
