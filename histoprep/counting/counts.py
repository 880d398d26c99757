"""Class counts of tiles: sums of integers, so the same for any way of cutting the tiles table.

No pixel is read here. `counting` makes shares, weights and plots of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.choices import Dimension
from histoprep.errors import IntegrityError
from histoprep.labels import UNMAPPED, LabelMap, core_present

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = (
    "tile_id",
    "group",
    "split",
    "image_path",
    "mask_path",
    "mask_error",
    "label_ids",
    "label_pixels",
    "label_core_pixels",
    "label_radius_px",
)
"""Columns of tiles.parquet that `count` reads."""

DIMENSIONS = tuple(dimension.value for dimension in Dimension)
CONDITIONAL, UNCONDITIONAL = "conditional", "unconditional"

CLASS_SUMS = ("tiles", "core_tiles", "pixels", "core_pixels", "tile_pixels")


@dataclass(frozen=True)
class Counts:
    """Class counts of some tiles; sums over tiles, so `a + b` are the counts of both together.

    `tiles`: split, pool, group, tiles. `classes`: split, pool, group, class_id and, of
    the tiles that hold the class, tiles, core_tiles, pixels, core_pixels and
    tile_pixels (pixels of every class in these tiles). `cooccurrence`: class_a <
    class_b, tiles that hold both. `unmapped`: label_id, tiles, pixels and an example
    tile id, the first in order. Unknown splits and groups are "". Rows are in
    the order of their keys and keys are unique.

    `core_pixels` sums the cores of the source labels, so it is a lower bound for a class of
    several labels that touch each other.
    """

    tiles: DataFrame
    classes: DataFrame
    cooccurrence: DataFrame
    unmapped: DataFrame

    def __add__(self, other: Counts) -> Counts:
        """Return the counts of the tiles of both."""
        return merge([self, other])

    @property
    def num_tiles(self) -> int:
        """Return how many tiles were counted."""
        return int(self.tiles["tiles"].sum())


@dataclass(frozen=True)
class _Entries:
    """The label lists of a chunk, flat: one entry for each label of each tile."""

    row: np.ndarray
    label: np.ndarray
    pixels: np.ndarray
    core_pixels: np.ndarray
    radius_px: np.ndarray

    def where(self, keep: np.ndarray) -> _Entries:
        return _Entries(
            *(
                column[keep]
                for column in (self.row, self.label, self.pixels, self.core_pixels, self.radius_px)
            )
        )


def count(chunk: pa.Table, label_map: LabelMap) -> Counts:
    """Return the counts of `chunk`, rows of tiles.parquet, with labels mapped to classes.

    A class is present in a tile when any of its source labels is, and core-present when any of
    these is (see `core_present`). A tile is of the pool that a column `pool` gives it, and without
    one, or where that is "", conditional when it has a pixel of a class other than 0. Orphan masks
    and masks without labels are not counted. Raises IntegrityError when the lists of a tile differ
    in length.
    """
    included = chunk.filter(_is_included(chunk))
    entries = _flatten(included)
    lookup = label_map.apply_to_ids(entries.label)
    mapped = entries.where(lookup >= 0)
    classes = _per_tile_classes(mapped, lookup[lookup >= 0], label_map)
    keys = _tile_keys(included, classes["row"][classes["class_id"] != 0])
    return Counts(
        tiles=_tile_sums(keys),
        classes=_class_sums(keys, classes),
        cooccurrence=_pairs(classes["row"], classes["class_id"]),
        unmapped=_unmapped(included, entries.where(lookup == UNMAPPED)),
    )


def _is_included(chunk: pa.Table) -> pa.ChunkedArray:
    has_labels = pc.or_(pc.is_null(chunk["mask_path"]), pc.is_valid(chunk["label_ids"]))
    return pc.and_(
        pc.and_(pc.is_valid(chunk["image_path"]), pc.is_null(chunk["mask_error"])), has_labels
    )


def _flatten(chunk: pa.Table) -> _Entries:
    lengths = _list_lengths(chunk, "label_ids")
    for name in ("label_pixels", "label_core_pixels", "label_radius_px"):
        wrong = np.flatnonzero(_list_lengths(chunk, name) != lengths)
        if len(wrong):
            raise IntegrityError(
                f"{name} and label_ids of a tile differ in length",
                path=chunk["tile_id"][int(wrong[0])].as_py(),
                hint="make the tiles table again: histoprep audit --no-reuse",
            )
    flat = (pc.list_flatten(chunk[name]).to_numpy() for name in COLUMNS[-4:])
    return _Entries(np.repeat(np.arange(chunk.num_rows), lengths), *flat)


def _list_lengths(chunk: pa.Table, name: str) -> np.ndarray:
    result: np.ndarray = pc.fill_null(pc.list_value_length(chunk[name]), 0).to_numpy()
    return result


def _per_tile_classes(
    entries: _Entries, class_ids: np.ndarray, label_map: LabelMap
) -> dict[str, np.ndarray]:
    """Return one entry for each class of each tile, in order of row, then class."""
    radii = {cls.id: cls.min_radius_px for cls in label_map.classes}
    distinct, place = np.unique(class_ids, return_inverse=True)
    needed = np.array([radii[class_id] for class_id in distinct.tolist()], np.float32)[place]
    core = core_present(entries.core_pixels, entries.radius_px, needed)
    # Class ids are below 2^32 and rows below 2^31: both fit one sortable integer.
    keys, entry = np.unique(entries.row.astype(np.int64) << 32 | class_ids, return_inverse=True)
    rows = keys >> 32

    def summed(values: np.ndarray, index: np.ndarray, length: int) -> np.ndarray:
        total = np.zeros(length, dtype=np.int64)
        np.add.at(total, index, values)
        return total

    pixels = summed(entries.pixels, entry, len(keys))
    tile_pixels = summed(pixels, rows, int(rows[-1]) + 1 if len(rows) else 0)[rows]
    return {
        "row": rows,
        "class_id": keys & 0xFFFF_FFFF,
        "tiles": np.ones(len(keys), dtype=np.int64),
        "core_tiles": (summed(core, entry, len(keys)) > 0).astype(np.int64),
        "pixels": pixels,
        "core_pixels": summed(entries.core_pixels, entry, len(keys)),
        "tile_pixels": tile_pixels,
    }


@dataclass(frozen=True)
class _TileKeys:
    """Split, pool and group of tiles: each combination once, in order, and which one a tile has."""

    distinct: DataFrame
    code: np.ndarray


def _tile_keys(chunk: pa.Table, labelled_rows: np.ndarray) -> _TileKeys:
    import pandas as pd

    is_conditional = np.zeros(chunk.num_rows, bool)
    is_conditional[labelled_rows] = True
    pool = pc.if_else(pa.array(is_conditional), CONDITIONAL, UNCONDITIONAL)
    if "pool" in chunk.column_names:
        pool = pc.if_else(pc.equal(chunk["pool"], ""), pool, chunk["pool"])
    columns = {
        "split": pc.fill_null(chunk["split"].cast(pa.string()), ""),
        "pool": pool,
        "group": pc.fill_null(chunk["group"].cast(pa.string()), ""),
    }
    combined, names = np.zeros(chunk.num_rows, np.int64), {}
    for name, column in columns.items():
        names[name], code = _in_order(column)
        combined = combined * len(names[name]) + code
    distinct, code = np.unique(combined, return_inverse=True)
    found = {}
    for name in reversed(columns):
        distinct, place = np.divmod(distinct, max(len(names[name]), 1))
        found[name] = names[name][place]
    frame = pd.DataFrame({name: found[name] for name in columns}, dtype=object)
    return _TileKeys(frame, code)


def _in_order(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct texts of a column in order, objects, and the place of each row's."""
    encoded = pc.dictionary_encode(column)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    names = np.array(encoded.dictionary.to_pylist(), object)
    order = np.argsort(names)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return names[order], rank[encoded.indices.to_numpy()]


