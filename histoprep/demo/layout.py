"""Where tissues lie in a made-up tile: smooth regions with given shares, none of them thin or
small.

Pure functions of a random generator. Labels are source labels of the 55-label skin system.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

UNKNOWN, GLASS, ARTIFACT, BASAL_CELL, INFLAMMATION = 0, 1, 2, 4, 10
REACTIVE, SCAR, SQUAMOUS_CELL, DERMIS, EPIDERMIS, GLAND, FAT = 19, 21, 24, 28, 41, 45, 51

# Nothing is left that an opening with this disc would remove; relative to a 256 px tile.
_DISC_RADIUS_PX = 7
# The audit calls smaller regions specks.
_LEAST_AREA_PX = 64
_JITTER = 0.12


@dataclass(frozen=True, slots=True)
class Blobs:
    """Islands of `label` in the tissue `host`, covering `share` of it."""

    label: int
    host: int
    share: float


@dataclass(frozen=True, slots=True)
class TissueRecipe:
    """Layers from the skin's surface down, as (label, share of the tile), then islands in them."""

    layers: tuple[tuple[int, float], ...]
    blobs: tuple[Blobs, ...] = ()

    @property
    def labels(self) -> frozenset[int]:
        """Return every label that the tile may hold."""
        return frozenset([label for label, _ in self.layers] + [blob.label for blob in self.blobs])


# Between them, every class of the 5- and of the 10-class map; each of the five in over half of the
# tiles.
RECIPES = (
    TissueRecipe(
        ((GLASS, 0.16), (EPIDERMIS, 0.24), (DERMIS, 0.60)), (Blobs(INFLAMMATION, DERMIS, 0.30),)
    ),
    TissueRecipe(
        ((GLASS, 0.14), (DERMIS, 0.56), (UNKNOWN, 0.30)), (Blobs(BASAL_CELL, DERMIS, 0.45),)
    ),
    TissueRecipe(((REACTIVE, 0.34), (DERMIS, 0.66)), (Blobs(BASAL_CELL, DERMIS, 0.42),)),
    TissueRecipe(
        ((GLASS, 0.15), (SQUAMOUS_CELL, 0.45), (INFLAMMATION, 0.40)),
        (Blobs(UNKNOWN, INFLAMMATION, 0.35),),
    ),
    TissueRecipe(((DERMIS, 0.55), (FAT, 0.45)), (Blobs(GLAND, DERMIS, 0.36),)),
    TissueRecipe(((ARTIFACT, 0.20), (SCAR, 0.50), (UNKNOWN, 0.30)), (Blobs(REACTIVE, SCAR, 0.34),)),
    TissueRecipe(
        ((GLASS, 0.15), (EPIDERMIS, 0.25), (SCAR, 0.36), (UNKNOWN, 0.24)),
        (Blobs(INFLAMMATION, SCAR, 0.42),),
    ),
    TissueRecipe(
        ((INFLAMMATION, 0.32), (UNKNOWN, 0.34), (FAT, 0.34)), (Blobs(SQUAMOUS_CELL, UNKNOWN, 0.45),)
    ),
    TissueRecipe(((ARTIFACT, 0.18), (SQUAMOUS_CELL, 0.38), (REACTIVE, 0.26), (UNKNOWN, 0.18))),
    TissueRecipe(
        ((GLASS, 0.18), (EPIDERMIS, 0.22), (DERMIS, 0.60)),
        (Blobs(GLAND, DERMIS, 0.24), Blobs(BASAL_CELL, DERMIS, 0.40)),
    ),
    TissueRecipe(
        ((GLASS, 0.14), (REACTIVE, 0.46), (UNKNOWN, 0.40)), (Blobs(BASAL_CELL, REACTIVE, 0.36),)
    ),
)


