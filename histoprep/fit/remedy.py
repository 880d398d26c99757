"""What has to be done to a mask so that it fits its image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoprep.fit.orientation import Orientation


@dataclass(frozen=True, slots=True)
class Remedy:
    """First an orientation, then a scale about the upper left corner, then a move by whole pixels;
    `fill` is the label of what is uncovered.
    """

    orientation: Orientation = Orientation.AS_IS
    scale: float = 1.0
    right_px: int = 0
    down_px: int = 0
    fill: int = 0

    @property
    def is_exact(self) -> bool:
        """Return whether each pixel of the mask keeps its label, where it stays inside."""
        return self.scale == 1

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """Return a mask as it fits, of the same type and, unless it is turned by 90 degrees, of the
        same size.

        Args:
            labels: Unsigned integers [height, width].
        """
        turned = np.ascontiguousarray(self.orientation.apply(labels))
        if self.scale != 1:
            turned = _scaled(turned, self.scale, self.fill)
        if not (self.right_px or self.down_px):
            return turned
        moved = np.full_like(turned, self.fill)
        height, width = turned.shape
        to_rows, from_rows = _overlap(self.down_px, height)
        to_columns, from_columns = _overlap(self.right_px, width)
        moved[to_rows, to_columns] = turned[from_rows, from_columns]
        return moved


def _overlap(move: int, size: int) -> tuple[slice, slice]:
    """Return the part of a side that is covered after a move, and the part that covers it."""
    length = max(0, size - abs(move))
    start = max(0, move) if length else 0
    return slice(start, start + length), slice(max(0, -move), max(0, -move) + length)


def _scaled(labels: np.ndarray, factor: float, fill: int) -> np.ndarray:
    """Return labels enlarged by nearest neighbour, cut or filled to the same size."""
    rows, columns = (np.arange(size, dtype=np.float64) + 0.5 for size in labels.shape)
    y, x = (rows / factor).astype(np.intp), (columns / factor).astype(np.intp)
    inside = (y < labels.shape[0])[:, None] & (x < labels.shape[1])
    nearest = labels[np.minimum(y, len(labels) - 1)[:, None], np.minimum(x, labels.shape[1] - 1)]
    result: np.ndarray = np.where(inside, nearest, labels.dtype.type(fill))
    return result
