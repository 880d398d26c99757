"""The image that an annotation names, found by the end of its path; and safe names for the tree.

Annotation files name images as the machine that wrote them did: by an absolute path, with
backslashes, from another folder. A name is compared with the images that are there, from its end
on, and only files that were found below the folder of images are ever used. Nothing that a name
says leads anywhere else.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from histoprep import image_formats
from histoprep.errors import UsageError
from histoprep.names import is_left_alone, pairing_key
from histoprep.phrases import first_of
from histoprep.scanning.layouts import LESSER_WORDS, MASK_WORDS, words_in

# Also what other tools read; whether histoprep reads them, the audit says.
_SUFFIXES = frozenset(("bmp", "gif", "jp2", "j2k", "svs", "ndpi"))
_DRIVE = re.compile(r"^[A-Za-z]:")
_SEPARATOR = re.compile(r"[\s_.\-]+")
# What folders are called that hold drawings of the images and no images.
_NO_IMAGES = LESSER_WORDS | MASK_WORDS
_SCHEME = re.compile(r"^[A-Za-z][\w+.-]*://[^/]*")


def is_image_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    suffix = name.rpartition(".")[2].lower()
    return suffix in image_formats.image_suffixes() or suffix in _SUFFIXES


def files_below(folder: Path, *, skip: Path | None = None) -> Iterator[Path]:
    """Yield the files below a folder in order of their paths; hidden ones, links to folders and
    `skip`, an absolute path, are left out.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(
            f"cannot list this folder: {error.strerror or error}", path=folder
        ) from error
    for entry in entries:
        path = Path(entry.path)
        if is_left_alone(entry.name) or (skip is not None and path.absolute() == skip):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(path, skip=skip)
        elif entry.is_file():
            yield path


def parts_of(name: str) -> tuple[str, ...]:
    """Return the components of a path of any machine; drive, scheme, `.` and `..` are left out."""
    plain = _DRIVE.sub("", _SCHEME.sub("", name)).replace("\\", "/")
    return tuple(
        part for part in plain.split("/") if part not in ("", ".", "..") and "\0" not in part
    )


class ImageIndex:
    """The images below a folder, by the ends of their paths."""

    def __init__(self, folder: Path, paths: Iterable[Path] | None = None) -> None:
        """List the images below `folder`, or take `paths`; raises UsageError."""
        self.folder = folder
        self.paths = [
            path
            for path in (files_below(folder) if paths is None else paths)
            if is_image_name(path.name)
        ]
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in self.paths:
            self._by_name[pairing_key(path.name)].append(path)
            self._by_stem[pairing_key(path.stem)].append(path)

    def find(self, name: str, *, beside: Path | None = None) -> Path | str:
        """Return the image that a path of any machine names, or why there is none.

        Of several files of that name it is the one whose folders agree with the path furthest from
        its end; where that is more than one, the one in the folder `beside` or nearest to it, but
        for overlays and masks.
        """
        parts = parts_of(name)
        if not parts:
            return "the name of the image is empty"
        return self._best(parts, self._by_name.get(pairing_key(parts[-1]), []), beside)

    def find_stem(self, name: str, *, beside: Path | None = None) -> Path | str:
        """Return the image whose path without suffix a name is the end of, as `find` does."""
        parts = parts_of(name)
        if not parts:
            return "the name of the image is empty"
        return self._best(parts, self._by_stem.get(pairing_key(parts[-1]), []), beside)

    def find_start(self, name: str, *, beside: Path | None = None) -> Path | str:
        """Return the image whose path without suffix a name is the end of or, as in
        `x_nuclei` for `x.tif`, begins with up to a separator; the longest such name counts.
        """
        whole = self.find_stem(name, beside=beside)
        if isinstance(whole, Path):
            return whole
        folder, _, stem = "/".join(parts_of(name)).rpartition("/")
        for match in reversed(list(_SEPARATOR.finditer(stem))):
            start = stem[: match.start()]
            if pairing_key(start) in self._by_stem:
                return self.find_stem(f"{folder}/{start}", beside=beside)
        return whole

    def _best(self, parts: tuple[str, ...], paths: list[Path], beside: Path | None) -> Path | str:
        if not paths:
            return f"there is no such image below {self.folder}"
        scores = [_shared_folders(parts, path) for path in paths]
        best = [path for path, score in zip(paths, scores, strict=True) if score == max(scores)]
        if len(best) > 1 and beside is not None:
            best = _likeliest(best, beside)
        if len(best) > 1:
            return f"several images have this name: {first_of(best, limit=3)}"
        return best[0]


def _likeliest(paths: list[Path], beside: Path) -> list[Path]:
    """Return the one of these images in a folder, or else the nearest to it, overlays and masks of
    the same names left out; several where nothing tells.
    """
    if here := [path for path in paths if path.parent == beside]:
        return here
    images = [path for path in paths if not words_in(path.parent.name) & _NO_IMAGES] or paths
    near = [_num_shared([path.parts, beside.parts]) for path in images]
    return [path for path, number in zip(images, near, strict=True) if number == max(near)]


def _shared_folders(parts: tuple[str, ...], path: Path) -> int:
    folders = zip(reversed(parts[:-1]), reversed(path.parts[:-1]), strict=False)
    count = 0
    for wanted, seen in folders:
        if pairing_key(wanted) != pairing_key(seen):
            break
        count += 1
    return count


def safe_names(names: Iterable[str]) -> list[str]:
    """Return a path for each name of a file: below the tree, without suffix, different for each.

    Folders that all of them share are dropped, so that an absolute path becomes a short one. A
    component that would be hidden gets a `_` before it. Where two names differ in their suffix
    alone, the suffix becomes part of both: `a_jpg`, `a_png`.

    Raises:
        UsageError: Two names are the same, or would be in the tree.
    """
    split = [parts_of(name) for name in names]
    twice = next((parts for parts, number in Counter(split).items() if number > 1), None)
    if twice is not None:
        raise UsageError(
            "the source names an image twice",
            seen="/".join(twice),
            expected="each image once, with all of its annotations",
            hint="where two annotation files name it, import each of them into a folder of its own",
        )
    shared = _num_shared([parts[:-1] for parts in split])
    paths = ["/".join(_unhidden(part) for part in parts[shared:]) or "image" for parts in split]
    stems = [_without_suffix(path) for path in paths]
    count: dict[str, int] = defaultdict(int)
    for stem in stems:
        count[pairing_key(stem)] += 1
    chosen = [
        stem if count[pairing_key(stem)] == 1 else _with_suffix(path)
        for path, stem in zip(paths, stems, strict=True)
    ]
    refuse_twice(chosen)
    return chosen


def _num_shared(folders: Sequence[tuple[str, ...]]) -> int:
    """Return how many folders all paths begin with."""
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    return sum(1 for _ in levels)


def refuse_twice(names: Iterable[str]) -> None:
    """Raise UsageError for the first path that two images of the tree would have."""
    seen: dict[str, str] = {}
    for name in names:
        key = pairing_key(name)
        if key in seen:
            raise UsageError(
                "two images of the source would have one name in the tree",
                seen=" and ".join(dict.fromkeys((seen[key], name))),
                hint="import them one after the other into two folders",
            )
        seen[key] = name


def _unhidden(part: str) -> str:
    part = "".join(character if character.isprintable() else "_" for character in part)
    return f"_{part}" if part.startswith(".") else part


def _without_suffix(path: str) -> str:
    return path.rpartition(".")[0] if is_image_name(path) else path


def _with_suffix(path: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    return f"{stem}_{suffix}" if dot and is_image_name(path) else path
