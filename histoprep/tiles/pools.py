"""Rows of the tiles table by source: the group (slide, case) of a tile, or without one its folder.

Sources with too few rows to be sure by are put together: under their folder, then under those
above. A thousand slides of ten masks each prove as much as one of ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_ROOT = "."


@dataclass(frozen=True, slots=True)
class SourceNames:
    """The sources of some rows, each name held once: there are far fewer folders than masks.

    Attributes:
        own: Source of each row, objects [n]: its group, or the folder of its `tile_id`.
        folders: Folder of each row, objects [n], `.` for the root.
        grouped: bool [n]: which rows have a group.
    """

    own: np.ndarray
    folders: np.ndarray
    grouped: np.ndarray

    @classmethod
    def of(cls, rows: pa.Table) -> SourceNames:
        """Return the sources of the rows of a table with `tile_id` and `group`."""
        return cls.joined([rows])

    @classmethod
    def joined(cls, batches: Iterable[pa.Table]) -> SourceNames:
        """Return the sources of the rows of several such tables; none is held."""
        known: dict[str, str] = {}
        own, folders = [np.zeros(0, object)], [np.zeros(0, object)]
        grouped = [np.zeros(0, bool)]
        for rows in batches:
            folder = _folders(rows)
            own.append(_names(pc.coalesce(rows["group"], folder), known))
            folders.append(_names(folder, known))
            grouped.append(rows["group"].is_valid().to_numpy())
        return cls(np.concatenate(own), np.concatenate(folders), np.concatenate(grouped))


def own_sources(rows: pa.Table) -> np.ndarray:
    """Return the source of each row, objects [n]: its group, or the folder of its `tile_id`."""
    return SourceNames.of(rows).own


def large_sources(
    names: SourceNames, telling: np.ndarray, least: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield sources with rows enough to be sure by, and their rows; rows of smaller ones come under
    their folder, then under those above.

    Args:
        names: The sources of the rows.
        telling: bool [n]: which rows count.
        least: How many of those are enough.
    """
    own = names.own
    current, waiting = own.copy(), np.arange(len(own))
    above = np.where(names.grouped, names.folders, _parents(own))
    while len(waiting):
        small = []
        for source, members in by_name(current, waiting):
            if np.count_nonzero(telling[members]) >= least:
                yield source, members
            elif source != _ROOT:
                small.append(members)
        waiting = np.sort(np.concatenate(small)) if small else waiting[:0]
        current[waiting] = above[waiting]
        above[waiting] = _parents(above[waiting])


def by_name(names: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each name among the chosen rows and its rows, both in order."""
    import pandas as pd

    # Numbers are sorted, and of names each once: many rows have few sources.
    codes, distinct = pd.factorize(names[chosen])
    order = np.argsort(distinct)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    ordered = chosen[np.argsort(rank[codes], kind="stable")]
    ends = np.cumsum(np.bincount(rank[codes], minlength=len(order)))
    for name, start, end in zip(distinct[order], [0, *ends], ends, strict=False):
        yield name, ordered[start:end]


def _folders(rows: pa.Table) -> pa.ChunkedArray:
    """Return the folder of each row, `.` for the root."""
    folder = pc.replace_substring_regex(rows["tile_id"], r"/?[^/]*$", "")
    return pc.if_else(pc.equal(folder, ""), _ROOT, folder)


def _names(column: pa.ChunkedArray, known: dict[str, str]) -> np.ndarray:
    """Return strings as an array of objects that holds each one once, also those `known` from
    before.
    """
    encoded = pc.dictionary_encode(column).combine_chunks()
    distinct = [known.setdefault(name, name) for name in encoded.dictionary.to_pylist()]
    result: np.ndarray = np.array(distinct, object)[encoded.indices.to_numpy()]
    return result


def _parents(names: np.ndarray) -> np.ndarray:
    """Return the folders that names are in."""
    import pandas as pd

    codes, distinct = pd.factorize(names)
    parents = [name.rpartition("/")[0] or _ROOT for name in distinct]
    result: np.ndarray = np.array(parents, object)[codes]
    return result
