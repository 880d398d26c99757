"""Everything about a corrected copy that is decided before the first file is written."""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from histoprep import image_formats, mask_tree
from histoprep.choices import LinkKind
from histoprep.digests import RunningDigest, digest_text, hash_text
from histoprep.fixing.files import OtherFile, other_files, refuse_own_names, tile_files
from histoprep.fixing.fixer import FileRow, Fixer, split_suffix
from histoprep.fixing.operations import operation_called
from histoprep.fixing.operations.base import Context, FileFacts, Refusal, Select, StoredFile
from histoprep.job_folder import JobFolder
from histoprep.key_index import KeyIndex
from histoprep.mask_tree.task import TreeTask
from histoprep.names import pairing_key, to_name, to_text
from histoprep.read_ahead import ANY_TIME, FileStat, stat_file
from histoprep.scanning import ScanOptions
from histoprep.scanning.name_rules import NameRules
from histoprep.schemas.ledgers import FIX, TreeKind, fix_command, operations_words
from histoprep.schemas.repaired import RepairedMasks, open_repaired
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.options import TableOptions, earlier_options, stored_options
from histoprep.version import __version__

PARTITION_FILES = 1000
TIME_LIMIT_S = 60.0
TABLE, OTHER = "table", "other"
TABLE_SUFFIXES = frozenset({"csv", "tsv", "txt"})
NAMING_SUFFIXES = frozenset({"json", "geojson", "xml", "yml", "yaml"})
"""Files that may name images and are not changed."""


@dataclass(frozen=True, slots=True)
class FixOptions:
    """How the copy is made.

    Attributes:
        out: Folder of the new tree.
        operations: What is done: names of operations, each with its value, as
            `choose_operations` returns them.
        link: How files that do not change come into the tree.
        verify: Whether all files that are there are read again.
        partition_files: Files of a part of the work.
        time_limit_s: Seconds that one file may take.
        begun_ns: When the tiles table was brought up to date, as `time.time_ns` has it: files that
            changed since are read again. 0 for every file.
    """

    out: Path
    operations: Mapping[str, str]
    link: LinkKind = LinkKind.HARD
    verify: bool = False
    partition_files: int = PARTITION_FILES
    time_limit_s: float = TIME_LIMIT_S
    begun_ns: int = 0


@dataclass(frozen=True, slots=True)
class FixPlan:
    """Everything decided before the first file is written.

    Attributes:
        workspace: The workspace of the data set.
        options: How the copy is made.
        out: Absolute folder of the new tree.
        request: What was asked for, as JSON values.
        table: How the data set is read: the options of its tiles table.
        requested: The options of the last audit, before anything was understood of the folders.
        selects: What chooses the files of each operation, by its name.
        repaired: Repaired masks, where they are put in place.
        num_masks: Number of files, tables and others among them.
        others: Files that are neither images nor masks, nor of `named`.
        named: Files that may name images: tables, and others such as JSON.
        left_out: Links and special files, which do not come into the tree.
        inputs: Digest of all files.
        tiles_stat: Size and time of the tiles table.
    """

    workspace: Workspace
    options: FixOptions
    out: Path
    request: dict[str, Any]
    table: TableOptions
    requested: ScanOptions
    selects: Mapping[str, Select]
    repaired: RepairedMasks | None
    taken: KeyIndex
    num_masks: int
    others: tuple[OtherFile, ...]
    named: tuple[OtherFile, ...]
    left_out: tuple[str, ...]
    inputs: str
    tiles_stat: FileStat | None
    kind: TreeKind = FIX
    rewrites: bool = False
    num_refused: int = 0

    @property
    def job(self) -> JobFolder:
        """Return the folder of the new tree as one that a job fills."""
        return self.kind.job(self.out)

    @property
    def verifies(self) -> bool:
        """Return whether all files that are there are read again."""
        return self.options.verify

    @property
    def fixer(self) -> Fixer:
        """Return what changes the files."""
        return Fixer(self.table.tiles.mask_reading)

    def rows(self) -> Iterator[FileRow]:
        """Yield every file but those that may name others: images and masks in order of the tiles
        table, then the rest.
        """
        rules = None if self.table.scan.pairs else NameRules.of(self.table.scan)
        for file in tile_files(self.workspace.tiles, self.repaired):
            yield _row_of(file, self.selects, lambda new, old: self._blocked(new, old, rules))
        for other in self.others:
            yield FileRow(other.path, other.path, other.num_bytes, other.mtime_ns, None, OTHER)

    def _blocked(self, new: str, old: str, rules: NameRules | None) -> str:
        """Return why a file cannot get a new name, "" where it can."""
        if self.taken.find(np.array([hash_text(pairing_key(new))], np.uint64))[0] >= 0:
            return f"there is a file {new} already, or another one would get this name"
        if rules is not None and _keys(rules, new) != _keys(rules, old):
            return f"it would be read as something else under the name {new} (see --mask-suffix)"
        return ""

    def tasks(self) -> Iterator[TreeTask]:
        """Yield the partitions in order."""
        rows = self.rows()
        how = (FIX.schema_version, __version__, self.options.link, self.fixer.reading.describe())
        while chosen := tuple(itertools.islice(rows, self.options.partition_files)):
            part = self.job.parts / f"{digest_text(repr((how, chosen)))}.parquet"
            yield TreeTask(
                str(self.workspace.root),
                str(self.out),
                FIX,
                chosen,
                self.fixer,
                self.table.tiles.max_file_bytes,
                part,
                part.with_suffix(".at"),
                self.options.time_limit_s,
                link=self.options.link,
                begun_ns=self.options.begun_ns,
            )

    def seal_facts(self) -> dict[str, Any]:
        """Return what the tree depends on."""
        return {"inputs_digest": self.inputs}

    def refuse_other_request(self) -> None:
        """Raise UsageError when the folder holds another copy."""
        _refuse_other_request(self.job, self.request)

    def write_notes(self) -> None:
        """Write nothing: what there is to say stands in the ledger."""


