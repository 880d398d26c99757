"""A split given by the user: a CSV of tile or group and split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from histoprep.errors import UsageError
from histoprep.split.units import NO_SPLIT, SPLITS, name_keys


@dataclass(frozen=True, slots=True)
class GivenSplit:
    """Splits by name: `kind` is tile or group, `keys` (uint64, ascending) those of the names,
    `codes` (int8) their splits.
    """

    kind: str
    keys: np.ndarray
    codes: np.ndarray

    def lookup(self, keys: np.ndarray) -> np.ndarray:
        """Return the split code of each key (int8), `NO_SPLIT` where the file says nothing."""
        if not len(self.keys):
            return np.full(len(keys), NO_SPLIT, dtype=np.int8)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.codes[at], np.int8(NO_SPLIT))


def read_split_file(path: Path, seed: int) -> GivenSplit:
    """Return the split of a CSV in UTF-8 with a header, a column `split` and a column `tile_id` or
    `group`.

    Raises UsageError when it cannot be read, a split is none of train, val and test, or a name has
    two splits.
    """
    table = _read(path)
    kind = next((name for name in ("tile_id", "group") if name in table.column_names), None)
    if kind is None or "split" not in table.column_names:
        raise UsageError(
            "the split file lacks a column",
            path=path,
            seen=", ".join(table.column_names),
            expected="tile_id,split or group,split",
        )
    names = table[kind].to_pylist()
    splits = table["split"].to_pylist()
    strange = sorted({split for split in splits if split not in SPLITS})
    if strange:
        raise UsageError(
            "the split file names an unknown split",
            path=path,
            seen=", ".join(strange[:5]),
            expected=", ".join(SPLITS),
        )
    keys = name_keys(names, seed, "tile" if kind == "tile_id" else "group")
    codes = np.array([SPLITS.index(split) for split in splits], dtype=np.int8)
    order = np.argsort(keys, kind="stable")
    keys, codes = keys[order], codes[order]
    twice = np.flatnonzero((keys[1:] == keys[:-1]) & (codes[1:] != codes[:-1]))
    if len(twice):
        raise UsageError(
            f"the split file puts one {'tile' if kind == 'tile_id' else 'group'} in two splits",
            path=path,
            seen=(
                f"{names[order[twice[0]]]} in"
                f" {' and '.join(sorted({SPLITS[codes[twice[0]]], SPLITS[codes[twice[0] + 1]]}))}"
            ),
        )
    return GivenSplit("tile" if kind == "tile_id" else "group", keys, codes)


def _read(path: Path) -> pa.Table:
    from pyarrow import csv

    if path.exists() and not path.is_file():
        raise UsageError(
            "the split file is no regular file",
            path=path,
            expected="a CSV file in UTF-8 with a header",
        )
    try:
        with csv.open_csv(path) as stream:
            names = stream.schema.names
        if len(set(names)) < len(names):
            raise UsageError(
                "the split file has two columns of one name", path=path, seen=", ".join(names)
            )
        # Ids such as 007 are text, and NA or an empty cell is no null.
        options = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        )
        return csv.read_csv(path, convert_options=options)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UsageError(
            f"the split file cannot be read: {error}",
            path=path,
            expected="a CSV file in UTF-8 with a header",
        ) from error
