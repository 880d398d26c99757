"""Several mask files of an image: which files are masks, of which image, and of which class. Pure:
paths in, groups out.

A mask belongs to the image whose name its own begins with; or to the only image in the nearest
folder around it, as in `id/images/id.png`, `id/masks/*.png`. Its class is the name of a folder that
its image does not lie in (`masks/tumour/x.png`), or the rest of its name (`x_class_tumour.png`).
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from histoprep.choices import CombineBy
from histoprep.errors import UsageError
from histoprep.names import pairing_key

IMAGE_WORDS = frozenset(
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


@dataclass(slots=True)
class MaskGroup:
    """An image, or the name of one that is not there, and its mask files with what their names say
    of the class.
    """

    image: Path | None
    name: str
    masks: list[tuple[str, Path]] = field(default_factory=list)


def compiled_pattern(pattern: str | None, by: CombineBy) -> re.Pattern[str] | None:
    """Return the pattern of --mask-pattern; raises UsageError for one that cannot be."""
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


def mask_test(
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
    in_image_folders = any(_folder_words(path, top) & IMAGE_WORDS for path in files)
    in_mask_folders = any(_folder_words(path, top) & _MASK_WORDS for path in files)
    if in_image_folders:
        return lambda path: not _folder_words(path, top) & IMAGE_WORDS
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


def path_below(path: Path, top: Path) -> str:
    """Return the path below a folder, with `/`; all of it where it lies elsewhere."""
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else path.as_posix()


def _stem_below(path: Path, top: Path) -> str:
    return path_below(path.with_suffix(""), top)


def group_masks(
    top: Path, images: Sequence[Path], masks: Sequence[Path], pattern: re.Pattern[str] | None
) -> list[MaskGroup]:
    """Return the images with their masks, then the names whose image is not there with theirs.

    Args:
        top: The folder that holds them, absolute.
        images: Absolute paths of images.
        masks: Absolute paths of masks.
        pattern: Says of the path of a mask below `top`, without suffix, its image (`key`: the stem,
            also with folders before it) and its class.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_stem[pairing_key(image.stem)].append(image)
    groups = {image: MaskGroup(image, path_below(image, top)) for image in images}
    alone = _only_images(images, top)
    lost: dict[str, MaskGroup] = {}
    for mask in sorted(masks, key=lambda path: natural(path_below(path, top))):
        match = pattern.fullmatch(_stem_below(mask, top)) if pattern else None
        if match:
            key, name = match["key"], (match.groupdict().get("class") or "")
            found = _nearest(_of_key(by_stem, key), mask)
        else:
            found, name = _owner(mask, by_stem, alone, top)
            key = path_below(mask, top)
        group = lost.setdefault(key, MaskGroup(None, key)) if found is None else groups[found]
        group.masks.append((name, mask))
    return [*groups.values(), *lost.values()]


def _of_key(by_stem: dict[str, list[Path]], key: str) -> list[Path]:
    """Return the images of this stem; of several those whose path ends with all of the key."""
    images = by_stem.get(pairing_key(key.rpartition("/")[2]), [])
    whole = f"/{pairing_key(key)}"
    ending = [path for path in images if pairing_key(f"/{path.with_suffix('')}").endswith(whole)]
    return ending or images


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
        if part not in own and part.lower() not in _MASK_WORDS | IMAGE_WORDS
    ]
    if folders:
        return " ".join(folders)
    words = [word for word in _SEPARATOR.split(rest) if word]
    return "_".join(word for word in words if word.lower() not in _MASK_WORDS)


def _folders(path: Path, top: Path) -> tuple[str, ...]:
    return path.relative_to(top).parts[:-1] if path.is_relative_to(top) else path.parts[1:-1]


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return what a name is sorted by, so that numbers in it count as numbers."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name.lower())
        if part
    ]
