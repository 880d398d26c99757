"""Large images: tiles that make every step together equal the whole, noise belongs to positions,
masks are enlarged without new labels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from small_codecs import save_kl
from test_sample import CLASSES, PixelCodec
from torch import Tensor, nn

from histoprep import imageio
from histoprep.errors import UsageError
from histoprep.shards import open_tiles
from trainer.data.latent_scaling import LatentScaling
from trainer.device import free_memory_bytes
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Solver
from trainer.models.codec import Codec
from trainer.models.denoisers import reference_unet
from trainer.models.denoisers.footprint import copy_shapes, count_parameters
from trainer.models.denoisers.mask_unet import Config
from trainer.recipes.codecs import load_codec
from trainer.sample import sample_dataset
from trainer.sampling.dataset import SyntheticDataset
from trainer.sampling.generator import Generator, SamplingOptions
from trainer.sampling.masks import masks_in_folder, read_labels, resize_masks
from trainer.sampling.tile_size import check_tile_px, choose_tile_px
from trainer.sampling.tiling import Crop, cut_tiles, grow

torch.set_num_threads(1)

OPTIONS = SamplingOptions(2.0, Solver("dpm++", 4), 7)


def _generator(codec: Any = None, **more: Any) -> Generator:
    torch.manual_seed(5)
    codec = codec or PixelCodec()
    network = Config(dim=8, dim_mults=(1, 2), block_per_layer=1).build(4, codec.channels)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    scaling = LatentScaling("codec", (0.0,) * codec.channels, (1.0,) * codec.channels)
    return Generator(
        network.eval(),
        Objective("flow"),
        codec,
        scaling,
        4,
        network.stride,
        halo=network.halo,
        **more,
    )


def _tiny_codec() -> Codec:
    torch.manual_seed(1)
    widths = (8, 8, 8, 8)
    made = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 2, 1, 1),
    )
    with torch.no_grad():
        # Untrained it paints all but black.
        made.decoder.layers[-1].weight.mul_(30)
        made.decoder.layers[-1].bias.fill_(0.5)
    return Codec(made, "untrained")


def _mask(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 4, (-(-height // 32), -(-width // 32)), dtype=np.uint8)
    return coarse.repeat(32, 0).repeat(32, 1)[:height, :width]


@pytest.mark.parametrize("size", [(10, 7), (16, 16), (3, 40)])
@pytest.mark.parametrize(("tile", "halo"), [(4, 2), (8, 8), (64, 4)])
def test_tiles_cover_every_latent_once_with_all_around_it(size, tile, halo):
    counts = np.zeros(size, dtype=int)
    tiles = list(cut_tiles(size, tile, halo))
    for part in tiles:
        counts[part.own] += 1
        numbers = np.arange(size[0] * size[1]).reshape(size)
        assert np.array_equal(numbers[part.seen][part.inside], numbers[part.own])
        around = grow(part.own, halo, size)
        for window, wanted in zip(part.seen, around, strict=True):
            assert window.start <= wanted.start and window.stop >= wanted.stop
    assert (counts == 1).all()
    assert len({numbers[part.seen].shape for part in tiles}) == 1, "one size to compile"


def test_only_tiles_that_are_needed_are_cut():
    needed = (slice(5, 6), slice(0, 9))
    own = [part.own for part in cut_tiles((16, 16), 4, 2, needed)]
    assert own == [
        (slice(4, 8), slice(0, 4)),
        (slice(4, 8), slice(4, 8)),
        (slice(4, 8), slice(8, 12)),
    ]


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_tiles_give_the_image_of_one_pass(scale):
    """Before rounding to whole levels: the codec here hands latents on."""
    mask = torch.from_numpy(_mask(512, 416))[None, None]
    noise = torch.randn(1, 3, 64, 52, generator=torch.Generator().manual_seed(0))
    whole, tiled = _generator(), _generator(tile_px=128)
    with torch.no_grad():
        expected = whole._guided(mask, scale, None)(noise, torch.tensor([600.0]))
        found = tiled._guided(mask, scale, None)(noise, torch.tensor([600.0]))
    assert float((found - expected).abs().max() / expected.std()) < 1e-5


@pytest.mark.slow
def test_whole_samplings_agree_to_one_level_in_tiles_of_any_size():
    masks = np.stack([_mask(384, 448), _mask(384, 448)[::-1]])
    codec = _tiny_codec()
    expected = _generator(codec).generate(masks, ["a", "b"], OPTIONS)
    assert expected.std() > 5
    for tile_px in (64, 144, 256):
        found = _generator(codec, tile_px=tile_px).generate(masks, ["a", "b"], OPTIONS)
        difference = np.abs(found.astype(int) - expected)
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("interval", [None, (0.3, 3.0)])
@pytest.mark.parametrize("tile_px", [None, 64])
@pytest.mark.slow
def test_a_crop_is_what_the_whole_image_has_there(interval, tile_px):
    masks, codec = _mask(640, 768)[None], _tiny_codec()
    options = replace(OPTIONS, guidance_interval=interval, solver=Solver("dpm++", 3))
    whole = _generator(codec).generate(masks, ["a"], options)
    generator = _generator(codec, tile_px=tile_px)
    for crop in (Crop(72, 104, 64, 128), Crop(0, 0, 8, 8), Crop(632, 512, 8, 256)):
        found = generator.generate(masks, ["a"], options, crop=crop)
        difference = np.abs(found.astype(int) - whole[:, *crop.area()])
        assert found.shape == (1, crop.height, crop.width, 3)
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-2


def test_a_crop_costs_what_it_depends_on():
    seen = _Peak()
    generator = replace(_generator(tile_px=64), denoiser=seen, halo=2)
    generator.generate(_mask(2048, 2048)[None], ["a"], OPTIONS, crop=Crop(1024, 1024, 64, 64))
    # Four calls: a tile, and the eight around it for those before the last.
    assert seen.calls == 1 + 3 * 9 < OPTIONS.solver.num_inference_steps * 32**2


def test_crops_that_cannot_be_are_refused(tmp_path: Path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.png").write_bytes(imageio.encode_mask_png(_mask(64, 96)))
    masks, generator = masks_in_folder(tmp_path / "labels", CLASSES), _generator()
    for crop in ((4, 0, 32, 32), (0, 0, 0, 8), (40, 0, 32, 8), (0, 80, 8, 32), (-8, 0, 8, 8)):
        with pytest.raises(UsageError, match="multiples of 8 px inside 64 x 96 px"):
            sample_dataset(generator, masks, tmp_path / "out", OPTIONS, crop=Crop(*crop))
    with pytest.raises(UsageError, match="whole images only"):
        sample_dataset(
            replace(generator, halo=None), masks, tmp_path / "out", OPTIONS, crop=Crop(0, 0, 8, 8)
        )
    assert not (tmp_path / "out").exists()
    sample_dataset(generator, masks, tmp_path / "out", OPTIONS, crop=Crop(8, 16, 32, 64))
    mask = read_labels(tmp_path / "out" / "masks" / "a.png")
    assert np.array_equal(mask, _mask(64, 96)[8:40, 16:80])
    whole = generator.generate(_mask(64, 96)[None], ["a"], OPTIONS)[0]
    part = imageio.decode_rgb((tmp_path / "out" / "images" / "a.png").read_bytes())
    assert np.abs(part.astype(int) - whole[8:40, 16:80]).max() <= 1


@torch.no_grad()
@pytest.mark.slow
def test_without_its_halo_a_tile_shows():
    """The check above would notice: half the halo leaves another image."""
    masks = _mask(384, 448)[None]
    codec = _tiny_codec()
    whole = _generator(codec)
    cut = replace(whole, tile_px=64, halo=whole.stride)
    difference = np.abs(
        cut.generate(masks, ["a"], OPTIONS).astype(int) - whole.generate(masks, ["a"], OPTIONS)
    )
    assert difference.max() > 1


@torch.no_grad()
def test_the_halo_of_a_tiny_codec_is_that_of_its_layers():
    codec = _tiny_codec()
    assert codec.halo is not None
    side = 2 * codec.halo + 9
    raw = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(1))
    middle = side // 2
    changed = raw.clone()
    changed[..., middle, middle] += 3
    difference = (codec.decode(raw) - codec.decode(changed)).abs().amax((0, 1)) > 0
    reached = difference.nonzero()
    inner = [8 * middle - int(reached.min()), int(reached.max()) - (8 * middle + 7)]
    assert 8 * (codec.halo - 3) <= max(inner) <= 8 * codec.halo
    whole = codec.decode(raw)
    cut = codec.decode(raw[..., 1:, 1:])
    start = 8 * (1 + codec.halo)
    assert torch.allclose(whole[..., start:, start:], cut[..., start - 8 :, start - 8 :], atol=1e-5)


def test_a_codec_that_normalises_over_the_image_has_no_halo(tmp_path: Path):
    assert load_codec(save_kl(tmp_path / "codec")).halo is None


class _TonedCodec(PixelCodec):
    """A codec that normalises over what it decodes, as one with group norms does."""

    halo = None

    def decode(self, raw: Tensor) -> Tensor:
        decoded = super().decode(raw)
        return (0.2 * decoded - 0.8 * decoded.mean((2, 3), keepdim=True)).clamp(-1, 1)


def test_tiles_of_a_codec_that_normalises_fade_into_each_other():
    """Smooth latents: all steps between pixels are small, but for the tones of the tiles."""
    ramp = torch.linspace(-1, 1, 64)
    latents = (ramp[:, None] + ramp).expand(1, 3, 64, 64) / 2
    faded = _generator(_TonedCodec(), tile_px=256)
    hard = _generator(_TonedCodec(), tile_px=256)
    hard.codec.halo = 0

    def largest_step(generator: Generator) -> int:
        image, finite = generator._decode(latents)
        assert finite.all()
        levels = image[0].astype(int)
        return max(int(np.abs(np.diff(levels, axis=axis)).max()) for axis in (0, 1))

    assert largest_step(hard) > 30
    assert largest_step(faded) <= 4


def test_noise_belongs_to_positions_whatever_the_size_of_the_image():
    generator = _generator()
    large = generator._noise(3, ["a", "b"], (3, 150, 100), "sample")
    small = generator._noise(3, ["a", "b"], (3, 40, 70), "sample")
    assert torch.equal(large[:, :, :40, :70], small)
    assert not torch.equal(large[0], large[1])
    assert float(large.mean()) == pytest.approx(0, abs=0.02)
    assert float(large.std()) == pytest.approx(1, abs=0.02)
    # Blocks are not alike.
    assert not torch.equal(large[:, :, :64, :36], large[:, :, 64:128, :36])
    # Of a denoiser without a halo the noise is as it always was.
    plain = replace(generator, halo=None)
    assert not torch.equal(plain._noise(3, ["a", "b"], (3, 40, 70), "sample"), small)


def test_memory_decides_between_one_pass_and_tiles():
    generator = _generator()
    size = (2048, 2048)
    assert choose_tile_px(generator, size, 1, 1 << 50) is None
    tiles = [choose_tile_px(generator, size, 1, free) for free in (1 << 28, 1 << 27, 1 << 25)]
    assert all(tile is not None for tile in tiles)
    assert tiles == sorted(tiles, reverse=True) and tiles[0] > tiles[-1]
    assert choose_tile_px(generator, size, 1, 1) == 256
    assert choose_tile_px(replace(generator, halo=None), size, 1, 1) is None
    assert free_memory_bytes(torch.device("cpu")) > 1 << 20


def test_tiles_that_cannot_be_are_refused():
    assert check_tile_px(_generator(), 64) == 64
    with pytest.raises(UsageError, match="multiple of 16"):
        check_tile_px(_generator(), 72)
    with pytest.raises(UsageError, match="whole image at once"):
        check_tile_px(replace(_generator(), halo=None), 64)


def test_a_copy_of_shapes_has_no_numbers():
    network = reference_unet.Config(dim=8, dim_mults=(1, 2)).build(3, 4)
    shapes = copy_shapes(network)
    assert {parameter.device.type for parameter in shapes.parameters()} == {"meta"}
    assert count_parameters(shapes) == count_parameters(network)
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


def test_masks_are_enlarged_and_reduced_without_new_labels(tmp_path: Path):
    folder = tmp_path / "labels"
    folder.mkdir()
    mask = np.zeros((32, 64), dtype=np.uint8)
    mask[:16, :32], mask[16:, 32:] = 1, 3
    (folder / "a.png").write_bytes(imageio.encode_mask_png(mask))
    masks = masks_in_folder(folder, CLASSES)
    larger = resize_masks(masks, 256)
    assert larger.sizes.tolist() == [[128, 256]] and larger.largest_px == (128, 256)
    assert np.array_equal(larger.read_mask(0), mask.repeat(4, 0).repeat(4, 1))
    smaller = resize_masks(masks, 16)
    assert np.array_equal(smaller.read_mask(0), mask[2::4, 2::4])
    odd = resize_masks(masks, 96).read_mask(0)
    assert odd.shape == (48, 96) and set(np.unique(odd)) == {0, 1, 3}


class _Peak:
    """A network that notes the most latents it saw at once."""

    def __init__(self) -> None:
        self.most, self.calls = 0, 0

    def __call__(self, x: Tensor, t: Tensor, mask: Tensor, drop: Tensor | None = None) -> Tensor:
        self.most, self.calls = max(self.most, x[0, 0].numel()), self.calls + 1
        return x


def test_the_network_sees_no_more_than_a_tile_with_its_halo():
    for side in (256, 512):
        seen = _Peak()
        generator = replace(_generator(tile_px=64), denoiser=seen, halo=4)
        generator.generate(_mask(side, side)[None], ["a"], OPTIONS)
        assert seen.most == (8 + 2 * 4) ** 2
        assert seen.calls == OPTIONS.solver.num_inference_steps * (side // 64) ** 2


@pytest.mark.slow
def test_an_image_larger_than_the_audit_takes_by_itself_is_in_the_manifest(tmp_path: Path):
    dataset = SyntheticDataset(tmp_path / "made", {"seed": 1})
    dataset.start()
    size = (8192, 8192)
    dataset.write(["a"], np.zeros((1, *size, 3), np.uint8), np.ones((1, *size), np.uint8))
    made = dataset.finish({"a": "test"}, CLASSES, most_pixels=size[0] * size[1])
    assert open_tiles(made).tile_ids.tolist() == ["images/a"]
