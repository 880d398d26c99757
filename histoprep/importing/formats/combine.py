"""Several mask files of an image, one for each class or for each object -> one mask.

Which files are images and which are masks, the folders say (`images`, `masks`), or else the names
(`x.png`, `x_mask.png`); `scanning.mask_groups` says which mask belongs to which image.

Classes lie over each other in the order of their labels, objects in the order of their names; the
last one lies on top.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from histoprep.choices import CombineBy, DrawingOrder
from histoprep.errors import UsageError
from histoprep.importing.canvas import Annotation, draw
from histoprep.importing.formats import Search, number_names, unique
from histoprep.importing.images import files_below, is_image_name, refuse_twice, safe_names
from histoprep.importing.masks import read_set_pixels, state_of
from histoprep.importing.model import Collection, Drawing, ImageFile, ImageSize, Item, Label
from histoprep.importing.outlines import Bitmap
from histoprep.phrases import first_of
from histoprep.scanning.mask_groups import (
    IMAGE_WORDS,
    MaskGroup,
    compiled_pattern,
    group_masks,
    mask_test,
    natural,
    path_below,
)

ORDER = DrawingOrder.FILE
_NUMBER = re.compile(r"[\s_.\-]*\(?\d+\)?$")


def read(
    source: Path,
    search: Search,
    *,
    by: CombineBy,
    masks: Path | None = None,
    mask_pattern: str | None = None,
    classes: Sequence[str] = (),
) -> Collection:
    """Return the images below a folder with their masks.

    Args:
        source: The folder.
        search: Folder of the images, where names do not tell.
        by: What each mask file is for.
        masks: Folder of the masks, where names do not tell.
        mask_pattern: Regular expression for the path of a mask below the source, without suffix,
            with a named group `key` (the stem of its image) and, by class, `class`.
        classes: Classes in the order of their labels, from 1 on; the last lies on top.

    Raises:
        UsageError: There are no images or no masks, a name has no class, or an option does not fit.
    """
    if not source.is_dir():
        raise UsageError("masks to combine lie in a folder", path=source, seen="a file")
    pattern = compiled_pattern(mask_pattern, by)
    images, mask_files = _sorted_apart(source, search, masks, pattern)
    groups = group_masks(Path(os.path.abspath(source)), images, mask_files, pattern)
    if by is CombineBy.CLASS:
        labels, numbers = _class_labels(source, groups, classes)
    else:
        labels, numbers = (Label(0, "background"), Label(1, "object")), None
    order = search.order or ORDER
    items = tuple(
        Item(
            name,
            _shown(source, group),
            "there is no image of this name" if group.image is None else ImageFile(group.image),
            partial(_draw, _layers(group, numbers), order),
            state=state_of(*(path for _, path in group.masks)),
        )
        for name, group in zip(_names(source, groups), groups, strict=True)
    )
    return Collection(labels, items, notes=_notes(groups, labels, by))


def _sorted_apart(
    source: Path, search: Search, masks: Path | None, pattern: re.Pattern[str] | None
) -> tuple[list[Path], list[Path]]:
    """Return the images and the masks below a folder."""
    for folder, option in ((search.images, "--images"), (masks, "--masks")):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{option} is no folder", path=folder)
    roots = unique(map(str, filter(None, (source, search.images, masks))))
    files = {
        Path(os.path.abspath(path)): None
        for root in roots
        for path in files_below(Path(root), skip=search.skip)
        if is_image_name(path.name)
    }
    top = Path(os.path.abspath(source))
    is_mask = mask_test(list(files), top, search.images, masks, pattern)
    images = [path for path in files if not is_mask(path)]
    found = [path for path in files if is_mask(path)]
    for paths, what, option in ((images, "images", "--images"), (found, "masks", "--masks")):
        if not paths:
            raise UsageError(
                f"there are no {what} here, or they are not called so",
                path=source,
                seen=first_of([path_below(path, top) for path in files], limit=5)
                or "no image files",
                hint=f"name the folder of the {what} with {option}",
            )
    return images, found


def _class_labels(
    source: Path, groups: Sequence[MaskGroup], classes: Sequence[str]
) -> tuple[tuple[Label, ...], dict[str, int]]:
    """Return the labels and the label of each class name; numbered copies of a class are that
    class.
    """
    unnamed = [path for group in groups for name, path in group.masks if not name]
    if unnamed:
        raise UsageError(
            "the name of a mask does not say its class",
            path=unnamed[0],
            expected="x_class_tumour.png, or masks/tumour/x.png",
            hint=(
                f"histoprep import combine {source} --by instance --out DIR, where each file is an"
                " object; or name the parts of a path with --mask-pattern"
            ),
        )
    seen = {name for group in groups for name, _ in group.masks}
    plain = {name: _plain(name, seen) for name in seen}
    labels, numbers = number_names(
        plain.values(), classes or sorted({*plain.values()}, key=natural)
    )
    return labels, {name: numbers[plain[name]] for name in seen}


def _plain(name: str, names: Iterable[str]) -> str:
    """Return a class name without the number of a further file of it: `tumour_2` beside
    `tumour`.
    """
    without = _NUMBER.sub("", name)
    return without if without and without in names else name


def _names(source: Path, groups: Sequence[MaskGroup]) -> list[str]:
    """Return the path of each image in the tree, without folders that are only called `images`."""
    paths = []
    for group in groups:
        *folders, last = group.name.split("/")
        parts = [part for part in folders if part.lower() not in IMAGE_WORDS]
        if len(parts) < len(folders) and parts and parts[-1] == Path(last).stem:
            parts.pop()
        paths.append("/".join([*parts, last]))
    names = safe_names(paths)
    refuse_twice(names)
    return names


def _layers(group: MaskGroup, numbers: dict[str, int] | None) -> list[tuple[int, Path]]:
    layers = [(1 if numbers is None else numbers[name], path) for name, path in group.masks]
    return layers if numbers is None else sorted(layers, key=lambda layer: layer[0])


def _draw(
    layers: Sequence[tuple[int, Path]], order: DrawingOrder, size: ImageSize
) -> Drawing | None:
    if not layers:
        return None
    masks = [(label, *read_set_pixels(path, size)) for label, path in layers]
    drawing = draw([Annotation(label, Bitmap(pixels)) for label, pixels, _ in masks], order, size)
    drawing.counts.several_values = sum(differing for _, _, differing in masks)
    return drawing


def _shown(source: Path, group: MaskGroup) -> str:
    top = Path(os.path.abspath(source))
    return first_of([path_below(path, top) for _, path in group.masks], limit=4) or "no mask"


def _notes(groups: Sequence[MaskGroup], labels: Sequence[Label], by: CombineBy) -> tuple[str, ...]:
    example = max(groups, key=lambda group: len(group.masks))
    files = first_of([path.name for _, path in example.masks], limit=4)
    order = "label" if by is CombineBy.CLASS else "name"
    return (
        f"masks of {example.name}: {files}",
        f"one file for each {by}, in the order of its {order}, the last on top",
    )
