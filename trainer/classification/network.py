"""A trained diffusion classifier, opened from its run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer.device import choose_device
from trainer.engine.checkpoints import load_run_config, load_weights
from trainer.errors import ConfigError
from trainer.models.guidance_classifier import GuidanceClassifier
from trainer.models.label_denoiser import LabelDenoiser
from trainer.recipes.diffmic_config import Config, DiffusionSection
from trainer.recipes.diffmic_denoising import NAME as DIFFUSION
from trainer.recipes.diffmic_guidance import NAME as GUIDANCE
from trainer.recipes.diffmic_inference import (
    Classified,
    build_classifier,
    build_denoiser,
    classify,
    start_generator,
)
from trainer.recipes.diffmic_labels import read_split


@dataclass(frozen=True, eq=False)
class RunClassifier:
    """Both networks of a run in evaluation mode, its classes, and how labels are denoised."""

    config: Config
    names: tuple[str, ...]
    manifest_digest: str
    guidance: GuidanceClassifier
    denoiser: LabelDenoiser
    diffusion: DiffusionSection

    @property
    def device(self) -> torch.device:
        """Return where the networks are."""
        return next(self.denoiser.parameters()).device

    def classify(self, images: Tensor, number: int) -> Classified:
        """Return the classification of batch `number`, images [B, 3, H, W] in [-1, 1]; the number
        alone decides the starts.
        """
        generator = start_generator(self.config.seed, number)
        return classify(
            self.guidance, self.denoiser, images.to(self.device), self.diffusion, generator
        )


def open_classifier(
    run: Path,
    *,
    device: str = "auto",
    num_inference_steps: int | None = None,
    num_samples: int | None = None,
) -> RunClassifier:
    """Return the classifier of a run: the best of both stages by validation F1, averaged weights
    where there are any.

    `num_inference_steps` and `num_samples` replace those of the run.

    Raises:
        UsageError: For a device that is not here.
        ConfigError: For a run of another recipe.
        CheckpointError: For one that has no checkpoint of both stages.
    """
    place = choose_device(device)
    config = load_run_config(run)
    if not isinstance(config, Config):
        raise ConfigError(
            "this run trained no classifier",
            path=run,
            seen=f"recipe {config.recipe}",
            expected="recipe diffmic",
        )
    split = read_split(run)
    names = tuple(split["classes"])
    guidance, denoiser = build_classifier(config, len(names)), build_denoiser(config, len(names))
    for stage, module in ((GUIDANCE, guidance), (DIFFUSION, denoiser)):
        module.load_state_dict(load_weights(run / stage)[0])
        module.to(place).eval().requires_grad_(False)
    options = {"num_inference_steps": num_inference_steps, "num_samples": num_samples}
    diffusion = DiffusionSection.model_validate(
        config.diffusion.model_dump()
        | {name: value for name, value in options.items() if value is not None}
    )
    return RunClassifier(
        config, names, str(split["manifest_digest"]), guidance, denoiser, diffusion
    )
