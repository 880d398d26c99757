"""Options of the scan, tried on names alone: what they would pair. No file is looked at.

Whatever advice prints was tried here before: options that do not give the pairs that they are
printed for are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from histoprep.errors import UsageError
from histoprep.names import to_text
from histoprep.scanning.listing import Issue, ScanOptions
from histoprep.scanning.pairing import Pairing
from histoprep.scanning.walk import DirectoryListing, Walker

_NOWHERE = "/"


def pair_names(files: Iterable[str], options: ScanOptions) -> frozenset[tuple[str, str]]:
    """Return the (image, mask) that a scan with these options would pair if these were all files;
    none where it would refuse them.

    Args:
        files: Paths below the root, with `/`.
        options: Options of the scan; tables, groups and further roots do not count.
    """
    tree = _tree(files)

    def fill(folder: str, listed: DirectoryListing) -> None:
        found = tree.get(folder, DirectoryListing())
        listed.files += found.files
        listed.folders += found.folders

    names = replace(options, group_by=None, label_by=None, csv=None, pairs=None, unlabelled=())
    pairing = Pairing(names, None, _ignore)
    walker = Walker(_NOWHERE, names, _ignore, fill=fill)
    try:
        return frozenset(
            (pair.image_path, pair.mask_path)
            for place in walker.places()
            for pair in pairing.pairs(place)
            if pair.image_path is not None and pair.mask_path is not None
        )
    except UsageError:
        return frozenset()


def gives_pairs(
    stated: Collection[tuple[str, str]],
    files: Iterable[str],
    options: ScanOptions,
    *,
    is_complete: bool = True,
) -> bool:
    """Return whether a scan with these options pairs exactly what is stated.

    Args:
        stated: Pairs of image and mask.
        files: Paths below the root, those of `stated` among them.
        options: Options of the scan.
        is_complete: Whether these are all files; otherwise further pairs are no contradiction.
    """
    wanted = {(to_text(image), to_text(mask)) for image, mask in stated}
    found = pair_names([*files, *(path for pair in stated for path in pair)], options)
    return found == wanted if is_complete else found >= wanted


def _ignore(_: Issue) -> None:
    """Take an issue and do nothing: pairs alone count."""


def _tree(files: Iterable[str]) -> dict[str, DirectoryListing]:
    """Return what is in each folder, by its path, which is empty or ends with a slash."""
    tree = {"": DirectoryListing()}
    for path in dict.fromkeys(files):
        folder, slash, name = path.rpartition("/")
        _folder(tree, folder + slash).files.append(name)
    return tree


def _folder(tree: dict[str, DirectoryListing], path: str) -> DirectoryListing:
    """Return what is in a folder; one that was not there is added to those around it."""
    missing = []
    while path not in tree:
        missing.append(path)
        outer, slash, _ = path[:-1].rpartition("/")
        path = outer + slash
    for below in reversed(missing):
        tree[path].folders.append(below[len(path) : -1])
        path = below
        tree[path] = DirectoryListing()
    return tree[path]
