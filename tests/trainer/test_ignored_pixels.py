"""Pixels that a label map ignores, from audit to sampling: in no share, class, weight or loss, and
255 in every mask that is written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from small_codecs import save_kl
from void_masks import blobs, boundary, with_void

from histoprep.cli import run
from histoprep.errors import ExitCode
from histoprep.labels import IGNORED_ID, load_label_map
from histoprep.schemas.manifest import class_matrix, open_manifest
from histoprep.shards import open_tiles
from trainer.config_layers import load_config
from trainer.data.latents import LatentSet
from trainer.engine.fit import fit
from trainer.models.denoisers.masks import without_ignored
from trainer.recipes.diffmic_labels import labelled_tiles
from trainer.recipes.ldm_data import latents_folder
from trainer.recipes.ldm_stage import LdmStage

NUM_TILES, SIDE_PX = 12, 64
TINY = [
    "data.image_size=32", "model.dim=8", "batch_size=4", "duration.steps=3",
    "validation.num_tiles=4", "sampling.num_inference_steps=2", "every.log=1", "every.validate=3",
    "every.checkpoint=3", "every.images=3", "sampling.num_images=2", "encoding.views=1",
    "data.flips=false", "data.turns=false",
]  # fmt: skip


def write_tiles(root: Path, masks: list[np.ndarray]) -> None:
    """Write a data set of noise and these masks, three tiles a case; one mask is ignored whole."""
    rng = np.random.default_rng(5)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index, labels in enumerate(masks):
        name = f"case{index // 3}_t{index:02}.png"
        noise = rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
        Image.fromarray(cv2.blur(noise, (5, 5))).save(root / "images" / name)
        Image.fromarray(labels).save(root / "masks" / name)


def void_masks() -> list[np.ndarray]:
    masks = [with_void(blobs(seed, side_px=SIDE_PX)) for seed in range(NUM_TILES)]
    masks[5][:] = IGNORED_ID
    return masks


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data set, map of `map init`, remapped masks, manifest and shards."""
    home = tmp_path_factory.mktemp("ignored")
    write_tiles(home / "set", void_masks())
    quiet, label_map = ["--quiet"], ["--map", str(home / "mine.yml")]
    root = str(home / "set")
    report = home / "report.json"
    audit = ["audit", root, "--format", "json", "--output", str(report), "--exit-zero"]
    assert run([*quiet, *audit]) == ExitCode.OK
    assert run([*quiet, "map", "init", root, "--out", label_map[1]]) == ExitCode.OK
    assert run([*quiet, "remap", root, *label_map, "--out", str(home / "remapped")]) == ExitCode.OK
    groups = ["--group-by", r"(case\d+)_", "--split", "0.5/0.25/0.25"]
    assert run([*quiet, "manifest", root, *label_map, *groups]) == ExitCode.OK
    assert run([*quiet, "stats", root, *label_map, "--format", "json"]) == ExitCode.OK
    manifest = str(home / "set.histoprep" / "manifest.parquet")
    assert run([*quiet, "shard", manifest, "--out", str(home / "shards")]) == ExitCode.OK
    assert run([*quiet, "verify", str(home / "shards")]) == ExitCode.OK
    return home


def test_the_audit_names_the_value_and_the_command(prepared: Path) -> None:
    found = json.loads((prepared / "report.json").read_text())["findings"]
    [void] = [finding for finding in found if finding["code"] == "HP509"]
    assert "ignore: [255]" in json.dumps(void) and "histoprep map init" in json.dumps(void)
    assert load_label_map(prepared / "mine.yml").ignore == ((255, 255),)


def test_new_masks_hold_255_where_nobody_labelled(prepared: Path) -> None:
    for index, labels in enumerate(void_masks()):
        name = f"case{index // 3}_t{index:02}.png"
        with Image.open(prepared / "remapped" / "masks" / name) as image:
            assert np.array_equal(np.array(image), labels)
    tiles = open_tiles(prepared / "shards")
    assert tiles.manifest.header["ignored_id"] == IGNORED_ID
    for row, tile_id in enumerate(tiles.tile_ids):
        mask = tiles.read(row).mask
        assert mask is not None
        assert np.array_equal(mask, void_masks()[int(str(tile_id)[-2:])])


