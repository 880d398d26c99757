"""A short look at a folder -> how its names are to be read, where that is beyond doubt.

Layouts that the walk knows are left to it: the first pair that it would find ends the look.
Otherwise names are read in all ways that pair them, and a few files of each way are decoded, since
only masks look like labels. Folders, names and files looked at are limited, so that the time does
not grow with the data set.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from histoprep.choices import Layout
from histoprep.errors import BrokenFileError, UsageError
from histoprep.image_formats import mask_suffixes
from histoprep.imageio import read_header
from histoprep.names import is_left_alone
from histoprep.phrases import first_of, plural
from histoprep.remote import file_bytes
from histoprep.scanning.aligned_folders import aligned_readings
from histoprep.scanning.combining import SeveralMasks, are_variants, tagged_masks
from histoprep.scanning.commands import audit_command, options_words
from histoprep.scanning.content import Content, content_of, drawn_area
from histoprep.scanning.joined_names import joined_readings
from histoprep.scanning.layouts import (
    Affixes,
    FolderNames,
    NameReading,
    crossed,
    escaped,
    readings,
    without_zeros,
)
from histoprep.scanning.listing import ScanOptions
from histoprep.scanning.name_rules import NameRules, is_data
from histoprep.scanning.trial import gives_pairs
from histoprep.scanning.walk import IMAGE_FOLDERS, MASK_FOLDERS, first_named
from histoprep.schemas.workspace import SUFFIX as WORKSPACE_SUFFIX
from histoprep.visible import visible

_MAX_FOLDERS = 600
_MAX_BESIDE = 300
_MANY_FOLDERS = 20
_WITHOUT_DIGITS = dict.fromkeys(map(ord, "0123456789"))
_MAX_NAMES = 600
_MAX_ALL_NAMES = 1200
_LEAST_NAMES = 12
# Of more folders in one, the rest is not looked at.
_MAX_BELOW = 20_000
# Names of one folder that are tried for the layouts that the walk knows.
_MAX_TRIED = 64
_FILES_A_SIDE = 5
_FILES_A_FOLDER = 3
_MAX_READINGS = 24
# Folders that are tried where names of folders do not say what belongs together.
_MAX_CROSSED = 24
_MAX_FILE_BYTES = 64 << 20
# Readings with fewer pairs than this share of the best one are no rivals.
_RIVAL = 0.8
_MOSTLY = 0.6
_NEARLY_ALL = 0.95
# Masks of classes touch, and may overlap by the width of an outline.
_MAX_OVERLAP = 0.1
# A word, a number, and words behind it: `task-7-annotation-3-by-1-tag-tumour-0`.
_NUMBERED = re.compile(r"[^0-9]+[0-9]+[^0-9].*[A-Za-z]")
T = TypeVar("T")
_NAMES = ("images", "masks", "image_suffix", "mask_suffix", "image_pattern", "mask_pattern")


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a short look at a folder came to.

    Attributes:
        options: The options to read it with: those that were requested, or what was understood.
        words: One sentence that says what was understood; "" where nothing needed to be.
        has_labels_among_images: Whether some files that would be read as images look like labels.
    """

    options: ScanOptions
    words: str = ""
    has_labels_among_images: bool = False