def _keys(rules: NameRules, path: str) -> tuple[str | None, ...]:
    name = to_name(path if rules.is_by_path else path.rpartition("/")[2])
    return (rules.image_key(name), rules.mask_key(name, alone=True), *rules.keys_of(name))


def _row_of(
    file: FileFacts, selects: Mapping[str, Select], blocked: Callable[[str, str], str]
) -> FileRow:
    steps: list[tuple[str, Any]] = []
    left: list[str] = []
    begin = StoredFile(file.path, file.num_bytes, file.digest)
    for name, select in selects.items():
        ticket = select(file)
        if isinstance(ticket, Refusal):
            left.append(f"{name}: {ticket.reason}")
        elif ticket is not None:
            steps.append((name, ticket))
            begin = ticket if isinstance(ticket, StoredFile) else begin
    new_names = candidate_names(file) if steps else {}
    reasons = ((suffix, blocked(new, file.path)) for suffix, new in new_names.items())
    refused = tuple((suffix, reason) for suffix, reason in reasons if reason)
    is_replaced = begin.path != file.path
    suffix = split_suffix(begin.path)[1]
    if is_replaced and suffix in dict(refused):
        left = [f"{name}: {dict(refused)[suffix]}" for name, _ in steps]
        steps, is_replaced, begin = [], False, StoredFile(file.path, file.num_bytes, file.digest)
    return FileRow(
        file.path,
        begin.path,
        begin.num_bytes,
        # No table says when a repaired mask was written.
        ANY_TIME if is_replaced else file.mtime_ns,
        begin.digest,
        file.role,
        file.tile_id,
        tuple(steps),
        tuple(left),
        refused,
        file.digest,
        (file.original_ids, file.label_ids) if file.role == "mask" else (None, None),
        (file.original_pixels, file.label_pixels) if file.role == "mask" else (None, None),
    )


def candidate_names(file: FileFacts) -> dict[str, str]:
    """Return the paths that a file may get, by their suffix."""
    stem, own = split_suffix(file.path)
    suffixes = {".png"}
    if file.format is not None:
        suffixes.add(f".{image_formats.format_called(file.format).suffixes[0]}")
    return {suffix: stem + suffix for suffix in sorted(suffixes) if suffix != own.lower()}


