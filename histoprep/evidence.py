"""Tables -> the evidence that rules look at, and the findings of all rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from histoprep import checks, tables
from histoprep.checks import OVERVIEW_COLUMNS, Amounts, CheckOptions, Chunk, Evidence
from histoprep.duplicates import COLUMNS as DUPLICATE_COLUMNS
from histoprep.duplicates import SCHEMA as DUPLICATE_SCHEMA
from histoprep.duplicates import compare, find_candidates
from histoprep.execution import Engine
from histoprep.findings import Finding
from histoprep.labels import LabelMap, check_label_map, load_label_map
from histoprep.stats import count_table
from histoprep.tiles import KIND, SCHEMA, SCHEMA_VERSION
from histoprep.workspace import Workspace

_UNUSABLE_CODES = ("HP503", "HP504", "HP505")


@dataclass(frozen=True, slots=True)
class Gathered:
    """The evidence, and how many candidate pairs of copies were too many to compare."""

    evidence: Evidence
    num_uncompared: int = 0


@dataclass(frozen=True, slots=True)
class Sources:
    """What the evidence is gathered from besides the tables of the workspace."""

    options: CheckOptions = field(default_factory=CheckOptions)
    map_path: Path | None = None
    expected: Mapping[str, Any] = field(default_factory=dict)


def gather(workspace: Workspace, sources: Sources, engine: Engine) -> Gathered:
    """Return the evidence of a workspace with an up-to-date tiles table.

    Candidate copies are decoded again in worker processes and kept in duplicates.parquet.
    """
    opened, _ = tables.open_table(workspace.tiles, kind=KIND, schema_version=SCHEMA_VERSION)
    overview, num_zero = _overview(opened)
    problems = tuple(check_label_map(sources.map_path)) if sources.map_path else ()
    usable = sources.map_path is not None and not any(one.code in _UNUSABLE_CODES for one in problems)
    label_map = load_label_map(sources.map_path) if usable and sources.map_path else None
    counts = count_table(workspace, label_map, by_group=True)
    duplicates, num_uncompared = _duplicates(workspace, opened, engine)
    issues, _ = tables.open_table(workspace.listing_issues, kind="listing-issues", schema_version="1.0")
    evidence = Evidence(
        root=workspace.root,
        overview=overview,
        issues=tables.read_table(issues).to_pandas(),
        duplicates=duplicates,
        amounts=_amounts(overview, num_zero),
        label_counts=counts.raw,
        counts=counts.mapped if counts.mapped is not None else counts.raw,
        raw_map=counts.raw_map,
        label_map=label_map,
        map_problems=problems,
        map_path=str(sources.map_path or ""),
        expected=sources.expected,
        manifest=workspace.manifest if workspace.manifest.exists() else None,
        options=sources.options,
    )
    return Gathered(evidence, num_uncompared)


def _overview(opened: Any) -> tuple[pd.DataFrame, int]:
    """Return the overview and the number of paired masks that hold label 0 alone."""
    pieces, num_zero = [], 0
    for batch in tables.read_batches(opened, [*OVERVIEW_COLUMNS, "label_ids"]):
        pieces.append(batch.drop_columns(["label_ids"]).to_pandas(types_mapper=checks.nullable))
        lists = batch["label_ids"].combine_chunks()
        single = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) == 1
        firsts = np.zeros(len(single), np.int64)
        firsts[single] = lists.filter(pa.array(single)).flatten().to_numpy()
        num_zero += int((single & (firsts == 0) & batch["image_path"].is_valid().to_numpy()).sum())
    empty = pa.schema([SCHEMA.field(name) for name in OVERVIEW_COLUMNS]).empty_table().to_pandas()
    overview = pd.concat(pieces, ignore_index=True) if pieces else empty
    folder = overview.tile_id.str.rpartition("/")[0] if len(overview) else overview.tile_id
    return overview.assign(source=overview.group.fillna(folder.where(folder != "", "."))), num_zero


def _amounts(overview: pd.DataFrame, num_zero: int) -> Amounts:
    has_image, has_mask = overview.image_path.notna(), overview.mask_path.notna()
    return Amounts(
        images=int(has_image.sum()),
        masks=int(has_mask.sum()),
        pairs=int((has_image & has_mask).sum()),
        orphan_masks=int((has_mask & ~has_image).sum()),
        zero_masks=num_zero,
        unreadable=int(overview.mask_error.notna().sum()),
    )


def _duplicates(workspace: Workspace, opened: Any, engine: Engine) -> tuple[pd.DataFrame, int]:
    candidates = find_candidates(tables.read_table(opened, DUPLICATE_COLUMNS).to_pandas(types_mapper=checks.nullable))
    found = compare(workspace.root, candidates.pairs, workspace.parts, engine)
    tables.write_table(workspace.duplicates, [found], DUPLICATE_SCHEMA, kind="duplicates", schema_version="1.0", metadata={})
    return found.to_pandas(), candidates.num_left_out


def run_rules(workspace: Workspace, evidence: Evidence) -> list[Finding]:
    """Return the findings of every rule, those of one rule and place joined, in order of code."""
    checks.load_rules()
    opened, _ = tables.open_table(workspace.tiles, kind=KIND, schema_version=SCHEMA_VERSION)
    found = checks.merged(_run(opened, evidence))
    return sorted(found, key=lambda one: (one.code, one.subcode, one.where))


def _run(opened: Any, evidence: Evidence) -> Iterator[Finding]:
    row_rules = dict.fromkeys(checks.ROW_RULES.values())
    for batch in tables.read_batches(opened):
        chunk = Chunk.of(batch)
        for row_rule in row_rules:
            yield from row_rule(chunk, evidence)
    for table_rule in dict.fromkeys(checks.TABLE_RULES.values()):
        yield from table_rule(evidence)
