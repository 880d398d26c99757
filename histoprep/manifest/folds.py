"""Cross-validation folds of the tiles that are not test: shared out evenly, or by a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from histoprep.errors import UsageError
from histoprep.manifest.given import IncludedTiles
from histoprep.phrases import first_of
from histoprep.scanning import ScanOptions, values_by
from histoprep.split import assign_folds, join_units, leaking_units, split_of_units
from histoprep.split.units import NO_SPLIT, SPLITS, SplitRows

MIN_FOLDS, MAX_FOLDS = 2, 100
_TEST = SPLITS.index("test")


@dataclass(frozen=True, slots=True)
class Folds:
    """The folds of the tiles.

    Attributes:
        of_tile: The fold of each tile (int8 [n]), or `NO_SPLIT` for a tile of none.
        recipe: How they were made, as JSON values: `by`, and the `names` in order.
    """

    of_tile: np.ndarray
    recipe: dict[str, Any]


def choose_folds(
    how: str,
    source: IncludedTiles,
    rows: SplitRows,
    splits: np.ndarray,
    kept: np.ndarray,
    kept_recipe: Mapping[str, Any] | None,
    scan_options: ScanOptions,
) -> Folds:
    """Return the folds of all tiles that are not test; groups and copies stay whole.

    Args:
        how: A number of folds, or what gives each fold its tiles: `folder`, `csv:COLUMN` or a
            regular expression.
        source: The tiles, to read and name them.
        rows: What the split knows of them.
        splits: The split code of each (int8 [n]).
        kept: The fold that each tile had before, or `NO_SPLIT` (int8 [n]).
        kept_recipe: How those were made; None where there were none.
        scan_options: How the data set was scanned.

    Raises:
        UsageError: The number or the values give no folds, or a value cuts a group.
    """
    rest = splits != _TEST
    chosen = rows.where(rest)
    units = join_units(chosen)
    found = np.full(len(rows), NO_SPLIT, dtype=np.int8)
    if not how.isdecimal():
        values = _values(how, source, rest, scan_options)
        names = sorted(set(values))
        _check_number(len(names), how, f"values such as {first_of(names)}")
        codes = np.array([names.index(value) for value in values], dtype=np.int8)
        cut = leaking_units(units, codes)
        if len(cut):
            members = np.flatnonzero(rest)[units.of_tile == cut[0]]
            raise _cut(how, source, members, codes[units.of_tile == cut[0]], names)
        found[rest] = codes
        return Folds(found, {"by": how, "names": names})
    number = int(how)
    _check_number(number, how, f"{number} folds")
    recipe = {"by": "number", "names": [str(fold) for fold in range(number)]}
    fixed = split_of_units(units, kept[rest], number) if kept_recipe == recipe else None
    found[rest] = assign_folds(units, chosen, number, fixed).splits
    return Folds(found, recipe)


def _check_number(number: int, how: str, seen: str) -> None:
    if not MIN_FOLDS <= number <= MAX_FOLDS:
        raise UsageError(
            f"--folds {how} gives no folds",
            seen=seen,
            expected=f"{MIN_FOLDS} to {MAX_FOLDS} folds: a number, or folder, csv:COLUMN or a"
            " regular expression with so many values",
        )


def _values(how: str, source: IncludedTiles, rest: np.ndarray, options: ScanOptions) -> list[str]:
    """Return the value of each tile of `rest`; raises UsageError where some have none."""
    read = values_by("--folds", how, source.root, options)
    described = source.describe(np.flatnonzero(rest))
    values = [read(row["tile_id"], row["image_path"]) for row in described]
    lacking = [row["tile_id"] for row, value in zip(described, values, strict=True) if not value]
    if lacking:
        raise UsageError(
            f"--folds {how} finds nothing for some tiles",
            seen=f"{len(lacking):,} tiles: {first_of(lacking)}",
            expected="a value for every tile that is not test",
        )
    return [str(value) for value in values]


def _cut(
    how: str, source: IncludedTiles, members: np.ndarray, codes: np.ndarray, names: list[str]
) -> UsageError:
    row = source.describe(members[:1])[0]
    where = " and ".join(names[code] for code in np.unique(codes).tolist())
    return UsageError(
        f"--folds {how} cuts a group, or images that are equal",
        seen=f"{row['group'] or row['tile_id']} in {where}",
        expected="whole groups in each fold",
        hint="leave out the copies with --exclude HP601, or correct the table",
    )
