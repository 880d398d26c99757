"""Runs in Python: an image for a mask and a class for an image, the same as from the commands."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import trainer
from histoprep import imageio
from histoprep.errors import UsageError
from trainer.cli import run
from trainer.errors import CheckpointError, ConfigError
from trainer.models.denoisers.reference_unet import Config, ReferenceUNet

SIDE_PX = 64


def test_the_trainer_is_cheap_to_import() -> None:
    code = "import sys, trainer; trainer.__version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert inspect.isfunction(trainer.load_run)
    with pytest.raises(AttributeError):
        _ = trainer.nothing


@pytest.fixture(name="model_run", scope="module")
def _model_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder with random weights, imported as published ones are."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    place = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(place / "codec")
    weights = ReferenceUNet(Config(dim=8, dim_mults=(1, 2)), 4).state_dict()
    torch.save(weights, place / "published.pt")
    command = ["import", str(place / "published.pt"), "--codec", str(place / "codec"), "--quiet"]
    assert run([*command, "--out", str(place / "run")]) == 0
    return place / "run"


@pytest.fixture(name="mask", scope="module")
def _mask() -> np.ndarray:
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    mask[10:50, 20:40], mask[:, 50:] = 1, 2
    return mask


def test_an_image_is_that_of_the_command(model_run: Path, mask: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "one-tile.png").write_bytes(imageio.encode_mask_png(mask))
    out = tmp_path / "out"
    command = ["sample", "--checkpoint", str(model_run), "--device", "cpu", "--quiet"]
    masks = ["--masks", str(tmp_path / "masks"), "--out", str(out)]
    assert run([*command, *masks, "--steps", "2", "--seed", "5"]) == 0
    [made] = list((out / "images").rglob("*.png"))
    model = trainer.load_run(model_run, device="cpu")
    assert isinstance(model, trainer.ImageModel)
    image = model.sample(mask, seed=5, steps=2, tile_id=made.stem)
    assert np.array_equal(image, imageio.decode_rgb(made.read_bytes()))
    same = {"seed": 5, "steps": 2, "tile_id": made.stem}
    assert np.array_equal(image, model.sample(mask.astype(np.int64), **same))
    for other in ({"seed": 6}, {"tile_id": "other"}, {"guidance_scale": 0.0}):
        assert not np.array_equal(image, model.sample(mask, **{**same, **other}))
    assert repr(model).startswith(f"<ImageModel: {model.label_map.num_classes} classes of ")
    assert "<table>" in model._repr_html_()


def test_masks_that_do_not_fit_are_errors(model_run: Path, mask: np.ndarray) -> None:
    model = trainer.load_run(model_run, device="cpu")
    assert isinstance(model, trainer.ImageModel)
    most = model.label_map.num_classes
    wrong = {
        "classes": np.full_like(mask, 200),
        "sides": mask[:, :-1],
        "mask": mask[None],
        "this is no mask": mask.astype(np.float32),
        "does not know": np.full(mask.shape, -1),
    }
    for words, each in wrong.items():
        with pytest.raises(UsageError, match=words):
            model.sample(each)
    with pytest.raises(UsageError, match="finite"):
        model.sample(mask, guidance_scale=float("nan"))
    with pytest.raises(UsageError, match="solver"):
        model.sample(mask, steps=0)
    assert most > 2


def test_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((UsageError, ConfigError, CheckpointError)):
        trainer.load_run(tmp_path)