def understand(root: Path, options: ScanOptions) -> Understanding:
    """Return how to read a folder.

    Raises:
        UsageError: Several readings are as good as each other; each is printed as a command.
    """
    is_said = options.pairs or options.image_pattern or options.mask_pattern
    if options.layout is not Layout.AUTO or is_said:
        return Understanding(options)
    look = _Look(root, options)
    if look.finds_known_layout():
        return Understanding(options, has_labels_among_images=look.has_labels_alone())
    possible = [
        reading for reading in readings(look.folders) if _agrees(reading.options(), options)
    ]
    best = _best(look.convincing(possible), look)
    wider: list[NameReading] = []
    if not best or len(best) > 1 or best[0].masks_paired < _NEARLY_ALL:
        # Masks of one folder may belong to images of several, wherever they lie.
        wider = [
            reading
            for reading in (
                *look.crossed(),
                *joined_readings(look.folders),
                *aligned_readings(look.folders),
            )
            if _agrees(reading.options(), options)
        ]
        best = _wider(best, _best(look.convincing(wider), look))
    if not best:
        if tagged := look.tagged_masks():
            raise _tagged(root, tagged)
        return Understanding(options, has_labels_among_images=look.has_labels())
    family = look.family(best, [*look.convincing(possible), *look.convincing(wider)])
    are_disjoint = len(family) > 1 and look.are_disjoint(family)
    if are_disjoint or len(best) > 1:
        raise _several(look, options, family if are_disjoint else best, are_disjoint=are_disjoint)
    chosen = with_reading(options, best[0])
    if all(getattr(chosen, name) == getattr(options, name) for name in _NAMES):
        return Understanding(options, has_labels_among_images=True)
    return Understanding(chosen, describe(best[0], options), has_labels_among_images=True)


def with_reading(options: ScanOptions, reading: NameReading) -> ScanOptions:
    """Return options that read as `reading` does."""
    names: dict[str, Any] = {**reading.options(), "layout": Layout.AUTO, "is_inferred": True}
    return replace(options, **names)


def describe(reading: NameReading, requested: ScanOptions | None = None) -> str:
    """Return what a reading says and which options say the same, in one line."""
    image, mask = reading.pairs[0]
    same = options_words(
        {
            name: value
            for name, value in reading.options().items()
            if requested is None or getattr(requested, name) != value
        }
    )
    return (
        f"layout understood: {_side(reading, 'image')} and {_side(reading, 'mask')}, such as"
        f" {visible(image)} and {visible(mask)};"
        f" {len(reading.pairs):,} of {plural(reading.num_masks, 'mask')} looked at have an image"
        f" (the same: {visible(same)})"
    )


def _side(reading: NameReading, side: str) -> str:
    """Return what is on one side: "images train_images/*" or "masks *_gt.*"."""
    places, is_image = reading.places, side == "image"
    affixes = reading.image if is_image else reading.mask
    if reading.is_by_path:
        return visible(f"{side}s */{affixes.head or '*'}")
    if joined := places.joined:
        named = joined.words(affixes, is_image=is_image)
        return visible(f"{side}s {named}.{'|'.join(affixes.extensions) or '*'}")
    folder = f"{places.images if is_image else places.masks}/"
    if places.are_siblings or (places.are_nested and is_image):
        folder = ""
    if places.crossed:
        folders = places.crossed[not is_image]
        folder = folders[0] if len(folders) == 1 else f"({'|'.join(folders)})"
    end = "|".join(affixes.extensions)
    middle = "N" if affixes.is_numbered else "*"
    named = f"{affixes.head}{middle}{affixes.tail}{'*' if affixes.is_numbered else ''}"
    if end or affixes.tail:
        named += f".{end or '*'}"
    return visible(f"{side}s {folder}{named}")


def _agrees(found: dict[str, str], options: ScanOptions) -> bool:
    """Return whether a reading leaves what was requested as it is; it may add an extension."""
    default = ScanOptions()
    for name in _NAMES:
        requested, usual = getattr(options, name), getattr(default, name)
        chosen = found.get(name, usual)
        if requested in (usual, chosen):
            continue
        end = (chosen or "").removeprefix(requested)
        is_longer = name.endswith("suffix") and end != chosen and is_data(f"x{end}")
        if not is_longer and not (requested == "" and is_data(f"x{chosen}")):
            return False
    return True


