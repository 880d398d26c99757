"""Rows of the tiles table by source: the group (slide, case) of a tile, or without one its folder.

Sources with too few rows to be sure by are put together: under their folder, then under those
above. A thousand slides of ten masks each prove as much as one of ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_ROOT = "."


def own_sources(rows: pa.Table) -> np.ndarray:
    """Return the source of each row, objects [n]: its group, or the folder of its `tile_id`."""
    return _names(pc.coalesce(rows["group"], _folders(rows)))


def large_sources(
    rows: pa.Table, own: np.ndarray, telling: np.ndarray, least: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield sources with rows enough to be sure by, and their rows; rows of smaller ones come under
    their folder, then under those above.

    Args:
        rows: Rows with `tile_id` and `group`.
        own: The source of each.
        telling: bool [n]: which rows count.
        least: How many of those are enough.
    """
    names, waiting = own.copy(), np.arange(len(own))
    above = np.where(rows["group"].is_valid().to_numpy(), _names(_folders(rows)), _parents(own))
    while len(waiting):
        small = []
        for source, members in by_name(names, waiting):
            if np.count_nonzero(telling[members]) >= least:
                yield source, members
            elif source != _ROOT:
                small.append(members)
        waiting = np.sort(np.concatenate(small)) if small else waiting[:0]
        names[waiting] = above[waiting]
        above[waiting] = _parents(above[waiting])


def by_name(names: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each name among the chosen rows and its rows, both in order."""
    ordered = chosen[np.argsort(names[chosen], kind="stable")]
    for members in np.split(ordered, np.flatnonzero(names[ordered[1:]] != names[ordered[:-1]]) + 1):
        if len(members):
            yield names[members[0]], members


def _folders(rows: pa.Table) -> pa.ChunkedArray:
    """Return the folder of each row, `.` for the root."""
    folder = pc.replace_substring_regex(rows["tile_id"], r"/?[^/]*$", "")
    return pc.if_else(pc.equal(folder, ""), _ROOT, folder)


def _names(column: pa.ChunkedArray) -> np.ndarray:
    """Return strings as an array of objects that holds each one once: there are far fewer folders
    than masks.
    """
    encoded = pc.dictionary_encode(column).combine_chunks()
    return np.asarray(
        encoded.dictionary.to_numpy(zero_copy_only=False)[encoded.indices.to_numpy()], object
    )


def _parents(names: np.ndarray) -> np.ndarray:
    """Return the folders that names are in."""
    parents = {name: name.rpartition("/")[0] or _ROOT for name in set(names)}
    return np.array([parents[name] for name in names], object)
