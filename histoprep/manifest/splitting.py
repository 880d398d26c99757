"""Which way a split is made: solved, by hash, or as folders, a file or names give it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from histoprep.choices import SplitMethod
from histoprep.errors import UsageError
from histoprep.manifest.earlier import EarlierSplit
from histoprep.manifest.gather import SplitInputs
from histoprep.manifest.given import (
    IncludedTiles,
    SplitOrigin,
    file_splits,
    leak,
    unmatched_names,
)
from histoprep.phrases import first_of, plural, unmatched_warning
from histoprep.split import (
    Assignment,
    Units,
    assign_by_hash,
    assign_units,
    complete_split,
    exact_fractions,
    fill_split,
    leaking_units,
    split_of_units,
)
from histoprep.split.given import read_split_file, split_of_names
from histoprep.split.units import NO_SPLIT, SPLITS

DEFAULT_FRACTIONS = {"train": Fraction(9, 10), "test": Fraction(1, 10)}
DEFAULT_VALIDATION = {"train": Fraction(8, 10), "val": Fraction(2, 10)}

_TEST = SPLITS.index("test")


class SplitOptions(Protocol):
    """What of the options of a manifest says how to split."""

    @property
    def fractions(self) -> Mapping[str, Fraction] | None:
        """Return the share of each split, if asked for."""

    @property
    def method(self) -> str:
        """Return auto, hash or file."""

    @property
    def split_file(self) -> Path | None:
        """Return the file that gives it."""

    @property
    def test(self) -> tuple[str, ...]:
        """Return the names of the test groups."""

    @property
    def ignore_folder_split(self) -> bool:
        """Return whether the split of folders does not count."""


@dataclass(frozen=True, slots=True)
class ChosenSplit:
    """A split and how it was made.

    Attributes:
        assignment: The splits.
        method: As in a recipe: auto, hash, folder, table, file or test.
        fractions: What was asked for; None for a given split.
        why_moved: Why tiles are not in the split that they had before, in words.
        warnings: What the user should know.
    """

    assignment: Assignment
    method: str
    fractions: Mapping[str, Fraction] | None
    why_moved: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """The split that tiles had before.

    Attributes:
        earlier: The manifest.
        no_basis: Why they need not keep it, in words; empty where they do.
    """

    earlier: EarlierSplit
    no_basis: str

    @classmethod
    def of(
        cls, earlier: EarlierSplit | None, inputs: SplitInputs, group_by: str | None
    ) -> Kept | None:
        """Return it, None without an earlier split. One that knew no groups is no basis for one
        that does.
        """
        if earlier is None:
            return None
        if not (inputs.kept != NO_SPLIT).any():
            return cls(earlier, f"{earlier.path} has none of the tiles")
        knew_none = group_by is not None and earlier.recipe.get("grouping") is None
        return cls(earlier, f"{earlier.path} knew no groups" if knew_none else "")

    def describe(self, before: np.ndarray, splits: np.ndarray) -> dict[str, Any]:
        """Return what a recipe says of it: `kept`, with the manifest, how many tiles it has, how
        many are new, and how many changed their split. Where nothing is another than in that
        manifest, it is what that one says, so that the same command gives the same bytes.

        Args:
            before: The split code that each tile had, or `NO_SPLIT` (int8 [n]).
            splits: The split code that each has now (int8 [n]).
        """
        if np.array_equal(before, splits) and len(splits) == len(self.earlier.tile_keys):
            recipe = self.earlier.recipe
            return {name: recipe[name] for name in ("solver", "kept") if name in recipe}
        known = before != NO_SPLIT
        found = {
            "manifest": str(self.earlier.path),
            "tiles": int(known.sum()),
            "new": int((~known).sum()),
            "moved": int((known & (before != splits)).sum()),
        }
        return {"kept": found}


def choose_split(
    source: IncludedTiles,
    inputs: SplitInputs,
    units: Units,
    options: SplitOptions,
    origin: SplitOrigin,
    kept: Kept | None,
    seed: int,
) -> ChosenSplit:
    """Return the split of the tiles.

    Args:
        source: The tiles, to name some.
        inputs: What the split needs of them.
        units: What it may not cut.
        options: What was asked for.
        origin: Where a given split comes from.
        kept: The split that tiles had before.
        seed: Of the keys of names.

    Raises:
        UsageError: A given split leaks or says nothing of any tile, the kept one was made
            otherwise, or there are too few groups.
    """
    method = _method(options, inputs, origin)
    fractions = exact_fractions(options.fractions) if options.fractions else None
    basis = kept.earlier if kept is not None and not kept.no_basis else None
    if basis is not None:
        basis.check(method, fractions, seed)
    before = None if basis is None else inputs.kept
    if method in ("auto", "hash"):
        fractions = fractions or (basis.fractions if basis else DEFAULT_FRACTIONS)
        joined = "groups or copies of images now join tiles of two splits"
        why = kept.no_basis if kept is not None and kept.no_basis else joined
        return ChosenSplit(_solve(units, inputs, method, fractions, before), method, fractions, why)
    why = f"{origin.words} says so, or their groups or copies"
    if method in ("file", "test"):
        return _split_by_names(source, inputs, units, options, origin, before, seed, why)
    _refuse_leaks(source, units, inputs.given, origin)
    completed = complete_split(units, inputs.rows, inputs.given, _validation(fractions), before)
    return ChosenSplit(completed, method, None, why)


def _method(options: SplitOptions, inputs: SplitInputs, origin: SplitOrigin) -> str:
    """Return how the split is made, as a recipe calls it."""
    if options.method == SplitMethod.HASH:
        return "hash"
    by_folder = not options.ignore_folder_split and bool((inputs.given != NO_SPLIT).any())
    is_given = bool(options.test) or options.split_file is not None or by_folder
    return origin.method if is_given else "auto"


def _solve(
    units: Units,
    inputs: SplitInputs,
    method: str,
    fractions: Mapping[str, Fraction],
    before: np.ndarray | None,
) -> Assignment:
    if method == "hash":
        return assign_by_hash(units, fractions)
    fixed = None if before is None else split_of_units(units, before)
    return assign_units(units, inputs.rows, fractions, fixed)


def _validation(fractions: Mapping[str, Fraction] | None) -> dict[str, Fraction]:
    """Return the shares of train and val in the train folder: those asked for, without test."""
    if fractions is None:
        return DEFAULT_VALIDATION
    learning = {name: value for name, value in fractions.items() if name != "test"}
    total = sum(learning.values())
    return {name: value / total for name, value in learning.items()} if len(learning) > 1 else {}


def _split_by_names(
    source: IncludedTiles,
    inputs: SplitInputs,
    units: Units,
    options: SplitOptions,
    origin: SplitOrigin,
    before: np.ndarray | None,
    seed: int,
    why_moved: str,
) -> ChosenSplit:
    """Return the split that a file or --test gives; other tiles stay where they were, but not in
    test where a test is given, or are shared out.
    """
    read = (
        split_of_names(options.test, "test", seed)
        if options.split_file is None
        else read_split_file(options.split_file, seed)
    )
    given = file_splits(source, read, inputs.rows, inputs.tile_keys, origin)
    unmatched = unmatched_names(source.rows, read)
    if unmatched and options.split_file is None:
        raise UsageError(
            "--test names groups that are none of the data set",
            seen=first_of(unmatched),
            expected=_some_groups(source),
        )
    _refuse_leaks(source, units, given, origin)
    fixed = given
    if before is not None:
        stays = (given == NO_SPLIT) & ((before != _TEST) | ~(given == _TEST).any())
        fixed = np.where(stays, before, given)
    fractions = exact_fractions(options.fractions) if options.fractions else DEFAULT_FRACTIONS
    filled = fill_split(units, inputs.rows, fixed, fractions)
    warnings = []
    if unmatched:
        warnings.append(unmatched_warning(origin.words, unmatched, len(read.names)))
    if options.split_file is not None:
        silent = split_of_units(units, given)[units.of_tile] == NO_SPLIT
        warnings += _silence(source, silent, filled.splits, origin)
    return ChosenSplit(filled, origin.method, None, why_moved, tuple(warnings))


def _silence(
    source: IncludedTiles, silent: np.ndarray, splits: np.ndarray, origin: SplitOrigin
) -> Iterator[str]:
    """Yield in words how many tiles a split file says nothing of (bool [n]) and where they went."""
    tiles = np.flatnonzero(silent)
    if not len(tiles):
        return
    some = ", ".join(row["tile_id"] for row in source.describe(tiles[:2]))
    counts = np.bincount(splits[tiles], minlength=len(SPLITS)).tolist()
    where = ", ".join(
        f"{count:,} in {name}" for name, count in zip(SPLITS, counts, strict=True) if count
    )
    yield f"{origin.words} says nothing of {plural(len(tiles), 'tile')}, such as {some}: {where}"


def _some_groups(source: IncludedTiles) -> str:
    groups: dict[str, None] = {}
    for batch in source.rows.read_batches(("group",)):
        groups.update(dict.fromkeys(batch["group"].drop_null().to_pylist()))
    if not groups:
        return "groups (--group-by), or names of slides in the paths of images"
    return f"groups such as {first_of(sorted(groups))}"


def _refuse_leaks(
    source: IncludedTiles, units: Units, given: np.ndarray, origin: SplitOrigin
) -> None:
    """Raise UsageError when a given split (int8 [n]) cuts a unit."""
    leaks = leaking_units(units, given)
    if len(leaks):
        members = np.flatnonzero(units.of_tile == leaks[0])
        raise leak(source, members, given, len(leaks), origin)
