"""Lossy and interpolated masks -> a tree of repaired ones, with a ledger; the work of `histoprep
repair`.

Which masks these are the tiles table says, source by source (`tiles/lossy_sources.py`). Masks of
clean sources are not copied. What cannot be repaired, or not with enough confidence, is refused and
stands in the ledger with the reason. Later stages take repaired masks instead of the damaged ones
(`record.py`, `tiles/repaired.py`); `remap` refuses a source whose damaged masks were not repaired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from histoprep import mask_tree, rule_ids, tables
from histoprep.digests import RunningDigest, digest_text
from histoprep.errors import UsageError
from histoprep.execution import Engine
from histoprep.job_folder import PARTS, JobFolder
from histoprep.lossy.blocks import BLOCK_PX
from histoprep.lossy.verdict import LossKind, Verdict
from histoprep.mask_tree import FailedMask, Totals
from histoprep.mask_tree.task import TreeTask
from histoprep.notebook import html_result
from histoprep.phrases import plural
from histoprep.progress import Advance, silent
from histoprep.read_ahead import FileStat, stat_file
from histoprep.repairing.record import record_repair
from histoprep.repairing.repairer import NOT_SHOWN, DamagedMask, Repairer
from histoprep.schemas.ledgers import LEDGER, REPAIR, TreeKind, read_ledger
from histoprep.schemas.repaired import forget_repaired
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions
from histoprep.tiles.lossy_sources import LossySource, labels_of_sources, lossy_sources
from histoprep.version import __version__
from histoprep.visible import visible

if TYPE_CHECKING:
    from pandas import DataFrame

    from histoprep.lossy.jpeg_history import FixedPoint

RULES = (rule_ids.LOSSY_MASK.code, rule_ids.INTERPOLATED_MASK.code)
MIN_CONFIDENCE = 0.2
# Another number for each change of what a repair makes of the same mask.
_METHOD_VERSION = 2
_REFUSED = {
    LossKind.WEBP_CONTAINER: (
        f"{rule_ids.LOSSY_MASK.verdict('webp-container')}: lossy WebP leaves no trace that damage"
        " could be undone by"
    ),
    LossKind.OTHER_CONTAINER: (
        f"{rule_ids.LOSSY_MASK.verdict('lossy-container')}: only damage of JPEG and"
        " of interpolation can be undone"
    ),
    LossKind.WEBP_HISTORY: (
        f"{rule_ids.LOSSY_MASK.verdict('webp-history')}: lossy WebP leaves no trace that damage"
        " could be undone by"
    ),
}


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """How to repair.

    `out` is the new tree. `rules` are the findings whose masks are repaired; with `unclear` also
    masks of their sources that cannot be told by themselves, where knowing the quality tells them.
    Repairs with less than `min_confidence` are refused. `force` replaces a tree that was made with
    other options or changed since. With `verify` every mask that is there is read again.
    """

    out: Path
    rules: tuple[str, ...] = RULES
    min_confidence: float = MIN_CONFIDENCE
    force: bool = False
    verify: bool = False
    unclear: bool = False
    partition_masks: int = 500
    time_limit_s: float = 60.0


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """Everything decided before the first file is written; `inputs` is the digest of the masks to
    repair.
    """

    workspace: Workspace
    options: RepairOptions
    out: Path
    sources: tuple[LossySource, ...]
    masks: tuple[DamagedMask, ...]
    request: dict[str, Any]
    tile_options: TileOptions
    inputs: str
    tiles_stat: FileStat | None
    kind: TreeKind = REPAIR

    @property
    def rewrites(self) -> bool:
        """Return whether masks that were changed since they were written are written again."""
        return self.options.force

    @property
    def job(self) -> JobFolder:
        """Return the folder of the new tree as one that a job fills."""
        return self.kind.job(self.out)

    @property
    def verifies(self) -> bool:
        """Return whether all masks that are there are read again."""
        return self.options.verify

    @property
    def num_masks(self) -> int:
        """Return how many masks are damaged."""
        return len(self.masks)

    @property
    def num_unclear(self) -> int:
        """Return how many masks of the sources cannot be told by themselves."""
        return sum(source.num_unclear for source in self.sources)

    @property
    def num_refused(self) -> int:
        """Return how many of them cannot be repaired, whatever is in them."""
        return sum(mask.failure is not None for mask in self.masks)

    @property
    def maker(self) -> Repairer:
        """Return what repairs them."""
        return Repairer(self.options.min_confidence, self.tile_options)

    def tasks(self) -> Iterator[TreeTask]:
        """Yield the partitions in order of the tiles table."""
        how = (REPAIR.schema_version, __version__, self.maker)
        for start in range(0, len(self.masks), self.options.partition_masks):
            chosen = self.masks[start : start + self.options.partition_masks]
            part = self.out / PARTS / f"{digest_text(repr((how, chosen)))}.parquet"
            limits = (
                self.tile_options.max_file_bytes,
                part,
                part.with_suffix(".at"),
                self.options.time_limit_s,
            )
            yield TreeTask(
                str(self.workspace.root), str(self.out), REPAIR, chosen, self.maker, *limits
            )

    def seal_facts(self) -> dict[str, Any]:
        """Return what the masks depend on."""
        return {"inputs_digest": self.inputs}

    def refuse_other_request(self) -> None:
        """Raise UsageError when the folder holds masks repaired for another data set or with other
        options, unless forced.
        """
        if not self.options.force:
            words = {
                "root": "data set",
                "rules": "--rule",
                "min_confidence": "--min-confidence",
                "unclear": "--unclear",
            }
            hint = "choose another --out, or replace these masks with --force"
            earlier = self.job.read_request()
            self.job.refuse_other_request(earlier, self.request, words=words, hint=hint)

    def write_notes(self) -> None:
        """Write nothing, but take back what is said of files that change from here on; contact
        sheets come when all is done.
        """
        forget_repaired(self.workspace.folder)


def plan_repair(workspace: Workspace, options: RepairOptions) -> RepairPlan:
    """Return the plan of a repair; nothing is written.

    Args:
        workspace: Workspace with an up-to-date tiles table.
        options: Where and how to repair.

    Raises:
        UsageError: There is no such rule, `out` cannot be used, or tiles.parquet is missing or
            partial.
    """
    unknown = set(options.rules) - set(RULES)
    if unknown or not options.rules:
        raise UsageError(
            "no such rule to repair", seen=", ".join(sorted(unknown)), expected=" or ".join(RULES)
        )
    if not 0 <= options.min_confidence <= 1:
        raise UsageError(
            "--min-confidence is a share", seen=options.min_confidence, expected="0 to 1"
        )
    tiles_stat = stat_file(str(workspace.tiles))
    header = mask_tree.complete_table(workspace.tiles)
    out = mask_tree.usable_out(workspace, options.out, header["options"]["scan"]["unlabelled"])
    sources = tuple(
        finding for finding in lossy_sources(workspace.tiles) if finding.code in options.rules
    )
    masks = tuple(_damaged(workspace.tiles, sources, unclear=options.unclear))
    tile_options = TileOptions.from_json(header["options"]["tiles"])
    inputs = RunningDigest()
    for mask in (_METHOD_VERSION, tile_options, *masks):
        inputs.update(repr(mask))
    request = {
        "root": str(workspace.root),
        "rules": sorted(options.rules),
        "min_confidence": options.min_confidence,
    }
    if options.unclear:
        request["unclear"] = True
    return RepairPlan(
        workspace, options, out, sources, masks, request, tile_options, inputs.value(), tiles_stat
    )


def _damaged(
    table: Path, sources: tuple[LossySource, ...], *, unclear: bool
) -> Iterator[DamagedMask]:
    from histoprep.lossy.jpeg_history import FixedPoint

    others = {path: source for source in sources for path in source.unclear} if unclear else {}
    verdicts = others | {path: file for file in sources for path in file.paths}
    labels = labels_of_sources(table, sources)
    columns = [
        "mask_path",
        "mask_bytes",
        "mask_mtime_ns",
        "mask_digest",
        "mask_jpeg_quality",
        "mask_fixed_blocks",
        "mask_tried_blocks",
        "mask_grid_row",
        "mask_grid_column",
    ]
    opened, _ = open_tiles_table(table)
    for batch in tables.read_batches(opened, columns) if verdicts else ():
        for path, size, time, key, *fixed, row, column in zip(
            *(values.to_pylist() for values in batch.columns), strict=True
        ):
            if path in verdicts:
                verdict = verdicts[path]
                kind = verdict.verdict.kind
                best, found, tried = (number or 0 for number in fixed)
                own = FixedPoint(best, found, tried)
                is_unclear = path in others
                quality = verdict.verdict.quality if is_unclear else _quality(own, verdict.verdict)
                is_moved = verdict.verdict.block_px == BLOCK_PX
                yield DamagedMask(
                    path,
                    size or 0,
                    time or 0,
                    key,
                    _hopeless(kind, quality, verdict.verdict.block_px),
                    verdict.source,
                    kind.value,
                    quality,
                    labels[verdict.source],
                    (row or 0, column or 0) if is_moved and not is_unclear else (0, 0),
                    is_unclear,
                    is_moved,
                )


def _quality(own: FixedPoint, verdict: Verdict) -> int | None:
    """Return the JPEG quality that a mask went through: what its file says, what it shows beyond
    doubt, or else that of its source.
    """
    if verdict.kind is LossKind.JPEG_CONTAINER:
        return own.quality or None
    return own.quality if verdict.quality is not None and own.is_certain else verdict.quality


def _hopeless(kind: LossKind, quality: int | None, block_px: float | None) -> str | None:
    """Return why a mask cannot be repaired, or None."""
    from histoprep.lossy.jpeg_repair import MIN_QUALITY

    if kind in _REFUSED:
        return _REFUSED[kind]
    if kind is LossKind.INTERPOLATED:
        return None
    if block_px not in (None, BLOCK_PX):
        return (
            f"{rule_ids.LOSSY_MASK.verdict('resized')}: it was resized after the damage was done;"
            " repair the masks from before"
        )
    if quality is None:
        return (
            f"{rule_ids.LOSSY_MASK.verdict('unknown-quality')}: its values were mapped to others"
            " after the damage was done; repair the masks from before"
        )
    if quality < MIN_QUALITY:
        return (
            f"{rule_ids.LOSSY_MASK.verdict('below-75')}: JPEG quality {quality}; below"
            f" {MIN_QUALITY} whole regions may have moved to another label"
        )
    return None


@dataclass(frozen=True, slots=True, repr=False)
class RepairResult:
    """What a repair came to; `failed` holds the first 1,000 masks that were not repaired, the
    ledger all. `vanished` says from how many masks each label of their source went,
    `num_unclear` how many of the repaired ones no finding lists, `num_not_shown` how many of the
    others are such that show no damage.
    """

    out: Path
    num_repaired: int
    num_left: int
    changed_pixels: int
    failed: tuple[FailedMask, ...]
    vanished: Mapping[int, int]
    num_unclear: int = 0
    num_not_shown: int = 0
    num_stale_removed: int = 0
    unexpected: tuple[str, ...] = ()
    up_to_date: bool = False

    @property
    def ledger(self) -> Path:
        """Return the path of the ledger."""
        return self.out / LEDGER

    def __repr__(self) -> str:
        """Return the counts in one line."""
        return f"<RepairResult: {self._counts()} | {visible(str(self.out))}>"

    def _repr_html_(self) -> str:
        """Return the counts and the masks that were not repaired, for notebooks."""
        rows = [(mask.path, mask.reason) for mask in self.failed]
        return html_result(f"{self._counts()} | {self.out}", ("not repaired", "why"), rows)

    def _counts(self) -> str:
        pixels = plural(self.changed_pixels, "pixel")
        return (
            f"{plural(self.num_repaired, 'mask')} repaired, {self.num_left:,} not, {pixels} changed"
        )

    def to_pandas(self) -> DataFrame:
        """Return the ledger: a row a mask, with what became of it."""
        return read_ledger(self.out, REPAIR)


@dataclass(slots=True)
class _Changes:
    """Sums what changed, over a ledger: pixels, and the masks that each label vanished from."""

    pixels: int = 0
    unclear: int = 0
    not_shown: int = 0
    vanished: Counter[int] = field(default_factory=Counter)

    def observer(self) -> Callable[[pa.Table], None]:
        self.pixels = self.unclear = self.not_shown = 0
        self.vanished.clear()
        return self._add

    def _add(self, ledger: pa.Table) -> None:
        self.pixels += sum(ledger["changed_pixels"].drop_null().to_pylist())
        self.unclear += sum(ledger["is_unclear"].drop_null().to_pylist())
        not_shown = pc.starts_with(ledger["reason"].drop_null(), NOT_SHOWN)
        self.not_shown += pc.sum(not_shown).as_py() or 0
        self.vanished.update(pc.list_flatten(ledger["vanished_labels"]).to_pylist())


def run_repair(
    plan: RepairPlan, engine: Engine | None = None, advance: Advance = silent
) -> RepairResult:
    """Repair the masks that were planned, and record them for later stages.

    An interrupted run resumes; nothing is done when all masks are there already.

    Args:
        plan: What `plan_repair` returned.
        engine: Where the work runs; None for worker processes.
        advance: Called with the number of masks done and of all masks.

    Returns:
        What was repaired and what was refused.

    Raises:
        OutputError: The folder cannot be written.
        LockedError: Another process writes there.
        IntegrityError: Masks were changed since they were written, or are gone at the end.
    """
    changes = _Changes()
    with mask_tree.locked(plan):
        totals: Totals = mask_tree.run_tree(plan, changes.observer, engine, advance)
        record_repair(plan.workspace, plan.out)
    rest = totals.num_stale_removed, totals.unexpected, totals.up_to_date
    return RepairResult(
        plan.out,
        totals.written,
        totals.failures,
        changes.pixels,
        tuple(totals.first_failed),
        dict(sorted(changes.vanished.items())),
        changes.unclear,
        changes.not_shown,
        *rest,
    )
