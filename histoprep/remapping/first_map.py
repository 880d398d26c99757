"""The label map to begin with: the labels of a tiles table as YAML, for a user to name."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from histoprep.errors import UsageError
from histoprep.importing.legend import is_background
from histoprep.labels.ignored import (
    MIN_VALUE,
    IgnoredValue,
    LabelAmounts,
    find_ignored_value,
)
from histoprep.labels.model import colours_of
from histoprep.labels.scales import TwoScales, find_two_scales
from histoprep.labels.strict_yaml import quoted
from histoprep.mask_reading import MaskEncoding
from histoprep.phrases import plural
from histoprep.remapping.label_names import LabelName, label_names
from histoprep.schemas.repaired import open_rows
from histoprep.tiles.image_labels import COLUMNS as IMAGE_LABEL_COLUMNS
from histoprep.tiles.image_labels import ImageLabelCounts, are_ignored
from histoprep.tiles.instances import COLUMNS as INSTANCE_COLUMNS
from histoprep.tiles.instances import LabelUse
from histoprep.visible import visible

NUM_EXAMPLES = 3
MAX_CLASSES = 255
# Tiles of more labels hold instances, whose pairs say nothing.
MAX_PAIRED_LABELS = 32
_COLUMNS = (
    "mask_path", "mask_palette", "mask_encoding",
    "label_ids", "label_pixels", "label_core_pixels",
)  # fmt: skip
_MAX_MASKS_NAMED = 1000
_LEAST_CONTRAST = 16
_HEAD = """\
# Label map of {masks}. Give labels and classes their names; labels that belong together may
# share a class. Class 0 is the background: tiles that hold nothing else are unconditional.
"""


@dataclass(slots=True)
class LabelsFound:
    """The labels of all masks of a tiles table.

    `examples` are up to three masks a label, most pixels of it first: minus pixels, path.
    `palette` are colours 0xRRGGBB by value, of the first mask that has any, `are_colours` whether
    labels are colours themselves. `use` says whether labels number objects. `names` are what
    labels may be called.
    """

    num_masks: int = 0
    num_unknown: int = 0
    tiles: Counter[int] = field(default_factory=Counter)
    core_tiles: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    core_pixels: Counter[int] = field(default_factory=Counter)
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    examples: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    palette: tuple[int, ...] = ()
    are_colours: bool = False
    use: LabelUse = field(default_factory=LabelUse)
    names: dict[int, LabelName] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Path) -> LabelsFound:
        """Return the labels of a tiles table, of repaired masks in place of damaged ones, and the
        names that files and folders of the data set suggest.
        """
        found, images, paths = cls(), ImageLabelCounts(), list[str]()
        source, header = open_rows(table)
        columns = dict.fromkeys((*_COLUMNS, *INSTANCE_COLUMNS, *IMAGE_LABEL_COLUMNS))
        for chunk in source.read_batches(list(columns)):
            found.add(chunk)
            images.add(chunk, are_ignored(chunk, None))
            paths += chunk["mask_path"].drop_null().to_pylist()[: _MAX_MASKS_NAMED - len(paths)]
        if found.tiles and not found.are_instances:
            found.names = label_names(
                Path(header["root"]),
                found.labels,
                images.table,
                paths,
                are_colours=found.are_colours,
                palette=found.palette,
            )
        return found

    def add(self, chunk: pa.Table) -> None:
        """Count the labels of a piece of the table."""
        self.use.add(chunk)
        columns = (chunk[name].to_pylist() for name in _COLUMNS)
        for path, palette, encoding, ids, pixels, core_pixels in zip(*columns, strict=True):
            if path is None:
                continue
            self.num_masks += 1
            if ids is None:
                self.num_unknown += 1
                continue
            self.palette = self.palette or tuple(palette or ())
            self.are_colours |= MaskEncoding(encoding).is_coloured
            for label, number, core in zip(ids, pixels, core_pixels, strict=True):
                self._add_label(label, number, core, path)
            if len(ids) <= MAX_PAIRED_LABELS:
                self.pairs.update(itertools.combinations(ids, 2))

    def _add_label(self, label: int, pixels: int, core_pixels: int, path: str) -> None:
        self.tiles[label] += 1
        self.core_tiles[label] += core_pixels > 0
        self.pixels[label] += pixels
        self.core_pixels[label] += core_pixels
        examples = self.examples.setdefault(label, [])
        if len(examples) < NUM_EXAMPLES:
            examples.append((-pixels, path))
            examples.sort()
        elif (-pixels, path) < examples[-1]:
            examples[-1] = (-pixels, path)
            examples.sort()

    @property
    def labels(self) -> list[int]:
        """Return all labels in order."""
        return sorted(self.tiles)

    @property
    def are_instances(self) -> bool:
        """Return whether the ids seem to number objects: more than classes could be, or used so."""
        return len(self.tiles) > MAX_CLASSES or self.use.instances() is not None

    def name_of(self, label: int, otherwise: str) -> str:
        """Return what a label may be called."""
        named = self.names.get(label)
        return named.name if named is not None and named.name else otherwise

    @property
    def has_background_name(self) -> bool:
        """Return whether label 0, or another one, has the name of the background."""
        return 0 in self.names or any(is_background(named.name) for named in self.names.values())

    def colour_of(self, label: int) -> int | None:
        """Return the colour 0xRRGGBB of a label by a file, or by the palette unless that has
        colours that nobody can tell apart.
        """
        named = self.names.get(label)
        if named is not None and named.colour is not None:
            return named.colour
        if label >= len(self.palette) or not self._has_distinct_palette:
            return None
        return self.palette[label]

    @property
    def _has_distinct_palette(self) -> bool:
        """Return whether any two labels differ in their colours."""
        colours = [self.palette[label] for label in self.tiles if label < len(self.palette)]
        return all(
            max(abs((first >> shift & 255) - (other >> shift & 255)) for shift in (0, 8, 16))
            >= _LEAST_CONTRAST
            for first, other in itertools.combinations(colours, 2)
        )

    def two_scales(self) -> TwoScales | None:
        """Return the two scales that the labels are in, or None."""
        is_other = self.are_colours or self.are_instances
        return None if is_other else find_two_scales(self.tiles, self.pairs)

    def ignored(self) -> IgnoredValue | None:
        """Return the value that seems to mark pixels without a label, or None."""
        amounts = {
            label: LabelAmounts(
                self.tiles[label],
                self.core_tiles[label],
                self.pixels[label],
                self.core_pixels[label],
            )
            for label in self.tiles
        }
        return find_ignored_value(amounts, self.pairs, are_colours=self.are_colours)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One source label of the file: its values as YAML, its name, its colour if one is known, and
    what is said of it in a comment.
    """

    values: str
    name: str
    colour: str | None
    comment: str
    is_background: bool = False


