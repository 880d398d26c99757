"""The eight orientations of a mask: what has to be done to it so that it fits its image."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np


class Orientation(StrEnum):
    """What has to be done to a mask [height, width]; `AS_IS` for nothing."""

    AS_IS = "as-is"
    FLIP_LEFT_RIGHT = "flip-left-right"
    FLIP_TOP_BOTTOM = "flip-top-bottom"
    TURN_180 = "turn-180"
    TURN_90_CLOCKWISE = "turn-90-clockwise"
    TURN_90_COUNTERCLOCKWISE = "turn-90-counterclockwise"
    TRANSPOSE = "transpose"
    ANTI_TRANSPOSE = "anti-transpose"

    @property
    def advice(self) -> str:
        """Return what to do in words, to follow a "must be"."""
        return _WORDS[self]

    @property
    def inverse(self) -> Orientation:
        """Return the orientation that takes this one back."""
        return _INVERSE.get(self, self)

    @property
    def swaps_sides(self) -> bool:
        """Return whether rows become columns, so that only square masks keep their size."""
        return self in _SWAPPING

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return an array [..., height, width] in this orientation, as a view."""
        return _APPLY[self](pixels)


_WORDS = {
    Orientation.AS_IS: "left as it is",
    Orientation.FLIP_LEFT_RIGHT: "flipped left to right",
    Orientation.FLIP_TOP_BOTTOM: "flipped top to bottom",
    Orientation.TURN_180: "turned by 180 degrees",
    Orientation.TURN_90_CLOCKWISE: "turned by 90 degrees clockwise",
    Orientation.TURN_90_COUNTERCLOCKWISE: "turned by 90 degrees counterclockwise",
    Orientation.TRANSPOSE: "transposed (rows and columns exchanged)",
    Orientation.ANTI_TRANSPOSE: (
        "transposed about the other diagonal (rows and columns exchanged, then turned by 180"
        " degrees)"
    ),
}
_INVERSE = {
    Orientation.TURN_90_CLOCKWISE: Orientation.TURN_90_COUNTERCLOCKWISE,
    Orientation.TURN_90_COUNTERCLOCKWISE: Orientation.TURN_90_CLOCKWISE,
}
_SWAPPING = frozenset(
    {
        Orientation.TURN_90_CLOCKWISE,
        Orientation.TURN_90_COUNTERCLOCKWISE,
        Orientation.TRANSPOSE,
        Orientation.ANTI_TRANSPOSE,
    }
)
_APPLY: dict[Orientation, Callable[[np.ndarray], np.ndarray]] = {
    Orientation.AS_IS: lambda pixels: pixels,
    Orientation.FLIP_LEFT_RIGHT: lambda pixels: pixels[..., ::-1],
    Orientation.FLIP_TOP_BOTTOM: lambda pixels: pixels[..., ::-1, :],
    Orientation.TURN_180: lambda pixels: pixels[..., ::-1, ::-1],
    Orientation.TURN_90_CLOCKWISE: lambda pixels: pixels.swapaxes(-1, -2)[..., ::-1],
    Orientation.TURN_90_COUNTERCLOCKWISE: lambda pixels: pixels.swapaxes(-1, -2)[..., ::-1, :],
    Orientation.TRANSPOSE: lambda pixels: pixels.swapaxes(-1, -2),
    Orientation.ANTI_TRANSPOSE: lambda pixels: pixels[..., ::-1, ::-1].swapaxes(-1, -2),
}
ORIENTATIONS = tuple(Orientation)
"""All orientations, `AS_IS` first, in the order of `fit_evidence` in tiles.parquet."""
