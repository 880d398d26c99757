"""Folders of images and of masks whose paths differ in more than one part, or by an affix of each
sample: `tiles/S1/0.png` with `masks/S1_mask/0.png`, `S1/S1_image/0.png` with `S1/S1_lesion/0.png`.
Pure: names in, readings out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from histoprep.scanning.layouts import (
    Affixes,
    FolderNames,
    NameReading,
    Places,
    escaped,
    name_pattern,
    named_readings,
)
from histoprep.scanning.name_rules import KEY

# Of the folders, so many are held against so many others, and these ways are tried on some folders
# before a few of them are on all.
_MAX_FIRST = 3
_MAX_OTHERS = 60
_MAX_TRIED = 4
# Groups of a pattern are key to key9, and file names may need three of them.
_MAX_DEPTH = 6
_SEPARATORS = "_-. "


class _Level(NamedTuple):
    """How a part of the path of images becomes that of masks: what is not affixes stays."""

    image: Affixes
    mask: Affixes
    is_fixed: bool = False
    """Whether the affixes are the whole names, called `head`."""

    def of_mask(self, part: str) -> str | None:
        """Return the part of the masks' path for that of the images; None where it does not fit."""
        head, tail = self.image.head, self.image.tail
        if self.is_fixed:
            return self.mask.head if part == head else None
        if len(part) <= len(head) + len(tail) or not (
            part.startswith(head) and part.endswith(tail)
        ):
            return None
        return self.mask.head + part[len(head) : len(part) - len(tail)] + self.mask.tail


@dataclass(frozen=True, slots=True)
class AlignedFolders:
    """How the paths of both sides follow from each other, part by part."""

    levels: tuple[_Level, ...]

    def pattern(self, affixes: Affixes, *, is_image: bool) -> str:
        """Return the pattern of the paths of one side."""
        parts, number = "", 1
        for level in self.levels:
            side = level.image if is_image else level.mask
            if level.is_fixed:
                parts += f"{escaped(side.head)}/"
            else:
                parts += f"{escaped(side.head)}(?P<{_group(number)}>[^/]+){escaped(side.tail)}/"
                number += 1
        return f"^{parts}{name_pattern(affixes, _group(number))}"

    def words(self, affixes: Affixes, *, is_image: bool) -> str:
        """Return where one side lies: `tiles/FOLDER/*`."""
        sides = [level.image if is_image else level.mask for level in self.levels]
        folders = [
            side.head if level.is_fixed else f"{side.head}FOLDER{side.tail}"
            for level, side in zip(self.levels, sides, strict=True)
        ]
        return "/".join([*folders, f"{affixes.head}*{affixes.tail}"])

    def of_masks(self, parts: Sequence[str]) -> tuple[str, ...] | None:
        """Return the parts of the path of masks, None where the images' path does not fit."""
        found = [level.of_mask(part) for level, part in zip(self.levels, parts, strict=True)]
        return None if None in found else tuple(map(str, found))

    def pairs(
        self, paths: Iterable[tuple[str, ...]], folders: Mapping[tuple[str, ...], FolderNames]
    ) -> Iterator[tuple[FolderNames, FolderNames]]:
        """Yield the folders at these paths with those of their masks, where both are there."""
        for parts in paths:
            masks = self.of_masks(parts)
            if masks is not None and masks != parts and masks in folders:
                yield folders[parts], folders[masks]

    def differing(self, *, is_image: bool) -> str:
        """Return what is in the paths of one side alone."""
        sides = [level.image if is_image else level.mask for level in self.levels]
        return " ".join(text for side in sides for text in (side.head, side.tail) if text)


def _group(number: int) -> str:
    return f"{KEY}{number if number > 1 else ''}"


def aligned_readings(folders: Sequence[FolderNames]) -> list[NameReading]:
    """Return the readings in which the path of each folder of masks follows from that of one with
    images, most pairs first.
    """
    by_depth: defaultdict[int, dict[tuple[str, ...], FolderNames]] = defaultdict(dict)
    for folder in folders:
        parts = tuple(folder.path.split("/")[:-1])
        if folder.names and 1 < len(parts) <= _MAX_DEPTH:
            by_depth[len(parts)][parts] = folder
    found: list[NameReading] = []
    for by_parts in by_depth.values():
        some = list(by_parts)[:_MAX_OTHERS]
        ways = dict.fromkeys(_alignments(list(by_parts)))
        by_number = sorted(ways, key=lambda way: -sum(1 for _ in way.pairs(some, by_parts)))
        for way in by_number[:_MAX_TRIED]:
            words = [way.differing(is_image=is_image) for is_image in (True, False)]
            pairs = tuple(way.pairs(list(by_parts), by_parts))
            found += named_readings(Places(pairs, words[0], words[1], joined=way))
    return sorted(found, key=lambda reading: -len(reading.pairs))


def _alignments(paths: Sequence[tuple[str, ...]]) -> Iterator[AlignedFolders]:
    """Yield how the paths of some folders become those of others, both ways."""
    firsts = paths[:: max(1, len(paths) // _MAX_FIRST)][:_MAX_FIRST]
    for first in firsts:
        for other in paths[:_MAX_OTHERS]:
            levels = tuple(_level(part, second) for part, second in zip(first, other, strict=True))
            differing = [level for level in levels if level.image != level.mask]
            # Two names of folders in one place are what other readings are made of.
            if len(differing) > 1 or (differing and not differing[0].is_fixed):
                yield AlignedFolders(levels)
                yield AlignedFolders(
                    tuple(level._replace(image=level.mask, mask=level.image) for level in levels)
                )


def _level(first: str, second: str) -> _Level:
    """Return how one name of a folder becomes another: by affixes, or as a whole."""
    if first == second:
        return _Level(Affixes(), Affixes())
    start = _common(first, second)
    if start and all(_is_tail(name, start) for name in (first, second)):
        return _Level(Affixes(tail=first[start:]), Affixes(tail=second[start:]))
    end = _common(first[::-1], second[::-1])
    if end and all(_is_head(name, len(name) - end) for name in (first, second)):
        return _Level(Affixes(head=first[:-end]), Affixes(head=second[:-end]))
    return _Level(Affixes(head=first), Affixes(head=second), is_fixed=True)


def _common(first: str, second: str) -> int:
    """Return how many characters two names begin with in common, without separators behind them."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return len("".join(letter for letter, _ in alike).rstrip(_SEPARATORS))


def _is_tail(name: str, start: int) -> bool:
    """Return whether a name from a place on is an ending with words of its own, or nothing."""
    rest = name[start:]
    return not rest or not rest[0].isalnum() or (name[start - 1].isdigit() and rest[0].isalpha())


def _is_head(name: str, end: int) -> bool:
    return (
        end == 0 or not name[end - 1].isalnum() or (name[end - 1].isalpha() and name[end].isdigit())
    )
