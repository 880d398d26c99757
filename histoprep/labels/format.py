"""What a label-map file says: its labels, classes and map, with everything that is wrong in it.

Our format is made to be read aloud. Three tables and a name:

    name: my_map                    # optional; by default the file name without its suffix
    sources:                        # what the masks hold: pixel value and label
      0: unknown
      1: dermis
      2: dermis, scar
    classes:                        # what they become: number, name and colour
      0: {name: Unknown, colour: "#999999"}
      1: {name: Tissue, colour: "#d55e00", min_radius_px: 1.5}
      2: Margin                     # a name alone gets a colour of ours
    map:                            # source label: class, each by name or by number
      unknown: Unknown
      dermis: Tissue
      2: 1

A source may also be a range, a list, a colour or everything else, and values may be ignored:

    sources:
      0: background
      1-400: nucleus                # every value from 1 to 400
      500, 502, 510-519: vessel     # a list: a blank after each comma, no brackets
      "*": other                    # every value that is not named; then none is unmapped
    ignore: [65535]                 # pixels without a class: values, ranges or colours

    sources:                        # masks whose labels are colours; in quotes
      "#000000": background
      "#ff0000, #ff8000": tumour

A colour is another way to write the id 0xrrggbb, and the sources of a map are all numbers or all
colours. In `map`, such a source is called by its name or as `sources` spells it. Ignored values
become 255 in new masks, so that no class can have that id.

A plain table from value to class is a map, too; labels and classes are then called by their
numbers:

    0: 0
    1-400: 1
    ignore: [255]

Plain digits always mean a number, anything else a name. Names are compared after Unicode
composition (NFC); upper and lower case differ. `sources` may name a file with such a table
(`sources: source_labels.yml`), looked for beside the map, then among the maps packed with
histoprep. A file with `sources` alone, single numbers, maps each label to itself. `min_radius_px`
is the radius a region of the class must exceed somewhere to count as core-present.

Older public formats are read in `legacy.py`.
"""

from __future__ import annotations

import difflib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from histoprep import rule_ids
from histoprep.labels.ignored import IGNORED_ID
from histoprep.labels.strict_yaml import (
    DECIMAL,
    Text,
    YamlList,
    YamlTable,
    as_block,
    as_text,
    as_texts,
    fault,
    map_name_fault,
    name_fault,
    read_block,
    reference,
    whole_number,
)
from histoprep.labels.values import (
    MAX_SOURCE_ID,
    REST,
    Ranges,
    complement,
    merged,
    read_values,
    spells_values,
    spelt,
)
from histoprep.rule_ids import RuleId

SOURCE_LIST = "source_labels.yml"
MAX_CLASS_ID = 255
MAX_GAP_ID = 65_535
IGNORE = "ignore"
MAX_SUGGESTIONS = 20
LISTS = frozenset([IGNORE])

_ENTRIES = ("name", "sources", "classes", "map", IGNORE)
_PLAIN_EXPECTED = (
    "a class number, such as 1; for names, write the tables `sources:`, `classes:` and `map:`"
)

Node = Text | YamlTable | YamlList


@dataclass(frozen=True, slots=True)
class MapProblem:
    """One thing that is wrong with a label map: HP503 to HP506, in words, and the line (from 1) if
    one is to blame.
    """

    rule: RuleId
    message: str
    line: int | None = None

    @property
    def code(self) -> str:
        """Return the rule's code."""
        return self.rule.code

    @property
    def forbids_use(self) -> bool:
        """Return whether a map with this problem cannot be used; gaps in the class ids do no
        harm.
        """
        return self.rule != rule_ids.MAP_GAP

    def __str__(self) -> str:
        """Return code, name and message, as errors show them."""
        return f"{self.rule}: {self.message}"


_IGNORED_LABEL = -1


class _Range(NamedTuple):
    """Values first to last of a source label (or `_IGNORED_LABEL`), and the line that lists them; 0
    for a line of another file.
    """

    first: int
    last: int
    label: int
    line: int


