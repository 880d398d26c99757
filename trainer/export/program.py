"""A segmenter as a program of torch.export: images to class scores, without the code of the
network.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from histoprep import checksums
from histoprep.durable import write_text
from histoprep.labels import format_label_map
from trainer.export.card import card_of
from trainer.recipes.segmenter import Config, load_segmenter
from trainer.sampling.masks import classes_as_sources

PROGRAM = "segmenter.pt2"


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
    write_text(out / "README.md", card_of(run, config, label_map, program=returned))
    checksums.list_all_files(out)
    return out / PROGRAM


def _program_of(module: nn.Module, size: int) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    example = (torch.zeros(2, 3, size, size),)
    with torch.no_grad():
        return torch.export.export(module.eval(), example, dynamic_shapes=({0: batch},))
