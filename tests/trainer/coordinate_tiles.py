"""Real data sets for the tests of the data side: every pixel of an image tells its class and its
place, so that any mix-up shows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histoprep.cli import run
from histoprep.imageio import encode_mask_png, encode_rgb_png

CLASS_STEP = 40


def labels_of(index: int, size: int) -> np.ndarray:
    """Return the mask of tile `index`, uint8 [size, size]: blocks of classes 0 to 4, one empty mask
    in five.
    """
    if index % 5 == 4:
        return np.zeros((size, size), np.uint8)
    blocks = np.random.default_rng(index).integers(0, 5, (size // 8, size // 8))
    return np.kron(blocks, np.ones((8, 8))).astype(np.uint8)


def image_of(index: int, size: int) -> np.ndarray:
    """Return the image of tile `index`: red is class x 40 + tile, green the row, blue the column
    (in pixels, below 128).
    """
    rows, columns = np.mgrid[:size, :size]
    return np.stack(
        [labels_of(index, size) * CLASS_STEP + index % CLASS_STEP, rows, columns], axis=2
    ).astype(np.uint8)


def write_tiles(
    folder: Path,
    num_tiles: int,
    size: int,
    *,
    options: tuple[str, ...] = ("--split", "train=0.7,val=0.1,test=0.2"),
) -> Path:
    """Write a data set of these tiles and return its manifest, under the map of each label to
    itself.
    """
    folder.mkdir(parents=True)
    for index in range(num_tiles):
        (folder / f"tile{index:03d}.png").write_bytes(encode_rgb_png(image_of(index, size)))
        (folder / f"tile{index:03d}_mask.png").write_bytes(encode_mask_png(labels_of(index, size)))
    assert run(["--quiet", "manifest", str(folder), *options]) == 0
    return folder.with_name(f"{folder.name}.histoprep") / "manifest.parquet"
