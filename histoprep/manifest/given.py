"""A split that folders or a file give: is it complete, and what does it cut."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from histoprep.errors import UsageError
from histoprep.labels import LabelMap
from histoprep.manifest import rows as manifest_rows
from histoprep.manifest.choice import ChosenRows
from histoprep.name_index import NameIndex, SlideIndex, common_end, without_suffix
from histoprep.split.given import GivenSplit
from histoprep.split.units import NO_SPLIT, SPLITS, SplitRows


@dataclass(frozen=True, slots=True)
class IncludedTiles:
    """The included tiles of a tiles table, to find names when something must be named.

    Attributes:
        rows: The rows of the table.
        label_map: The map that says which are included.
        root: The data set.
    """

    rows: ChosenRows
    label_map: LabelMap
    root: Path

    def describe(self, wanted: np.ndarray) -> list[dict[str, Any]]:
        """Return tile_id, group, image_digest and image_path of the included tiles with these
        numbers (ascending).
        """
        descriptions: list[dict[str, Any]] = []
        end = 0
        for chunk in self.rows.read_batches((*manifest_rows.COLUMNS, "group", "image_digest")):
            included = manifest_rows.derive(chunk, self.label_map).included
            rows = chunk.select(["tile_id", "group", "image_digest", "image_path"]).filter(
                pa.array(included)
            )
            start, end = end, end + rows.num_rows
            descriptions += rows.take(
                wanted[(wanted >= start) & (wanted < end)] - start
            ).to_pylist()
        return descriptions


def file_splits(
    source: IncludedTiles,
    given: GivenSplit,
    rows: SplitRows,
    tile_keys: np.ndarray,
    origin: SplitOrigin,
) -> np.ndarray:
    """Return the split code (int8 [n]) that a file gives each included tile, by its own key or its
    group's, or else by what a name in the file means (`GivenSplit.lookup_paths`); `NO_SPLIT` where
    it says nothing.

    Raises UsageError, naming some, when the file says nothing about any tile, or a name of a tile
    means several.
    """
    splits = given.lookup(
        tile_keys if given.kind == "tile" else np.where(rows.grouped, rows.names, np.uint64(0))
    )
    missing = np.flatnonzero(splits == NO_SPLIT)
    if len(missing):
        splits[missing] = _by_path(source, given, missing, tile_keys)
        missing = np.flatnonzero(splits == NO_SPLIT)
    if len(missing) == len(splits):
        some = source.describe(missing[:5])
        names = [
            row["tile_id"]
            if given.kind == "tile"
            else f"{row['tile_id']} (group {row['group'] or 'unknown'})"
            for row in some
        ]
        raise UsageError(
            f"{origin.words} says nothing of any tile",
            seen=f"{len(missing)} tiles, for instance {', '.join(names)}",
            expected=f"names of {'tiles' if given.kind == 'tile' else 'groups'};"
            f" {_some_names(given)}",
        )
    return splits


def unmatched_names(rows: ChosenRows, given: GivenSplit) -> list[str]:
    """Return the names in a split file that mean no tile of the table, included or not, in order of
    the file's keys.
    """
    left = dict.fromkeys(given.names.to_pylist())
    column = "tile_id" if given.kind == "tile" else "group"
    for batch in rows.read_batches((column,)):
        for name in set(batch[column].to_pylist()) & left.keys():
            del left[name]
    index = NameIndex(list(left)) if given.kind == "tile" else SlideIndex(list(left))
    for batch in rows.read_batches(("image_path",)) if left else ():
        for path in batch["image_path"].drop_null().to_pylist():
            left.pop(index.find(path), None)
    return list(left)


def _by_path(
    source: IncludedTiles, given: GivenSplit, missing: np.ndarray, tile_keys: np.ndarray
) -> np.ndarray:
    """Return the split code (int8 [m]) of the tiles with these numbers by the names that their
    paths fit; raises UsageError for a name that fits several tiles, or is the id of another.
    """
    paths = [str(row["image_path"]) for row in source.describe(missing)]
    codes, meant = given.lookup_paths(paths)
    if given.kind == "tile":
        is_id = np.isin(given.keys, tile_keys)
        first = {name: name for name in given.names.filter(pa.array(is_id)).to_pylist()}
        # Of several tiles, a name means the one whose path it ends with for the most parts.
        ends = [
            0 if name is None else common_end(without_suffix(name), without_suffix(path))
            for path, name in zip(paths, meant, strict=True)
        ]
        longest: dict[str | None, int] = {}
        for name, end in zip(meant, ends, strict=True):
            longest[name] = max(end, longest.get(name, 0))
        for number, (path, name) in enumerate(zip(paths, meant, strict=True)):
            if ends[number] < longest[name]:
                codes[number] = NO_SPLIT
            elif name is not None and first.setdefault(name, path) != path:
                raise UsageError(
                    "a name in the split file fits several tiles",
                    seen=f"{name} for {first[name]} and {path}",
                    expected="names with the folders that tell them apart",
                )
    return codes


def _some_names(given: GivenSplit) -> str:
    names = given.names[:2].to_pylist()
    return f"it has names such as {' and '.join(names)}" if names else "it has no names"


@dataclass(frozen=True, slots=True)
class SplitOrigin:
    """Where a given split comes from.

    Attributes:
        root: The data set.
        split_file: The file of --split-file, or None.
        table: The table of pairs with a column for the split, or None; without both, folders give
            the split.
        test: The names of --test.
    """

    root: Path
    split_file: Path | None = None
    table: Path | None = None
    test: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """Return how a manifest calls it: test, file, table or folder."""
        if self.test:
            return "test"
        return "file" if self.split_file else "table" if self.table else "folder"

    @property
    def words(self) -> str:
        """Return what gives the split."""
        if self.test:
            return "--test"
        if self.split_file:
            return f"the split file {self.split_file.name}"
        return f"the column split of {self.table.name}" if self.table else "the split of folders"

    @property
    def advice(self) -> str:
        """Return how to split anew, with the command."""
        command = f"histoprep manifest {shlex.quote(str(self.root))}"
        if self.test:
            return "name all groups that share tiles or images with those"
        if self.split_file:
            return f"correct the rows in {self.split_file}; or split anew: {command}"
        return f"split anew, with groups and copies kept together: {command} --ignore-folder-split"


def leak(
    source: IncludedTiles,
    members: np.ndarray,
    given: np.ndarray,
    num_leaks: int,
    origin: SplitOrigin,
) -> UsageError:
    """Return the error that names the group, or else the equal images, that a given split cuts."""
    rows = source.describe(members)
    splits = [SPLITS[code] if code != NO_SPLIT else None for code in given[members].tolist()]
    more = f" (and {num_leaks - 1} more)" if num_leaks > 1 else ""
    group = _cut([row["group"] for row in rows], splits)
    if group is not None:
        cut = sorted(
            {
                split
                for row, split in zip(rows, splits, strict=True)
                if split and row["group"] == group
            }
        )
        what, seen = (
            f"{origin.words} cuts a group (HP702): {group}{more}",
            f"{group} in {' and '.join(cut)}",
        )
    else:
        image = _cut([row["image_digest"] for row in rows], splits)
        # Without equal bytes it is equal pixels, or a chain of groups that share images.
        alike = [
            (str(split), row["tile_id"])
            for row, split in zip(rows, splits, strict=True)
            if split and image in (None, row["image_digest"])
        ]
        what = f"{origin.words} puts equal images in two splits (HP703){more}"
        seen = ", ".join(
            f"{tile} in {split}" for split, tile in sorted(dict(reversed(alike)).items())
        )
    return UsageError(
        what,
        path=origin.split_file or origin.table or origin.root,
        seen=seen,
        expected="one split",
        hint=origin.advice,
    )


def _cut(names: list[str | None], splits: list[str | None]) -> str | None:
    """Return the first name, in order, that has two splits."""
    seen: dict[str, set[str]] = {}
    for name, split in zip(names, splits, strict=True):
        if name is not None and split is not None:
            seen.setdefault(name, set()).add(split)
    return next((name for name, found in sorted(seen.items()) if len(found) > 1), None)
