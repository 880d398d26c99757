"""Segments of YOLO as Ultralytics reads them: a text file an image, a polygon a line.

Source of the format: docs.ultralytics.com/datasets/segment. A line is the number of a class, from 0
on, and the corners of one polygon as shares of width and height. A hole is connected with the
outline by a line that is passed there and back, since the format has no holes. It cannot say either
that pixels have no class: they are background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import yaml

from histoprep.exporting.formats.coco import ANY_COMMON
from histoprep.exporting.model import UNLABELLED, Annotated, Contents, ExportTile, ImageRule
from histoprep.exporting.numbering import Numbers
from histoprep.exporting.regions import find_regions, joined_ring

DATA = "data.yaml"
_NUM_DIGITS = 7


@dataclass(frozen=True, slots=True)
class YoloSeg:
    """The folders `images` and `labels` with a folder a split each, and `data.yaml`."""

    name: ClassVar[str] = "yolo-seg"
    title: ClassVar[str] = "YOLO segmentation"
    consecutive: ClassVar[bool] = True
    first_number: ClassVar[int] = 0
    # Ultralytics replaces the last folder `images` of a path by `labels`.
    is_flat: ClassVar[bool] = True
    keeps_ignored: ClassVar[bool] = False
    image_rule: ClassVar[ImageRule] = ANY_COMMON

    def image_name(self, tile: ExportTile) -> str:
        """Return the path of the image: its split and name below `images`."""
        return f"images/{tile.split}/{tile.name}"

    def output_name(self, tile: ExportTile) -> str | None:
        """Return the path of the text file, that of the image below `labels`."""
        return f"labels/{tile.split}/{tile.name}.txt"

    def annotate(self, tile: ExportTile, numbers: np.ndarray, meaning: Numbers) -> Annotated:
        """Return the lines of a mask; classes are counted from 0 on."""
        height, width = numbers.shape
        ids = {number: cls.id for number, cls in meaning.classes}
        lines: list[str] = []
        regions: Counter[int] = Counter()
        num_holes = 0
        for region in find_regions(np.where(numbers == meaning.ignored, 0, numbers)):
            shares = joined_ring(region) / (width, height)
            lines.append(
                " ".join(
                    [
                        str(region.number - 1 + self.first_number),
                        *map(_share, shares.ravel().tolist()),
                    ]
                )
            )
            regions[ids[region.number]] += 1
            num_holes += len(region.holes)
        data = "".join(f"{line}\n" for line in lines).encode()
        return Annotated(data, regions=regions, num_holes=num_holes)

    def summaries(self, contents: Contents) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield `data.yaml`; its paths are relative to its folder."""
        splits = [split for split in contents.splits if split != UNLABELLED]
        content = {
            **{split: f"images/{split}" for split in splits},
            "names": {
                number - 1 + self.first_number: cls.name for number, cls in contents.numbers.classes
            },
        }
        yield DATA, iter([yaml.safe_dump(content, sort_keys=False, allow_unicode=True)])


def _share(value: float) -> str:
    return f"{value:.{_NUM_DIGITS}f}".rstrip("0").rstrip(".")
