"""Tiles table -> whether its labels number objects, one id an object, instead of naming classes.

Instance ids (cellpose, StarDist, CRAG, MoNuSeg) are whole numbers in a grey image as class ids are.
What tells them apart is how they are used: there are many of them, and each is one connected
region, while classes are few and come in several regions. Three kinds of data sets are known: masks
with many ids each; masks with few that are numbered from 1 without gaps, as many as there happen to
be; and tiles of a slide with ids of the whole slide, each of which occurs in few tiles.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep import rule_ids
from histoprep.errors import UsageError
from histoprep.schemas.repaired import open_rows

COLUMNS = ("label_ids", "label_pixels", "label_regions")
# A mask of so many labels that are one region each holds no classes.
_MANY = 20
_ONE_REGION = 0.95
# Numbered from 1: so many labels a mask on average and altogether, in nearly all masks, and not the
# same number in each.
_NUMBERED_MEAN, _NUMBERED_TOTAL, _NUMBERED_SHARE, _NUMBERED_SIZES = 5.0, 30, 0.9, 3
# Ids of a slide: so many of them, so many in a mask, each in so few masks.
_SLIDE_IDS, _SLIDE_MEAN, _SLIDE_MASKS = 100, 3.0, 4.0


@dataclass(frozen=True, slots=True)
class InstanceIds:
    """Labels that number objects: how many masks have several, how many ids there are, the largest
    number in one mask, and the highest id.
    """

    num_masks: int
    num_ids: int
    most: int
    highest: int

    def describe(self) -> str:
        """Return the evidence in words."""
        return (
            f"{self.num_ids:,} ids up to {self.highest:,}, up to {self.most:,} in one mask, each of"
            " them one region"
        )


@dataclass(slots=True)
class LabelUse:
    """How the labels of masks are used, counted piece by piece.

    `sizes` has the number of labels other than the background of each mask that has any, `single`
    how many of these are one region, `numbered` whether they are 1, 2, ... without gaps; `ids` has
    the ids of each piece and how many masks hold them.
    """

    sizes: list[np.ndarray] = field(default_factory=list)
    single: list[np.ndarray] = field(default_factory=list)
    numbered: list[np.ndarray] = field(default_factory=list)
    ids: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, chunk: pa.Table) -> None:
        """Count a piece of the tiles table with `COLUMNS`."""
        lists = chunk["label_ids"].combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        if not lengths.sum():
            return
        row = np.repeat(np.arange(len(lengths)), lengths)
        ids, pixels, regions = (
            pc.list_flatten(chunk[name]).to_numpy().astype(np.int64) for name in COLUMNS
        )
        is_object = ~_is_background(row, ids, pixels, len(lengths))
        row, ids, regions = row[is_object], ids[is_object], regions[is_object]
        sizes = np.bincount(row, minlength=len(lengths))
        single = np.bincount(row[regions == 1], minlength=len(lengths))
        highest = np.zeros(len(lengths), np.int64)
        np.maximum.at(highest, row, ids)
        has_any = sizes > 0
        self.sizes.append(sizes[has_any])
        self.single.append(single[has_any])
        self.numbered.append((highest == sizes)[has_any])
        self.ids.append(np.unique(ids, return_counts=True))

    def instances(self) -> InstanceIds | None:
        """Return the ids if they number objects, else None."""
        if not sum(map(len, self.sizes)):
            return None
        sizes, single = np.concatenate(self.sizes), np.concatenate(self.single)
        if single.sum() < _ONE_REGION * sizes.sum():
            return None
        numbered = np.concatenate(self.numbered)
        found, counts = (np.concatenate(column) for column in zip(*self.ids, strict=True))
        ids, place = np.unique(found, return_inverse=True)
        tiles = np.bincount(place, weights=counts)
        if not (_many(sizes, single) or _numbered(sizes, numbered) or _of_slides(sizes, tiles)):
            return None
        return InstanceIds(int((sizes > 1).sum()), len(ids), int(sizes.max()), int(ids[-1]))


def _is_background(
    row: np.ndarray, ids: np.ndarray, pixels: np.ndarray, num_rows: int
) -> np.ndarray:
    """Return which labels (bool, one a label of a mask) are background: 0, or in a mask without 0
    the label of most pixels.
    """
    is_zero = ids == 0
    has_zero = np.zeros(num_rows, bool)
    has_zero[row[is_zero]] = True
    most = np.zeros(num_rows, np.int64)
    np.maximum.at(most, row, pixels)
    result: np.ndarray = is_zero | (~has_zero[row] & (pixels == most[row]))
    return result


def _many(sizes: np.ndarray, single: np.ndarray) -> bool:
    large = sizes >= _MANY
    fits = single[large] >= _ONE_REGION * sizes[large]
    return bool(large.any() and fits.mean() >= _NUMBERED_SHARE)


def _numbered(sizes: np.ndarray, numbered: np.ndarray) -> bool:
    return bool(
        sizes.mean() >= _NUMBERED_MEAN
        and sizes.sum() >= _NUMBERED_TOTAL
        and numbered.mean() >= _NUMBERED_SHARE
        and len(np.unique(sizes)) >= _NUMBERED_SIZES
    )


def _of_slides(sizes: np.ndarray, tiles: np.ndarray) -> bool:
    return bool(
        len(tiles) >= _SLIDE_IDS and sizes.mean() >= _SLIDE_MEAN and tiles.mean() <= _SLIDE_MASKS
    )


def refuse_instances(table: Path, root: Path) -> None:
    """Raise UsageError if the labels of a tiles table number objects, which are no classes.

    Args:
        table: The tiles table.
        root: The data set, as commands name it.
    """
    ids = find_instances(table)
    if ids is not None:
        raise UsageError(
            f"{rule_ids.INSTANCE_IDS}: the labels number objects and name no classes",
            path=root,
            seen=ids.describe(),
            expected="a label map that says what the objects are (--map)",
            hint=f"histoprep map init {shlex.quote(str(root))} writes one with a range, such as"
            f" 1-{ids.highest}: nucleus; then the same command with --map label_map.yml",
        )


def find_instances(table: Path) -> InstanceIds | None:
    """Return the labels of a tiles table, repaired masks in place of damaged ones, if they number
    objects; else None.

    Raises:
        IntegrityError: The table is damaged.
        FileNotFoundError: There is none.
    """
    use = LabelUse()
    for chunk in open_rows(table)[0].read_batches(COLUMNS):
        use.add(chunk)
    return use.instances()
