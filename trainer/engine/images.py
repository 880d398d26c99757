"""Sheets of images: tiles set side by side, and their PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from histoprep import imageio
from histoprep.durable import write_bytes

_GAP_PX = 4
_GROUND = 255
DIFFERENCE_GAIN = 4


def sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Return images (uint8 [height, width, 3], all of one size) set in rows with a white gap:
    uint8 [height, width, 3].
    """
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    step_y, step_x = height + _GAP_PX, width + _GAP_PX
    whole = np.full(
        (len(rows) * step_y - _GAP_PX, columns * step_x - _GAP_PX, 3), _GROUND, dtype=np.uint8
    )
    for line, row in enumerate(rows):
        for column, image in enumerate(row):
            whole[
                line * step_y : line * step_y + height, column * step_x : column * step_x + width
            ] = image
    return whole


def difference(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Return four times the absolute difference of two images, uint8, cut off at white."""
    apart = np.abs(original.astype(np.int16) - decoded.astype(np.int16))
    result: np.ndarray = np.minimum(apart * DIFFERENCE_GAIN, 255).astype(np.uint8)
    return result


def colour_mask(mask: np.ndarray, colours: Mapping[int, Sequence[int]]) -> np.ndarray:
    """Return class ids (uint8 [height, width]) in their colours: uint8 [height, width, 3]; ids
    without a colour are black.
    """
    table = np.zeros((256, 3), dtype=np.uint8)
    for class_id, colour in colours.items():
        table[class_id] = colour
    result: np.ndarray = table[mask]
    return result


def write_sheet(path: Path, image: np.ndarray) -> None:
    """Publish an image as PNG, marked as synthetic."""
    write_bytes(path, imageio.encode_rgb_png(image, imageio.SYNTHETIC_MARK))
