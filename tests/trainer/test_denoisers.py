"""The seam of denoisers: what every registered one must do, configurations that choose one, and one
that is added from outside as docs/adding-a-denoiser.md says.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_codecs import save_kl

from histoprep import checksums
from trainer.cli import run
from trainer.config_layers import build_config, dump_config, load_config, merge
from trainer.engine.checkpoints import CONFIG, load_run_config
from trainer.engine.fit import fit
from trainer.errors import ConfigError
from trainer.models.denoisers import registry
from trainer.models.denoisers.footprint import (
    count_activation_bytes,
    count_flops,
    count_parameters,
)
from trainer.models.denoisers.interface import Denoiser
from trainer.models.denoisers.reference_unet import Config as ReferenceConfig
from trainer.models.denoisers.registry import DENOISERS, denoiser_names, find_denoiser
from trainer.recipes.ldm import describe
from trainer.recipes.ldm_config import Config

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-denoiser.md"
FLAGS: dict[str, Any] = {"manifest": "m.parquet", "codec": "codec"}
SHORT = (
    "data.image_size=32",
    "batch_size=4",
    "duration.steps=4",
    "validation.num_tiles=4",
    "every.images=null",
    "sampling.num_inference_steps=2",
    "encoding.views=1",
    "data.flips=false",
    "data.turns=false",
)


def test_the_registry_loads_these_modules() -> None:
    assert DENOISERS == {
        "reference-unet": "trainer.models.denoisers.reference_unet",
        "mask-unet": "trainer.models.denoisers.mask_unet",
    }
    assert denoiser_names() == [*DENOISERS]


def test_only_its_own_modules_name_a_denoiser() -> None:
    package = Path(registry.__file__).parents[2]
    naming = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(
            r"ReferenceUNet|reference_unet|reference-unet|MaskUNet|mask_unet|name: mask-unet",
            path.read_text(),
        )
    }
    own = ("registry.py", "reference_unet.py", "reference_checkpoints.py", "mask_unet.py")
    # A template in which an export puts the module of the denoiser at hand.
    template = {"export/unet.py", "export/diffusers_folder.py"}
    # The network of masks is one of them on other channels.
    of_masks = {"models/layout_unet.py"}
    assert naming - template - of_masks == {f"models/denoisers/{name}" for name in own}


@pytest.mark.parametrize("name", DENOISERS)
def test_every_denoiser_keeps_the_interface(name: str) -> None:
    """On the device "meta", where even the full size costs nothing."""
    config = find_denoiser(name)()
    with torch.device("meta"):
        network = config.build(num_classes=3, channels=4)
        assert isinstance(network, Denoiser)
        assert (network.num_classes, network.channels) == (3, 4)
        x = torch.zeros(2, 4, network.stride, 3 * network.stride)
        mask = torch.zeros(2, 1, 8 * x.shape[2], 8 * x.shape[3], dtype=torch.uint8)
        for drop in (None, torch.tensor([True, False])):
            assert network(x, torch.zeros(2), mask, drop).shape == x.shape
        with pytest.raises(ValueError, match="expected"):
            network(x, torch.zeros(2), mask[..., 1:])
    assert count_parameters(network) > 0


def test_activations_grow_with_the_batch_and_hold_no_softmax_matrix() -> None:
    with torch.device("meta"):
        network = ReferenceConfig(dim=16, mask_query="class").build(5, 4)
    single, two, four = (count_activation_bytes(network, size, 256, 8) for size in (1, 2, 4))
    assert four - two == 2 * (two - single) > 0
    # 1024 positions and 4 heads: a single softmax matrix of the first stage has 16 MB.
    assert two - single < 4 * 1024 * 1024 * 4 * 2


@pytest.mark.parametrize("name", DENOISERS)
def test_operations_are_those_of_the_layers(name: str) -> None:
    """Convolutions are the most of it, and their operations are known."""
    config = find_denoiser(name)(dim=16, dim_mults=(1, 2), block_per_layer=1)
    network = config.build(5, 4)
    counted = count_flops(network, 64, 8, training=False)
    by_hand = 0

    def add(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal by_hand
        if isinstance(module, torch.nn.Conv2d):
            by_hand += 2 * output[0, 0].numel() * module.weight.numel()
        elif isinstance(module, torch.nn.ConvTranspose2d):
            by_hand += 2 * inputs[0][0, 0].numel() * module.weight.numel()
        elif isinstance(module, torch.nn.Linear):
            by_hand += 2 * output[0].numel() * module.in_features

    for module in network.modules():
        module.register_forward_hook(add)
    network(torch.zeros(1, 4, 8, 8), torch.zeros(1), torch.zeros(1, 1, 64, 64, dtype=torch.uint8))
    # The reference network standardises filters, and attends; mask-unet has layers alone.
    assert by_hand == counted if name == "mask-unet" else 0.8 < by_hand / counted < 1.2
    with torch.device("meta"):
        uncomputed = config.build(5, 4)
    # The fused attention of a device may do a little less than the plain one.
    forward = count_flops(uncomputed, 64, 8, training=False)
    assert forward == pytest.approx(counted, rel=0 if name == "mask-unet" else 0.05)
    assert count_flops(uncomputed, 64, 8, training=True) == pytest.approx(3 * counted, rel=0.1)
    assert all(parameter.grad is None for parameter in uncomputed.parameters())


def test_a_configuration_without_a_name_means_the_reference_network() -> None:
    values = {"recipe": "ldm", "manifest": "m", "out": "o", "model": {"dim": 32}}
    config = build_config(Config, values)
    assert config.model == ReferenceConfig(dim=32)
    assert build_config(Config, {**values, "model": {}}).model == ReferenceConfig()
    del values["model"]
    assert build_config(Config, values).model == ReferenceConfig()
    assert yaml.safe_load(dump_config(config))["model"]["name"] == "reference-unet"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("model.name=reference-unett", "model.name: there is no such denoiser; perhaps reference-"),
        ("model.name=gan", "known: reference-unet, mask-unet, seen 'gan'"),
        ("model.dimm=4", "model.dimm: unknown key; perhaps dim"),
        ("model.width=4", "model.width: unknown key; known here: name, dim, dim_mults"),
        ("model.dim=wide", "model.dim: Input should be a valid integer"),
        ("model.dim=9", "model.dim: Input should be a multiple of 2, seen 9"),
        ("model.resnet_block_groups=5", "model: resnet_block_groups must divide dim, seen 5 and 3"),
        ("model=4", "model: Input should be a valid dictionary"),
    ],
)
def test_errors_name_the_key(entry: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_config(preset="ldm-tiny", sets=[entry], **FLAGS)


def test_another_denoiser_drops_the_options_of_the_first_in_any_order() -> None:
    below = {"model": {"name": "a", "dim": 8}, "seed": 1}
    assert merge(below, {"model": {"name": "b", "width": 4}}) == {
        "model": {"name": "b", "width": 4},
        "seed": 1,
    }
    assert merge(below, {"model": {"name": "a", "width": 4}})["model"] == {
        "name": "a",
        "dim": 8,
        "width": 4,
    }
    assert merge({"model": {"dim": 8}}, {"model": {"name": "a"}})["model"] == {
        "dim": 8,
        "name": "a",
    }


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_kl(tmp_path_factory.mktemp("codec") / "codec")


def _config(manifest: Path, codec: Path, out: Path, *sets: str) -> Any:
    return load_config(
        preset="ldm-tiny",
        sets=[*SHORT, "model.dim=8", *sets],
        manifest=str(manifest),
        codec=str(codec),
        out=str(out),
    )


@pytest.mark.slow
def test_a_run_from_before_there_were_several_denoisers_is_resumed(
    demo_manifest: Path, codec: Path, tmp_path: Path
) -> None:
    sets = ["schedule.kind=constant", "every.checkpoint=2"]
    short = _config(demo_manifest, codec, tmp_path / "run", *sets, "duration.steps=2")
    run_folder = fit(short).run
    values = yaml.safe_load((run_folder / CONFIG).read_text())
    assert values["model"].pop("name") == "reference-unet"
    checksums.publish_file(run_folder, CONFIG, yaml.safe_dump(values, sort_keys=False))
    assert load_run_config(run_folder).model.name == "reference-unet"
    longer = _config(demo_manifest, codec, tmp_path / "run", *sets)
    assert fit(longer).stages[""]["step"] == 4
    with pytest.raises(ConfigError, match=r"model\.dim = 16, was 8"):
        fit(_config(demo_manifest, codec, tmp_path / "run", *sets, "model.dim=16"))


def test_a_size_that_the_denoiser_cannot_take_is_refused_before_training(
    demo_manifest: Path, codec: Path, tmp_path: Path
) -> None:
    config = _config(demo_manifest, codec, tmp_path / "run", "data.image_size=24")
    for attempt in (describe, fit):
        with pytest.raises(ConfigError, match=r"multiple of 16 px(.|\n)*data\.image_size=32"):
            attempt(config)


def _blocks() -> dict[str, str]:
    """Return the files on the page: name -> text."""
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return dict(blocks)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the package of the page, as pip does, and return the folder of its sources."""
    source, target = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name, text in _blocks().items():
        (source / name).write_text(text, encoding="utf-8")
    offline = ["--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", target, source],
        check=True,
    )
    monkeypatch.syspath_prepend(str(target))
    yield source
    sys.modules.pop("small_cnn", None)


