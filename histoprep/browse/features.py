"""Numbers of encoders by tile: from a Parquet file, or from latents that `trainer encode` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histoprep.errors import UsageError
from histoprep.schemas.latents import SUMMARY, read_entries

LATENTS = "latents.npy"
_ENTRIES_AT_ONCE = 256


@dataclass(frozen=True)
class Features:
    """Numbers of tiles: `values` float32 [n, features] of `rows` int64 [n], ascending; NaN for
    missing ones.
    """

    rows: np.ndarray
    values: np.ndarray
    names: tuple[str, ...]

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return those of `rows` that have features, in their order, and the features."""
        if not len(self.rows):
            return rows[:0], self.values
        at = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        known = self.rows[at] == rows
        return rows[known], self.values[at[known]]


def open_features(path: Path, tile_ids: pa.ChunkedArray) -> Features:
    """Return features of tiles from a file or from a folder of latents.

    Raises:
        UsageError: It is neither, or names no tile.
        IntegrityError: The table of the latents is damaged.
    """
    return read_latents(path, tile_ids) if path.is_dir() else read_features(path, tile_ids)


def read_latents(folder: Path, tile_ids: pa.ChunkedArray) -> Features:
    """Return mean and spread of each channel of the latents of tiles: over all windows and places
    of the first view.

    Raises:
        UsageError: The folder is no finished latent set, or names no tile.
        IntegrityError: Its table is damaged.
    """
    if not ((folder / SUMMARY).is_file() and (folder / LATENTS).is_file()):
        raise UsageError(
            "this folder holds no latents",
            path=folder,
            expected="a Parquet file with a column tile_id, or a folder of trainer encode",
        )
    entries, _ = read_entries(folder)
    at = pc.index_in(entries["tile_id"].cast(pa.string()), value_set=tile_ids.combine_chunks())
    rows = pc.fill_null(at, -1).to_numpy().astype(np.int64)
    first, number = (entries[name].to_numpy() for name in ("first_entry", "num_windows"))
    known = np.flatnonzero((rows >= 0) & (number > 0))
    if not len(known):
        raise UsageError("the latents are of no tile of this set", path=folder)
    known = known[np.argsort(rows[known], kind="stable")]
    # [entries, views, mean and perhaps spread, channels, height, width]
    latents = np.load(folder / LATENTS, mmap_mode="r")
    values = np.stack([_pooled(latents, int(first[each]), int(number[each])) for each in known])
    channels = range(latents.shape[3])
    names = [f"{what} of latent {channel}" for what in ("mean", "spread") for channel in channels]
    return Features(rows[known], values, tuple(names))


def _pooled(latents: np.ndarray, first: int, number: int) -> np.ndarray:
    """Return mean and standard deviation of each channel of a tile, float32 [2 * channels]."""
    own = latents[first : first + min(number, _ENTRIES_AT_ONCE), 0, 0].astype(np.float32)
    axes = (0, 2, 3)
    return np.concatenate([own.mean(axis=axes), own.std(axis=axes)])


def read_features(path: Path, tile_ids: pa.ChunkedArray) -> Features:
    """Return features of tiles from a Parquet file: a column `tile_id`, and columns of numbers or
    of lists of numbers, as encoders give them.

    Raises:
        UsageError: It is no such file, or names no tile.
    """
    expected = "a Parquet file with a column tile_id, and numbers or lists of numbers"
    try:
        table = pq.read_table(path)
        names = table.column_names
        if "tile_id" not in names or len(names) < 2:
            raise UsageError(
                "this file holds no features",
                path=path,
                seen=", ".join(names)[:200],
                expected=expected,
            )
        at = pc.index_in(table["tile_id"].cast(pa.string()), value_set=tile_ids.combine_chunks())
        parts = {name: _matrix(table[name]) for name in names if name != "tile_id"}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UsageError(
            f"the features cannot be read: {error}", path=path, expected=expected
        ) from error
    rows = pc.fill_null(at, -1).to_numpy().astype(np.int64)
    known = np.flatnonzero(rows >= 0)
    if not len(known):
        raise UsageError("the features are of no tile of this set", path=path)
    order = known[np.argsort(rows[known], kind="stable")]
    values = np.concatenate(list(parts.values()), axis=1)[order]
    labels = [
        name if matrix.shape[1] == 1 else f"{name} {place}"
        for name, matrix in parts.items()
        for place in range(matrix.shape[1])
    ]
    return Features(rows[order], values, tuple(labels))


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers, or of lists of one length, as float32 [n, numbers]."""
    whole = column.combine_chunks()
    if pa.types.is_list(whole.type) or pa.types.is_fixed_size_list(whole.type):
        flat = whole.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, np.float32).reshape(len(whole), -1)
    return np.asarray(whole.to_numpy(zero_copy_only=False), np.float32).reshape(-1, 1)
