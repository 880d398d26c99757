"""What every tile is measured by in the pass that reads all files: how well its mask fits as it is,
turned, and moved by one cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from histoprep.fit.evidence import damped, explained_share, gains_of
from histoprep.fit.grids import Cells, class_shares, density_of, shrink
from histoprep.fit.orientation import ORIENTATIONS
from histoprep.imageio import MIN_COMPARED_PX

# Luminance is decoded at 1/8 size; images with a smaller side than this there at full size.
EIGHTH = 8
# Standard deviation of optical density under which an image is of one colour.
_MIN_DEVIATION = 0.02
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Moves of a mask by one cell (columns to the right, rows down) that are tried for every tile."""


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The luminance of an image in cells, uint8 [rows, columns], and how large the image is."""

    luminance: np.ndarray
    cells: Cells
    height_px: int
    width_px: int


@dataclass(frozen=True, slots=True)
class TileFit:
    """How well a mask fits its image.

    Attributes:
        explained: R2, in [0, 1]: share of the variance of optical density that classes explain.
        evidence: Nats above chance for each of `ORIENTATIONS`, then for each of `MOVES`; NaN for
            what cannot be: turning by 90 degrees where the tile is not square.
        cell_px: Side of the cells.
    """

    explained: float
    evidence: np.ndarray
    cell_px: int


def tile_grid(compared: np.ndarray, height_px: int, width_px: int) -> TileGrid | None:
    """Return the luminance of an image in cells; None where it is too small to be compared.

    Args:
        compared: Luminance at 1/8 size, or at full size of small images, uint8.
        height_px: Height of the image.
        width_px: Width of the image.
    """
    step = 1 if compared.shape == (height_px, width_px) else EIGHTH
    cells = Cells.of(height_px, width_px, step)
    if cells is None:
        return None
    return TileGrid(shrink(compared, cells, step), cells, height_px, width_px)


def mask_shares(labels: np.ndarray, ids: np.ndarray, pixels: np.ndarray) -> np.ndarray | None:
    """Return the shares of the classes in the cells of a mask, uint8 [classes, rows, columns];
    None where nothing can be told by it: it is of one class, or too small.

    Args:
        labels: uint8 or uint16 [height, width].
        ids: The labels that occur.
        pixels: Pixels of each.
    """
    height, width = labels.shape
    is_small = min(-(-height // EIGHTH), -(-width // EIGHTH)) < MIN_COMPARED_PX
    cells = Cells.of(height, width, 1 if is_small else EIGHTH)
    return None if cells is None else class_shares(labels, cells, ids, pixels)


def measure_fit(grid: TileGrid | None, shares: np.ndarray | None) -> TileFit | None:
    """Return how well a mask fits; None where nothing can be told: mask or image are of one kind,
    or they are not of one size.
    """
    if grid is None or shares is None or shares.shape[1:] != grid.luminance.shape:
        return None
    density = density_of(grid.luminance)
    if cv2.meanStdDev(density)[1][0, 0] < _MIN_DEVIATION:
        return None
    is_square = grid.height_px == grid.width_px
    ways = [way for way in ORIENTATIONS if is_square or not way.swaps_sides]
    tried = len(ways) + len(MOVES)
    planes = np.empty((tried + len(shares), *density.shape), np.float32)
    for place, way in enumerate(ways):
        planes[place] = way.inverse.apply(density)
    wide = cv2.copyMakeBorder(density, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    for place, (right, down) in enumerate(MOVES, start=len(ways)):
        planes[place] = wide[1 + down :, 1 + right :][: density.shape[0], : density.shape[1]]
    np.multiply(shares, np.float32(1 / 255), out=planes[tried:])
    found = damped(gains_of(planes, tried))
    evidence = np.full(len(ORIENTATIONS) + len(MOVES), np.nan)
    evidence[: len(ways)] = found[: len(ways)]
    evidence[len(ORIENTATIONS) :] = found[len(ways) :]
    explained = explained_share(density, planes[tried:])
    return TileFit(explained, evidence, grid.cells.side_px)
