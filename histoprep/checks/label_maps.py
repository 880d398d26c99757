"""HP5: masks and label map held against each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histoprep import rule_ids
from histoprep.checks import MAX_LISTED, Chunk, Evidence
from histoprep.checks.commands import MAP_AS_IT_IS
from histoprep.checks.registry import row_rule, table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, Mark, Rule, Scope, finding
from histoprep.labels.model import UNMAPPED
from histoprep.labels.values import Ranges
from histoprep.labels.wrapped import ADVICE, wrapped_cause, wrapped_modulus
from histoprep.names import to_text
from histoprep.phrases import plural

if TYPE_CHECKING:
    import pandas as pd


UNMAPPED_LABEL = Rule(
    *rule_ids.UNMAPPED_LABEL,
    Severity.ERROR,
    Scope.DATASET,
    definition="A mask contains a value that the label map does not list.",
    cause="The map belongs to another version of the annotation, or the value is an artefact.",
    suggestion=(
        "Add the value to the map, or give it to the unknown class: histoprep remap ROOT --map MAP"
        " --on-unmapped unknown"
    ),
    mark=Mark.UNMAPPED,
)
UNUSED_LABEL = Rule(
    "HP502",
    "unused-label",
    Severity.INFO,
    Scope.DATASET,
    definition="No mask contains this label of the map.",
    cause="The label is rare, or part of the data set is missing.",
    suggestion="No command is needed.",
)
MAP_NOT_TOTAL = Rule(
    *rule_ids.MAP_NOT_TOTAL,
    Severity.ERROR,
    Scope.DATASET,
    definition="A declared source label has no target class.",
    cause="A label was added to the list but not to the map.",
    suggestion="Assign it a class in the map. To see which: histoprep map check MAP",
)
MAP_COLLISION = Rule(
    *rule_ids.MAP_COLLISION,
    Severity.ERROR,
    Scope.DATASET,
    definition="A source label is listed twice, or two ids have the same name.",
    cause="The file was edited by hand.",
    suggestion="Keep one entry. To see the line: histoprep map check MAP",
)
MAP_OVERFLOW = Rule(
    *rule_ids.MAP_OVERFLOW,
    Severity.ERROR,
    Scope.DATASET,
    definition="A target class id does not fit into the 8 bits of the output.",
    cause="The id is above 255 or negative.",
    suggestion="Number the classes from 0 to 255. To see which: histoprep map check MAP",
)
MAP_GAP = Rule(
    *rule_ids.MAP_GAP,
    Severity.WARNING,
    Scope.DATASET,
    definition="The target class ids are not 0 to K-1.",
    cause="A class was removed.",
    suggestion=(
        "Number the classes without a gap; a model would otherwise learn empty classes. To see"
        " which: histoprep map check MAP"
    ),
)
CLASS_VANISHES = Rule(
    "HP507",
    "class-vanishes",
    Severity.WARNING,
    Scope.DATASET,
    definition="No label in the data maps to this class.",
    cause="This data set does not contain the labels of that class.",
    suggestion=(
        "Add data, or use a map without the class; one of the labels that there are: histoprep map"
        " init ROOT"
    ),
)
ALREADY_REMAPPED = Rule(
    *rule_ids.ALREADY_REMAPPED,
    Severity.ERROR,
    Scope.DATASET,
    definition=(
        "The masks already contain class ids of this label map; remapping them again would"
        " corrupt them."
    ),
    cause="The masks in this folder were remapped before.",
    suggestion=(
        "Use the original masks. If these values are source labels that only look like classes:"
        " histoprep remap ROOT --map MAP --force"
    ),
)
VOID_LABEL = Rule(
    "HP509",
    "void-label",
    Severity.WARNING,
    Scope.DATASET,
    definition=(
        "A value far above all other labels, or white in colour-coded masks, lies along boundaries"
        " of the others, or all bits of a value are set, and no label map says what it is."
    ),
    cause=(
        "The value marks pixels that nobody labelled, such as 255 in masks of PASCAL VOC or"
        " Cityscapes; without a word in the label map it becomes a class."
    ),
    suggestion=(
        "Write `ignore: [255]`, with this value, into the label map; or let it be written:"
        " histoprep map init ROOT"
    ),
)
NAME_CONTRADICTION = Rule(
    *rule_ids.NAME_CONTRADICTION,
    Severity.ERROR,
    Scope.DATASET,
    definition=(
        "An image-level label (folder or table) goes with one label of the masks in at least 90 %"
        " of 5 tiles or more, and the label map gives its name to another label. A warning where"
        " most of these masks hold that label, too, and no other image-level label goes with it."
    ),
    cause="Two entries of the label map are swapped, or folders and masks were numbered apart.",
    suggestion=(
        "Compare the entries with the masks, and correct the names in the label map. The table of"
        " both: histoprep stats ROOT --map MAP"
    ),
)

# Image-level label and mask label go together when so many tiles of each have the other.
_OF_THE_FILE = (MAP_NOT_TOTAL, MAP_COLLISION, MAP_OVERFLOW, MAP_GAP)


@row_rule(UNMAPPED_LABEL)
def unmapped(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield the masks that hold a value the map does not list."""
    if evidence.label_map is None:
        return
    label_map = evidence.label_map
    unknown = chunk.labels[label_map.apply_to_ids(chunk.labels.label_id.to_numpy()) == UNMAPPED]
    if unknown.empty:
        return
    # Pieces of one table must give one finding, so the values are those of the whole data set.
    present = [int(cls) for cls in evidence.label_counts.classes.class_id.unique()]
    everywhere = label_map.unlisted(present) or sorted(set(unknown.label_id))
    values = ", ".join(str(value) for value in everywhere[:MAX_LISTED]) + (
        ", ..." if len(everywhere) > MAX_LISTED else ""
    )
    suggestion = (
        f"Add the values ({values}) to {evidence.label_map.name}, or give them to its unknown"
        " class: histoprep remap ROOT --map MAP --on-unmapped unknown"
    )
    items = zip(
        chunk.tiles.mask_path.iloc[unknown.row.unique()].tolist(), _amounts(unknown), strict=True
    )
    cause = ""
    if (modulus := wrapped_modulus(present, label_map)) is not None:
        cause, suggestion = (
            wrapped_cause(present, modulus),
            f"{ADVICE} {MAP_AS_IT_IS}",
        )
    yield finding(
        UNMAPPED_LABEL,
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


@table_rule(UNUSED_LABEL, CLASS_VANISHES)
def unused(evidence: Evidence) -> Iterator[Finding]:
    """Yield labels that no mask holds, and classes but 0 that no present label reaches; nothing
    when no mask was read.
    """
    label_map = evidence.label_map
    present = np.unique(evidence.label_counts.classes.class_id.to_numpy())
    if label_map is None or not len(present):
        return
    # The rest is there in case, and need not occur.
    rest = label_map.rest
    absent = [
        (f"label {label_map.values_of(source)}", source.name)
        for source in label_map.sources
        if source != rest and not _any_within(present, source.ranges)
    ]
    if absent:
        yield finding(UNUSED_LABEL, absent, denominator=len(label_map.sources), unit="labels")
    reached = set(label_map.apply_to_ids(present).tolist())
    vanished = [
        (f"class {cls.id}", cls.name)
        for cls in label_map.classes
        if cls.id not in reached and cls.id != 0
    ]
    if vanished:
        yield finding(CLASS_VANISHES, vanished, denominator=label_map.num_classes, unit="classes")


def _any_within(values: np.ndarray, ranges: Ranges) -> bool:
    """Return whether one of the values, in order, lies in one of the closed ranges."""
    begins, ends = np.array(ranges, np.int64).T
    return bool((np.searchsorted(values, begins) < np.searchsorted(values, ends, "right")).any())


@table_rule(VOID_LABEL)
def void_label(evidence: Evidence) -> Iterator[Finding]:
    """Yield the value that seems to mark pixels without a label, unless the map ignores it."""
    found = evidence.ignored_value
    if found is None:
        return
    classes = evidence.label_counts.classes
    own = classes[classes.class_id == found.value]
    place = "along boundaries of other labels" if found.along_boundaries else "in areas of its own"
    detail = (
        f"{plural(int(own.pixels.sum()), 'pixel')} in {plural(int(own.tiles.sum()), 'tile')}"
        f" {place}"
    )
    line = found.line
    if evidence.label_map is not None:
        suggestion = (
            f"Add the line `{line}` to {evidence.label_map.name}, then: histoprep map check MAP"
        )
    elif found.along_boundaries:
        suggestion = f"A map with `{line}`: histoprep map init ROOT --out label_map.yml"
    else:
        suggestion = (
            f"If nobody labelled these pixels, write `{line}` into a label map, such as that of:"
            " histoprep map init ROOT"
        )
    problem = finding(
        VOID_LABEL,
        [(f"value {found.spelt}", detail)],
        denominator=len(classes.class_id.unique()),
        unit="values",
        subcode="boundary" if found.along_boundaries else "area",
        suggestion=suggestion,
    )
    yield problem if found.along_boundaries else replace(problem, severity=Severity.INFO)


@table_rule(NAME_CONTRADICTION)
def contradicting_names(evidence: Evidence) -> Iterator[Finding]:
    """Yield image-level labels whose mask label has another name in the map, while a label of their
    own name is there; a warning for those whose masks hold that one, too.
    """
    if evidence.label_map is None:
        return
    from histoprep.remapping.contradictions import contradictions

    table = evidence.image_labels
    found = contradictions(evidence.label_map, table)
    for is_firm, severity in ((True, Severity.ERROR), (False, Severity.WARNING)):
        items = [(f"label {each.name}", each.detail) for each in found if each.is_firm is is_firm]
        if items:
            problem = finding(
                NAME_CONTRADICTION, items, denominator=len(table.tiles), unit="labels"
            )
            yield replace(problem, severity=severity)


@table_rule(*_OF_THE_FILE)
def faulty_map(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the label map's file."""
    for rule in _OF_THE_FILE:
        items = [
            (_place(evidence.map_path, problem.line), problem.message)
            for problem in evidence.map_problems
            if problem.code == rule.code
        ]
        if items:
            yield finding(rule, items, denominator=0, unit="problems")


def _place(path: str, line: int | None) -> str:
    return f"{path}:{line}" if line else path


@table_rule(ALREADY_REMAPPED)
def remapped_before(evidence: Evidence) -> Iterator[Finding]:
    """Yield the evidence that these masks are the result of a remap already."""
    if evidence.label_map is None:
        return
    from histoprep.remapping.evidence import already_remapped

    tiles = evidence.label_counts.classes.groupby("class_id").tiles.sum()
    notes = evidence.overview.mask_label_map.dropna().unique()
    reason = already_remapped(
        evidence.label_map, {int(str(label)): int(number) for label, number in tiles.items()}, notes
    )
    if reason:
        yield finding(
            ALREADY_REMAPPED,
            [(to_text(str(evidence.root)), reason)],
            denominator=0,
            unit="data sets",
        )
