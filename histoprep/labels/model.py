"""The label map itself: source labels, classes and the class of each source label.

A `LabelMap` is total (every source label has a class) and unambiguous (no id and no name
occurs twice) by construction.
"""

from __future__ import annotations

import colorsys
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import index

import numpy as np

from histoprep import rule_ids
from histoprep.errors import LabelMapError
from histoprep.labels.format import gaps_in, name_key
from histoprep.labels.ignored import IGNORED_ID
from histoprep.labels.strict_yaml import map_name_fault, name_fault
from histoprep.labels.values import MAX_SOURCE_ID, Ranges, complement, first_overlap, merged, spelt

TABLE_SIZE = 1 << 16
UNMAPPED = -1
IGNORED = -2
DEFAULT_MIN_RADIUS_PX = 2.0

# At least 24 apart in CIELAB for normal sight and full protanopia, deuteranopia and tritanopia
# (simulated after Machado, Oliveira and Fernandes 2009, doi 10.1109/TVCG.2009.113); 0 is a grey.
PALETTE = (
    "#999999",
    "#7fffd4",
    "#000000",
    "#d55e00",
    "#ddcc77",
    "#aa4499",
    "#648fff",
    "#ffb000",
    "#332288",
    "#661100",
)


@dataclass(frozen=True, slots=True)
class SourceLabel:
    """Values found in masks and what they stand for: one, or all of some ranges.

    `id` is the value, 0 to 4,294,967,295, or the smallest of several; `ranges` are all of them,
    closed and in order: `((id, id),)` by default.
    """

    id: int
    name: str
    ranges: Ranges = ()

    def __post_init__(self) -> None:
        """Raise LabelMapError for an id, name or range that cannot be."""
        _check_entry("source label", self.id, self.name)
        ranges = _checked_ranges(self.ranges or ((self.id, self.id),), f"source label {self.id}")
        if ranges[0][0] != self.id:
            raise LabelMapError(
                f"unusable id of a source label: it is not the smallest value of {self.name}",
                seen=self.id,
                expected=ranges[0][0],
            )
        object.__setattr__(self, "ranges", ranges)

    @property
    def is_single(self) -> bool:
        """Return whether this is one value."""
        return self.ranges == ((self.id, self.id),)


