"""The recipe segmenter: a network that gives every pixel its class, trained on tiles with masks.

Used alone (`trainer test`, `trainer predict`) and to measure whether generated tiles follow their
masks (`trainer evaluate --segmenter RUN`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as nnf
from pydantic import Field
from torch import Tensor, nn

from histoprep import checksums
from histoprep.errors import UsageError
from histoprep.labels import IGNORED_ID, LabelMap
from histoprep.shards import TileSource
from histoprep.streams import single_stream
from trainer.config import RunConfig
from trainer.data.randomness import keyed_normals
from trainer.data.source import check_tile_sizes, open_run_tiles
from trainer.data.tiles import TileDataset
from trainer.data.transforms import to_uint8
from trainer.engine.checkpoints import RESTORE_RUN, find_checkpoint, load_weights
from trainer.engine.images import colour_mask, sheet
from trainer.errors import CheckpointError, DataError
from trainer.metrics.segmentation import class_iou, counted_classes, mean_iou, pixel_confusion
from trainer.models.segmenter import LiteUNet, PlainUNet
from trainer.models.trunks import load_trunk_weights
from trainer.reporter import Reporter
from trainer.sampling.sheets import class_colours
from trainer.section import Positive, Section, Share
from trainer.stage import NO_VALIDATION, Classes, StagePlan, StepOutput

FACTS = "segmenter.json"
TRAIN, VALIDATION = "train", "val"
_VALIDATION_SEED = 0
_FLOAT_BYTES = 4


class Network(Section):
    """The network: `unet` learns from nothing, `efficientnet_lite0` decodes pretrained features.

    `width` are the channels of the first stage or of the decoder, a multiple of 4. `num_stages` is
    used by unet; `weights` ("packaged", a local file, or null for random ones) and `freeze` by
    efficientnet_lite0.
    """

    encoder: Literal["unet", "efficientnet_lite0"] = "unet"
    width: Annotated[int, Field(ge=4, multiple_of=4)] = 32
    num_stages: Annotated[int, Field(ge=1, le=6)] = 5
    weights: str | None = None
    freeze: bool = False


class SegmenterValidation(Section):
    """How many crops are segmented for the metrics, at once, and for the sheet."""

    num_tiles: Positive = 64
    batch_size: Positive = 8
    num_images: Positive = 4


class Config(RunConfig):
    """A run of the recipe segmenter.

    `class_balance` is the exponent of the rarity that weighs a class: 0 counts pixels alike, 1
    classes. `colour` is the standard deviation of changes to brightness and contrast of each
    colour channel, as a share of the range.
    """

    recipe: Literal["segmenter"] = "segmenter"
    network: Network = Network()
    class_balance: Share = 0.5
    colour: Annotated[float, Field(ge=0, le=1)] = 0.05
    validation: SegmenterValidation = SegmenterValidation()


def stages(config: Config) -> list[StagePlan]:
    """Return the one stage of the recipe."""
    tiles = open_run_tiles(config)
    labelled_rows(tiles, TRAIN, config.manifest)

    def prepare(run: Path, reporter: Reporter) -> None:
        if not len(rows_of(tiles, VALIDATION)):
            reporter.warn(NO_VALIDATION.format("miou"))
        checksums.publish_json(run, FACTS, {"label_map": tiles.label_map.to_json()})

    def classes(_: SegmenterStage, checkpoint: Path) -> Classes:
        before = read_label_map(checkpoint)
        return Classes(
            [cls.name for cls in before.classes],
            [cls.name for cls in tiles.label_map.classes],
            lambda count: build_segmenter(config.network, count),
        )

    return [
        StagePlan("", lambda _: SegmenterStage(config, tiles), prepare=prepare, classes=classes)
    ]


def describe(config: Config) -> dict[str, Any]:
    """Return parameters, tiles, steps and memory of a run to come."""
    tiles = open_run_tiles(config)
    with torch.device("meta"):
        module = build_segmenter(config.network, tiles.label_map.num_classes)
    sizes = [parameter.numel() for parameter in module.parameters()]
    trained = sum(part.numel() for part in module.parameters() if part.requires_grad)
    rows = labelled_rows(tiles, TRAIN, config.manifest)
    check_tile_sizes(tiles, config, rows)
    num_positions = config.duration.num_positions(config.batch_size, len(rows))
    return {
        "parameters": {"segmenter": sum(sizes), "trained": trained},
        "streams": [{"name": "with labels", "probability": 1.0, "tiles": len(rows)}],
        "steps": num_positions // config.batch_size,
        "images": num_positions,
        "memory_bytes": {"weights, gradients, optimiser": 4 * _FLOAT_BYTES * trained},
    }


def build_segmenter(network: Network, num_classes: int) -> nn.Module:
    """Return the untrained network."""
    if network.encoder == "unet":
        return PlainUNet(num_classes, network.width, network.num_stages)
    return LiteUNet(num_classes, network.width, freeze=network.freeze)


def rows_of(tiles: TileSource, split: str) -> np.ndarray:
    """Return the tiles of a split that have labelled pixels, int64, ascending."""
    return np.flatnonzero((tiles.split == split) & (tiles.pool == "conditional"))


def labelled_rows(tiles: TileSource, split: str, manifest: str) -> np.ndarray:
    """Return `rows_of`.

    Raises:
        DataError: When there are none.
    """
    rows = rows_of(tiles, split)
    if not len(rows):
        raise DataError(
            f"there is no tile with labelled pixels in the split {split}",
            path=manifest,
            hint="histoprep manifest --help: --split and --map",
        )
    return rows


def class_weights(class_pixels: np.ndarray, balance: float) -> np.ndarray:
    """Return the weight of each class, float32 [C]: (pixels ** -balance), with a mean of 1 over
    pixels; 0 for a class without any.

    Args:
        class_pixels: Pixels of each class in the training tiles, int [C].
        balance: In [0, 1]; see `Config`.
    """
    occurs = class_pixels > 0
    rarity = np.where(occurs, np.maximum(class_pixels, 1).astype(float) ** -balance, 0.0)
    weights: np.ndarray = rarity * class_pixels.sum() / (rarity * class_pixels).sum()
    return weights.astype(np.float32)


def pixel_loss(scores: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted cross-entropy of each sample, float32 [batch]; ignored pixels have none.

    Args:
        scores: Logits [batch, classes, height, width].
        masks: Class ids [batch, height, width], 255 for pixels without a class.
        weights: Weight of each class, float32 [classes].
    """
    truth = masks.long()
    entropy = nnf.cross_entropy(
        scores.float(), truth, weight=weights, ignore_index=IGNORED_ID, reduction="none"
    )
    counted = (truth != IGNORED_ID).flatten(1).sum(1).clamp(min=1)
    return entropy.flatten(1).sum(1) / counted


