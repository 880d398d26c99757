"""Which images are copies of each other: candidates from the table, confirmed on pixels.

Equal bytes are known from the digests. Everything else is a candidate until both files were decoded
again: equal pixels, or a high correlation of luminance at 1/8 size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from histoprep.errors import BrokenFileError
from histoprep.execution import Engine, Marker, run_tasks

# Hashes of near duplicates differ in at most this many of their 64 bits.
MAX_BITS_APART = 3
# Above this correlation two pictures show the same tissue.
MIN_CORRELATION = 0.95
# Pictures without structure all look alike.
MIN_CONTRAST = 4.0
MAX_COMPARISONS = 20_000
_MANY_TILES = 1_000_000
_PAIRS_A_TASK = 64
_TIME_LIMIT_S = 120.0

SCHEMA = pa.schema(
    [
        ("image_a", pa.string()),
        ("image_b", pa.string()),
        ("equal_pixels", pa.bool_()),
        ("correlation", pa.float32()),
        # Null unless both tiles have a readable mask and the images are equal.
        ("equal_masks", pa.bool_()),
    ]
)

COLUMNS = ("image_path", "mask_path", "image_digest", "image_hash", "luminance_digest", "contrast", "width_px", "height_px", "mask_digest", "mask_error")


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs worth decoding (image and mask paths), and how many more there were than the limit."""

    pairs: tuple[tuple[str, str, str | None, str | None], ...]
    num_left_out: int


def find_candidates(tiles: pd.DataFrame) -> Candidates:
    """Return pairs that may be equal or nearly so, from the columns `COLUMNS`; those of equal content first.

    Files of equal bytes are paired only when their masks differ in bytes, to compare the masks.
    """
    images = tiles[tiles.luminance_digest.notna()].reset_index(drop=True)
    first, second = _first_with_each(images, ["image_digest"])
    masks_differ = (images.mask_digest[first].to_numpy() != images.mask_digest[second].to_numpy()) & _has_masks(images, first) & _has_masks(images, second)
    found = [np.stack((first[masks_differ], second[masks_differ]), axis=1)]
    # One image stands for all its exact copies from here on.
    distinct = images.drop_duplicates("image_digest")
    distinct = distinct[distinct.contrast >= MIN_CONTRAST]
    found.append(_pairs_of_equal(distinct, ["luminance_digest", "width_px", "height_px"]))
    found.append(_near_pairs(distinct))
    together = np.concatenate(found)
    _, at = np.unique(together, axis=0, return_index=True)
    unique = together[np.sort(at)]
    paths = [(images.image_path[a], images.image_path[b], _text(images.mask_path[a]), _text(images.mask_path[b])) for a, b in unique[:MAX_COMPARISONS]]
    return Candidates(tuple(paths), max(0, len(unique) - MAX_COMPARISONS))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _has_masks(images: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    return (images.mask_digest.notna() & images.mask_error.isna()).to_numpy()[rows]


def _first_with_each(images: pd.DataFrame, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (first row of a key, another row of it) for every row that is not the first."""
    groups = images.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    first = np.repeat(order[starts], sizes)
    other = first != order
    rows = images.index.to_numpy()
    return rows[first[other]], rows[order[other]]


def _pairs_of_equal(images: pd.DataFrame, keys: list[str]) -> np.ndarray:
    return np.stack(_first_with_each(images, keys), axis=1) if len(images) else np.zeros((0, 2), np.int64)


def _near_pairs(images: pd.DataFrame) -> np.ndarray:
    """Return index pairs whose hashes differ in few bits.

    Two hashes at most d bits apart agree in one of d + 1 bands of their bits, so only rows that
    share a band are compared. Very large sets use two wide bands and one bit.
    """
    apart = MAX_BITS_APART if len(images) <= _MANY_TILES else 1
    hashes = images.image_hash.to_numpy(dtype=np.uint64)
    rows = images.index.to_numpy()
    width = 64 // (apart + 1)
    found = [np.zeros((0, 2), np.int64)]
    for band in range(apart + 1):
        keys = (hashes >> np.uint64(band * width)) & np.uint64((1 << width) - 1)
        order = np.argsort(keys, kind="stable")
        # Rows of one band stand side by side: compare each with the next, the one after it, ...
        for step in range(1, len(order)):
            same = keys[order[:-step]] == keys[order[step:]]
            if not same.any():
                break
            a, b = order[:-step][same], order[step:][same]
            near = np.bitwise_count(hashes[a] ^ hashes[b]) <= apart
            found.append(np.sort(np.stack((rows[a[near]], rows[b[near]]), axis=1), axis=1))
            if sum(len(pairs) for pairs in found) > MAX_COMPARISONS:
                break
    return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class CompareTask:
    """Decodes the images of some pairs again and compares them."""

    root: str
    pairs: tuple[tuple[str, str, str | None, str | None], ...]
    marker: Path
    left_out: tuple[int, ...] = ()

    def run(self) -> pa.Table:
        """Return the comparisons of the pairs that could be made, as rows of `SCHEMA`."""
        marker = Marker(self.marker, _TIME_LIMIT_S)
        rows = []
        for index, pair in enumerate(self.pairs):
            marker.at(index)
            if index not in self.left_out:
                rows += _compare(self.root, *pair)
        marker.close()
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def without(self, index: int, reason: str) -> CompareTask:  # noqa: ARG002 (part of the protocol)
        """Return the task that leaves one pair uncompared; its files are reported by the tiles table."""
        return replace(self, left_out=(*self.left_out, index))


def _compare(root: str, image_a: str, image_b: str, mask_a: str | None, mask_b: str | None) -> Iterator[dict[str, object]]:
    from histoprep import imageio
    from histoprep.tile_table import absolute_path

    try:
        data = [Path(absolute_path(root, path)).read_bytes() for path in (image_a, image_b)]
        headers = [imageio.read_header(one) for one in data]
        small = [imageio.decode_luminance_eighth(one, header) for one, header in zip(data, headers, strict=True)]
        alike = correlation(*small)
        if alike < MIN_CORRELATION:
            return
        equal = headers[0].width_px == headers[1].width_px and headers[0].height_px == headers[1].height_px
        equal = equal and (data[0] == data[1] or bool(np.array_equal(*(imageio.decode_rgb(one, header) for one, header in zip(data, headers, strict=True)))))
        masks = None
        if equal and mask_a and mask_b:
            contents = [Path(absolute_path(root, path)).read_bytes() for path in (mask_a, mask_b)]
            masks = bool(np.array_equal(*(imageio.decode_mask(one, imageio.read_header(one)) for one in contents)))
    except (OSError, BrokenFileError):
        # A file that changed or broke since it was measured; the next audit reports it.
        return
    yield {"image_a": image_a, "image_b": image_b, "equal_pixels": equal, "correlation": alike, "equal_masks": masks}


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation of two pictures, uint8 [height, width]; 0 when sizes differ or one is constant."""
    if a.shape != b.shape:
        return 0.0
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def compare(root: Path, candidates: Sequence[tuple[str, str, str | None, str | None]], markers: Path, engine: Engine) -> pa.Table:
    """Return the confirmed pairs among the candidates, as rows of `SCHEMA`."""
    tasks = (
        CompareTask(str(root), tuple(candidates[start : start + _PAIRS_A_TASK]), markers / f"compare-{start}.at")
        for start in range(0, len(candidates), _PAIRS_A_TASK)
    )
    tables = list(run_tasks(tasks, engine)) if candidates else []
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()
