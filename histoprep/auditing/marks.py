"""Where in a mask the thing is that a finding speaks of: arrays in, boxes out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from histoprep.checks.masks import HAIRLINE_RADIUS_PX
from histoprep.findings import Mark
from histoprep.labels import UNMAPPED, LabelMap
from histoprep.tiles.measure import compact_labels, measure_mask

# More would cover what they show.
MAX_BOXES = 40
# Masks with more labels than this are no label masks; a pass for each would take too long.
_MAX_LABELS = 64


class Box(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right`, in pixels, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int


def find_marks(
    labels: np.ndarray, mark: Mark, min_area_px: int, label_map: LabelMap | None
) -> list[Box]:
    """Return the places of a mask that findings with `mark` speak of, largest first.

    Args:
        labels: Source labels, unsigned integer [height, width].
        mark: What to look for.
        min_area_px: Regions of fewer pixels are specks.
        label_map: The map whose unmapped values are looked for; None without one.

    Returns:
        At most `MAX_BOXES` boxes of 8-connected regions.
    """
    ids, places = compact_labels(labels)
    measured = measure_mask(places, min_area_px)
    names = measured.ids if ids is None else ids[measured.ids]
    if mark is Mark.SPECKS:
        wanted = measured.specks > 0
    elif mark is Mark.HAIRLINES:
        wanted = measured.radius_px <= HAIRLINE_RADIUS_PX
    else:
        assert label_map is not None
        wanted = label_map.apply_to_ids(names) == UNMAPPED
    most = min_area_px if mark is Mark.SPECKS else labels.size + 1
    regions = (
        region
        for place in measured.ids[wanted][:_MAX_LABELS].tolist()
        for region in _regions(places == place)
        if region[0] < most
    )
    return [box for _, box in sorted(regions, key=lambda found: (-found[0], found[1]))][:MAX_BOXES]


def _regions(chosen: np.ndarray) -> Iterator[tuple[int, Box]]:
    """Yield size in pixels and box of each region of a mask of bool."""
    _, _, facts, _ = cv2.connectedComponentsWithStats(chosen.view(np.uint8), connectivity=8)
    # The first is what was not chosen.
    for left, top, width, height, size in facts[1:].tolist():
        yield size, Box(top, left, top + height, left + width)