def _best(convincing: Sequence[NameReading], look: _Look) -> list[NameReading]:
    """Return the readings that no other one is better than: most pairs, then masks that are a class
    map and named like one.
    """
    most = max((len(reading.pairs) for reading in convincing), default=0)
    rivals = [reading for reading in convincing if len(reading.pairs) >= _RIVAL * most]
    ranks = [look.rank(reading) for reading in rivals]
    least = min(ranks, default=None)
    best = [reading for reading, rank in zip(rivals, ranks, strict=True) if rank == least]
    # The same pairs, more or fewer of them, are no question.
    chosen: list[NameReading] = []
    for reading in sorted(best, key=lambda reading: (-len(reading.pairs), reading.length)):
        if not any(_is_part_of(reading, other) for other in chosen):
            chosen.append(reading)
    fitting = [reading for reading in chosen if len(chosen) > 1 and look.sizes_agree(reading)]
    return fitting or chosen


def _is_part_of(reading: NameReading, other: NameReading) -> bool:
    """Return whether a reading pairs nothing that a better one does not pair as well."""
    if set(reading.pairs) <= set(other.pairs):
        return True
    (images, masks), (other_images, other_masks) = (
        (set(side) for side in zip(*found.pairs, strict=True)) for found in (reading, other)
    )
    # Longer keys that pair the same masks are no accident; but other images of the same keys are
    # of another kind.
    are_of_another_kind = reading.mask == other.mask and not images & other_images
    return other.length < reading.length and masks <= other_masks and not are_of_another_kind


def _wider(best: list[NameReading], wider: list[NameReading]) -> list[NameReading]:
    """Return the second readings where they pair clearly more than the first."""
    pairs, more = (max((len(item.pairs) for item in found), default=0) for found in (best, wider))
    return wider if more * _RIVAL > pairs else best


def _several(
    look: _Look, options: ScanOptions, best: Sequence[NameReading], *, are_disjoint: bool
) -> UsageError:
    root = look.root
    requested = {
        name: value
        for name, value in asdict(options).items()
        if name in _NAMES and value != getattr(ScanOptions(), name)
    }
    commands = [audit_command(root, requested | reading.options()) for reading in best]
    details = [
        f"{command}  # {plural(len(reading.pairs), 'pair')},"
        f" such as {' and '.join(reading.pairs[0])}"
        for command, reading in zip(commands, best, strict=True)
    ]
    masks = {mask for _, mask in best[0].pairs}
    are_of_images = all(masks & {mask for _, mask in reading.pairs} for reading in best)
    sides = ("masks", "images") if are_of_images else ("images", "masks")
    what = "these {} have {} of {} kinds, and nothing says which of them count".format(
        *sides, len(best)
    )
    if several := look.several_masks(best):
        combined = f"{several.command(root)}  # one mask of all"
        if several.are_numbered:
            what = f"these images have {len(best)} numbered masks each, and a tile has one"
        elif are_disjoint:
            what = (
                f"these images have masks of {len(best)} classes each, and a tile has one mask:"
                f" {first_of(several.names)}"
            )
        is_first = several.are_numbered or are_disjoint
        details = [combined, *details] if is_first else [*details, combined]
    if joined := look.of_different_images(best):
        suffixes, pairs = joined
        command = audit_command(root, requested | suffixes)
        words = f"{command}  # {plural(len(pairs), 'pair')}, each image with the mask that it has"
        # Masks of two values may be of a class each, which their names alone tell.
        details = [*details, words] if look.are_of_two_values(pairs) else [words, *details]
    return UsageError(
        what,
        path=root,
        details=details,
        hint="one of these commands; later commands keep the choice",
    )


def _tagged(root: Path, masks: SeveralMasks) -> UsageError:
    return UsageError(
        f"these images have masks of {len(masks.names)} classes, each in a file with the number of"
        f" its image, and a tile has one mask: {first_of(masks.names)}",
        path=root,
        hint=masks.command(root),
    )


