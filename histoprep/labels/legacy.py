"""Label maps in the older public formats: tables of `name: number` under `class_to_int`.

    classes:                    features:
      class_to_int:               target__tfrec:
        Unknown: 0                  class_to_int:
        Carcinoma: 1                  Unknown: 0

Both are found in the data sets of the DiffInfinite lineage (`class_to_int.yml`,
`label_map_5.yml`); their readers use the number as the value in the masks and as the
class alike. The formats do not say which of the two a number is, so we decide thus:

1. A list of source labels that holds all the names gives the pixel values, and the
   numbers are classes, so that several names may share one. The list is `source_labels.yml`
   beside the file, else the one packed with histoprep. Of the packed list no more labels
   are taken than a file with distinct numbers names, and the two must then agree.
2. Without such a list, distinct numbers are pixel values and each label is its own class.
3. Without such a list, shared numbers are an error: the pixel values are unknown.

When both tables are there, `features` lists the labels and `classes` names the classes
they belong to; equal tables count as one. What else the file says under `features` or at
its top (there it is other tools' business) is not read. The order of the lines means nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from histoprep import rule_ids
from histoprep.errors import LabelMapError
from histoprep.labels.format import (
    MAX_GAP_ID,
    SOURCE_LIST,
    Draft,
    Node,
    name_key,
    packed_folder,
    perhaps,
    read_source_list,
)
from histoprep.labels.strict_yaml import Text, YamlTable, as_block, as_text, fault, whole_number

_CLASSES = ("classes", "class_to_int")
_FEATURES = ("features", "target__tfrec", "class_to_int")


@dataclass(frozen=True, slots=True)
class _Entry:
    name: Text
    number: int


def is_old(tree: Mapping[str, tuple[Text, Node]]) -> bool:
    """Return whether the top level of a file is one of the older formats."""
    return _find(tree, _CLASSES) is not None or "features" in tree


def read_old(tree: Mapping[str, tuple[Text, Node]], path: Path) -> Draft:
    """Return the draft of a file in an older format; raises LabelMapError when its meaning is not
    certain.
    """
    for key in ("sources", "map"):
        if key in tree:
            what = f"`{key}:` is of our format, class_to_int of an older one"
            raise fault(path, tree[key][0].line, what, hint="write the whole file in one of them")
    features, classes = _table(tree, _FEATURES, path), _table(tree, _CLASSES, path)
    draft = Draft(path, path.stem)
    labels = features or classes
    if not labels:
        raise fault(
            path,
            None,
            "no table class_to_int",
            expected=f"{': '.join(_FEATURES)}: or {': '.join(_CLASSES)}:",
        )
    _refuse_repeats(labels, draft)
    if features and classes and _plain(features) != _plain(classes):
        _name_classes(features, classes, draft)
    _place(labels, draft)
    return draft


def _find(tree: Mapping[str, tuple[Text, Node]], keys: tuple[str, ...]) -> Node | None:
    node: Node | None = tree[keys[0]][1] if keys[0] in tree else None
    for key in keys[1:]:
        if not isinstance(node, YamlTable):
            return None
        node = next((value for name, value in node.items if name.value == key), None)
    return node


def _table(
    tree: Mapping[str, tuple[Text, Node]], keys: tuple[str, ...], path: Path
) -> list[_Entry]:
    node = _find(tree, keys)
    if node is None:
        return []
    entries = []
    for key, value in as_block(node, path, "class_to_int").items:
        number = whole_number(
            as_text(value, path, "a number"),
            path,
            f"the number of {key.value[:60]!r}",
            upper=MAX_GAP_ID,
        )
        entries.append(_Entry(key, number))
    return entries


def _plain(entries: list[_Entry]) -> dict[str, int]:
    return {name_key(entry.name.value): entry.number for entry in entries}


def _refuse_repeats(entries: list[_Entry], draft: Draft) -> None:
    first: dict[str, int] = {}
    for entry in list(entries):
        line = first.setdefault(name_key(entry.name.value), entry.name.line)
        if line != entry.name.line:
            draft.add(
                rule_ids.MAP_COLLISION,
                f"{entry.name.value!r} is listed twice, in line {line} and line {entry.name.line}",
                entry.name.line,
            )
            entries.remove(entry)


def _name_classes(labels: list[_Entry], classes: list[_Entry], draft: Draft) -> None:
    """Take the names of the classes from the second table; raises LabelMapError when it cannot be
    one of classes.
    """
    numbers = {cls.number for cls in classes}
    strange = next((label for label in labels if label.number not in numbers), None)
    if strange or len({label.number for label in labels}) == len(labels):
        raise fault(
            draft.path,
            strange.name.line if strange else classes[0].name.line,
            "ambiguous: the tables under features and classes differ",
            seen=(
                f"{strange.name.value!r}: {strange.number} is no class"
                if strange
                else "other names for the same numbers"
            ),
            hint="keep one of the two tables, or write the map in our format",
        )
    for entry in classes:
        draft.declare("class", draft.classes, entry.number, entry.name, entry.name.line)


def _place(labels: list[_Entry], draft: Draft) -> None:
    """Fill sources, mapping and missing class names by the rules of the module."""
    distinct = len({label.number for label in labels}) == len(labels)
    listed, packed = _source_list(labels, distinct, draft.path)
    if listed is None and not distinct:
        raise _unknown_values(labels, draft.path)
    ids = {name_key(name): number for number, name in (listed or {}).items()}
    if listed is not None and packed and distinct:
        _agree(labels, ids, draft.path)
        listed = None
    if listed is not None:
        draft.sources = dict(listed)
    for entry in labels:
        own_id = entry.number if listed is None else ids[name_key(entry.name.value)]
        if listed is None:
            draft.declare("source label", draft.sources, own_id, entry.name, entry.name.line)
        draft.lines["source label", own_id] = entry.name.line
        draft.mapping[own_id] = entry.number
        # Several labels share a class that nobody named.
        draft.classes.setdefault(
            entry.number, entry.name.value if distinct else f"class {entry.number}"
        )
        draft.lines.setdefault(("class", entry.number), entry.name.line)


def _source_list(
    labels: list[_Entry], distinct: bool, path: Path
) -> tuple[dict[int, str] | None, bool]:
    """Return the list of source labels that the names are of, if any, and whether it is the packed
    one.
    """
    for place, packed in (
        (path.parent / SOURCE_LIST, False),
        (packed_folder() / SOURCE_LIST, True),
    ):
        if not place.is_file() or (packed and path.parent == place.parent):
            continue
        listed = _plain_list(place)
        known = {name_key(name) for name in listed.values()}
        foreign = [label for label in labels if name_key(label.name.value) not in known]
        if not foreign:
            return listed, packed
        if len(foreign) < len(labels) and not (packed and distinct):
            name = foreign[0].name
            hint = f"correct the name{perhaps(name.value, listed.values())}"
            raise fault(
                path,
                name.line,
                f"{name.value!r} is not among the source labels of {place}",
                hint=hint,
            )
    return None, False


def _plain_list(path: Path) -> dict[int, str]:
    """Return id and name of the labels in a source list; raises LabelMapError for one of ranges,
    lists, colours or a default, which the older formats do not know.
    """
    draft = read_source_list(path)
    several = next((label for label in draft.sources if not draft.is_single(label)), None)
    if several is not None or draft.colours_listed or draft.rest:
        raise fault(
            path,
            None,
            "the older formats of label maps take a list of single numbers alone",
            seen='"*"'
            if several is None and draft.rest
            else draft.shown(next(iter(draft.sources)) if several is None else several),
            hint="write the map in our format",
        )
    return draft.sources


def _agree(labels: list[_Entry], ids: Mapping[str, int], path: Path) -> None:
    for entry in labels:
        own_id = ids[name_key(entry.name.value)]
        if own_id != entry.number:
            raise fault(
                path,
                entry.name.line,
                f"ambiguous: the numbers may be pixel values or classes; {entry.name.value!r} has"
                f" another number in the packed {SOURCE_LIST}",
                seen=entry.number,
                expected=own_id,
                hint=f"put a {SOURCE_LIST} with the pixel values beside the file",
            )


def _unknown_values(labels: list[_Entry], path: Path) -> LabelMapError:
    uses = Counter(label.number for label in labels)
    twice = next(label for label in labels if uses[label.number] > 1)
    sharing = [label.name.value for label in labels if label.number == twice.number]
    return fault(
        path,
        twice.name.line,
        "ambiguous: several names share a number, so numbers are classes, and nothing says which"
        " pixel value each name has",
        seen=f"{', '.join(map(repr, sharing[:3]))}: {twice.number}",
        hint=f"put a {SOURCE_LIST} with the pixel values beside the file",
    )