@dataclass
class Draft:
    """The content of a label-map file, sound or not: names by id, colours and radii where given,
    source id to class id.

    A source label that stands for several values has the smallest as its id, and all in `values`.
    `rest` is the name of all values that are not listed, `rest_id` the smallest of them, `ignore`
    the ignored ranges with their lines, `colours_listed` whether sources and ignored values are
    colours, None without any. `lines` says where a source label or class was declared, `blamed`
    holds source labels whose lack of a class is already among the problems.
    """

    path: Path
    name: str
    sources: dict[int, str] = field(default_factory=dict)
    classes: dict[int, str] = field(default_factory=dict)
    colours: dict[int, str] = field(default_factory=dict)
    radii: dict[int, float] = field(default_factory=dict)
    mapping: dict[int, int] = field(default_factory=dict)
    problems: list[MapProblem] = field(default_factory=list)
    lines: dict[tuple[str, int], int] = field(default_factory=dict)
    blamed: set[int] = field(default_factory=set)
    values: dict[int, Ranges] = field(default_factory=dict)
    rest: Text | None = None
    rest_id: int | None = None
    ignore: list[tuple[int, int, int]] = field(default_factory=list)
    colours_listed: bool | None = None

    @property
    def ignored(self) -> Ranges:
        """Return the values that have no class because the file says so."""
        return merged((first, last) for first, last, _ in self.ignore)

    def shown(self, label_id: int) -> str:
        """Return the values of a source label as the file spells them."""
        if label_id == self.rest_id:
            return f'"{REST}"'
        ranges = self.values.get(label_id, ((label_id, label_id),))
        return spelt(ranges, colours=bool(self.colours_listed))

    def is_single(self, label_id: int) -> bool:
        """Return whether a source label stands for one value alone."""
        return self.values.get(label_id, ((label_id, label_id),)) == ((label_id, label_id),)

    def declare_values(self, key: Text, name: Text) -> int | None:
        """Note a source label of one or more values and return its id; None for `*` and for what
        collides, which is an HP504.
        """
        what = "source label"
        if key.value == REST:
            self._declare_rest(key, name)
            return None
        ranges, coloured = read_values(key, self.path, f"the id of a {what}")
        self.note_kind(coloured, key)
        own_id = ranges[0][0]
        several = ranges != ((own_id, own_id),)
        if own_id in self.sources and (several or not self.is_single(own_id)):
            self._add_overlap(own_id, spelt(ranges, colours=coloured), own_id, key.line)
        elif self.declare(what, self.sources, own_id, name, key.line):
            self.values[own_id] = ranges
            return own_id
        return None

    def _declare_rest(self, key: Text, name: Text) -> None:
        if self.rest is not None:
            self.add(
                rule_ids.MAP_COLLISION,
                f'"{REST}" is listed twice, in line {self.rest.line} and line {key.line}',
                key.line,
            )
        else:
            self.rest = Text(name.value, key.line)

    def note_kind(self, coloured: bool, text: Text) -> None:
        """Note whether a value is a colour; raise LabelMapError when others were not, or were."""
        if self.colours_listed not in (None, coloured):
            raise fault(
                self.path,
                text.line,
                "colours and numbers are mixed",
                seen=f"{text.value[:60]!r} after {'numbers' if coloured else 'colours'}",
                expected="colours alone for colour-coded masks, numbers alone for others",
            )
        self.colours_listed = coloured

    def _add_overlap(self, first_id: int, other: str, value: int, line: int) -> None:
        first = self.lines.get(("source label", first_id))
        where = f" (line {first})" if first else ""
        shown = f"#{value:06x}" if self.colours_listed else str(value)
        self.add(
            rule_ids.MAP_COLLISION,
            f"source labels {self.shown(first_id)}{where} and {other} (line {line}) overlap: both"
            f" list {shown}",
            line,
        )

    def check_overlaps(self) -> None:
        """Add an HP504 for each two entries of sources and ignored values that overlap."""
        entries = sorted(self._ranges())
        for widest, entry in zip(
            itertools.accumulate(entries, lambda *pair: max(pair, key=lambda each: each.last)),
            entries[1:],
            strict=False,
        ):
            if entry.first <= widest.last and (entry.label, entry.line) != widest[2:]:
                self._add_shared(widest, entry)

    def resolve_rest(self) -> None:
        """Give `*` its values: all that neither sources nor ignored values list."""
        if self.rest is None:
            return
        values = complement((entry.first, entry.last) for entry in self._ranges())
        if not values:
            raise fault(
                self.path,
                self.rest.line or None,
                f'"{REST}" stands for no value: every value is listed already',
            )
        self.rest_id = values[0][0]
        self.declare("source label", self.sources, self.rest_id, self.rest, self.rest.line)
        self.values[self.rest_id] = values

    def _ranges(self) -> Iterator[_Range]:
        for label_id in self.sources:
            line = self.lines.get(("source label", label_id), 0)
            for first, last in self.values.get(label_id, ((label_id, label_id),)):
                yield _Range(first, last, label_id, line)
        for first, last, line in self.ignore:
            yield _Range(first, last, _IGNORED_LABEL, line)

    def _add_shared(self, *entries: _Range) -> None:
        former, latter = sorted(entries, key=lambda entry: entry.line)
        value = max(former.first, latter.first)
        if _IGNORED_LABEL not in (former.label, latter.label):
            self._add_overlap(former.label, self.shown(latter.label), value, latter.line)
            return
        shown = f"#{value:06x}" if self.colours_listed else str(value)
        if former.label == latter.label:
            what = f"the value {shown} is ignored twice, in line {former.line} and line"
            self.add(rule_ids.MAP_COLLISION, f"{what} {latter.line}", latter.line)
            return
        ignored, label = sorted(entries, key=lambda entry: entry.label)
        where = f" (line {label.line})" if label.line else ""
        self.add(
            rule_ids.MAP_COLLISION,
            f"the value {shown} is ignored (line {ignored.line}) and of source label"
            f" {self.shown(label.label)}{where}",
            latter.line,
        )

    def add(self, rule: RuleId, message: str, line: int | None) -> None:
        """Record a problem."""
        self.problems.append(MapProblem(rule, message, line or None))

    def nearest(self, wanted: int | str, names: Mapping[int, str]) -> str:
        """Return a suggestion for a name that is none of `names`; empty for ids, and once there are
        many problems.
        """
        # Comparing each of thousands of wrong names with each right one would take hours.
        return (
            perhaps(wanted, names.values())
            if isinstance(wanted, str) and len(self.problems) < MAX_SUGGESTIONS
            else ""
        )

    def declare(self, what: str, into: dict[int, str], own_id: int, name: Text, line: int) -> bool:
        """Note an id and its name in `into` and return whether the id is new; a second use of id or
        name is an HP504.

        Raises LabelMapError for a name that cannot be one.
        """
        reason = name_fault(name.value, own_id)
        if reason:
            raise fault(
                self.path,
                name.line,
                f"unusable name of {what} {own_id}: {reason}",
                seen=repr(name.value[:60]),
            )
        if own_id in into:
            first = self.lines[what, own_id]
            self.add(
                rule_ids.MAP_COLLISION,
                f"{what} {own_id} is listed twice, as {into[own_id]!r} (line {first}) and"
                f" {name.value!r} (line {line})",
                line,
            )
            return False
        self.lines[what, own_id] = line
        into[own_id] = name.value
        return True

    def check(self) -> Draft:
        """Add what concerns the whole (names used twice, HP503, HP505, HP506), order by line and
        return self.
        """
        self.check_names("source label", self.sources)
        if self.classes != self.sources:
            self.check_names("class", self.classes)
        for label_id, name in self.sources.items():
            if label_id not in self.mapping and label_id not in self.blamed:
                self.add(
                    rule_ids.MAP_NOT_TOTAL,
                    f"source label {self.shown(label_id)} ({name}) has no class",
                    self.lines.get(("source label", label_id)),
                )
        for class_id, name in self.classes.items():
            if class_id > MAX_CLASS_ID:
                self.add(
                    rule_ids.MAP_OVERFLOW,
                    f"class {class_id} ({name}) does not fit 8-bit masks: at most {MAX_CLASS_ID}",
                    self.lines.get(("class", class_id)),
                )
            elif class_id == IGNORED_ID and self.ignore:
                self.add(
                    rule_ids.MAP_COLLISION,
                    f"class {class_id} ({name}) has the number of ignored pixels in new masks: give"
                    f" it another, or leave out `{IGNORE}:` (line {self.ignore[0][2]})",
                    self.lines.get(("class", class_id)),
                )
        missing = gaps_in(self.classes)
        if missing:
            shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            self.add(
                rule_ids.MAP_GAP,
                f"class ids are not 0 to {len(self.classes) - 1}: {shown} missing",
                None,
            )
        self.problems.sort(key=lambda problem: (problem.line is None, problem.line or 0))
        return self

    def check_names(self, what: str, names: Mapping[int, str]) -> None:
        """Add an HP504 for every name that a second id has."""
        first: dict[str, int] = {}
        for number, name in names.items():
            other = first.setdefault(name_key(name), number)
            if other != number:
                self.add(
                    rule_ids.MAP_COLLISION,
                    f"{what} {other} and {what} {number} have the same name, {name!r}",
                    self.lines.get((what, number)),
                )


