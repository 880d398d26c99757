"""Numbered pixels -> connected regions and their outlines along the edges of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoprep.importing.extras import rasterio_features

_CONNECTIVITY = 4


@dataclass(frozen=True, slots=True)
class Region:
    """Pixels of one number that are connected by their sides.

    Attributes:
        number: Their number.
        exterior: Corners of the outline, int64 [n, 2] as x and y in pixels from the upper left
            corner of the image; the first is not repeated.
        holes: Corners of the outline of each hole, as in `exterior`.
    """

    number: int
    exterior: np.ndarray
    holes: tuple[np.ndarray, ...] = ()

    @property
    def num_pixels(self) -> int:
        """Return how many pixels the region has."""
        return _area(self.exterior) - sum(map(_area, self.holes))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return left, top, width and height in pixels."""
        left, top = self.exterior.min(axis=0).tolist()
        right, bottom = self.exterior.max(axis=0).tolist()
        return left, top, right - left, bottom - top

    def pixels(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the pixels of the region in an image of this shape, uint8 0 or 1
        [height, width].
        """
        rings = [np.concatenate([ring, ring[:1]]).tolist() for ring in self.rings]
        outline = {"type": "Polygon", "coordinates": rings}
        drawn: np.ndarray = rasterio_features().rasterize(
            [(outline, 1)], out_shape=shape, dtype=np.uint8
        )
        return drawn

    @property
    def rings(self) -> tuple[np.ndarray, ...]:
        """Return the outline and those of the holes."""
        return (self.exterior, *self.holes)


def find_regions(numbers: np.ndarray) -> list[Region]:
    """Return the regions of all numbers but 0, by number, then from the upper left corner on.

    The outlines follow the edges of pixels, so that a pixel belongs to a region exactly if its
    centre lies inside.

    Args:
        numbers: uint8 or uint16 [height, width].

    Raises:
        UsageError: rasterio is not installed.
    """
    shapes = rasterio_features().shapes(numbers, mask=numbers != 0, connectivity=_CONNECTIVITY)
    found = []
    for outline, number in shapes:
        exterior, *holes = (
            np.array(ring[:-1]).round().astype(np.int64) for ring in outline["coordinates"]
        )
        found.append(Region(int(number), exterior, tuple(holes)))
    found.sort(key=lambda region: (region.number, *reversed(region.exterior.min(axis=0).tolist())))
    return found


def joined_ring(region: Region) -> np.ndarray:
    """Return one ring with the pixels of the region, int64 [n, 2], by any rule of filling.

    From the left end of each hole a line runs to the left, along the edges of pixels of the region,
    up to the outline or another hole, and back: it encloses nothing, and no centre of a pixel lies
    on it.
    """
    ring = _turning(region.exterior, positive=True)
    for hole in sorted(region.holes, key=lambda hole: (int(hole[:, 0].min()), hole.tolist())):
        inner = _turning(hole, positive=False)
        start = int(np.lexsort((inner[:, 1], inner[:, 0]))[0])
        turned = np.roll(inner, -start, axis=0)
        left, height = turned[0].tolist()
        after = np.roll(ring, -1, axis=0)
        crosses = (
            (ring[:, 0] == after[:, 0])
            & (ring[:, 0] < left)
            & (np.minimum(ring[:, 1], after[:, 1]) <= height)
            & (np.maximum(ring[:, 1], after[:, 1]) >= height)
        )
        place = int(np.where(crosses, ring[:, 0], -1).argmax())
        meeting = np.array([[ring[place, 0], height]])
        parts = ring[: place + 1], meeting, turned, turned[:1], meeting, ring[place + 1 :]
        ring = np.concatenate(parts)
    return ring


def _turning(ring: np.ndarray, *, positive: bool) -> np.ndarray:
    """Return a ring in the direction whose signed area is positive, or negative."""
    return ring if (_signed_area(ring) > 0) == positive else ring[::-1]


def _area(ring: np.ndarray) -> int:
    """Return the area inside a ring in pixels."""
    return abs(_signed_area(ring))


def _signed_area(ring: np.ndarray) -> int:
    """Return the area inside a ring of whole corners; source: the shoelace formula."""
    x, y = ring[:, 0], ring[:, 1]
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2
