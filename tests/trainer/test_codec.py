"""The codec adapter: the posterior of diffusers, digests of weights, refusals, no network; and PSNR
and SSIM against other formulas.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from small_codecs import KL, save_dc, save_kl, save_tiny

from histoprep.errors import IntegrityError, UsageError
from trainer.data.transforms import to_float
from trainer.metrics.reconstruction import psnr, ssim
from trainer.models.codec import Codec, TrainableCodec, weights_digest
from trainer.recipes.codecs import load_codec

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 48, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_kl_codec_gives_the_posterior_of_diffusers(tmp_path: Path, images: torch.Tensor) -> None:
    codec = load_codec(save_kl(tmp_path))
    posterior = codec.encode(images)
    theirs = codec.autoencoder.encode(images).latent_dist  # type: ignore[operator]
    assert posterior.std is not None
    assert torch.equal(posterior.mean, theirs.mean) and torch.equal(posterior.std, theirs.std)
    assert posterior.mean.shape == (2, codec.channels, 6, 4) and codec.factor == 8
    assert codec.decode(posterior.mean).shape == images.shape
    # diffusers: z = raw * scaling_factor.
    assert torch.allclose(
        posterior.mean * 0.18215,
        (posterior.mean - codec.shift[:, None, None]) / codec.scale[:, None, None],
    )


def test_a_tiny_codec_has_no_posterior_and_is_not_quantised(
    tmp_path: Path, images: torch.Tensor
) -> None:
    codec = load_codec(save_tiny(tmp_path))
    mean, std = codec.encode(images)
    assert std is None and mean.shape == (2, 3, 6, 4)
    assert torch.equal(mean, codec.autoencoder.encoder(images))  # type: ignore[operator]
    assert torch.equal(codec.decode(mean), codec.autoencoder.decoder(mean).clamp(-1, 1))  # type: ignore[operator]
    assert codec.shift.tolist() == [0.0] * 3 and codec.scale.tolist() == [1.0] * 3


def test_a_dc_codec_gives_the_latents_of_diffusers(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codec = load_codec(save_dc(tmp_path))
    mean, std = codec.encode(images)
    assert std is None and mean.shape == (2, 32, 4, 2)
    assert (codec.factor, codec.channels, codec.halo) == (16, 32, None)
    assert torch.equal(mean, codec.autoencoder.encode(images).latent)  # type: ignore[operator]
    decoded = codec.autoencoder.decode(mean).sample  # type: ignore[operator]
    assert torch.equal(codec.decode(mean), decoded.clamp(-1, 1))
    # diffusers: z = raw * scaling_factor.
    assert codec.scale.tolist() == [2.5] * 32 and codec.shift.tolist() == [0.0] * 32


@pytest.mark.parametrize("channels", [16, 32])
def test_channels_and_factor_are_those_of_the_latents(tmp_path: Path, channels: int) -> None:
    codec = load_codec(save_kl(tmp_path, latent_channels=channels, shift_factor=0.1))
    assert (codec.channels, codec.factor) == (channels, 8)
    assert codec.shift.shape == (channels,)
    assert codec.encode(torch.zeros(1, 3, 16, 16)).mean.shape == (1, channels, 2, 2)


def test_other_autoencoders_with_a_posterior_are_codecs(tmp_path: Path) -> None:
    from diffusers import AsymmetricAutoencoderKL

    torch.manual_seed(0)
    AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        down_block_out_channels=(8, 8),
        up_block_types=("UpDecoderBlock2D",) * 2,
        up_block_out_channels=(8, 16),
        norm_num_groups=4,
    ).save_pretrained(tmp_path)
    codec = load_codec(tmp_path)
    images = torch.rand(1, 3, 16, 16)
    found, theirs = codec.encode(images), codec.autoencoder.encode(images).latent_dist  # type: ignore[operator]
    assert torch.allclose(found.mean, theirs.mean) and found.std is not None
    assert torch.allclose(found.std, theirs.std)
    assert codec.factor == 2 and codec.decode(found.mean).shape == images.shape


def test_an_autoencoder_of_something_else_is_refused(tmp_path: Path) -> None:
    from diffusers import AutoencoderKLTemporalDecoder

    torch.manual_seed(0)
    AutoencoderKLTemporalDecoder(block_out_channels=(32,)).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="does not turn images"):
        load_codec(tmp_path)


def test_shift_and_statistics_of_the_configuration_become_the_scaling(tmp_path: Path) -> None:
    codec = load_codec(save_kl(tmp_path, scaling_factor=0.5, shift_factor=0.25))
    assert codec.shift.tolist() == [0.25] * 4 and codec.scale.tolist() == [2.0] * 4


def test_a_codec_is_frozen_and_stays_in_evaluation_mode(
    tmp_path: Path, images: torch.Tensor
) -> None:
    codec = load_codec(save_kl(tmp_path))
    assert not codec.train().training and not codec.autoencoder.training
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    assert not codec.encode(images).mean.requires_grad


def test_the_digest_is_that_of_the_weights(tmp_path: Path) -> None:
    item, same, other = (
        load_codec(save_kl(tmp_path / name, seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert item.digest == same.digest != other.digest
    assert item.identifier.endswith("/a") and same.identifier.endswith("/b")
    changed = load_codec(tmp_path / "a")
    next(changed.autoencoder.parameters()).data[0, 0, 0, 0] += 1e-3
    assert weights_digest(changed.autoencoder) != item.digest


def test_old_state_dicts_are_read_without_pickle(tmp_path: Path) -> None:
    codec = load_codec(save_kl(tmp_path))
    torch.save(codec.autoencoder.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / WEIGHTS).unlink()
    assert load_codec(tmp_path).digest == codec.digest


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_in_the_place_of_weights_is_not_run(tmp_path: Path) -> None:
    save_kl(tmp_path / "codec")
    (tmp_path / "codec" / WEIGHTS).unlink()
    torch.save(
        {"weights": Bomb(tmp_path / "mark")}, tmp_path / "codec" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(IntegrityError, match="cannot load the codec"):
        load_codec(tmp_path / "codec")
    assert not (tmp_path / "mark").exists()


def _damage(folder: Path, how: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    if how == "cut":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    elif how == "gone":
        (folder / WEIGHTS).unlink()
    elif how == "missing":
        save_file(
            {name: value for name, value in weights.items() if name != "quant_conv.weight"},
            folder / WEIGHTS,
        )
    elif how == "nan":
        save_file({name: value * torch.nan for name, value in weights.items()}, folder / WEIGHTS)
    elif how == "config":
        (folder / "config.json").write_text("{")
    elif how == "list":
        (folder / "config.json").write_text("[]")


@pytest.mark.parametrize("how", ["cut", "gone", "missing", "nan", "config", "list"])
def test_damaged_codecs_are_refused(tmp_path: Path, how: str) -> None:
    _damage(save_kl(tmp_path), how)
    with pytest.raises(IntegrityError) as caught:
        load_codec(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_what_is_no_codec_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no codec here"):
        load_codec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(UsageError, match="kind of codec is not supported") as caught:
        load_codec(tmp_path)
    assert "UNet2DModel" in str(caught.value)
    # A mistyped folder must not become a question to the hub.
    with pytest.raises(UsageError, match="there is no codec here") as caught:
        load_codec("someone/autoencoder")
    assert "hub:someone/autoencoder" in str(caught.value)


def test_loading_a_folder_asks_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_codec(save_kl(tmp_path))
    from huggingface_hub import constants

    assert constants.HF_HUB_DISABLE_TELEMETRY


def test_a_hub_name_is_asked_for_and_may_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="cannot get the codec from the hub") as caught:
        load_codec("hub:nobody/autoencoder")
    assert "hub:nobody/autoencoder" in str(caught.value)
    with pytest.raises(UsageError, match="not the name of a model"):
        load_codec("hub:autoencoder")


def test_sizes_that_the_encoder_would_cut_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot take images of this size"):
        load_codec(save_kl(tmp_path)).encode(torch.zeros(1, 3, 60, 64))


def test_the_trainable_codec_decodes_a_draw_from_its_posterior(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    module = TrainableCodec(**KL)
    noise = torch.randn(2, 4, 6, 4)
    reconstruction, mean, std = module(images, noise)
    assert torch.equal(reconstruction, module.autoencoder.decode(mean + std * noise).sample)
    reconstruction.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "channels", "least_db"), [("taesd", 4, 18.0), ("taesd3", 16, 23.0)]
)
def test_real_tiny_codecs_on_real_tissue(
    shared_data: Path, name: str, channels: int, least_db: float
) -> None:
    from histoprep.imageio import decode_rgb

    codec = load_codec(shared_data / "taesd_diffusers" / name)
    assert codec.channels == channels and codec.factor == 8
    tile = sorted((shared_data / "diffinfinite" / "inpainting").glob("*.jpg"))[0]
    image = torch.from_numpy(to_float(decode_rgb(tile.read_bytes())))[None, :, 128:256, 128:256]
    quality = float(psnr(image, codec.decode(codec.encode(image).mean)))
    assert least_db < quality < 40
    # The same image in [0, 1] comes back far worse: the range matters.
    wrong = codec.decode(codec.encode(image / 2 + 0.5).mean)
    assert float(psnr(image, wrong)) < quality - 3


def test_psnr_is_that_of_eight_bit_images() -> None:
    random = np.random.default_rng(0)
    item, other = random.integers(0, 256, (2, 3, 20, 24, 3), dtype=np.uint8)
    expected = [
        10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))
        for a, b in zip(item, other, strict=True)
    ]
    found = psnr(*(torch.from_numpy(to_float(each)) for each in (item, other)))
    assert np.allclose(found.numpy(), expected, atol=1e-4)
    assert torch.isinf(psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))).all()


def _ssim_by_scipy(item: np.ndarray, other: np.ndarray) -> float:
    """Return SSIM of planes in [0, 255] with scipy's Gaussian filter, inside the image."""

    def blur(plane: np.ndarray) -> np.ndarray:
        return gaussian_filter(plane, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

    values = []
    for x, y in zip(item, other, strict=True):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


def test_ssim_agrees_with_another_filter() -> None:
    random = np.random.default_rng(1)
    item = gaussian_filter(random.random((2, 3, 30, 40)), (0, 0, 2, 2)) * 255
    other = np.clip(item + random.normal(0, 5, item.shape), 0, 255)
    expected = [_ssim_by_scipy(a, b) for a, b in zip(item, other, strict=True)]
    found = ssim(*(torch.from_numpy(each / 127.5 - 1) for each in (item, other)))
    assert np.allclose(found.numpy(), expected, atol=1e-5)
    assert torch.allclose(ssim(torch.from_numpy(item), torch.from_numpy(item)), torch.ones(2))
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))


