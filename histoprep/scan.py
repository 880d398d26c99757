"""Folder -> listing -> pairs of image and mask; no pixel is read.

The walk yields pairs folder by folder in byte order of the names, so memory does not grow with
the number of folders, and the order is the same everywhere. In every folder two
layouts are recognised: an `images` and a `masks` folder that mirror each other, and otherwise
siblings, `x.jpg` beside `x_mask.png`. A first folder called train, val or test gives the
split; with class folders the next one gives the label.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from histoprep.dataset_csv import DatasetCsv
from histoprep.durable import is_temporary
from histoprep.errors import UsageError
from histoprep.layout import Layout
from histoprep.names import pairing_key, to_text
from histoprep.workspace import SUFFIX as WORKSPACE_SUFFIX

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "tif", "tiff", "webp"})
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "tiles", "patches")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annotation", "gt")
SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test"}
_EXPECTED_SUFFIXES = frozenset({"yml", "yaml"})


class IssueKind(StrEnum):
    """What the walk can meet besides pairs; `checks/listing.py` turns them into findings."""

    UNEXPECTED = "unexpected"
    UNREADABLE = "unreadable"
    DUPLICATE_KEY = "duplicate-key"
    AMBIGUOUS = "ambiguous"
    UNPARSED = "unparsed"
    CSV_MISSING = "csv-missing"


class Issue(NamedTuple):
    """One thing met by the walk: what, where (text, relative to the root), and what was seen."""

    kind: IssueKind
    path: str
    detail: str


class Pair(NamedTuple):
    """One tile, or an orphan mask when `image_path` is None; texts as stored in tiles.parquet."""

    tile_id: str
    image_path: str | None
    mask_path: str | None
    group: str | None
    split: str | None
    label: str | None
    unlabelled: bool
    declared_labels: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How to read a folder.

    `images` and `masks` name the two folders of the folders layout. `group_by` and `label_by` are
    `folder`, `csv:COLUMN`, or a regular expression searched in the tile id whose first group (or
    whole match) is the value. `unlabelled` are further folders of images without masks.
    """

    layout: Layout = Layout.AUTO
    mask_suffix: str = "_mask"
    images: str | None = None
    masks: str | None = None
    group_by: str | None = None
    label_by: str | None = None
    unlabelled: tuple[Path, ...] = ()
    csv: Path | None = None


def scan(root: Path, options: ScanOptions, report: Callable[[Issue], None]) -> Iterator[Pair]:
    """Yield every tile and orphan mask below `root` and the unlabelled folders, in a fixed order.

    `report` is called with whatever is no pair. Raises UsageError for options that cannot be.
    """
    csv = DatasetCsv.find(root, options.csv)
    apart = _unlabelled_folders(root, options.unlabelled)
    walker = _Walker(root, options, report, skip={path for path, _ in apart})
    naming = _Naming(options, csv, report)
    for place in walker.places(""):
        yield from naming.pairs(place)
    for folder, prefix in apart:
        inside = folder.is_relative_to(root)
        extra = _Walker(folder, options, report, skip=set(), prefix=prefix)
        for place in extra.places("", unlabelled=True, path_prefix=prefix if inside else to_text(f"{folder}/")):
            yield from naming.pairs(place)
    if csv:
        for name in csv.unseen():
            report(Issue(IssueKind.CSV_MISSING, name, f"named in {csv.path.name}, but there is no such image"))


def _unlabelled_folders(root: Path, folders: tuple[Path, ...]) -> list[tuple[Path, str]]:
    """Return (absolute folder, prefix of its tile ids) without folders that lie in another one."""
    absolute = sorted({folder.resolve() for folder in folders})
    chosen: list[tuple[Path, str]] = []
    taken: set[str] = set()
    for folder in absolute:
        if not folder.is_dir():
            raise UsageError("an --unlabelled root is not a folder", path=folder)
        if root.is_relative_to(folder):
            raise UsageError("an --unlabelled root contains the data set itself", path=folder, expected=f"a folder inside or beside {root}")
        if any(folder.is_relative_to(other) for other, _ in chosen):
            continue
        prefix = str(folder.relative_to(root)) if folder.is_relative_to(root) else folder.name
        while prefix in taken:
            prefix += "+"
        taken.add(prefix)
        chosen.append((folder, to_text(prefix) + "/"))
    return chosen