def noise(rng: np.random.Generator, size_px: int, cell_px: float) -> np.ndarray:
    """Return smooth noise [size_px, size_px] float32 of about unit variance, with features of about
    `cell_px`.
    """
    cells = max(round(size_px / cell_px), 1) + 1
    field = rng.standard_normal((cells, cells), dtype=np.float32)
    result: np.ndarray = cv2.resize(field, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    return result


def lay_out(rng: np.random.Generator, size_px: int, recipe: TissueRecipe) -> np.ndarray:
    """Return the source labels [size_px, size_px] uint8 of a tile made after `recipe`.

    Every 8-connected region holds a disc of radius 7/256 of the tile, so none is a speck or a
    hairline.
    """
    labels = _layers(rng, size_px, recipe)
    for blobs in recipe.blobs:
        host = labels == blobs.host
        field = noise(rng, size_px, size_px / 3.2)
        threshold = np.quantile(
            field[host], 1 - blobs.share * rng.uniform(1 - _JITTER, 1 + _JITTER)
        )
        labels[host & (field > threshold)] = blobs.label
    return smoothed(labels, max(3, round(_DISC_RADIUS_PX * size_px / 256)))


def _layers(rng: np.random.Generator, size_px: int, recipe: TissueRecipe) -> np.ndarray:
    angle = rng.uniform(-0.5, 0.5) + rng.choice([0.0, 0.5, 1.0, 1.5]) * np.pi
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32) / size_px
    depth = x * np.sin(angle) + y * np.cos(angle)
    depth += 0.10 * noise(rng, size_px, size_px / 2) + 0.03 * noise(rng, size_px, size_px / 6)
    shares = np.array([share for _, share in recipe.layers]) * rng.uniform(
        1 - _JITTER, 1 + _JITTER, len(recipe.layers)
    )
    cuts = np.quantile(depth, np.cumsum(shares / shares.sum())[:-1])
    ids = np.array([label for label, _ in recipe.layers], dtype=np.uint8)
    result: np.ndarray = ids[np.searchsorted(cuts, depth.ravel()).reshape(depth.shape)]
    return result


def smoothed(labels: np.ndarray, radius_px: int) -> np.ndarray:
    """Return `labels` [H, W] uint8 where every region is a union of discs, but for seams a pixel's
    rounding wide.

    Each label is opened with a disc; what no opening kept takes the nearest label that one did.
    This is repeated until every region holds a 5x5 square and has the area of a disc.
    """
    size = 2 * radius_px + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    for _ in range(8):
        kept = np.zeros_like(labels, dtype=bool)
        for label in np.unique(labels):
            region = (labels == label).astype(np.uint8)
            # Outside of the tile is not of the label: a sliver along the edge is a sliver.
            padded = cv2.copyMakeBorder(
                region, size, size, size, size, cv2.BORDER_CONSTANT, value=0
            )
            kept |= cv2.morphologyEx(padded, cv2.MORPH_OPEN, disc)[size:-size, size:-size].astype(
                bool
            )
        labels = _nearest(labels, kept)
        wrong = _small(labels, max(_LEAST_AREA_PX, round(2.5 * radius_px**2)))
        if not wrong.any():
            break
        labels = _nearest(labels, ~wrong)
    return labels


def _nearest(labels: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    if trusted.all() or not trusted.any():
        return labels
    _, seed = cv2.distanceTransformWithLabels(
        (~trusted).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = np.zeros(seed.max() + 1, dtype=labels.dtype)
    values[seed[trusted]] = labels[trusted]
    result: np.ndarray = values[seed]
    return result


def _small(labels: np.ndarray, area_px: int) -> np.ndarray:
    """Return where regions are smaller than `area_px` or hold no 5x5 square."""
    wrong = np.zeros(labels.shape, dtype=bool)
    for label in np.unique(labels):
        region = (labels == label).astype(np.uint8)
        number, parts, facts, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
        core = cv2.erode(
            region, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
        )
        has_core = np.bincount(parts[core > 0], minlength=number) > 0
        bad = (facts[:, cv2.CC_STAT_AREA] < area_px) | ~has_core
        bad[0] = False
        wrong |= bad[parts]
    return wrong