@dataclass(slots=True)
class _Look:
    """What is seen of a folder in a short look."""

    root: Path
    options: ScanOptions
    folders: list[FolderNames] = field(default_factory=list)
    contents: dict[str, Content] = field(default_factory=dict)
    verdicts: dict[NameReading, bool] = field(default_factory=dict)

    def finds_known_layout(self) -> bool:
        """List some folders, and return whether the walk would pair anything in them as it is."""
        waiting, num_names = [("", _MAX_NAMES)], 0
        rules = NameRules.of(self.options)
        while waiting and len(self.folders) < _MAX_FOLDERS and num_names < _MAX_ALL_NAMES:
            path, most = waiting.pop(0)
            names, below, is_complete = self._list(path, most)
            has = (
                frozenset(names).__contains__
                if is_complete
                else lambda name, path=path: os.path.lexists(os.path.join(self.root, path, name))
            )
            folder = FolderNames(path, tuple(sorted(names)), is_complete, has)
            self.folders.append(folder)
            num_names += len(names)
            if self._pairs_mirrored(path, below, rules) or _pairs_siblings(folder, rules):
                return True
            # Depth first below few folders, so that samples with folders of their own are seen
            # whole.
            # A few names of each of many folders say more than all names of the first.
            few = min(most, max(_LEAST_NAMES, _MAX_ALL_NAMES // (len(below) or 1)))
            waiting[:0] = [
                (f"{path}{name}/", few if is_of_many else most)
                for name, is_of_many in _rarest_first(below)[:_MAX_BESIDE]
            ]
        return False

    def _list(self, path: str, most: int = _MAX_NAMES) -> tuple[list[str], list[str], bool]:
        """Return some names of image files, at most `most`, the folders, and whether these are all
        names.
        """
        names: list[str] = []
        below: list[str] = []
        follow = self.options.follow_links
        skip = {str(folder.resolve()) for folder in self.options.unlabelled}
        with suppress(OSError), os.scandir(os.path.join(self.root, path)) as entries:
            for entry in entries:
                name = entry.name
                if entry.is_dir(follow_symlinks=follow):
                    is_ours = is_left_alone(name) or name.endswith(WORKSPACE_SUFFIX)
                    if not is_ours and entry.path not in skip:
                        below.append(name)
                        if len(below) >= _MAX_BELOW:
                            break
                elif is_data(name) and entry.is_file(follow_symlinks=True):
                    names.append(name)
                    if len(names) >= most:
                        return names, sorted(below), False
        return names, sorted(below), True

    def _pairs_mirrored(self, path: str, below: list[str], rules: NameRules) -> bool:
        """Return whether folders of images and masks that the walk knows hold a pair."""
        options = self.options
        images = first_named(below, (options.images,) if options.images else IMAGE_FOLDERS)
        masks = first_named(below, (options.masks,) if options.masks else MASK_FOLDERS)
        if not (images and masks):
            return False
        stack = [""]
        for _ in range(_MAX_TRIED):
            if not stack:
                break
            inner = stack.pop()
            names, folders, _ = self._list(f"{path}{masks}/{inner}")
            stack += [f"{inner}{name}/" for name in reversed(folders[:_MAX_TRIED])]
            place = self.root / path / images / inner
            lost: list[str] = []
            has_pair = False
            for name in names[:_MAX_TRIED]:
                key = rules.mask_key(name, alone=True)
                stems = {key, name.rpartition(".")[0]} - {None}
                if any(self._image_is_there(place, str(stem)) for stem in stems):
                    has_pair = True
                else:
                    lost += map(str, stems)
            if has_pair:
                return not self._are_padded(lost, f"{path}{images}/{inner}")
        return False

    def _are_padded(self, stems: list[str], folder: str) -> bool:
        """Return whether masks without an image have one but for zeros before a number."""
        if not stems:
            return False
        known = {without_zeros(name.rpartition(".")[0]) for name in self._list(folder)[0]}
        return any(without_zeros(stem) in known for stem in stems)

    def _image_is_there(self, place: Path, stem: str) -> bool:
        rules = NameRules.of(self.options)
        if rules.image_pattern or rules.image_end.stem_end:
            stem += rules.image_end.stem_end
        return any(
            os.path.lexists(place / f"{stem}.{end}")
            for suffix in mask_suffixes()
            for end in (suffix, suffix.upper())
        )

    def content(self, path: str) -> Content:
        """Return what a file looks like; each is opened once."""
        if path not in self.contents:
            self.contents[path] = Content.UNKNOWN
            try:
                file = Path(os.path.join(self.root, path))
                if file.stat().st_size <= _MAX_FILE_BYTES:
                    self.contents[path] = content_of(file_bytes(file))
            except OSError:
                pass
        return self.contents[path]

    def crossed(self) -> list[NameReading]:
        """Return readings of folders that hold labels alone with those that hold images alone,
        wherever they lie.
        """
        sides: dict[Content, list[FolderNames]] = {}
        for folder in self.folders[:_MAX_CROSSED]:
            if folder.names:
                chosen = [folder.path + name for name in _spread(folder.names, _FILES_A_FOLDER)]
                sides.setdefault(self._looks(chosen), []).append(folder)
        images, masks = sides.get(Content.IMAGE, []), sides.get(Content.CLASSES, [])
        found = [reading for folder in masks for reading in crossed(images, [folder])]
        return found or (crossed(images, masks) if len(masks) > 1 else [])

    def family(
        self, best: Sequence[NameReading], convincing: Iterable[NameReading]
    ) -> list[NameReading]:
        """Return the best readings and those whose masks differ from theirs in one part of a path
        alone, though they may be fewer.
        """
        found = list(best)
        if found and all(are_variants([found[0], other]) for other in found[1:]):
            taken = {mask for reading in found for _, mask in reading.pairs}
            for reading in convincing:
                masks = {mask for _, mask in reading.pairs}
                if not masks & taken and are_variants([found[0], reading]):
                    found.append(reading)
                    taken |= masks
        return found

    def several_masks(self, best: Sequence[NameReading]) -> SeveralMasks | None:
        """Return how the masks of these readings combine, None where a pattern cannot say it."""
        if not all(folder.is_complete for folder in self.folders):
            return None
        files = (folder.path + name for folder in self.folders for name in folder.names)
        return SeveralMasks.of(best, list(files))

    def are_of_two_values(self, pairs: Sequence[tuple[str, str]]) -> bool:
        """Return whether the masks of a few pairs hold two values at most."""
        return all(self._area(mask) is not None for _, mask in _spread(pairs, _FILES_A_SIDE))

    def tagged_masks(self) -> SeveralMasks | None:
        """Return how masks of several classes combine that lie in one folder and are called by the
        number of their image.
        """
        if not all(folder.is_complete for folder in self.folders):
            return None
        files = [folder.path + name for folder in self.folders for name in folder.names]
        for folder in self.folders[:_MAX_CROSSED]:
            names = [folder.path + name for name in folder.names]
            numbered = [name for name in names if _NUMBERED.match(name.rpartition("/")[2])]
            if len(numbered) < 2 or self._looks(_spread(numbered, _FILES_A_SIDE)) is not (
                Content.CLASSES
            ):
                continue
            if found := tagged_masks(numbered, files):
                return found
        return None

    def of_different_images(
        self, best: Sequence[NameReading]
    ) -> tuple[dict[str, str], tuple[tuple[str, str], ...]] | None:
        """Return the options and pairs that join readings whose masks have suffixes of their own,
        such as that of who drew them, and belong to different images; None where they are no such.
        """
        first = best[0]
        joined: list[NameReading] = []
        taken: set[str] = set()
        for reading in sorted(self.verdicts, key=lambda reading: -len(reading.pairs)):
            images = {image for image, _ in reading.pairs}
            is_of_them = (
                self.verdicts[reading]
                and reading.places == first.places
                and reading.image == first.image
                and reading.mask == Affixes(tail=reading.mask.tail)
                and reading.mask.tail
            )
            if is_of_them and not images & taken:
                joined.append(reading)
                taken |= images
        if len(joined) < 2 or not set(best) <= set(joined):
            return None
        tails = "|".join(sorted(escaped(reading.mask.tail) for reading in joined))
        options = {name: value for name, value in first.options().items() if name != "mask_suffix"}
        options["mask_pattern"] = rf"^(?P<key>.+)({tails})\.[^.]+$"
        pairs = tuple(sorted(pair for reading in joined for pair in reading.pairs))
        named: dict[str, Any] = {**options, "layout": Layout.AUTO}
        is_exact = gives_pairs(
            pairs,
            (folder.path + name for folder in self.folders for name in folder.names),
            replace(self.options, **named),
            is_complete=all(folder.is_complete for folder in self.folders),
        )
        return (options, pairs) if is_exact else None

    def are_disjoint(self, best: Sequence[NameReading]) -> bool:
        """Return whether the masks of an image, one of each reading, hold two values each and do
        not lie over each other: they are classes of it, not the views of several readers.
        """
        masks_of: defaultdict[str, list[str]] = defaultdict(list)
        for reading in best:
            for image, mask in reading.pairs:
                masks_of[image].append(mask)
        several = [masks for masks in masks_of.values() if len(masks) > 1]
        seen = [self._overlap(masks) for masks in _spread(several, _FILES_A_SIDE)]
        shares = [share for share in seen if share is not None]
        return bool(shares) and None not in seen[:1] and max(shares) <= _MAX_OVERLAP

    def _overlap(self, masks: Sequence[str]) -> float | None:
        """Return the share of the smaller of two masks that the other one covers, at most; None
        where they cannot be compared.
        """
        areas = [self._area(mask) for mask in masks]
        drawn = [area for area in areas if area is not None and area.any()]
        if len(drawn) < 2 or any(area is None for area in areas):
            return None
        if len({area.shape for area in drawn}) > 1:
            return None
        return max(
            float((first & second).sum() / min(first.sum(), second.sum()))
            for first, second in itertools.combinations(drawn, 2)
        )

    def _area(self, path: str) -> np.ndarray | None:
        """Return where a mask of two values is drawn, bool [height, width]; None for others."""
        try:
            return drawn_area(file_bytes(os.path.join(self.root, path)))
        except OSError:
            return None

    def convincing(self, possible: Sequence[NameReading]) -> list[NameReading]:
        """Return the convincing readings among the first."""
        return [reading for reading in possible[:_MAX_READINGS] if self.is_convincing(reading)]

    def is_convincing(self, reading: NameReading) -> bool:
        """Return whether a reading looks right, and a scan with its options gives its pairs."""
        if reading not in self.verdicts:
            self.verdicts[reading] = self._looks_right(reading) and self._gives_pairs(reading)
        return self.verdicts[reading]

    def _gives_pairs(self, reading: NameReading) -> bool:
        return gives_pairs(
            reading.pairs,
            (folder.path + name for folder in self.folders for name in folder.names),
            with_reading(self.options, reading),
            is_complete=all(folder.is_complete for folder in self.folders),
        )

    def _looks_right(self, reading: NameReading) -> bool:
        """Return whether the images of a reading look like images and its masks like labels, or are
        named so where nothing can be seen.
        """
        chosen = _spread(reading.pairs, _FILES_A_SIDE)
        # Two photographs are enough where nobody calls them masks.
        first = [self.content(mask) for _, mask in chosen[:2]]
        if not reading.named_like_masks and set(first) == {Content.IMAGE}:
            return False
        images = self._looks([image for image, _ in chosen])
        masks = self._looks([mask for _, mask in chosen])
        if images is Content.CLASSES or (images is Content.UNKNOWN and masks is Content.IMAGE):
            return False
        if masks is Content.CLASSES:
            return images is Content.IMAGE or reading.named_like_masks
        if masks is Content.IMAGE:
            return False
        return reading.named_like_masks and (images, masks) != (Content.BLANK, Content.BLANK)

    def _looks(self, paths: Iterable[str]) -> Content:
        """Return whether most of these files look like labels (`CLASSES`) or like images."""
        seen = [self.content(path) for path in paths]
        labels = sum(content.is_labels for content in seen)
        photographs = seen.count(Content.IMAGE)
        if labels + photographs == 0:
            return Content.BLANK if Content.BLANK in seen else Content.UNKNOWN
        share = labels / (labels + photographs)
        return (
            Content.CLASSES
            if share >= _MOSTLY
            else Content.IMAGE
            if share <= 1 - _MOSTLY
            else Content.UNKNOWN
        )

    def rank(self, reading: NameReading) -> tuple[int, int]:
        """Return how good masks are, the smallest number best: by their names, then by what is in
        them.
        """
        seen = [self.content(mask) for _, mask in _spread(reading.pairs, _FILES_A_SIDE)]
        # Colours are a view of the labels; classes and instances are a choice.
        return reading.rank, int(seen.count(Content.COLOURS) > len(seen) / 2)

    def sizes_agree(self, reading: NameReading) -> bool:
        """Return whether images and masks of a few pairs have the same size, where it is known."""
        sizes = [
            (self._size(image), self._size(mask))
            for image, mask in _spread(reading.pairs, _FILES_A_FOLDER)
        ]
        return all(image == mask for image, mask in sizes if image and mask)

    def _size(self, path: str) -> tuple[int, int] | None:
        """Return width and height of an image file; None for one that cannot be read."""
        try:
            header = read_header(file_bytes(Path(os.path.join(self.root, path))))
        except (OSError, BrokenFileError):
            return None
        return header.width_px, header.height_px

    def has_labels_alone(self) -> bool:
        """Return whether some files without a mask look like labels, of a few in the folder that
        was listed last.
        """
        folder, rules = self.folders[-1], NameRules.of(self.options)
        ends = {name.rpartition(".")[2] for name in folder.names}
        alone = [
            name
            for name in folder.names[:_MAX_TRIED]
            if (keys := rules.keys_of(name))[0] is None
            and not any(folder.has(f"{keys[1]}{rules.mask_end.stem_end}.{end}") for end in ends)
        ]
        return any(
            self.content(folder.path + name).is_labels for name in _spread(alone, _FILES_A_SIDE)
        )

    def has_labels(self) -> bool:
        """Return whether some files look like labels, of a few of each folder and extension."""
        for folder in self.folders:
            by_extension: dict[str, list[str]] = {}
            for name in folder.names:
                by_extension.setdefault(name.rpartition(".")[2].lower(), []).append(name)
            for names in by_extension.values():
                for name in _spread(names, _FILES_A_SIDE):
                    if self.content(folder.path + name).is_labels:
                        return True
            if len(self.contents) > 8 * _FILES_A_SIDE * len(Content):
                break
        return False


def _pairs_siblings(folder: FolderNames, rules: NameRules) -> bool:
    """Return whether a folder holds an image beside a mask with the requested suffix."""
    if not rules.mask_end.stem_end and rules.mask_end.extension is None:
        return False
    endings = {name.rpartition(".")[2] for name in folder.names}
    for name in itertools.islice(folder.names, _MAX_NAMES):
        mask_key, _ = rules.keys_of(name)
        if mask_key is not None and any(
            folder.has(f"{mask_key}{rules.image_end.stem_end}.{ending}") for ending in endings
        ):
            return True
    return False


def _rarest_first(names: list[str]) -> list[tuple[str, bool]]:
    """Return names of folders in the order to look at them, and whether each counts with many
    others. Such come last: the folder of masks may lie beside hundreds of slides.
    """
    if len(names) <= _MANY_FOLDERS:
        return [(name, False) for name in names]
    kinds = {name: name.translate(_WITHOUT_DIGITS) for name in names}
    counts = Counter(kinds.values())
    ordered = sorted(names, key=lambda name: (counts[kinds[name]], name))
    return [(name, counts[kinds[name]] > _MANY_FOLDERS) for name in ordered]


def _spread(items: Sequence[T], number: int) -> list[T]:
    """Return a few items from all over a sequence."""
    step = max(1, len(items) // number)
    return list(items[: step * number : step])
