"""Label maps: which class each value in the masks becomes. Find, load, check, write, compose and
compare them.

The map itself is in `model.py`, file formats are in `format.py` and
`legacy.py`, the strict YAML below them is in `strict_yaml.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from histoprep.errors import LabelMapError
from histoprep.labels.format import (
    IGNORE,
    LISTS,
    SOURCE_LIST,
    Draft,
    MapProblem,
    name_key,
    packed_folder,
    perhaps,
    read_ours,
    top_level,
)
from histoprep.labels.ignored import IGNORED_ID, quoted_colour
from histoprep.labels.legacy import is_old, read_old
from histoprep.labels.model import (
    DEFAULT_MIN_RADIUS_PX,
    IGNORED,
    PALETTE,
    TABLE_SIZE,
    UNMAPPED,
    LabelMap,
    SourceLabel,
    TargetClass,
    colours_of,
    core_present,
    default_colour,
    identity_map,
)
from histoprep.labels.strict_yaml import (
    MAX_NAME_LENGTH,
    fault,
    map_name_fault,
    quoted,
    read_block,
)
from histoprep.labels.values import REST, merged, spelt

__all__ = [
    "DEFAULT_MIN_RADIUS_PX",
    "IGNORED",
    "IGNORED_ID",
    "PALETTE",
    "TABLE_SIZE",
    "UNMAPPED",
    "LabelMap",
    "MapDifference",
    "MapProblem",
    "SourceLabel",
    "TargetClass",
    "check_label_map",
    "compose",
    "core_present",
    "default_colour",
    "default_map",
    "diff",
    "find_label_map",
    "format_ignored",
    "format_label_map",
    "identity_map",
    "load_label_map",
    "map_name_fault",
    "maps_in",
    "packed_folder",
    "packed_maps",
]


@dataclass(frozen=True, slots=True)
class MapDifference:
    """One thing in which two label maps differ.

    `what` is label, label values, label name, target, ignored, class, class name, colour or
    min_radius_px; `id`
    the label's or class's id, `name` its name in the first map that has it; `a` and `b`
    what the maps say, empty where it is absent.
    """

    what: str
    id: int
    name: str
    a: str
    b: str


def load_label_map(path: str | Path) -> LabelMap:
    """Return the label map in a file, in our format or an older one.

    Args:
        path: Path of a YAML file. A gap between class ids (HP506) is no obstacle: see
            `LabelMap.gaps`.

    Raises:
        LabelMapError: The first problem, with its line; `check_label_map` returns all that have a
            code.
    """
    draft = _read_draft(Path(path))
    errors = [problem for problem in draft.problems if problem.forbids_use]
    if errors:
        hint = f"histoprep map check {path}" if len(errors) > 1 else None
        raise fault(
            draft.path,
            errors[0].line,
            f"{errors[0]}{f' (and {len(errors) - 1} more)' if hint else ''}",
            hint=hint,
        )
    colours = colours_of(draft.classes, draft.colours)
    return LabelMap(
        draft.name,
        tuple(
            SourceLabel(label_id, name, draft.values.get(label_id, ()))
            for label_id, name in draft.sources.items()
        ),
        tuple(
            TargetClass(
                class_id, name, colours[class_id], draft.radii.get(class_id, DEFAULT_MIN_RADIUS_PX)
            )
            for class_id, name in draft.classes.items()
        ),
        draft.mapping,
        draft.ignored,
        bool(draft.colours_listed),
    )


def check_label_map(path: str | Path) -> list[MapProblem]:
    """Return every problem of a label-map file that has a code (HP503 to HP506), in order of lines.

    Raises:
        LabelMapError: The file cannot be read as a label map at all.
    """
    return _read_draft(Path(path)).problems


def _read_draft(path: Path) -> Draft:
    tree = top_level(read_block(path, LISTS), path)
    return (read_old(tree, path) if is_old(tree) else read_ours(tree, path)).check()


def find_label_map(name: str | Path, root: Path | None = None) -> Path:
    """Return the path of a label map.

    Args:
        name: A path, or the name of a file in the current folder, in `root` or packed with
            histoprep, in this order; the suffix .yml may be left out.
        root: Folder of the data set.

    Raises:
        LabelMapError: There is none; the message lists where it was looked for.
    """
    folders = [Path(), *([Path(root)] if root is not None else []), packed_folder()]
    spellings = [Path(name), *(Path(f"{name}{suffix}") for suffix in (".yml", ".yaml"))]
    for candidate in (folder / spelling for folder in folders for spelling in spellings):
        if candidate.is_file():
            return candidate
    packed = [path.name for path in packed_maps()]
    raise LabelMapError(
        f"no label map {str(name)!r}{perhaps(str(name), packed)}",
        seen="looked in " + ", ".join(str(folder.absolute()) for folder in folders),
        expected="the path of a label map",
        hint="histoprep map init ROOT --out label_map.yml writes one of the labels in your masks",
    )


def packed_maps() -> list[Path]:
    """Return the label maps that come with histoprep, sorted."""
    return sorted(path for path in packed_folder().glob("*.yml") if path.name != SOURCE_LIST)


def format_label_map(label_map: LabelMap) -> str:
    """Return the map as a file in our format, its lines ordered by class; `load_label_map` reads
    back an equal one.
    """
    lines = [f"name: {quoted(label_map.name)}", "", "sources:"]
    rest = label_map.rest
    for source in label_map.sources:
        values = REST if source == rest else label_map.values_of(source)
        key = f'"{values}"' if source == rest or label_map.colour_sources else values
        lines.append(f"  {key}: {quoted(source.name)}")
    lines += format_ignored(label_map)
    lines += ["", "classes:"]
    for cls in label_map.classes:
        radius = (
            ""
            if cls.min_radius_px == DEFAULT_MIN_RADIUS_PX
            else f", min_radius_px: {Decimal(repr(float(cls.min_radius_px))):f}"
        )
        lines.append(
            f'  {cls.id}: {{name: {quoted(cls.name, flow=True)}, colour: "{cls.colour}"{radius}}}'
        )
    lines += ["", "map:"]
    for cls in label_map.classes:
        members = [label for label in label_map.sources if label_map.mapping[label.id] == cls.id]
        lines += (
            ["", *(f"  {quoted(label.name)}: {quoted(cls.name)}" for label in members)]
            if members
            else []
        )
    return "\n".join(lines) + "\n"


def format_ignored(label_map: LabelMap) -> list[str]:
    """Return the line `ignore: [255]` of a map's file, none when nothing is ignored."""
    if not label_map.ignore:
        return []
    values = spelt(label_map.ignore, colours=label_map.colour_sources).split(", ")
    return ["", f"{IGNORE}: [{', '.join(map(quoted_colour, values))}]"]


