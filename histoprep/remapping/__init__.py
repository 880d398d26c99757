"""Masks -> masks of classes: a tree of 8-bit PNG files, a ledger of what became of each mask, a
seal.

`plan_remap` checks everything that can be checked before a file is written; `run_remap` does the
work. Partitions of the masks become ledger parts, each written after its files were synced, so a
stopped run goes on where it was. The tree has the relative paths of the masks, with the suffix
`.png`, and beside them `remap.json` (what was asked for), `label_map.yml`, `ledger.parquet` and,
last of all, `_SUCCESS.json`. Its bytes do not depend on workers, partitions or interruptions.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from histoprep import checksums, mask_tree, tables
from histoprep.choices import OnUnmapped
from histoprep.digests import digest_text
from histoprep.errors import IncompleteError, UsageError
from histoprep.execution import Engine
from histoprep.job_folder import PARTS, JobFolder
from histoprep.labels import IGNORED, LabelMap, format_label_map
from histoprep.labels.lookup import LabelLookup
from histoprep.mask_tree import FailedMask, Totals
from histoprep.mask_tree.task import TreeTask
from histoprep.notebook import html_result
from histoprep.phrases import first_of, plural
from histoprep.progress import Advance, TaskProgress, silent
from histoprep.read_ahead import FileStat, stat_file
from histoprep.remapping.contradictions import contradiction_error, contradictions
from histoprep.remapping.evidence import already_remapped, remapped_error
from histoprep.remapping.fit import misfit, misfit_error
from histoprep.remapping.inventory import MaskInventory, mask_rows
from histoprep.remapping.remapper import Remapper
from histoprep.repairing.record import unrepaired
from histoprep.schemas.ledgers import LABEL_MAP, LEDGER, REMAP, TreeKind, read_ledger
from histoprep.schemas.repaired import RepairedMasks, open_repaired, open_rows
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import image_labels
from histoprep.tiles.readings import MaskReadings
from histoprep.version import __version__
from histoprep.visible import visible

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "RemapOptions", "RemapPlan", "RemapResult", "collect_remap", "plan_remap", "run_remap",
    "run_remap_part", "unfinished_remaps",
]  # fmt: skip

PARTITION_MASKS = 1000
TIME_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class RemapOptions:
    """How to remap.

    `out` is the new tree, by default `masks-<map>` in the workspace. `force` remaps masks that look
    remapped already, or other than those the map was made for, and replaces a tree that was made
    with another map or other options, or changed since. With `verify` every mask that is there is
    read again.
    """

    out: Path | None = None
    on_unmapped: OnUnmapped = OnUnmapped.ERROR
    force: bool = False
    verify: bool = False
    partition_masks: int = PARTITION_MASKS
    time_limit_s: float = TIME_LIMIT_S


@dataclass(frozen=True, slots=True, repr=False)
class RemapResult:
    """What a remap came to.

    `class_pixels` is in the order of the map's classes; `failed` holds the first 1,000, the ledger
    all; `unexpected` names files in the tree that remap did not write; `up_to_date` when nothing
    had to be done.
    """

    out: Path
    label_map: LabelMap
    num_written: int
    num_failed: int
    class_pixels: tuple[int, ...]
    failed: tuple[FailedMask, ...]
    num_stale_removed: int = 0
    unexpected: tuple[str, ...] = ()
    up_to_date: bool = False

    @property
    def ledger(self) -> Path:
        """Return the path of the ledger."""
        return self.out / LEDGER

    def __repr__(self) -> str:
        """Return the counts in one line."""
        return f"<RemapResult: {self._counts()} | {visible(str(self.out))}>"

    def _repr_html_(self) -> str:
        """Return the counts and the pixels of each class, for notebooks."""
        pairs = zip(self.label_map.classes, self.class_pixels, strict=True)
        rows = [(cls.id, cls.name, pixels) for cls, pixels in pairs]
        return html_result(f"{self._counts()} | {self.out}", ("class", "name", "pixels"), rows)

    def _counts(self) -> str:
        written = plural(self.num_written, "mask")
        return f"{written} written with {self.label_map.name}, {self.num_failed:,} not"

    def to_pandas(self) -> DataFrame:
        """Return the ledger: a row a mask, with what became of it."""
        return read_ledger(self.out, REMAP)


@dataclass(frozen=True, slots=True)
class RemapPlan:
    """Everything decided before the first file is written; `inputs` is the digest of the masks to
    remap, `warnings` are about decided readings, `num_ignored_pixels` become `IGNORED_ID`.
    """

    workspace: Workspace
    label_map: LabelMap
    options: RemapOptions
    out: Path
    lookup: LabelLookup
    request: dict[str, Any]
    max_file_bytes: int
    num_masks: int
    num_refused: int
    inputs: str
    tiles_stat: FileStat | None
    repaired: RepairedMasks | None
    kind: TreeKind = REMAP
    rewrites: bool = False
    warnings: tuple[str, ...] = ()
    num_ignored_pixels: int = 0

    @property
    def job(self) -> JobFolder:
        """Return the folder of the new tree as one that a job fills."""
        return self.kind.job(self.out)

    @property
    def verifies(self) -> bool:
        """Return whether all masks that are there are read again."""
        return self.options.verify

    def tasks(self) -> Iterator[TreeTask]:
        """Yield the partitions in order of the tiles table."""
        lookup = self.lookup
        how = (
            REMAP.schema_version,
            __version__,
            lookup.note,
            lookup.class_ids,
            lookup.key,
            lookup.reading.describe(),
        )
        rows = mask_rows(self.workspace.tiles, self.repaired)
        while chosen := tuple(itertools.islice(rows, self.options.partition_masks)):
            key = digest_text(
                repr((how, [(choice.path, choice.digest, choice.failure) for choice in chosen]))
            )
            part = self.out / PARTS / f"{key}.parquet"
            limits = self.max_file_bytes, part, part.with_suffix(".at"), self.options.time_limit_s
            yield TreeTask(
                str(self.workspace.root), str(self.out), REMAP, chosen, Remapper(lookup), *limits
            )

    def seal_facts(self) -> dict[str, Any]:
        """Return what the masks depend on."""
        return {"inputs_digest": self.inputs, "label_map_digest": self.label_map.digest}

    def refuse_other_request(self) -> None:
        """Raise UsageError when the folder holds masks of another map or data set, unless
        forced.
        """
        if not self.options.force:
            _refuse_other_request(self.job, self.request)

    def write_notes(self) -> None:
        """Write the label map beside the masks."""
        checksums.publish_file(self.out, LABEL_MAP, format_label_map(self.label_map))


def plan_remap(
    workspace: Workspace, label_map: LabelMap, options: RemapOptions | None = None
) -> RemapPlan:
    """Return the plan of a remap; nothing is written.

    Args:
        workspace: Workspace with an up-to-date tiles table. Repaired masks take the place of
            damaged ones.
        label_map: The map from labels to classes.
        options: Where and how to remap.

    Raises:
        UnmappedLabelError: Masks hold labels that the map does not list (HP501).
        UsageError: The labels of some masks are undecided (HP413, HP414), the masks hold classes
            already (HP508), the map seems to be one of other masks or contradicts image-level
            labels (HP510), masks are lossy and not
            repaired (HP403, HP404), two would become one file, `out` cannot be used, or
            tiles.parquet is missing or partial.
        IntegrityError: A table is damaged, or repaired masks were changed.
    """
    options = options or RemapOptions()
    tiles_stat = stat_file(str(workspace.tiles))
    header = mask_tree.complete_table(workspace.tiles)
    out = mask_tree.usable_out(
        workspace,
        options.out or workspace.masks(label_map.name),
        header["options"]["scan"]["unlabelled"],
    )
    readings = MaskReadings.of(workspace.tiles)
    lookup = LabelLookup.of(label_map, options.on_unmapped, readings.reading)
    request = {
        "root": str(workspace.root),
        "label_map": json.loads(label_map.to_json()),
        "on_unmapped": str(options.on_unmapped),
    }
    if decided := readings.reading.as_json():
        request["reading"] = decided
    if not options.force:
        _refuse_other_request(REMAP.job(out), request)
    readings.refuse(workspace.root, here=True)
    repaired = open_repaired(workspace.folder)
    if repaired is not None:
        repaired.check_files(workspace.root, whole=options.verify)
    if not options.force:
        _refuse_damaged(workspace, repaired)
    inventory = MaskInventory.of(workspace.tiles, repaired)
    evidence = (
        None
        if options.force
        else already_remapped(label_map, inventory.tiles, _notes(workspace.tiles))
    )
    if evidence:
        raise remapped_error(label_map, workspace.root, evidence)
    if not options.force and (
        evidence := misfit(label_map, inventory.tiles, workspace.tiles, workspace.root)
    ):
        raise misfit_error(label_map, workspace.root, evidence)
    if not options.force:
        _refuse_contradictions(workspace, label_map)
    if options.on_unmapped is OnUnmapped.ERROR:
        inventory.refuse_unmapped(label_map)
    inventory.refuse_collisions(workspace.tiles)
    warnings = tuple(readings.warnings())
    return RemapPlan(
        workspace,
        label_map,
        options,
        out,
        lookup,
        request,
        header["options"]["tiles"]["max_file_bytes"],
        len(inventory.names),
        inventory.num_refused,
        inventory.digest.value(),
        tiles_stat,
        repaired,
        rewrites=options.force,
        warnings=warnings,
        num_ignored_pixels=sum(
            number
            for label, number in inventory.pixels.items()
            if label_map.class_of(label) == IGNORED
        )
        if label_map.ignore
        else 0,
    )


def _refuse_contradictions(workspace: Workspace, label_map: LabelMap) -> None:
    """Raise UsageError when the map calls labels otherwise than folders or a table call the images
    (HP510).
    """
    chunks = open_rows(workspace.tiles)[0].read_batches(image_labels.COLUMNS)
    table = image_labels.count_image_labels(chunks, label_map)
    found = [each for each in contradictions(label_map, table) if each.is_firm]
    if found:
        raise contradiction_error(label_map, workspace.root, found)


def _refuse_damaged(workspace: Workspace, repaired: RepairedMasks | None) -> None:
    left = unrepaired(workspace, repaired)
    if not left:
        return
    number = sum(map(len, left.values()))
    sources = [
        f"{plural(len(paths), 'mask')} of {source}, such as {paths[0]}"
        for source, paths in left.items()
    ]
    repair = f"histoprep repair {workspace.root}, then the same command"
    raise UsageError(
        f"{plural(number, 'mask')} went through JPEG or interpolation; a label map would hide false"
        " labels that can still be told from true ones",
        path=workspace.root,
        seen=first_of(sources, separator="; "),
        hint=(
            "restore those that repair refused, or remap them as they are with --force"
            if repaired
            else f"{repair}; or --force, as they are"
        ),
    )


def _notes(table: Path) -> set[str]:
    opened, _ = open_tiles_table(table)
    notes: set[str] = set()
    for batch in tables.read_batches(opened, ["mask_label_map"]):
        notes.update(batch["mask_label_map"].unique().drop_null().to_pylist())
    return notes


def _refuse_other_request(job: JobFolder, request: dict[str, Any]) -> None:
    words = {"root": "data set", "on_unmapped": "--on-unmapped"}
    hint = "choose another --out, or replace these masks with --force"
    job.refuse_other_request(job.read_request(), request, words=words, hint=hint)


def run_remap(
    plan: RemapPlan, engine: Engine | None = None, advance: Advance = silent
) -> RemapResult:
    """Write the masks that were planned and return what came of it.

    Masks that cannot be remapped are in the result and the ledger. An interrupted run resumes;
    nothing is done when all masks are there already.

    Args:
        plan: What `plan_remap` returned.
        engine: Where the work runs; None for worker processes.
        advance: Called with the number of masks done and of all masks.

    Raises:
        OutputError: The folder cannot be written.
        LockedError: Another process writes there.
        IntegrityError: Masks were changed since they were written, or are gone at the end.
    """
    pixels = _PixelSums(plan)
    return pixels.result(mask_tree.run_tree(plan, pixels.observer, engine, advance))


def run_remap_part(
    plan: RemapPlan,
    number: int,
    count: int,
    engine: Engine | None = None,
    advance: Advance = silent,
) -> int:
    """Make every partition whose index is `number` - 1 modulo `count`, and return how many;
    `collect_remap` ends the work.

    Takes no lock: many of these run at once, on many machines.
    """
    return mask_tree.run_tree_part(plan, number, count, engine, advance)


def unfinished_remaps(workspace: Workspace) -> list[Path]:
    """Return the folders of the workspace that hold parts of a remap which nobody collected yet."""
    return sorted(path.parent for path in workspace.folder.glob(f"masks-*/{PARTS}"))


def collect_remap(
    workspace: Workspace,
    out: Path,
    advance: Advance = silent,
    *,
    partition_masks: int = PARTITION_MASKS,
) -> RemapResult:
    """Join the parts that array jobs made and return what the remap came to.

    Args:
        workspace: Workspace of the data set.
        out: Folder of the new masks.
        advance: Called with the number of masks done and of all masks.
        partition_masks: Masks in a part, as the jobs had it.

    Raises:
        UsageError: No remap was begun there, or one of another data set.
        IncompleteError: Parts are missing; it names them.
    """
    request = REMAP.job(out).read_request()
    if request is None:
        raise UsageError("no remap was begun here", path=out, hint="histoprep remap --part i/n")
    label_map = LabelMap.from_json(json.dumps(request["label_map"]))
    plan = plan_remap(
        workspace,
        label_map,
        RemapOptions(
            out, OnUnmapped(request["on_unmapped"]), True, partition_masks=partition_masks
        ),
    )
    # Forced only past what the jobs were let past.
    plan = replace(plan, rewrites=False)
    if plan.request != request:
        raise UsageError(
            "these parts are of another data set",
            path=out,
            seen=request["root"],
            expected=str(workspace.root),
        )
    pixels = _PixelSums(plan)
    with mask_tree.locked(plan):
        finished = mask_tree.finished(plan, pixels.observer())
        if finished is not None:
            return pixels.result(finished)
        missing = [index for index, task in enumerate(plan.tasks()) if not task.is_done()]
        if missing:
            raise IncompleteError(
                f"{len(missing)} partitions are not done",
                path=out,
                seen=f"partitions {first_of(missing)} missing",
                hint=(
                    "of n jobs, job i makes partitions i-1, i-1+n, ...: run the missing ones again"
                    " with --part i/n"
                ),
            )
        progress = TaskProgress(advance, plan.num_masks)
        parts = (task.part for task in plan.tasks())
        return pixels.result(mask_tree.finish(plan, parts, pixels.observer(), progress))


class _PixelSums:
    """Sums the pixels of each class over a ledger."""

    def __init__(self, plan: RemapPlan) -> None:
        self._plan = plan
        self._pixels = np.zeros(0, np.int64)

    def observer(self) -> Callable[[pa.Table], None]:
        """Return the function that is shown a ledger, from its beginning."""
        self._pixels = np.zeros(self._plan.label_map.num_classes, np.int64)
        return self._add

    def _add(self, ledger: pa.Table) -> None:
        counts = ledger["class_pixels"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self._pixels += counts.reshape(-1, len(self._pixels)).sum(axis=0)

    def result(self, totals: Totals) -> RemapResult:
        """Return what the remap came to."""
        numbers = totals.written, totals.failures, tuple(self._pixels.tolist())
        rest = totals.num_stale_removed, totals.unexpected, totals.up_to_date
        return RemapResult(
            self._plan.out, self._plan.label_map, *numbers, tuple(totals.first_failed), *rest
        )