@dataclass(slots=True)
class _Place:
    """Files that can only pair with each other; prefixes end with a slash or are empty."""

    image_prefix: str
    images: list[str]
    mask_prefix: str
    masks: list[str]
    id_prefix: str
    unlabelled: bool = False


class _Walker:
    """Lists folders and sorts their files into images and masks."""

    def __init__(self, root: Path, options: ScanOptions, report: Callable[[Issue], None], skip: set[Path], prefix: str = "") -> None:
        self.root = str(root)
        self.options = options
        self.report = report
        self.skip = {str(path) for path in skip}
        self.prefix = prefix

    def places(self, relative: str, *, unlabelled: bool = False, path_prefix: str = "") -> Iterator[_Place]:
        """Yield the places of the folder `relative` ("" or ending with a slash) and below it, depth first."""
        # An explicit stack: folders can be nested deeper than Python may recurse.
        stack = [(relative, None)]
        while stack:
            folder, mirror = stack.pop()
            files, folders = self._list(folder)
            if mirror is not None:
                mask_files, mask_folders = self._list(mirror)
                yield self._mirrored(folder, files, mirror, mask_files)
                below = sorted({*folders, *mask_folders}, reverse=True)
                stack += [(f"{folder}{name}/", f"{mirror}{name}/") for name in below]
                continue
            paired = None if unlabelled else self._paired_folders(folder, folders)
            if paired:
                stack.append(paired)
                others = [name for name in folders if f"{folder}{name}/" not in paired]
                self._leave_out(folder, files, others)
                continue
            yield self._siblings(folder, files, unlabelled, path_prefix)
            stack += [(f"{folder}{name}/", None) for name in reversed(folders)]

    def _list(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the sorted names of regular files and of folders; everything else is reported."""
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        files.append(entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith(".") and not entry.name.endswith(WORKSPACE_SUFFIX) and entry.path not in self.skip:
                            folders.append(entry.name)
                    else:
                        self._special(folder, entry, files)
        except FileNotFoundError:
            # One side of two mirrored folders, or a folder deleted meanwhile.
            if not folder:
                raise
        except OSError as error:
            self._report(IssueKind.UNREADABLE, folder, f"folder cannot be listed: {error.strerror}")
        files.sort()
        folders.sort()
        if len(folders) > 1:
            self._report_like_folders(folder, folders)
        return files, folders

    def _special(self, folder: str, entry: os.DirEntry[str], files: list[str]) -> None:
        path = folder + entry.name
        if not entry.is_symlink():
            self._report(IssueKind.UNEXPECTED, path, "not a regular file (pipe, socket or device); not opened")
            return
        target = os.path.realpath(entry.path)
        if not target.startswith(self.root + os.sep):
            self._report(IssueKind.UNEXPECTED, path, "link that leaves the data set; not followed")
            return
        try:
            mode = os.stat(target).st_mode
        except OSError as error:
            self._report(IssueKind.UNEXPECTED, path, f"link to nothing: {error.strerror}")
            return
        if stat.S_ISREG(mode):
            files.append(entry.name)
        else:
            self._report(IssueKind.UNEXPECTED, path, "link to a folder of the data set, which is read in its own place; not followed")

    def _report(self, kind: IssueKind, path: str, detail: str) -> None:
        self.report(Issue(kind, to_text(self.prefix + path), detail))

    def _report_like_folders(self, folder: str, folders: list[str]) -> None:
        first: dict[str, str] = {}
        for name in folders:
            other = first.setdefault(pairing_key(name), name)
            if other != name:
                self._report(IssueKind.DUPLICATE_KEY, f"{folder}{name}", f"differs from folder {to_text(other)!r} by case or Unicode form only")

    def _paired_folders(self, folder: str, folders: list[str]) -> tuple[str, str] | None:
        """Return the mirrored (images, masks) folders among `folders`, or None."""
        if self.options.layout in (Layout.SIBLING, Layout.CLASS_FOLDERS):
            return None
        images = _first_named(folders, (self.options.images,) if self.options.images else IMAGE_FOLDERS)
        masks = _first_named(folders, (self.options.masks,) if self.options.masks else MASK_FOLDERS)
        if images and masks:
            return f"{folder}{images}/", f"{folder}{masks}/"
        if self.options.layout is Layout.FOLDERS and not folder and not any(name in SPLIT_FOLDERS for name in folders):
            wanted = f"{self.options.images or IMAGE_FOLDERS[0]}/ and {self.options.masks or MASK_FOLDERS[0]}/"
            raise UsageError(f"--layout folders needs {wanted}", path=self.root, seen=", ".join(folders) or "no folders", hint="name them with --images and --masks")
        return None

    def _leave_out(self, folder: str, files: list[str], folders: list[str]) -> None:
        for name in folders:
            self._report(IssueKind.UNEXPECTED, f"{folder}{name}/", "folder beside the images and masks folders; not read (see --images, --masks)")
        for name in files:
            if _is_image(name):
                self._report(IssueKind.UNEXPECTED, folder + name, "image beside the images and masks folders; not read")
            else:
                self._note_other(folder, name)

    def _note_other(self, folder: str, name: str) -> None:
        ours = name.startswith(".") or is_temporary(name) or name.rpartition(".")[2].lower() in _EXPECTED_SUFFIXES or name == "dataset.csv"
        if not ours and not (self.options.csv and name == self.options.csv.name):
            self._report(IssueKind.UNEXPECTED, folder + name, "neither image, mask, dataset.csv nor label map")

    def _images_in(self, folder: str, names: list[str]) -> list[str]:
        images = []
        for name in names:
            if name.rpartition(".")[2].lower() in IMAGE_SUFFIXES and not name.startswith("."):
                images.append(name)
            else:
                self._note_other(folder, name)
        return images

    def _siblings(self, folder: str, files: list[str], unlabelled: bool, path_prefix: str) -> _Place:
        images: list[str] = []
        masks: list[str] = []
        suffix = self.options.mask_suffix
        for name in self._images_in(folder, files):
            (masks if name.rpartition(".")[0].endswith(suffix) else images).append(name)
        if unlabelled:
            for name in masks:
                self._report(IssueKind.UNEXPECTED, folder + name, "mask in an --unlabelled folder; not read")
            masks = []
        text = to_text(folder)
        return _Place(path_prefix + text, images, path_prefix + text, masks, to_text(self.prefix) + text, unlabelled)

    def _mirrored(self, folder: str, files: list[str], mirror: str, mask_files: list[str]) -> _Place:
        text = to_text(folder)
        return _Place(text, self._images_in(folder, files), to_text(mirror), self._images_in(mirror, mask_files), text)


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_SUFFIXES


def _first_named(folders: list[str], wanted: tuple[str, ...]) -> str | None:
    by_lower = {name.lower(): name for name in reversed(folders)}
    return next((by_lower[name.lower()] for name in wanted if name.lower() in by_lower), None)


class _Naming:
    """Pairs the files of a place and gives each pair its group, split and label."""

    def __init__(self, options: ScanOptions, csv: DatasetCsv | None, report: Callable[[Issue], None]) -> None:
        self.suffix = options.mask_suffix
        self.csv = csv
        self.report = report
        self.group_of = _reader("--group-by", options.group_by, csv)
        self.label_of = _reader("--label-by", options.label_by, csv)
        self.class_folders = options.layout is Layout.CLASS_FOLDERS

    def pairs(self, place: _Place) -> Iterator[Pair]:
        """Yield the pairs of a place in byte order of their keys' first file."""
        masks = self._by_key(place.masks, len(self.suffix), self.suffix)
        images = self._by_key(place.images, 0, "")
        for key, names in images.items():
            partners = masks.pop(key, None) if masks else None
            if len(names) == 1 and (partners is None or len(partners) == 1):
                yield self._pair(place, names[0], partners[0] if partners else None)
            else:
                yield from self._collided(place, names, partners or [])
        for names in masks.values():
            if len(names) > 1:
                self._tell(IssueKind.DUPLICATE_KEY, place.mask_prefix, names)
            for name in {name.rpartition(".")[0]: name for name in reversed(names)}.values():
                yield self._pair(place, None, name)

    @staticmethod
    def _by_key(names: list[str], cut: int, suffix: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in names:
            stem = name.rpartition(".")[0]
            if cut and stem.endswith(suffix):
                stem = stem[:-cut]
            found.setdefault(pairing_key(stem), []).append(name)
        return found

    def _collided(self, place: _Place, names: list[str], partners: list[str]) -> Iterator[Pair]:
        """Yield one pair for each distinct stem, the first file of it in byte order, and report all."""
        if len(names) > 1:
            self._tell(IssueKind.AMBIGUOUS if len(partners) == 1 else IssueKind.DUPLICATE_KEY, place.image_prefix, names)
        if len(partners) > 1:
            self._tell(IssueKind.AMBIGUOUS, place.mask_prefix, partners)
        stems: dict[str, str] = {}
        for name in names:
            stems.setdefault(name.rpartition(".")[0], name)
        exact = {name.rpartition(".")[0].removesuffix(self.suffix): name for name in reversed(partners)}
        for stem, name in stems.items():
            partner = exact.get(stem) or (partners[0] if len(stems) == 1 and partners else None)
            yield self._pair(place, name, partner)

    def _tell(self, kind: IssueKind, prefix: str, names: list[str]) -> None:
        shown = ", ".join(to_text(name) for name in names)
        for name in names:
            self.report(Issue(kind, prefix + to_text(name), f"one key for {shown}"))

    def _pair(self, place: _Place, image: str | None, mask: str | None) -> Pair:
        image_path = place.image_prefix + to_text(image) if image is not None else None
        mask_path = place.mask_prefix + to_text(mask) if mask is not None else None
        stem = image.rpartition(".")[0] if image is not None else (mask or "").rpartition(".")[0].removesuffix(self.suffix)
        tile_id = place.id_prefix + to_text(stem)
        split, label = self._from_folders(tile_id)
        group = self.group_of(tile_id, image_path) if self.group_of else None
        if self.group_of and group is None and image_path is not None:
            self.report(Issue(IssueKind.UNPARSED, image_path, "no group found"))
        if self.label_of:
            label = self.label_of(tile_id, image_path)
        declared = self.csv.labels(image_path) if self.csv and image_path else None
        return Pair(tile_id, image_path, mask_path, group, split, label, place.unlabelled, declared)

    def _from_folders(self, tile_id: str) -> tuple[str | None, str | None]:
        first, slash, rest = tile_id.partition("/")
        split = SPLIT_FOLDERS.get(first.lower()) if slash else None
        if not self.class_folders:
            return split, None
        label, slash, _ = (rest if split else tile_id).partition("/")
        return split, label if slash else None


def _reader(option: str, how: str | None, csv: DatasetCsv | None) -> Callable[[str, str | None], str | None] | None:
    """Return a function from (tile id, image path) to the group or label, or None when not asked for."""
    if how is None:
        return None
    if how == "folder":
        return lambda tile_id, _: tile_id.rpartition("/")[0] or None
    if how.startswith("csv:"):
        if csv is None:
            raise UsageError(f"{option} {how} needs a table", expected="dataset.csv in the data set, or --csv FILE")
        return csv.column(how.removeprefix("csv:"))
    try:
        pattern = re.compile(how)
    except re.error as error:
        raise UsageError(f"{option} is no regular expression: {error}", seen=how) from error
    return lambda tile_id, _: _first_group(pattern.search(tile_id))


def _first_group(match: re.Match[str] | None) -> str | None:
    if match is None:
        return None
    return match[1] if match.re.groups else match[0]


def detect_layout(root: Path) -> Layout:
    """Return class-folders for `train/<class>/..` and `test/<class>/..` trees, auto otherwise.

    The split folders must hold folders and no pictures of their own, which is what tells classes from a plain split.
    """
    splits = [entry for entry in root.iterdir() if entry.is_dir() and entry.name.lower() in SPLIT_FOLDERS]
    if not splits:
        return Layout.AUTO
    for folder in splits:
        names = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        folders = [entry.name for entry in names if entry.is_dir()]
        paired = _first_named(folders, IMAGE_FOLDERS) and _first_named(folders, MASK_FOLDERS)
        if not folders or paired or any(entry.is_file() and _is_image(entry.name) for entry in names):
            return Layout.AUTO
    return Layout.CLASS_FOLDERS
