"""The three denoisers on the same masks: what `trainer evaluate` says, and a figure of their tiles.

    python -m benchmarks.side_by_side --codec C --folder FOLDER [--figure JPEG --write FILE]

Generated tissue of eight slides, tiles of 128 px, encoded once; four slides teach, one chooses the
checkpoint, three are held out. The networks have equal size, and one configuration trains all of
them on the same windows, in the same order, to the same objective (rectified flow). Tiles for the
same held-out masks, from the same noise, are measured as `trainer evaluate` does. Each value stands
with its 95 % interval by slide; the last column is what real tiles give against real tiles of other
slides, at equal number.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.learning import evaluate_run
from benchmarks.mask_models import TILE_PX, make_tiles
from benchmarks.measuring import print_page
from histoprep.durable import write_bytes
from histoprep.imageio import decode_rgb, encode_rgb_jpeg
from histoprep.shards import open_tiles
from trainer.cli import run as trainer
from trainer.config_layers import load_config
from trainer.engine.fit import fit
from trainer.engine.images import colour_mask, sheet
from trainer.models.denoisers.footprint import count_flops, count_parameters
from trainer.recipes.ldm import load_generator
from trainer.sampling.masks import masks_of_tiles
from trainer.sampling.sheets import class_colours

COMMAND = "benchmarks.side_by_side --codec C --folder FOLDER --figure JPEG --write FILE"
NUM_TILES, BATCH = 384, 16
GUIDANCE_SCALE = 2.0
NUM_SHOWN = 8
_REFERENCE = ("model.dim=16", "model.resnet_block_groups=2", "model.dropout=0")
# Name -> preset and settings; about 0.22 million parameters each.
NETWORKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "reference, binary query": ("ldm-tiny", (*_REFERENCE, "model.mask_query=binary")),
    "reference, class query": ("ldm-tiny", (*_REFERENCE, "model.mask_query=class")),
    "mask-unet": ("mask-unet-tiny", ("model.dim=22",)),
}
_MEASURES = {
    "kid": "KID",
    "fd": "FD",
    "faithfulness": "faithfulness",
    "shares": "shares, L1",
    "spread": "spread in a class",
    "copies": "copies, distance ratio",
}


def encode(manifest: Path, codec: str, out: Path) -> Path:
    """Return the latent set of the tiles, made unless it is there."""
    command = ["encode", "--manifest", str(manifest), "--codec", codec, "--out", str(out)]
    if trainer(["--quiet", *command, "--views", "2", "--report", "0", "--num-workers", "0"]):
        raise SystemExit("the tiles could not be encoded")
    return out


def configure(name: str, manifest: Path, latents: Path, out: Path, steps: int) -> Any:
    """Return the configuration of a network: all are alike but for the section model."""
    preset, sets = NETWORKS[name]
    return load_config(
        preset=preset,
        manifest=str(manifest),
        latents=str(latents),
        out=str(out),
        sets=[
            *sets,
            "diffusion.prediction_type=flow",
            "streams.cond_drop_prob=0.15",
            "streams.drop_conditional=0.1",
            f"data.image_size={TILE_PX}",
            f"batch_size={BATCH}",
            f"duration.steps={steps}",
            "every.images=null",
            f"every.validate={max(1, steps // 4)}",
        ],
    )


def measure(run: Path, config: Any, *, codec: str, count: int) -> tuple[dict[str, Any], Path]:
    """Return the figures of a network, trained unless it is, and the folder of its tiles."""
    started = time.process_time()
    fit(config)
    spent = time.process_time() - started
    network = load_generator(run).denoiser
    evaluation, folder = evaluate_run(
        run, config, split="test", count=count, guidance_scale=GUIDANCE_SCALE, codec=codec
    )
    figures = {
        "parameters": count_parameters(network),
        "gflop": count_flops(network, TILE_PX, 8, training=True) / 1e9,
        "training_cpu_s": spent,
        "evaluation": evaluation,
    }
    return figures, folder


def side_by_side(manifest: Path, folders: Mapping[str, Path], count: int) -> np.ndarray:
    """Return masks, real tiles and the tiles of each network, one row each, uint8 RGB."""
    masks = masks_of_tiles(open_tiles(manifest), "test")
    # Tiles from all over the held-out slides.
    chosen = np.linspace(0, count - 1, NUM_SHOWN).round().astype(int).tolist()
    colours = class_colours(masks.label_map)
    assert masks.read_image is not None
    rows = [
        [colour_mask(masks.read_mask(index), colours) for index in chosen],
        [masks.read_image(index) for index in chosen],
    ]
    for folder in folders.values():
        names = [folder / "images" / f"{masks.ids[index]}.png" for index in chosen]
        rows.append([decode_rgb(path.read_bytes()) for path in names])
    return sheet(rows)


def table(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table: a row a measure, a column a network."""
    evaluations = [figures["evaluation"] for figures in results.values()]
    real = evaluations[0]

    def row(name: str, cells: Iterable[str], floor: str = "-") -> str:
        return f"| {name} | {' | '.join(cells)} | {floor} |"

    yield row("", results, "real against real")
    yield f"|{'---|' * (len(results) + 2)}"
    yield row("parameters", (f"{figures['parameters']:,}" for figures in results.values()))
    cost = (f"{figures['gflop']:.2f}" for figures in results.values())
    yield row("GFLOP of a training image", cost)
    spent = (f"{figures['training_cpu_s']:.0f}" for figures in results.values())
    yield row("CPU s of training", spent)
    for key, name in _MEASURES.items():
        cells = (_cell(evaluation[key]) for evaluation in evaluations)
        yield row(name, cells, _floor(real[key]))
    faithful = [evaluation["faithfulness"] for evaluation in evaluations]
    yield row("faithfulness, shuffled masks", (f"{found['shuffled']:.2f}" for found in faithful))
    ceilings = (f"{found['ceiling']:.2f}" for found in faithful)
    yield row("faithfulness, what the codec allows", ceilings)
    copies = [evaluation["copies"] for evaluation in evaluations]
    yield row("copies found", (str(len(found["found"])) for found in copies))
    planted = (f"{found['planted_found']} of {found['planted']}" for found in copies)
    yield row("planted copies found", planted)
    yield ""
    for name, evaluation in zip(results, evaluations, strict=True):
        yield f"- {name}: {evaluation['verdict']['word'].lower()}."