def plan_fix(workspace: Workspace, options: FixOptions) -> FixPlan:
    """Return the plan of a corrected copy; nothing is written.

    Args:
        workspace: Workspace with an up-to-date tiles table.
        options: Where and how.

    Raises:
        UsageError: `out` cannot be used or holds another copy, the tiles table is missing or
            partial, an operation has a value that is none, or a file of the data set has a name
            that the copy needs itself.
        IntegrityError: A table is damaged, or repaired masks were changed.
    """
    tiles_stat = stat_file(str(workspace.tiles))
    header = mask_tree.complete_table(workspace.tiles)
    table = stored_options(header["options"])
    unlabelled = [str(folder) for folder in table.scan.unlabelled]
    out = mask_tree.usable_out(workspace, options.out, unlabelled, "corrected copies")
    refuse_own_names(workspace.root)
    request = {
        "root": str(workspace.root),
        "operations": dict(options.operations),
        "link": str(options.link),
    }
    job = FIX.job(out)
    job.refuse_foreign_files()
    _refuse_other_request(job, request)
    repaired = open_repaired(workspace.folder) if "repaired" in options.operations else None
    if repaired is not None:
        repaired.check_files(workspace.root)
    context = Context(workspace, table.tiles.mask_reading, table.tiles.min_area_px)
    selects = {
        name: operation_called(name).prepare(context, value)
        for name, value in options.operations.items()
    }
    inventory = _take_inventory(workspace, repaired, selects)
    return FixPlan(
        workspace,
        options,
        out,
        request,
        table,
        earlier_options(workspace).scan,
        selects,
        repaired,
        inventory.taken,
        inventory.num_files,
        tuple(inventory.others),
        tuple(inventory.named),
        tuple(inventory.left_out),
        inventory.digest.value(),
        tiles_stat,
    )


def _refuse_other_request(job: JobFolder, request: dict[str, Any]) -> None:
    earlier, shown = job.read_request(), request | _operations(request)
    job.refuse_other_request(
        None if earlier is None else earlier | _operations(earlier),
        shown,
        words={"root": "data set", "link": "--link"},
        hint=f"a tree of its own: {fix_command(request, free_folder(job.path))}",
    )


def _operations(request: Mapping[str, Any]) -> dict[str, str]:
    return {"operations": operations_words(request["operations"])}


def free_folder(out: Path) -> Path:
    """Return a name beside a folder that nothing has yet."""
    return next(
        folder
        for number in itertools.count(2)
        if not (folder := out.with_name(f"{out.name}-{number}")).exists()
    )


@dataclass(slots=True)
class _Inventory:
    """What a first look at all files gives."""

    taken: KeyIndex
    num_files: int = 0
    others: list[OtherFile] = field(default_factory=list)
    named: list[OtherFile] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    digest: RunningDigest = field(default_factory=RunningDigest)


def _take_inventory(
    workspace: Workspace, repaired: RepairedMasks | None, selects: Mapping[str, Select]
) -> _Inventory:
    """Return all files and the names that no new file can have: those of all files, and new ones
    that two files would get.
    """
    digest = RunningDigest()
    paths, names, new_names = array("Q"), array("Q"), array("Q")
    for file in tile_files(workspace.tiles, repaired):
        row = _row_of(file, selects, lambda new, old: "")
        digest.update(repr(row))
        paths.append(hash_text(file.path))
        names.append(hash_text(pairing_key(file.path)))
        if row.steps:
            new_names.extend(
                {hash_text(pairing_key(new)) for new in candidate_names(file).values()}
            )
    inventory = _Inventory(KeyIndex(np.zeros(0, np.uint64)), len(paths), digest=digest)
    for other in other_files(workspace.root, KeyIndex(_unique(paths)), inventory.left_out):
        digest.update(repr(other))
        names.append(hash_text(pairing_key(other.path)))
        suffix = other.path.rpartition(".")[2].lower()
        is_named = suffix in TABLE_SUFFIXES | NAMING_SUFFIXES
        (inventory.named if is_named else inventory.others).append(other)
    inventory.num_files += len(inventory.others) + len(inventory.named)
    values, counts = np.unique(np.array(new_names, np.uint64), return_counts=True)
    own = _unique(names)
    inventory.taken = KeyIndex(np.union1d(own, values[counts > 1]))
    return inventory


def _unique(keys: array[int]) -> np.ndarray:
    return np.unique(np.array(keys, np.uint64))


def role_of(path: str) -> str:
    """Return table or other for a file that may name images."""
    return TABLE if path.rpartition(".")[2].lower() in TABLE_SUFFIXES else OTHER


def tables_outside(plan: FixPlan) -> list[Path]:
    """Return the tables of `--csv` and `--pairs` that do not lie in the data set."""
    named = (plan.table.scan.csv, plan.table.scan.pairs)
    return [
        path
        for path in dict.fromkeys(filter(None, named))
        if not path.resolve().is_relative_to(plan.workspace.root)
    ]


def place_of(plan: FixPlan, path: Path | None, copied: Mapping[str, str]) -> Path | None:
    """Return where a table or folder of the data set is in the new tree; one outside stays where it
    is unless a copy of it was written.
    """
    if path is None:
        return None
    real = path.resolve()
    if real.is_relative_to(plan.workspace.root):
        return plan.out / real.relative_to(plan.workspace.root)
    name = copied.get(to_text(os.fspath(real)))
    return path if name is None else plan.out / to_name(name)