def read_ours(tree: Mapping[str, tuple[Text, Node]], path: Path) -> Draft:
    """Return the draft of a file in our format; raises LabelMapError for another structure."""
    if _is_plain_table(tree):
        return _read_plain_table(tree, path)
    refuse_unknown((key for key, _ in tree.values()), _ENTRIES, path)
    if "sources" not in tree:
        raise fault(
            path,
            None,
            "the file declares no source labels",
            expected="a table `sources:` of pixel value and label",
        )
    draft = Draft(path, _map_name(tree, path))
    _read_sources(tree["sources"][1], draft)
    _read_ignored(tree, draft)
    draft.check_overlaps()
    draft.resolve_rest()
    if "classes" not in tree and "map" not in tree:
        return _map_to_themselves(draft)
    for name in ("classes", "map"):
        if name not in tree:
            raise fault(
                path,
                None,
                f"the table `{name}:` is missing",
                expected="sources, classes and map; or sources alone",
            )
    _read_classes(as_block(tree["classes"][1], path, "classes"), draft)
    _read_mapping(as_block(tree["map"][1], path, "map"), draft)
    return draft


def _map_to_themselves(draft: Draft) -> Draft:
    several = next((label for label in draft.sources if not draft.is_single(label)), None)
    if several is not None or draft.colours_listed:
        label_id = several if several is not None else next(iter(draft.sources))
        raise fault(
            draft.path,
            draft.lines.get(("source label", label_id)),
            f"source label {draft.shown(label_id)} needs a class: only single numbers stay what"
            " they are",
            expected="sources, classes and map",
        )
    draft.classes = dict(draft.sources)
    draft.mapping = {source: source for source in draft.sources}
    return draft