def _cell(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.3g} ({found['low']:.3g} to {found['high']:.3g})"


def _floor(found: Mapping[str, Any]) -> str:
    if found["floor_low"] is None:
        return "-"
    return f"{found['floor_low']:.3g} to {found['floor_high']:.3g}"


def main() -> None:
    """Train, measure, draw, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codec", required=True, help="folder of a codec with a factor of 8")
    parser.add_argument("--folder", type=Path, required=True, help="of tiles, latents and runs")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--figure", type=Path, help="JPEG of the same masks from all networks")
    parser.add_argument("--write", type=Path, help="write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    manifest = make_tiles(options.folder, NUM_TILES, seed=13, split="0.5/0.125/0.375")
    latents = encode(manifest, options.codec, options.folder / "latents")
    results, folders = {}, {}
    for number, name in enumerate(NETWORKS):
        run = options.folder / f"run-{number}"
        config = configure(name, manifest, latents, run, options.steps)
        results[name], folders[name] = measure(
            run, config, codec=options.codec, count=options.images
        )
        print(name, results[name]["evaluation"]["verdict"], file=sys.stderr, flush=True)
    (options.folder / "results.json").write_text(json.dumps(results, indent=1))
    if options.figure:
        shown = side_by_side(manifest, folders, options.images)
        write_bytes(options.figure, encode_rgb_jpeg(shown, 88))
    train = int((open_tiles(manifest).split == "train").sum())
    lines = [
        f"{train} training tiles; {options.steps:,} steps of {BATCH} windows of {TILE_PX} px, one"
        f" seed; {options.images} tiles for held-out masks from each network,"
        f" guidance {GUIDANCE_SCALE:g}.",
        "",
        *table(results),
    ]
    print_page("Denoisers side by side", COMMAND, __doc__, lines, options.write)


if __name__ == "__main__":
    main()