def compose(first: LabelMap, second: LabelMap, *, match_names: bool = True) -> LabelMap:
    """Return the map that does what `first` and then `second` does: x -> second[first[x]]; what
    either ignores is ignored.

    Raises LabelMapError when `second` does not list a class that `first` maps to, or,
    with `match_names`, calls it by another name: the sign of a map that was made for
    other masks. The name of the result is `<first>+<second>`.
    """
    targets = sorted(set(first.mapping.values()))
    absent = [f"{target} ({first.class_name(target)})" for target in second.unlisted(targets)]
    if absent:
        raise LabelMapError(
            f"{second.name} does not list all classes of {first.name} as source labels",
            seen=f"without {', '.join(absent[:10])}",
            hint="join with a map whose sources are these classes",
        )
    for class_id in targets if match_names else ():
        source = second.source_of(class_id)
        # A name for several values is that of none of the classes.
        if source is None or not source.is_single:
            continue
        name, other = first.class_name(class_id), source.name
        if name_key(name) != name_key(other):
            raise LabelMapError(
                f"class {class_id} of {first.name} has another name as source label of"
                f" {second.name}",
                seen=repr(other),
                expected=repr(name),
                hint=(
                    "was the second map made for other masks? Correct the name, or ignore names"
                    " (--ignore-names)"
                ),
            )
    mapping = {label_id: second.class_of(target) for label_id, target in first.mapping.items()}
    gone = [each for each in first.sources if mapping[each.id] == IGNORED]
    for source in gone:
        del mapping[source.id]
    return LabelMap(
        f"{first.name}+{second.name}"[:MAX_NAME_LENGTH].rstrip(),
        tuple(each for each in first.sources if each.id in mapping),
        second.classes,
        mapping,
        merged([*first.ignore, *(values for each in gone for values in each.ranges)]),
        first.colour_sources,
    )


