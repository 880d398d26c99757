"""Images and masks shrunk to the same cells."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Cells a side: at least, so that there is anything to compare, and at most.
MIN_CELLS, MAX_CELLS = 8, 40
# Classes that are told apart in one mask; the others count as the most common one.
MAX_CLASSES = 6
# With more labels than this a mask numbers objects: the most common label against all others.
_MANY_LABELS = 24
# Pixels of a mask that are looked at in a cell, a side.
_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Cells:
    """How a tile is cut: `rows` x `columns` square cells of `side_px` pixels, from its corner."""

    rows: int
    columns: int
    side_px: int

    @classmethod
    def of(cls, height_px: int, width_px: int, step_px: int, most: int = MAX_CELLS) -> Cells | None:
        """Return the finest cells of a multiple of `step_px` with at most `most` a side; None where
        a side has fewer than `MIN_CELLS`.
        """
        times = -(-max(height_px // step_px, width_px // step_px) // most)
        side = step_px * max(1, times)
        rows, columns = height_px // side, width_px // side
        return cls(rows, columns, side) if min(rows, columns) >= MIN_CELLS else None


def density_of(values: np.ndarray) -> np.ndarray:
    """Return optical density, float32, of intensities in [0, 255]: 0 for white."""
    result: np.ndarray = -np.log((values.astype(np.float32) + 1) / 256)
    return result


def shrink(values: np.ndarray, cells: Cells, pixels_px: int = 1) -> np.ndarray:
    """Return the means of the cells, [rows, columns] or with channels last.

    Args:
        values: [height, width] or [height, width, channels], one value a square of `pixels_px`.
        cells: The cells.
        pixels_px: How many pixels of the tile a value stands for, a side.
    """
    side = cells.side_px // pixels_px
    inside = values[: cells.rows * side, : cells.columns * side]
    if side == 1:
        return inside
    result: np.ndarray = cv2.resize(
        inside, (cells.columns, cells.rows), interpolation=cv2.INTER_AREA
    )
    return result


def class_shares(
    labels: np.ndarray, cells: Cells, ids: np.ndarray, pixels: np.ndarray
) -> np.ndarray | None:
    """Return the share that each class has of each cell, uint8 [classes, rows, columns], 255 for
    all of it; None for a mask of one class.

    The most common class is left out, since shares add up to one, and so are those beyond
    `MAX_CLASSES`. Of each cell, 4 x 4 evenly spaced pixels are looked at.

    Args:
        labels: uint8 or uint16 [height, width].
        cells: The cells.
        ids: The labels that occur.
        pixels: Pixels of each.
    """
    if len(ids) < 2:
        return None
    step = max(1, cells.side_px // _SAMPLES)
    height, width = cells.rows * cells.side_px, cells.columns * cells.side_px
    sampled = np.ascontiguousarray(labels[step // 2 : height : step, step // 2 : width : step])
    # Labels of equal size in order of id, so that the choice is always the same.
    ordered = ids[np.argsort(-pixels, kind="stable")]
    if len(ids) > _MANY_LABELS:
        planes = [cv2.compare(sampled, float(ordered[0]), cv2.CMP_NE)]
    else:
        planes = [
            cv2.compare(sampled, float(label), cv2.CMP_EQ) for label in ordered[1:MAX_CLASSES]
        ]
    size = (cells.columns, cells.rows)
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in planes])