def test_shares_classes_and_weights_are_those_of_the_labelled_pixels(prepared: Path) -> None:
    masks = void_masks()
    counts = np.stack([[(labels == cls).sum() for cls in range(4)] for labels in masks])
    kernel = np.ones((5, 5), np.uint8)
    # Outside of a tile, erosion takes every label for present.
    core = np.array(
        [
            [bool(cv2.erode((labels == cls).astype(np.uint8), kernel).any()) for cls in range(4)]
            for labels in masks
        ]
    )
    table = open_manifest(prepared / "set.histoprep" / "manifest.parquet").read()
    order = [int(tile_id[-2:]) for tile_id in table["tile_id"].to_pylist()]
    assert sorted(order) == list(range(NUM_TILES))
    assert np.array_equal(class_matrix(table["class_pixels"]), counts[order])
    assert table["classes"].to_pylist() == [np.flatnonzero(core[index]).tolist() for index in order]
    assert table["pool"].to_pylist() == [
        "conditional" if counts[index, 1:].any() else "unconditional" for index in order
    ]
    stats = json.loads((prepared / "set.histoprep" / "stats.json").read_text())
    pixels = counts.sum(axis=0)
    for summary in (stats["mapped"], stats["raw"]):
        rows = summary["classes"]
        assert [row["class_id"] for row in rows] == [0, 1, 2, 3]
        assert [row["pixels"] for row in rows] == pixels.tolist()
        shares = 100 * pixels / pixels.sum()
        np.testing.assert_allclose([row["pixel_percent"] for row in rows], shares)
        inverse = 1 / pixels
        local = pixels / [counts[counts[:, cls] > 0].sum() for cls in range(4)]
        present = (counts > 0).sum(axis=0)
        effective = 1 / -np.expm1(present * np.log(0.9999))
        for name, weights in (
            ("inverse", inverse), ("median", 1 / local), ("effective", effective),
        ):  # fmt: skip
            np.testing.assert_allclose(
                [row[f"weight_{name}"] for row in rows], weights / weights.mean(), rtol=1e-6
            )
    ignored = [(labels == IGNORED_ID).sum() for labels in masks]
    assert stats["ignored"] == {
        "tiles": int(np.count_nonzero(ignored)),
        "pixels": int(sum(ignored)),
    }


def _config(manifest: Path, codec: Path, out: Path) -> Any:
    return load_config(
        preset="ldm-tiny", sets=TINY, manifest=str(manifest), codec=str(codec), out=str(out)
    )


def _stage(config: Any) -> LdmStage:
    return LdmStage(config, open_tiles(config.manifest), LatentSet.open(latents_folder(config)))


def _loss(stage: LdmStage, weights: dict[str, Any], **changes: torch.Tensor) -> torch.Tensor:
    stage.module.load_state_dict(weights)
    batch = stage.dataset().batch(np.arange(24)) | changes
    with torch.no_grad():
        return stage.loss(stage.module.eval(), batch).loss


