"""What a codec can keep: measured by `encode`, heeded by `fit`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import save_kl

from histoprep.cli import run as histoprep
from histoprep.demo import GROUP_PATTERN, make_clean_demo
from trainer.cli import run as trainer
from trainer.evaluation.ceiling import measure_ceiling, reconstruct, unfinished_codec
from trainer.evaluation.sides import real_side
from trainer.models.codec import Codec
from trainer.models.patch_codec import PatchAutoencoder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 tiles of 128 px, half of the slides held out."""
    folder = tmp_path_factory.mktemp("ceiling") / "real"
    make_clean_demo(folder, num_tiles=48, tile_px=128, seed=3)
    command = ["--quiet", "manifest", str(folder), "--map", "label_map_5.yml"]
    more = ["--group-by", GROUP_PATTERN, "--split", "0.5/0.25/0.25"]
    assert histoprep([*command, *more]) == 0
    return folder.with_name("real.histoprep") / "manifest.parquet"


def patch_codec(manifest: Path, channels: int) -> Codec:
    """Return the best linear codec of the real tiles."""
    side = real_side(str(manifest))
    images = np.stack([side.read(row).image for row in range(16)])
    network = PatchAutoencoder(8, channels, 16, 1)
    network.start_from(torch.from_numpy(images.transpose(0, 3, 1, 2) / 127.5 - 1).float())
    return Codec(network, f"patches of {channels} channels")


@pytest.mark.slow
def test_more_channels_keep_more(manifest: Path) -> None:
    side = real_side(str(manifest))
    found = [
        measure_ceiling(side, patch_codec(manifest, channels), num_tiles=24) for channels in (1, 24)
    ]
    weak, strong = found
    assert weak.psnr_db < 26 < strong.psnr_db and weak.ssim < strong.ssim
    assert weak.faithfulness and strong.faithfulness and weak.kid and strong.kid
    assert weak.faithfulness.value < 0.8 < strong.faithfulness.value
    assert weak.kid.value > strong.kid.value and weak.kid.value > weak.kid.floor_high
    assert weak.lost and not strong.lost
    assert all(name in weak.verdict for name in weak.lost) and "too weak" in weak.verdict
    assert "keeps classes apart" in strong.verdict


def test_all_components_give_the_tile_back(manifest: Path) -> None:
    image = real_side(str(manifest)).read(0).image
    codec = patch_codec(manifest, 192)
    decoded = reconstruct(codec, image[:125, :90], torch.device("cpu"))
    assert decoded.shape == (120, 88, 3)
    assert np.abs(decoded.astype(int) - image[:120, :88]).max() <= 1


@pytest.mark.slow
def test_encode_keeps_the_ceiling_and_fit_heeds_it(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    codec = save_kl(tmp_path / "codec")
    latents = tmp_path / "latents"
    encode = ["encode", "--manifest", str(manifest), "--codec", str(codec), "--out", str(latents)]
    sizes = ["--image-size", "64", "--fit", "tile", "--views", "2", "--report", "16"]
    assert trainer([*encode, *sizes]) == 0
    assert "too weak" in capfd.readouterr().err
    ceiling = json.loads((latents / "ceiling.json").read_text())
    assert ceiling["lost"] and ceiling["psnr_db"] < 20
    stamp = (latents / "ceiling.json").stat().st_mtime_ns
    assert trainer([*encode, *sizes]) == 0
    assert (latents / "ceiling.json").stat().st_mtime_ns == stamp
    assert trainer(["verify", str(latents)]) == 0
    capfd.readouterr()
    fit = ["fit", "--preset", "ldm-tiny", "--manifest", str(manifest), "--codec", str(codec)]
    short = ["--latents", str(latents), "--set", "duration.steps=1", "--set", "batch_size=2"]
    out = ["--out", str(tmp_path / "run")]
    assert trainer([*fit, *short, *out]) == 2
    assert "cannot keep the classes apart" in capfd.readouterr().err
    assert not (tmp_path / "run" / "config.yml").exists()
    assert trainer([*fit, *short, *out, "--force"]) == 0


@pytest.mark.slow
def test_fit_measures_where_it_encodes_itself(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    codec = tmp_path / "codec"
    short = ["--set", "duration.steps=2", "--set", "batch_size=2"]
    command = ["fit", "--preset", "codec-tiny", "--manifest", str(manifest), "--out", str(codec)]
    assert trainer([*command, *short]) == 0
    capfd.readouterr()
    fit = ["fit", "--preset", "ldm-tiny", "--manifest", str(manifest), "--codec", str(codec)]
    assert trainer([*fit, *short, "--out", str(tmp_path / "run")]) == 0
    printed = capfd.readouterr()
    assert "keeps classes apart" in printed.out
    # A run that was begun goes on without measuring again.
    assert trainer([*fit, *short, "--out", str(tmp_path / "run")]) == 0
    assert "keeps classes apart" not in capfd.readouterr().out


def test_a_codec_whose_training_was_stopped_is_named(tmp_path: Path) -> None:
    run = tmp_path / "codec"
    run.mkdir()
    assert unfinished_codec(str(run)) is None
    (run / "config.yml").write_text("recipe: codec\n")
    assert "unfinished" in str(unfinished_codec(str(run)))
    (run / "finished.json").write_text("{}")
    assert unfinished_codec(str(run)) is None
