"""The patch codec: it starts at the best linear codec, and is a codec like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from histoprep.demo.layout import RECIPES, lay_out
from histoprep.demo.tissue import Stain, paint
from histoprep.shards import open_tiles
from trainer.cli import run as trainer
from trainer.config_layers import load_config
from trainer.data.transforms import to_float
from trainer.metrics.reconstruction import psnr
from trainer.models.codec import Codec
from trainer.models.patch_codec import PatchAutoencoder
from trainer.recipes.codec import CodecStage, Config
from trainer.recipes.codecs import load_codec


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Return six tiles of generated tissue, [6, 3, 64, 64]."""
    rng = np.random.default_rng(0)
    stain = Stain.of_slide(rng)
    tiles = [paint(rng, lay_out(rng, 64, recipe), stain) for recipe in RECIPES[:6]]
    return torch.from_numpy(to_float(np.stack(tiles)))


def patches_of(images: torch.Tensor) -> np.ndarray:
    """Return all patches of 8 x 8 pixels, float64 [patches, 192], channel by channel."""
    array = images.double().numpy()
    count, _, height, width = array.shape
    cut = array.reshape(count, 3, height // 8, 8, width // 8, 8)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 192)


@pytest.mark.parametrize("channels", [1, 4, 8])
def test_it_starts_at_the_reconstruction_of_scikit_learn(
    images: torch.Tensor, channels: int
) -> None:
    network = PatchAutoencoder(8, channels, 16, 2)
    network.start_from(images)
    with torch.no_grad():
        mean, log_variance = network.encoder(images).chunk(2, dim=1)
        decoded = network.decode(mean).sample
    patches = patches_of(images)
    pca = PCA(channels).fit(patches)
    expected = pca.inverse_transform(pca.transform(patches))
    assert np.allclose(patches_of(decoded), expected, atol=1e-3)
    assert torch.allclose(mean.var(dim=(0, 2, 3)), torch.ones(channels), atol=0.01)
    assert torch.allclose(log_variance, torch.full_like(log_variance, -10.0))


def test_the_start_does_not_depend_on_the_order_of_images(images: torch.Tensor) -> None:
    first, second = (PatchAutoencoder(8, 4, 16, 2) for _ in range(2))
    first.start_from(images)
    second.start_from(images.flip(0))
    assert torch.allclose(first.encoder.project.weight, second.encoder.project.weight, atol=1e-3)


def test_sizes_are_those_of_the_factor(images: torch.Tensor) -> None:
    for factor in (2, 4, 8):
        network = PatchAutoencoder(factor, 3, 16, 1)
        network.start_from(images)
        assert network.encoder(images).shape == (6, 6, 64 // factor, 64 // factor)
        assert len(network.config.block_out_channels) - 1 == factor.bit_length() - 1


def test_training_starts_above_what_other_small_codecs_reach(
    demo_manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "codec"
    command = ["fit", "--preset", "codec-tiny", "--manifest", str(demo_manifest)]
    steps = ["duration.steps=20", "every.validate=10", "every.checkpoint=10"]
    words = [word for step in steps for word in ("--set", step)]
    assert trainer([*command, "--out", str(out), *words]) == 0
    codec = load_codec(out)
    assert codec.factor == 8
    tiles = open_tiles(demo_manifest)
    row = int(np.flatnonzero(tiles.split == "test")[0])
    image = torch.from_numpy(to_float(tiles.read(row).image))[None]
    decoded = codec.decode(codec.encode(image).mean)
    assert float(psnr(image, decoded)) > 26
    assert codec.digest == load_codec(out).digest


def test_the_start_is_a_function_of_the_data_alone(demo_manifest: Path, tmp_path: Path) -> None:
    config = load_config(preset="codec-tiny", manifest=str(demo_manifest), out=str(tmp_path))
    assert isinstance(config, Config)
    starts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        module = CodecStage(config, open_tiles(demo_manifest)).module
        starts.append(module.state_dict()["autoencoder.encoder.project.weight"].clone())
    assert torch.equal(*starts)


def test_a_crop_with_the_halo_is_decoded_as_in_the_whole() -> None:
    torch.manual_seed(0)
    network = PatchAutoencoder(8, 4, 16, 2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    latents = torch.randn(1, 4, 20, 20)
    codec = Codec(network, "patches")
    whole, halo = codec.decode(latents), codec.halo
    assert halo == 6
    crop = codec.decode(latents[..., 9 - halo : 11 + halo, 9 - halo : 11 + halo])
    inside = slice(8 * halo, -8 * halo)
    assert torch.allclose(crop[..., inside, inside], whole[..., 72:88, 72:88], atol=1e-5)
