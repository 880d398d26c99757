"""What a data set consists of: the images and masks of its tiles table, and every other file below
its root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from histoprep import rule_ids, tables
from histoprep.digests import hash_text
from histoprep.errors import UsageError
from histoprep.fixing.operations.base import IMAGE, MASK, FileFacts, Size, StoredFile
from histoprep.key_index import KeyIndex
from histoprep.mask_tree.task import beside
from histoprep.names import to_text
from histoprep.scanning.walk import is_tree_note
from histoprep.schemas.ledgers import FIX, IMPORT, LEDGER
from histoprep.schemas.repaired import RepairedMasks
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import SUFFIX as WORKSPACE_SUFFIX

_COLUMNS = (
    "tile_id", "image_path", "image_bytes", "image_mtime_ns", "image_digest", "image_error",
    "image_format", "image_mode", "image_bit_depth", "width_px", "height_px", "exif_orientation",
    "image_metadata", "mask_path", "mask_bytes", "mask_mtime_ns", "mask_digest", "mask_error",
    "mask_format", "mask_mode", "mask_bit_depth", "mask_width_px", "mask_height_px",
    "mask_metadata", "mask_encoding", "mask_doubt", "mask_lossy", "label_ids", "label_pixels",
    "label_specks",
)  # fmt: skip
_TURNED_MASK = rule_ids.READERS_DISAGREE.verdict("orientation")
_ROWS_AT_ONCE = 4096


def tile_files(table: Path, repaired: RepairedMasks | None) -> Iterator[FileFacts]:
    """Yield the images and masks of a tiles table in its order, each path once; those outside of
    the root (`--unlabelled`) are left out.

    Args:
        table: The tiles table.
        repaired: Repaired masks, for those that are put in place; None for no mask.
    """
    opened, _ = open_tiles_table(table)
    seen: set[int] = set()
    for batch in tables.read_batches(opened, _COLUMNS, rows=_ROWS_AT_ONCE):
        current, is_repaired = (
            (batch, np.zeros(batch.num_rows, bool))
            if repaired is None
            else repaired.put_into(batch)
        )
        rows = zip(batch.to_pylist(), _after_repair(current, is_repaired), strict=True)
        for row, after in rows:
            for file in _files_of(row, after):
                key = hash_text(file.path)
                if key not in seen and not file.path.startswith("/"):
                    seen.add(key)
                    yield file


def _after_repair(current: pa.Table, is_repaired: np.ndarray) -> Iterator[dict[str, Any] | None]:
    for index, is_new in enumerate(is_repaired.tolist()):
        yield current.slice(index, 1).to_pylist()[0] if is_new else None


def _files_of(row: dict[str, Any], after: dict[str, Any] | None) -> Iterator[FileFacts]:
    image_size = _size(row["width_px"], row["height_px"])
    mask_size = _size(row["mask_width_px"], row["mask_height_px"])
    is_mask_turned = row["mask_error"] == _TURNED_MASK
    if row["image_path"] is not None:
        yield FileFacts(
            path=row["image_path"],
            role=IMAGE,
            other_size=mask_size,
            size=image_size,
            metadata=tuple(row["image_metadata"] or ()),
            orientation=row["exif_orientation"],
            is_other_turned=is_mask_turned,
            **_common(row, IMAGE),
        )
    if row["mask_path"] is not None:
        known = after or row
        yield FileFacts(
            path=row["mask_path"],
            role=MASK,
            other_size=image_size,
            size=mask_size,
            metadata=tuple(known["mask_metadata"] or ()),
            is_other_turned=row["exif_orientation"] in range(2, 9),
            encoding=known["mask_encoding"],
            is_doubtful=known["mask_doubt"] is not None,
            lossy=known["mask_lossy"],
            label_ids=_tuple(known["label_ids"]),
            label_pixels=_tuple(known["label_pixels"]),
            num_specks=sum(known["label_specks"] or ()),
            repaired=None if after is None else _stored_mask(after),
            original_ids=_tuple(row["label_ids"]),
            original_pixels=_tuple(row["label_pixels"]),
            **(
                _common(row, MASK)
                | {name: known[f"mask_{name}"] for name in ("error", "format", "mode", "bit_depth")}
            ),
        )


def _stored_mask(row: dict[str, Any]) -> StoredFile:
    return StoredFile(row["mask_path"], row["mask_bytes"], row["mask_digest"])


def _common(row: dict[str, Any], role: str) -> dict[str, Any]:
    return {
        "tile_id": row["tile_id"],
        "num_bytes": row[f"{role}_bytes"] or 0,
        "mtime_ns": row[f"{role}_mtime_ns"] or 0,
        **{name: row[f"{role}_{name}"] for name in ("digest", "error", "format", "mode")},
        "bit_depth": row[f"{role}_bit_depth"],
    }


def _size(width: int | None, height: int | None) -> Size | None:
    return None if width is None or height is None else Size(width, height)


def _tuple(values: list[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values)


class OtherFile(NamedTuple):
    """A file that is neither image nor mask of a tile: path relative to the root, as text, size and
    modification time.
    """

    path: str
    num_bytes: int
    mtime_ns: int


def other_files(
    root: Path, tiles: KeyIndex, left_out: list[str] | None = None
) -> Iterator[OtherFile]:
    """Yield the files below the root that are not of a tile, in order of their paths by folder.

    Hidden files and folders, workspaces and what `histoprep import` and `histoprep fix` wrote about
    their trees are no part of a data set; links and special files that no tile has are added to
    `left_out`.

    Args:
        root: Folder of the data set.
        tiles: Hashes of the paths of images and masks.
        left_out: Where links and special files are listed.
    """
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith(WORKSPACE_SUFFIX)
            and not os.path.islink(os.path.join(parent, name))
        )
        for name in sorted(names):
            path = to_text(os.path.relpath(os.path.join(parent, name), root))
            if name.startswith(".") or tiles.find(np.array([hash_text(path)], np.uint64))[0] >= 0:
                continue
            if is_tree_note(parent, name) and name not in IMPORT.notes:
                continue
            found = os.lstat(os.path.join(parent, name))
            if stat.S_ISREG(found.st_mode):
                yield OtherFile(path, found.st_size, found.st_mtime_ns)
            elif left_out is not None:
                left_out.append(path)


def refuse_own_names(root: Path) -> None:
    """Raise UsageError if a file of the data set has a name that the new tree needs itself."""
    for name in (LEDGER, FIX.request, FIX.job(root).seal_name, "checksums.json"):
        if (root / name).exists() and not is_tree_note(str(root), name):
            raise UsageError(
                "the data set has a file with a name that histoprep fix writes itself",
                path=beside(root, name),
                hint="fix the folders below it one by one, or give the file another name",
            )
