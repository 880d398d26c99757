"""Stage 1: training the guidance classifier."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from trainer.data.loader import loader
from trainer.metrics.classification import (
    auc_one_vs_one,
    auc_one_vs_rest,
    confusion_matrix,
    count_scores,
    mean_defined,
)
from trainer.models.guidance_classifier import Guidance
from trainer.models.trunks import normalise_images
from trainer.recipes.diffmic_config import Config
from trainer.recipes.diffmic_data import LabelDataset, OrderedTiles, ordered_tiles, training_dataset
from trainer.recipes.diffmic_inference import build_classifier, load_pretrained
from trainer.recipes.diffmic_labels import LabelledTiles
from trainer.stage import StepOutput

NAME = "guidance"


class GuidanceStage:
    """Cross-entropy on the global and local logits; the best by macro F1 of the fused ones on the
    validation tiles.
    """

    name = NAME
    best: tuple[str, Literal["min", "max"]] | None = ("f1", "max")
    flops_per_image: int | None = None

    def __init__(self, config: Config, data: LabelledTiles) -> None:
        self.config, self.data = config, data
        torch.manual_seed(config.seed)
        self.module: nn.Module = build_classifier(config, len(data.names))
        self.weights_from: Mapping[str, str] = load_pretrained(config, self.module, None)
        self._validation = ordered_tiles(config, data, "val")
        self.num_tiles = len(data.rows["train"])
        self.num_positions = config.guidance.duration.num_positions(
            config.batch_size, self.num_tiles
        )
        self.chance: tuple[str, float] | None = ("recall", recall_by_guessing(data.counts()["val"]))
        self.breakdown: Mapping[str, Sequence[str]] = {"class": data.names}
        self._class_weights = (
            class_weights(data.labels[data.rows["train"]], len(data.names))
            if config.guidance.balanced
            else None
        )

    def dataset(self) -> LabelDataset:
        """Return the training tiles by position."""
        return training_dataset(self.config, self.data, for_diffusion=False)

    def parameters_for(self, module: nn.Module) -> Iterable[Any]:
        """Return the parameters with this stage's share of the learning rate."""
        return [
            {
                "params": [
                    parameter for parameter in module.parameters() if parameter.requires_grad
                ],
                "lr_scale": self.config.guidance.lr / self.config.optimiser.lr,
            }
        ]

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> StepOutput:
        """Return the sum of the chosen cross-entropies of each image."""
        guidance: Guidance = module(normalise_images(batch["image"]))
        labels, settings = batch["label"], self.config.guidance
        parts = {
            "global": guidance.global_logits,
            "local": guidance.local_logits,
            "fused": guidance.fused,
        }
        weights = None if self._class_weights is None else self._class_weights.to(labels.device)
        losses = {
            name: nnf.cross_entropy(
                parts[name].float(),
                labels,
                weight=weights,
                label_smoothing=settings.label_smoothing,
                reduction="none",
            )
            for name in settings.loss_terms
        }
        hits = (guidance.fused.argmax(dim=1) == labels).float()
        values = {f"loss_{name}": value.detach() for name, value in losses.items()} | {
            "train_accuracy": hits
        }
        return StepOutput(torch.stack(list(losses.values())).sum(dim=0), values, {"class": labels})

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Return accuracy, f1, precision, recall, auc and kappa of the fused logits on the
        validation tiles, and f1 of both parts.
        """
        labels, parts = [], []
        for batch in evaluation_batches(self._validation, self.config):
            guidance: Guidance = module(normalise_images(batch["image"].to(_device_of(module))))
            parts.append(
                torch.stack([guidance.fused, guidance.global_logits, guidance.local_logits])
                .float()
                .cpu()
            )
            labels.append(batch["label"])
        truth, logits = torch.cat(labels).numpy(), torch.cat(parts, dim=1).softmax(dim=2).numpy()
        scores = validation_scores(truth, logits[0])
        return scores | {
            f"f1_{name}": validation_scores(truth, head_logits)["f1"]
            for name, head_logits in zip(("global", "local"), logits[1:], strict=True)
        }

    def images(self, module: nn.Module) -> Mapping[str, np.ndarray]:
        """Return nothing: `trainer test` draws the sheets."""
        return {}

    def to(self, device: torch.device) -> None:
        """Nothing is frozen here."""

    def name_samples(self, positions: Sequence[int]) -> list[str]:
        """Return the tile ids at training positions."""
        return name_samples(self.data, self.dataset(), positions)


def name_samples(data: LabelledTiles, dataset: LabelDataset, positions: Sequence[int]) -> list[str]:
    """Return the tile ids at training positions."""
    rows = dataset.images.placement.place(np.asarray(positions), dataset.images.seed)[1]
    return [str(tile_id) for tile_id in data.tiles.tile_ids[rows]]


def evaluation_batches(tiles: OrderedTiles, config: Config) -> Iterable[dict[str, Tensor]]:
    """Return the batches of tiles in order, the last one as short as it is."""
    return loader(
        tiles,
        range(len(tiles.rows)),
        max(1, config.batch_size // config.accumulate),
        config.data.num_workers,
    )


def validation_scores(
    truth: np.ndarray, scores: np.ndarray, probabilities: np.ndarray | None = None
) -> dict[str, float]:
    """Return the numbers that are logged; f1, precision and recall are macro means over all
    classes, auc one-vs-rest, auc_ovo one-vs-one.

    Args:
        truth: Labels, int [n].
        scores: Scores [n, C].
        probabilities: The same as numbers that sum to 1 in a row, None where `scores` do.
    """
    shares = scores if probabilities is None else probabilities
    counted = count_scores(confusion_matrix(truth, scores.argmax(axis=1), scores.shape[1]))
    names = {
        "accuracy": "accuracy",
        "f1": "macro_f1",
        "precision": "macro_precision",
        "recall": "macro_recall",
        "kappa": "kappa",
    }
    return {short: float(counted[name]) for short, name in names.items()} | {
        "auc": mean_defined(auc_one_vs_rest(truth, scores)),
        "auc_ovo": auc_one_vs_one(truth, shares),
    }


def recall_by_guessing(counts: Mapping[str, int]) -> float:
    """Return the macro recall that guessing exceeds in 2.5 % of validations.

    Guesses do not depend on the tile, so that the recalls of all classes add up to 1 on average;
    their spread is binomial and largest when each class is guessed as often.

    Args:
        counts: Validation tiles by class; classes without tiles have a recall of 0.
    """
    num_classes = len(counts)
    share = 1 / num_classes
    variance = sum(share * (1 - share) / count for count in counts.values() if count)
    return share + 1.96 * math.sqrt(variance) / num_classes


def class_weights(labels: np.ndarray, num_classes: int) -> Tensor:
    """Return n / (C * n_c) for each class, float32 [C]: mean 1 over tiles."""
    counts = np.bincount(labels, minlength=num_classes)
    return torch.tensor(len(labels) / (num_classes * np.maximum(counts, 1)), dtype=torch.float32)


def _device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
