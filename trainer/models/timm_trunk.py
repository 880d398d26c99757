"""Image trunks of the package timm: by their name there, or from the Hugging Face hub."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from histoprep.errors import UsageError
from histoprep.extras import install_command

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TIMM, HUB = "timm:", "hub:"
PUBLISHED = "published"
"""Stands for the weights that a trunk was published with."""
_UNKNOWN = "not stated"


class TimmTrunk(nn.Module):
    """A network of timm as a trunk, with random weights until `load_published`.

    Args:
        name: `timm:NAME` for one of timm's names, `hub:ID` for a repository of the hub, whose
            configuration is then read from there.

    Raises:
        UsageError: timm does not load, has no such network, or cannot give its feature maps.
    """

    network: Any

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.network = _create(name, pretrained=False)
        if not hasattr(self.network, "forward_intermediates"):
            raise UsageError("this network of timm has no feature maps to stand on", seen=name)
        known = dict(self.network.pretrained_cfg)
        self.licence = str(known.get("license") or _UNKNOWN)
        self._mean, self._std = tuple(known["mean"]), tuple(known["std"])
        side = int(known["input_size"][-1])
        with torch.no_grad():
            probe = self.eval()(torch.zeros(1, 3, side, side))
        self.train()
        self.num_features, self.stride = int(probe.shape[1]), round(side / probe.shape[-1])

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features out_height out_width"]:
        """Return the last feature map of images that are normalised as for ImageNet."""
        if (self._mean, self._std) != (IMAGENET_MEAN, IMAGENET_STD):
            mean, std, own_mean, own_std = (
                images.new_tensor(values).view(1, 3, 1, 1)
                for values in (IMAGENET_MEAN, IMAGENET_STD, self._mean, self._std)
            )
            images = (images * std + mean - own_mean) / own_std
        maps = self.network.forward_intermediates(
            images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        result: Tensor = maps[-1]
        return result

    def load_published(self) -> str:
        """Fill in the weights that it was published with; return where they are from and under
        which licence.

        Raises:
            UsageError: They cannot be had: without network, only what was fetched before.
        """
        self.network.load_state_dict(_create(self.name, pretrained=True).state_dict())
        return f"{self.name} (licence: {self.licence})"


def import_timm(what: str) -> Any:
    """Return the package timm.

    Args:
        what: What needs it, for the message.

    Raises:
        UsageError: It is not installed, or does not load beside this torch.
    """
    try:
        import timm  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        package = "" if error.name == "timm" else f", which needs {error.name}"
        raise UsageError(
            f"{what} need the package timm{package}; not installed",
            hint=install_command("timm"),
        ) from error
    except (ImportError, RuntimeError, OSError) as error:
        raise UsageError(
            f"timm does not load beside torch {torch.__version__}: {error}",
            hint="install the build of torchvision that belongs to this torch",
        ) from error
    return timm


def _create(name: str, *, pretrained: bool) -> nn.Module:
    timm = import_timm(f"trunks such as {name}")
    known = f"hf-hub:{name.removeprefix(HUB)}" if name.startswith(HUB) else name.removeprefix(TIMM)
    more = {"dynamic_img_size": True, "dynamic_img_pad": True}
    try:
        try:
            network: nn.Module = timm.create_model(
                known, pretrained=pretrained, num_classes=0, **more
            )
        except TypeError:
            # Only transformers have a size of their own.
            network = timm.create_model(known, pretrained=pretrained, num_classes=0)
    except Exception as error:
        what = "the published weights" if pretrained else "the network"
        raise UsageError(
            f"cannot get {what} of {name}: {type(error).__name__}: {error}",
            expected="timm:NAME as in timm.list_models(), or hub:OWNER/NAME of a timm model",
            hint=(
                "without network, fetch them where there is one and copy the cache of the hub"
                " (HF_HOME), or name a local file of weights"
            ),
        ) from error
    return network
