"""Tiles table -> which sources hold lossy or interpolated masks.

A source is a group (slide, case) or, without one, a folder; see `verdict.py` for how it is judged. The audit,
repair and remap ask the same question here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep import tables
from histoprep.lossy.verdict import Kind, MaskSignals, Verdict, judge
from histoprep.tiles import KIND, SCHEMA_VERSION

_COLUMNS = {
    "mask_mixed_blocks": "mixed", "mask_shifted_blocks": "shifted", "mask_rough_pairs": "rough_pairs", "mask_contacts": "contacts",
    "mask_soft_contacts": "soft_contacts", "mask_ramp_labels": "ramp_labels", "mask_jpeg_quality": "quality", "mask_fixed_blocks": "fixed",
    "mask_tried_blocks": "tried",
}  # fmt: skip
_KEYS = ("tile_id", "group", "mask_path", "mask_digest", "mask_lossy", "mask_error", "mask_colours", "mask_channels_equal")
# A colour-coded mask has one colour a label, and labels with colours of their own are few.
MAX_COLOURS = 256


@dataclass(frozen=True, slots=True)
class LossySource:
    """What is wrong with the masks of one source, and their paths and digests, in order of the table.

    `num_masks` is how many masks of the source were looked at: those with boundaries, or stored with loss.
    """

    source: str
    verdict: Verdict
    paths: tuple[str, ...]
    digests: tuple[str, ...]
    num_masks: int

    @property
    def code(self) -> str:
        """Return the code of the finding."""
        return "HP404" if self.verdict.kind is Kind.INTERPOLATED else "HP403"


def lossy_sources(table: Path) -> list[LossySource]:
    """Return the verdicts on all sources of a tiles table, in order of source; only masks that show something are held."""
    opened, _ = tables.open_table(table, kind=KIND, schema_version=SCHEMA_VERSION)
    if "mask_mixed_blocks" not in opened.schema_arrow.names:
        return []
    rows = pa.concat_tables(list(_telling_rows(opened)))
    names = _source_names(rows).to_pylist()
    order = np.argsort(np.array(names, object), kind="stable")
    found, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or names[order[end]] != names[order[start]]:
            found += _judged(names[order[start]], rows.take(pa.array(order[start:end])))
            start = end
    return found


def _telling_rows(opened: Any) -> Iterator[pa.Table]:
    """Yield the masks that were decoded and have boundaries, a lossy container or too many colours."""
    columns = [*_KEYS, *_COLUMNS]
    yield pa.schema([opened.schema_arrow.field(name) for name in columns]).empty_table()
    for batch in tables.read_batches(opened, columns):
        colourful = pc.and_kleene(pc.greater(batch["mask_colours"], MAX_COLOURS), pc.invert(batch["mask_channels_equal"]))
        telling = pc.or_(pc.greater(batch["mask_shifted_blocks"], 0).fill_null(False), batch["mask_lossy"].is_valid())
        telling = pc.or_(telling, colourful.fill_null(False))
        yield batch.filter(pc.and_(telling, batch["mask_error"].is_null()))


def _source_names(rows: pa.Table) -> pa.ChunkedArray:
    """Return the group of each row or else its folder, `.` for the root."""
    folder = pc.replace_substring_regex(rows["tile_id"], r"/?[^/]*$", "")
    return pc.coalesce(rows["group"], pc.if_else(pc.equal(folder, ""), ".", folder))


def _judged(source: str, rows: pa.Table) -> list[LossySource]:
    numbers = {name: rows[column].fill_null(0).to_numpy() for column, name in _COLUMNS.items()}
    colourful = pc.greater(rows["mask_colours"], MAX_COLOURS).fill_null(False).to_numpy()
    container = np.where(colourful, Kind.LOSSY_COLOURS.value, rows["mask_lossy"].fill_null("").to_numpy(zero_copy_only=False))
    verdicts = judge(MaskSignals(container=container, **numbers))
    return [LossySource(source, one, *_named(rows.take(pa.array(one.masks))), rows.num_rows) for one in verdicts]


def _named(rows: pa.Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the paths and the digests of masks."""
    return tuple(rows["mask_path"].to_pylist()), tuple(rows["mask_digest"].to_pylist())