def _is_plain_table(tree: Mapping[str, tuple[Text, Node]]) -> bool:
    """Return whether the file is a table from values to classes, without sections."""
    keys = [key for key in tree if key not in ("name", IGNORE)]
    return any(
        key == REST or DECIMAL.fullmatch(key) or spells_values(key) for key in keys
    ) and not any(key in _ENTRIES for key in keys)


def _read_plain_table(tree: Mapping[str, tuple[Text, Node]], path: Path) -> Draft:
    """Return the draft of a table `value: class`, in which labels and classes have no names."""
    draft = Draft(path, _map_name(tree, path))
    _read_ignored(tree, draft)
    rest_target: int | None = None
    for key, node in (entry for name, entry in tree.items() if name not in ("name", IGNORE)):
        value = as_text(node, path, "a class")
        target = whole_number(value, path, "the class of a value", expected=_PLAIN_EXPECTED)
        named = Text("other values" if key.value == REST else f"label {key.value}", key.line)
        label_id = draft.declare_values(key, named)
        if label_id is not None:
            draft.mapping[label_id] = target
        elif key.value == REST:
            rest_target = target
        if target not in draft.classes:
            draft.declare(
                "class", draft.classes, target, Text(f"class {target}", key.line), key.line
            )
    draft.check_overlaps()
    draft.resolve_rest()
    if draft.rest_id is not None and rest_target is not None:
        draft.mapping[draft.rest_id] = rest_target
    return draft


def _read_ignored(tree: Mapping[str, tuple[Text, Node]], draft: Draft) -> None:
    if IGNORE not in tree:
        return
    key, node = tree[IGNORE]
    texts = as_texts(node, draft.path, IGNORE)
    if not texts or not any(text.value for text in texts):
        raise fault(draft.path, key.line, f"`{IGNORE}:` is empty", expected=f"{IGNORE}: [255]")
    for text in texts:
        if text.value == REST:
            raise fault(
                draft.path,
                text.line,
                f'"{REST}" cannot be ignored: a typing error would hide labels',
                expected=f"{IGNORE}: [255], with values, ranges or colours",
            )
        ranges, coloured = read_values(text, draft.path, "an ignored value")
        draft.note_kind(coloured, text)
        draft.ignore += [(first, last, text.line) for first, last in ranges]


def read_source_list(path: Path) -> Draft:
    """Return a draft with the labels in the `sources` table of a file; raises LabelMapError."""
    tree = top_level(read_block(path, LISTS), path)
    if "sources" not in tree:
        raise fault(
            path,
            None,
            "not a list of source labels",
            expected="a table `sources:` of pixel value and label",
        )
    draft = Draft(path, path.stem)
    _declare_sources(as_block(tree["sources"][1], path, "sources"), draft)
    draft.check_overlaps()
    draft.check_names("source label", draft.sources)
    for problem in draft.problems:
        raise fault(path, problem.line, str(problem), hint="keep one of the two")
    return draft


