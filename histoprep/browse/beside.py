"""Tiles of other sets that belong to the tiles of this one: real beside generated, run beside run.
Pure.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Where `trainer sample` puts the image of a tile, so that it is in the id of a generated tile.
_FOLDER = "^images/"


def matching_rows(tile_ids: pa.ChunkedArray, others: pa.ChunkedArray) -> np.ndarray:
    """Return for each tile the row of another set with the same id, int64 [n], -1 without one.

    Where the whole id has no match, ids are compared without the leading `images/` of this set, of
    the other, or of both, so that a generated tile is found beside the real one.
    """
    rows = _find(tile_ids, others)
    own, plain = (pc.replace_substring_regex(ids, _FOLDER, "") for ids in (tile_ids, others))
    for pair in ((own, others), (tile_ids, plain), (own, plain)):
        if not (rows < 0).any():
            break
        rows = np.where(rows < 0, _find(*pair), rows)
    return rows


def _find(tile_ids: pa.ChunkedArray, others: pa.ChunkedArray) -> np.ndarray:
    place = pc.index_in(tile_ids, value_set=others.combine_chunks())
    result: np.ndarray = pc.fill_null(place, -1).to_numpy().astype(np.int64)
    return result
