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

from histoprep.choices import Layout
from histoprep.errors import UsageError
from histoprep.image_formats import is_image
from histoprep.names import pairing_key, to_text
from histoprep.scan.keys import KeyedNames, PlainNames, sort_names
from histoprep.scan.listing import Issue, IssueKind, ScanOptions
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
_EXPECTED_SUFFIXES = frozenset({"yml", "yaml"})
# So many folders are listed, at most, to see whether there are images in one that is not read.
_MAX_LOOKS = 64


@dataclass(frozen=True, slots=True)
class FolderNames:
    """Files that can only pair with each other; prefixes are text, and end with a slash or are
    empty.
    """

    image_prefix: str
    images: KeyedNames | PlainNames
    mask_prefix: str
    masks: KeyedNames | PlainNames
    id_prefix: str
    unlabelled: bool = False


@dataclass(slots=True)
class DirectoryListing:
    """The names in one folder, in no order; `others` are neither regular files nor folders."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    others: list[os.DirEntry[str]] = field(default_factory=list)


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
    ) -> None:
        """Prepare a walk that leaves out the folders `skip` (absolute paths).

        An unlabelled walker expects no masks; its paths and tile ids begin with the prefixes.
        """
        self.root = root
        self.options = options
        self.report = report
        self.skip = frozenset(skip)
        self.unlabelled = unlabelled
        self.path_prefix = path_prefix
        self.id_prefix = id_prefix

    def places(self) -> Iterator[FolderNames]:
        """Yield the places of all folders, depth first and in order of their names; raises
        UsageError where those asked for are nowhere.
        """
        # An explicit stack: folders can be nested deeper than Python may recurse.
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
                stack.append((*chosen, True))
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
            self._scan_folder(folder, listed)
        except OSError as error:
            if not folder:
                raise UsageError(
                    f"the folder cannot be listed: {error.strerror}", path=self.root
                ) from error
            self._tell(IssueKind.UNREADABLE, folder, f"folder cannot be listed: {error.strerror}")
        listed.folders.sort()
        for entry in sorted(listed.others, key=lambda file: file.name):
            self._judge_other(folder, entry, listed.files)
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
                elif (
                    not entry.name.startswith(".")
                    and not entry.name.endswith(WORKSPACE_SUFFIX)
                    and entry.path not in self.skip
                ):
                    listed.folders.append(entry.name)

    def _judge_other(self, folder: str, entry: os.DirEntry[str], files: list[str]) -> None:
        """Add a link to a file of the data set to `files`; report anything else."""
        reason = None
        target = os.path.realpath(entry.path)
        if not entry.is_symlink():
            reason = "not a regular file (pipe, socket or device); not opened"
        elif not target.startswith(self.root.rstrip("/") + "/"):
            reason = "link that leaves the data set; not followed"
        else:
            try:
                if not stat.S_ISREG(os.stat(target).st_mode):
                    reason = (
                        "link to a folder of the data set, which is read in its own place; not"
                        " followed"
                    )
            except OSError as error:
                reason = f"link to nothing: {error.strerror}"
        if reason:
            self._tell(IssueKind.UNEXPECTED, folder + entry.name, reason)
        else:
            files.append(entry.name)

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

    def _paired_folders(self, folder: str, folders: list[str]) -> tuple[str, str] | None:
        """Return the mirrored (images, masks) folders among `folders`, or None."""
        options = self.options
        if self.unlabelled or options.layout in (Layout.SIBLING, Layout.CLASS_FOLDERS):
            return None
        images = first_named(folders, (options.images,) if options.images else IMAGE_FOLDERS)
        masks = first_named(folders, (options.masks,) if options.masks else MASK_FOLDERS)
        if images and masks:
            return f"{folder}{images}/", f"{folder}{masks}/"
        return None

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

    def _leave_out(self, folder: str, listed: DirectoryListing, chosen: tuple[str, str]) -> None:
        for path in (f"{folder}{name}/" for name in listed.folders):
            if path not in chosen:
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
        named = self.options.images or self.options.masks
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
                self._scan_folder(here, listed)
            number = sum(map(is_image, listed.files))
            if number:
                return (
                    f"{number:,} image{'s' * (number > 1)}"
                    if here == folder
                    else "images further below"
                )
            waiting += [f"{here}{name}/" for name in sorted(listed.folders)]
        return ""

    def _note_others(self, folder: str, names: list[str]) -> None:
        expected = {"dataset.csv", self.options.csv.name if self.options.csv else ""}
        for name in sorted(names):
            if (
                name not in expected
                and not name.startswith(".")
                and name.rpartition(".")[2].lower() not in _EXPECTED_SUFFIXES
            ):
                self._tell(
                    IssueKind.UNEXPECTED,
                    folder + name,
                    "neither image, mask, dataset.csv nor label map",
                )

    def _siblings(self, folder: str, files: list[str]) -> FolderNames:
        images, masks, others, _ = sort_names(files, None, self.options.mask_suffix)
        self._note_others(folder, others)
        if self.unlabelled:
            for name in sorted(masks.all()):
                self._tell(
                    IssueKind.UNEXPECTED, folder + name, "mask in an --unlabelled folder; not read"
                )
            masks = type(masks)()
        text = to_text(folder)
        return FolderNames(
            self.path_prefix + text,
            images,
            self.path_prefix + text,
            masks,
            self.id_prefix + text,
            self.unlabelled,
        )

    def _mirrored(
        self, folder: str | None, files: list[str], mirror: str | None, mask_files: list[str]
    ) -> FolderNames:
        images, masks, others, others_of_masks = sort_names(
            files, mask_files, self.options.mask_suffix
        )
        self._note_others(folder or "", others)
        self._note_others(mirror or "", others_of_masks)
        # Where only the masks' side has a folder, its tiles are named after the side that should be
        # there.
        text = to_text(mirror or "")
        return FolderNames(
            to_text(folder or ""),
            images,
            text,
            masks,
            to_text(folder) if folder is not None else text,
        )


def first_named(folders: list[str], wanted: Iterable[str]) -> str | None:
    """Return the folder whose name comes first among `wanted`, whatever its case, or None."""
    by_lower = {name.lower(): name for name in reversed(folders)}
    return next((by_lower[name.lower()] for name in wanted if name.lower() in by_lower), None)
