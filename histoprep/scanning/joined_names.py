"""Folders on one side whose names stand in the file names of the other: `A/0.png` with `A_0.png`.
Pure: names in, readings out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from histoprep.scanning.layouts import (
    FolderNames,
    JoinedFolders,
    NameReading,
    Places,
    named_readings,
)

_SEPARATORS = ("_", "-", " ", ".", "__", "+")
_MAX_DEPTH = 3
# Folders without a common scheme are listed in a pattern up to this number.
_MAX_LISTED = 20
# So many folders with joined names are tried.
_MAX_TRIED = 24
# So many names of the flat side show whether they begin with names of folders.
_MAX_LOOKED = 200
# Of more folders only those are held against names whose first word stands there.
_MANY = 50
_WORD_END = re.compile(r"[_\-. +\n]+")


@dataclass(frozen=True, slots=True)
class _Deep:
    """Folders whose last parts join with the names in them; `parts` are those of each folder."""

    folders: tuple[FolderNames, ...]
    parts: tuple[tuple[str, ...], ...]
    separator: str

    @property
    def starts(self) -> tuple[str, ...]:
        """Return the paths before the joined parts, each once."""
        cut = (
            folder.path.removesuffix("/".join(parts) + "/")
            for folder, parts in zip(self.folders, self.parts, strict=True)
        )
        return tuple(dict.fromkeys(cut))

    def path_of(self, joined: str) -> str | None:
        """Return the path of a file by its joined name, None where there is no such file."""
        for folder, parts in zip(self.folders, self.parts, strict=True):
            start = self.separator.join(parts) + self.separator
            name = joined.removeprefix(start)
            if name != joined and folder.has(name):
                return folder.path + name
        return None

    def pooled(self, path: str) -> FolderNames | None:
        """Return one folder, called `path`, with all joined names; None where two files have one
        joined name.
        """
        names = [
            self.separator.join((*parts, name))
            for folder, parts in zip(self.folders, self.parts, strict=True)
            for name in folder.names
        ]
        if len(set(names)) < len(names):
            return None
        is_complete = all(folder.is_complete for folder in self.folders)
        return FolderNames(
            path, tuple(sorted(names)), is_complete, lambda name: self.path_of(name) is not None
        )


def joined_readings(folders: Sequence[FolderNames]) -> list[NameReading]:
    """Return the readings in which the folders of one side are named in the files of the other,
    most pairs first.
    """
    holding = [folder for folder in folders if folder.names]
    found: list[NameReading] = []
    for group in _groups([*_candidates(holding)][:_MAX_TRIED]):
        for images_are_deep in (True, False):
            found += _readings_of(group, images_are_deep=images_are_deep)
    return sorted(found, key=lambda reading: -len(reading.pairs))


def _candidates(holding: Sequence[FolderNames]) -> Iterator[tuple[_Deep, FolderNames]]:
    """Yield folders whose names stand in the names of a further folder, with that."""
    by_word = _by_word(holding)
    for flat in holding:
        text = "\n".join(flat.names[:_MAX_LOOKED])
        likely = holding if by_word is None else _called_in(text, by_word)
        for depth in range(1, _MAX_DEPTH + 1):
            for separator in _SEPARATORS:
                chosen = []
                for folder in likely:
                    parts = tuple(folder.path.split("/")[:-1])[-depth:]
                    start = separator.join(parts) + separator
                    if folder is not flat and len(parts) == depth and start in text:
                        chosen.append((folder, parts))
                if chosen:
                    deep, parts_of = zip(*chosen, strict=True)
                    yield _Deep(deep, parts_of, separator), flat


def _by_word(holding: Sequence[FolderNames]) -> dict[str, list[tuple[int, FolderNames]]] | None:
    """Return folders, with their places, by the first word of the last part of their paths; None
    for few folders, which are all held against each other.
    """
    if len(holding) <= _MANY:
        return None
    found: defaultdict[str, list[tuple[int, FolderNames]]] = defaultdict(list)
    for at, folder in enumerate(holding):
        last = folder.path[:-1].rpartition("/")[2]
        found[_WORD_END.split(last, maxsplit=1)[0]].append((at, folder))
    return found


def _called_in(
    text: str, by_word: dict[str, list[tuple[int, FolderNames]]]
) -> Sequence[FolderNames]:
    """Return the folders whose first word stands in a text, in their order."""
    words = set(_WORD_END.split(text)) & by_word.keys()
    chosen = sorted(
        (entry for word in words for entry in by_word[word]), key=lambda entry: entry[0]
    )
    return [folder for _, folder in chosen]


def _groups(
    candidates: Sequence[tuple[_Deep, FolderNames]],
) -> Iterator[list[tuple[_Deep, FolderNames]]]:
    """Yield each candidate alone, and together those whose two folders differ in the same part of
    their paths: `train/images/A` with `train/masks`, `val/images/A` with `val/masks`.
    """
    together: defaultdict[tuple[object, ...], list[tuple[_Deep, FolderNames]]] = defaultdict(list)
    for deep, flat in candidates:
        yield [(deep, flat)]
        by_start: defaultdict[str, list[int]] = defaultdict(list)
        for at, (folder, parts) in enumerate(zip(deep.folders, deep.parts, strict=True)):
            by_start[folder.path.removesuffix("/".join(parts) + "/")].append(at)
        for start, chosen in by_start.items():
            if names := _differing(start, flat.path):
                part = _Deep(
                    tuple(deep.folders[at] for at in chosen),
                    tuple(deep.parts[at] for at in chosen),
                    deep.separator,
                )
                key = (names, deep.separator, len(deep.parts[0]))
                together[key].append((part, flat))
    yield from (group for group in together.values() if len(group) > 1)


def _differing(first: str, second: str) -> tuple[str, str] | None:
    """Return the one part in which two paths differ, None where they differ otherwise."""
    parts = first.split("/"), second.split("/")
    if len(parts[0]) != len(parts[1]):
        return None
    differing = [pair for pair in zip(*parts, strict=True) if pair[0] != pair[1]]
    return differing[0] if len(differing) == 1 else None


def _readings_of(
    group: list[tuple[_Deep, FolderNames]], *, images_are_deep: bool
) -> Iterator[NameReading]:
    joined = _joined(group, images_are_deep=images_are_deep)
    if joined is None:
        return
    places, pools = [], {}
    for number, (deep, flat) in enumerate(group):
        # No folder is called so.
        pooled = deep.pooled(f"\0{number}/")
        if pooled is None:
            return
        pools[pooled.path] = deep
        places.append((pooled, flat) if images_are_deep else (flat, pooled))
    paths = group[0][0].starts[0], group[0][1].path
    names = [path.rstrip("/").rpartition("/")[2] for path in paths]
    images, masks = names if images_are_deep else reversed(names)
    for reading in named_readings(Places(tuple(places), images, masks, joined=joined)):
        of_deep = reading.image if images_are_deep else reading.mask
        if of_deep.head or reading.image.is_numbered or reading.mask.is_numbered:
            continue
        pairs = sorted(
            (_real_path(image, pools), _real_path(mask, pools)) for image, mask in reading.pairs
        )
        yield replace(reading, pairs=tuple(pairs))


def _real_path(path: str, pools: dict[str, _Deep]) -> str:
    """Return the path of a file that may be called by its joined name in a pooled folder."""
    folder, slash, name = path.rpartition("/")
    pool = pools.get(folder + slash)
    return path if pool is None else str(pool.path_of(name))


def _joined(
    group: list[tuple[_Deep, FolderNames]], *, images_are_deep: bool
) -> JoinedFolders | None:
    """Return how the parts of the names are told apart, None where a pattern cannot."""
    separator = group[0][0].separator
    by_level = zip(*(parts for deep, _ in group for parts in deep.parts), strict=True)
    levels = [_level_pattern(sorted(set(level)), separator) for level in by_level]
    if None in levels:
        return None
    if len(group) > 1:
        deep_start, flat_start = (
            f"(?P<key>(.*/)?){re.escape(name)}/"
            for name in _differing(group[0][0].starts[0], group[0][1].path) or ("", "")
        )
    else:
        deep_start, flat_start = _any_start(group[0][0].starts), re.escape(group[0][1].path)
    return JoinedFolders(
        images_are_deep, deep_start, flat_start, tuple(map(str, levels)), separator
    )


def _any_start(starts: tuple[str, ...]) -> str:
    parts = [re.escape(start) for start in starts]
    return parts[0] if len(parts) == 1 else f"({'|'.join(parts)})"


def _level_pattern(names: list[str], separator: str) -> str | None:
    """Return a pattern of these names of folders where a separator follows: by the number of
    separators in them, or else the names themselves, where they are few.
    """
    numbers = {name.count(separator) for name in names}
    part = f"[^/{re.escape(separator)}]+" if len(separator) == 1 else None
    if len(numbers) == 1 and part:
        number = numbers.pop()
        return part + f"({re.escape(separator)}{part}){{{number}}}" * bool(number)
    if len(names) > _MAX_LISTED:
        return None
    # Of two names that a file may begin with, the longer one.
    return f"({'|'.join(map(re.escape, sorted(names, key=lambda name: (-len(name), name))))})"
