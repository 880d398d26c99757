"""HP5: masks and label map held against each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from histoprep.catalogue import RULES
from histoprep.checks import MAX_LISTED, Chunk, Evidence, row_rule, table_rule
from histoprep.findings import Finding, finding
from histoprep.labels.wrapped import ADVICE, wrapped_cause, wrapped_modulus
from histoprep.names import to_text


@row_rule("HP501")
def unmapped(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield the masks that hold a value the map does not list."""
    if evidence.label_map is None:
        return
    known = list(evidence.label_map.mapping)
    unknown = chunk.labels[~chunk.labels.label_id.isin(known)]
    if unknown.empty:
        return
    # Pieces of one table must give one finding, so the values are those of the whole data set.
    everywhere = sorted(
        {int(cls) for cls in evidence.label_counts.classes.class_id} - set(known)
    ) or sorted(set(unknown.label_id))
    values = ", ".join(str(value) for value in everywhere[:MAX_LISTED]) + (
        ", ..." if len(everywhere) > MAX_LISTED else ""
    )
    suggestion = (
        f"Add the values ({values}) to {evidence.label_map.name}, or remap with --on-unmapped"
        " unknown."
    )
    items = zip(
        chunk.tiles.mask_path.iloc[unknown.row.unique()].tolist(), _amounts(unknown), strict=True
    )
    cause = ""
    present = [int(cls) for cls in evidence.label_counts.classes.class_id.unique()]
    if (modulus := wrapped_modulus(present, known)) is not None:
        cause, suggestion = wrapped_cause(present, modulus), ADVICE
    yield finding(
        RULES["HP501"],
        items,
        denominator=evidence.amounts.masks,
        unit="masks",
        cause=cause,
        suggestion=suggestion,
    )


def _amounts(labels: pd.DataFrame) -> list[str]:
    """Return "value 200: 1,024 px, ..." for each tile with such labels, in order."""
    texts = [
        f"value {label}: {pixels:,} px"
        for label, pixels in zip(labels.label_id, labels.pixels, strict=True)
    ]
    starts = np.flatnonzero(np.diff(labels.row, prepend=-1)).tolist()
    return [
        _shortened(texts[start:end])
        for start, end in zip(starts, [*starts[1:], len(texts)], strict=True)
    ]


def _shortened(texts: list[str]) -> str:
    more = f" and {len(texts) - MAX_LISTED} more values" if len(texts) > MAX_LISTED else ""
    return ", ".join(texts[:MAX_LISTED]) + more


@table_rule("HP502", "HP507")
def unused(evidence: Evidence) -> Iterator[Finding]:
    """Yield labels that no mask holds, and classes but 0 that no present label reaches; nothing
    when no mask was read.
    """
    label_map = evidence.label_map
    present = set(evidence.label_counts.classes.class_id)
    if label_map is None or not present:
        return
    absent = [
        (f"label {source.id}", source.name)
        for source in label_map.sources
        if source.id not in present
    ]
    if absent:
        yield finding(RULES["HP502"], absent, denominator=len(label_map.sources), unit="labels")
    reached = {label_map.mapping[label] for label in present if label in label_map.mapping}
    vanished = [
        (f"class {cls.id}", cls.name)
        for cls in label_map.classes
        if cls.id not in reached and cls.id != 0
    ]
    if vanished:
        yield finding(RULES["HP507"], vanished, denominator=label_map.num_classes, unit="classes")


@table_rule("HP503", "HP504", "HP505", "HP506")
def faulty_map(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the label map's file."""
    for code in sorted({problem.code for problem in evidence.map_problems}):
        items = [
            (_place(evidence.map_path, problem.line), problem.message)
            for problem in evidence.map_problems
            if problem.code == code
        ]
        yield finding(RULES[code], items, denominator=0, unit="problems")


def _place(path: str, line: int | None) -> str:
    return f"{path}:{line}" if line else path


@table_rule("HP508")
def remapped_before(evidence: Evidence) -> Iterator[Finding]:
    """Yield the evidence that these masks are the result of a remap already."""
    from histoprep.remap.evidence import already_remapped

    if evidence.label_map is None:
        return
    tiles = evidence.label_counts.classes.groupby("class_id").tiles.sum()
    notes = evidence.overview.mask_label_map.dropna().unique()
    reason = already_remapped(
        evidence.label_map, {int(str(label)): int(number) for label, number in tiles.items()}, notes
    )
    if reason:
        yield finding(
            RULES["HP508"], [(to_text(str(evidence.root)), reason)], denominator=0, unit="data sets"
        )
