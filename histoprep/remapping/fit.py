"""Whether a label map belongs to the masks it is to be used on: what its labels and names say.

A map that was made for other masks may still list all of their values, and then turns unrelated
labels into one class without an error. It shows in classes that stay empty, and in names that
differ from those the data set itself has.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pyarrow.compute as pc

from histoprep.errors import LabelMapError, UsageError
from histoprep.labels import LabelMap, default_map, load_label_map, packed_maps
from histoprep.labels.format import name_key
from histoprep.phrases import first_of
from histoprep.schemas.repaired import num_labelled, open_rows
from histoprep.visible import visible

# Of fewer classes, one or two empty ones say nothing, and of fewer tiles, many empty ones.
MIN_CLASSES = 3
MIN_TILES = 5
# A packed map is offered when so large a share of its labels occurs.
MIN_LABEL_SHARE = 1 / 3
_MIN_NAMES = 2


def fits(label_map: LabelMap, labels: Collection[int]) -> bool:
    """Return whether a map may be offered for masks of these labels: it lists all of them, at least
    a third of its labels occur, and most of its classes are reached.
    """
    occurring = [source for source in label_map.sources if source.id in labels]
    return (
        bool(labels)
        and not label_map.unlisted(labels)
        and len(occurring) >= MIN_LABEL_SHARE * len(label_map.sources)
        and empty_classes(label_map, labels) is None
    )


def fitting_maps(labels: Collection[int]) -> list[str]:
    """Return the names of the packed maps that fit masks of these labels (see `fits`)."""
    return [path.stem for path in packed_maps() if fits(load_label_map(path), labels)]


def empty_classes(label_map: LabelMap, labels: Iterable[int]) -> str | None:
    """Return how most classes other than 0 stay empty under the labels that occur, or None.

    Counted are classes that some label maps to, at least three. An identity map, and masks of label
    0 alone, prove nothing.
    """
    present = sorted({label for label in labels if label})
    reachable = set(label_map.mapping.values()) - {0}
    if label_map.is_identity or not present or len(reachable) < MIN_CLASSES:
        return None
    reached = {label_map.class_of(label) for label in present} & reachable
    empty = sorted(reachable - reached)
    if 2 * len(empty) <= len(reachable):
        return None
    named = [f"{number} {label_map.class_name(number)}" for number in sorted(reached)]
    return (
        f"{len(empty)} of {len(reachable)} classes stay empty: the labels"
        f" {first_of(present, limit=6)} become {first_of(named) or 'no class but 0'}"
    )


def other_names(label_map: LabelMap, own: LabelMap, labels: Iterable[int]) -> str | None:
    """Return how the map calls most of the labels that occur by other names than the data set's own
    map does, or None; labels called `label N` have no name.
    """
    differing = []
    compared = 0
    for label in sorted(set(labels)):
        theirs, ours = own.source_of(label), label_map.source_of(label)
        if theirs is None or ours is None or not (theirs.is_single and ours.is_single):
            continue
        names = [_folded(source.name) for source in (theirs, ours)]
        if f"label {label}" in names:
            continue
        compared += 1
        if names[0] != names[1]:
            differing.append(f"label {label} is {theirs.name!r} there and {ours.name!r} here")
    if len(differing) < _MIN_NAMES or 2 * len(differing) <= compared:
        return None
    return f"the data set's own label map has other names: {first_of(differing, limit=3)}"


def unknown_names(label_map: LabelMap, declared: Iterable[str]) -> str | None:
    """Return how the map has none of the names that a table gives to labels, at least two, or
    None; numbers are no names.
    """
    names = sorted({name for name in declared if not name.isdecimal()})
    sides = (label_map.sources, label_map.classes)
    known = {_folded(entry.name) for side in sides for entry in side}
    if len(names) < _MIN_NAMES or any(_folded(name) in known for name in names):
        return None
    return f"the table calls labels {first_of(names, limit=3)}, and the map has none of these names"


def misfit(
    label_map: LabelMap, tiles_by_label: Mapping[int, int], table: Path, root: Path
) -> str | None:
    """Return the evidence that a map was made for other masks, or None.

    Args:
        label_map: The map.
        tiles_by_label: How many tiles hold each label.
        table: Path of the tiles table, for the names that tiles declare.
        root: Folder of the data set, for a label map of its own.
    """
    labels = [label for label, tiles in tiles_by_label.items() if tiles]
    own, empty = _own_map(root), empty_classes(label_map, labels)
    return (
        (empty if empty is not None and num_labelled(table) >= MIN_TILES else None)
        or (other_names(label_map, own, labels) if own is not None else None)
        or unknown_names(label_map, _declared_names(table))
    )


def misfit_error(label_map: LabelMap, root: Path, evidence: str) -> UsageError:
    """Return the error of a stage that does not use such a map."""
    shown = shlex.quote(visible(str(root)))
    return UsageError(
        f"{label_map.name} seems to be a label map of other masks",
        path=root,
        seen=evidence,
        hint=(
            f"histoprep map init {shown} --out label_map.yml writes a map of the labels that these"
            " masks hold; --force uses this one all the same"
        ),
    )


def which_map(root: Path, table: Path) -> UsageError:
    """Return the error of a stage that needs a label map and has none: it offers the packed maps
    that fit the labels found, and a map of these labels.
    """
    labels: set[int] = set()
    if table.exists():
        for chunk in open_rows(table)[0].read_batches(["label_ids"]):
            labels.update(pc.unique(pc.list_flatten(chunk["label_ids"])).to_pylist())
    own = f"histoprep map init {shlex.quote(visible(str(root)))} --out label_map.yml"
    offers = [f"--map {name}" for name in fitting_maps(labels)]
    return UsageError(
        "no label map given, and the data set does not contain exactly one label_map*.yml",
        path=root,
        seen=f"labels {first_of(sorted(labels))}" if labels else None,
        hint=(
            f"{' or '.join(offers)} (all of these labels are listed, a third of the listed occur,"
            f" and most classes are reached); or {own} writes a map of them"
            if offers
            else f"{own} writes a map of the labels found; then --map label_map.yml"
        ),
    )


def _own_map(root: Path) -> LabelMap | None:
    path = default_map(root)
    try:
        return load_label_map(path) if path is not None else None
    except LabelMapError:
        # The audit says what is wrong with it.
        return None


def _declared_names(table: Path) -> set[str]:
    names: set[str] = set()
    for chunk in open_rows(table)[0].read_batches(["declared_labels"]):
        names.update(pc.unique(pc.list_flatten(chunk["declared_labels"])).to_pylist())
    return {name for name in names if name is not None}


def _folded(name: str) -> str:
    return name_key(name).casefold()
