"""Which images are copies of each other: candidates from the table, confirmed on pixels.

Equal bytes are known from the digests. Everything else is a candidate until both files were decoded
again: equal pixels, or a high correlation of luminance, at 1/8 size where that is large enough to
tell images apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from histoprep.errors import BrokenFileError
from histoprep.execution import Engine, Marker, run_tasks
from histoprep.mask_reading import UNDECIDED, Reading
from histoprep.tiles.listing import absolute_path

if TYPE_CHECKING:
    from histoprep.imageio import Header

# Hashes of near duplicates differ in at most this many of their 64 bits.
MAX_BITS_APART = 3
# Above this correlation two images show the same tissue.
MIN_CORRELATION = 0.95
# Images without structure all look alike.
MIN_CONTRAST = 4.0
MAX_COMPARISONS = 20_000
_MANY_TILES = 1_000_000
# Pairs of hashes looked at in one band; about a second.
_MAX_HASH_PAIRS = 30_000_000
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

COLUMNS = (
    "image_path", "mask_path", "image_digest", "image_hash", "luminance_digest", "contrast",
    "width_px", "height_px", "mask_digest", "mask_error",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs worth decoding (image and mask paths), and how many more there were than the limit."""

    pairs: tuple[tuple[str, str, str | None, str | None], ...]
    num_left_out: int


def find_candidates(tiles: pd.DataFrame) -> Candidates:
    """Return pairs that may be equal or nearly so, from the columns `COLUMNS`; those of equal
    content first.

    Files of equal bytes are paired only when their masks differ in bytes, to compare the masks.
    """
    images = tiles[tiles.luminance_digest.notna() & tiles.image_hash.notna()].reset_index(drop=True)
    has_mask = images.mask_digest.notna() & images.mask_error.isna()
    labelled = images[has_mask]
    first, second = _first_with_each(labelled, ["image_digest"])
    differ = images.mask_digest[first].to_numpy() != images.mask_digest[second].to_numpy()
    found = [np.stack((first, second), axis=1)[differ.astype(bool)]]
    # One image stands for all its exact copies from here on: the first with a mask, so that masks
    # can be compared.
    distinct = (
        images.loc[(~has_mask).sort_values(kind="stable").index]
        .drop_duplicates("image_digest")
        .sort_index()
    )
    distinct = distinct[distinct.contrast >= MIN_CONTRAST]
    found.append(_pairs_of_equal(distinct, ["luminance_digest", "width_px", "height_px"]))
    near, num_unseen = _near_pairs(distinct)
    unique = _unique_pairs(np.concatenate([*found, near]))
    chosen = unique[:MAX_COMPARISONS]
    sides = [
        images[name].iloc[chosen[:, side]]
        for name in ("image_path", "mask_path")
        for side in (0, 1)
    ]
    paths = [
        (a, b, _text(mask_a), _text(mask_b)) for a, b, mask_a, mask_b in zip(*sides, strict=True)
    ]
    return Candidates(tuple(paths), max(0, len(unique) - MAX_COMPARISONS) + num_unseen)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _unique_pairs(pairs: np.ndarray) -> np.ndarray:
    """Return the pairs, lower row first, each where it comes first."""
    ordered = np.sort(pairs, axis=1)
    _, at = np.unique(ordered[:, 0] << 32 | ordered[:, 1], return_index=True)
    return ordered[np.sort(at)]


