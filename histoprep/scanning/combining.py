"""Several masks of an image, one for each class, object or reader -> the command that combines
them. Pure: readings in, words out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from histoprep.choices import CombineBy
from histoprep.scanning.commands import combine_command
from histoprep.scanning.layouts import Affixes, NameReading
from histoprep.scanning.mask_groups import compiled_pattern, group_masks, mask_test

_TOP = Path("/set")


@dataclass(frozen=True, slots=True)
class SeveralMasks:
    """How the masks of an image combine: what each is for, and the pattern of their paths.

    Attributes:
        names: What tells the masks of an image from each other, sorted.
        by: What each mask is for.
        pattern: Pattern of the path of a mask without suffix, with the groups `key` and `class`.
        are_numbered: Whether the names are numbers.
    """

    names: tuple[str, ...]
    by: CombineBy
    pattern: str
    are_numbered: bool

    @classmethod
    def of(cls, readings: Sequence[NameReading], files: Sequence[str]) -> SeveralMasks | None:
        """Return how the masks of these readings, one of each, combine; None where no pattern gives
        exactly these masks.

        Args:
            readings: Readings of the same images with different masks.
            files: Paths of all images and masks below the root.
        """
        if len(readings) < 2:
            return None
        for start, texts, end, patterns in _variants(readings):
            del end
            if not all(texts):
                continue
            are_numbered = all(text.isdecimal() for text in texts)
            is_class = not are_numbered or "class" in start.lower()
            by = CombineBy.CLASS if is_class else CombineBy.INSTANCE
            for pattern in patterns:
                wanted = _wanted(readings, texts if is_class else None)
                if combined(files, by, pattern) == wanted:
                    return cls(tuple(sorted(texts)), by, pattern, are_numbered)
        return None

    def command(self, root: Path) -> str:
        """Return the command that combines them."""
        return combine_command(root, self.by.value, self.pattern)


Groups = dict[str, frozenset[tuple[str, str]]]
_NUMBER = re.compile(r"(\d+)")


def tagged_masks(names: Sequence[str], files: Sequence[str]) -> SeveralMasks | None:
    """Return how masks combine whose names begin with the number of an image and hold a class, such
    as `task-7-annotation-3-by-1-tag-tumour-0`; None where no such pattern gives all of them.

    Args:
        names: Paths of masks below the root, all in one folder.
        files: Paths of all images and masks below the root.
    """
    folder = names[0].rpartition("/")[0]
    stems = [name.rpartition("/")[2].rpartition(".")[0] for name in names]
    plain = sorted({_NUMBER.sub("0", stem) for stem in stems})
    if len(plain) < 2:
        return None
    start, texts, end = _differing(plain)
    before = _NUMBER.split(start)
    if len(before) < 3 or not all(text.isidentifier() for text in texts):
        return None
    parts = [re.escape(text) if at % 2 == 0 else r"\d+" for at, text in enumerate(before)]
    parts[1] = r"(?P<key>\d+)"
    after = "".join(
        re.escape(text) if at % 2 == 0 else r"\d+" for at, text in enumerate(_NUMBER.split(end))
    )
    place = f"{re.escape(folder)}/" if folder else ""
    pattern = f"{place}{''.join(parts)}(?P<class>{_any(texts)}){after}"
    found = combined(files, CombineBy.CLASS, pattern)
    if found is None or sum(map(len, found.values())) != len(names):
        return None
    return SeveralMasks(tuple(sorted(texts)), CombineBy.CLASS, pattern, are_numbered=False)


def combined(files: Iterable[str], by: CombineBy, pattern: str | None = None) -> Groups | None:
    """Return what `histoprep import combine` would make of these files: for each image with masks
    their classes ("" by instance) and paths; None where a mask has no image or no class.

    Args:
        files: Paths of images and masks below the root.
        by: What each mask file is for.
        pattern: The value of --mask-pattern.
    """
    paths = [_TOP / file for file in files]
    compiled = compiled_pattern(pattern, by)
    is_mask = mask_test(paths, _TOP, None, None, compiled)
    images = [path for path in paths if not is_mask(path)]
    groups = group_masks(_TOP, images, [path for path in paths if is_mask(path)], compiled)
    is_class = by is CombineBy.CLASS
    if any(
        group.image is None or (is_class and not all(name for name, _ in group.masks))
        for group in groups
    ):
        return None
    return {
        group.name: frozenset(
            (name if is_class else "", path.relative_to(_TOP).as_posix())
            for name, path in group.masks
        )
        for group in groups
        if group.masks
    }


def are_variants(readings: Sequence[NameReading]) -> bool:
    """Return whether the masks of these readings differ in one part of their paths alone, and the
    images are named in one way.
    """
    return any(True for _ in _variants(readings))


def _wanted(readings: Sequence[NameReading], classes: Sequence[str] | None) -> Groups:
    masks: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for at, reading in enumerate(readings):
        for image, mask in reading.pairs:
            masks[image].add((classes[at] if classes else "", mask))
    return {image: frozenset(found) for image, found in masks.items()}


def _variants(
    readings: Sequence[NameReading],
) -> Iterator[tuple[str, list[str], str, list[str]]]:
    """Yield what stands before the differing part, the parts, what stands behind it, and the
    patterns that name it, for each way in which the masks of readings differ.
    """
    images, masks = {reading.image for reading in readings}, [reading.mask for reading in readings]
    if len(images) > 1 or any(reading.is_by_path or reading.places.joined for reading in readings):
        return
    stems = [_without_extension(mask) for mask in masks]
    if len(set(stems)) == 1:
        yield from _of_folders(readings, masks[0])
    elif _same_folders(readings):
        heads, tails = [mask.head for mask in masks], [mask.tail for mask in masks]
        if len(set(heads)) == 1 and len(set(tails)) == len(masks):
            start, texts, end = _differing(tails)
            key, after = f"{re.escape(heads[0])}(?P<key>.+){re.escape(start)}", re.escape(end)
            yield start, texts, end, [f"(.*/)?{key}(?P<class>{_any(texts)}){after}"]
        elif len(set(tails)) == 1 and len(set(heads)) == len(masks):
            start, texts, end = _differing(heads)
            key = f"{re.escape(end)}(?P<key>.+){re.escape(tails[0])}"
            yield start, texts, end, [f"(.*/)?{re.escape(start)}(?P<class>{_any(texts)}){key}"]


def _of_folders(
    readings: Sequence[NameReading], mask: Affixes
) -> Iterator[tuple[str, list[str], str, list[str]]]:
    """Yield what tells folders of masks from each other that differ in one part of their paths."""
    by_image = [dict(reading.pairs) for reading in readings]
    common = set(by_image[0]).intersection(*by_image[1:])
    for image in sorted(common)[:1]:
        parts = [masks[image].split("/")[:-1] for masks in by_image]
        if len({len(part) for part in parts}) > 1:
            return
        at = [level for level, names in enumerate(zip(*parts, strict=True)) if len(set(names)) > 1]
        if len(at) != 1 or len({part[at[0]] for part in parts}) < len(parts):
            return
        start, texts, end = _differing([part[at[0]] for part in parts])
        before = "".join(f"{re.escape(name)}/" for name in parts[0][: at[0]])
        folder = f"{re.escape(start)}(?P<class>{{}}){re.escape(end)}/"
        key = "(?P<key>.+)"
        if mask.head or mask.tail:
            key = f"(.*/)?{re.escape(mask.head)}(?P<key>[^/]+){re.escape(mask.tail)}"
        yield (
            start,
            texts,
            end,
            [
                f"{where}{folder.format(name)}{key}"
                for where in (before, "(.*/)?")
                for name in ("[^/]+", _any(texts))
            ],
        )


def _differing(names: Sequence[str]) -> tuple[str, list[str], str]:
    """Return the common beginning of names, which ends with a separator, what differs, and the
    common end, which begins with one.
    """
    first = names[0]
    start = next(
        (
            first[:cut]
            for cut in range(len(first) - 1, 0, -1)
            if not first[cut - 1].isalnum() and all(name.startswith(first[:cut]) for name in names)
        ),
        "",
    )
    rests = [name.removeprefix(start) for name in names]
    end = next(
        (
            rests[0][cut:]
            for cut in range(1, len(rests[0]))
            if not rests[0][cut].isalnum() and all(rest.endswith(rests[0][cut:]) for rest in rests)
        ),
        "",
    )
    return start, [rest.removesuffix(end) for rest in rests], end


def _same_folders(readings: Sequence[NameReading]) -> bool:
    folders = [{mask.rpartition("/")[0] for _, mask in reading.pairs} for reading in readings]
    return any(folders[0] & others for others in folders[1:]) or len(folders) == 1


def _without_extension(mask: Affixes) -> tuple[str, str, bool]:
    return mask.head, mask.tail, mask.is_numbered


def _any(texts: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts))