@pytest.mark.slow
def test_training_sees_ignored_pixels_as_unlabelled(prepared: Path, tmp_path: Path) -> None:
    config = _config(prepared / "shards", save_kl(tmp_path / "codec"), tmp_path / "run")
    assert fit(config).stages[""]["step"] == 3
    latents = LatentSet.open(latents_folder(config))
    assert latents.summary["ignored_id"] == IGNORED_ID
    stage = _stage(config)
    batch = stage.dataset().batch(np.arange(24))
    assert bool((batch["mask"] == IGNORED_ID).any())
    weights = {name: value.clone() for name, value in stage.module.state_dict().items()}
    as_background = without_ignored(batch["mask"], 4)
    assert not bool((as_background == IGNORED_ID).any())
    assert torch.equal(_loss(stage, weights), _loss(stage, weights, mask=as_background))
    # The condition does matter: another class there gives another loss.
    other = torch.where(batch["mask"] == IGNORED_ID, 1, batch["mask"])
    assert not torch.equal(_loss(stage, weights), _loss(stage, weights, mask=other))
    made = tmp_path / "made"
    sample = ["sample", "--checkpoint", str(tmp_path / "run"), "--masks", str(prepared / "shards")]
    from trainer.cli import run as run_trainer

    options = ["--out", str(made), "--limit", "3", "--steps", "2", "--device", "cpu"]
    assert run_trainer(["--quiet", *sample, *options]) == ExitCode.OK
    assert load_label_map(made / "label_map.yml").ignore == ((255, 255),)
    for path in (made / "masks").rglob("*.png"):
        with Image.open(path) as image:
            assert np.array_equal(np.array(image), void_masks()[int(path.stem[-2:])])
    manifest = open_manifest(made.with_name("made.histoprep") / "manifest.parquet")
    assert manifest.header["ignored_id"] == IGNORED_ID and len(manifest) == 3


@pytest.mark.slow
def test_what_lies_below_ignored_pixels_changes_no_loss(tmp_path: Path) -> None:
    text = "0: 0\n1: 1\n2: 2\n3: 3\nignore: [250-255]\n"
    codec = save_kl(tmp_path / "codec")
    losses, pixels = [], []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        masks = [blobs(index, side_px=SIDE_PX) for index in range(NUM_TILES)]
        for labels in masks:
            unknown = boundary(labels)
            labels[unknown] = rng.integers(250, 256, int(unknown.sum()))
        home = tmp_path / f"set{seed}"
        write_tiles(home / "set", masks)
        (home / "m.yml").write_text(text)
        assert run(["--quiet", "manifest", str(home / "set"), "--map", str(home / "m.yml")]) == 0
        manifest = home / "set.histoprep" / "manifest.parquet"
        pixels.append(pq.read_table(manifest)["class_pixels"].to_pylist())
        config = _config(manifest, codec, home / "run")
        fit(config)
        metrics = (home / "run" / "metrics.csv").read_text().splitlines()
        columns = [name.startswith(("loss", "val_loss")) for name in metrics[0].split(",")]
        losses.append(
            [
                [value for value, keep in zip(line.split(","), columns, strict=True) if keep]
                for line in metrics
            ]
        )
    assert pixels[0] == pixels[1]
    assert len(losses[0]) > 3 and losses[0] == losses[1]


def test_a_classifier_takes_no_class_from_ignored_pixels(prepared: Path, tmp_path: Path) -> None:
    # With few groups, a class may be in one split alone.
    whole = tmp_path / "whole.parquet"
    root, label_map = str(prepared / "set"), str(prepared / "mine.yml")
    arguments = ["--map", label_map, "--split", "0.75/0.25", "--no-groups", "--out", str(whole)]
    assert run(["--quiet", "manifest", root, *arguments]) == ExitCode.OK
    config = load_config(
        preset="diffmic-tiny", sets=["labels=masks"], manifest=str(whole), out=str(tmp_path / "r")
    )
    tiles = open_tiles(whole)
    labelled = labelled_tiles(config)
    masks = void_masks()
    for tile_id, label in zip(tiles.tile_ids, labelled.labels.tolist(), strict=True):
        labels = masks[int(str(tile_id)[-2:])]
        counts = [int((labels == cls).sum()) for cls in (1, 2, 3)]
        expected = f"label {1 + int(np.argmax(counts))}" if any(counts) else None
        assert (labelled.names[label] if label >= 0 else None) == expected


def test_with_256_classes_nothing_is_ignored() -> None:
    mask = torch.tensor([[0, 7, 255]], dtype=torch.uint8)
    assert torch.equal(without_ignored(mask, 256), mask)
    assert without_ignored(mask, 255).tolist() == [[0, 7, 0]]
    assert without_ignored(mask.long(), 8).tolist() == [[0, 7, 0]]
