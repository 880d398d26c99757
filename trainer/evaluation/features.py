"""What a network sees of a tile: features for distances, block outputs for a segmenter, averages
over the regions of classes, and a thumbnail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from histoprep.errors import IntegrityError, UsageError
from trainer.data.transforms import to_float
from trainer.device import choose_device
from trainer.models.efficientnet_lite import EfficientNetLite0Trunk
from trainer.models.segmenter import LITE_BLOCKS
from trainer.models.timm_trunk import import_timm
from trainer.models.trunks import load_trunk_weights, normalise_images

DEFAULT = "lite0-mid"
THUMBNAIL_PX = 32
FEATURE_BLOCKS = (4, 7)
"""Blocks of EfficientNet-Lite0 whose means and standard deviations are the default features."""
_BLOCKS = tuple(sorted({*FEATURE_BLOCKS, *LITE_BLOCKS}))
_HUB = "hub:"
_LEAST_CELLS, _LEAST_SHARE = 8, 0.9
_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True, eq=False)
class SeenTile:
    """What was seen of a tile.

    `vector` are its features, float64 [d]; `maps` the outputs of `LITE_BLOCKS`, float16; `regions`
    the mean output of block 4 where a class covers its cells, float64 [40], by class id;
    `thumbnail` float32 [32, 32, 3] in 0-255; `size` height and width in pixels.
    """

    vector: np.ndarray
    maps: list[Tensor]
    regions: dict[int, np.ndarray]
    thumbnail: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Sight:
    """EfficientNet-Lite0 with its packaged weights, and another encoder for the features, if one
    was named. `name` says which features are compared.
    """

    name: str
    trunk: EfficientNetLite0Trunk
    encoder: Callable[[Tensor], Tensor] | None
    device: torch.device

    @torch.no_grad()
    def see(self, image: np.ndarray, mask: np.ndarray | None = None) -> SeenTile:
        """Return what is seen of an image.

        Args:
            image: uint8 RGB [height, width, 3].
            mask: Class ids, uint8 [height, width], for the regions.
        """
        pixels = torch.from_numpy(to_float(image))[None].to(self.device)
        outputs = dict(
            zip(
                _BLOCKS,
                self.trunk.block_outputs(normalise_images(pixels), _BLOCKS),
                strict=True,
            )
        )
        if self.encoder is None:
            vector = mean_and_std([outputs[block] for block in FEATURE_BLOCKS])[0]
        else:
            vector = self.encoder(pixels)[0].flatten()
        first = outputs[LITE_BLOCKS[0]]
        return SeenTile(
            vector.double().cpu().numpy(),
            [outputs[block].half() for block in LITE_BLOCKS],
            {} if mask is None else class_regions(first[0].double().cpu().numpy(), mask),
            thumbnail(image),
            (image.shape[0], image.shape[1]),
        )


def open_sight(features: str = DEFAULT, *, device: str = "auto") -> Sight:
    """Return the networks of an evaluation.

    Args:
        features: `lite0-mid`; a file: weights of EfficientNet-Lite0 (.safetensors, .pth), or an
            encoder of torch.export (.pt2) from images [1, 3, H, W] in [-1, 1] to features [1, d];
            or `hub:ID`, an encoder of the Hugging Face hub that timm loads.
        device: Name of the device, or auto.

    Raises:
        UsageError: When there is no such encoder, or the packaged weights are not installed.
        IntegrityError: When a file cannot be read.
    """
    place = torch.device(choose_device(device))
    trunk = EfficientNetLite0Trunk()
    encoder: Callable[[Tensor], Tensor] | None = None
    if features.startswith(_HUB):
        encoder = _hub_encoder(features.removeprefix(_HUB), place)
    elif features != DEFAULT and not features.endswith(_WEIGHT_SUFFIXES):
        encoder = _exported_encoder(Path(features), place)
    is_file = features.endswith(_WEIGHT_SUFFIXES)
    load_trunk_weights(trunk, features if is_file else "packaged")
    return Sight(features, trunk.eval().requires_grad_(False).to(place), encoder, place)


def mean_and_std(outputs: list[Tensor]) -> Tensor:
    """Return means, then population standard deviations over the positions of each output [batch,
    channels, h, w], one output after another: float [batch, 2 * channels of all].
    """
    parts = []
    for output in outputs:
        flat = output.flatten(2)
        parts += [flat.mean(dim=2), flat.std(dim=2, unbiased=False)]
    return torch.cat(parts, dim=1)


def class_regions(output: np.ndarray, mask: np.ndarray) -> dict[int, np.ndarray]:
    """Return the mean of a block output over the cells that a class covers to at least nine
    tenths, for each class with at least eight such cells.

    Args:
        output: Float [channels, h, w].
        mask: Class ids, uint8 [height, width].

    Returns:
        float64 [channels] by class id.
    """
    ids = [int(value) for value in np.unique(mask)]
    layers = torch.from_numpy(np.stack([mask == value for value in ids]).astype(np.float32))
    shares = nnf.adaptive_avg_pool2d(layers, output.shape[1:]).numpy()
    found = {}
    for class_id, share in zip(ids, shares, strict=True):
        covered = share >= _LEAST_SHARE
        if covered.sum() >= _LEAST_CELLS:
            found[class_id] = output[:, covered].mean(axis=1)
    return found


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return an image at 32 x 32 pixels, areas averaged: float32 [32, 32, 3] in 0-255."""
    small = cv2.resize(image, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32)


def _exported_encoder(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    if not path.is_file():
        raise UsageError(
            "there are no such features",
            seen=path,
            expected=f"{DEFAULT}, a file ({', '.join(_WEIGHT_SUFFIXES)}, .pt2), or hub:ID",
        )
    try:
        program: Any = torch.export.load(str(path))
        module: nn.Module = program.module()
    except Exception as error:
        raise IntegrityError(
            f"the encoder cannot be read: {error}", path=path, expected="a file of torch.export"
        ) from error
    return module.to(device)


def _hub_encoder(name: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    timm = import_timm(f"encoders such as {_HUB}{name}")
    try:
        encoder = timm.create_model(f"hf-hub:{name}", pretrained=True, num_classes=0)
    except Exception as error:
        raise UsageError(
            f"cannot get the encoder from the hub: {error}", seen=f"{_HUB}{name}"
        ) from error
    module = encoder.eval().requires_grad_(False).to(device)
    config = encoder.pretrained_cfg
    mean, std = (
        torch.tensor(config[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std")
    )

    def encode(images: Tensor) -> Tensor:
        result: Tensor = module(((images + 1) / 2 - mean) / std)
        return result

    return encode
