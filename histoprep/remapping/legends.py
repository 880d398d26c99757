"""Files of a data set that say what its labels are called: `classes.txt`, `class_dict.csv`,
`label_colors.txt`, `dataset.json` (nnU-Net), `meta.json` (Supervisely) and their like.

A file counts only when all of its lines have one form, and when it names at least half of the
labels that the masks hold.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from histoprep.importing.legend import is_background
from histoprep.names import to_text

_NAMES = re.compile(r"class|label|legend|categor|colou?r|codes|palette|^(meta|dataset)$", re.I)
_SUFFIXES = (".txt", ".csv", ".tsv", ".json")
_MAX_BYTES = 1 << 18
_MAX_ENTRIES = 1000
_MAX_FOLDERS = 50
_MAX_NAME = 60
_SEPARATORS = r"\s,;:=|\t"
_FIRST_NUMBERS = re.compile(rf"(?:\d+(?:[{_SEPARATORS}]+|[.)]\s+))+")
_LAST_NUMBERS = re.compile(rf"(?:[{_SEPARATORS}]+\d+)+$")
_HEX = re.compile(r"#[0-9a-fA-F]{6}\b")
_FILE_NAME = re.compile(r"/|\\|\.(png|jpe?g|tiff?|bmp|svs|ndpi|npy|mat)$", re.I)


class Entry(NamedTuple):
    """What a file says of one label; parts that it does not have are None.

    Attributes:
        name: What the label is called.
        value: Its value in masks.
        colour: Its colour, 0xRRGGBB.
    """

    name: str
    value: int | None = None
    colour: int | None = None


class Legend(NamedTuple):
    """A file and what it says, in its order."""

    path: str
    entries: tuple[Entry, ...]

    def by_value(self, labels: Collection[int]) -> dict[int, Entry]:
        """Return the entry of each of these label values, as far as there is one.

        Names without values are numbered from 0, or from 1 where there is one less of them than the
        largest label asks for and none is the background; as many names as labels are taken in
        their order.
        """
        if all(entry.value is not None for entry in self.entries):
            known = {entry.value: entry for entry in self.entries if entry.value is not None}
        elif any(entry.value is not None for entry in self.entries) or not labels:
            return {}
        else:
            known = self._numbered(sorted(labels))
        return {label: known[label] for label in labels if label in known}

    def _numbered(self, labels: Sequence[int]) -> dict[int, Entry]:
        number, largest = len(self.entries), labels[-1]
        begins_with_background = is_background(self.entries[0].name)
        if number == largest + 1:
            return dict(enumerate(self.entries))
        if number == largest and labels[0] == 0 and not begins_with_background:
            return dict(enumerate(self.entries, start=1))
        if number == len(labels) and labels[0] == 0 and begins_with_background:
            return dict(zip(labels, self.entries, strict=True))
        return dict(enumerate(self.entries)) if begins_with_background and number > largest else {}

    def by_colour(self) -> dict[int, Entry]:
        """Return the entry of each colour 0xRRGGBB."""
        return {entry.colour: entry for entry in self.entries if entry.colour is not None}


def find_legends(root: Path) -> Iterator[Legend]:
    """Yield what files in the root of a data set, and in the folders right below it, say of labels,
    in order of their paths. Files that cannot be read, or say something else, are passed over.
    """
    for folder in (root, *_folders_in(root)):
        for path in sorted(_candidates(folder)):
            if entries_found := read_legend(path):
                yield Legend(to_text(os.path.relpath(path, root)), entries_found)


def _folders_in(root: Path) -> list[Path]:
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".")
        )[:_MAX_FOLDERS]
    return []


def _candidates(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            yield from (
                Path(entry.path)
                for entry in entries
                if entry.name.lower().endswith(_SUFFIXES)
                and _NAMES.search(entry.name.rpartition(".")[0])
                and entry.is_file()
                and entry.stat().st_size <= _MAX_BYTES
            )
    except OSError:
        return


def read_legend(path: Path) -> tuple[Entry, ...]:
    """Return what a file says of labels; nothing where it says something else."""
    try:
        data = path.read_bytes()
        is_wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if is_wide else "utf-8-sig")
        entries = (
            tuple(_of_json(json.loads(text))) if path.suffix.lower() == ".json" else _of_lines(text)
        )
    except (OSError, ValueError, RecursionError):
        return ()
    return entries if _are_sound(entries) else ()


def _are_sound(entries: Sequence[Entry]) -> bool:
    values = [entry.value for entry in entries if entry.value is not None]
    return (
        0 < len(entries) <= _MAX_ENTRIES
        and len(set(values)) == len(values)
        and all(
            0 < len(entry.name) <= _MAX_NAME and not _FILE_NAME.search(entry.name)
            for entry in entries
        )
        and len({entry.name.casefold() for entry in entries}) == len(entries)
    )


def _of_lines(text: str) -> tuple[Entry, ...]:
    """Return the entries of lines such as `tumour`, `1: tumour`, `tumour,255,0,0`,
    `255 0 0 tumour` or `#ff0000 tumour`; a header may come first.
    """
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not re.match(r"(#(?![0-9a-fA-F]{6}\b)|//)", line.strip())
    ]
    found = list(map(_of_line, lines))
    shapes = [
        (entry is None or entry.value is None, entry is None or entry.colour is None)
        for entry in found
    ]
    if len(found) > 1 and shapes[0] == (True, True) and set(shapes[1:]) != {(True, True)}:
        found, shapes = found[1:], shapes[1:]
    if len(set(shapes)) != 1 or None in found:
        return ()
    return tuple(entry for entry in found if entry is not None)


def _of_line(line: str) -> Entry | None:
    """Return the entry of a line, None for one of another form."""
    colour: int | None = None
    if match := _HEX.search(line):
        colour = int(match[0][1:], 16)
        line = f"{line[: match.start()].rstrip(' ,;')} {line[match.end() :]}".strip(" ,;\t|")
    first, last = _FIRST_NUMBERS.match(line), _LAST_NUMBERS.search(line)
    begin = first.end() if first else 0
    end = last.start() if last and last.start() >= begin else len(line)
    name = line[begin:end].strip(" ,;:=|\t\"'")
    numbers = [int(number) for number in re.findall(r"\d+", line[:begin] + " " + line[end:])]
    if not name or not any(map(str.isalpha, name)) or max(numbers, default=0) > 0xFFFFFFFF:
        return None
    if len(numbers) in (3, 4) and colour is None and max(numbers[-3:]) <= 255:
        red, green, blue = numbers[-3:]
        return Entry(name, numbers[0] if len(numbers) == 4 else None, _packed(red, green, blue))
    if len(numbers) > 1:
        return None
    return Entry(name, numbers[0] if numbers else None, colour)


def _of_json(value: Any) -> Iterator[Entry]:
    """Yield the entries of a JSON value: names by value, values by name, lists of names or of
    objects with name, id and colour; or an object that has such a one.
    """
    if isinstance(value, Mapping):
        for key in ("labels", "classes", "categories", "classTitles"):
            if isinstance(value.get(key), (Mapping, list)):
                yield from _of_json(value[key])
                return
        for key, entry in value.items():
            yield from _of_pair(key, entry)
        return
    if not isinstance(value, list):
        raise ValueError
    for entry in value:
        if isinstance(entry, Mapping):
            yield _of_object(entry)
        else:
            yield Entry(_text(entry))


def _of_pair(key: str, entry: Any) -> Iterator[Entry]:
    if isinstance(entry, Mapping):
        yield _of_object({"name": key} | dict(entry))
    elif isinstance(entry, list):
        # A region of several labels has no value of its own.
        if len(entry) == 3 and all(isinstance(part, int) for part in entry):
            yield Entry(key, None, _colour(entry))
    elif isinstance(entry, int):
        yield Entry(key, entry)
    elif re.fullmatch(r"\d+", key):
        yield Entry(_text(entry), int(key))
    elif isinstance(entry, str) and re.fullmatch(r"\d+", entry):
        yield Entry(key, int(entry))
    else:
        yield Entry(key, None, _colour(entry))


def _of_object(entry: Mapping[str, Any]) -> Entry:
    known = {str(key).lower(): value for key, value in entry.items()}
    name = _first(known, ("name", "title", "label", "class", "classname"))
    value = _first(known, ("value", "id", "label_id", "class_id", "index"))
    colour = _first(known, ("color", "colour", "rgb", "hex"))
    return Entry(
        _text(name),
        value if type(value) is int and value >= 0 else None,
        None if colour is None else _colour(colour),
    )


def _first(known: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((known[name] for name in names if name in known), None)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value.strip()


def _colour(value: Any) -> int:
    if isinstance(value, str) and _HEX.fullmatch(value):
        return int(value[1:], 16)
    if isinstance(value, list) and len(value) >= 3:
        red, green, blue = (part for part in value[:3] if type(part) is int and 0 <= part <= 255)
        return _packed(red, green, blue)
    raise ValueError


def _packed(red: int, green: int, blue: int) -> int:
    return red << 16 | green << 8 | blue