def diff(a: LabelMap, b: LabelMap) -> list[MapDifference]:
    """Return in what two maps differ: source labels and their classes first, then the classes, each
    by id.

    Maps without a difference have equal digests; the maps' own names do not count.
    """
    return [*_label_differences(a, b), *_ignored_differences(a, b), *_class_differences(a, b)]


def _ignored_differences(a: LabelMap, b: LabelMap) -> Iterator[MapDifference]:
    if a.ignore != b.ignore:
        first = min(a.ignore + b.ignore)[0]
        values = (spelt(each.ignore, colours=each.colour_sources) for each in (a, b))
        yield MapDifference("ignored", first, "", *values)


def _label_differences(a: LabelMap, b: LabelMap) -> Iterator[MapDifference]:
    names_a, names_b = ({source.id: source.name for source in each.sources} for each in (a, b))
    values_a, values_b = ({source.id: source.ranges for source in each.sources} for each in (a, b))
    for label_id in sorted(names_a | names_b):
        name = names_a.get(label_id, names_b.get(label_id, ""))
        if label_id not in names_a or label_id not in names_b:
            yield MapDifference("label", label_id, name, _target(a, label_id), _target(b, label_id))
            continue
        if (was := values_a[label_id]) != (now := values_b[label_id]):
            values = (
                spelt(ranges, colours=each.colour_sources) for ranges, each in ((was, a), (now, b))
            )
            yield MapDifference("label values", label_id, name, *values)
        if names_a[label_id] != names_b[label_id]:
            yield MapDifference("label name", label_id, name, names_a[label_id], names_b[label_id])
        if a.mapping[label_id] != b.mapping[label_id]:
            yield MapDifference(
                "target", label_id, name, _target(a, label_id), _target(b, label_id)
            )


def _class_differences(a: LabelMap, b: LabelMap) -> Iterator[MapDifference]:
    classes_a, classes_b = ({cls.id: cls for cls in each.classes} for each in (a, b))
    for class_id in sorted(classes_a.keys() | classes_b.keys()):
        in_a, in_b = classes_a.get(class_id), classes_b.get(class_id)
        if in_a is None or in_b is None:
            name = (in_a or in_b or classes_a[class_id]).name
            yield MapDifference(
                "class", class_id, name, in_a.name if in_a else "", in_b.name if in_b else ""
            )
            continue
        for what, field in (
            ("class name", "name"),
            ("colour", "colour"),
            ("min_radius_px", "min_radius_px"),
        ):
            old, new = getattr(in_a, field), getattr(in_b, field)
            if old != new:
                yield MapDifference(what, class_id, in_a.name, str(old), str(new))


def _target(label_map: LabelMap, label_id: int) -> str:
    target = label_map.mapping.get(label_id)
    return "" if target is None else f"{target} {label_map.class_name(target)}"


def default_map(root: Path) -> Path | None:
    """Return the label map of the data set: the one file label_map*.yml in its root, None if there
    is none or several.
    """
    paths = maps_in(root)
    return paths[0] if len(paths) == 1 else None


def maps_in(root: Path) -> list[Path]:
    """Return the label maps that lie in the root of a data set, sorted."""
    return sorted(root.glob("label_map*.y*ml"))
