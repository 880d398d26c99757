"""How tissues look in a made-up tile: amounts of haematoxylin and eosin, and light through them.

Pure functions of a random generator. Amounts are in units of optical density along a stain's
colour; light follows Beer and Lambert, I = I0 exp(-(h H + e E)), with stain colours near those of
Ruifrok and Johnston 2001 (Anal. Quant. Cytol. Histol. 23), eosin a little redder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from histoprep.demo import layout as lay
from histoprep.demo.layout import noise

_HAEMATOXYLIN = np.array([0.66, 0.69, 0.30], dtype=np.float32)
_EOSIN = np.array([0.12, 0.82, 0.46], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Stain:
    """How one slide was stained and scanned: strengths, colours [3] and glass [3] in 0-255."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    glass: np.ndarray

    @classmethod
    def of_slide(cls, rng: np.random.Generator) -> Stain:
        """Return a stain a little different from every other slide's."""
        colours = [
            (stain + rng.normal(0, 0.025, 3)) * rng.uniform(0.88, 1.12)
            for stain in (_HAEMATOXYLIN, _EOSIN)
        ]
        glass = rng.uniform([240, 238, 240], [247, 244, 248])
        return cls(*(colour.astype(np.float32) for colour in (*colours, glass)))


@dataclass(slots=True)
class _Canvas:
    """The amounts [H, W] float32 of both stains while a tissue is painted, and where it will be
    seen, bool [H, W].
    """

    rng: np.random.Generator
    seen: np.ndarray
    h: np.ndarray
    e: np.ndarray

    @property
    def size_px(self) -> int:
        return len(self.h)


def paint(rng: np.random.Generator, labels: np.ndarray, stain: Stain) -> np.ndarray:
    """Return an RGB image [H, W, 3] uint8 of the tissues that `labels` [H, W] names."""
    size_px = len(labels)
    h, e, weight = (np.zeros((size_px, size_px), np.float32) for _ in range(3))
    for label in np.unique(labels):
        region = (labels == label).astype(np.uint8)
        canvas = _Canvas(
            rng,
            cv2.dilate(region, np.ones((19, 19), np.uint8)) > 0,
            np.zeros_like(h),
            np.zeros_like(e),
        )
        _PAINTERS[int(label)](canvas)
        soft = cv2.GaussianBlur(region.astype(np.float32), (0, 0), 1.3)
        h, e, weight = h + soft * canvas.h, e + soft * canvas.e, weight + soft
    thickness = 1 + 0.06 * noise(rng, size_px, size_px / 2)
    h, e = (cv2.GaussianBlur(density / weight, (0, 0), 0.6) * thickness for density in (h, e))
    light = stain.glass * np.exp(-(h[..., None] * stain.haematoxylin + e[..., None] * stain.eosin))
    light += 1.6 * rng.standard_normal(light.shape, dtype=np.float32)
    result: np.ndarray = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    return result


def _streaks(
    rng: np.random.Generator,
    size_px: int,
    long_px: float,
    short_px: float,
    *,
    waviness_px: float,
    angle: float,
) -> np.ndarray:
    """Return noise [size_px, size_px] drawn out along wavy lines."""
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32)
    bend = waviness_px * (noise(rng, size_px, 70) + 0.35 * noise(rng, size_px, 22))
    along = (x * math.cos(angle) + y * math.sin(angle)) / long_px
    across = (y * math.cos(angle) - x * math.sin(angle) + bend) / short_px
    grid = rng.standard_normal((128, 128), dtype=np.float32)
    result: np.ndarray = cv2.remap(grid, along, across, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)
    return result


def _points(
    rng: np.random.Generator,
    size_px: int,
    spacing_px: float,
    jitter: float = 0.32,
    keep: float = 1.0,
) -> np.ndarray:
    """Return points [N, 2] (x, y) on a shaken hexagonal grid that reaches beyond the tile."""
    rows, columns = (int(size_px / spacing_px / factor) + 4 for factor in (0.87, 1.0))
    row, column = np.mgrid[0:rows, 0:columns]
    grid = np.stack([column + 0.5 * (row % 2), 0.87 * row], axis=-1).reshape(-1, 2) - 1.5
    points = (grid + rng.normal(0, jitter, grid.shape)) * spacing_px
    return points[rng.random(len(points)) < keep]


