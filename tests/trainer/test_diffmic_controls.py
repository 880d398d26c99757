"""Controls of the classifier: turned images, labels dealt out at random, a warning at chance, and
one-vs-one AUC in validation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured_blobs import make_blobs
from PIL import Image
from sklearn.metrics import roc_auc_score

from trainer.config_layers import load_config
from trainer.engine.fit import fit
from trainer.recipes.diffmic_config import Config
from trainer.recipes.diffmic_data import rotate_image, training_dataset
from trainer.recipes.diffmic_guidance import recall_by_guessing, validation_scores
from trainer.recipes.diffmic_labels import labelled_tiles
from trainer.reporter import Reporter


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_blobs(tmp_path_factory.mktemp("blobs") / "tiles", 151, 31)


def _config(manifest: Path, out: Path, *sets: str) -> Config:
    config = load_config(
        preset="diffmic-tiny", manifest=str(manifest), out=str(out), sets=["accelerator=cpu", *sets]
    )
    assert isinstance(config, Config)
    return config


def test_an_image_is_turned_as_another_library_turns_it() -> None:
    rng = np.random.default_rng(0)
    smooth = np.asarray(
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).resize((64, 64), Image.BICUBIC)
    )
    image = np.repeat((smooth / 127.5 - 1).astype(np.float32)[None], 3, axis=0)
    turned = (rotate_image(image, 25.0)[0] + 1) * 127.5
    expected = np.asarray(Image.fromarray(smooth).rotate(25.0, Image.BILINEAR), dtype=float)
    # Both are bilinear; Pillow rounds to whole grey levels.
    inside = np.hypot(*(np.mgrid[0:64, 0:64] - 31.5)) < 28
    assert np.abs(turned - expected)[inside].max() < 3
    assert turned[0, 0] == pytest.approx(0, abs=1e-3)
    assert np.array_equal(rotate_image(image, 0.0), image)


def test_training_images_are_turned_by_their_position_alone(blobs: Path, tmp_path: Path) -> None:
    plain, turned = (
        training_dataset(config, labelled_tiles(config), for_diffusion=False)
        for config in (
            _config(blobs, tmp_path),
            _config(blobs, tmp_path, "data.rotation_degrees=30"),
        )
    )
    first, second = plain.batch(np.arange(6)), turned.batch(np.arange(6))
    assert torch.equal(first["label"], second["label"])
    assert all(not torch.equal(a, b) for a, b in zip(first["image"], second["image"], strict=True))
    assert torch.equal(second["image"][[4]], turned.batch(np.array([4]))["image"])
    middle = (slice(None), slice(28, 36), slice(28, 36))
    colours = [batch["image"][(slice(None), *middle)].mean((2, 3)) for batch in (first, second)]
    assert torch.allclose(*colours, atol=0.15)


def test_shuffled_labels_change_training_alone(blobs: Path, tmp_path: Path) -> None:
    data = labelled_tiles(_config(blobs, tmp_path))
    control = labelled_tiles(_config(blobs, tmp_path, "shuffle_labels=true"))
    for split in ("val", "test"):
        rows = data.rows[split]
        assert np.array_equal(data.labels[rows], control.labels[rows])
    rows = data.rows["train"]
    assert np.array_equal(np.bincount(data.labels[rows]), np.bincount(control.labels[rows]))
    agreement = (data.labels[rows] == control.labels[rows]).mean()
    assert agreement == pytest.approx(1 / 3, abs=0.15)
    assert any("shuffle_labels" in warning for warning in control.warnings)


@pytest.mark.parametrize(("is_control", "steps"), [(True, "4"), (False, "10")])
@pytest.mark.slow
def test_a_run_at_chance_warns_and_one_that_learns_does_not(
    blobs: Path, tmp_path: Path, is_control: bool, steps: str
) -> None:
    warned: list[str] = []
    config = _config(
        blobs,
        tmp_path / "run",
        f"shuffle_labels={str(is_control).lower()}",
        "guidance.duration={epochs: 4}",
        "duration={epochs: 3}",
        f"every.validate={steps}",
    )
    fit(config, reporter=Reporter(lambda _: None, warned.append))
    at_chance = [line for line in warned if "stays at chance" in line]
    assert bool(at_chance) == is_control, warned


def test_guessing_rarely_reaches_the_limit() -> None:
    """A simulation: guesses that know the shares of the classes, nothing else."""
    counts = {"a": 40, "b": 25, "c": 60}
    limit = recall_by_guessing(counts)
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(3), list(counts.values()))
    above = 0
    for _ in range(2000):
        guesses = rng.integers(0, 3, len(truth))
        recall = np.mean([(guesses[truth == cls] == cls).mean() for cls in range(3)])
        above += recall > limit
    assert 0.01 < above / 2000 < 0.045


def test_validation_has_the_auc_of_pairs_of_classes() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 4, 200)
    scores = rng.dirichlet(np.ones(4), 200) + 0.4 * np.eye(4)[truth]
    scores /= scores.sum(axis=1, keepdims=True)
    found: Any = validation_scores(truth, scores)
    assert found["auc_ovo"] == pytest.approx(roc_auc_score(truth, scores, multi_class="ovo"))
    assert found["auc"] == pytest.approx(roc_auc_score(truth, scores, multi_class="ovr"))


def test_the_preset_of_the_workflow_has_its_numbers() -> None:
    config = load_config(preset="diffmic-workflow", manifest="m", out="o")
    assert isinstance(config, Config)
    assert (config.batch_size, config.duration.epochs) == (8, 50)
    assert config.diffusion.num_inference_steps == 100
    assert (config.every.validate_, config.every.checkpoint) == ("5 epochs", "1 epoch")
    assert config.data.rotation_degrees == 30
