"""Folder -> listing -> pairs of image and mask; no pixel is read.

The walk yields pairs folder by folder in order of the names, so memory does not grow with
the number of folders, and the order is the same everywhere. In every folder two
layouts are recognised: an `images` and a `masks` folder that mirror each other, and otherwise
siblings, `x.jpg` beside `x_mask.png`. A first folder called train, val or test gives the
split; with class folders the next one gives the label.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from histoprep.choices import Layout
from histoprep.errors import UsageError
from histoprep.image_formats import is_image
from histoprep.names import is_left_alone, to_text
from histoprep.scanning.dataset_csv import DatasetCsv
from histoprep.scanning.listing import Issue, IssueKind, Pair, ScanOptions
from histoprep.scanning.pairing import Pairing, value_reader
from histoprep.scanning.pairs_table import read_pairs
from histoprep.scanning.pixel_groups import groups_by_names
from histoprep.scanning.understanding import Understanding, understand
from histoprep.scanning.walk import IMAGE_FOLDERS, MASK_FOLDERS, SPLIT_FOLDERS, Walker, first_named

__all__ = [
    "Issue",
    "IssueKind",
    "Pair",
    "ScanOptions",
    "Understanding",
    "detect_layout",
    "scan",
    "understand",
    "values_by",
]


def scan(root: Path, options: ScanOptions, report: Callable[[Issue], None]) -> Iterator[Pair]:
    """Yield every tile and orphan mask below `root` and the unlabelled folders, in a fixed order.

    `report` is called with whatever is no pair. Raises UsageError for options that cannot be.
    """
    root = root.resolve()
    csv = DatasetCsv.find(root, options.csv)
    pairing = Pairing(options, csv, report)
    apart = _unlabelled_folders(root, options.unlabelled)
    walkers = []
    if options.pairs is None:
        walkers.append(
            Walker(str(root), options, report, skip=[str(folder) for folder, _ in apart])
        )
    else:
        yield from pairing.described(read_pairs(root, options.pairs, report))
    for folder, id_prefix in apart:
        path_prefix = id_prefix if folder.is_relative_to(root) else to_text(f"{folder}/")
        walkers.append(
            Walker(
                str(folder),
                options,
                report,
                unlabelled=True,
                path_prefix=path_prefix,
                id_prefix=id_prefix,
            )
        )
    for walker in walkers:
        for place in walker.places():
            yield from pairing.pairs(place)
    if csv:
        if pairing.some_image and pairing.needs_csv:
            csv.refuse_foreign(pairing.some_image)
        for issue in _csv_issues(csv):
            report(issue)
    pairing.refuse_no_groups(root, groups_by_names(options.group_by))


def values_by(
    option: str, how: str, root: Path, options: ScanOptions
) -> Callable[[str, str | None], str | None]:
    """Return a function from (tile id, image path) to a value, None for none.

    Args:
        option: Its name, for messages.
        how: `folder`, `csv:COLUMN`, or a regular expression whose first group, or all of it, is the
            value.
        root: The data set.
        options: How it is scanned; `csv` is the table.

    Raises:
        UsageError: There is no table with such a column, or it is no regular expression.
    """
    found = value_reader(option, how, DatasetCsv.find(root.resolve(), options.csv))
    if found is None:
        raise ValueError(f"{option} asks for nothing")
    return found


def _csv_issues(csv: DatasetCsv) -> Iterator[Issue]:
    """Yield what a table names and nobody has, and rows that fit several images."""
    for name in csv.unseen():
        if csv.names_slides:
            yield Issue(IssueKind.CSV_SLIDE, name, f"a slide in {csv.path.name} without a tile")
        else:
            detail = f"named in {csv.path.name}, but there is no such image"
            yield Issue(IssueKind.CSV_MISSING, name, detail)
    for name, images in csv.shared():
        detail = f"in {csv.path.name}, fits {len(images):,} images: {', '.join(images[:3])}"
        yield Issue(IssueKind.CSV_SHARED, name, detail)


def _unlabelled_folders(root: Path, folders: tuple[Path, ...]) -> list[tuple[Path, str]]:
    """Return (absolute folder, prefix of its tile ids) without folders that lie in another one."""
    chosen: list[tuple[Path, str]] = []
    taken: set[str] = set()
    for folder in sorted({folder.resolve() for folder in folders}):
        if not folder.is_dir():
            raise UsageError("an --unlabelled root is not a folder", path=folder)
        if root.is_relative_to(folder):
            raise UsageError(
                "an --unlabelled root contains the data set itself",
                path=folder,
                expected=f"a folder inside or beside {root}",
            )
        if any(folder.is_relative_to(other) for other, _ in chosen):
            continue
        inside = folder.is_relative_to(root)
        prefix = str(folder.relative_to(root)) if inside else folder.name
        # Tile ids stay unique when a folder from elsewhere has the name of one in here.
        while prefix in taken or (not inside and os.path.lexists(root / prefix)):
            prefix += "+"
        taken.add(prefix)
        chosen.append((folder, to_text(prefix) + "/"))
    return chosen


def detect_layout(root: Path) -> Layout:
    """Return class-folders for `train/<class>/..` and `test/<class>/..` trees, auto otherwise.

    The split folders must hold folders and no images of their own, which is what tells classes
    from a plain split.
    """
    splits = [name for name in _folders_and_images(root)[0] if name.lower() in SPLIT_FOLDERS]
    if not splits:
        return Layout.AUTO
    for name in splits:
        folders, images = _folders_and_images(root / name)
        paired = first_named(folders, IMAGE_FOLDERS) and first_named(folders, MASK_FOLDERS)
        if not folders or paired or images:
            return Layout.AUTO
    return Layout.CLASS_FOLDERS


def _folders_and_images(folder: Path) -> tuple[list[str], int]:
    """Return the names of the folders in a folder and the number of images; nothing where it cannot
    be listed.
    """
    folders: list[str] = []
    images = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and not is_left_alone(entry.name):
                    folders.append(entry.name)
                elif is_image(entry.name) and not entry.name.startswith("."):
                    images += 1
    except OSError:
        return [], 0
    return sorted(folders), images
