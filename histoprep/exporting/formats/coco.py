"""COCO annotations: a JSON file a split, a polygon or run lengths a region.

Source of the format: cocodataset.org/#format-data. A region without holes is a polygon, which
pycocotools fills with exactly its pixels; one with holes has compressed run lengths. Pixels without
a class are a crowd of the category `ignore`: evaluations by pycocotools leave crowds out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from histoprep.exporting.model import Annotated, Contents, ExportTile, ImageRule
from histoprep.exporting.numbering import Numbers
from histoprep.exporting.regions import Region, find_regions
from histoprep.image_formats import BMP, JPEG, PNG, TIFF, WEBP
from histoprep.importing.extras import coco_masks
from histoprep.importing.legend import channels_of

IGNORE = "ignore"
ANY_COMMON = ImageRule((JPEG, PNG, TIFF, WEBP, BMP), frozenset(("RGB", "L")))


@dataclass(frozen=True, slots=True)
class Coco:
    """The folder `annotations` with a file a split, and `images`."""

    name: ClassVar[str] = "coco"
    title: ClassVar[str] = "COCO"
    consecutive: ClassVar[bool] = False
    first_number: ClassVar[int] = 1
    is_flat: ClassVar[bool] = False
    keeps_ignored: ClassVar[bool] = True
    image_rule: ClassVar[ImageRule] = ANY_COMMON

    def image_name(self, tile: ExportTile) -> str:
        """Return the path of the image: its split and name below `images`."""
        return f"images/{tile.split}/{tile.name}"

    def output_name(self, tile: ExportTile) -> str | None:
        """Return None: annotations stand in the file of the split."""
        return None

    def annotate(self, tile: ExportTile, numbers: np.ndarray, meaning: Numbers) -> Annotated:
        """Return the annotations of a mask, those of pixels without a class among them."""
        ids = {number: cls.id for number, cls in meaning.classes}
        found: list[dict[str, Any]] = []
        regions: Counter[int] = Counter()
        num_holes = 0
        for region in find_regions(np.where(numbers == meaning.ignored, 0, numbers)):
            found.append(_annotation(region, numbers.shape))
            regions[ids[region.number]] += 1
            num_holes += len(region.holes)
        ignored = numbers == meaning.ignored
        if ignored.any():
            found.append(_crowd(ignored, meaning.ignored))
        return Annotated(content=found, regions=regions, num_holes=num_holes)

    def summaries(self, contents: Contents) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield the file of each split."""
        for split in contents.splits:
            yield f"annotations/instances_{split}.json", _file(contents, split)


def _annotation(region: Region, shape: tuple[int, ...]) -> dict[str, Any]:
    outline: Any = [region.exterior.ravel().tolist()]
    if region.holes:
        outline = _run_lengths(region.pixels((shape[0], shape[1])))
    return {
        "category_id": region.number,
        "segmentation": outline,
        "area": region.num_pixels,
        "bbox": list(region.box),
        "iscrowd": 0,
    }


def _crowd(pixels: np.ndarray, number: int) -> dict[str, Any]:
    """Return the annotation of all pixels that are set, bool [height, width]."""
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "category_id": number,
        "segmentation": _run_lengths(pixels.astype(np.uint8)),
        "area": int(pixels.sum()),
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "iscrowd": 1,
    }


def _run_lengths(pixels: np.ndarray) -> dict[str, Any]:
    encoded = coco_masks().encode(np.asfortranarray(pixels))
    return {"size": list(pixels.shape), "counts": encoded["counts"].decode("ascii")}


def _file(contents: Contents, split: str) -> Iterator[str]:
    """Yield a file of annotations in pieces: categories first, then images, then annotations."""
    yield f'{{"info": {json.dumps({"description": contents.title})}, "licenses": [],\n'
    yield f'"categories": {json.dumps(_categories(contents))},\n"images": ['
    separator = "\n"
    for row in contents.rows():
        if row.tile.split == split:
            yield separator + json.dumps(_image(row.tile, row.image_path))
            separator = ",\n"
    yield '\n],\n"annotations": ['
    separator, number = "\n", 0
    for row in contents.rows():
        if row.tile.split == split:
            for annotation in row.content or ():
                number += 1
                first = {"id": number, "image_id": row.tile.row + 1}
                yield separator + json.dumps(first | annotation)
                separator = ",\n"
    yield "\n]}\n"


def _categories(contents: Contents) -> list[dict[str, Any]]:
    numbers = contents.numbers
    found = [
        {"id": number, "name": cls.name, "color": list(channels_of(cls.colour))}
        for number, cls in numbers.classes
    ]
    if contents.num_ignored_pixels:
        found.append({"id": numbers.ignored, "name": IGNORE, "color": [0, 0, 0]})
    return found


def _image(tile: ExportTile, path: str) -> dict[str, Any]:
    height, width = tile.size
    return {
        "id": tile.row + 1,
        "file_name": path.removeprefix("images/"),
        "height": height,
        "width": width,
    }
