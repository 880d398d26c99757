"""Does the diffusion stage help on real tiles? EBHI-Seg (six classes of colorectal biopsies), split
by case, on a CPU.

    python -m benchmarks.diffmic_learning DATA --work DIR [--seeds 3] [--out
    benchmarks/diffmic-results.md]

DATA is the folder ebhi_seg with its index.csv. Compared on the same test tiles: the majority class,
a linear probe on EfficientNet-Lite0 features (ImageNet), the guidance classifier alone and the
diffusion. Runs in DIR go on where they stopped. Intervals are bootstraps by case.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow.parquet as pq
import torch
import xxhash
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.measuring import machine
from histoprep.cli import run as histoprep
from histoprep.shards import Tile
from trainer.classification.evaluate import TestOptions, evaluate_run
from trainer.config_layers import load_config
from trainer.data.loader import loader
from trainer.engine.fit import fit
from trainer.metrics.classification import confusion_matrix, count_scores
from trainer.metrics.intervals import Interval, difference_intervals, score_intervals
from trainer.models.trunks import FrozenTrunk, build_trunk, load_trunk_weights, normalise_images
from trainer.recipes.diffmic_config import Config
from trainer.recipes.diffmic_data import OrderedTiles, SquareTiles
from trainer.recipes.diffmic_labels import LabelledTiles, labelled_tiles

IMAGE_PX = 224
SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "kappa")
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
GUIDANCE_EPOCHS, DIFFUSION_EPOCHS = 20, 20
SETTINGS = (
    "accelerator=cpu",
    "batch_size=32",
    "ema=null",
    "schedule.warmup_steps=20",
    "optimiser.lr=1e-3",
    "every.validate=70",
    "every.checkpoint=280",
    "data={image_size: 224, flips: false, turns: false, num_workers: 0}",
    "guidance.trunk=efficientnet_lite0",
    "guidance.weights=packaged",
    "guidance.freeze=true",
    "guidance.lr=1e-3",
    f"guidance.duration={{epochs: {GUIDANCE_EPOCHS}}}",
    f"duration={{epochs: {DIFFUSION_EPOCHS}}}",
    "denoiser.freeze=true",
    "denoiser.image_trunk=efficientnet_lite0",
    "denoiser.image_weights=packaged",
    "denoiser.region_trunk=efficientnet_lite0",
    "denoiser.region_weights=packaged",
    "denoiser.feature_dim=256",
)


def make_manifest(data: Path, work: Path) -> Path:
    """Return the manifest of the tiles: classes and cases from index.csv, 60 % train, 15 %
    validation, 25 % test by case.
    """
    path, space = work / "manifest.parquet", ["--workspace", str(work / "workspace")]
    if not path.is_file():
        table = [
            "--csv",
            str(data / "index.csv"),
            "--group-by",
            "csv:case_id",
            "--label-by",
            "csv:class",
        ]
        folders = ["--layout", "folders", "--images", "images", "--masks", "labels"]
        histoprep(["--quiet", "audit", str(data), *space, *folders, *table])
        histoprep(
            [
                "--quiet",
                "manifest",
                str(data),
                *space,
                "--split",
                "0.6/0.15/0.25",
                "--out",
                str(path),
            ]
        )
    return path


def run_config(manifest: Path, out: Path, seed: int, prediction_type: str) -> Config:
    """Return diffmic-224 made small enough for a CPU."""
    sets = [*SETTINGS, f"seed={seed}", f"diffusion.prediction_type={prediction_type}"]
    config = load_config(preset="diffmic-224", manifest=str(manifest), out=str(out), sets=sets)
    assert isinstance(config, Config)
    return config


def remember_features() -> None:
    """Keep decoded tiles, and what frozen trunks make of each image and crop: the same pixels give
    the same features, only sooner.

    All trunks of this benchmark have the same weights, so they share what is kept.
    """
    read, look = SquareTiles.read, FrozenTrunk.forward
    tiles: dict[int, Tile] = {}
    kept: dict[int, torch.Tensor] = {}

    def read_once(self: SquareTiles, row: int) -> Tile:
        if row not in tiles:
            tiles[row] = read(self, row)
        return tiles[row]

    def look_once(self: FrozenTrunk, images: torch.Tensor) -> torch.Tensor:
        keys = [xxhash.xxh3_64_intdigest(image.numpy().tobytes()) for image in images]
        new = {key: index for index, key in enumerate(keys) if key not in kept}
        if new:
            kept.update(zip(new, look(self, images[list(new.values())]), strict=True))
        return torch.stack([kept[key] for key in keys])

    SquareTiles.read, FrozenTrunk.forward = read_once, look_once  # type: ignore[method-assign]


def probe(data: LabelledTiles, side_px: int) -> np.ndarray:
    """Return test predictions of a logistic regression on pooled ImageNet features of train; its
    strength is chosen on validation.
    """
    trunk = build_trunk("efficientnet_lite0", frozen=True)
    load_trunk_weights(trunk, "packaged")
    features = {}
    for split, rows in data.rows.items():
        tiles = OrderedTiles(SquareTiles(data.tiles, side_px), data.labels, rows)
        with torch.no_grad():
            batches = loader(tiles, range(len(rows)), 16)
            features[split] = torch.cat(
                [trunk(normalise_images(batch["image"])).mean(dim=(-2, -1)) for batch in batches]
            ).numpy()
    truth = {split: data.labels[rows] for split, rows in data.rows.items()}
    fitted = []
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(
            features["train"], truth["train"]
        )
        counts = confusion_matrix(truth["val"], model.predict(features["val"]), len(data.names))
        fitted.append((float(count_scores(counts)["macro_f1"]), model))
    return np.asarray(max(fitted, key=lambda item: item[0])[1].predict(features["test"]))


def fit_and_test(
    config: Config, names: tuple[str, ...], shared_guidance: Path | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return test predictions of the diffusion and of the guidance classifier alone, and the CPU
    seconds; finished work is not repeated.
    """
    run, before = Path(config.out), time.process_time()
    if shared_guidance is not None and not (run / "guidance").exists():
        run.mkdir(parents=True, exist_ok=True)
        (run / "guidance").symlink_to(shared_guidance.absolute())
    fit(config)
    if not (run / "test" / "predictions.parquet").is_file():
        evaluate_run(run, options=TestOptions(num_sheets=6))
    table = pq.read_table(
        run / "test" / "predictions.parquet", columns=["predicted", "predicted_by_guidance"]
    ).to_pydict()
    return (
        *(
            np.array([names.index(item) for item in table[key]])
            for key in ("predicted", "predicted_by_guidance")
        ),
        time.process_time() - before,
    )


