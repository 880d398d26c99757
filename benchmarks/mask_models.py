"""Are masks from nothing like real ones? The recipe masks on generated tissue.

    python -m benchmarks.mask_models --folder FOLDER [--write FILE]

Procedural tiles of 128 px and eight slides; `masks-tiny` on cells of 8 px. As many masks are
generated as there are real ones, and measured as `trainer test` does: means over halves of the real
masks that share no slide, of one half against as many generated masks; the floor is that of the two
halves. "Kept" are real masks on the cells of the model. Shares of all: class shares of all
generated masks against those of all training masks; shares of each: those of a mask against those
that it was to have, L1, mean over masks. Each at two scales of guidance. Beside them the same masks
with their cells shuffled, as a control that must fail.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import print_page
from histoprep.cli import run as histoprep
from histoprep.demo import GROUP_PATTERN, make_clean_demo
from histoprep.shards import open_tiles
from trainer.config_layers import load_config
from trainer.data.mask_cells import enlarge_cells, reduce_masks
from trainer.engine.fit import fit
from trainer.evaluation.layouts import LayoutScores, score_layouts
from trainer.evaluation.mask_models import read_real_masks
from trainer.recipes.masks import Config, load_mask_generator, num_classes_of
from trainer.sampling.layouts import MaskGenerator, list_generated

NUM_TILES, TILE_PX, CELL_PX = 320, 128, 8
NUM_MASKS = 320
SCALES = (1.0, 2.0)


def make_tiles(
    folder: Path, num_tiles: int = NUM_TILES, seed: int = 7, split: str = "0.7/0.15/0.15"
) -> Path:
    """Return the manifest of generated tissue below a folder, tiles of 128 px split by slide; made
    unless it is there.
    """
    tiles = folder / "tiles"
    manifest = tiles.with_name("tiles.histoprep") / "manifest.parquet"
    if not manifest.is_file():
        make_clean_demo(tiles, num_tiles=num_tiles, tile_px=TILE_PX, seed=seed)
        command = ["--quiet", "manifest", str(tiles), "--map", "label_map_5.yml"]
        if histoprep([*command, "--group-by", GROUP_PATTERN, "--split", split]):
            raise SystemExit("the manifest could not be made")
    return manifest


def train(manifest: Path, out: Path, seed: int, steps: int) -> Path:
    """Return the folder of a trained model of masks."""
    config = load_config(
        preset="masks-tiny",
        manifest=str(manifest),
        out=str(out),
        sets=[
            f"data.image_size={TILE_PX}",
            f"cell_px={CELL_PX}",
            f"duration.steps={steps}",
            f"seed={seed}",
            "every.images=null",
            "sampling.guidance_scale=1",
        ],
    )
    return fit(config).run


def shuffle_cells(masks: np.ndarray, num_classes: int) -> np.ndarray:
    """Return masks whose cells are in a random order, each mask in its own."""
    cells = reduce_masks(masks, num_classes, CELL_PX)
    flat = cells.reshape(len(cells), -1)
    shuffled = np.random.default_rng(0).permuted(flat, axis=1).reshape(cells.shape)
    return enlarge_cells(shuffled, num_classes, CELL_PX)


def read_generated(generator: MaskGenerator) -> tuple[np.ndarray, np.ndarray]:
    """Return masks, and the class shares that they were to have."""
    listed = list_generated(generator, NUM_MASKS)
    masks = np.stack([listed.read_mask(index) for index in range(len(listed))])
    return masks, generator.draw_shares(0, len(masks))


def mean_shares(masks: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the class shares of each mask, [n, classes]."""
    return np.stack([(masks == cls).mean(axis=(1, 2)) for cls in range(num_classes)], axis=1)


def row_of(name: str, scores: LayoutScores, extra: list[str]) -> str:
    """Return a line of the table."""
    cells = [f"{measured.value:.3f}" for measured in scores.measures.values()]
    copies = scores.copies
    near = f"{copies.verdict}: {len(copies.found)} of {copies.judged}"
    return f"| {name} | {' | '.join([*cells, *extra, near])} |"


def measure(folder: Path, num_seeds: int, steps: int) -> Iterator[str]:
    """Yield the lines of the page."""
    manifest = make_tiles(folder)
    tiles = open_tiles(manifest)
    num_classes = num_classes_of(tiles.label_map)
    real = read_real_masks(tiles, TILE_PX)
    own = mean_shares(real.masks[real.is_train], num_classes).mean(axis=0)

    def score(masks: np.ndarray) -> LayoutScores:
        return score_layouts(real.masks, masks, real.groups, real.is_train, num_classes, CELL_PX)

    lines, strange, floors, found = [], 0, "", ""
    for seed in range(num_seeds):
        place = train(manifest, folder / f"masks-{seed}", seed, steps)
        config = load_config(file=place / "config.yml")
        assert isinstance(config, Config)
        generator = load_mask_generator(place, seed=seed)
        for scale in SCALES:
            options = replace(generator.options, guidance_scale=scale)
            masks, wanted = read_generated(replace(generator, options=options))
            strange += int((~np.isin(masks, [cls.id for cls in tiles.label_map.classes])).sum())
            shares = mean_shares(masks, num_classes)
            scores = score(masks)
            extra = [
                f"{np.abs(shares.mean(axis=0) - own).sum():.3f}",
                f"{np.abs(shares - wanted).sum(axis=1).mean():.3f}",
            ]
            lines.append(row_of(f"guidance {scale:g}, seed {seed}", scores, extra))
            print(lines[-1], file=sys.stderr, flush=True)
        if not floors:
            cells = [
                f"{part.floor:.3f} (to {part.floor_high:.3f})" for part in scores.measures.values()
            ]
            kept = [f"{part.more['kept']:.3f}" for part in scores.measures.values()]
            copies = scores.copies
            planted = f"{copies.planted_found} of {copies.planted} planted ones"
            held_out = f"{copies.control:.1%} of held-out masks"
            floors = "\n".join(
                [
                    f"| real masks of other slides | {' | '.join(cells)} | - | - | {held_out} |",
                    f"| real masks on the cells | {' | '.join(kept)} | - | - | - |",
                ]
            )
            found = f"Copies: {planted} are found."
            control = row_of("cells shuffled", score(shuffle_cells(masks, num_classes)), ["-", "-"])
    yield (
        f"{int(real.is_train.sum())} training masks, {len(real.masks)} real ones, {NUM_MASKS}"
        f" generated; {steps:,} steps of 32. {found} Pixels of generated masks that hold no class:"
        f" {strange}."
    )
    yield ""
    yield (
        "| masks | shares | co-occurrence | regions, octaves | boundary | shares of all | shares of"
        " each | as near as a copy |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    yield from lines
    yield floors
    yield control


def main() -> int:
    """Print the page, or write it to a file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where tiles and runs go")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--write", type=Path, help="write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = list(measure(options.folder, options.seeds, options.steps))
    print_page(
        "Masks from nothing",
        "benchmarks.mask_models --folder FOLDER --write FILE",
        __doc__,
        lines,
        options.write,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