def _nuclei(
    canvas: _Canvas,
    points: np.ndarray,
    radius_px: float,
    stretch: float,
    amount: float,
    *,
    angle: float | None = None,
    hollow: float = 0.0,
) -> None:
    """Add nuclei at `points`: ellipses of area pi radius_px^2, axes 1 to `stretch`, with `hollow`
    of the chromatin missing inside.
    """
    rng = canvas.rng
    layer = np.zeros(canvas.h.shape, np.uint8)
    column, row = np.clip(points.astype(int), 0, canvas.size_px - 1).T
    for x, y in points[canvas.seen[row, column]]:
        radius = radius_px * rng.uniform(0.78, 1.25)
        longer = np.sqrt(stretch * rng.uniform(0.85, 1.2))
        turn = np.degrees(
            angle + rng.normal(0, 0.3) if angle is not None else rng.uniform(0, np.pi)
        )
        darkness = int(255 * rng.uniform(0.68, 1.0))
        for part, shade in ((1.0, darkness), (0.62, int(darkness * (1 - hollow)))):
            size = (int(16 * radius * longer * part), int(16 * radius / longer * part))
            cv2.ellipse(
                layer, (int(16 * x), int(16 * y)), size, turn, 0, 360, shade, -1, cv2.LINE_AA, 4
            )
    chromatin = 1 + 0.20 * noise(rng, canvas.size_px, 2.6)
    there = cv2.GaussianBlur(layer, (0, 0), 0.7).astype(np.float32) / 255
    canvas.h += amount * there * chromatin
    canvas.e *= 1 - 0.55 * there


def _cells(canvas: _Canvas, points: np.ndarray) -> np.ndarray:
    """Return the distance [H, W] in pixels of each place to the border of its cell, cells being
    nearest to `points`.
    """
    size_px, margin = canvas.size_px, 24
    seeds = np.ones((size_px + 2 * margin,) * 2, np.uint8)
    column, row = np.clip(np.rint(points).astype(int) + margin, 0, len(seeds) - 1).T
    seeds[row, column] = 0
    _, cell = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    border = np.ones_like(seeds)
    border[:, 1:][cell[:, 1:] != cell[:, :-1]] = 0
    border[1:, :][cell[1:, :] != cell[:-1, :]] = 0
    inside = slice(margin, margin + size_px)
    result: np.ndarray = cv2.distanceTransform(border, cv2.DIST_L2, 5)[inside, inside]
    return result


def _fibres(canvas: _Canvas, angle: float, density: float, coarse_px: float, clefts: float) -> None:
    """Add collagen: wavy eosin bundles of width `coarse_px` with white clefts between them."""
    rng, size_px = canvas.rng, canvas.size_px
    bundles = _streaks(rng, size_px, 9 * coarse_px, coarse_px, waviness_px=9.0, angle=angle)
    threads = _streaks(rng, size_px, 34.0, 2.4, waviness_px=7.0, angle=angle)
    gap = 1 / (1 + np.exp(-7 * (bundles - clefts)))
    canvas.e += density * (1 + 0.16 * bundles + 0.17 * threads) * (1 - 0.86 * gap)
    canvas.h += 0.05 * (1 - gap)
    np.clip(canvas.e, 0.02, None, out=canvas.e)


def _glass(canvas: _Canvas) -> None:
    canvas.h += 0.008
    canvas.e += 0.012 + 0.006 * noise(canvas.rng, canvas.size_px, 40)


def _dermis(canvas: _Canvas) -> None:
    angle = canvas.rng.uniform(0, np.pi)
    _fibres(canvas, angle, 0.42, 11.0, 0.95)
    _nuclei(canvas, _points(canvas.rng, canvas.size_px, 24, keep=0.42), 2.6, 3.6, 0.85, angle=angle)


def _scar(canvas: _Canvas) -> None:
    angle = canvas.rng.uniform(0, np.pi)
    _fibres(canvas, angle, 0.60, 6.0, 1.9)
    _nuclei(canvas, _points(canvas.rng, canvas.size_px, 19, keep=0.5), 2.2, 6.0, 0.95, angle=angle)


def _reactive(canvas: _Canvas) -> None:
    angle = canvas.rng.uniform(0, np.pi)
    _fibres(canvas, angle, 0.27, 8.0, 0.75)
    canvas.h += 0.07
    _nuclei(
        canvas,
        _points(canvas.rng, canvas.size_px, 15, keep=0.7),
        3.0,
        2.8,
        0.80,
        angle=angle,
        hollow=0.35,
    )