def _first_with_each(images: pd.DataFrame, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (first row of a key, another row of it) for every row that is not the first."""
    again = images[images.duplicated(keys, keep=False)]
    groups = again.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    first = np.repeat(order[starts], sizes)
    other = first != order
    rows = again.index.to_numpy()
    return rows[first[other]], rows[order[other]]


def _pairs_of_equal(images: pd.DataFrame, keys: list[str]) -> np.ndarray:
    return np.stack(_first_with_each(images, keys), axis=1)


def _near_pairs(images: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Return index pairs whose hashes differ in few bits, and how many pairs of hashes were too
    many to look at.

    Of images with one hash each is paired with the first. Two hashes at most d bits apart agree in
    one of d + 1 bands of their bits, so only hashes that share a band are compared. Very large
    sets use two wide bands and one bit.
    """
    equal = _pairs_of_equal(images, ["image_hash"])
    distinct = images.drop_duplicates("image_hash")
    hashes, rows = distinct.image_hash.to_numpy(dtype=np.uint64), distinct.index.to_numpy()
    apart = MAX_BITS_APART if len(hashes) <= _MANY_TILES else 1
    width = 64 // (apart + 1)
    found, num_unseen = [equal], 0
    for band in range(apart + 1):
        keys = (hashes >> np.uint64(band * width)) & np.uint64((1 << width) - 1)
        pairs, unseen = _near_in_band(hashes, np.argsort(keys, kind="stable"), keys, apart)
        found.append(rows[pairs])
        num_unseen += unseen
    return np.concatenate(found), num_unseen


def _near_in_band(
    hashes: np.ndarray, order: np.ndarray, keys: np.ndarray, apart: int
) -> tuple[np.ndarray, int]:
    """Return positions [pairs, 2] of near hashes with one key, and how many pairs of one key were
    not looked at.
    """
    found = [np.zeros((0, 2), np.int64)]
    sizes = np.unique(keys, return_counts=True)[1]
    unseen = int((sizes * (sizes - 1) // 2).sum())
    budget = _MAX_HASH_PAIRS
    # Hashes of one key stand side by side: compare each with the next, the one after it, ...
    start, step = np.arange(len(order)), 0
    while len(start) and budget > 0:
        step += 1
        start = start[start + step < len(order)]
        start = start[keys[order[start]] == keys[order[start + step]]]
        a, b = order[start], order[start + step]
        near = np.bitwise_count(hashes[a] ^ hashes[b]) <= apart
        found.append(np.stack((a[near], b[near]), axis=1))
        unseen -= len(start)
        budget -= len(start)
    return np.concatenate(found), unseen


@dataclass(frozen=True, slots=True)
class CompareTask:
    """Decodes the images of some pairs again and compares them."""

    root: str
    pairs: tuple[tuple[str, str, str | None, str | None], ...]
    marker: Path
    left_out: tuple[int, ...] = ()
    reading: Reading = UNDECIDED

    def run(self) -> pa.Table:
        """Return the comparisons of the pairs that could be made, as rows of `SCHEMA`."""
        marker = Marker(self.marker, _TIME_LIMIT_S)
        rows: list[dict[str, object]] = []
        for index, pair in enumerate(self.pairs):
            marker.at(index)
            if index not in self.left_out:
                rows += _compare(self.root, self.reading, *pair)
        marker.close()
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def num_done(self, index: int | None) -> int:
        """Return how many pairs are done at item `index`; all of them for None."""
        return len(self.pairs) if index is None else index

    def without(self, index: int, reason: str) -> CompareTask:
        """Return the task that leaves one pair uncompared; its files are reported by the tiles
        table.
        """
        return replace(self, left_out=(*self.left_out, index))


def _compare(
    root: str, reading: Reading, image_a: str, image_b: str, mask_a: str | None, mask_b: str | None
) -> Iterator[dict[str, object]]:
    """Yield the row of a pair that shows the same tissue; nothing for another, or when a file broke
    since it was measured.
    """
    from histoprep import imageio

    try:
        first, second = (_ComparedImage.read(root, path) for path in (image_a, image_b))
        alike = correlation(
            *(imageio.decode_compared_luminance(side.data, side.header) for side in (first, second))
        )
        if alike < MIN_CORRELATION:
            return
        equal = first.data == second.data or bool(np.array_equal(first.rgb(), second.rgb()))
        masks = None
        if equal and mask_a and mask_b:
            masks = bool(
                np.array_equal(
                    _ComparedImage.read(root, mask_a, reading).labels(reading),
                    _ComparedImage.read(root, mask_b, reading).labels(reading),
                )
            )
    except (OSError, BrokenFileError):
        return
    yield {
        "image_a": image_a,
        "image_b": image_b,
        "equal_pixels": equal,
        "correlation": alike,
        "equal_masks": masks,
    }


@dataclass(frozen=True, slots=True)
class _ComparedImage:
    """The bytes of a file and what its header says."""

    data: bytes
    header: Header

    @classmethod
    def read(cls, root: str, path: str, reading: Reading = UNDECIDED) -> _ComparedImage:
        from histoprep import imageio

        data = Path(absolute_path(root, path)).read_bytes()
        return cls(data, imageio.read_header(data, reading))

    def rgb(self) -> np.ndarray:
        from histoprep import imageio

        return imageio.decode_rgb(self.data, self.header)

    def labels(self, reading: Reading) -> np.ndarray:
        from histoprep import imageio

        return imageio.decode_mask(self.data, self.header, reading)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation of two images, uint8 [height, width]; 0 when sizes differ or
    one is constant.
    """
    if a.shape != b.shape:
        return 0.0
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def compare(
    root: Path,
    candidates: Sequence[tuple[str, str, str | None, str | None]],
    markers: Path,
    engine: Engine,
    reading: Reading = UNDECIDED,
) -> pa.Table:
    """Return the confirmed pairs among the candidates, as rows of `SCHEMA`; `reading` says how
    masks are read.
    """
    tasks = (
        CompareTask(
            str(root),
            tuple(candidates[start : start + _PAIRS_A_TASK]),
            markers / f"compare-{start}.at",
            reading=reading,
        )
        for start in range(0, len(candidates), _PAIRS_A_TASK)
    )
    tables = list(run_tasks(tasks, engine)) if candidates else []
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()
