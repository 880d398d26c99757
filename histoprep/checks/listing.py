"""HP1: what the listing alone shows."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from histoprep.catalogue import RULES
from histoprep.checks import Chunk, Evidence, flag, row_rule, table_rule
from histoprep.findings import Finding, finding
from histoprep.labels import LabelMap
from histoprep.scan import IssueKind

_CODES = {
    IssueKind.DUPLICATE_KEY: "HP103",
    IssueKind.AMBIGUOUS: "HP104",
    IssueKind.UNPARSED: "HP105",
    IssueKind.UNEXPECTED: "HP106",
}


@row_rule("HP101", "HP102")
def unpaired(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield orphan masks and images without a mask; images below an --unlabelled root need none."""
    tiles, amounts = chunk.tiles, evidence.amounts
    yield from flag("HP101", tiles, tiles.image_path.isna(), "mask_path", "no image {tile_id}", denominator=amounts.masks, unit="masks")
    # Where no tile has a mask, masks were never meant to be there.
    if amounts.masks:
        missing = tiles.mask_path.isna() & ~tiles.unlabelled
        yield from flag("HP102", tiles, missing, "image_path", "no mask", denominator=amounts.images, unit="images")


@table_rule("HP103", "HP104", "HP105", "HP106")
def odd_names(evidence: Evidence) -> Iterator[Finding]:
    """Yield what the walk met besides clean pairs."""
    files = evidence.amounts.images + evidence.amounts.masks
    for kind, code in _CODES.items():
        chosen = evidence.issues.kind == kind
        denominator = evidence.amounts.images if code == "HP105" else files + (int(chosen.sum()) if code == "HP106" else 0)
        unit = "images" if code == "HP105" else "files"
        yield from flag(code, evidence.issues, chosen, "path", "{detail}", denominator=denominator, unit=unit)


@table_rule("HP107")
def named_but_missing(evidence: Evidence) -> Iterator[Finding]:
    """Yield images that dataset.csv names and nobody has."""
    chosen = evidence.issues.kind == IssueKind.CSV_MISSING
    yield from flag(
        "HP107", evidence.issues, chosen, "path", "{detail}", denominator=evidence.amounts.images + int(chosen.sum()), unit="images", subcode="missing-file"
    )


@row_rule("HP107")
def declared_otherwise(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield tiles whose declared labels are neither those present nor those core-present, raw or mapped.

    Label 0 is left out of the comparison, since some tables list it and some do not.
    """
    declared = chunk.tiles[chunk.tiles.declared_labels.notna() & chunk.tiles.mask_path.notna() & chunk.tiles.mask_error.isna()]
    items = []
    labels = chunk.labels.assign(core=chunk.labels.core_pixels > 0)
    by_row = dict(tuple(labels[labels.row.isin(declared.index)].groupby("row")))
    for row, tile in declared.iterrows():
        found = by_row.get(row)
        if found is None:
            continue
        wanted = _declared_ids(tile.declared_labels, evidence.label_map)
        if wanted not in _readings(found, evidence.label_map):
            present = " ".join(str(value) for value in found.label_id)
            items.append((str(tile.image_path), f"declared {' '.join(tile.declared_labels) or 'nothing'}, the mask holds {present}"))
    if items:
        yield finding(RULES["HP107"], items, denominator=evidence.amounts.pairs, unit="tiles", subcode="labels-differ")


def _declared_ids(declared: list[str], label_map: LabelMap | None) -> frozenset[int | str]:
    """Return the ids, without 0, of labels given by id or by the name of a source label or class."""
    names: dict[str, int] = {}
    if label_map:
        names = {one.name.casefold(): one.id for one in (*label_map.classes, *label_map.sources)}
    ids = (int(text) if text.isdecimal() else names.get(text.casefold(), text) for text in declared)
    return frozenset(one for one in ids if one != 0)


def _readings(found: pd.DataFrame, label_map: LabelMap | None) -> list[frozenset[int]]:
    sets = [frozenset(found.label_id.tolist()), frozenset(found.label_id[found.core].tolist())]
    if label_map:
        sets += [frozenset(label_map.mapping.get(one, one) for one in labels) for labels in sets]
    return [labels - {0} for labels in sets]


@table_rule("HP108")
def counts_differ(evidence: Evidence) -> Iterator[Finding]:
    """Yield counts that differ from the expectation file; `labels` there maps a label id to its tiles."""
    items = []
    for name, wanted in evidence.expected.items():
        if name != "labels":
            seen = getattr(evidence.amounts, name)
            items += [(name, f"seen {seen:,}, expected {wanted:,}")] if seen != wanted else []
    tiles = evidence.label_counts.classes.groupby("class_id").tiles.sum()
    for label, wanted in evidence.expected.get("labels", {}).items():
        seen = int(tiles.get(int(label), 0))
        items += [(f"label {label}", f"seen in {seen:,} tiles, expected {wanted:,}")] if seen != wanted else []
    if items:
        total = len(evidence.expected) + len(evidence.expected.get("labels", {})) - ("labels" in evidence.expected)
        yield finding(RULES["HP108"], items, denominator=total, unit="counts")
