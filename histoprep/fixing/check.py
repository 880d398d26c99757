"""Whether a corrected copy has the same tiles as the data set: what a later audit will list there.

Keys, groups, splits, labels and pairs come from names of files and from tables, and fix changes
both, so nobody has to believe that they stay: the new tree is listed before it is sealed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from histoprep import tables
from histoprep.digests import hash_text
from histoprep.errors import IntegrityError
from histoprep.fixing.plan import FixPlan, free_folder, place_of
from histoprep.key_index import KeyIndex
from histoprep.mask_tree.task import beside
from histoprep.phrases import first_of, plural
from histoprep.scanning import Pair, ScanOptions, scan
from histoprep.schemas.ledgers import FIX, fix_command, open_ledger
from histoprep.schemas.tiles import open_tiles_table
from histoprep.tiles.listing import ListedTile

_COLUMNS = (
    "tile_id", "image_path", "mask_path", "group", "split", "label", "unlabelled",
    "declared_labels",
)  # fmt: skip


def options_there(
    plan: FixPlan, options: ScanOptions, copied: dict[str, str], *, has_links: bool
) -> ScanOptions:
    """Return options that read the new tree as others read the data set.

    Args:
        plan: The plan of the copy.
        options: Options of the data set.
        copied: Paths in the tree of tables from elsewhere, by their own.
        has_links: Whether the tree has symbolic links.
    """
    folders = (place_of(plan, folder, {}) for folder in options.unlabelled)
    return replace(
        options,
        csv=place_of(plan, options.csv, copied),
        pairs=place_of(plan, options.pairs, copied),
        unlabelled=tuple(folder for folder in folders if folder is not None),
        follow_links=options.follow_links or has_links,
    )


@dataclass
class CheckedNames:
    """Watches the ledger go by, and lists the tree when all of it is there."""

    plan: FixPlan
    _new_paths: dict[str, str] = field(default_factory=dict)
    _copied: dict[str, str] = field(default_factory=dict)
    _has_links: bool = False
    _renaming: set[str] = field(default_factory=set)
    _num_failed: int = 0

    def watch(self, parts: Iterable[Path]) -> Iterator[Path]:
        """Yield the parts of the ledger."""
        for part in parts:
            self._note(part)
            yield part

    def compare(self, unexpected: Sequence[str]) -> None:
        """Compare the tiles of the tree with those of the data set, unless files failed.

        Args:
            unexpected: The first files of the tree that this run did not write.

        Raises:
            IntegrityError: They differ.
        """
        if self._num_failed:
            return
        expected = np.fromiter((_hash(pair) for pair in self._pairs()), np.uint64)
        found, other = self._listed(KeyIndex(expected))
        if not other and found == len(expected):
            return
        raise IntegrityError(
            "the new tree would have other tiles, pairs, groups or labels than the data set",
            path=self.plan.out,
            seen=f"{plural(found, 'tile')}{other and f', such as {other}'}",
            expected=f"the {plural(len(expected), 'tile')} of {self.plan.workspace.root}",
            hint=self._remedy(unexpected),
        )

    def _listed(self, expected: KeyIndex) -> tuple[int, str]:
        """Return the number of tiles of the tree, and one that is not among those expected."""
        plan, found, other = self.plan, 0, ""
        options = options_there(plan, plan.table.scan, self._copied, has_links=self._has_links)
        for pair in scan(plan.out, options, lambda _: None):
            is_known = expected.find(np.array([_hash(pair)], np.uint64))[0] >= 0
            found += 1
            other = other or ("" if is_known else pair.tile_id)
        return found, other

    def _remedy(self, unexpected: Sequence[str]) -> str:
        """Return what to do about a tree with other tiles, with a command."""
        request = self.plan.request
        if unexpected:
            command = fix_command(request, free_folder(self.plan.out))
            return (
                f"histoprep fix did not write {first_of(unexpected)}: move what is not wanted out"
                f" of the tree and run the same command again, or make a new tree: {command}"
            )
        if not self._renaming:
            return "did files come or go meanwhile? Run the same command again"
        kept = {
            name: value
            for name, value in request["operations"].items()
            if name not in self._renaming
        }
        if not kept:
            return "what was requested changes names that the tiles depend on: use the data set"
        command = fix_command(request | {"operations": kept}, free_folder(self.plan.out))
        return f"{command} keeps every name"

    def is_trusted(self, tile: ListedTile) -> bool:
        """Return whether nobody but us changed the files of a tile since the run began: what
        changed is a file that the tree has a hard link to.
        """
        paths = filter(None, (tile.pair.image_path, tile.pair.mask_path))
        return all(map(self._is_ours, paths))

    def _is_ours(self, path: str) -> bool:
        try:
            seen = os.stat(beside(self.plan.workspace.root, path))
            if seen.st_ctime_ns < self.plan.options.begun_ns:
                return True
            there = os.stat(beside(self.plan.out, self._there(path) or path))
        except OSError:
            return False
        return (seen.st_dev, seen.st_ino) == (there.st_dev, there.st_ino)

    def _note(self, part: Path) -> None:
        columns = ["path", "output_path", "how", "operations"]
        for batch in tables.read_batches(open_ledger(part, FIX.part, FIX), columns):
            rows = zip(*(batch[name].to_pylist() for name in columns), strict=True)
            for path, output, how, operations in rows:
                if output is None:
                    self._num_failed += 1
                elif path.startswith("/"):
                    self._copied[path] = output
                elif path != output:
                    self._new_paths[path] = output
                    self._renaming |= set(operations or ())
                self._has_links |= how == "symbolic link"

    def _pairs(self) -> Iterator[Pair]:
        """Yield the tiles of the data set with the paths that their files have in the tree."""
        opened, _ = open_tiles_table(self.plan.workspace.tiles)
        for batch in tables.read_batches(opened, _COLUMNS):
            for row in batch.to_pylist():
                declared = row["declared_labels"]
                yield Pair(
                    row["tile_id"],
                    self._there(row["image_path"]),
                    self._there(row["mask_path"]),
                    row["group"],
                    row["split"],
                    row["label"],
                    row["unlabelled"],
                    None if declared is None else tuple(declared),
                )

    def _there(self, path: str | None) -> str | None:
        return None if path is None else self._new_paths.get(path, path)


def _hash(pair: Pair) -> int:
    return hash_text(repr(pair))
