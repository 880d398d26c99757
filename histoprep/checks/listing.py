"""HP1: what the listing alone shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np

from histoprep.catalogue import RULES
from histoprep.checks import MAX_LISTED, Chunk, Evidence, flag, row_rule, table_rule, true
from histoprep.findings import Finding, Severity, finding
from histoprep.labels import LabelMap
from histoprep.scan import IssueKind

_CODES = {
    IssueKind.DUPLICATE_KEY: "HP103",
    IssueKind.AMBIGUOUS: "HP104",
    IssueKind.UNPARSED: "HP105",
    IssueKind.UNEXPECTED: "HP106",
}
_OTHER_FOLDER = (
    "The names in the table are perhaps meant from another folder than ROOT: as many are missing as"
    " there are images."
)
_UNREAD_CAUSE = (
    "There are images beside the folders of images and masks that were read: another version of"
    " the masks, perhaps, or more images."
)
_UNREAD_SUGGESTION = (
    "Name the two folders to read with --images and --masks, and those of images without masks with"
    " --unlabelled. If the right ones were read, name them as well: what is left is then no more"
    " than an info."
)
_NO_IMAGES = "No image was found at all: look at --layout, --images and --mask-suffix."


@row_rule("HP101", "HP102")
def unpaired(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield orphan masks and images without a mask; images below an --unlabelled root need none."""
    tiles, amounts = chunk.tiles, evidence.amounts
    suggestion = "" if amounts.images else _NO_IMAGES
    orphan = tiles.image_path.isna()
    yield from flag(
        "HP101",
        tiles,
        orphan,
        "mask_path",
        "no image {tile_id}",
        denominator=amounts.masks,
        unit="masks",
        suggestion=suggestion,
    )
    # Where no tile has a mask, masks were never meant to be there.
    if amounts.masks:
        missing = tiles.mask_path.isna() & ~tiles.unlabelled
        yield from flag(
            "HP102",
            tiles,
            missing,
            "image_path",
            "no mask",
            denominator=amounts.images,
            unit="images",
        )


@table_rule("HP103", "HP104", "HP105", "HP106")
def odd_names(evidence: Evidence) -> Iterator[Finding]:
    """Yield what the walk met besides clean pairs."""
    files = evidence.amounts.images + evidence.amounts.masks
    for kind, code in _CODES.items():
        issues = evidence.issues[evidence.issues.kind == kind].drop_duplicates(["path", "detail"])
        denominator = (
            evidence.amounts.images
            if code == "HP105"
            else files + (len(issues) if code == "HP106" else 0)
        )
        unit = "images" if code == "HP105" else "files"
        yield from flag(
            code,
            issues,
            issues.path.notna(),
            "path",
            "{detail}",
            denominator=denominator,
            unit=unit,
        )


@table_rule("HP106")
def unread_folders(evidence: Evidence) -> Iterator[Finding]:
    """Yield folders that were not read; a warning where they hold images and nobody said which
    folders to read.
    """
    for kind in (IssueKind.UNREAD_FOLDER, IssueKind.OTHER_FOLDER):
        issues = evidence.issues[evidence.issues.kind == kind]
        warned = kind == IssueKind.UNREAD_FOLDER
        texts = {"cause": _UNREAD_CAUSE, "suggestion": _UNREAD_SUGGESTION} if warned else {}
        # How many folders there are in all says nothing.
        for issue in flag(
            "HP106",
            issues,
            issues.path.notna(),
            "path",
            "{detail}",
            denominator=0,
            unit="folders",
            subcode=kind.value,
            **texts,
        ):
            yield replace(issue, severity=Severity.WARNING) if warned else issue


@table_rule("HP107")
def named_but_missing(evidence: Evidence) -> Iterator[Finding]:
    """Yield images that dataset.csv names and nobody has."""
    chosen = evidence.issues.kind == IssueKind.CSV_MISSING
    named = evidence.amounts.images + int(chosen.sum())
    cause = _OTHER_FOLDER if chosen.sum() >= max(1, evidence.amounts.images) else ""
    yield from flag(
        "HP107",
        evidence.issues,
        chosen,
        "path",
        "{detail}",
        denominator=named,
        unit="images",
        subcode="missing-file",
        cause=cause,
    )


