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

Plain digits always mean a number, anything else a name. Names are compared after Unicode
composition (NFC); upper and lower case differ. `sources` may name a file with such a table
(`sources: source_labels.yml`), looked for beside the map, then among the maps packed with
histoprep. A file with `sources` alone maps each label to itself. `min_radius_px` is the
radius a region of the class must exceed somewhere to count as core-present.

Older public formats are read in `legacy.py`.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from histoprep import rule_ids
from histoprep.labels.strict_yaml import (
    Block,
    Text,
    as_block,
    as_text,
    fault,
    map_name_fault,
    name_fault,
    read_block,
    reference,
    whole_number,
)
from histoprep.rule_ids import RuleId

SOURCE_LIST = "source_labels.yml"
MAX_SOURCE_ID = 65_535
MAX_CLASS_ID = 255
MAX_SUGGESTIONS = 20

Node = Text | Block


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


@dataclass
class Draft:
    """The content of a label-map file, sound or not: names by id, colours and radii where given,
    source id to class id.

    `lines` says where a source label or class was declared, `blamed` holds source labels
    whose lack of a class is already among the problems.
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

    def add(self, rule: RuleId, message: str, line: int | None) -> None:
        """Record a problem."""
        self.problems.append(MapProblem(rule, message, line))

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
                    f"source label {label_id} ({name}) has no class",
                    self.lines.get(("source label", label_id)),
                )
        for class_id, name in self.classes.items():
            if class_id > MAX_CLASS_ID:
                self.add(
                    rule_ids.MAP_OVERFLOW,
                    f"class {class_id} ({name}) does not fit 8-bit masks: at most {MAX_CLASS_ID}",
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
    refuse_unknown((key for key, _ in tree.values()), ("name", "sources", "classes", "map"), path)
    if "sources" not in tree:
        raise fault(
            path,
            None,
            "the file declares no source labels",
            expected="a table `sources:` of pixel value and label",
        )
    draft = Draft(path, _map_name(tree, path))
    _read_sources(tree["sources"][1], draft)
    if "classes" not in tree and "map" not in tree:
        draft.classes = dict(draft.sources)
        draft.mapping = {source: source for source in draft.sources}
        return draft
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


def read_source_list(path: Path) -> dict[int, str]:
    """Return id and name of the labels in the `sources` table of a file; raises LabelMapError."""
    tree = top_level(read_block(path), path)
    if "sources" not in tree:
        raise fault(
            path,
            None,
            "not a list of source labels",
            expected="a table `sources:` of pixel value and label",
        )
    draft = Draft(path, path.stem)
    _declare_sources(as_block(tree["sources"][1], path, "sources"), draft)
    draft.check_names("source label", draft.sources)
    for problem in draft.problems:
        raise fault(path, problem.line, str(problem), hint="keep one of the two")
    return draft.sources


def top_level(tree: Block, path: Path) -> dict[str, tuple[Text, Node]]:
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
    largest = min(max(present, default=-1), MAX_SOURCE_ID)
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
    if isinstance(node, Block):
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
    draft.sources = read_source_list(listed)


def _declare_sources(block: Block, draft: Draft) -> None:
    for key, value in block.items:
        label_id = whole_number(key, draft.path, "the id of a source label", upper=MAX_SOURCE_ID)
        draft.declare(
            "source label",
            draft.sources,
            label_id,
            as_text(value, draft.path, "the name of a source label"),
            key.line,
        )


def _read_classes(block: Block, draft: Draft) -> None:
    for key, value in block.items:
        class_id = whole_number(key, draft.path, "the id of a class")
        if isinstance(value, Text):
            draft.declare("class", draft.classes, class_id, value, key.line)
            continue
        entry = top_level(value, draft.path)
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


def _read_mapping(block: Block, draft: Draft) -> None:
    # Of two ids with one name, which is a problem already, the first is meant.
    sources = {name_key(name): label_id for label_id, name in reversed(draft.sources.items())}
    classes = {name_key(name): class_id for class_id, name in reversed(draft.classes.items())}
    first: dict[int, int] = {}
    for key, value in block.items:
        wanted = reference(key, draft.path, "a source label")
        target = reference(as_text(value, draft.path, "a class"), draft.path, "a class")
        source_id = wanted if isinstance(wanted, int) else sources.get(name_key(wanted))
        class_id = target if isinstance(target, int) else classes.get(name_key(target))
        if source_id is None or source_id not in draft.sources:
            draft.add(
                rule_ids.MAP_NOT_TOTAL,
                f"the map lists {wanted!r}, which is no source"
                f" label{draft.nearest(wanted, draft.sources)}",
                key.line,
            )
        elif source_id in first:
            name = draft.sources[source_id]
            draft.add(
                rule_ids.MAP_COLLISION,
                f"source label {source_id} ({name}) is mapped twice, in line {first[source_id]} and"
                f" line {key.line}",
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
