"""Labels of a source -> a label map that every command takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from histoprep.errors import LabelMapError, UsageError
from histoprep.importing.model import BACKGROUND, MAX_LABEL, Label
from histoprep.labels import IGNORED_ID, LabelMap, SourceLabel, TargetClass, default_colour
from histoprep.labels.format import MAX_CLASS_ID, name_key
from histoprep.labels.model import colours_of

_BACKGROUND_NAMES = frozenset(
    ("background", "_background_", "__background__", "bg", "unlabelled", "unlabeled", "void")
)
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_MAX_NAME = 100


def number_labels(
    named: Iterable[tuple[int | None, str, str | None]], background: str = "background"
) -> tuple[tuple[Label, ...], dict[int, int]]:
    """Return the labels of the masks, and the label of each number that the source has.

    Numbers of the source are kept where a mask can hold them and 0 is free for the background: then
    the masks can be compared with the source. Otherwise labels are numbered from 1 in the order of
    the source's numbers. A first label that is called background is the background itself.

    Args:
        named: The source's number, name and colour of each label, in the order of the source; where
            it has names alone, numbers are None, and labels are numbered from 1.
        background: Name of the label of pixels that nothing covers.
    """
    entries = [
        (place if number is None else number, name, colour)
        for place, (number, name, colour) in enumerate(named, start=1)
    ]
    entries.sort(key=lambda entry: entry[0])
    own = [entry for entry in entries if is_background(entry[1])][:1]
    others = [entry for entry in entries if entry not in own]
    kept = all(BACKGROUND < number <= MAX_LABEL for number, _, _ in others)
    labels = [Label(BACKGROUND, own[0][1] if own else background, own[0][2] if own else None)]
    numbers = {number: BACKGROUND for number, _, _ in own}
    for place, (number, name, colour) in enumerate(others, start=1):
        numbers[number] = number if kept else place
        labels.append(Label(numbers[number], name, colour))
    return tuple(labels), numbers


def refuse_ignored_label(labels: Sequence[Label], source: Path, name: str) -> None:
    """Raise UsageError if a label is as large as that of pixels that belong to no class.

    Args:
        labels: The labels of the masks.
        source: What is imported.
        name: What the source calls such pixels.
    """
    if max(label.id for label in labels) >= IGNORED_ID:
        raise UsageError(
            f"too many labels for {name}, which is {IGNORED_ID}",
            path=source,
            seen=f"{len(labels):,} labels",
        )


def is_background(name: str) -> bool:
    """Return whether a name says that nothing is there."""
    return name.strip().lower() in _BACKGROUND_NAMES


def label_map_of(labels: Sequence[Label], name: str, ignored: Sequence[int] = ()) -> LabelMap:
    """Return the label map of the labels: every label is a class of its own.

    Class ids are those of the labels where they have no gaps; else classes are numbered from 0 in
    their order. More labels than there can be classes become two: the background, and all others.

    Args:
        labels: The labels; ids differ, names need not.
        name: Name of the map.
        ignored: Values that have no class.
    """
    ignore = tuple((value, value) for value in ignored)
    ordered = sorted(labels, key=lambda label: label.id)
    names = _usable_names(ordered)
    sources = tuple(SourceLabel(label.id, names[label.id]) for label in ordered)
    if len(ordered) > MAX_CLASS_ID + 1:
        classes: tuple[TargetClass, ...] = (
            TargetClass(0, names[ordered[0].id], default_colour(0)),
            TargetClass(1, "annotated", default_colour(1)),
        )
        targets = {label.id: int(label.id != ordered[0].id) for label in ordered}
        return LabelMap(name, sources, classes, targets, ignore)
    targets = {label.id: place for place, label in enumerate(ordered)}
    chosen = {targets[label.id]: colour_of(label.colour) for label in ordered}
    colours = colours_of(chosen, {id_: colour for id_, colour in chosen.items() if colour})
    classes = tuple(
        TargetClass(
            targets[label.id],
            _class_name(names[label.id], label.id, targets[label.id]),
            colours[targets[label.id]],
        )
        for label in ordered
    )
    return LabelMap(name, sources, classes, targets, ignore)


def colour_of(colour: str | None) -> str | None:
    """Return a colour as label maps have it, `#rrggbb` in lower case; None for anything else."""
    return colour.lower() if colour and _COLOUR.fullmatch(colour) else None


def hexadecimal(red: int, green: int, blue: int) -> str:
    """Return a colour as `#rrggbb`."""
    return f"#{red:02x}{green:02x}{blue:02x}"


def channels_of(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour `#rrggbb`, 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _usable_names(labels: Sequence[Label]) -> dict[int, str]:
    """Return a name for each label that a label map takes and no other label has."""
    taken: set[str] = set()
    names: dict[int, str] = {}
    for label in labels:
        name = _printable(label.name)
        if not _is_name(name, label.id):
            name = f"label {name}" if name else f"label {label.id}"
        if name_key(name) in taken:
            name = f"{name} ({label.id})"
        while name_key(name) in taken:
            name += "'"
        taken.add(name_key(name))
        names[label.id] = name
    return names


def _class_name(name: str, label_id: int, class_id: int) -> str:
    """Return the name of a class; a number may only be the name of its own id."""
    return name if label_id == class_id or _is_name(name, class_id) else f"label {name}"


def _printable(name: str) -> str:
    visible = "".join(character if character.isprintable() else " " for character in name)
    return " ".join(visible.split())[:_MAX_NAME].strip()


def _is_name(name: str, own_id: int) -> bool:
    try:
        SourceLabel(own_id, name)
    except LabelMapError:
        return False
    return True