@dataclass(eq=False)
class ColouredTiles:
    """Training crops whose brightness and contrast change by channel, keyed by the position."""

    crops: TileDataset
    spread: float

    def batch(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Return the samples of `positions`."""
        batch = self.crops.batch(positions)
        if self.spread:
            drawn = keyed_normals(self.crops.seed, positions, "colour", (2, 3, 1, 1))
            change = torch.from_numpy(drawn) * self.spread
            batch["image"] = batch["image"] * (1 + change[:, 0]) + 2 * change[:, 1]
        return batch


class SegmenterStage:
    """The one stage; see `trainer.stage.Stage`."""

    name = ""
    best: tuple[str, Literal["min", "max"]] | None = ("miou", "max")
    chance: tuple[str, float] | None = None
    breakdown: Mapping[str, Sequence[str]] = {}
    flops_per_image: int | None = None

    def __init__(self, config: Config, tiles: TileSource) -> None:
        self.config, self.label_map = config, tiles.label_map
        self.module: nn.Module = build_segmenter(config.network, self.label_map.num_classes)
        self.weights_from: Mapping[str, str] = {}
        if isinstance(self.module, LiteUNet):
            source = load_trunk_weights(self.module.trunk, config.network.weights)
            self.weights_from = {"encoder": str(source)}
        train = labelled_rows(tiles, TRAIN, config.manifest)
        self.num_tiles = len(train)
        self.num_positions = config.duration.num_positions(config.batch_size, self.num_tiles)
        self._training = ColouredTiles(self._crops(tiles, train, config.seed), config.colour)
        held_out = rows_of(tiles, VALIDATION)
        rows = held_out if len(held_out) else train
        self._validation = self._crops(tiles, rows, _VALIDATION_SEED, augmented=False)
        self._num_validated = min(config.validation.num_tiles, len(rows))
        pixels = tiles.class_pixels[train].sum(axis=0)
        self._weights = torch.from_numpy(class_weights(pixels, config.class_balance))
        self._device = torch.device("cpu")

    def _crops(
        self, tiles: TileSource, rows: np.ndarray, seed: int, *, augmented: bool = True
    ) -> TileDataset:
        data = self.config.data
        return TileDataset(
            tiles,
            single_stream(rows),
            seed,
            data.image_size,
            fit=data.fit,
            flips=data.flips and augmented,
            turns=data.turns and augmented,
            on_unreadable=data.on_unreadable,
        )

    def dataset(self) -> ColouredTiles:
        """Return the samples by position: crops of labelled training tiles, every tile once a
        pass.
        """
        return self._training

    def parameters_for(self, module: nn.Module) -> Iterable[Any]:
        """Return the parameters that are trained, as one group."""
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> StepOutput:
        """Return `pixel_loss`, and the share of pixels that are right as `train_accuracy`."""
        scores = module(batch["image"])
        masks = batch["mask"]
        loss = pixel_loss(scores, masks, self._weights.to(scores.device))
        counted = masks != IGNORED_ID
        hits = (scores.argmax(dim=1) == masks) & counted
        accuracy = hits.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)
        return StepOutput(loss, {"train_accuracy": accuracy.detach()})

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Return `miou` (see `counted_classes`), `accuracy` of pixels, and the IoU of each class
        that occurs.
        """
        counts = np.zeros((self.label_map.num_classes,) * 2, dtype=np.int64)
        for start in range(0, self._num_validated, self.config.validation.batch_size):
            stop = min(start + self.config.validation.batch_size, self._num_validated)
            _, masks, predicted = self._segment(module, np.arange(start, stop))
            for mask, found in zip(masks, predicted, strict=True):
                counts += pixel_confusion(mask, found, len(counts))
        occurs = counts.sum(axis=1) > 0
        found = class_iou(counts)
        return {
            "miou": float(mean_iou(counts, counted_classes(counts))),
            "accuracy": float(np.trace(counts) / max(1, counts.sum())),
        } | {
            f"iou_{cls.id}": float(found[cls.id])
            for cls in self.label_map.classes
            if occurs[cls.id]
        }

    def images(self, module: nn.Module) -> dict[str, np.ndarray]:
        """Return a sheet: each row a tile, its mask and the predicted one."""
        count = min(self.config.validation.num_images, self._num_validated)
        images, masks, predicted = self._segment(module, np.arange(count))
        colours = class_colours(self.label_map)
        rows = [
            [image, colour_mask(mask, colours), colour_mask(found, colours)]
            for image, mask, found in zip(images, masks, predicted, strict=True)
        ]
        return {"tile-mask-predicted": sheet(rows)}

    def to(self, device: torch.device) -> None:
        """Remember where validation takes place; the frozen encoder is part of the module."""
        self._device = device

    def name_samples(self, positions: Sequence[int]) -> list[str]:
        """Return the tile ids at training positions."""
        crops = self._training.crops
        rows = crops.placement.place(np.asarray(positions), self.config.seed)[1]
        return [str(tile_id) for tile_id in crops.tiles.tile_ids[rows]]

    def _segment(
        self, module: nn.Module, positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return images uint8 [n, H, W, 3], masks and predicted masks uint8 [n, H, W]."""
        batch = self._validation.batch(positions)
        predicted = module(batch["image"].to(self._device)).argmax(dim=1)
        return (
            to_uint8(batch["image"].numpy()),
            batch["mask"].numpy(),
            predicted.to(torch.uint8).cpu().numpy(),
        )


def load_segmenter(path: Path) -> tuple[nn.Module, LabelMap, Config]:
    """Return the network of a run or checkpoint in evaluation mode, its classes and configuration.

    The best weights by validation, averaged where there are any.

    Raises:
        UsageError: For a run of another recipe.
        CheckpointError: When there is none or it does not fit.
    """
    weights, config = load_weights(path)
    if not isinstance(config, Config):
        raise UsageError(
            "this run has not trained a segmenter",
            path=path,
            seen=f"recipe {config.recipe}",
            expected="recipe segmenter",
            hint="trainer fit --recipe segmenter --manifest MANIFEST",
        )
    label_map = read_label_map(find_checkpoint(path.absolute()))
    module = build_segmenter(config.network, label_map.num_classes)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit the configuration of the run: {error}", path=path
        ) from error
    return module.eval().requires_grad_(False), label_map, config


def read_label_map(checkpoint: Path) -> LabelMap:
    """Return the classes of the run of a checkpoint.

    Raises:
        CheckpointError: When they cannot be read.
    """
    place = checkpoint.parents[1] / FACTS
    try:
        return LabelMap.from_json(checksums.read_json(place, hint=RESTORE_RUN)["label_map"])
    except (OSError, KeyError) as error:
        raise CheckpointError(
            f"the classes of the run cannot be read: {error}", path=place
        ) from error
