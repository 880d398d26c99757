"""Which images are copies of each other: candidates from the table, confirmed on pixels.

Equal bytes are known from the digests. Everything else is a candidate until both files were decoded
again: equal pixels, or a high correlation of luminance, at 1/8 size where that is large enough to
tell images apart.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.errors import BrokenFileError
from histoprep.execution import Engine, Marker, run_tasks
from histoprep.key_index import digest_keys
from histoprep.mask_reading import UNDECIDED, Reading
from histoprep.remote import file_bytes
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
# Pairs of hashes looked at in one table of bands; about half a second.
_MAX_HASH_PAIRS = 12_000_000
_BANDS = 5
_PLACE_BITS = np.uint64(38)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
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
    "image_digest", "image_hash", "luminance_digest", "contrast",
    "width_px", "height_px", "mask_digest", "mask_error",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs worth decoding (image and mask paths), and how many more there were than the limit."""

    pairs: tuple[tuple[str, str, str | None, str | None], ...]
    num_left_out: int


@dataclass(frozen=True, slots=True)
class _Images:
    """What is compared of images, in order of the table, 45 bytes each.

    `row` is the row in the table, `image`, `luminance` and `mask` are keys of digests (`mask` 0
    without a mask that was read), `luminance` one of the size as well, `hash` the perceptual hash.
    """

    row: np.ndarray
    image: np.ndarray
    luminance: np.ndarray
    mask: np.ndarray
    hash: np.ndarray
    contrast: np.ndarray

    @classmethod
    def of(cls, batches: Iterable[pa.Table]) -> _Images:
        """Return those of rows with `COLUMNS` that were decoded."""
        columns: tuple[list[np.ndarray], ...] = tuple([] for _ in dataclasses.fields(cls))
        start = 0
        for batch in batches:
            decoded = pc.and_(batch["luminance_digest"].is_valid(), batch["image_hash"].is_valid())
            images = batch.filter(decoded)
            size = (images["width_px"].to_numpy() << np.int64(32)) + images["height_px"].to_numpy()
            has_mask = images["mask_error"].is_null().to_numpy()
            found = (
                start + np.flatnonzero(decoded.to_numpy()),
                digest_keys(images["image_digest"]),
                digest_keys(images["luminance_digest"]) + size.astype(np.uint64) * _SPREAD,
                np.where(has_mask, digest_keys(images["mask_digest"]), np.uint64(0)),
                images["image_hash"].to_numpy(),
                images["contrast"].fill_null(0).to_numpy(),
            )
            for pieces, piece in zip(columns, found, strict=True):
                pieces.append(piece)
            start += batch.num_rows
        return cls(*(np.concatenate(pieces) for pieces in columns))

    def take(self, at: np.ndarray) -> _Images:
        """Return the images at these places."""
        return _Images(*(getattr(self, each.name)[at] for each in dataclasses.fields(self)))


def find_candidates(
    batches: Iterable[pa.Table], paths_of: Callable[[np.ndarray], pa.Table]
) -> Candidates:
    """Return pairs that may be equal or nearly so; those of equal content first.

    Files of equal bytes are paired only when their masks differ in bytes, to compare the masks.

    Args:
        batches: The tiles table in order, with `COLUMNS`; at least one piece.
        paths_of: Returns image_path and mask_path of rows of the table, int64 [n].
    """
    images = _Images.of(batches)
    labelled = images.take(images.mask != 0)
    first, second = _first_with_each(labelled.image)
    differ = labelled.mask[first] != labelled.mask[second]
    found = [labelled.row[np.stack((first, second), axis=1)[differ]]]
    del labelled
    distinct = images.take(_representatives(images))
    del images
    distinct = distinct.take(distinct.contrast >= MIN_CONTRAST)
    found.append(distinct.row[np.stack(_first_with_each(distinct.luminance), axis=1)])
    near, num_unseen = find_near_pairs(distinct.hash)
    unique = _unique_pairs(np.concatenate([*found, distinct.row[near]]))
    chosen = unique[:MAX_COMPARISONS]
    left_out = max(0, len(unique) - MAX_COMPARISONS) + num_unseen
    if not len(chosen):
        return Candidates((), left_out)
    rows, place = np.unique(chosen, return_inverse=True)
    sides = paths_of(rows)
    images_of, masks_of = (sides[name].to_pylist() for name in ("image_path", "mask_path"))
    ends: Any = place.reshape(chosen.shape).tolist()
    pairs = tuple((images_of[a], images_of[b], masks_of[a], masks_of[b]) for a, b in ends)
    return Candidates(pairs, left_out)