def _inflammation(canvas: _Canvas) -> None:
    angle = canvas.rng.uniform(0, np.pi)
    _fibres(canvas, angle, 0.30, 9.0, 1.0)
    canvas.h += 0.06
    _nuclei(
        canvas, _points(canvas.rng, canvas.size_px, 9.0, jitter=0.45, keep=0.85), 3.0, 1.15, 1.25
    )


def _epidermis(canvas: _Canvas) -> None:
    points = _points(canvas.rng, canvas.size_px, 13.5, jitter=0.16)
    edge = _cells(canvas, points)
    bridge = np.exp(-((edge / 1.2) ** 2))
    canvas.e += 0.43 * (1 + 0.08 * noise(canvas.rng, canvas.size_px, 9)) - 0.24 * bridge
    canvas.h += 0.20 - 0.12 * bridge
    _nuclei(canvas, points, 3.6, 1.35, 0.72, hollow=0.30)


def _basal_cell(canvas: _Canvas) -> None:
    canvas.e += 0.24 + 0.03 * noise(canvas.rng, canvas.size_px, 12)
    canvas.h += 0.34 + 0.05 * noise(canvas.rng, canvas.size_px, 14)
    _nuclei(
        canvas,
        _points(canvas.rng, canvas.size_px, 8.2, jitter=0.24),
        3.4,
        1.8,
        0.72,
        angle=canvas.rng.uniform(0, np.pi),
        hollow=0.18,
    )


def _squamous_cell(canvas: _Canvas) -> None:
    points = _points(canvas.rng, canvas.size_px, 17.5, jitter=0.28)
    edge = _cells(canvas, points)
    keratin = 1 / (1 + np.exp(-4 * (noise(canvas.rng, canvas.size_px, 45) - 1.0)))
    canvas.e += (
        0.44
        + 0.42 * keratin
        + 0.05 * noise(canvas.rng, canvas.size_px, 8)
        - 0.22 * np.exp(-((edge / 1.0) ** 2))
    )
    canvas.h += 0.15 * (1 - keratin)
    _nuclei(canvas, points[canvas.rng.random(len(points)) < 0.88], 4.9, 1.5, 0.80, hollow=0.42)


def _gland(canvas: _Canvas) -> None:
    points = _points(canvas.rng, canvas.size_px, 21, jitter=0.22)
    edge = _cells(canvas, points)
    foam = 0.5 + 0.5 * np.tanh(1.6 * noise(canvas.rng, canvas.size_px, 3.2))
    canvas.e += 0.07 + 0.12 * foam + 0.34 * np.exp(-((edge / 1.4) ** 2))
    canvas.h += 0.05 + 0.08 * foam
    _nuclei(canvas, points, 3.3, 1.2, 0.95)


def _fat(canvas: _Canvas) -> None:
    points = _points(canvas.rng, canvas.size_px, 46, jitter=0.20)
    # Blurred distances round the corners off.
    edge = cv2.GaussianBlur(_cells(canvas, points), (0, 0), 3.2) - 1.0
    wall = 1 / (1 + np.exp(3.0 * (edge - 1.3 - 0.5 * noise(canvas.rng, canvas.size_px, 20))))
    canvas.e += 0.012 + 0.30 * wall
    canvas.h += 0.008 + 0.07 * wall
    near = _points(canvas.rng, canvas.size_px, 15)
    column, row = np.clip(near.astype(int), 0, canvas.size_px - 1).T
    _nuclei(canvas, near[edge[row, column] < 2.5], 2.2, 3.2, 0.9)


def _fold(canvas: _Canvas) -> None:
    angle = canvas.rng.uniform(0, np.pi)
    _fibres(canvas, angle, 0.75, 12.0, 2.4)
    canvas.h += 0.42 + 0.16 * _streaks(
        canvas.rng, canvas.size_px, 160, 16, waviness_px=8.0, angle=angle
    )
    canvas.h, canvas.e = (
        cv2.GaussianBlur(canvas.h, (0, 0), 2.0),
        cv2.GaussianBlur(canvas.e, (0, 0), 2.0),
    )


_PAINTERS: dict[int, Callable[[_Canvas], None]] = {
    lay.UNKNOWN: _dermis,
    lay.GLASS: _glass,
    lay.ARTIFACT: _fold,
    lay.BASAL_CELL: _basal_cell,
    lay.INFLAMMATION: _inflammation,
    lay.REACTIVE: _reactive,
    lay.SCAR: _scar,
    lay.SQUAMOUS_CELL: _squamous_cell,
    lay.DERMIS: _dermis,
    lay.EPIDERMIS: _epidermis,
    lay.GLAND: _gland,
    lay.FAT: _fat,
}
