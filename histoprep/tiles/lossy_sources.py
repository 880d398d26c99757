"""Tiles table -> which sources hold lossy or interpolated masks.

A source is a group (slide, case) or, without one, a folder; see `verdict.py` for how it is judged.
Masks of sources with too few to be sure by are judged together, all those of a folder, or of the
folder above: a thousand slides of ten masks each prove as much as one of ten thousand. The audit,
repair and remap ask the same question here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep import rule_ids, tables
from histoprep.lossy.blocks import BLOCK_PX
from histoprep.lossy.verdict import FIRM_MASKS, LossKind, MaskSignals, Verdict, judge
from histoprep.schemas.tiles import open_tiles_table
from histoprep.tiles.pools import SourceNames, by_name, large_sources, own_sources

_COLUMNS = {
    "mask_mixed_blocks": "mixed", "mask_shifted_blocks": "shifted",
    "mask_steps": "steps", "mask_rim_pixels": "rim_pixels",
    "mask_rough_pairs": "rough_pairs", "mask_contacts": "contacts",
    "mask_soft_contacts": "soft_contacts", "mask_ramp_labels": "ramp_labels",
    "mask_jpeg_quality": "quality", "mask_fixed_blocks": "fixed",
    "mask_tried_blocks": "tried", "mask_fixed_moved": "fixed_moved",
    "mask_grid_score": "grid_score", "mask_own_score": "own_score",
    "mask_grid_px": "grid_px", "mask_grid_row": "grid_row",
    "mask_grid_column": "grid_column", "mask_onsets": "onsets",
    "mask_turns": "turns", "mask_webp_gaps": "webp_gaps",
    "mask_webp_filled": "webp_filled",
}  # fmt: skip
# What stands for a column that is null; 0 where it is not named here.
_UNKNOWN = {"turns": math.nan, "fixed_moved": False}
# The least core of a label that surely is one: a block of JPEG.
HELD_CORE_PX = BLOCK_PX**2
_KEYS = (
    "tile_id",
    "group",
    "mask_lossy",
    "mask_error",
)


@dataclass(frozen=True, slots=True)
class LossySource:
    """What is wrong with the masks of one source, and their paths and digests, in order of the
    table.

    `num_masks` is how many masks of the source were looked at: those with boundaries, or stored
    with loss.
    """

    source: str
    verdict: Verdict
    paths: tuple[str, ...]
    digests: tuple[str, ...]
    num_masks: int
    # Masks that cannot be told by themselves: their paths, in order of the table.
    unclear: tuple[str, ...] = ()
    # The groups or folders that the listed masks are of, in order; of a small source itself.
    parts: tuple[str, ...] = ()

    @property
    def num_unclear(self) -> int:
        """Return how many masks cannot be told by themselves."""
        return len(self.unclear)

    @property
    def code(self) -> str:
        """Return the code of the finding."""
        is_interpolated = self.verdict.kind is LossKind.INTERPOLATED
        return (rule_ids.INTERPOLATED_MASK if is_interpolated else rule_ids.LOSSY_MASK).code


def lossy_sources(table: Path) -> list[LossySource]:
    """Return the verdicts on all sources of a tiles table, in order of source; only masks that show
    something are held.

    No mask is in two verdicts. What small sources do not show together, they may show by
    themselves, in verdicts that are not firm.
    """
    opened, _ = open_tiles_table(table)
    if "mask_mixed_blocks" not in opened.schema_arrow.names:
        return []
    rows = _TellingRows.of(opened)
    own = rows.names.own
    found, unsaid = [], np.ones(len(own), bool)
    for source, members in large_sources(rows.names, rows.signals.shifted > 0, FIRM_MASKS):
        verdicts = judge(rows.signals.take(members))
        found += [(source, members, verdict) for verdict in verdicts]
        unsaid[members[own[members] == source]] = False
        for verdict in verdicts:
            unsaid[members[verdict.masks]] = False
    for source, members in by_name(own, np.flatnonzero(unsaid)):
        found += [(source, members, verdict) for verdict in judge(rows.signals.take(members))]
    return sorted(_named(opened, rows, found), key=lambda source: source.source)


def labels_of_sources(table: Path, sources: Iterable[LossySource]) -> dict[str, tuple[int, ...]]:
    """Return, for each source by name, the labels that a mask of it surely holds, clean masks of
    the source included: they have a core there of at least `HELD_CORE_PX`. What JPEG makes between
    others has smaller ones.
    """
    listed = list(sources)
    by_path = {path: source.source for source in listed for path in source.paths}
    found: dict[str, set[int]] = {source.source: set() for source in listed}
    columns = ["tile_id", "group", "mask_path", "label_ids", "label_core_pixels"]
    opened, _ = open_tiles_table(table)
    for batch in tables.read_batches(opened, columns) if listed else ():
        rows = batch.filter(batch["label_core_pixels"].is_valid())
        lists = (rows[name].to_pylist() for name in columns[2:])
        for name, path, ids, cores in zip(own_sources(rows), *lists, strict=True):
            labels = found.get(by_path.get(path, name))
            if labels is not None:
                labels.update(
                    label for label, core in zip(ids, cores, strict=True) if core >= HELD_CORE_PX
                )
    return {name: tuple(sorted(labels)) for name, labels in found.items()}


@dataclass(frozen=True, slots=True)
class _TellingRows:
    """The masks whose labels were read and that have boundaries or a lossy container: their rows in
    the table (int64 [n]), sources and signals.
    """

    rows: np.ndarray
    names: SourceNames
    signals: MaskSignals

    @classmethod
    def of(cls, opened: Any) -> _TellingRows:
        """Return those of a tiles table."""
        rows = [np.zeros(0, np.int64)]
        columns: dict[str, list[np.ndarray]] = {name: [] for name in (*_COLUMNS, "mask_lossy")}

        def chosen_rows() -> Iterator[pa.Table]:
            start = 0
            schema = pa.schema([opened.schema_arrow.field(name) for name in (*_KEYS, *_COLUMNS)])
            batches = tables.read_batches(opened, schema.names)
            for batch in itertools.chain([schema.empty_table()], batches):
                telling = _are_telling(batch)
                rows.append(start + np.flatnonzero(telling.to_numpy()))
                start += batch.num_rows
                chosen = batch.filter(telling)
                for name, pieces in columns.items():
                    unknown = "" if name == "mask_lossy" else _UNKNOWN.get(_COLUMNS[name], 0)
                    pieces.append(chosen[name].fill_null(unknown).to_numpy(zero_copy_only=False))
                yield chosen

        names = SourceNames.joined(chosen_rows())
        joined = {name: np.concatenate(columns.pop(name)) for name in tuple(columns)}
        container = joined.pop("mask_lossy")
        numbers = {_COLUMNS[name]: values for name, values in joined.items()}
        return cls(np.concatenate(rows), names, MaskSignals(container=container, **numbers))


def _are_telling(batch: pa.Table) -> pa.ChunkedArray:
    """Return which masks have labels that were read, and boundaries or a lossy container."""
    telling = pc.or_(
        pc.greater(batch["mask_shifted_blocks"], 0).fill_null(False), batch["mask_lossy"].is_valid()
    )
    return pc.and_(telling, batch["mask_error"].is_null())


def _named(
    opened: Any, rows: _TellingRows, found: list[tuple[str, np.ndarray, Verdict]]
) -> Iterator[LossySource]:
    """Yield the verdicts on members of sources with the paths and digests of their masks, for which
    the table is read once more.
    """
    if not found:
        return
    listed = np.unique(
        np.concatenate(
            [members[np.union1d(each.masks, each.unclear)] for _, members, each in found]
        )
    )
    columns = ("mask_path", "mask_digest")
    files = tables.RowTaker(opened).take(rows.rows[listed], columns) if len(listed) else None
    for source, members, verdict in found:
        masks = members[verdict.masks]
        at, others = (
            pa.array(np.searchsorted(listed, members[each]))
            for each in (verdict.masks, verdict.unclear)
        )
        paths, digests = (
            tuple(files[name].take(at).to_pylist() if files is not None else ()) for name in columns
        )
        unclear = files["mask_path"].take(others).to_pylist() if files is not None else ()
        yield LossySource(
            source,
            verdict,
            paths,
            digests,
            len(members),
            tuple(unclear),
            tuple(sorted(set(rows.names.own[masks]))),
        )
