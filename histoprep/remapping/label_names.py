"""What the labels of a data set may be called, by what lies beside the masks: files that list
classes, folders and image-level labels that go with one label, and folders called after one class.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from histoprep.labels.format import name_key
from histoprep.labels.strict_yaml import name_fault
from histoprep.phrases import plural
from histoprep.remapping.legends import Entry, Legend, find_legends
from histoprep.tiles.image_labels import CrossTable

_MASK_WORDS = frozenset(
    ("mask", "masks", "label", "labels", "annotation", "annotations", "anno", "gt", "seg")
)
# Words of folders of masks that are no classes.
_OTHER_WORDS = frozenset(
    (
        "all", "and", "binary", "bmp", "class", "classes", "color", "colour", "data", "dataset",
        "fg", "final", "gray", "grey", "ground", "he", "image", "images", "img", "index",
        "instance", "instances", "manual", "map", "maps", "multi", "new", "old", "out", "output",
        "palette", "png", "raw", "result", "results", "rgb", "segmentation", "semantic", "set",
        "test", "tif", "tile", "tiles", "train", "training", "truth", "type", "val", "validation",
    )
)  # fmt: skip


class LabelName(NamedTuple):
    """What a label may be called.

    Attributes:
        name: The name; "" where only a colour is known.
        origin: Where it is from, as a comment tells it.
        colour: Its colour 0xRRGGBB, None where none is known.
    """

    name: str
    origin: str
    colour: int | None = None


def label_names(
    root: Path,
    labels: Collection[int],
    table: CrossTable,
    mask_paths: Sequence[str],
    *,
    are_colours: bool,
    palette: Sequence[int] = (),
) -> dict[int, LabelName]:
    """Return names of labels, no two the same: of the first file that names at least half of the
    labels other than 0; of the others, of image-level labels or folders that go with them; of the
    only label, of the folder or ending of the masks.

    Args:
        root: Folder of the data set.
        labels: The labels of the masks; colours 0xRRGGBB where `are_colours`.
        table: Image-level labels against mask labels.
        mask_paths: Some masks, or all of them.
        are_colours: Whether the labels are colours.
        palette: Colours 0xRRGGBB by label, where the masks have a palette.
    """
    found = dict(_of_files(root, labels, are_colours, palette))
    for label, name in (*_of_image_labels(table), *_of_masks(labels, mask_paths)):
        if label not in found:
            found[label] = name
    taken: set[str] = set()
    names: dict[int, LabelName] = {}
    for label, named in sorted(found.items()):
        key = name_key(named.name).casefold()
        if key not in taken and (not named.name or name_fault(named.name, label) is None):
            taken.add(key)
            names[label] = named
    return names


def _of_files(
    root: Path, labels: Collection[int], are_colours: bool, palette: Sequence[int]
) -> Iterator[tuple[int, LabelName]]:
    own = {label for label in labels if label}
    for legend in find_legends(root):
        entries = _entries(legend, labels, are_colours, palette)
        if own and 2 * len(own & entries.keys()) >= len(own):
            yield from (
                (label, LabelName(entry.name, f"named in {legend.path}", entry.colour))
                for label, entry in entries.items()
            )
            return


def _entries(
    legend: Legend, labels: Collection[int], are_colours: bool, palette: Sequence[int]
) -> Mapping[int, Entry]:
    by_colour = legend.by_colour()
    if are_colours:
        return {label: by_colour[label] for label in labels if label in by_colour}
    if by_colour and any(entry.value is None for entry in legend.entries):
        return {
            label: by_colour[palette[label]]
            for label in labels
            if label < len(palette) and palette[label] in by_colour
        }
    return legend.by_value(labels)


def _of_image_labels(table: CrossTable) -> Iterator[tuple[int, LabelName]]:
    if not table.is_shown:
        return
    partners = list(table.partners())
    # Folders of slides or cases that differ in a number are no classes.
    stems = {re.sub(r"\d+|(?<=[\W_])[A-Za-z]$", "", name) for name, _, _, _ in partners}
    if len(stems) < len(partners):
        return
    for name, label, agreeing, total in partners:
        own = name.rpartition("/")[2]
        if sum(map(str.isdigit, own)) < 3 and any(map(str.isalpha, own)):
            origin = f"called as the images are: {agreeing:,} of {plural(total, 'tile')} of {name}"
            yield label, LabelName(own, origin)


def _of_masks(
    labels: Collection[int], mask_paths: Sequence[str]
) -> Iterator[tuple[int, LabelName]]:
    """Yield the only label with the word that folder or ending of all masks have beside one for
    masks: `masks_tumour/`, `x_gland_mask.png`.
    """
    own = [label for label in labels if label]
    if len(own) != 1 or not mask_paths:
        return
    folder = os.path.commonpath([path.rpartition("/")[0] or "." for path in mask_paths])
    for place, text in (
        ("the folder", folder.rpartition("/")[2]),
        ("the ending of masks", _common_ending(mask_paths)),
    ):
        words = [word for word in re.split(r"[\W_\d]+", text) if word]
        plain = [word for word in words if word.lower() not in _MASK_WORDS]
        if len(words) > len(plain) == 1 and plain[0].lower() not in _OTHER_WORDS:
            yield own[0], LabelName(plain[0], f"called as {place}, {text.strip('_-. ')}")
            return


def _common_ending(paths: Sequence[str]) -> str:
    """Return what all names end in, without their extension, from a separator on."""
    stems = [os.path.splitext(path.rpartition("/")[2])[0] for path in paths]
    shortest, number = min(map(len, stems)), 0
    while number < shortest and len({stem[-1 - number] for stem in stems}) == 1:
        number += 1
    ending = stems[0][len(stems[0]) - number :] if len(stems) > 1 else ""
    found = re.search(r"[_\-. ]", ending)
    return ending[found.start() :] if found else ""
