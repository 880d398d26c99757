"""HP5: masks and label map held against each other."""

from __future__ import annotations

from collections.abc import Iterator

from histoprep.catalogue import RULES
from histoprep.checks import Chunk, Evidence, row_rule, table_rule
from histoprep.findings import Finding, finding


@row_rule("HP501")
def unmapped(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield the masks that hold a value the map does not list."""
    if evidence.label_map is None:
        return
    labels = chunk.labels
    unknown = labels[~labels.label_id.isin(list(evidence.label_map.mapping))]
    paths = chunk.tiles.mask_path
    items = [
        (str(paths[row]), ", ".join(f"value {label}: {pixels:,} px" for label, pixels in zip(found.label_id, found.pixels, strict=True)))
        for row, found in unknown.groupby("row")
    ]
    if items:
        values = ", ".join(str(value) for value in sorted(unknown.label_id.unique())[:10])
        suggestion = f"Add the values ({values}) to {evidence.label_map.name}, or remap with --on-unmapped unknown."
        yield finding(RULES["HP501"], items, denominator=evidence.amounts.masks, unit="masks", suggestion=suggestion)


@table_rule("HP502", "HP507")
def unused(evidence: Evidence) -> Iterator[Finding]:
    """Yield labels that no mask holds, and classes that no present label reaches."""
    label_map = evidence.label_map
    if label_map is None or not evidence.amounts.masks:
        return
    present = set(evidence.label_counts.classes.class_id)
    absent = [(f"label {one.id}", one.name) for one in label_map.sources if one.id not in present]
    if absent:
        yield finding(RULES["HP502"], absent, denominator=len(label_map.sources), unit="labels")
    reached = {label_map.mapping[label] for label in present if label in label_map.mapping}
    vanished = [(f"class {one.id}", one.name) for one in label_map.classes if one.id not in reached]
    if vanished:
        yield finding(RULES["HP507"], vanished, denominator=label_map.num_classes, unit="classes")


@table_rule("HP503", "HP504", "HP505", "HP506")
def faulty_map(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the label map's file."""
    for code in sorted({problem.code for problem in evidence.map_problems}):
        items = [(_place(evidence.map_path, problem.line), problem.message) for problem in evidence.map_problems if problem.code == code]
        yield finding(RULES[code], items, denominator=len(items), unit="problems")


def _place(path: str, line: int | None) -> str:
    return f"{path}:{line}" if line else path


@table_rule("HP508")
def remapped_before(evidence: Evidence) -> Iterator[Finding]:
    """Yield the evidence that these masks are the result of a remap already."""
    from histoprep.remap_evidence import already_remapped

    if evidence.label_map is None:
        return
    tiles = evidence.label_counts.classes.groupby("class_id").tiles.sum()
    notes = evidence.overview.mask_label_map.dropna().unique()
    reason = already_remapped(evidence.label_map, {int(label): int(number) for label, number in tiles.items()}, notes)
    if reason:
        yield finding(RULES["HP508"], [(str(evidence.root), reason)], denominator=1, unit="data sets")
