"""Tiles table -> a few dozen bytes an included tile: what the split needs to know, and what was
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.errors import UsageError
from histoprep.labels import LabelMap
from histoprep.manifest import rows as manifest_rows
from histoprep.manifest.choice import ChosenRows
from histoprep.manifest.earlier import EarlierSplit
from histoprep.manifest.inclusion import CHOICES, REASONS
from histoprep.manifest.rows import Strata, derive
from histoprep.progress import Advance, TaskProgress
from histoprep.remapping.evidence import HeldLabels
from histoprep.schemas.repaired import IS_REPAIRED
from histoprep.split.certificate import crossing
from histoprep.split.units import NO_SPLIT, SPLITS, SplitRows, name_keys, repeated

_COLUMNS = (
    *manifest_rows.COLUMNS,
    "group",
    "split",
    "label",
    "image_digest",
    "luminance_digest",
    "contrast",
    IS_REPAIRED,
)
# Rows turned into Python strings at a time: smaller pieces keep the peak low.
_PIECE = 8192


@dataclass(frozen=True, slots=True)
class SplitInputs:
    """Pass 1: the included tiles as the split sees them, splits given by folders, splits and folds
    of an earlier manifest (int8 [n]), what was left out, how many masks are repaired.

    `num_stale` repaired masks belong to no mask of the table any more; `remapped` is the evidence
    that the masks were mapped before (HP508).
    """

    rows: SplitRows
    given: np.ndarray
    kept: np.ndarray
    kept_folds: np.ndarray
    tile_keys: np.ndarray
    excluded: dict[str, int]
    pool_overlaps: int
    num_repaired: int = 0
    num_stale: int = 0
    remapped: str | None = None
    tiles_by_label: Mapping[int, int] = field(default_factory=dict)


def gather(
    source: ChosenRows,
    label_map: LabelMap,
    *,
    seed: int,
    conditional_threshold: float,
    by_name: bool,
    earlier: EarlierSplit | None,
    advance: Advance,
) -> SplitInputs:
    """Return what the split needs of the included tiles of a tiles table; raises UsageError when
    there is none or an id occurs twice.

    `tile_keys` are empty unless `by_name`; `earlier` is the split whose tiles `kept` tells of;
    `advance` is called with the rows done and all rows.
    """
    size = source.num_rows
    names, images, pixels, tile_keys = (np.zeros(size, dtype=np.uint64) for _ in range(4))
    grouped, conditional = (np.zeros(size, dtype=bool) for _ in range(2))
    given, kept, folds = (np.full(size, NO_SPLIT, dtype=np.int8) for _ in range(3))
    strata, kinds, reasons = (
        np.zeros(size, dtype=np.int32),
        Strata(label_map),
        np.zeros(len(REASONS), dtype=np.int64),
    )
    end = num_repaired = num_found = 0
    labels_held, progress = HeldLabels(), TaskProgress(advance, size)
    for chunk in source.read_batches(_COLUMNS, _PIECE):
        labels_held.add(chunk)
        derived = derive(chunk, label_map, conditional_threshold)
        reasons += np.bincount(derived.reason[~derived.included], minlength=len(REASONS))
        included = chunk.filter(pa.array(derived.included))
        num_found += pc.sum(chunk[IS_REPAIRED]).as_py() or 0
        num_repaired += pc.sum(included[IS_REPAIRED]).as_py() or 0
        start, end = end, end + included.num_rows
        here = slice(start, end)
        group, images[here], pixels[here], tile_keys[here] = _keys(included, seed)
        grouped[here] = group != 0
        names[here] = np.where(grouped[here], group, images[here])
        conditional[here] = derived.conditional[derived.included]
        strata[here] = kinds.codes(
            conditional[here], derived.core[derived.included], included["label"]
        )
        given[here] = _folder_splits(included["split"])
        if earlier is not None:
            kept[here], folds[here] = earlier.lookup(tile_keys[here], images[here]).T
        progress.add(chunk.num_rows)
        # Worth 60 MB: Arrow keeps the memory of row groups that are gone.
        pa.default_memory_pool().release_unused()
    excluded = {reason: int(count) for reason, count in zip(REASONS, reasons, strict=True) if count}
    if not end:
        raise UsageError(
            "no tile can be used",
            seen=", ".join(f"{count} {reason}" for reason, count in excluded.items())
            or "an empty tiles table",
            hint="histoprep audit says what is wrong with each of them"
            if excluded.keys() - set(CHOICES) or not excluded
            else "leave out less: --exclude, --drop-list, --keep-list and --sample say what",
        )
    # Only a split file asks for tiles by name; otherwise sort in place and free 80 MB at ten
    # million tiles.
    kept_keys = tile_keys[: end if by_name else 0].copy()
    _refuse_twice(source, tile_keys[:end], seed)
    del tile_keys
    same_bytes = repeated(images[:end])
    del images
    overlaps = crossing(same_bytes[1], conditional[same_bytes[0]].astype(np.int8))
    same_pixels = repeated(pixels[:end])
    del pixels
    copy_rows, copy_keys = (
        np.concatenate(pair) for pair in zip(same_bytes, same_pixels, strict=True)
    )
    rows = SplitRows(
        names[:end], grouped[:end], copy_rows, copy_keys, strata[:end], *kinds.profiles()
    )
    num_stale = (0 if source.repaired is None else len(source.repaired)) - num_found
    return SplitInputs(
        rows,
        given[:end],
        kept[:end],
        folds[:end],
        kept_keys,
        excluded,
        overlaps,
        num_repaired,
        num_stale,
        labels_held.remapped_by(label_map),
        labels_held.tiles,
    )


def _keys(rows: pa.Table, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the keys of group, image, pixels and tile of each row; an image without a digest has
    the key of its tile.
    """
    tile = name_keys(rows["tile_id"].to_pylist(), seed, "tile")
    image = name_keys(rows["image_digest"].to_pylist(), seed, "image")
    varied = pc.if_else(
        pc.fill_null(pc.greater_equal(rows["contrast"], manifest_rows.MIN_CONTRAST), False),
        rows["luminance_digest"],
        None,
    )
    pixels = name_keys(varied.to_pylist(), seed, "pixels")
    return (
        name_keys(rows["group"].to_pylist(), seed, "group"),
        np.where(image == 0, tile, image),
        pixels,
        tile,
    )


def _folder_splits(column: pa.ChunkedArray) -> np.ndarray:
    codes = pc.index_in(column, pa.array(SPLITS))
    result: np.ndarray = pc.fill_null(codes, NO_SPLIT).to_numpy().astype(np.int8)
    return result


def _refuse_twice(source: ChosenRows, keys: np.ndarray, seed: int) -> None:
    """Raise UsageError when a tile id occurs twice; sorts `keys` in place."""
    keys.sort()
    twice = keys[1:][keys[1:] == keys[:-1]]
    if not len(twice):
        return
    for chunk in source.read_batches(["tile_id"]):
        names = chunk["tile_id"].to_pylist()
        seen = np.flatnonzero(np.isin(name_keys(names, seed, "tile"), twice))
        if len(seen):
            raise UsageError(
                "a tile id occurs twice in the tiles table",
                seen=names[int(seen[0])],
                hint="histoprep audit --no-reuse",
            )