@dataclass(frozen=True, slots=True)
class TargetClass:
    """A value in remapped masks, its name and its colour `#rrggbb`.

    A region is core-present when its largest inscribed radius exceeds `min_radius_px`.
    """

    id: int
    name: str
    colour: str
    min_radius_px: float = DEFAULT_MIN_RADIUS_PX

    def __post_init__(self) -> None:
        """Raise LabelMapError for a value that cannot be."""
        _check_entry("class", self.id, self.name)
        if not re.fullmatch(r"#[0-9a-f]{6}", self.colour):
            raise LabelMapError(
                f"unusable colour of class {self.id}",
                seen=repr(self.colour),
                expected="#rrggbb in lower case",
            )
        if not 0 <= self.min_radius_px < 100:
            raise LabelMapError(
                f"unusable min_radius_px of class {self.id}",
                seen=self.min_radius_px,
                expected="0 <= pixels < 100",
            )


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Source labels, classes, and the class of each source label; all in order of id.

    `mapping` is from the `id` of a source label to its class: ask `class_of` for other values.
    `ignore` are closed ranges of values that have no class and count nowhere; they become
    `IGNORED_ID` in new masks. With `colour_sources`, ids are the colours 0xRRGGBB of masks.

    Raises LabelMapError unless `mapping` gives every source id, and nothing else, a declared class,
    and ids, values and names (compared after NFC) are unique.
    """

    name: str
    sources: tuple[SourceLabel, ...]
    classes: tuple[TargetClass, ...]
    mapping: Mapping[int, int]
    ignore: Ranges = ()
    colour_sources: bool = False

    def __post_init__(self) -> None:
        """Put everything in order of id and check it."""
        reason = map_name_fault(self.name)
        if reason:
            raise LabelMapError(
                f"unusable name of a label map: {reason}",
                seen=repr(self.name),
                hint="give the file a line `name: my_map`",
            )
        object.__setattr__(
            self, "sources", tuple(sorted(self.sources, key=lambda source: source.id))
        )
        object.__setattr__(self, "classes", tuple(sorted(self.classes, key=lambda cls: cls.id)))
        object.__setattr__(
            self,
            "mapping",
            {index(source): index(self.mapping[source]) for source in sorted(self.mapping)},
        )
        _check_unique("source label", self.sources)
        _check_unique("class", self.classes)
        missing = sorted({source.id for source in self.sources} ^ set(self.mapping))
        if missing:
            raise LabelMapError(
                f"{rule_ids.MAP_NOT_TOTAL}: source labels and map differ in {missing[0]}",
                seen=missing[:10],
            )
        lost = sorted(set(self.mapping.values()) - {cls.id for cls in self.classes})
        if lost:
            raise LabelMapError(
                f"{rule_ids.MAP_NOT_TOTAL}: class {lost[0]} is a target but not declared",
                seen=lost[:10],
            )
        object.__setattr__(self, "ignore", _checked_ranges(self.ignore, "the ignored values"))
        self._check_values()

    def _check_values(self) -> None:
        ranges = [values for source in self.sources for values in source.ranges]
        shared = first_overlap([*ranges, *self.ignore])
        if shared is not None:
            raise LabelMapError(
                f"{rule_ids.MAP_COLLISION}: the value {shared} is listed twice",
                seen=spelt(merged(ranges))[:60],
            )

    def __hash__(self) -> int:
        """Return a hash of the content; equal maps have equal ones."""
        return hash(self.digest)

    @property
    def num_classes(self) -> int:
        """Return how many classes are declared."""
        return len(self.classes)

    @property
    def is_identity(self) -> bool:
        """Return whether every label stays what it is, so that mapping twice does no harm."""
        return (
            all(source == target for source, target in self.mapping.items())
            and all(source.is_single for source in self.sources)
            and self.ignore in ((), ((IGNORED_ID, IGNORED_ID),))
        )

    @property
    def is_unnamed(self) -> bool:
        """Return whether this is what `identity_map` gives: nobody named its classes."""
        plain = identity_map(cls.id for cls in self.classes)
        return self.is_identity and self.classes == plain.classes

    @property
    def rest(self) -> SourceLabel | None:
        """Return the source label of all values that the map would not list otherwise, if any."""
        last = next((each for each in self.sources if each.ranges[-1][1] == MAX_SOURCE_ID), None)
        if last is None or last.is_single:
            return None
        others = [values for each in self.sources if each is not last for values in each.ranges]
        return last if last.ranges == complement([*others, *self.ignore]) else None

    @property
    def gaps(self) -> tuple[int, ...]:
        """Return the ids between 0 and the largest class id that no class has (HP506)."""
        return gaps_in(cls.id for cls in self.classes)

    @property
    def digest(self) -> str:
        """Return the XXH3-128, in hex, of labels, classes and mapping; name, spelling and order of
        a file do not matter.
        """
        import xxhash

        content = self._content()
        del content["name"]
        content.pop("colour_sources", None)
        return xxhash.xxh3_128_hexdigest(
            json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        )

    def lookup_table(self) -> np.ndarray:
        """Return the class id of every 16-bit value: int32 [65536], `UNMAPPED` (-1) where there is
        none, `IGNORED` (-2) for ignored values.
        """
        table = np.full(TABLE_SIZE, UNMAPPED, np.int32)
        for first, last, class_id in self.intervals():
            if first < TABLE_SIZE:
                table[first : last + 1] = class_id
        return table

    def intervals(self) -> list[tuple[int, int, int]]:
        """Return the closed ranges of values that the map lists, in order, each with its class id
        or `IGNORED`.
        """
        classed = (
            (first, last, self.mapping[source.id])
            for source in self.sources
            for first, last in source.ranges
        )
        return sorted([*classed, *((first, last, IGNORED) for first, last in self.ignore)])

    def apply_to_ids(self, ids: np.ndarray) -> np.ndarray:
        """Return the class ids of an integer array: signed integers that hold them all (each label
        may be a class of its own), same shape, `UNMAPPED` (-1) where there is none, `IGNORED` (-2)
        for ignored values.
        """
        values = np.asarray(ids)
        # A table is ten times as fast as a search, once there are more pixels than entries.
        if values.dtype in (np.uint8, np.uint16) and values.size >= TABLE_SIZE:
            narrow: np.ndarray = self.lookup_table()[values]
            return narrow
        inside = (values >= 0) & (values <= MAX_SOURCE_ID)
        known = class_ids_in(np.where(inside, values, 0), self.intervals())
        return np.where(inside, known, UNMAPPED)

    def class_of(self, label_id: int) -> int:
        """Return the class of a value, `UNMAPPED` (-1) or `IGNORED` (-2)."""
        source = self.source_of(label_id)
        if source is not None:
            return self.mapping[source.id]
        return IGNORED if _within(label_id, self.ignore) else UNMAPPED

    def unlisted(self, label_ids: Iterable[int]) -> list[int]:
        """Return those values that have no class and are not ignored, in order."""
        ids = np.array(sorted({int(label_id) for label_id in label_ids}), np.int64)
        result: list[int] = ids[self.apply_to_ids(ids) == UNMAPPED].tolist()
        return result

    def source_of(self, label_id: int) -> SourceLabel | None:
        """Return the source label that stands for a value, or None."""
        return next((source for source in self.sources if _within(label_id, source.ranges)), None)

    def source_name(self, label_id: int) -> str:
        """Return the name of a value's source label, followed by the value where it stands for
        several; `label N` for a value that is not listed.
        """
        source = self.source_of(label_id)
        if source is None:
            return f"label {label_id}"
        return source.name if source.is_single else f"{source.name} {label_id}"

    def values_of(self, source: SourceLabel) -> str:
        """Return the values of a source label as a file spells them: `7`, `1-400`, `#ff0000`, or
        `*` for the rest.
        """
        is_last = source.ranges[-1][1] == MAX_SOURCE_ID
        return (
            "*"
            if is_last and source == self.rest
            else spelt(source.ranges, colours=self.colour_sources)
        )

    def class_name(self, class_id: int) -> str:
        """Return the name of a class, or `class N` for one that is not declared."""
        return next((cls.name for cls in self.classes if cls.id == class_id), f"class {class_id}")

    def to_json(self) -> str:
        """Return the map as one line of JSON; `from_json` reads it back."""
        return json.dumps(self._content(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> LabelMap:
        """Return the map that `to_json` wrote; raises LabelMapError for anything else."""
        try:
            content = json.loads(text)
            sources = tuple(SourceLabel(**source) for source in content["sources"])
            classes = tuple(TargetClass(**cls) for cls in content["classes"])
            mapping = {int(label_id): target for label_id, target in content["mapping"].items()}
            # Maps of before have neither.
            ignore, colours = content.get("ignore", ()), content.get("colour_sources", False)
            return cls(content["name"], sources, classes, mapping, ignore, colours)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LabelMapError(f"not a label map in JSON: {error}", seen=str(text)[:60]) from error

    def _content(self) -> dict[str, object]:
        return {
            "name": self.name,
            "sources": [_source_content(source) for source in self.sources],
            "classes": [
                {**asdict(cls), "min_radius_px": float(cls.min_radius_px)} for cls in self.classes
            ],
            "mapping": {str(label_id): target for label_id, target in self.mapping.items()},
            **({"ignore": self.ignore} if self.ignore else {}),
            **({"colour_sources": True} if self.colour_sources else {}),
        }


def class_ids_in(values: np.ndarray, intervals: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Return the class of each value, int64, same shape, by the closed range it is in, or
    `UNMAPPED`.

    Args:
        values: Integers of any shape, 0 to 4,294,967,295.
        intervals: First value, last value and class, in order and disjoint.
    """
    if not intervals:
        return np.full(values.shape, UNMAPPED, np.int64)
    firsts, lasts, classes = (np.array(column, np.int64) for column in zip(*intervals, strict=True))
    wide = values.astype(np.int64)
    place = np.searchsorted(firsts, wide, side="right") - 1
    inside = (place >= 0) & (wide <= lasts[place])
    return np.where(inside, classes[place], UNMAPPED)