@pytest.mark.slow
def test_the_denoiser_of_the_page_is_trained_and_sampled_from(
    installed: Path,
    demo_manifest: Path,
    codec: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert denoiser_names() == [*DENOISERS, "small-cnn"]
    sets = [part for entry in SHORT for part in ("--set", entry)]
    where = ["--manifest", str(demo_manifest), "--codec", str(codec), "--out"]
    fit_run = [
        "--quiet",
        "fit",
        "--force",
        "--config",
        str(installed / "small-cnn.yml"),
        *sets,
        *where,
    ]
    assert run([*fit_run, str(tmp_path / "plan"), "--dry-run"]) == 0
    plan = capfd.readouterr().out
    assert "name: small-cnn" in plan and "dim_mults" not in plan
    channels, classes, width = 4, 5, 16
    expected = (
        9 * (channels + classes + 1) * width + width  # first
        + 9 * width * width + width  # middle
        + 9 * width * channels + channels  # last
        + 2 * width + width * width + width  # time
    )  # fmt: skip
    assert f"parameters denoiser: {expected:,}" in plan
    # 16 latents of 8 px; the MLP of the time sees one number.
    forward = 2 * 16 * (expected - (2 * width + width * width + width) - 2 * width - channels)
    forward += 2 * (width + width * width)
    assert f"GFLOP an image forward: {round(forward / 1e9, 3)}" in plan
    assert run([*fit_run, str(tmp_path / "run")]) == 0
    sample = ["--quiet", "sample", "--checkpoint", str(tmp_path / "run"), "--steps", "2"]
    masks = ["--masks", str(demo_manifest), "--limit", "2", "--out", str(tmp_path / "synthetic")]
    assert run([*sample, *masks]) == 0
    assert len(list((tmp_path / "synthetic").rglob("*.png"))) == 4, "two images, two masks"
    assert run([*fit_run, str(tmp_path / "other"), "--set", "model.widht=4"]) == 2
    assert "model.widht: unknown key; perhaps width" in capfd.readouterr().err


def test_a_package_that_does_not_keep_the_interface_is_named(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "installed" / "small_cnn.py"
    shutil.rmtree(module.parent / "__pycache__", ignore_errors=True)
    text = module.read_text()
    config = installed / "small-cnn.yml"
    for changed, words in (
        ("import nothing_there\n", "cannot be loaded from small_cnn"),
        ("Config = 3\n", "small_cnn.Config is not a DenoiserConfig"),
        (text.replace("small-cnn", "other-cnn"), "calls itself other-cnn"),
    ):
        module.write_text(changed)
        sys.modules.pop("small_cnn", None)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        with pytest.raises(ConfigError, match=re.escape(words)):
            load_config(file=config, **FLAGS)