def first_label_map(table: Path) -> tuple[str, LabelsFound]:
    """Return the text of a label map for the labels of a tiles table, each a class of its own, and
    these labels.

    Instance ids become a range beside 0, the background; a value along boundaries is ignored. More
    colours than there may be classes are those of most pixels and a default.

    Raises:
        UsageError: No mask has labels that are known.
    """
    found = LabelsFound.of(table)
    if not found.tiles:
        raise UsageError(
            "no labels are known of these masks",
            path=table,
            seen=f"{plural(found.num_masks, 'mask')}, none of them read as a label image",
            hint="histoprep audit says what is wrong with each mask",
        )
    ignored = None if found.two_scales() else found.ignored()
    entries = list(_entries(found, ignored))
    colours = {number: entry.colour for number, entry in _numbered(entries).items() if entry.colour}
    return "\n".join([*_lines(found, ignored, entries, colours), ""]), found


def void_warning(table: Path, root: Path) -> str | None:
    """Return the warning that a value along boundaries becomes a class (HP509), where masks are
    used without a label map; None where there is no such value.
    """
    rows, _ = open_rows(table)
    # Most data sets have no label so large, which is seen at once.
    largest = (
        pc.max(pc.list_flatten(chunk["label_ids"])).as_py() or 0
        for chunk in rows.read_batches(["label_ids"])
    )
    if max(largest, default=0) < MIN_VALUE:
        return None
    found = LabelsFound.of(table).ignored()
    if found is None or not found.along_boundaries:
        return None
    return (
        f"{found.spelt} lies along boundaries of other labels and becomes a class (HP509):"
        f" histoprep map init {shlex.quote(visible(str(root)))} --out label_map.yml writes a label"
        " map that ignores it"
    )