def line(name: str, found: dict[str, Interval]) -> str:
    """Return one row of the table."""
    return f"| {name} | " + " | ".join(str(found[key]) for key in SHOWN) + " |"


def verdict(found: Interval) -> str:
    """Return one plain sentence about the difference in macro F1."""
    shown = (
        f"macro F1 {found.value:+.3f} (95 % interval {found.low:+.3f} to {found.high:+.3f}), all"
        " seeds pooled, drawn by case"
    )
    if found.low > 0:
        return f"**The diffusion stage helps**: {shown}."
    return (
        f"**The diffusion stage does harm**: {shown}."
        if found.high < 0
        else f"**The diffusion stage does not help measurably**: {shown}."
    )


def report(data: LabelledTiles, seeds: int, manifest: Path, work: Path) -> list[str]:
    """Train, test and return the lines of the results."""
    rows = data.rows["test"]
    truth, groups, size = data.labels[rows], data.groups(rows), len(data.names)
    majority = np.full(len(rows), np.bincount(data.labels[data.rows["train"]]).argmax())
    lines = [line("majority class", score_intervals(truth, majority, size, groups))]
    lines.append(line("linear probe", score_intervals(truth, probe(data, IMAGE_PX), size, groups)))
    notes = []
    for kind, count in (("epsilon", seeds), ("sample", 1)):
        ours, alone, seconds = [], [], 0.0
        for seed in range(count):
            shared = work / f"epsilon-{seed}" / "guidance" if kind == "sample" else None
            first, second, spent = fit_and_test(
                run_config(manifest, work / f"{kind}-{seed}", seed, kind), data.names, shared
            )
            ours.append(first)
            alone.append(second)
            seconds += spent
            if kind == "epsilon":
                lines.append(
                    line(
                        f"guidance alone, seed {seed}", score_intervals(truth, second, size, groups)
                    )
                )
            lines.append(
                line(
                    f"diffusion ({kind} prediction), seed {seed}",
                    score_intervals(truth, first, size, groups),
                )
            )
        several = [np.tile(group, count) for group in (truth, groups)]
        difference = difference_intervals(
            several[0], np.concatenate(ours), np.concatenate(alone), size, several[1]
        )
        notes.append(
            f"{kind} prediction, {count} seed{'s' if count > 1 else ''}:"
            f" {verdict(difference['macro_f1'])} CPU in this call: {seconds:.0f} s."
        )
    return [*lines, "", *(f"- {note}" for note in notes)]


def main() -> int:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "diffmic-results.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    remember_features()
    manifest = make_manifest(given.data.absolute(), given.work.absolute())
    data = labelled_tiles(run_config(manifest, given.work / "none", 0, "sample"))
    cases = {split: len(np.unique(data.groups(rows))) for split, rows in data.rows.items()}
    text = [
        "# The diffusion classifier on EBHI-Seg",
        "",
        (
            f"Made by `python -m benchmarks.diffmic_learning` on {machine()}, torch"
            f" {torch.__version__}, one thread."
        ),
        "",
        "Tiles (cases): "
        + ", ".join(f"{split} {len(rows)} ({cases[split]})" for split, rows in data.rows.items())
        + "; six classes; no case in two splits.",
        (
            f"A small run: {IMAGE_PX} px, frozen EfficientNet-Lite0 trunks with ImageNet weights"
            f" everywhere, not augmented, {GUIDANCE_EPOCHS} epochs of"
        ),
        (
            f"guidance, {DIFFUSION_EPOCHS} of diffusion, 10 steps and 4 samples an image; both"
            " prediction types share their guidance classifiers."
        ),
        (
            "Checkpoints by validation macro F1; the test split was read once a run. Values with 95"
            " % bootstrap intervals, drawn by case."
        ),
        "",
        "| classifier | "
        + " | ".join(name.replace("_", " ").replace("f1", "F1") for name in SHOWN)
        + " |",
        "|---|" + "---|" * len(SHOWN),
        *report(data, given.seeds, manifest, given.work.absolute()),
    ]
    given.out.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