def _representatives(images: _Images) -> np.ndarray:
    """Return the places of images that stand for all their exact copies, in order: the first with
    a mask, so that masks can be compared, or else the first.
    """
    order = np.lexsort((images.mask == 0, images.image))
    ordered = images.image[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return np.sort(order[is_first])


def _unique_pairs(pairs: np.ndarray) -> np.ndarray:
    """Return the pairs, lower row first, each where it comes first."""
    ordered = np.sort(pairs, axis=1)
    _, at = np.unique(ordered[:, 0] << 32 | ordered[:, 1], return_index=True)
    return ordered[np.sort(at)]


def _first_with_each(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (first place of a key, another place of it) for every place that is not the first, in
    order of the first.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(is_first)
    first = np.repeat(order[starts], np.diff(starts, append=len(order)))[~is_first]
    other = order[~is_first]
    sorting = np.lexsort((other, first))
    return first[sorting], other[sorting]


def find_near_pairs(hashes: np.ndarray) -> tuple[np.ndarray, int]:
    """Return places of hashes, uint64 [n], that differ in few bits, int64 [pairs, 2], and how many
    pairs were too many to look at.

    Of images with one hash each is paired with the first. Two hashes at most 3 bits apart agree in
    two of five bands of their bits, so only hashes that share two bands are compared: ten sorts,
    and one pair in 2^25 of unlike hashes.

    Source: Manku, Jain and Das Sarma 2007, Detecting near-duplicates for web crawling, section 3.
    """
    equal = np.stack(_first_with_each(hashes), axis=1)
    places = np.sort(np.unique(hashes, return_index=True)[1])
    distinct = hashes[places]
    found, num_unseen = [np.zeros((0, 2), np.int64)], 0
    for bands in itertools.combinations(range(_BANDS), _BANDS - MAX_BITS_APART):
        pairs, unseen = _near_with_one_key(distinct, _band_keys(distinct, bands))
        found.append(pairs)
        num_unseen += unseen
    near = _in_order_of_bands(distinct, np.unique(np.sort(np.concatenate(found)), axis=0))
    return np.concatenate([equal, places[near]]), num_unseen


def _band_keys(hashes: np.ndarray, bands: Iterable[int]) -> np.ndarray:
    """Return the bits of some of the bands, side by side: below 2^26."""
    keys = np.zeros(len(hashes), np.uint64)
    for band in bands:
        start, end = 64 * band // _BANDS, 64 * (band + 1) // _BANDS
        bits = hashes >> np.uint64(start) & np.uint64((1 << end - start) - 1)
        keys = keys << np.uint64(end - start) | bits
    return keys


def _near_with_one_key(hashes: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, int]:
    """Return places [pairs, 2] of near hashes with one key, and how many pairs of one key were
    not looked at.
    """
    # Key and place in one number, which sorts faster than places by keys.
    ordered = np.sort(keys << _PLACE_BITS | np.arange(len(keys), dtype=np.uint64))
    keys = ordered >> _PLACE_BITS
    order = (ordered & (np.uint64(1) << _PLACE_BITS) - np.uint64(1)).astype(np.int64)
    found = [np.zeros((0, 2), np.int64)]
    ends = np.flatnonzero(np.append(keys[1:] != keys[:-1], True)) if len(keys) else keys
    sizes = np.diff(ends, prepend=-1)
    unseen = int((sizes * (sizes - 1) // 2).sum())
    budget = _MAX_HASH_PAIRS
    # Hashes of one key stand side by side: compare each with the next, the one after it, ...
    start, step = np.arange(len(order)), 0
    while len(start) and budget > 0:
        step += 1
        start = start[start + step < len(order)]
        start = start[keys[start] == keys[start + step]]
        a, b = order[start], order[start + step]
        near = np.bitwise_count(hashes[a] ^ hashes[b]) <= MAX_BITS_APART
        found.append(np.stack((a[near], b[near]), axis=1))
        unseen -= len(start)
        budget -= len(start)
    return np.concatenate(found), unseen


def _in_order_of_bands(hashes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return pairs of near hashes in the order in which tables list them: by the first of four
    bands of bits that they share, then by how far apart they stand when sorted by it.
    """
    band, apart, place = np.full(len(pairs), -1), *np.zeros((2, len(pairs)), np.int64)
    for number in range(MAX_BITS_APART + 1 if len(pairs) else 0):
        keys = (hashes >> np.uint64(16 * number)).astype(np.uint16)
        rank = np.empty(len(keys), np.int64)
        rank[np.argsort(keys, kind="stable")] = np.arange(len(keys))
        shared = (band < 0) & (keys[pairs[:, 0]] == keys[pairs[:, 1]])
        ranks = np.sort(rank[pairs[shared]], axis=1)
        band[shared], place[shared] = number, ranks[:, 0]
        apart[shared] = ranks[:, 1] - ranks[:, 0]
    ordered: np.ndarray = pairs[np.lexsort((place, apart, band))]
    return ordered


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

        data = file_bytes(absolute_path(root, path))
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