def _lines(
    found: LabelsFound,
    ignored: IgnoredValue | None,
    entries: list[_Entry],
    colours: dict[int, str],
) -> Iterator[str]:
    yield _HEAD.format(masks=plural(found.num_masks, "mask")).rstrip("\n")
    yield "sources:"
    for entry in entries:
        yield f"  # {entry.comment}"
        yield f"  {entry.values}: {quoted(entry.name)}"
    if ignored is not None and ignored.along_boundaries:
        yield ""
        yield "# Lies along boundaries of other labels: pixels without a class."
        yield f"# {_amounts(found, ignored.value)}"
        yield ignored.line
    yield ""
    yield "classes:"
    classes = _numbered(entries)
    shown = colours_of([0, *classes], colours)
    if 0 not in classes:
        yield f'  0: {{name: background, colour: "{shown[0]}"}}'
    for number, entry in classes.items():
        name = quoted(entry.name, flow=True)
        yield f'  {number}: {{name: {name}, colour: "{shown[number]}"}}'
    yield ""
    yield "map:"
    for entry in entries:
        yield f"  {quoted(entry.name)}: {quoted(entry.name)}"


def _numbered(entries: list[_Entry]) -> dict[int, _Entry]:
    """Return the entries by class id: the background 0, others from 1 without gaps."""
    numbers = itertools.count(1)
    return {0 if entry.is_background else next(numbers): entry for entry in entries}


def _entries(found: LabelsFound, ignored: IgnoredValue | None) -> Iterator[_Entry]:
    """Yield the source labels of the file, the background first."""
    left = [
        label
        for label in found.labels
        if ignored is None or not ignored.along_boundaries or label != ignored.value
    ]
    if scales := found.two_scales():
        yield from _two_scales(found, scales)
    elif found.are_colours:
        yield from _colours(found, left)
    elif found.are_instances:
        yield from _instances(found, left)
    else:
        for label in left:
            note = "; perhaps pixels that nobody labelled: then list it under `ignore:`"
            is_doubtful = ignored is not None and label == ignored.value
            comment = _amounts(found, label) + (note if is_doubtful else "")
            name = found.name_of(label, f"label {label}")
            if label == 0 and found.names and not found.has_background_name:
                name = "background"
            colour = _hex(found.colour_of(label))
            yield _Entry(str(label), name, colour, comment, is_background=label == 0)


def _two_scales(found: LabelsFound, scales: TwoScales) -> Iterator[_Entry]:
    """Yield the background and each label with its scaled value."""
    if 0 in found.tiles:
        yield _Entry("0", "label 0", None, _amounts(found, 0), is_background=True)
    for label, value in scales.pairs:
        comment = (
            f"{label}: {_amounts(found, label)}; in other masks {value}: {_amounts(found, value)}"
        )
        name = found.name_of(label, found.name_of(value, f"label {label}"))
        yield _Entry(f"{label}, {value}", name, None, comment)


def _colours(found: LabelsFound, labels: list[int]) -> Iterator[_Entry]:
    most = sorted(labels, key=lambda label: (-found.pixels[label], label))
    kept = sorted(most[: MAX_CLASSES - 2] if len(most) > MAX_CLASSES - 1 else most)
    for label in kept:
        value = f"{_hex(label)}"
        name = found.name_of(label, value)
        comment = _amounts(found, label)
        yield _Entry(f'"{value}"', name, value, comment, is_background=label == 0)
    rest = len(labels) - len(kept)
    if rest:
        pixels = sum(found.pixels[label] for label in labels) - sum(
            found.pixels[label] for label in kept
        )
        comment = f"{plural(rest, 'rarer colour')}, {plural(pixels, 'pixel')}"
        yield _Entry('"*"', "other colours", None, comment)


def _instances(found: LabelsFound, labels: list[int]) -> Iterator[_Entry]:
    if 0 in labels:
        yield _Entry("0", "background", None, _amounts(found, 0), is_background=True)
    objects = [label for label in labels if label]
    tiles = max(found.tiles[label] for label in objects)
    pixels = sum(found.pixels[label] for label in objects)
    first = found.examples[objects[0]][0][1]
    values = f"{objects[0]}-{objects[-1]}" if len(objects) > 1 else str(objects[0])
    comment = (
        f"{plural(len(objects), 'id')} that seem to number objects: {plural(pixels, 'pixel')} in"
        f" {plural(tiles, 'tile')} or more, such as {visible(first)}"
    )
    yield _Entry(values, "object", None, comment)


def _amounts(found: LabelsFound, label: int) -> str:
    """Return `12 pixels in 3 tiles, such as a.png, b.png`."""
    paths = ", ".join(visible(path) for _, path in found.examples[label])
    named = found.names.get(label)
    origin = f"; {visible(named.origin)}" if named is not None and named.name else ""
    return (
        f"{plural(found.pixels[label], 'pixel')} in {plural(found.tiles[label], 'tile')}, such as"
        f" {paths}{origin}"
    )


def _hex(colour: int | None) -> str | None:
    return None if colour is None else f"#{colour:06x}"
