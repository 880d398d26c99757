"""Shapes in signatures: checked in this process, and free of cost in production."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from shape_checks import MODULES, OFF

from trainer.data.transforms import to_float
from trainer.diffusion.objectives import Objective
from trainer.metrics.classification import confusion_matrix
from trainer.metrics.reconstruction import psnr
from trainer.models.denoisers.masks import class_fractions
from trainer.models.denoisers.reference_unet import Config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "call",
    [
        lambda: psnr(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 9)),
        lambda: psnr(torch.zeros(2, 3, 8, 8).byte(), torch.zeros(2, 3, 8, 8).byte()),
        lambda: to_float(np.zeros((8, 8, 4), np.uint8)),
        lambda: confusion_matrix(np.zeros(3, int), np.zeros(4, int), 2),
        lambda: Objective().noised(
            torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8), torch.zeros(3).long()
        ),
        lambda: class_fractions(torch.zeros(1, 2, 8, 8).long(), 3, 4),
        lambda: Config(dim=16).build(3, 4)(
            torch.zeros(2, 4, 8, 8), torch.zeros(2), torch.zeros(1, 1, 64, 64).byte()
        ),
    ],
    ids=["sizes", "kind", "channels", "lengths", "batches", "masks", "network"],
)
def test_a_wrong_shape_is_refused_in_tests(call) -> None:
    with pytest.raises(TypeCheckError, match="Called with parameters"):
        call()


def test_in_production_the_annotations_are_not_read() -> None:
    code = (
        "import torch\n"
        "from trainer.metrics.reconstruction import psnr\n"
        "assert not hasattr(psnr, '__wrapped__')\n"
        "assert psnr(torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 1)).shape == (2,)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert OFF not in os.environ


def _bare(path: Path) -> list[str]:
    """Return the public functions of a module with an argument that is a tensor of any shape."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            texts = [ast.unparse(item.annotation) for item in arguments if item.annotation]
            if {"Tensor", "np.ndarray", "Tensor | None"} & set(texts):
                found.append(node.name)
    return found


def test_public_tensor_functions_state_their_shapes() -> None:
    """But for those whose shapes a signature cannot say, or which check them themselves."""
    bare = {
        f"{path.stem}.{name}"
        for module in MODULES
        for path in (
            [ROOT / f"{module.replace('.', '/')}.py"]
            if (ROOT / f"{module.replace('.', '/')}.py").is_file()
            else (ROOT / module.replace(".", "/")).rglob("*.py")
        )
        for name in _bare(path)
    }
    assert bare == {
        "footprint.forward",  # stands in for attention: any number of leading axes
        "footprint.keep",
        "guidance.denoise",
        "guidance.both",
        "label_schedule.add_noise",  # alpha_bar broadcasts
        "label_schedule.ddim_step",
        "label_schedule.denoise_labels",
        "masks.check_masks",  # says in words what is wrong with a shape
        "reference_layers.at_least_float32",
        "transforms.apply_view",
        "transforms.corner",
        "transforms.pick",
    }
