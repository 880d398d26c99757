"""The corpus that speed is measured on, made the same way every time.

    python benchmarks/corpus.py DIR --pairs 12000

Pairs of 512 x 512: H&E-like JPEG tiles (quality 75, 4:2:0, all different) and 8-bit grey PNG masks
as Pillow writes them, 63 % of them all zero and so byte-identical, the others with 1 to 4 of 54
labels. Tiles are crops of a pool of painted images, turned and mirrored, so that making them
takes a minute or two. With a pool of as many images as tiles no two tiles show the same place, and
making one takes half a second. What was made is noted in DIR.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from math import gcd
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from histoprep.demo.layout import RECIPES, lay_out
from histoprep.demo.tissue import Stain, paint

ZERO_SHARE = 0.63
NUM_LABELS = 54
# A base image is half as wide again as a tile.
POOL = 64
_BASE_SIZE = 3 / 2
_BATCH = 250
_TILES_A_SLIDE = 200
# Painted tissue is smoother than scanned tissue; this much grain gives files of 55 KB.
_GRAIN = 7.5


@dataclass(frozen=True)
class Corpus:
    """What was made: options, and mean sizes of the files in bytes."""

    pairs: int
    tile_px: int
    seed: int
    zero_masks: int
    image_bytes: float
    labelled_mask_bytes: float
    zero_mask_bytes: float
    zero_share: float = ZERO_SHARE
    pool: int = POOL


def make_corpus(
    folder: Path,
    pairs: int = 12_000,
    *,
    tile_px: int = 512,
    seed: int = 1,
    workers: int | None = None,
    zero_share: float = ZERO_SHARE,
    pool: int = POOL,
) -> Corpus:
    """Return the corpus in `folder`, made unless it is there already with the same options.

    The bytes of every file depend on the seed, the size and its number alone, and which masks are
    zero also on `pairs`. Raises FileExistsError when the folder holds anything else.

    Args:
        folder: Where it is or will be made.
        pairs: How many images, each with a mask.
        tile_px: Side of a tile.
        seed: Of everything drawn.
        workers: Processes that make it.
        zero_share: Share of the masks that are all zero, 0 to 1.
        pool: Painted images that tiles are cut from.
    """
    note = folder.with_name(folder.name + ".json")
    if folder.exists():
        made = json.loads(note.read_text()) if note.exists() else {}
        wanted = {
            "pairs": pairs,
            "tile_px": tile_px,
            "seed": seed,
            "zero_share": zero_share,
            "pool": pool,
        }
        found = {"zero_share": ZERO_SHARE, "pool": POOL} | made
        if {name: found.get(name) for name in wanted} == wanted:
            return Corpus(**found)
        raise FileExistsError(
            f"{folder} is there already and is another corpus: delete it, or name another folder"
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    zero = np.zeros(pairs, dtype=bool)
    zero[np.random.default_rng([seed, 0]).permutation(pairs)[: round(zero_share * pairs)]] = True
    bases = temporary.with_suffix(".bases")
    bases.mkdir()
    try:
        jobs = [
            (temporary, bases, tile_px, pool, start, zero[start : start + _BATCH].tolist())
            for start in range(0, pairs, _BATCH)
        ]
        with ProcessPoolExecutor(workers) as workers_pool:
            list(
                workers_pool.map(
                    _write_base,
                    [(bases, seed, tile_px, number) for number in range(min(pool, pairs))],
                )
            )
            sizes = np.sum(list(workers_pool.map(_write_batch, jobs)), axis=0)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(bases, ignore_errors=True)
    num_zero = int(zero.sum())
    means = (sizes / np.maximum([pairs, pairs - num_zero, num_zero], 1)).round(1).tolist()
    corpus = Corpus(pairs, tile_px, seed, num_zero, *means, zero_share, pool)
    note.write_text(json.dumps(asdict(corpus), indent=2) + "\n")
    return corpus


def _write_batch(job: tuple[Path, Path, int, int, int, list[bool]]) -> tuple[int, int, int]:
    """Write the tiles from `start` on and return the bytes of images, labelled masks and zero
    masks.
    """
    folder, bases, tile_px, pool, start, zeros = job
    image_bytes = labelled_bytes = zero_bytes = 0
    for index, zero in enumerate(zeros, start):
        base = np.load(bases / f"{index % pool}.npy", mmap_mode="r")
        pixels, labels = cut(base, tile_px, index, pool)
        name = f"slide{index // _TILES_A_SLIDE:04d}_{index:06d}"
        image = jpeg_bytes(pixels)
        mask = png_bytes(np.zeros_like(labels) if zero else labels)
        (folder / f"{name}.jpg").write_bytes(image)
        (folder / f"{name}_mask.png").write_bytes(mask)
        image_bytes += len(image)
        labelled_bytes += 0 if zero else len(mask)
        zero_bytes += len(mask) if zero else 0
    return image_bytes, labelled_bytes, zero_bytes


def cut(
    base: np.ndarray, tile_px: int, index: int, pool: int = POOL
) -> tuple[np.ndarray, np.ndarray]:
    """Return tile `index`, cut from its base image: RGB [H, W, 3] uint8 and labels [H, W] uint8,
    1 to 4 of 1-54.

    Places and turns are enumerated, not drawn: no crop occurs twice before all pool x 8 x (tile_px
    / 2)^2 did.
    """
    turn, place = index // pool % 8, index // pool // 8
    span = len(base) - tile_px
    # Successive crops lie far apart: steps of the golden section, without a common divisor with the
    # span.
    step = next(number for number in range(round(0.382 * span), span) if gcd(number, span) == 1)
    row = place * step % span
    column = (place * step * step + place // span) % span
    crop = base[row : row + tile_px, column : column + tile_px]
    rng = np.random.default_rng([3, index])
    ids = rng.choice(np.arange(1, NUM_LABELS + 1), size=int(rng.integers(1, 5)), replace=False)
    table = np.resize(ids, 256).astype(np.uint8)
    return _turned(crop[..., :3], turn), table[_turned(crop[..., 3], turn)]


def _write_base(job: tuple[Path, int, int, int]) -> None:
    folder, seed, tile_px, number = job
    np.save(
        folder / f"{number}.npy",
        base_image(np.random.default_rng([seed, 2, number]), tile_px, number),
    )


def base_image(rng: np.random.Generator, tile_px: int, number: int) -> np.ndarray:
    """Return an image of the pool with its regions: RGB and region number from 0, uint8 [H, W,
    4].
    """
    part_px = round(tile_px * _BASE_SIZE / 3)
    parts = [
        lay_out(rng, part_px, RECIPES[(number + 4 * part) % len(RECIPES)]) for part in range(9)
    ]
    labels = np.block([parts[:3], parts[3:6], parts[6:]])
    grain = _GRAIN * rng.standard_normal((*labels.shape, 1), dtype=np.float32)
    image = np.clip(paint(rng, labels, Stain.of_slide(rng)) + grain, 0, 255).astype(np.uint8)
    regions = np.unique(labels, return_inverse=True)[1].reshape(*labels.shape, 1)
    return np.concatenate([image, regions.astype(np.uint8)], axis=-1)


def _turned(array: np.ndarray, turn: int) -> np.ndarray:
    """Return one of the 8 rotations and reflections of a square."""
    return np.ascontiguousarray(np.rot90(array[:, ::-1] if turn >= 4 else array, turn % 4))


def jpeg_bytes(image: np.ndarray) -> bytes:
    """Return the image as published tiles are: JPEG, quality 75, 4:2:0."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=75, subsampling="4:2:0")
    return stream.getvalue()


def png_bytes(labels: np.ndarray) -> bytes:
    """Return the mask as Pillow writes it, with adaptive filters: what users have."""
    stream = io.BytesIO()
    Image.fromarray(labels).save(stream, "PNG")
    return stream.getvalue()


def main() -> None:
    """Make the corpus that the command line asks for and print what it is."""
    parser = argparse.ArgumentParser(description="Make the corpus that speed is measured on.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=12_000)
    parser.add_argument("--tile-px", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=None)
    given = parser.parse_args()
    started = time.perf_counter()
    corpus = make_corpus(
        given.folder.absolute(),
        given.pairs,
        tile_px=given.tile_px,
        seed=given.seed,
        workers=given.workers,
    )
    print(
        f"{corpus.pairs:,} pairs of {corpus.tile_px} px in {given.folder},"
        f" {time.perf_counter() - started:.1f} s"
    )
    print(f"images: mean {corpus.image_bytes / 1000:.1f} KB")
    print(
        f"masks: {corpus.zero_masks:,} zero ({corpus.zero_mask_bytes:.0f} bytes each), the others"
        f" mean {corpus.labelled_mask_bytes / 1000:.2f} KB"
    )


if __name__ == "__main__":
    main()
