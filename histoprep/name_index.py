"""Names in a table -> the rows that mean a file: by path, by file name, or by the end of a path
of another machine. Pure.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable

_ABSOLUTE = re.compile(r"[/~]|[A-Za-z]:[/\\]|\\\\|[a-z]+://")


class NameIndex:
    """Finds the name, among those of a table, that means a file.

    A name fits a path if it is the path, its file name, or either without the suffix. Otherwise
    one must be the end of the other, part by part; of names that begin elsewhere (`C:\\data\\a.png`
    or `/mnt/data/a.png`), what all of them begin with does not count. Unicode forms are the same.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Take the names in; the first of several equal ones stands for all."""
        self._exact: dict[str, str] = {}
        for name in names:
            self._exact.setdefault(composed(name.removeprefix("./")), name)
        self._ends: dict[str, list[tuple[tuple[str, ...], str]]] | None = None

    def find(self, path: str) -> str | None:
        """Return the name that means the file of this path, with or without suffix, or None where
        none does or several do equally.
        """
        whole = composed(path)
        base = whole.rpartition("/")[2]
        for form in (whole, base, without_suffix(whole), without_suffix(base)):
            name = self._exact.get(form)
            if name is not None:
                return name
        return self._by_end(whole)

    def _by_end(self, path: str) -> str | None:
        if self._ends is None:
            self._ends = _ends_of(self._exact)
        wanted = path.split("/")
        fits: dict[int, list[str]] = {}
        for form in {wanted[-1], without_suffix(wanted[-1])}:
            for parts, name in self._ends.get(form, ()):
                length = min(len(parts), len(wanted) - 1)
                if tuple(wanted[-1 - length : -1]) == parts[len(parts) - length :]:
                    fits.setdefault(length, []).append(name)
        best = fits[max(fits)] if fits else []
        return best[0] if len(set(best)) == 1 else None


def composed(name: str) -> str:
    """Return a name in Unicode's composed form; some systems store the decomposed one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def common_end(name: str, path: str) -> int:
    """Return how many parts, from the last one back, a name and a path share."""
    parts = zip(
        reversed(composed(name).replace("\\", "/").split("/")),
        reversed(composed(path).split("/")),
        strict=False,
    )
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], parts))


def without_suffix(name: str) -> str:
    """Return a name without its last suffix; a name that has none stays."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and "/" not in suffix else name


def _ends_of(names: dict[str, str]) -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """Return the folders and the name of each name in a folder, by its file name."""
    split = {
        name: tuple(part for part in form.replace("\\", "/").split("/") if part)
        for form, name in names.items()
    }
    elsewhere = [parts[:-1] for name, parts in split.items() if _ABSOLUTE.match(name)]
    shared = _shared_start(elsewhere)
    ends: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for name, parts in split.items():
        if parts:
            folders = parts[shared:-1] if _ABSOLUTE.match(name) else parts[:-1]
            ends.setdefault(parts[-1], []).append((folders, name))
    return ends


def _shared_start(folders: list[tuple[str, ...]]) -> int:
    """Return how many folders all paths begin with."""
    if not folders:
        return 0
    # What the least and the greatest share, all share.
    pairs = zip(min(folders), max(folders), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


class SlideIndex:
    """Finds the slide (or case), among those of a table, that a tile was cut from.

    Its name, without the suffix of a slide format, must be a folder of the tile's path or a part
    of a name there, between characters that are neither letters nor digits: `s1` is the slide of
    `s1_x0_y0.png`, and not that of `s10_x0_y0.png`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Take the names in; paths of slides count by their file names."""
        self._slides: dict[str, str] = {}
        for name in names:
            file_name = composed(name).replace("\\", "/").rstrip("/").rpartition("/")[2]
            self._slides.setdefault(_SLIDE_SUFFIX.sub("", file_name), name)
        self._of_folder: dict[str, frozenset[str]] = {}

    def find(self, path: str) -> str | None:
        """Return the name of the slide of a tile, the longest if one contains the other; None where
        none fits, or several do.
        """
        folder, _, file_name = composed(path).rpartition("/")
        if folder not in self._of_folder:
            parts = (self._in(part) for part in folder.split("/"))
            self._of_folder[folder] = frozenset().union(*parts)
        fits = self._of_folder[folder] | self._in(without_suffix(file_name))
        longest = max(fits, key=len, default="")
        return self._slides[longest] if fits and all(slide in longest for slide in fits) else None

    def _in(self, name: str) -> frozenset[str]:
        words = [match.span() for match in _WORD.finditer(name)]
        ends = [end for _, end in words]
        starts = [0, *(start for start, _ in words[1:])]
        found = set()
        for place, start in enumerate(starts):
            for end in (*ends[place:], len(name)):
                if name[start:end] in self._slides:
                    found.add(name[start:end])
        return frozenset(found)


def is_slide(name: str) -> bool:
    """Return whether a file name has the suffix of whole slides and nothing else."""
    return bool(_SLIDES_ALONE.search(name))


_WORD = re.compile(r"[^\W_]+")
_SLIDES_ALONE = re.compile(
    r"\.(?:svs|ndpi|mrxs|scn|vms|vmu|bif|svslide|czi|lif|isyntax|ome\.tiff?)$", re.IGNORECASE
)
_SLIDE_SUFFIX = re.compile(rf"{_SLIDES_ALONE.pattern}|\.(?:tiff?|dcm|h5|pt)$", re.IGNORECASE)
