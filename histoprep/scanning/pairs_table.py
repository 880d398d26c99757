"""`--pairs`: a table of images and masks -> pairs, for folders whose names do not say what belongs
together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from histoprep.errors import UsageError
from histoprep.image_formats import is_image
from histoprep.name_index import NameIndex, common_end, composed
from histoprep.names import is_left_alone, to_name, to_text
from histoprep.phrases import first_of, plural
from histoprep.remote import file_bytes
from histoprep.scanning.content import Content, content_of
from histoprep.scanning.dataset_csv import CASE_COLUMNS, NAME_COLUMNS, SLIDE_COLUMNS
from histoprep.scanning.listing import Issue, IssueKind, Pair
from histoprep.scanning.walk import SPLIT_FOLDERS
from histoprep.text_table import TextTable, read_text_table

_COLUMNS = {
    "image": NAME_COLUMNS,
    "mask": (
        "mask",
        "mask_path",
        "mask_file",
        "mask_name",
        "label_path",
        "label_file",
        "annotation",
        "annotation_path",
        "segmentation",
        "segmentation_path",
        "seg",
        "gt",
        "target",
    ),
    "group": ("group", *SLIDE_COLUMNS, *CASE_COLUMNS),
    "label": ("label", "class", "image_label"),
    "split": ("split", "set", "subset", "partition"),
}
# So many rows are looked at to see whether columns are swapped, and no larger files.
_NUM_LOOKED = 5
_MAX_BYTES = 64 << 20
_EXPECTED = (
    "a header with a column `image` and a column `mask`, and `group`, `label` and `split` if known"
)


class _Row(NamedTuple):
    """What a row says, as text; None for an empty cell or a column that is not there."""

    line: int
    image: str
    mask: str | None
    group: str | None
    label: str | None
    split: str | None


def read_pairs(root: Path, path: Path, report: Callable[[Issue], None]) -> Iterator[Pair]:
    """Yield the pairs of a table in order of their images.

    A cell names a file by its path below `root` or below the folder of the table, or by the end of
    a path of another machine. A cell that names no file is reported; its row stays, so that the
    tile is counted as one that cannot be read.

    Raises:
        UsageError: The table cannot be read, lacks a column, names an image twice or outside of
            `root`, or none of its images is there.
    """
    rows = list(_rows(read_text_table(path)))
    if not rows:
        raise UsageError(
            "the table of pairs has no row",
            path=path,
            seen="a header alone",
            expected="a row for each image",
        )
    files = _Files(root, path)
    names = [name for row in rows for name in (row.image, row.mask) if name is not None]
    paths = files.find(names)
    if not any(row.image in paths for row in rows):
        raise UsageError(
            "no image that the table names is there",
            path=path,
            seen=f"{rows[0].image} in row {rows[0].line}",
            expected=f"paths below {root}",
            hint="histoprep audit ROOT --pairs TABLE, with the folder that the paths begin in",
        )
    pairs: dict[str, Pair] = {}
    for row in rows:
        for name in (row.image, row.mask):
            if name is not None and name not in paths:
                detail = f"row {row.line} of {path.name}; there is no such file below ROOT"
                report(Issue(IssueKind.PAIRS_MISSING, name, detail))
        image = paths.get(row.image, row.image)
        mask = None if row.mask is None else paths.get(row.mask, row.mask)
        pair = Pair(image, image, mask, row.group, row.split, row.label, False, None)
        if pairs.setdefault(image, pair) != pair:
            raise UsageError(
                f"row {row.line} names an image for the second time",
                path=path,
                seen=row.image,
                expected="one row, and one mask, for each image",
                hint="histoprep import combine makes one mask of several",
            )
    _refuse_swapped(root, path, list(pairs.values()))
    for mask, images in _shared_masks(pairs.values()).items():
        detail = f"in {path.name} for {plural(len(images), 'image')}: {first_of(images, limit=3)}"
        report(Issue(IssueKind.PAIRS_SHARED, mask, detail))
    yield from _with_ids(pairs)


def _refuse_swapped(root: Path, table: Path, pairs: Sequence[Pair]) -> None:
    """Raise UsageError when the columns of images and masks hold each other's files, by a few of
    them, or the same ones.
    """
    same = [pair for pair in pairs if pair.image_path == pair.mask_path]
    if same:
        raise UsageError(
            "a row names one file as the image and as its mask",
            path=table,
            seen=f"{plural(len(same), 'row')}, such as that of {same[0].image_path}",
            expected="the file of the labels in the column mask",
        )
    whole = [pair for pair in pairs if pair.mask_path is not None]
    step = max(1, len(whole) // _NUM_LOOKED)
    chosen = whole[: step * _NUM_LOOKED : step]
    images = [_content(root, pair.image_path) for pair in chosen]
    masks = [_content(root, pair.mask_path) for pair in chosen]
    known = [
        (image, mask)
        for image, mask in zip(images, masks, strict=True)
        if Content.UNKNOWN not in (image, mask)
    ]
    swapped = [image.is_labels and mask is Content.IMAGE for image, mask in known]
    if known and sum(swapped) > len(known) / 2:
        raise UsageError(
            "the columns of images and masks seem to be swapped",
            path=table,
            seen=f"labels in the column of images, such as {chosen[0].image_path}, and an image in"
            f" that of masks, such as {chosen[0].mask_path}",
            expected="images in the column image, label masks in the column mask",
            hint="exchange the names of the two columns in the header",
        )


def _content(root: Path, path: str | None) -> Content:
    """Return what a file looks like; UNKNOWN for one that is not there or large."""
    try:
        file = root / to_name(path or "")
        is_small = file.stat().st_size <= _MAX_BYTES
        return content_of(file_bytes(file)) if is_small else Content.UNKNOWN
    except OSError:
        return Content.UNKNOWN


def _shared_masks(pairs: Iterable[Pair]) -> dict[str, list[str]]:
    """Return the masks that several images have, with those."""
    images: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.mask_path is not None and pair.image_path is not None:
            images.setdefault(pair.mask_path, []).append(pair.image_path)
    return {mask: found for mask, found in images.items() if len(found) > 1}


def _with_ids(pairs: dict[str, Pair]) -> Iterator[Pair]:
    """Yield the pairs in order, named after the image without its suffix, where that is unique."""
    taken: set[str] = set()
    for image in sorted(pairs):
        folder, _, name = image.rpartition("/")
        stem = f"{folder}/" * bool(folder) + (name.rpartition(".")[0] or name)
        tile_id = image if stem in taken else stem
        taken.add(tile_id)
        yield pairs[image]._replace(tile_id=tile_id)


def _rows(table: TextTable) -> Iterator[_Row]:
    header = [cell.lower() for cell in table.rows[0]] if table.rows else []
    places = {
        what: next((header.index(name) for name in names if name in header), None)
        for what, names in _COLUMNS.items()
    }
    skipped = 1
    if places["image"] is None and len(header) > 1 and all(map(is_image, table.rows[0][:2])):
        places = dict.fromkeys(_COLUMNS) | {"image": 0, "mask": 1}
        skipped = 0
    if places["image"] is None or places["mask"] is None:
        raise UsageError(
            "the table of pairs lacks a column",
            path=table.path,
            seen=", ".join(table.rows[0]) if table.rows else "an empty table",
            expected=_EXPECTED,
        )
    for row, line in zip(table.rows[skipped:], table.lines[skipped:], strict=True):
        if len(row) > len(table.rows[0]) or len(row) <= places["mask"]:
            raise UsageError(
                f"row {line} has another number of cells than the first",
                path=table.path,
                seen=f"{plural(len(row), 'cell')}: {table.separator.join(row)}",
                expected=f"{plural(len(table.rows[0]), 'cell')}, those without a value empty",
            )
        cells = {
            what: row[place] or None if place is not None and place < len(row) else None
            for what, place in places.items()
        }
        image, split = cells["image"], cells["split"]
        if image is None:
            raise UsageError(f"row {line} names no image", path=table.path, seen=",".join(row))
        if split is not None and split.lower() not in SPLIT_FOLDERS:
            raise UsageError(
                f"row {line} names an unknown split",
                path=table.path,
                seen=split,
                expected=", ".join(sorted(set(SPLIT_FOLDERS.values()))),
            )
        yield _Row(
            line,
            image,
            cells["mask"],
            cells["group"],
            cells["label"],
            None if split is None else SPLIT_FOLDERS[split.lower()],
        )


@dataclass(slots=True)
class _Files:
    """The files below `root` that a table means."""

    root: Path
    table: Path

    def find(self, names: list[str]) -> dict[str, str]:
        """Return the path below root of each name that means one file, as texts of tiles.parquet.

        Raises UsageError for a name that means a file outside of root, or several inside.
        """
        listed: dict[str, dict[str, str]] = {}
        found = {}
        for name in dict.fromkeys(names):
            path = self._path(name, listed)
            if path is not None:
                found[name] = path
        missing = [name for name in names if name not in found]
        return found | (self._by_end(missing) if missing else {})

    def _path(self, name: str, listed: dict[str, dict[str, str]]) -> str | None:
        """Return the path that a name has below the root or the table's folder."""
        for start in (self.root, self.table.resolve().parent):
            whole = os.path.normpath(os.path.join(start, to_name(name)))
            folder, file_name = os.path.split(whole)
            if folder not in listed:
                listed[folder] = _names_in(folder)
            actual = listed[folder].get(composed(to_text(file_name)))
            if actual is not None:
                return self._below_root(os.path.join(folder, actual))
        return None

    def _below_root(self, path: str) -> str:
        root = str(self.root)
        if os.path.commonpath([root, path]) != root:
            raise UsageError(
                "the table names a file outside of the data set",
                path=self.table,
                seen=path,
                expected=f"files below {root}",
                hint=f"histoprep audit {os.path.commonpath([root, path])} --pairs {self.table}",
            )
        return to_text(os.path.relpath(path, root))

    def _by_end(self, names: list[str]) -> dict[str, str]:
        index = NameIndex(names)
        fits: dict[str, dict[int, list[str]]] = {}
        for path in self._images():
            name = index.find(path)
            if name is not None:
                fits.setdefault(name, {}).setdefault(common_end(name, path), []).append(path)
        found = {name: paths[max(paths)] for name, paths in fits.items()}
        for name, paths in found.items():
            if len(paths) > 1:
                raise UsageError(
                    "a name in the table fits several files",
                    path=self.table,
                    seen=f"{name} for {paths[0]} and {paths[1]}",
                    expected="names with the folders that tell them apart",
                )
        return {name: paths[0] for name, paths in found.items()}

    def _images(self) -> Iterator[str]:
        """Yield the paths of the images below root, without hidden folders and links to folders."""
        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not is_left_alone(name))
            below = os.path.relpath(folder, self.root)
            for name in filter(is_image, sorted(files)):
                yield to_text(name if below == "." else f"{below}/{name}")


def _names_in(folder: str) -> dict[str, str]:
    """Return the names in a folder by their composed form; none where it cannot be listed."""
    try:
        return {composed(to_text(name)): name for name in sorted(os.listdir(folder))}
    except OSError:
        return {}
