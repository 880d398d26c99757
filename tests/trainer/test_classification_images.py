"""Images of a test, whatever the classes are called."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.classification.images import (
    SheetFacts,
    draw_confusion,
    draw_roc,
    draw_sheet,
    draw_training,
)

NAMES = ("cost $x_{1$", "$a$ & <b>", "病理")


def facts(title: str) -> SheetFacts:
    num_classes, draw = len(NAMES), np.random.default_rng(0)
    return SheetFacts(
        title=title,
        image=draw.integers(0, 256, (32, 32, 3)).astype(np.uint8),
        saliency=draw.random((8, 8)),
        corners=np.array([[0, 0], [8, 8]]),
        weights=np.array([0.25, 0.75]),
        crop_px=16,
        guidance_map=draw.random((num_classes, 5)),
        path=draw.random((4, num_classes)),
        guidance=draw.random(num_classes),
        probabilities=draw.random(num_classes),
    )


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.slow
def test_names_are_taken_as_they_are(tmp_path: Path) -> None:
    truth, scores = np.arange(9) % 3, np.random.default_rng(1).random((9, 3))
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("step,loss,val_f1\n1,0.5,\n2,0.25,0.75\n")
    drawn = [
        draw_confusion(np.eye(3, dtype=np.int64), NAMES, NAMES[0]),
        draw_roc(truth, {"diffusion": scores}, NAMES),
        draw_sheet(facts(NAMES[0]), NAMES),
        draw_training({"fit": metrics}),
    ]
    for image in drawn:
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert("L"))
        assert pixels.std() > 5


def test_a_long_name_is_cut_at_the_end() -> None:
    same = [
        draw_confusion(np.eye(1, dtype=np.int64), ["n" * 30 + end], "title") for end in ("a", "b")
    ]
    assert same[0] == same[1] != draw_confusion(np.eye(1, dtype=np.int64), ["n" * 20], "title")
