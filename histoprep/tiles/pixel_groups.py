"""Tiles table -> groups of tiles that are copies, touch or overlap, in its column `group`.

Groups that the listing gives (by names or a table) are joined where a pair of neighbours or copies
connects them. A tile that nothing connects keeps what the listing gives, or has no group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from histoprep import tables
from histoprep.execution import Engine
from histoprep.neighbours.components import join_pairs
from histoprep.phrases import plural
from histoprep.schemas.tiles import KIND, PIXEL_GROUPS, SCHEMA, SCHEMA_VERSION, open_tiles_table
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.neighbourhood import NeighbourKind, Neighbours, find_neighbours

if TYPE_CHECKING:
    import pandas as pd

# Seams whose Fisher's z exceeds that of the second best by less are weak.
_STRONG_MARGIN = 0.4
_LARGEST = 0.999
# Images without structure all look alike.
_MIN_CONTRAST = 4.0
COLUMNS = (
    "tile_id", "group", "image_path", "image_digest", "luminance_digest", "contrast", "width_px",
    "height_px",
)  # fmt: skip


def write_pixel_groups(workspace: Workspace, engine: Engine) -> dict[str, int]:
    """Write the groups into the tiles table, and return how many there are and what holds them: the
    evidence that its header keeps.

    Raises:
        IntegrityError: The tiles table is damaged.
        OutputError: The workspace cannot be written.
    """
    found = find_neighbours(workspace, engine)
    opened, header = open_tiles_table(workspace.tiles)
    tiles = tables.read_table(opened, list(COLUMNS)).to_pandas()
    groups, evidence = name_groups(tiles, found)

    def rows() -> Iterator[pa.Table]:
        start = 0
        for batch in tables.read_batches(opened):
            end = start + batch.num_rows
            column = pa.array(groups[start:end], pa.string())
            yield batch.set_column(batch.schema.get_field_index("group"), "group", column)
            start = end

    kept = {name: header[name] for name in ("root", "options", "listing_digest")}
    tables.write_table(
        workspace.tiles,
        rows(),
        SCHEMA,
        kind=KIND,
        schema_version=SCHEMA_VERSION,
        metadata=kept | {PIXEL_GROUPS: evidence},
    )
    return evidence


def name_groups(tiles: pd.DataFrame, found: Neighbours) -> tuple[list[str | None], dict[str, int]]:
    """Return the group of each tile, and what holds the groups.

    A component is called by the groups that it joins, or else by its first tile.

    Args:
        tiles: Rows of tiles.parquet, those columns that are needed.
        found: Their neighbours.
    """
    number = len(tiles)
    pairs = _positions(tiles, found.pairs)
    copies = np.concatenate([_alike(tiles, ["image_digest"]), _alike(_varied(tiles), _LOOK)])
    given = _alike(tiles, ["group"])
    is_weak = _weak(found.pairs)
    ends = np.concatenate([pairs, copies, given])
    weak = np.concatenate([is_weak, np.zeros(len(copies) + len(given), bool)])
    joined = join_pairs(number, ends[:, 0], ends[:, 1], weak)
    names = _names(tiles, joined.of_tile)
    is_touching = (found.pairs.kind == NeighbourKind.TOUCHING.value).to_numpy(bool)
    is_kept = ~joined.is_cut[: len(pairs)]
    evidence = {
        "groups": len({name for name in names if name is not None}),
        "tiles": sum(name is not None for name in names),
        "touching": int((is_touching & is_kept).sum()),
        "overlapping": int((~is_touching & is_kept).sum()),
        "copies": len(np.unique(copies, axis=0)),
        "cut": int(joined.is_cut.sum()),
        "not_compared": found.num_left_out,
    }
    return names, evidence


_LOOK = ["luminance_digest", "width_px", "height_px"]


def _varied(tiles: pd.DataFrame) -> pd.DataFrame:
    return tiles[tiles.contrast >= _MIN_CONTRAST]


def _positions(tiles: pd.DataFrame, pairs: pd.DataFrame) -> np.ndarray:
    """Return the rows of both tiles of each pair, int64 [n, 2]."""
    images = tiles.image_path.dropna()
    import pandas as pd

    at = pd.Series(images.index.to_numpy(), index=images.to_numpy())
    sides = [at.loc[list(pairs[name])].to_numpy(np.int64) for name in ("image_a", "image_b")]
    return np.stack(sides, axis=1)


def _alike(tiles: pd.DataFrame, keys: list[str]) -> np.ndarray:
    """Return, of tiles with equal known keys, each with the one before it, int64 [n, 2]."""
    known = tiles.dropna(subset=keys)
    codes = known.groupby(keys, sort=False).ngroup().to_numpy()
    rows = known.index.to_numpy(np.int64)
    order = np.argsort(codes, kind="stable")
    same = codes[order[1:]] == codes[order[:-1]]
    return np.stack([rows[order[:-1][same]], rows[order[1:][same]]], axis=1)


def _weak(pairs: pd.DataFrame) -> np.ndarray:
    """Return which pairs are not beyond doubt (bool [n]): seams with a small margin."""
    score, rival = (
        np.arctanh(np.clip(pairs[name].fillna(0).to_numpy(np.float64), 0, _LARGEST))
        for name in ("score", "rival")
    )
    is_touching = (pairs.kind == NeighbourKind.TOUCHING.value).to_numpy(bool)
    # The square that closes is evidence of its own.
    is_closed = pairs.by_square.to_numpy(bool)
    result: np.ndarray = is_touching & ~is_closed & (score - rival < _STRONG_MARGIN)
    return result


def _names(tiles: pd.DataFrame, of_tile: np.ndarray) -> list[str | None]:
    sizes = np.bincount(of_tile, minlength=1)
    first = np.full(len(sizes), len(tiles), np.int64)
    np.minimum.at(first, of_tile, np.arange(len(tiles)))
    known: dict[int, set[str]] = {}
    for component, group in zip(of_tile.tolist(), tiles.group.tolist(), strict=True):
        if isinstance(group, str):
            known.setdefault(component, set()).add(group)
    names: dict[int, str | None] = {
        component: f"pixels:{tiles.tile_id.iloc[int(first[component])]}"
        for component in np.flatnonzero(sizes > 1).tolist()
    }
    names |= {component: "+".join(sorted(groups)) for component, groups in known.items()}
    return [names.get(component) for component in of_tile.tolist()]


def describe(evidence: dict[str, Any]) -> str:
    """Return in words what groups were found and what holds them together."""
    parts = [
        f"{evidence[name]:,} {words}"
        for name, words in (
            ("touching", "pairs of tiles touch"),
            ("overlapping", "pairs overlap"),
            ("copies", "pairs are copies"),
        )
        if evidence[name]
    ]
    cut = evidence["cut"]
    weak = f"; {cut:,} weak seam{'s' if cut > 1 else ''} cut (HP706)" if cut else ""
    left = evidence["not_compared"]
    more = f"; {left:,} more pairs were not compared" if left else ""
    held = ", ".join(parts) or "nothing touches, overlaps or is a copy"
    return (
        f"{plural(evidence['groups'], 'group')} of {evidence['tiles']:,} tiles: {held}{weak}{more}"
    )
