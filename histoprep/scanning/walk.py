"""Folders -> places: files that can only pair with each other, keyed by what an image and its mask
share.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from histoprep.choices import Layout
from histoprep.errors import UsageError
from histoprep.image_formats import is_image
from histoprep.job_folder import own_names
from histoprep.names import (
    SYSTEM_FOLDERS,
    is_left_alone,
    is_system_file,
    pairing_key,
    to_text,
)
from histoprep.phrases import plural
from histoprep.scanning.formats import format_unread
from histoprep.scanning.keys import KeyedNames, PlainNames, numbered_masks, sort_names
from histoprep.scanning.listing import Issue, IssueKind, ScanOptions
from histoprep.scanning.name_rules import NameEnd, NameRules
from histoprep.schemas.ledgers import FIX, IMPORT, LEDGER
from histoprep.schemas.workspace import SUFFIX as WORKSPACE_SUFFIX

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "tiles", "patches")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annotation", "gt")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# In the name of a folder: the same text on both sides.
STAR = "*"
# Folders of images without masks: a name with the usual suffix is a mask that is left out.
UNLABELLED_RULES = NameRules(NameEnd(""), NameEnd(ScanOptions().mask_suffix))
_EXPECTED_SUFFIXES = frozenset({"yml", "yaml"})
_OF_TREES = {
    kind.request: own_names(kind.job(Path()), (LEDGER, *kind.notes)) for kind in (IMPORT, FIX)
}
# So many folders are listed, at most, to see whether there are images in one that is not read.
_MAX_LOOKS = 64


@dataclass(frozen=True, slots=True)
class NameGroup:
    """Files that can only pair with each other; prefixes are text, and end with a slash or are
    empty.
    """

    image_prefix: str
    images: KeyedNames | PlainNames
    mask_prefix: str
    masks: KeyedNames | PlainNames
    id_prefix: str
    unlabelled: bool = False
    by_path: bool = False
    """Whether the names are whole paths below the root."""


@dataclass(slots=True)
class DirectoryListing:
    """The names in one folder, in no order; `others` are neither regular files nor folders,
    `of_system` folders that a system keeps for itself.
    """

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    others: list[os.DirEntry[str]] = field(default_factory=list)
    of_system: list[str] = field(default_factory=list)


Fill = Callable[[str, DirectoryListing], None]


class Walker:
    """Lists the folders below `root` and sorts their files into images and masks."""

    def __init__(
        self,
        root: str,
        options: ScanOptions,
        report: Callable[[Issue], None],
        *,
        skip: Iterable[str] = (),
        unlabelled: bool = False,
        path_prefix: str = "",
        id_prefix: str = "",
        fill: Fill | None = None,
    ) -> None:
        """Prepare a walk that leaves out the folders `skip` (absolute paths).

        An unlabelled walker expects no masks; its paths and tile ids begin with the prefixes.
        `fill` lists a folder in the place of the file system.
        """
        self.root = root
        self.options = options
        self.report = report
        self.skip = frozenset(skip)
        self.unlabelled = unlabelled
        self.path_prefix = path_prefix
        self.id_prefix = id_prefix
        self.rules = NameRules.of(options)
        self._fill = fill or self._scan_folder
        # Real folders that links led to, so that none is read twice.
        self._followed: set[str] = set()

    def places(self) -> Iterator[NameGroup]:
        """Yield the places of all folders, depth first and in order of their names; raises
        UsageError where those asked for are nowhere.
        """
        # An explicit stack: folders can be nested deeper than Python may recurse.
        if self.rules.is_by_path and not self.unlabelled:
            yield self._by_path()
            return
        stack: list[tuple[str | None, str | None, bool]] = [("", None, False)]
        found, top = False, None
        while stack:
            folder, mirror, paired = stack.pop()
            if paired:
                images, masks = self._list(folder), self._list(mirror)
                below = sorted({*images.folders, *masks.folders}, reverse=True)
                for name in below:
                    parts = (
                        f"{folder}{name}/" if name in images.folders else None,
                        f"{mirror}{name}/" if name in masks.folders else None,
                    )
                    stack.append((*parts, True))
                yield self._mirrored(folder, images.files, mirror, masks.files)
                continue
            listed = self._list(folder)
            top = top or listed
            chosen = self._paired_folders(folder or "", listed.folders)
            if chosen:
                found = True
                stack += [(*pair, True) for pair in reversed(chosen)]
                self._leave_out(folder or "", listed, chosen)
                continue
            stack += [(f"{folder}{name}/", None, False) for name in reversed(listed.folders)]
            yield self._siblings(folder or "", listed.files)
        if top and not found:
            self._refuse_absent_folders(top.folders)

    def _list(self, folder: str | None) -> DirectoryListing:
        """Return what is in a folder, the folders sorted; what is neither file nor folder is
        reported.
        """
        listed = DirectoryListing()
        if folder is None:
            return listed
        try:
            self._fill(folder, listed)
        except OSError as error:
            if not folder:
                raise UsageError(
                    f"the folder cannot be listed: {error.strerror}", path=self.root
                ) from error
            self._tell(IssueKind.UNREADABLE, folder, f"folder cannot be listed: {error.strerror}")
        for entry in sorted(listed.others, key=lambda file: file.name):
            self._judge_other(folder, entry, listed)
        for name in sorted(listed.of_system):
            self._tell(IssueKind.SYSTEM_FILE, folder + name, "folder of the system; left alone")
        listed.folders.sort()
        if len(listed.folders) > 1:
            self._report_like_folders(folder, listed.folders)
        return listed

    def _scan_folder(self, folder: str, listed: DirectoryListing) -> None:
        add_file = listed.files.append
        with os.scandir(os.path.join(self.root, folder)) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    add_file(entry.name)
                elif not entry.is_dir(follow_symlinks=False):
                    listed.others.append(entry)
                elif entry.name in SYSTEM_FOLDERS:
                    listed.of_system.append(f"{entry.name}/")
                elif (
                    not entry.name.startswith(".")
                    and not entry.name.endswith(WORKSPACE_SUFFIX)
                    and entry.path not in self.skip
                ):
                    listed.folders.append(entry.name)

    def _judge_other(self, folder: str, entry: os.DirEntry[str], listed: DirectoryListing) -> None:
        """Add a link to a file of the data set, or one that is followed, to what is listed; report
        anything else.
        """
        kind, reason = IssueKind.UNEXPECTED, None
        target = os.path.realpath(entry.path)
        inside = target.startswith(self.root.rstrip("/") + "/")
        if not entry.is_symlink():
            reason = "not a regular file (pipe, socket or device); not opened"
        elif f"{self.root}/".startswith(f"{target.rstrip('/')}/"):
            reason = "link to a folder that contains the data set; not followed"
        else:
            try:
                mode = os.stat(target).st_mode
            except OSError as error:
                missing = isinstance(error, FileNotFoundError)
                why = "which is not there" if missing else str(error.strerror)
                kind, reason = IssueKind.BROKEN_LINK, f"link to {to_text(target)}, {why}"
            else:
                follows = inside or self.options.follow_links
                if not follows:
                    kind = IssueKind.LEAVING_LINK
                    reason = "link that leaves the data set; not followed"
                elif stat.S_ISDIR(mode):
                    reason = self._follow_folder(entry, target, inside, listed)
                elif stat.S_ISREG(mode):
                    listed.files.append(entry.name)
                else:
                    reason = "link to a pipe, socket or device; not opened"
        if reason:
            self._tell(kind, folder + entry.name, reason)

    def _follow_folder(
        self, entry: os.DirEntry[str], target: str, inside: bool, listed: DirectoryListing
    ) -> str | None:
        """Add a link to a folder elsewhere to what is listed, or return why it is not followed."""
        if inside:
            return "link to a folder of the data set, which is read in its own place; not followed"
        if any(
            target == other or target.startswith(f"{other}/") or other.startswith(f"{target}/")
            for other in self._followed
        ):
            return "link to a folder that another link led to; read once, not followed"
        if is_left_alone(entry.name) or entry.path in self.skip:
            return None
        self._followed.add(target)
        listed.folders.append(entry.name)
        return None

    def _tell(self, kind: IssueKind, path: str, detail: str) -> None:
        self.report(Issue(kind, self.path_prefix + to_text(path), detail))

    def _report_like_folders(self, folder: str, folders: list[str]) -> None:
        first: dict[str, str] = {}
        for name in folders:
            other = first.setdefault(pairing_key(name), name)
            if other != name:
                self._tell(
                    IssueKind.DUPLICATE_KEY,
                    f"{folder}{name}",
                    f"differs from folder {to_text(other)!r} by case or Unicode form only",
                )

    def _paired_folders(
        self, folder: str, folders: list[str]
    ) -> list[tuple[str | None, str | None]]:
        """Return the mirrored (images, masks) folders among `folders`; None for one that a starred
        name has on the other side only.
        """
        options = self.options
        if self.unlabelled or options.layout in (Layout.SIBLING, Layout.CLASS_FOLDERS):
            return []
        if STAR in (options.images or "") or STAR in (options.masks or ""):
            return [
                (images and f"{folder}{images}/", masks and f"{folder}{masks}/")
                for images, masks in starred_pairs(options.images, options.masks, folders)
            ]
        images = first_named(folders, (options.images,) if options.images else IMAGE_FOLDERS)
        masks = first_named(folders, (options.masks,) if options.masks else MASK_FOLDERS)
        return [(f"{folder}{images}/", f"{folder}{masks}/")] if images and masks else []

    def _by_path(self) -> NameGroup:
        """Return all files below the root as one place, named by their paths."""
        stack, files = [""], []
        while stack:
            folder = stack.pop()
            listed = self._list(folder)
            files += [f"{folder}{name}" for name in listed.files]
            stack += [f"{folder}{name}/" for name in listed.folders]
        found = sort_names(sorted(files), None, self.rules)
        self._note_others("", found.others)
        self._tell_unnamed("", found.unread[0])
        return NameGroup("", found.images, "", found.masks, "", by_path=True)

    def _refuse_absent_folders(self, seen: list[str]) -> None:
        """Raise UsageError if folders of images and masks were asked for, since there are none."""
        options = self.options
        if not self.unlabelled and (
            options.layout is Layout.FOLDERS or options.images or options.masks
        ):
            wanted = (
                f"{options.images or IMAGE_FOLDERS[0]}/ and {options.masks or MASK_FOLDERS[0]}/"
            )
            hint = "name them with --images and --masks, which go with --layout folders"
            raise UsageError(
                f"no folder holds {wanted} side by side",
                path=self.root,
                seen=", ".join(seen) or "no folders",
                hint=hint,
            )

    def _leave_out(
        self,
        folder: str,
        listed: DirectoryListing,
        chosen: list[tuple[str | None, str | None]],
    ) -> None:
        read = {path for pair in chosen for path in pair}
        for path in (f"{folder}{name}/" for name in listed.folders):
            if path not in read:
                self._tell_unread(path)
        for name in sorted(listed.files):
            if is_image(name):
                self._tell(
                    IssueKind.UNEXPECTED,
                    folder + name,
                    "image beside the images and masks folders; not read",
                )
            else:
                self._note_others(folder, [name])

    def _tell_unread(self, folder: str) -> None:
        """Report a folder beside those of images and masks: with images in it, data may be
        missing, unless the user named what to read.
        """
        images = self._images_in(folder)
        named = (self.options.images or self.options.masks) and not self.options.is_inferred
        kind = IssueKind.UNREAD_FOLDER if images and not named else IssueKind.OTHER_FOLDER
        self._tell(
            kind,
            folder,
            f"folder{' with ' if images else ''}{images} beside the images and masks folders;"
            " not read",
        )

    def _images_in(self, folder: str) -> str:
        """Return how many images are in a folder, in words, or that there are some further below;
        "" where a short look finds none.
        """
        waiting = deque([folder])
        for _ in range(_MAX_LOOKS):
            if not waiting:
                break
            here, listed = waiting.popleft(), DirectoryListing()
            with suppress(OSError):
                self._fill(here, listed)
            number = sum(map(is_image, listed.files))
            if number:
                return (
                    f"{number:,} image{'s' * (number > 1)}"
                    if here == folder
                    else "images further below"
                )
            waiting += [f"{here}{name}/" for name in sorted(listed.folders)]
        return ""

    def _note_others(self, folder: str, names: list[str], *, of_masks: bool = False) -> None:
        if of_system := [name for name in names if is_system_file(name.rpartition("/")[2])]:
            files = f"{plural(len(of_system), 'file')} of the system, such as {min(of_system)}"
            self._tell(IssueKind.SYSTEM_FILE, folder or ".", f"{files}; left alone")
        expected = {"dataset.csv", self.options.csv.name if self.options.csv else ""}
        for name in sorted(names):
            base = name.rpartition("/")[2]
            if base in expected or base.startswith(".") or is_system_file(base):
                continue
            if is_tree_note(os.path.join(self.root, folder), base):
                continue
            if what := format_unread(base, of_masks=of_masks):
                self._tell(IssueKind.UNREAD_FORMAT, folder + name, f"{what}; not read")
            elif base.rpartition(".")[2].lower() not in _EXPECTED_SUFFIXES:
                self._tell(
                    IssueKind.UNEXPECTED,
                    folder + name,
                    "neither image, mask, dataset.csv nor label map",
                )

    def _tell_unnamed(self, folder: str, names: list[str]) -> None:
        for name in sorted(names):
            self._tell(IssueKind.OTHER_NAME, folder + name, self.rules.describe())

    def _siblings(self, folder: str, files: list[str]) -> NameGroup:
        rules = UNLABELLED_RULES if self.unlabelled else self.rules
        images, masks, others, _, unread = sort_names(files, None, rules)
        self._note_others(folder, others)
        self._tell_unnamed(folder, unread[0])
        images, further = numbered_masks(images, rules.mask_end.stem_end)
        for name in further:
            self._tell(IssueKind.SECOND_MASK, folder + name, "a further mask of an image; not read")
        if self.unlabelled:
            for name in sorted(masks.all()):
                self._tell(
                    IssueKind.UNEXPECTED, folder + name, "mask in an --unlabelled folder; not read"
                )
            masks = type(masks)()
        text = to_text(folder)
        return NameGroup(
            self.path_prefix + text,
            images,
            self.path_prefix + text,
            masks,
            self.id_prefix + text,
            self.unlabelled,
        )

    def _mirrored(
        self, folder: str | None, files: list[str], mirror: str | None, mask_files: list[str]
    ) -> NameGroup:
        images, masks, others, others_of_masks, unread = sort_names(files, mask_files, self.rules)
        self._note_others(folder or "", others)
        self._note_others(mirror or "", others_of_masks, of_masks=True)
        for place, names in zip((folder, mirror), unread, strict=True):
            self._tell_unnamed(place or "", names)
        # Where only the masks' side has a folder, its tiles are named after the side that should be
        # there.
        text = to_text(mirror or "")
        return NameGroup(
            to_text(folder or ""),
            images,
            text,
            masks,
            to_text(folder) if folder is not None else text,
        )


def is_tree_note(folder: str, name: str) -> bool:
    """Return whether a file is about the tree that `histoprep import` or `histoprep fix` made of
    its folder.
    """
    return any(
        name in names and os.path.isfile(os.path.join(folder, request))
        for request, names in _OF_TREES.items()
    )


def first_named(folders: list[str], wanted: Iterable[str]) -> str | None:
    """Return the folder whose name comes first among `wanted`, whatever its case, or None."""
    by_lower = {name.lower(): name for name in reversed(folders)}
    return next((by_lower[name.lower()] for name in wanted if name.lower() in by_lower), None)


def starred_pairs(
    images: str | None, masks: str | None, folders: list[str]
) -> list[tuple[str | None, str | None]]:
    """Return the (images, masks) folders whose names fit two templates with the same text for the
    star, in order of that text; None where one of the two is missing.

    A folder that fits both templates belongs to the longer one: `*` fits all that `*_labels` does.
    There must be one whole pair, otherwise nothing is returned.
    """
    image_parts, mask_parts = _star_parts(images), _star_parts(masks)
    of_images = {
        text.lower(): name
        for name in folders
        if (text := _star_text(image_parts, name)) is not None
    }
    of_masks = {
        text.lower(): name for name in folders if (text := _star_text(mask_parts, name)) is not None
    }
    longer, shorter = (
        (of_images, of_masks)
        if len("".join(image_parts)) > len("".join(mask_parts))
        else (of_masks, of_images)
    )
    taken = set(longer.values())
    for text in [text for text, name in shorter.items() if name in taken]:
        del shorter[text]
    if not of_images.keys() & of_masks.keys():
        return []
    texts = sorted(of_images.keys() | of_masks.keys())
    return [(of_images.get(text), of_masks.get(text)) for text in texts]


def _star_parts(template: str | None) -> tuple[str, str]:
    before, _, after = (template or "").partition(STAR)
    return before, after


def _star_text(parts: tuple[str, str], name: str) -> str | None:
    """Return what stands for the star in a folder's name, None when the name does not fit."""
    before, after = parts
    lowered = name.lower()
    fits = lowered.startswith(before.lower()) and lowered.endswith(after.lower())
    text = name[len(before) : len(name) - len(after)]
    return text if fits and len(before) + len(after) < len(name) else None


def star_text(template: str | None, name: str) -> str | None:
    """Return what stands for the star of a template in a folder's name, or None."""
    return _star_text(_star_parts(template), name) if STAR in (template or "") else None
