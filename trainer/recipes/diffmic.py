"""The diffusion classifier: stage 1 trains a guidance classifier, stage 2 a denoiser of labels
under its guidance.

Source: DiffMIC-v2, IEEE TMI 44(5):2244-2255, 2025. Presets: diffmic-faithful-224 makes the choices
of the published code, diffmic-224 the repaired ones, diffmic-tiny learns toy data in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.recipes.diffmic_config import Config
from trainer.recipes.diffmic_denoising import NAME as DIFFUSION
from trainer.recipes.diffmic_denoising import DenoisingStage
from trainer.recipes.diffmic_guidance import NAME as GUIDANCE
from trainer.recipes.diffmic_guidance import GuidanceStage
from trainer.recipes.diffmic_inference import build_classifier, build_denoiser
from trainer.recipes.diffmic_labels import (
    LabelledTiles,
    labelled_tiles,
    read_split,
    write_split,
)
from trainer.reporter import Reporter
from trainer.stage import Classes, StagePlan

__all__ = ["Config", "describe", "stages"]

_FLOAT_BYTES = 4


def stages(config: Config) -> Sequence[StagePlan]:
    """Return both stages.

    Raises:
        DataError: When the manifest cannot feed a classifier.
        IntegrityError: When a group or a copy of an image is in two splits.
    """
    data = labelled_tiles(config)
    prepare, classes = partial(_prepare, data), partial(_compare_classes, config, data)
    return [
        StagePlan(GUIDANCE, lambda _: GuidanceStage(config, data), prepare, classes),
        StagePlan(DIFFUSION, partial(DenoisingStage, config, data), prepare, classes),
    ]


def _compare_classes(
    config: Config, data: LabelledTiles, stage: GuidanceStage | DenoisingStage, checkpoint: Path
) -> Classes:
    """Return how the classes of a stage differ from those of a checkpoint that it begins with."""
    # RUN/guidance/checkpoints/best-00000001
    before = read_split(checkpoint.parents[2])["classes"]
    build = build_classifier if stage.name == GUIDANCE else build_denoiser
    return Classes(before, data.names, partial(build, config))


def describe(config: Config) -> dict[str, Any]:
    """Return parameter counts, the tiles of each split and class, and the memory of stage 2 in
    bytes without activations.
    """
    data = labelled_tiles(config)
    with torch.device("meta"):
        classifier, denoiser = (
            build_classifier(config, len(data.names)),
            build_denoiser(config, len(data.names)),
        )
    counts = {"guidance classifier": _count(classifier), "label denoiser": _count(denoiser)}
    trained = counts["label denoiser"] * _FLOAT_BYTES
    return {
        "parameters": counts,
        "streams": [
            {
                "name": f"{split}: {name}",
                "probability": 0.0 if split != "train" else tiles / len(data.rows["train"]),
                "tiles": tiles,
            }
            for split, classes in data.counts().items()
            for name, tiles in classes.items()
        ],
        "memory_bytes": {
            "weights and gradients": 2 * trained,
            "optimiser": 2 * trained,
            "average": trained if config.ema else 0,
            "frozen classifier": counts["guidance classifier"] * _FLOAT_BYTES,
        },
        "weights": {
            "guidance": config.guidance.weights or "random",
            "denoiser": config.denoiser.image_weights or "random",
        },
        **({"warnings": list(data.warnings)} if data.warnings else {}),
    }


def _prepare(data: LabelledTiles, run: Path, reporter: Reporter) -> None:
    write_split(run, data)
    for warning in data.warnings:
        reporter.warn(warning)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