def top_level(tree: YamlTable, path: Path) -> dict[str, tuple[Text, Node]]:
    """Return the entries of a table by key; raises LabelMapError when a key occurs twice."""
    entries: dict[str, tuple[Text, Node]] = {}
    for key, value in tree.items:
        if key.value in entries:
            raise fault(
                path,
                key.line,
                f"{key.value!r} occurs twice",
                seen=f"lines {entries[key.value][0].line} and {key.line}",
                hint="keep one",
            )
        entries[key.value] = (key, value)
    return entries


def refuse_unknown(keys: Iterable[Text], allowed: tuple[str, ...], path: Path) -> None:
    """Raise LabelMapError for a key that is not allowed."""
    for key in keys:
        if key.value not in allowed:
            raise fault(
                path,
                key.line,
                f"unknown entry {key.value[:60]!r}{perhaps(key.value, allowed)}",
                expected=", ".join(allowed),
            )


def perhaps(name: str, known: Iterable[str]) -> str:
    """Return `; perhaps you meant 'X'` for the known name nearest to `name`, or nothing when none
    is near.
    """
    names = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(name[:200].casefold(), names, n=1)
    return f"; perhaps you meant {names[near[0]]!r}" if near else ""


def name_key(name: str) -> str:
    """Return the form in which names are compared."""
    return unicodedata.normalize("NFC", name)


def gaps_in(ids: Iterable[int]) -> tuple[int, ...]:
    """Return the numbers from 0 to the largest of `ids` (65,535 at most) that are not among
    them.
    """
    present = set(ids)
    largest = min(max(present, default=-1), MAX_GAP_ID)
    return tuple(number for number in range(largest + 1) if number not in present)


def packed_folder() -> Path:
    """Return the folder of the maps that come with histoprep: inside the package, or beside it in
    the repository.
    """
    inside = Path(__file__).parents[1] / "label_maps"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "label_maps"


def _map_name(tree: Mapping[str, tuple[Text, Node]], path: Path) -> str:
    if "name" not in tree:
        return path.stem
    text = as_text(tree["name"][1], path, "the name")
    reason = map_name_fault(text.value)
    if reason:
        raise fault(
            path, text.line, f"unusable name of a label map: {reason}", seen=repr(text.value[:60])
        )
    return text.value


def _read_sources(node: Node, draft: Draft) -> None:
    if not isinstance(node, Text):
        _declare_sources(as_block(node, draft.path, "sources"), draft)
        return
    if not re.fullmatch(r"[^/\\\0]+\.ya?ml", node.value):
        expected = "a table, or the name of a file beside this one, such as source_labels.yml"
        raise fault(
            draft.path,
            node.line,
            "sources cannot be read",
            seen=repr(node.value[:60]),
            expected=expected,
        )
    places = [draft.path.parent / node.value, packed_folder() / node.value]
    listed = next((path for path in places if path.is_file()), None)
    if listed is None:
        looked = " and ".join(str(path.parent) for path in places)
        what = f"the list of source labels {node.value} is not there"
        raise fault(
            draft.path, node.line, what, seen=f"looked in {looked}", hint="put it beside the map"
        )
    other = read_source_list(listed)
    draft.sources, draft.values = other.sources, other.values
    draft.colours_listed = other.colours_listed
    # Lines of the other file would be taken for lines of this one.
    draft.rest = Text(other.rest.value, 0) if other.rest else None


def _declare_sources(block: YamlTable, draft: Draft) -> None:
    for key, value in block.items:
        name = as_text(value, draft.path, "the name of a source label")
        draft.declare_values(key, name)


def _read_classes(block: YamlTable, draft: Draft) -> None:
    for key, value in block.items:
        class_id = whole_number(key, draft.path, "the id of a class")
        if isinstance(value, Text):
            draft.declare("class", draft.classes, class_id, value, key.line)
            continue
        entry = top_level(as_block(value, draft.path, f"class {class_id}"), draft.path)
        refuse_unknown(
            (inner for inner, _ in entry.values()),
            ("name", "colour", "color", "min_radius_px"),
            draft.path,
        )
        if "name" not in entry:
            raise fault(
                draft.path,
                key.line,
                f"class {class_id} has no name",
                expected=f'{class_id}: {{name: Tissue, colour: "#d55e00"}}',
            )
        texts = {
            inner: as_text(node, draft.path, f"the {inner} of a class")
            for inner, (_, node) in entry.items()
        }
        if draft.declare("class", draft.classes, class_id, texts.pop("name"), key.line):
            _read_details(texts, class_id, draft)