def test_a_codec_of_a_run_is_its_averaged_best(codec_run: Path) -> None:
    from safetensors.torch import load_file

    codec = load_codec(codec_run)
    best = sorted((codec_run / "checkpoints").glob("best-*"))[-1]
    weights = load_file(best / "ema.safetensors")
    assert isinstance(codec, Codec)
    for name, value in codec.autoencoder.state_dict().items():
        assert torch.equal(value, weights[f"autoencoder.{name}"])
    assert load_codec(best).digest == codec.digest


@pytest.fixture(scope="module")
def codec_run(demo_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from trainer.config_layers import load_config
    from trainer.engine.fit import fit

    out = tmp_path_factory.mktemp("codec") / "run"
    sets = [
        "architecture.block_out_channels=[8,8,16,16]",
        "data.image_size=32",
        "duration.steps=24",
        "batch_size=4",
        "ema.decay=0.8",
    ]
    sets += [
        "every.validate=12",
        "every.checkpoint=12",
        "every.images=24",
        "every.log=6",
        "validation.num_tiles=4",
        "accelerator=cpu",
    ]
    fit(load_config(preset="codec-tiny", manifest=demo_manifest, out=out, sets=sets))
    return out


def test_training_a_codec_lowers_the_error_and_leaves_sheets(codec_run: Path) -> None:
    import pandas as pd

    rows = pd.read_csv(codec_run / "metrics.csv")
    columns = [name for name in rows.columns if name.endswith("pixel")]
    assert columns, list(rows.columns)
    values = (
        rows[next(name for name in columns if rows[name].notna().sum() > 1)].dropna().to_numpy()
    )
    assert values[-1] < values[0]
    assert list((codec_run / "samples").rglob("*.png"))


def test_a_run_of_another_recipe_is_no_codec(tmp_path: Path, codec_run: Path) -> None:
    (tmp_path / "config.yml").write_text((codec_run / "config.yml").read_text())
    with pytest.raises(IntegrityError, match="no checkpoint here"):
        load_codec(tmp_path)


@pytest.mark.parametrize(("split", "warned"), [("0.9/0.1", True), ("0.8/0.1/0.1", False)])
def test_a_codec_measured_on_training_tiles_is_warned_of(
    demo_manifest: Path, tmp_path: Path, split: str, warned: bool
) -> None:
    from histoprep.cli import run
    from trainer.config_layers import load_config
    from trainer.recipes.codec import stages
    from trainer.reporter import Reporter

    manifest, said = tmp_path / "manifest.parquet", []
    root = demo_manifest.parent.with_name("demo")
    assert (
        run(
            [
                "--quiet",
                "manifest",
                str(root),
                "--map",
                "label_map_5.yml",
                "--split",
                split,
                "--out",
                str(manifest),
            ]
        )
        == 0
    )
    [plan] = stages(load_config(preset="codec-tiny", manifest=manifest, out=tmp_path / "run"))
    assert plan.prepare is not None
    plan.prepare(tmp_path / "run", Reporter(warn=said.append))
    assert ["psnr_db is measured on training tiles" in item for item in said] == [True] * warned