def _source_content(source: SourceLabel) -> dict[str, object]:
    content: dict[str, object] = {"id": source.id, "name": source.name}
    return content if source.is_single else {**content, "ranges": source.ranges}


def _within(value: int, ranges: Ranges) -> bool:
    return any(first <= value <= last for first, last in ranges)


def _checked_ranges(ranges: object, what: str) -> Ranges:
    """Return closed ranges in order, neighbours joined; raises LabelMapError for what is none."""
    try:
        pairs = [(index(first), index(last)) for first, last in ranges]  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise LabelMapError(f"unusable ranges of {what}", seen=repr(ranges)[:60]) from error
    wrong = any(not 0 <= first <= last <= MAX_SOURCE_ID for first, last in pairs)
    if wrong or first_overlap(pairs) is not None:
        raise LabelMapError(
            f"unusable ranges of {what}",
            seen=repr(pairs)[:60],
            expected=f"disjoint pairs (first, last), 0 to {MAX_SOURCE_ID}",
        )
    return merged(pairs)


def default_colour(class_id: int) -> str:
    """Return the colour of a class that none was given for: `PALETTE`, then hues a golden angle
    apart.
    """
    if class_id < len(PALETTE):
        return PALETTE[class_id]
    step = class_id - len(PALETTE)
    red, green, blue = colorsys.hsv_to_rgb(
        step * 0.618034 % 1, 0.45 + 0.15 * (step % 3), 0.95 - 0.2 * (step // 3 % 3)
    )
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def colours_of(class_ids: Iterable[int], chosen: Mapping[int, str]) -> dict[int, str]:
    """Return a colour for each class: the given one, or its default, or where another class was
    given that, the first default that nobody has.
    """
    colours = {class_id: chosen.get(class_id, default_colour(class_id)) for class_id in class_ids}
    theirs = set(chosen.values())
    taken = theirs | set(colours.values())
    # The first is the grey of what is unknown.
    spare = (colour for colour in map(default_colour, range(1, TABLE_SIZE)) if colour not in taken)
    for class_id in sorted(colours.keys() - chosen.keys()):
        if colours[class_id] in theirs:
            colours[class_id] = next(spare, colours[class_id])
            taken.add(colours[class_id])
    return colours


def identity_map(label_ids: Iterable[int]) -> LabelMap:
    """Return the map of each id to itself, named `label N`: raw labels as classes."""
    ids = sorted({int(label_id) for label_id in label_ids})
    names = {label_id: f"label {label_id}" for label_id in ids}
    sources = tuple(SourceLabel(label_id, names[label_id]) for label_id in ids)
    classes = tuple(
        TargetClass(label_id, names[label_id], default_colour(label_id)) for label_id in ids
    )
    return LabelMap("identity", sources, classes, {label_id: label_id for label_id in ids})


def _check_entry(what: str, own_id: int, name: str) -> None:
    if type(own_id) is not int or not 0 <= own_id <= MAX_SOURCE_ID:
        raise LabelMapError(
            f"unusable id of a {what}",
            seen=repr(own_id),
            expected=f"a whole number, 0 to {MAX_SOURCE_ID}",
        )
    reason = name_fault(name, own_id)
    if reason:
        raise LabelMapError(f"unusable name of {what} {own_id}: {reason}", seen=repr(name))


def _check_unique(what: str, entries: Iterable[SourceLabel | TargetClass]) -> None:
    ids: set[int] = set()
    names: set[str] = set()
    for entry in entries:
        if entry.id in ids or name_key(entry.name) in names:
            raise LabelMapError(
                f"{rule_ids.MAP_COLLISION}: {what} {entry.id} ({entry.name}) has an id or a name"
                " that another one has"
            )
        ids.add(entry.id)
        names.add(name_key(entry.name))


def core_present(
    core_pixels: np.ndarray, radius_px: np.ndarray, min_radius_px: np.ndarray | float
) -> np.ndarray:
    """Return, for each label of a tile, whether it is thick enough to be real: bool, same shape.

    That is: a pixel survives a 5x5 erosion. For a class with another `min_radius_px` than the
    default of 2, the largest inscribed radius (distance to the nearest pixel of another label)
    exceeds it instead: above 1 means 3 pixels thick, above 0 any pixel.
    """
    return np.where(
        min_radius_px == DEFAULT_MIN_RADIUS_PX, core_pixels > 0, radius_px > min_radius_px
    )
