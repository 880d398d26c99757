"""A data set of FiftyOne (`fiftyone.types.FiftyOneDataset`): images, masks, `samples.json`.

Source of the format: LegacyFiftyOneDatasetImporter in fiftyone/utils/data/importers.py, which every
version of FiftyOne since 0.7 reads; unlike the present form it holds no schema of a database.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from histoprep import imageio
from histoprep.exporting.formats.coco import ANY_COMMON
from histoprep.exporting.model import (
    Annotated,
    Contents,
    ExportedRow,
    ExportTile,
    ImageRule,
)
from histoprep.exporting.numbering import BACKGROUND, Numbers

FIELD = "ground_truth"
IGNORED = "(ignored)"


@dataclass(frozen=True, slots=True)
class FiftyOne:
    """The folder `data` of images, `fields/ground_truth` of masks, and two JSON files."""

    name: ClassVar[str] = "fiftyone"
    title: ClassVar[str] = "FiftyOne"
    consecutive: ClassVar[bool] = False
    first_number: ClassVar[int] = 1
    is_flat: ClassVar[bool] = False
    keeps_ignored: ClassVar[bool] = True
    image_rule: ClassVar[ImageRule] = ANY_COMMON

    def image_name(self, tile: ExportTile) -> str:
        """Return the path of the image."""
        return f"data/{tile.name}"

    def output_name(self, tile: ExportTile) -> str | None:
        """Return the path of the mask."""
        return f"fields/{FIELD}/{tile.name}.png"

    def annotate(self, tile: ExportTile, numbers: np.ndarray, meaning: Numbers) -> Annotated:
        """Return the mask as PNG."""
        return Annotated(imageio.encode_mask_png(numbers))

    def summaries(self, contents: Contents) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield `metadata.json` with the classes and `samples.json` with the tiles."""
        numbers = contents.numbers
        targets = {number: cls.name for number, cls in numbers.classes}
        if numbers.background is not None:
            targets[BACKGROUND] = numbers.background.name
        if contents.num_ignored_pixels:
            targets[numbers.ignored] = IGNORED
        named = {str(number): targets[number] for number in sorted(targets)}
        info = {
            "description": contents.title,
            "tags": list(contents.splits),
            "default_classes": [cls.name for _, cls in numbers.classes],
            "default_mask_targets": named,
            "mask_targets": {FIELD: named},
        }
        metadata = {"name": contents.title, "media_type": "image", "info": info}
        yield "metadata.json", iter([json.dumps(metadata, indent=1) + "\n"])
        yield "samples.json", _samples(contents)


def _samples(contents: Contents) -> Iterator[str]:
    yield '{"samples": ['
    separator = "\n"
    for row in contents.rows():
        yield separator + json.dumps(_sample(row))
        separator = ",\n"
    yield "\n]}\n"


def _sample(row: ExportedRow) -> dict[str, Any]:
    tile = row.tile
    sample: dict[str, Any] = {
        "filepath": row.image_path,
        "tags": [tile.split],
        "tile_id": tile.tile_id,
        "group": tile.group,
    }
    if tile.label is not None:
        sample["label"] = {"_cls": "Classification", "tags": [], "label": tile.label}
    if row.output_path is not None:
        sample[FIELD] = {"_cls": "Segmentation", "tags": [], "mask_path": row.output_path}
    return sample
