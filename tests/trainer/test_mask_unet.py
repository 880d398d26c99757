"""The network mask-unet: its counts, its receptive field, tiles against the whole, and what masks
mean to it.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_codecs import save_kl
from torch import Tensor, nn

from histoprep import imageio
from trainer.cli import run
from trainer.config_layers import load_config
from trainer.engine.checkpoints import load_weights
from trainer.engine.fit import fit
from trainer.models.denoisers.footprint import count_parameters
from trainer.models.denoisers.mask_unet import Config, MaskUNet, PixelNorm
from trainer.models.denoisers.masks import class_fractions

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
SMALL = {"dim": 8, "dim_mults": (1, 2), "block_per_layer": 1}
SHAPES = [((1,), 2), ((1, 2), 1), ((1, 2), 2), ((1, 2, 1), 1), ((1, 1, 2), 2)]


def _network(config: Config, num_classes: int = 5) -> MaskUNet:
    """Return a network without layers that are zero, as after some training."""
    torch.manual_seed(3)
    network = config.build(num_classes, 4)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def _batch(height: int = 8, width: int = 12, num_classes: int = 5) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, 4, height, width, generator=generator)
    t = torch.tensor([0.0, 513.5, 999.0])
    mask = torch.randint(
        0, num_classes, (3, 1, 8 * height, 8 * width), dtype=torch.uint8, generator=generator
    )
    return x, t, mask


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.double().std())


def _mean_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).square().mean().sqrt() / expected.std())


def _count_by_hand(config: Config, num_classes: int, channels: int) -> int:
    """Return the number of parameters from the description of the network."""
    dim, shares = config.dim, num_classes + 1

    def conv(inputs: int, outputs: int, side: int, bias: int = 1) -> int:
        return inputs * outputs * side * side + bias * outputs

    def block(inputs: int, outputs: int) -> int:
        skip = conv(inputs, outputs, 1) if inputs != outputs else 0
        modulation = conv(4 * dim, 2 * outputs, 1) + conv(shares, 2 * outputs, 1, bias=0)
        return inputs + conv(inputs, outputs, 3) + modulation + conv(outputs, outputs, 3) + skip

    widths = [dim * mult for mult in config.dim_mults]
    total = conv(dim, 4 * dim, 1) + conv(4 * dim, 4 * dim, 1) + conv(channels + shares, dim, 3)
    for width in widths:
        total += config.block_per_layer * (block(width, width) + block(2 * width, width))
    for narrow, wide in pairwise(widths):
        total += conv(narrow, wide, 2) + conv(wide, narrow, 2)
    return (
        total + block(widths[-1], widths[-1]) + block(2 * dim, dim) + dim + conv(dim, channels, 1)
    )


@pytest.mark.parametrize(("preset", "num_classes"), [("mask-unet-512", 5), ("mask-unet-tiny", 3)])
def test_presets_have_the_parameters_of_their_description(preset: str, num_classes: int) -> None:
    config: Any = load_config(preset=preset, manifest="m", codec="c", out="o")
    with torch.device("meta"):
        network = config.model.build(num_classes, 4)
    assert count_parameters(network) == _count_by_hand(config.model, num_classes, 4)


def test_the_full_size_is_that_of_the_published_network() -> None:
    with torch.device("meta"):
        assert count_parameters(Config().build(5, 4)) == 174_178_308
    assert 174_178_308 / 172_101_124 < 1.02


def _reached_by_gradient(network: MaskUNet) -> int:
    """Return how far from a tile of one stride the farthest latent lies that its prediction
    depends on.
    """
    network = network.double()
    stride, side = network.stride, 2 * network.halo + 5 * network.stride
    start = (side // 2) // stride * stride
    x = torch.randn(1, 4, side, side, dtype=torch.float64, requires_grad=True)
    mask = torch.randint(0, 5, (1, 1, side, side))
    tile = slice(start, start + stride)
    network(x, torch.tensor([300.0]), mask)[..., tile, tile].square().sum().backward()
    assert x.grad is not None
    rows = (x.grad != 0).any(3).any(1)[0].nonzero().flatten()
    return max(start - int(rows.min()), int(rows.max()) - (start + stride - 1))


@pytest.mark.parametrize(("mults", "blocks"), SHAPES)
def test_the_receptive_field_is_that_of_the_layers(mults: tuple[int, ...], blocks: int) -> None:
    network = _network(Config(dim=4, dim_mults=mults, block_per_layer=blocks))
    reached = _reached_by_gradient(network)
    assert network.halo == -(-reached // network.stride) * network.stride


def test_the_receptive_field_of_the_full_size() -> None:
    with torch.device("meta"):
        assert Config().build(5, 4).halo == 72


@torch.no_grad()
@pytest.mark.parametrize(("mults", "blocks"), SHAPES[1:])
def test_a_tile_with_its_halo_equals_the_whole(mults: tuple[int, ...], blocks: int) -> None:
    network = _network(Config(dim=8, dim_mults=mults, block_per_layer=blocks))
    halo, tile, image = network.halo, 8, 2 * network.halo + 32
    x, t, mask = _batch(image, image)
    x, t, mask = x[:1], t[1:2], mask[:1]
    whole = network(x, t, mask)
    for start in (0, halo + 8, image - tile):
        low, high = max(0, start - halo), min(image, start + tile + halo)
        cut, pixels = slice(low, high), slice(8 * low, 8 * high)
        part = network(x[..., cut, cut], t, mask[..., pixels, pixels])
        inside, own = slice(start - low, start - low + tile), slice(start, start + tile)
        assert _relative_error(part[..., inside, inside], whole[..., own, own]) < 1e-5
    # With one stride less around it, the tile differs: the halo is not wider than it must be.
    start = halo + 8
    less = halo - network.stride
    cut, pixels = (
        slice(factor * (start - less), factor * (start + tile + less)) for factor in (1, 8)
    )
    part = network(x[..., cut, cut], t, mask[..., pixels, pixels])
    inside, own = slice(less, less + tile), slice(start, start + tile)
    assert not torch.equal(part[..., inside, inside], whole[..., own, own])


@torch.no_grad()
def test_permuting_classes_together_with_their_weights_changes_nothing() -> None:
    network, (x, t, mask) = _network(Config(**SMALL)), _batch()
    before = network(x, t, mask)
    # Class 0 is unlabelled, and the last channel the null.
    order = torch.tensor([0, 3, 1, 4, 2])
    channels = torch.cat((order, torch.tensor([5])))
    for name, parameter in network.named_parameters():
        if name.endswith("mask.weight"):
            parameter.copy_(parameter[:, channels])
        elif name == "first.weight":
            parameter[:, 4:] = parameter[:, 4:][:, channels].clone()
    # What was class order[k] is class k now.
    renamed = torch.argsort(order)[mask.long()]
    assert _relative_error(network(x, t, renamed), before) < 1e-5
    assert _relative_error(network(x, t, mask), before) > 1e-2


@torch.no_grad()
def test_null_is_unlabelled_is_dropped() -> None:
    network, (x, t, mask) = _network(Config(**SMALL)), _batch()
    everything = torch.ones(3, dtype=torch.bool)
    null = network(x, t, mask, everything)
    assert torch.equal(null, network(x, t, torch.zeros_like(mask)))
    some = torch.tensor([False, True, False])
    mixed = network(x, t, mask, some)
    expected = torch.where(some[:, None, None, None], null, network(x, t, mask))
    assert _relative_error(mixed, expected) < 1e-6
    # As a class of its own, unlabelled tissue is not the null.
    other = _network(Config(**SMALL, unlabelled="class"))
    nothing = torch.zeros_like(mask)
    assert _relative_error(other(x, t, nothing), other(x, t, mask, everything)) > 1e-2


@torch.no_grad()
def test_every_stage_sees_the_average_of_the_shares() -> None:
    network, (_, _, mask) = _network(Config(dim=8, dim_mults=(1, 1, 1))), _batch()
    stages = network.condition(mask, (8, 12), None).shares
    assert [tuple(shares.shape) for shares in stages] == [
        (3, 6, 8, 12),
        (3, 6, 4, 6),
        (3, 6, 2, 3),
    ]
    for shares, factor in zip(stages, (8, 16, 32), strict=True):
        expected = class_fractions(mask, 5, factor)
        assert torch.allclose(shares[:, 1:5], expected[:, 1:], atol=1e-6)
        assert torch.allclose(shares[:, 5], expected[:, 0], atol=1e-6)
        assert not shares[:, 0].any()


@torch.no_grad()
def test_a_pixel_of_another_class_changes_its_surroundings_alone() -> None:
    network, (x, t, mask) = _network(Config(**SMALL)), _batch(64, 64)
    changed = mask.clone()
    changed[..., :16, :16] = (changed[..., :16, :16] + 1) % 5
    difference = (network(x, t, mask) - network(x, t, changed)).abs().amax(1)
    assert float(difference[:, :2, :2].min()) > 1e-4
    reach = 2 + network.halo
    assert float(difference[:, reach:].max()) < 1e-5


@torch.no_grad()
def test_features_have_unit_size_at_every_pixel() -> None:
    x = 50 * torch.randn(2, 16, 3, 5, generator=torch.Generator().manual_seed(1))
    normed = PixelNorm(16, gain=False)(x)
    assert torch.allclose(normed.square().mean(1), torch.ones(2, 3, 5), atol=1e-5)
    assert torch.allclose(normed[:, :, 1:2, 2:3], PixelNorm(16, gain=False)(x[:, :, 1:2, 2:3]))


@torch.no_grad()
def test_low_precision_is_the_same_function() -> None:
    network, (x, t, mask) = _network(Config(dim=16, dim_mults=(1, 2, 4))), _batch()
    exact = network(x, t, mask)
    # bf16 rounds by up to 2^-9, in each of some twenty layers.
    with torch.autocast("cpu", torch.bfloat16):
        assert _mean_error(network(x, t, mask), exact) < 0.02
    assert _mean_error(network.to(torch.bfloat16)(x.bfloat16(), t, mask), exact) < 0.03


@pytest.mark.slow
def test_one_graph_for_all_batches_and_every_parameter_learns() -> None:
    command = [sys.executable, str(Path(__file__).with_name("one_graph.py")), "mask-unet"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout == ""


@pytest.mark.slow
def test_it_learns_which_class_is_where() -> None:
    """Latents whose mean is the class: the network reads them off the mask, at any size."""
    torch.manual_seed(0)
    network = Config(**SMALL).build(4, 4)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    values = torch.tensor([0.0, -2.0, 1.0, 3.0])
    for _ in range(150):
        mask = torch.randint(0, 4, (8, 1, 4, 4)).repeat_interleave(16, 2).repeat_interleave(16, 3)
        clean = values[mask[..., ::8, ::8]].expand(-1, 4, -1, -1)
        loss = (network(torch.randn_like(clean), torch.full((8,), 999.0), mask) - clean).square()
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    mask = torch.randint(1, 4, (1, 1, 7, 9)).repeat_interleave(32, 2).repeat_interleave(32, 3)
    with torch.no_grad():
        found = network(torch.randn(1, 4, 28, 36), torch.full((1,), 999.0), mask)
    assert float((found - values[mask[..., ::8, ::8]]).abs().mean()) < 0.5


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_kl(tmp_path_factory.mktemp("codec") / "codec")


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(
    demo_manifest: Path, codec: Path, tmp_path: Path
) -> None:
    sets = [
        "data.image_size=32",
        "model.dim=8",
        "batch_size=4",
        "duration.steps=6",
        "validation.num_tiles=4",
        "every.images=null",
        "every.checkpoint=3",
        "sampling.num_inference_steps=2",
        "encoding.views=1",
        "data.flips=false",
        "schedule.kind=constant",
    ]

    def config_of(name: str, *more: str) -> Any:
        return load_config(
            preset="mask-unet-tiny",
            sets=[*sets, *more],
            manifest=str(demo_manifest),
            codec=str(codec),
            out=str(tmp_path / name),
        )

    whole = fit(config_of("whole")).run
    assert fit(config_of("parts", "duration.steps=3")).stages[""]["step"] == 3
    parts = fit(config_of("parts")).run
    for ema in (False, True):
        first, second = (load_weights(folder, ema=ema)[0] for folder in (whole, parts))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    _sample_large(whole, demo_manifest, tmp_path / "large")


def _sample_large(run_folder: Path, manifest: Path, out: Path) -> None:
    """The command makes images of another size than the masks, in one pass or in tiles."""
    command = ["--quiet", "sample", "--checkpoint", str(run_folder), "--masks", str(manifest)]
    command += ["--limit", "1", "--steps", "2", "--size", "256"]
    images = []
    for name, *more in (("whole",), ("tiled", "--tile-size", "64")):
        assert run([*command, "--out", str(out / name), *more]) == 0
        [path] = (out / name / "images").rglob("*.png")
        images.append(imageio.decode_rgb(path.read_bytes()))
        [mask] = (out / name / "masks").rglob("*.png")
        assert imageio.read_header(mask.read_bytes()).width_px == 256
    assert images[0].shape == images[1].shape == (256, 256, 3)
    assert run([*command, "--out", str(out / "none"), "--tile-size", "24"]) == 2
    assert not (out / "none").exists()
