"""A split given by the user: a table of tiles or groups and their splits, or lists of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from histoprep.errors import UsageError
from histoprep.name_index import NameIndex, SlideIndex
from histoprep.scanning.dataset_csv import CASE_COLUMNS, NAME_COLUMNS, SLIDE_COLUMNS
from histoprep.scanning.walk import SPLIT_FOLDERS
from histoprep.split.units import NO_SPLIT, SPLITS, name_keys
from histoprep.text_table import detect_format, read_text_table

_TILE_COLUMNS = ("tile_id", *NAME_COLUMNS)
_GROUP_COLUMNS = ("group", *SLIDE_COLUMNS, *CASE_COLUMNS)
_SPLIT_COLUMNS = ("split", "set", "subset", "partition", "phase")
_LISTS = (".txt", ".csv", ".lst", "")
_EXPECTED = (
    "columns such as tile_id,split or group,split; a column of names for each split, called train"
    " and test; or a folder with train.txt and test.txt"
)
# How tables write a cell in which there is no name.
_NO_NAME = ("", "nan", "NaN", "None")


@dataclass(frozen=True, slots=True)
class GivenSplit:
    """Splits by name: `kind` is tile or group, `keys` (uint64, ascending) those of the names,
    `codes` (int8) their splits, `names` the names themselves in the same order.
    """

    kind: str
    keys: np.ndarray
    codes: np.ndarray
    names: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))

    def lookup(self, keys: np.ndarray) -> np.ndarray:
        """Return the split code of each key (int8), `NO_SPLIT` where the file says nothing."""
        if not len(self.keys):
            return np.full(len(keys), NO_SPLIT, dtype=np.int8)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.codes[at], np.int8(NO_SPLIT))

    def lookup_paths(self, paths: list[str]) -> tuple[np.ndarray, list[str | None]]:
        """Return the split code (int8) of each image path, and the name in the file that means it
        or its slide: by file name, by the end of a path, or as a part of the path.
        """
        names = self.names.to_pylist()
        index = NameIndex(names) if self.kind == "tile" else SlideIndex(names)
        codes = dict(zip(names, self.codes.tolist(), strict=True))
        meant = [index.find(path) for path in paths]
        return np.array([codes.get(name, NO_SPLIT) for name in meant], dtype=np.int8), meant


def read_split_file(path: Path, seed: int) -> GivenSplit:
    """Return the split that a table gives, or a folder with a list of names for each split.

    A table has a column `split` and one that names tiles or images, groups, slides or cases; or a
    column of names for each split, called train, val and test.

    Raises:
        UsageError: It cannot be read, a split is none of train, val and test, or a name has two
            splits.
    """
    kind, names, splits = _of_lists(path) if path.is_dir() else _of_table(path)
    known = [SPLIT_FOLDERS.get(split.strip().lower()) for split in splits]
    if None in known:
        strange = sorted(
            {split for split, found in zip(splits, known, strict=True) if found is None}
        )
        raise UsageError(
            "the split file names an unknown split",
            path=path,
            seen=", ".join(strange[:5]),
            expected=", ".join(SPLITS),
        )
    keys = name_keys(names, seed, kind)
    codes = np.array([SPLITS.index(split) for split in known if split], dtype=np.int8)
    order = np.argsort(keys, kind="stable")
    keys, codes = keys[order], codes[order]
    twice = np.flatnonzero((keys[1:] == keys[:-1]) & (codes[1:] != codes[:-1]))
    if len(twice):
        raise UsageError(
            f"the split file puts one {kind} in two splits",
            path=path,
            seen=(
                f"{names[order[twice[0]]]} in"
                f" {' and '.join(sorted({SPLITS[codes[twice[0]]], SPLITS[codes[twice[0] + 1]]}))}"
            ),
        )
    return GivenSplit(kind, keys, codes, pa.array(names, pa.string()).take(pa.array(order)))


def split_of_names(names: Sequence[str], split: str, seed: int) -> GivenSplit:
    """Return the split that gives one split to some groups, by their names."""
    known = list(dict.fromkeys(names))
    keys = name_keys(known, seed, "group")
    order = np.argsort(keys, kind="stable")
    codes = np.full(len(keys), SPLITS.index(split), dtype=np.int8)
    return GivenSplit(
        "group", keys[order], codes, pa.array(known, pa.string()).take(pa.array(order))
    )


def _of_table(path: Path) -> tuple[str, list[str], list[str]]:
    """Return kind, names and splits of a table."""
    table = _read(path)
    columns = {name.strip().lower(): name for name in reversed(table.column_names)}
    lists = {name: SPLIT_FOLDERS[name] for name in columns if name in SPLIT_FOLDERS}
    split = next((columns[name] for name in _SPLIT_COLUMNS if name in columns), None)
    if split is None and len(lists) > 1 and _are_flags(table, lists, columns):
        return _of_flags(path, table, {columns[name]: found for name, found in lists.items()})
    if split is None and len(lists) > 1:
        pairs = [
            (name, found)
            for column, found in lists.items()
            for name in table[columns[column]].to_pylist()
            if name not in _NO_NAME
        ]
        return "group", [name for name, _ in pairs], [found for _, found in pairs]
    kinds = dict.fromkeys(_GROUP_COLUMNS, "group") | dict.fromkeys(_TILE_COLUMNS, "tile")
    first = next((name for name in (*_TILE_COLUMNS, *_GROUP_COLUMNS) if name in columns), None)
    if split is None or first is None:
        raise UsageError(
            "the split file lacks a column",
            path=path,
            seen=", ".join(table.column_names),
            expected=_EXPECTED,
        )
    return kinds[first], table[columns[first]].to_pylist(), table[split].to_pylist()


def _are_flags(table: pa.Table, lists: Mapping[str, str], columns: Mapping[str, str]) -> bool:
    """Return whether the columns of the splits hold True and False instead of names."""
    cells = {
        cell.strip().lower() for name in lists for cell in table[columns[name]].to_pylist()
    } - {name.lower() for name in _NO_NAME}
    return bool(cells) and cells <= {"true", "false"}


def _of_flags(
    path: Path, table: pa.Table, splits: Mapping[str, str]
) -> tuple[str, list[str], list[str]]:
    """Return kind, names and splits of a table whose first other column has the names."""
    others = [name for name in table.column_names if name not in splits]
    if not others:
        raise UsageError(
            "the split file lacks a column of names",
            path=path,
            seen=", ".join(table.column_names),
            expected=_EXPECTED,
        )
    names, found = [], []
    for row, name in enumerate(table[others[0]].to_pylist()):
        for column, split in splits.items():
            if table[column][row].as_py().strip().lower() == "true":
                names.append(name)
                found.append(split)
    return "group", names, found


def _of_lists(folder: Path) -> tuple[str, list[str], list[str]]:
    """Return kind, names and splits of a folder with a list for each split, a name a line."""
    lists = {
        path: split
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _LISTS and (split := SPLIT_FOLDERS.get(path.stem.lower()))
    }
    if not lists:
        raise UsageError(
            "the folder holds no list of a split",
            path=folder,
            seen=", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing",
            expected="train.txt and test.txt, a name a line",
        )
    names, splits = [], []
    for path, split in lists.items():
        # Some lists have the masks in a second column.
        rows = [row[0].split()[0] for row in read_text_table(path, "the list").rows if row[0]]
        names += rows
        splits += [split] * len(rows)
    return "tile", names, splits


def _read(path: Path) -> pa.Table:
    from pyarrow import csv

    what, expected = "the split file", "a table with a header"
    form = detect_format(path, what)
    read = csv.ReadOptions(encoding=form.encoding.removesuffix("-sig"), skip_rows=form.skipped)
    parse = csv.ParseOptions(delimiter=form.separator)
    try:
        with csv.open_csv(path, read, parse) as stream:
            names = stream.schema.names
        if len(set(names)) < len(names):
            raise UsageError(
                "the split file has two columns of one name", path=path, seen=", ".join(names)
            )
        # Ids such as 007 are text, and NA or an empty cell is no null.
        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        )
        return csv.read_csv(path, read, parse, convert)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UsageError(
            f"the split file cannot be read: {error}", path=path, expected=expected
        ) from error
