"""Several mask files of an image, one for each class or for each object -> one mask.

Which files are images and which are masks, the folders say (`images`, `masks`), or else the names
(`x.png`, `x_mask.png`). A mask belongs to the image whose name its own begins with; or to the only
image in the nearest folder around it, as in `id/images/id.png`, `id/masks/*.png`. Its class is the
name of a folder that its image does not lie in (`masks/tumour/x.png`), or the rest of its name
(`x_class_tumour.png`).

Classes lie over each other in the order of their labels, objects in the order of their names; the
last one lies on top.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from histoprep.choices import CombineBy, DrawingOrder
from histoprep.errors import UsageError
from histoprep.importing.canvas import Annotation, draw
from histoprep.importing.formats import Search, number_names, unique
from histoprep.importing.images import files_below, is_image_name, refuse_twice, safe_names
from histoprep.importing.masks import read_set_pixels, state_of
from histoprep.importing.model import Collection, Drawing, ImageFile, Item, Label, Size
from histoprep.importing.outlines import Bitmap
from histoprep.names import pairing_key
from histoprep.phrases import first_of

ORDER = DrawingOrder.FILE
_IMAGE_WORDS = frozenset(
    ("images", "image", "img", "imgs", "tiles", "patches", "original", "originals", "raw")
)
_MASK_WORDS = frozenset(
    (
        *("mask", "masks", "label", "labels", "seg", "segmentation", "segmentations", "class"),
        *("annotation", "annotations", "gt", "groundtruth", "ground_truth", "instance"),
        *("instances", "object", "objects", "manual", "manuals", "classes"),
    )
)
_SEPARATOR = re.compile(r"[\s_.\-]+")
_NUMBER = re.compile(r"[\s_.\-]*\(?\d+\)?$")


@dataclass(slots=True)
class _Group:
    """An image, or the name of one that is not there, and its mask files with what their names say
    of the class.
    """

    image: Path | None
    name: str
    masks: list[tuple[str, Path]] = field(default_factory=list)


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
    pattern = _compiled(mask_pattern, by)
    images, mask_files = _sorted_apart(source, search, masks, pattern)
    groups = _grouped(source, images, mask_files, pattern)
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


def _compiled(pattern: str | None, by: CombineBy) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--mask-pattern is no regular expression: {error}", seen=pattern
        ) from error
    needed = ("key", "class") if by is CombineBy.CLASS else ("key",)
    absent = [name for name in needed if name not in compiled.groupindex]
    if absent:
        raise UsageError(
            f"--mask-pattern has no group {' and '.join(map(repr, absent))}",
            seen=pattern,
            expected="such as (?P<key>.+)_class_(?P<class>.+)",
        )
    return compiled


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
    is_mask = _mask_test(list(files), top, search.images, masks, pattern)
    images = [path for path in files if not is_mask(path)]
    found = [path for path in files if is_mask(path)]
    for paths, what, option in ((images, "images", "--images"), (found, "masks", "--masks")):
        if not paths:
            raise UsageError(
                f"there are no {what} here, or they are not called so",
                path=source,
                seen=first_of([_below(path, top) for path in files], limit=5) or "no image files",
                hint=f"name the folder of the {what} with {option}",
            )
    return images, found


def _mask_test(
    files: Sequence[Path],
    top: Path,
    images: Path | None,
    masks: Path | None,
    pattern: re.Pattern[str] | None,
) -> Callable[[Path], bool]:
    """Return a function from a path to whether it is a mask: by the options, else by folders, else
    by names.
    """
    if pattern is not None:
        return lambda path: pattern.fullmatch(_stem_below(path, top)) is not None
    if masks is not None:
        mask_root = Path(os.path.abspath(masks))
        return lambda path: path.is_relative_to(mask_root)
    if images is not None:
        image_root = Path(os.path.abspath(images))
        return lambda path: not path.is_relative_to(image_root)
    in_image_folders = any(_folder_words(path, top) & _IMAGE_WORDS for path in files)
    in_mask_folders = any(_folder_words(path, top) & _MASK_WORDS for path in files)
    if in_image_folders:
        return lambda path: not _folder_words(path, top) & _IMAGE_WORDS
    if in_mask_folders:
        return lambda path: bool(_folder_words(path, top) & _MASK_WORDS)
    stems = {(path.parent, pairing_key(path.stem)) for path in files}
    if any(_names_an_image(path, stems) for path in files):
        return lambda path: _names_an_image(path, stems)
    # A folder for each sample, with files of the same names in all of them.
    plain = Counter(path.parent for path in files if not _name_words(path) & _MASK_WORDS)
    return lambda path: bool(_name_words(path) & _MASK_WORDS) and plain[path.parent] == 1


def _name_words(path: Path) -> set[str]:
    return {word.lower() for word in _SEPARATOR.split(path.stem)}


def _folder_words(path: Path, top: Path) -> set[str]:
    parts = path.relative_to(top).parts[:-1] if path.is_relative_to(top) else path.parts[:-1]
    return {part.lower() for part in parts}


def _names_an_image(path: Path, stems: set[tuple[Path, str]]) -> bool:
    """Return whether a name is that of an image beside it, a separator, and a word for masks."""
    stem = path.stem
    for match in reversed(list(_SEPARATOR.finditer(stem))):
        words = {word.lower() for word in _SEPARATOR.split(stem[match.end() :])}
        if (path.parent, pairing_key(stem[: match.start()])) in stems and words & _MASK_WORDS:
            return True
    return False


def _below(path: Path, top: Path) -> str:
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else path.as_posix()


def _stem_below(path: Path, top: Path) -> str:
    return _below(path.with_suffix(""), top)


def _grouped(
    source: Path, images: Sequence[Path], masks: Sequence[Path], pattern: re.Pattern[str] | None
) -> list[_Group]:
    top = Path(os.path.abspath(source))
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_stem[pairing_key(image.stem)].append(image)
    groups = {image: _Group(image, _below(image, top)) for image in images}
    alone = _only_images(images, top)
    lost: dict[str, _Group] = {}
    for mask in sorted(masks, key=lambda path: _natural(_below(path, top))):
        match = pattern.fullmatch(_stem_below(mask, top)) if pattern else None
        if match:
            key, name = match["key"], (match.groupdict().get("class") or "")
            found = _nearest(by_stem.get(pairing_key(key.rpartition("/")[2]), []), mask)
        else:
            found, name = _owner(mask, by_stem, alone, top)
            key = _below(mask, top)
        group = lost.setdefault(key, _Group(None, key)) if found is None else groups[found]
        group.masks.append((name, mask))
    return [*groups.values(), *lost.values()]


def _owner(
    mask: Path, by_stem: dict[str, list[Path]], alone: dict[Path, Path], top: Path
) -> tuple[Path | None, str]:
    """Return the image of a mask, None where there is none, and what the name says of the class."""
    stem = mask.stem
    cuts = [len(stem), *(match.start() for match in reversed(list(_SEPARATOR.finditer(stem))))]
    for cut in cuts:
        found = _nearest(by_stem.get(pairing_key(stem[:cut]), []), mask)
        if found is not None:
            return found, _class_name(mask, found, stem[cut:], top)
    for folder in mask.parents:
        named = _nearest(by_stem.get(pairing_key(folder.name), []), mask)
        image = named or alone.get(folder)
        if image is not None:
            return image, _class_name(mask, image, stem, top)
        if folder == top:
            break
    return None, stem


def _nearest(images: Sequence[Path], mask: Path) -> Path | None:
    """Return the image that shares most folders with a mask; None where that is no single one."""
    if not images:
        return None
    shared = [len(os.path.commonpath([image.parent, mask.parent])) for image in images]
    best = [image for image, score in zip(images, shared, strict=True) if score == max(shared)]
    return best[0] if len(best) == 1 else None


def _only_images(images: Sequence[Path], top: Path) -> dict[Path, Path]:
    """Return the folders that hold exactly one image in all, and that image."""
    count: dict[Path, list[Path]] = defaultdict(list)
    for image in images:
        for folder in image.parents:
            count[folder].append(image)
            if folder == top:
                break
    return {folder: found[0] for folder, found in count.items() if len(found) == 1}


def _class_name(mask: Path, image: Path, rest: str, top: Path) -> str:
    """Return the class of a mask: folders that its image is not in, else the rest of its name."""
    own = set(_folders(image, top)) | {image.stem}
    folders = [
        part
        for part in _folders(mask, top)
        if part not in own and part.lower() not in _MASK_WORDS | _IMAGE_WORDS
    ]
    if folders:
        return " ".join(folders)
    words = [word for word in _SEPARATOR.split(rest) if word]
    return "_".join(word for word in words if word.lower() not in _MASK_WORDS)


def _folders(path: Path, top: Path) -> tuple[str, ...]:
    return path.relative_to(top).parts[:-1] if path.is_relative_to(top) else path.parts[1:-1]


def _class_labels(
    source: Path, groups: Sequence[_Group], classes: Sequence[str]
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
        plain.values(), classes or sorted({*plain.values()}, key=_natural)
    )
    return labels, {name: numbers[plain[name]] for name in seen}


def _plain(name: str, names: Iterable[str]) -> str:
    """Return a class name without the number of a further file of it: `tumour_2` beside
    `tumour`.
    """
    without = _NUMBER.sub("", name)
    return without if without and without in names else name


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name.lower())
        if part
    ]


def _names(source: Path, groups: Sequence[_Group]) -> list[str]:
    """Return the path of each image in the tree, without folders that are only called `images`."""
    paths = []
    for group in groups:
        *folders, last = group.name.split("/")
        parts = [part for part in folders if part.lower() not in _IMAGE_WORDS]
        if len(parts) < len(folders) and parts and parts[-1] == Path(last).stem:
            parts.pop()
        paths.append("/".join([*parts, last]))
    names = safe_names(paths)
    refuse_twice(names)
    return names


def _layers(group: _Group, numbers: dict[str, int] | None) -> list[tuple[int, Path]]:
    layers = [(1 if numbers is None else numbers[name], path) for name, path in group.masks]
    return layers if numbers is None else sorted(layers, key=lambda layer: layer[0])


def _draw(layers: Sequence[tuple[int, Path]], order: DrawingOrder, size: Size) -> Drawing | None:
    if not layers:
        return None
    masks = [(label, *read_set_pixels(path, size)) for label, path in layers]
    drawing = draw([Annotation(label, Bitmap(pixels)) for label, pixels, _ in masks], order, size)
    drawing.counts.several_values = sum(differing for _, _, differing in masks)
    return drawing


def _shown(source: Path, group: _Group) -> str:
    top = Path(os.path.abspath(source))
    return first_of([_below(path, top) for _, path in group.masks], limit=4) or "no mask"


def _notes(groups: Sequence[_Group], labels: Sequence[Label], by: CombineBy) -> tuple[str, ...]:
    example = max(groups, key=lambda group: len(group.masks))
    files = first_of([path.name for _, path in example.masks], limit=4)
    order = "label" if by is CombineBy.CLASS else "name"
    return (
        f"masks of {example.name}: {files}",
        f"one file for each {by}, in the order of its {order}, the last on top",
    )