def _tile_sums(keys: _TileKeys) -> DataFrame:
    return keys.distinct.assign(tiles=np.bincount(keys.code, minlength=len(keys.distinct)))


def _class_sums(keys: _TileKeys, classes: dict[str, np.ndarray]) -> DataFrame:
    # Class ids are below 2^32: key and class fit one sortable integer.
    combined = keys.code[classes["row"]] << 32 | classes["class_id"]
    distinct, entry = np.unique(combined, return_inverse=True)
    sums = {}
    for name in CLASS_SUMS:
        sums[name] = np.zeros(len(distinct), np.int64)
        np.add.at(sums[name], entry, classes[name])
    named = keys.distinct.iloc[distinct >> 32].reset_index(drop=True)
    return named.assign(class_id=distinct & 0xFFFF_FFFF, **sums)


def _pairs(rows: np.ndarray, class_ids: np.ndarray) -> DataFrame:
    """Return in how many tiles two classes occur together; entries are in order of row, then
    class.
    """
    import pandas as pd

    pairs: list[np.ndarray] = []
    amounts: list[np.ndarray] = []
    # Entry i pairs with entry i + step as long as both are in one tile.
    for step in range(1, len(rows)):
        together = np.flatnonzero(rows[:-step] == rows[step:])
        if not len(together):
            break
        former, latter = (
            class_ids[index].astype(np.uint64) for index in (together, together + step)
        )
        keys, number = np.unique(former << np.uint64(32) | latter, return_counts=True)
        pairs.append(keys)
        amounts.append(number)
    keys = np.concatenate(pairs) if pairs else np.zeros(0, dtype=np.uint64)
    number = np.concatenate(amounts) if amounts else np.zeros(0, dtype=np.int64)
    return _grouped(
        pd.DataFrame(
            {
                "class_a": (keys >> np.uint64(32)).astype(np.int64),
                "class_b": (keys & np.uint64(0xFFFF_FFFF)).astype(np.int64),
                "tiles": number,
            }
        ),
        ("class_a", "class_b"),
    )


def _unmapped(chunk: pa.Table, entries: _Entries) -> DataFrame:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "label_id": entries.label.astype(np.int64),
            "tiles": np.ones(len(entries.label), dtype=np.int64),
            "pixels": entries.pixels,
        }
    )
    frame["example"] = np.asarray(
        chunk["tile_id"].take(pa.array(entries.row)).to_pylist(), dtype=object
    )
    return _grouped_unmapped(frame)


def _grouped(frame: DataFrame, keys: Sequence[str]) -> DataFrame:
    return frame.groupby(list(keys), sort=True, as_index=False, observed=True).sum()


def _grouped_unmapped(frame: DataFrame) -> DataFrame:
    return frame.groupby("label_id", sort=True, as_index=False).agg(
        {"tiles": "sum", "pixels": "sum", "example": "min"}
    )


def merge(parts: Sequence[Counts]) -> Counts:
    """Return the counts of the tiles of all parts, at least one."""
    import pandas as pd

    def stacked(name: str) -> DataFrame:
        result: DataFrame = pd.concat([getattr(part, name) for part in parts], ignore_index=True)
        return result

    return Counts(
        tiles=_grouped(stacked("tiles"), DIMENSIONS),
        classes=_grouped(stacked("classes"), (*DIMENSIONS, "class_id")),
        cooccurrence=_grouped(stacked("cooccurrence"), ("class_a", "class_b")),
        unmapped=_grouped_unmapped(stacked("unmapped")),
    )