def _read_details(texts: Mapping[str, Text], class_id: int, draft: Draft) -> None:
    for inner, text in texts.items():
        if inner == "min_radius_px":
            if not re.fullmatch(r"(0|[1-9][0-9]?)(\.[0-9]+)?", text.value):
                what = f"unusable min_radius_px of class {class_id}"
                raise fault(
                    draft.path,
                    text.line,
                    what,
                    seen=repr(text.value[:60]),
                    expected="pixels below 100, such as 1.5",
                )
            draft.radii[class_id] = float(text.value)
        elif re.fullmatch(r"#?[0-9a-fA-F]{6}", text.value):
            draft.colours[class_id] = "#" + text.value.removeprefix("#").lower()
        else:
            hint = None if text.value else "put the colour in quotes: a bare # begins a comment"
            raise fault(
                draft.path,
                text.line,
                f"unusable colour of class {class_id}",
                seen=repr(text.value[:60]),
                expected='"#rrggbb"',
                hint=hint,
            )


def _read_mapping(block: YamlTable, draft: Draft) -> None:
    # Of two ids with one name, which is a problem already, the first is meant.
    sources = {name_key(name): label_id for label_id, name in reversed(draft.sources.items())}
    classes = {name_key(name): class_id for class_id, name in reversed(draft.classes.items())}
    first: dict[int, int] = {}
    for key, value in block.items:
        wanted, source_id = _source_of(key, sources, draft)
        target = reference(as_text(value, draft.path, "a class"), draft.path, "a class")
        class_id = target if isinstance(target, int) else classes.get(name_key(target))
        if source_id is None:
            draft.add(
                rule_ids.MAP_NOT_TOTAL,
                f"the map lists {wanted!r}, which is no source label{_nearest(wanted, draft)}",
                key.line,
            )
        elif source_id in first:
            name = draft.sources[source_id]
            draft.add(
                rule_ids.MAP_COLLISION,
                f"source label {draft.shown(source_id)} ({name}) is mapped twice, in line"
                f" {first[source_id]} and line {key.line}",
                key.line,
            )
        else:
            first[source_id] = key.line
            if class_id is None or class_id not in draft.classes:
                draft.blamed.add(source_id)
                draft.add(
                    rule_ids.MAP_NOT_TOTAL,
                    f"source label {wanted!r} goes to {target!r}, which is no"
                    f" class{draft.nearest(target, draft.classes)}",
                    key.line,
                )
            else:
                draft.mapping[source_id] = class_id


def _source_of(key: Text, by_name: Mapping[str, int], draft: Draft) -> tuple[int | str, int | None]:
    """Return what a key of `map` says, and the id of the source label it means, if there is one."""
    if DECIMAL.fullmatch(key.value):
        number = whole_number(key, draft.path, "a source label", MAX_SOURCE_ID)
        return number, number if number in draft.sources and draft.is_single(number) else None
    named = by_name.get(name_key(key.value))
    by_values = draft.rest_id if key.value == REST else None
    if spells_values(key.value):
        ranges, _ = read_values(key, draft.path, "a source label")
        by_values = ranges[0][0] if draft.values.get(ranges[0][0]) == ranges else None
    if named is not None and by_values not in (None, named):
        raise fault(
            draft.path,
            key.line,
            "ambiguous: this is the name of a source label and the values of another",
            seen=f"{draft.shown(named)}: {key.value[:60]}",
            hint="give that label another name",
        )
    if named is not None or by_values is not None:
        return key.value, named if named is not None else by_values
    if key.value == REST or spells_values(key.value):
        return key.value, None
    return reference(key, draft.path, "a source label"), None


def _nearest(wanted: int | str, draft: Draft) -> str:
    if not isinstance(wanted, int):
        return draft.nearest(wanted, draft.sources)
    for label_id, ranges in draft.values.items():
        if any(first <= wanted <= last for first, last in ranges):
            return f" of its own; it belongs to {draft.shown(label_id)} ({draft.sources[label_id]})"
    return ""
