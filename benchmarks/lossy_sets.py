"""Families of label masks, drawn cleanly, and the ways in which masks get damaged.

A family is a function of a generator and a size that gives one mask, uint8 [size, size]; a source
is what one annotator of one project would deliver, so its masks share their labels. A damage takes
a mask and gives what came back.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from histoprep.demo.layout import RECIPES, lay_out, noise

Mask = np.ndarray
Family = Callable[[np.random.Generator, int], Mask]
Damage = Callable[[Mask], Mask]
FEW_IDS = np.array([0, 1, 2, 3, 4], np.uint8)
_COLOURS = np.random.default_rng(5).integers(0, 256, (256, 3))


def blobs(rng: np.random.Generator, size: int) -> Mask:
    """Return smooth regions of the 55-label skin system, three to five a tile."""
    return lay_out(rng, size, RECIPES[rng.integers(len(RECIPES))])


def bands(rng: np.random.Generator, size: int) -> Mask:
    """Return regions and thin bands of labels 0 to 4: many contacts are a step of one, and many
    true labels thinner than a core.
    """
    field = noise(rng, size, size / 3)
    cuts = np.sort(rng.uniform(-1.2, 1.2, 3))
    return rng.permutation(FEW_IDS)[np.searchsorted(cuts, field.ravel()).reshape(field.shape)]


def single_class(rng: np.random.Generator, size: int) -> Mask:
    """Return label 7 on 0."""
    return (7 * (noise(rng, size, size / 4) > 0.3)).astype(np.uint8)


def binary(rng: np.random.Generator, size: int) -> Mask:
    """Return label 1 on 0."""
    return (noise(rng, size, size / 4) > 0.3).astype(np.uint8)


def clipped_class(rng: np.random.Generator, size: int) -> Mask:
    """Return smooth regions of 255 on 0, the two values that JPEG clips at."""
    return (255 * (single_class(rng, size) > 0)).astype(np.uint8)


def distant_bands(rng: np.random.Generator, size: int) -> Mask:
    """Return five labels from 0 to 200, each next to those before and after it."""
    return (50 * bands(rng, size)).astype(np.uint8)


def nuclei(rng: np.random.Generator, size: int, inside: int = 2, border: int = 1) -> Mask:
    """Return cells of about 8 px radius with a border of one pixel, whose label may lie between
    inside and outside.
    """
    labels = np.zeros((size, size), np.uint8)
    for _ in range(size * size // 1600):
        centre = rng.integers(0, size, 2).tolist()
        axes = rng.integers(5, 11, 2).tolist()
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(labels, centre, axes, angle, 0, 360, inside, -1)
        cv2.ellipse(labels, centre, axes, angle, 0, 360, border, 1)
    return labels


def vessels(rng: np.random.Generator, size: int) -> Mask:
    """Return lines of 1 to 3 px of labels 3 and 9 on two regions."""
    labels = (5 * (noise(rng, size, size / 2) > 0)).astype(np.uint8)
    for _ in range(14):
        points = np.cumsum(rng.normal(0, size / 9, (9, 2)), axis=0) + rng.uniform(0, size, 2)
        cv2.polylines(
            labels,
            [points.astype(np.int32)],
            False,
            int(rng.choice([3, 9])),
            int(rng.integers(1, 4)),
        )
    return labels


def layers(rng: np.random.Generator, size: int) -> Mask:
    """Return a skin-like stack: layers of 2 to 12 px whose labels follow each other, 1 to 5, over
    dermis 6.
    """
    depth = (
        np.mgrid[0:size, 0:size][0] - size * rng.uniform(0.2, 0.6) + 12 * noise(rng, size, size / 5)
    )
    edges = np.concatenate(([0], np.cumsum(rng.uniform(2, 12, 5))))
    return np.searchsorted(edges, depth.ravel()).reshape(depth.shape).astype(np.uint8)


def walls(rng: np.random.Generator, size: int) -> Mask:
    """Return ducts with two thin walls, labels 4 (lumen), 3 and 2 (walls of 2 px) on 0."""
    field = noise(rng, size, size / 4) * size / 12
    return np.array([0, 2, 3, 4], np.uint8)[
        np.searchsorted([4.0, 6.0, 8.0], field.ravel()).reshape(field.shape)
    ]


def specks(rng: np.random.Generator, size: int) -> Mask:
    """Return specks of 1 to 20 px of labels 1 to 9, on two regions."""
    labels = (4 * (noise(rng, size, size / 2) > 0)).astype(np.uint8)
    for _ in range(150):
        centre = rng.integers(0, size, 2).tolist()
        cv2.circle(labels, centre, int(rng.integers(0, 3)), int(rng.integers(1, 10)), -1)
    return labels


def stripes(rng: np.random.Generator, size: int) -> Mask:
    """Return stripes of period 8 or 16, upright or lying, at any offset, over part of the tile."""
    period, offset = int(rng.choice([8, 16])), int(rng.integers(8))
    place = (np.arange(size) + offset) // (period // 2 if rng.random() < 0.5 else period) % 2
    labels = (
        np.broadcast_to(3 * place, (size, size))
        if rng.random() < 0.5
        else np.broadcast_to(3 * place[:, None], (size, size))
    )
    return np.where(noise(rng, size, size / 2) > 0.2, labels, 8).astype(np.uint8)


def boxes(rng: np.random.Generator, size: int) -> Mask:
    """Return boxes drawn on a grid of 8 px, next to freely drawn regions: half of the boundaries
    follow the blocks.
    """
    labels = (6 * (noise(rng, size, size / 3) > 0.6)).astype(np.uint8)
    for _ in range(8):
        top, left = (8 * rng.integers(0, size // 8, 2)).tolist()
        height, width = (8 * rng.integers(2, 9, 2)).tolist()
        labels[top : top + height, left : left + width] = rng.integers(1, 10)
    return labels


def nuclei_in_boxes(rng: np.random.Generator, size: int) -> Mask:
    """Return nuclei with borders where no box of the 8 px grid lies: thin structures and lines
    along the blocks.
    """
    labels, fine = boxes(rng, size), nuclei(rng, size)
    return np.where(labels == 0, fine, labels).astype(np.uint8)


def patches(rng: np.random.Generator, size: int, number: int, step: int) -> Mask:
    """Return wavy regions over one another, of twelve labels from 0 on, each `step` from the
    next.
    """
    labels, (rows, columns) = np.zeros((size, size), np.uint8), np.mgrid[:size, :size]
    for _ in range(number):
        row, column = rng.uniform(0, size, 2)
        tall, wide = rng.uniform(size / 24, size / 4, 2)
        angle = np.arctan2(rows - row, columns - column)
        edge = (1 + 0.2 * np.sin(5 * angle + rng.uniform(0, 6.3))) ** 2
        inside = ((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 < edge
        labels[inside] = step * rng.integers(12)
    return labels


MANY: dict[str, Family] = {
    "12 labels one step apart": partial(patches, number=14, step=1),
    "12 labels one step apart, small regions": partial(patches, number=60, step=1),
    "12 labels 20 apart": partial(patches, number=14, step=20),
    "12 labels 20 apart, small regions": partial(patches, number=60, step=20),
}
CLEAN: dict[str, Family] = {
    "smooth regions, 55 labels": blobs,
    "bands, labels 0-4": bands,
    "one class, 7 on 0": single_class,
    "one class, 1 on 0": binary,
    "one class, 255 on 0": clipped_class,
    "bands, labels 0-200 by 50": distant_bands,
    "nuclei, border 1 px between": nuclei,
    "nuclei, border 1 px beyond": partial(nuclei, inside=1, border=5),
    "vessels 1-3 px": vessels,
    "skin layers 2-12 px": layers,
    "ducts with two thin walls": walls,
    "specks": specks,
    "stripes of period 8 and 16": stripes,
    "boxes on the 8 px grid": boxes,
    "nuclei and boxes on the grid": nuclei_in_boxes,
}


def jpeg(mask: Mask, quality: int) -> Mask:
    """Return what Pillow reads from a grey JPEG that it wrote."""
    return _through_pillow(mask, "JPEG", quality=quality)


def colour_jpeg_kept(mask: Mask, quality: int) -> np.ndarray:
    """Return the same as `colour_jpeg`, left as the image it is: uint8 [height, width, 3]."""
    return _through_pillow(_COLOURS[mask].astype(np.uint8), "JPEG", quality=quality, subsampling=2)


def webp(mask: Mask, quality: int) -> Mask:
    """Return what Pillow reads from a lossy WebP, as grey."""
    return np.asarray(
        Image.fromarray(
            _through_pillow(np.repeat(mask[..., None], 3, axis=2), "WEBP", quality=quality)
        ).convert("L")
    )


def colour_jpeg(mask: Mask, quality: int) -> Mask:
    """Return labels after a colour-coded JPEG with 4:2:0 chroma, read back by the nearest
    colour.
    """
    ids = np.unique(mask)
    distance = (
        (colour_jpeg_kept(mask, quality)[:, :, None].astype(np.int32) - _COLOURS[ids]) ** 2
    ).sum(axis=3)
    return ids[distance.argmin(axis=2)].astype(np.uint8)


def _through_pillow(array: np.ndarray, kind: str, **options: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return np.asarray(Image.open(stream)).copy()


def resized(mask: Mask, factor: float, how: int) -> Mask:
    """Return the mask drawn at `factor` times its size, brought back to its size with interpolation
    `how` of cv2.
    """
    height, width = mask.shape
    drawn = cv2.resize(
        mask, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_NEAREST
    )
    return cv2.resize(drawn, (width, height), interpolation=how)


def many_to_one(mask: Mask) -> Mask:
    """Return classes 0 to 4 of values, each of them for many values far apart: as `remap` with the
    5-class map.
    """
    return np.random.default_rng(3).integers(0, 5, 256).astype(np.uint8)[mask]


def after(first: Damage, second: Damage) -> Damage:
    """Return both damages, one after the other."""
    return lambda mask: second(first(mask))


@dataclass(frozen=True)
class Harm:
    """One way to damage masks: its name, what it does, and what the verdict should be."""

    name: str
    damage: Damage
    kind: str
    quality: int | None = None
    # Whether the values are those of the original labels, so that wrong pixels can be counted and
    # repaired.
    repairable: bool = False
    # What an undamaged mask would be now.
    without_damage: Damage = np.copy


def harms(qualities: tuple[int, ...] = (60, 65, 70, 75, 80, 85, 90, 95, 97, 100)) -> list[Harm]:
    """Return every damage that the calibration looks at."""
    found = [
        Harm(
            f"JPEG {quality}",
            partial(jpeg, quality=quality),
            "jpeg-history",
            quality,
            repairable=True,
        )
        for quality in qualities
    ]
    found += [
        Harm(
            f"JPEG {item}, then many to one",
            after(partial(jpeg, quality=item), many_to_one),
            "jpeg-history",
            without_damage=many_to_one,
        )
        for item in (75, 80, 85, 90, 95)
    ]
    found += [
        Harm(f"colour JPEG {item} 4:2:0, nearest colour", partial(colour_jpeg, quality=item), "any")
        for item in (75, 90, 95)
    ]
    found += [Harm(f"WebP {item}", partial(webp, quality=item), "any") for item in (75, 90)]
    kinds = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
    found += [
        Harm(
            f"{name} x{1 / factor:g}",
            partial(resized, factor=factor, how=how),
            "interpolated",
            repairable=True,
        )
        for name, how in kinds.items()
        for factor in (0.5, 0.7, 0.25)
    ]
    found.append(Harm("area x0.5", partial(resized, factor=2.0, how=cv2.INTER_AREA), "clean"))
    found.append(Harm("nearest x8", partial(resized, factor=1 / 8, how=cv2.INTER_NEAREST), "clean"))
    found.append(Harm("nearest x2", partial(resized, factor=1 / 2, how=cv2.INTER_NEAREST), "clean"))
    return found


def real_masks(data: Path) -> dict[str, list[Mask]]:
    """Return the real masks by source: uint8, those of one label left out."""
    folders = {
        "lung, 12 real": "diffinfinite/inpainting/*_mask.png",
        "generated, labels 0-4": "diffinfinite/patches/*/*mask.png",
    }
    folders["colon, thresholded"] = "ebhi_seg/labels/adenocarcinoma/*.png"
    found = {}
    for name, pattern in folders.items():
        masks = [np.asarray(Image.open(path)) for path in sorted(data.glob(pattern))]
        found[name] = [mask.astype(np.uint8) for mask in masks if mask.min() != mask.max()]
    large = [
        np.asarray(Image.open(path)).astype(np.uint8)
        for path in sorted(data.glob("diffinfinite/large_masks/*.png"))
    ]
    crops = [
        number[y : y + 512, x : x + 512]
        for number in large
        for y in range(0, 2048, 512)
        for x in range(0, 2048, 512)
    ]
    found["generated, tiny structures"] = [crop for crop in crops if crop.min() != crop.max()]
    return found
