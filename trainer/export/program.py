"""A segmenter or a classifier as a program of torch.export: images to class scores, without the
code of the network.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from histoprep import checksums
from histoprep.durable import write_text
from histoprep.labels import format_label_map
from trainer.classification.network import RunClassifier, open_classifier
from trainer.diffusion.label_diffusion import point_layout
from trainer.export.card import card_of, use_of_program
from trainer.recipes.diffmic_config import Config as ClassifierConfig
from trainer.recipes.diffmic_config import DiffusionSection
from trainer.recipes.diffmic_denoising import NAME as DIFFUSION
from trainer.recipes.diffmic_inference import classify_from, draw_starts, uses_distinct_points
from trainer.recipes.segmenter import Config, load_segmenter
from trainer.sampling.masks import classes_as_sources

PROGRAM, CLASSIFIER = "segmenter.pt2", "classifier.pt2"


def export_segmenter(run: Path, out: Path, config: Config) -> Path:
    """Write segmenter.pt2, the classes and a model card, and return the path of the program.

    It takes float32 images [batch, 3, size, size] in [-1, 1], any batch, at the size that the run
    was trained at, and returns class scores [batch, classes, size, size].

    Raises:
        CheckpointError: When there is no whole checkpoint.
    """
    module, label_map, _ = load_segmenter(run)
    size = config.data.image_size
    out.mkdir(parents=True, exist_ok=True)
    program = _program_of(module, size)
    torch.export.save(program, out / PROGRAM)
    write_text(out / "label_map.yml", format_label_map(classes_as_sources(label_map)))
    returned = f"float32 [batch, {label_map.num_classes}, {size}, {size}]"
    returned = f"float32 [batch, {label_map.num_classes}, {size}, {size}]"
    usage = use_of_program(PROGRAM, size, f"scores = program(images)  # {returned}")
    classes = [(cls.id, cls.name) for cls in label_map.classes]
    write_text(out / "README.md", card_of(run, config, classes, usage))
    checksums.list_all_files(out)
    return out / PROGRAM


def export_classifier(run: Path, out: Path, config: ClassifierConfig) -> Path:
    """Write classifier.pt2, classes.json and a model card, and return the path of the program.

    It takes float32 images [batch, 3, size, size] in [-1, 1] and the draws that denoising starts
    from, float32 [samples, batch, classes, h, w], any batch. It returns the scores that `trainer
    predict` gives, their spread over the samples, and the logits of the guidance, each [batch,
    classes].

    Raises:
        CheckpointError: When there is no whole checkpoint of both stages.
    """
    model = open_classifier(run, device="cpu")
    distinct = uses_distinct_points(model.denoiser, model.diffusion)
    size = config.data.image_size
    generator = torch.Generator().manual_seed(0)
    draws = draw_starts(model.diffusion, 2, len(model.names), generator, distinct)
    batch = torch.export.Dim("batch", min=1)
    out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        program = torch.export.export(
            _Classifier(model, distinct).eval(),
            (torch.zeros(2, 3, size, size), draws),
            dynamic_shapes=({0: batch}, {1: batch}),
        )
    torch.export.save(program, out / CLASSIFIER)
    write_text(out / "classes.json", json.dumps(list(model.names), ensure_ascii=False) + "\n")
    usage = use_of_program(CLASSIFIER, size, _call_of(model.diffusion, draws))
    classes = list(enumerate(model.names))
    write_text(out / "README.md", card_of(run / DIFFUSION, config, classes, usage))
    checksums.list_all_files(out)
    return out / CLASSIFIER


class _Classifier(nn.Module):
    """Both networks of a run and the denoising of labels as one function."""

    def __init__(self, model: RunClassifier, distinct: bool) -> None:
        super().__init__()
        self.guidance, self.denoiser = model.guidance, model.denoiser
        self._diffusion, self._distinct = model.diffusion, distinct

    def forward(self, images: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, their spread over the samples, and the logits of the guidance."""
        found = classify_from(
            self.guidance, self.denoiser, images, self._diffusion, draws, distinct=self._distinct
        )
        spread = found.samples.std(dim=0, correction=0)
        return found.scores, spread, found.guidance.fused


def _call_of(diffusion: DiffusionSection, draws: Tensor) -> str:
    """Return the lines that draw the starts and call the program."""
    samples, _, classes, height, width = draws.shape
    drawn = f"torch.randn({samples}, 1, {classes}, {height}, {width})"
    lines = [f"draws = {drawn}  # samples, batch, classes, points"]
    if diffusion.start == "uniform_map":
        shares = point_layout(diffusion.num_points, distinct=height == 1)[0].tolist()
        lines = [
            f"shares = torch.tensor({shares})",
            f"first, second = torch.rand(2, {samples}, 1, {classes}, 1, 1)",
            "draws = (1 - shares) * first + shares * second",
        ]
    elif diffusion.start == "gaussian_diagonal" and height > 1:
        lines += [
            f"points = torch.arange({height})",
            "draws = draws[..., 0, (points[:, None] - points).abs()]",
        ]
    lines.append("scores, spread, guidance_logits = program(images, draws)")
    return "\n".join(lines)


def _program_of(module: nn.Module, size: int) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    example = (torch.zeros(2, 3, size, size),)
    with torch.no_grad():
        return torch.export.export(module.eval(), example, dynamic_shapes=({0: batch},))
