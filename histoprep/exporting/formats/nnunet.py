"""A raw data set of nnU-Net v2: PNG images and masks, `dataset.json`, and the folds.

Source of the format: documentation/dataset_format.md of nnU-Net 2. Training and validation tiles
are cases of `imagesTr`, test tiles of `imagesTs`. The background is 0, classes follow without gaps,
and pixels without a class have the last number, which nnU-Net leaves out of the loss.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from histoprep import imageio
from histoprep.exporting.model import UNLABELLED, Annotated, Contents, ExportTile, ImageRule
from histoprep.exporting.numbering import Numbers
from histoprep.image_formats import PNG

DATASET, FOLDS = "dataset.json", "splits_final.json"
BACKGROUND_NAME, IGNORE_NAME = "background", "ignore"
_TRAINED = ("train", "val")
_FIRST_CHANNEL = "_0000"


@dataclass(frozen=True, slots=True)
class NnUNet:
    """The folders `imagesTr`, `labelsTr`, `imagesTs` and `labelsTs`."""

    name: ClassVar[str] = "nnunet"
    title: ClassVar[str] = "nnU-Net"
    consecutive: ClassVar[bool] = True
    first_number: ClassVar[int] = 1
    is_flat: ClassVar[bool] = True
    keeps_ignored: ClassVar[bool] = True
    # Every image has the same suffix and three channels.
    image_rule: ClassVar[ImageRule] = ImageRule((PNG,), frozenset(("RGB",)))

    def image_name(self, tile: ExportTile) -> str:
        """Return the path of the image, whose three channels lie in one file."""
        return f"{_folder('images', tile)}/{tile.name}{_FIRST_CHANNEL}"

    def output_name(self, tile: ExportTile) -> str | None:
        """Return the path of the mask."""
        return f"{_folder('labels', tile)}/{tile.name}.png"

    def annotate(self, tile: ExportTile, numbers: np.ndarray, meaning: Numbers) -> Annotated:
        """Return the mask as PNG."""
        return Annotated(imageio.encode_mask_png(numbers))

    def summaries(self, contents: Contents) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield `dataset.json`, and `splits_final.json` where the manifest says which cases are
        for validation.
        """
        cases = [row.tile for row in contents.rows() if row.tile.split in _TRAINED]
        dataset = {
            "name": contents.title,
            "channel_names": {"0": "R", "1": "G", "2": "B"},
            "labels": _labels(contents),
            "numTraining": len(cases),
            "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO",
        }
        yield DATASET, iter([json.dumps(dataset, indent=2) + "\n"])
        folds = _folds(cases, contents.folds)
        if folds:
            yield FOLDS, iter([json.dumps(folds, indent=1) + "\n"])


def _folder(kind: str, tile: ExportTile) -> str:
    if tile.split == UNLABELLED:
        return f"{kind}Unlabelled"
    return f"{kind}{'Tr' if tile.split in _TRAINED else 'Ts'}"


def _labels(contents: Contents) -> dict[str, int]:
    """Return the number of each label; two names have a meaning for nnU-Net that no class may
    take.
    """
    labels = {BACKGROUND_NAME: 0}
    for number, cls in contents.numbers.classes:
        taken = cls.name in (BACKGROUND_NAME, IGNORE_NAME)
        labels[f"class {cls.name}" if taken else cls.name] = number
    if contents.num_ignored_pixels:
        labels[IGNORE_NAME] = contents.numbers.ignored
    return labels


def _folds(cases: list[ExportTile], num_folds: int) -> list[dict[str, Any]]:
    """Return training and validation cases: of each fold, or of the splits."""
    if num_folds:
        members = [
            (
                [case.fold not in (None, fold) for case in cases],
                [case.fold == fold for case in cases],
            )
            for fold in range(num_folds)
        ]
    else:
        trained, validated = ([case.split == split for case in cases] for split in _TRAINED)
        members = [(trained, validated)]
    found = []
    for flags in members:
        train, val = (
            [case.name for case in itertools.compress(cases, is_member)] for is_member in flags
        )
        if train and val:
            found.append({"train": train, "val": val})
    return found
