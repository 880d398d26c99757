"""Stage 2: training the label denoiser under the frozen guidance classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from trainer.diffusion.label_diffusion import (
    focal_weights,
    interpolate_map,
    label_loss,
    label_map,
    label_probabilities,
    local_shares,
)
from trainer.diffusion.label_schedule import add_noise, alpha_bars
from trainer.engine.checkpoints import load_weights
from trainer.models.label_denoiser import LabelDenoiser
from trainer.models.trunks import normalise_images
from trainer.recipes.diffmic_config import Config
from trainer.recipes.diffmic_data import LabelDataset, ordered_tiles, training_dataset
from trainer.recipes.diffmic_guidance import NAME as GUIDANCE
from trainer.recipes.diffmic_guidance import (
    evaluation_batches,
    name_samples,
    recall_by_guessing,
    validation_scores,
)
from trainer.recipes.diffmic_inference import (
    build_classifier,
    build_denoiser,
    classify,
    guidance_vectors,
    load_pretrained,
    start_generator,
)
from trainer.recipes.diffmic_labels import LabelledTiles
from trainer.stage import StepOutput

NAME = "diffusion"


class DenoisingStage:
    """Focal-weighted squared error of the noise on label maps; the best by macro F1 of the denoised
    labels on the validation tiles.
    """

    name = NAME
    best: tuple[str, Literal["min", "max"]] | None = ("f1", "max")
    flops_per_image: int | None = None

    def __init__(self, config: Config, data: LabelledTiles, run: Path) -> None:
        self.config, self.data = config, data
        torch.manual_seed(config.seed + 1)
        self.module: nn.Module = build_denoiser(config, len(data.names))
        self.weights_from: Mapping[str, str] = load_pretrained(config, None, self.module)
        # Frozen: evaluation mode for good, so that its batch statistics stay as they are.
        self.classifier = build_classifier(config, len(data.names)).eval().requires_grad_(False)
        self.classifier.load_state_dict(load_weights(run / GUIDANCE)[0])
        self._validation = ordered_tiles(config, data, "val")
        self.num_tiles = len(data.rows["train"])
        self.num_positions = config.duration.num_positions(config.batch_size, self.num_tiles)
        self.chance: tuple[str, float] | None = ("recall", recall_by_guessing(data.counts()["val"]))
        self.breakdown: Mapping[str, Sequence[str]] = {"class": data.names}
        self._levels = alpha_bars(config.diffusion.num_train_timesteps)

    def dataset(self) -> LabelDataset:
        """Return the training tiles by position, with noise and timesteps of every point."""
        return training_dataset(self.config, self.data, for_diffusion=True)

    def parameters_for(self, module: nn.Module) -> Iterable[Any]:
        """Return the parameters of the denoiser, its encoders among them unless these are
        frozen.
        """
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> StepOutput:
        """Return the weighted error of each image's map; every point has its own timestep and
        noise.
        """
        settings, labels, noise = self.config.diffusion, batch["label"], batch["noise"]
        images = normalise_images(batch["image"])
        with torch.no_grad():
            guidance = self.classifier(images)
        guidance_map = interpolate_map(
            *guidance_vectors(guidance, settings.guidance), local_shares(settings.num_points)
        )
        clean = label_map(labels, len(self.data.names), settings.num_points)
        noisy = add_noise(clean, noise, self._levels[batch["timesteps"]][:, None])
        predicted = module(images, guidance.crops, noisy, guidance_map, batch["timesteps"])
        weights = focal_weights(
            guidance.fused, labels, alpha=settings.focal_alpha, gamma=settings.focal_gamma
        )
        target = noise if settings.prediction_type == "epsilon" else clean
        loss = label_loss(predicted.float(), target, weights)
        return StepOutput(
            loss,
            {"unweighted_loss": (loss / weights).detach(), "focal_weight": weights},
            {"class": labels},
        )

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Return accuracy, f1, precision, recall, auc and kappa on the validation tiles, from
        starts that are the same each time.
        """
        labels, scores, fused = [], [], []
        device = next(module.parameters()).device
        for number, batch in enumerate(evaluation_batches(self._validation, self.config)):
            generator = start_generator(self.config.seed, number)
            classified = classify(
                self.classifier,
                cast(LabelDenoiser, module),
                batch["image"].to(device),
                self.config.diffusion,
                generator,
            )
            labels.append(batch["label"])
            scores.append(classified.scores.float().cpu())
            fused.append(classified.guidance.fused.float().cpu())
        truth = torch.cat(labels).numpy()
        alone = validation_scores(truth, torch.cat(fused).softmax(dim=1).numpy())
        mean = torch.cat(scores)
        probabilities = label_probabilities(mean).numpy()
        return validation_scores(truth, mean.numpy(), probabilities) | {"f1_guidance": alone["f1"]}

    def images(self, module: nn.Module) -> Mapping[str, np.ndarray]:
        """Return nothing: `trainer test` draws the sheets."""
        return {}

    def to(self, device: torch.device) -> None:
        """Move the frozen classifier and the noise levels."""
        self.classifier.to(device)
        self._levels = self._levels.to(device)

    def name_samples(self, positions: Sequence[int]) -> list[str]:
        """Return the tile ids at training positions."""
        return name_samples(self.data, self.dataset(), positions)