@row_rule("HP107")
def declared_otherwise(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield tiles whose declared labels are not those of the mask, raw or mapped.

    A table may list what is present or only what is core-present, and label 0 or not. Names
    cannot be checked without a label map.
    """
    tiles = chunk.tiles
    readable = tiles.declared_labels.notna() & tiles.mask_path.notna() & tiles.mask_error.isna()
    rows = np.flatnonzero(true(readable))
    starts, ends = (np.searchsorted(chunk.labels.row, edge) for edge in (rows, rows + 1))
    ids, core = chunk.labels.label_id.to_numpy(), chunk.labels.core_pixels.to_numpy() > 0
    compare = _Declared(evidence.label_map)
    items = []
    for row, start, end in zip(rows, starts, ends, strict=True):
        declared, present = tuple(tiles.declared_labels.iloc[row]), ids[start:end]
        if end > start and compare.contradicts(
            declared, tuple(present.tolist()), tuple(present[core[start:end]].tolist())
        ):
            items.append(
                (
                    str(tiles.image_path.iloc[row]),
                    f"declared {_listed(declared) or 'nothing'}, the mask holds {_listed(present)}",
                )
            )
    if items:
        yield finding(
            RULES["HP107"],
            items,
            denominator=evidence.amounts.pairs,
            unit="tiles",
            subcode="labels-differ",
        )


def _listed(labels: tuple[str, ...] | np.ndarray) -> str:
    more = f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else ""
    return " ".join(str(label) for label in labels[:MAX_LISTED]) + more


class _Declared:
    """Holds declared labels against those of a mask; tiles repeat each other, so answers are
    remembered.
    """

    def __init__(self, label_map: LabelMap | None) -> None:
        self._mapping = label_map.mapping if label_map else {}
        self._tables = (
            [
                {label.name.casefold(): label.id for label in side}
                for side in (label_map.sources, label_map.classes)
            ]
            if label_map
            else [{}]
        )
        self.contradicts = cache(self._contradicts)

    def _contradicts(
        self, declared: tuple[str, ...], present: tuple[int, ...], core: tuple[int, ...]
    ) -> bool:
        names_known = bool(self._mapping)
        if not names_known and not all(label.isdecimal() for label in declared):
            return False
        readings = [(frozenset(present), frozenset(core))]
        if names_known:
            there, certain = (
                frozenset(self._mapping.get(label, label) for label in labels)
                for labels in (present, core)
            )
            readings.append((there, certain))
        for names, (there, certain) in zip(self._tables, readings, strict=True):
            wanted = frozenset(
                int(label) if label.isdecimal() else names.get(label.casefold(), label)
                for label in declared
            ) - {0}
            if certain - {0} <= wanted <= there:
                return False
        return True


@table_rule("HP108")
def counts_differ(evidence: Evidence) -> Iterator[Finding]:
    """Yield counts that differ from the expectation file; `labels` there maps a label id to its
    tiles.
    """
    counts = {name: wanted for name, wanted in evidence.expected.items() if name != "labels"}
    labels = evidence.expected.get("labels", {})
    tiles = evidence.label_counts.classes.groupby("class_id").tiles.sum()
    rows = [(name, "", getattr(evidence.amounts, name), wanted) for name, wanted in counts.items()]
    rows += [
        (f"label {label}", "in tiles: ", int(tiles.get(label, 0)), wanted)
        for label, wanted in labels.items()
    ]
    items = [
        (name, f"{unit}seen {seen:,}, expected {wanted:,}")
        for name, unit, seen, wanted in rows
        if seen != wanted
    ]
    if items:
        yield finding(RULES["HP108"], items, denominator=len(rows), unit="counts")
