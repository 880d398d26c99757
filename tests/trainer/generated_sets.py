"""Sets of generated tiles for tests: real tiles of a manifest, changed in a known way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from histoprep import imageio
from histoprep.shards import open_tiles
from trainer.evaluation.copies import disguise

Change = Callable[[np.ndarray], np.ndarray]


def blurred(sigma_px: float) -> Change:
    """Return a change that blurs."""
    return lambda image: cv2.GaussianBlur(image, (0, 0), sigma_px)


def jpeg(quality: int) -> Change:
    """Return a change that compresses."""
    return lambda image: imageio.decode_rgb(imageio.encode_rgb_jpeg(image, quality))


def noisy(deviation: float) -> Change:
    """Return a change that adds noise, in grey levels."""

    def change(image: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, deviation, image.shape)
        return np.clip(image + noise, 0, 255).astype(np.uint8)

    return change


def hue_shifted(share: float) -> Change:
    """Return a change that turns the hue by a share of the circle."""

    def change(image: np.ndarray) -> np.ndarray:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = ((hsv[..., 0].astype(int) + round(share * 180)) % 180).astype(np.uint8)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    return change


def write_set(
    manifest: Path,
    out: Path,
    change: Change = lambda image: image,
    *,
    splits: tuple[str, ...] = ("val", "test"),
    copies: int = 0,
    with_masks: bool = True,
) -> list[str]:
    """Write the tiles of some splits as images/ and masks/, the first `copies` of them replaced by
    disguised training tiles; return the ids.
    """
    tiles = open_tiles(manifest)
    labelled = tiles.pool == "conditional"
    rows = np.flatnonzero(labelled & np.isin(tiles.split, splits)).tolist()
    train = np.flatnonzero(labelled & (tiles.split == "train")).tolist()
    rng = np.random.default_rng(0)
    for number, row in enumerate(rows):
        tile = tiles.read(row)
        image = (
            disguise(tiles.read(train[number]).image, rng)
            if number < copies
            else change(tile.image)
        )
        assert tile.mask is not None
        files = {"images": imageio.encode_rgb_png(image)}
        files |= {"masks": imageio.encode_mask_png(tile.mask)} if with_masks else {}
        for folder, data in files.items():
            path = out / folder / f"{tiles.tile_ids[row]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return [str(tiles.tile_ids[row]) for row in rows]
