"""The rows of the tiles table as later stages see them: what `repair` wrote stands in the place
of what was damaged.

tiles.parquet says what is on disk. The manifest, the statistics and all that is made from them read
`TileRows`: the same rows, but the mask columns of a repaired mask are those of its new file. The
audit, which names the files of the data set, takes the new `CONTENT_COLUMNS` alone.
repaired.parquet, written by `repair`, holds these columns with the path and the digest of the
damaged mask, so that a mask that changed since is never taken for one that was repaired.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histoprep import checksums, tables
from histoprep.digests import hash_text
from histoprep.durable import sync_folder
from histoprep.errors import IntegrityError
from histoprep.job_folder import output_errors
from histoprep.key_index import KeyIndex
from histoprep.names import to_name
from histoprep.schemas import tiles
from histoprep.schemas.workspace import REPAIRED_NOTE, REPAIRED_TABLE

KIND = "repaired"
SCHEMA_VERSION = "1.1"
IS_REPAIRED = "is_repaired"
"""A column that `TileRows` adds where it is requested: whether the mask is a repaired one."""

# mask_label_map stays that of the damaged mask: repair changes labels, not the map that they went
# through.
MASK_COLUMNS = tuple(
    name
    for name in tiles.SCHEMA.names
    if name.startswith(("mask_", "label_")) and name != "mask_label_map"
)
_OF_FILE = (
    "mask_path",
    "mask_bytes",
    "mask_mtime_ns",
    "mask_digest",
    "mask_error",
    "mask_error_detail",
    "mask_format",
    "mask_metadata",
)
CONTENT_COLUMNS = tuple(name for name in MASK_COLUMNS if name not in _OF_FILE)
"""What a mask is and holds, whichever file it is in."""
SCHEMA = pa.schema(
    [
        pa.field(
            "damaged_path",
            pa.string(),
            metadata={"meaning": "path of the damaged mask relative to the data set"},
        ),
        pa.field(
            "damaged_digest", pa.string(), metadata={"meaning": "XXH3-128 of the damaged mask, hex"}
        ),
        *(tiles.SCHEMA.field(name) for name in MASK_COLUMNS),
    ]
)
EARLIER_NOTE, EARLIER_TABLE = "repair.json", "mended.parquet"
"""What earlier versions called the note and the table."""
_KEYS = ("mask_path", "mask_digest")


def repaired_digest(folder: Path) -> str | None:
    """Return the digest of the ledger of a workspace's last finished repair, None without one.

    Raises:
        IntegrityError: The note of the repair was changed, or is of an earlier version.
    """
    note = folder / REPAIRED_NOTE
    try:
        return str(checksums.read_json(note, hint=_hint(note))["ledger_digest"])
    except FileNotFoundError:
        _refuse_earlier_version(folder)
        return None
    except (KeyError, TypeError) as error:
        raise IntegrityError(
            f"damaged note of a repair: {error}", path=note, hint=_hint(note)
        ) from error


def _refuse_earlier_version(folder: Path) -> None:
    if (folder / EARLIER_NOTE).exists():
        raise IntegrityError(
            "the masks were repaired by an earlier version, in a form that is no longer read",
            path=folder / EARLIER_NOTE,
            expected=f"{REPAIRED_NOTE} and {REPAIRED_TABLE}",
            hint="histoprep repair ROOT repairs them again",
        )


def write_repaired(folder: Path, rows: Iterable[pa.Table], header: Mapping[str, Any]) -> None:
    """Publish the table of repaired masks, then the note that makes it count.

    Args:
        folder: The workspace; hold its lock.
        rows: Rows of `SCHEMA`, in order of the tiles table.
        header: `root` (of the data set), `folder` (of the masks, relative to the root or absolute)
            and `ledger_digest`; the same values give the same bytes.

    Raises:
        OutputError: The workspace cannot be written.
    """
    table = folder / REPAIRED_TABLE
    tables.write_table(
        table, rows, SCHEMA, kind=KIND, schema_version=SCHEMA_VERSION, metadata=header
    )
    noted = {name: header[name] for name in ("folder", "ledger_digest")}
    checksums.publish_json(folder, REPAIRED_NOTE, noted)
    checksums.forget_files(folder, EARLIER_NOTE.__eq__)
    with output_errors(folder):
        for name in (EARLIER_NOTE, EARLIER_TABLE):
            (folder / name).unlink(missing_ok=True)


def forget_repaired(folder: Path) -> None:
    """Remove the table of repaired masks before a file that it names may change.

    Until the repair has ended, later stages refuse to go on: the note is still there.

    Raises:
        OutputError: The workspace cannot be written.
    """
    with output_errors(folder):
        (folder / REPAIRED_TABLE).unlink(missing_ok=True)
        sync_folder(folder)


class RepairedMasks:
    """The table of repaired masks, looked up by path and digest of the damaged ones: 16 bytes a
    mask, and one row group, are in memory.
    """

    def __init__(self, path: Path) -> None:
        """Open the table; raises IntegrityError, FileNotFoundError."""
        self.path = path
        self._file, self.header = tables.open_table(path, kind=KIND, schema_version=SCHEMA_VERSION)
        keys = [
            _key(path)
            for batch in tables.read_batches(self._file, ["damaged_path"])
            for path in batch["damaged_path"].to_pylist()
        ]
        self._index = KeyIndex(np.array(keys, np.uint64))
        self._rows = tables.RowTaker(self._file)

    def __len__(self) -> int:
        """Return the number of repaired masks."""
        return len(self._index)

    def put_into(
        self, batch: pa.Table, columns: Sequence[str] = MASK_COLUMNS
    ) -> tuple[pa.Table, np.ndarray]:
        """Return rows of the tiles table with the `columns` of repaired masks where there are, and
        which rows these are (bool [n]).

        `batch` has mask_path and mask_digest.
        """
        is_repaired = np.zeros(batch.num_rows, bool)
        at, rows = self._find(batch)
        if not len(at):
            return batch, is_repaired
        is_repaired[at] = True
        names = [name for name in batch.column_names if name in columns]
        own = batch.select(names)
        both = pa.concat_tables([own, rows.select(names).cast(own.schema)])
        chosen = np.arange(batch.num_rows)
        chosen[at] = batch.num_rows + np.arange(len(at))
        taken = both.take(pa.array(chosen))
        return pa.table(
            [taken[name] if name in names else batch[name] for name in batch.column_names],
            schema=batch.schema,
        ), is_repaired

    def without(self, masks: pa.Table) -> np.ndarray:
        """Return which masks have no repaired one (bool [n]); `masks` as in `damaged_rows`."""
        is_left = np.ones(masks.num_rows, bool)
        is_left[self.damaged_rows(masks)] = False
        return is_left

    def damaged_rows(self, batch: pa.Table) -> list[int]:
        """Return the numbers of the rows whose mask is a damaged one that was repaired; `batch` has
        mask_path and mask_digest.
        """
        rows: list[int] = self._find(batch)[0].tolist()
        return rows

    def paths_of(self, damaged: Sequence[str]) -> dict[str, str]:
        """Return the paths of the repaired masks by those of the damaged ones, of those of the
        given paths that have one; whether these are still as they were is not looked at.
        """
        position = self._index.find(np.array([_key(path) for path in damaged], np.uint64))
        rows = self._take(position[position >= 0], ("damaged_path", "mask_path"))
        paths = zip(rows["damaged_path"].to_pylist(), rows["mask_path"].to_pylist(), strict=True)
        wanted = set(damaged)
        return {path: repaired for path, repaired in paths if path in wanted}

    def _find(self, batch: pa.Table) -> tuple[np.ndarray, pa.Table]:
        """Return the numbers of the rows of `batch` whose mask was repaired, ascending, and their
        rows of this table, in that order.
        """
        wanted = np.array(
            [0 if path is None else _key(path) for path in batch["mask_path"].to_pylist()],
            np.uint64,
        )
        position = self._index.find(wanted)
        at = np.flatnonzero(position >= 0)
        if not len(at):
            return at, SCHEMA.empty_table()
        rows = self._take(
            position[at],
            dict.fromkeys(("damaged_path", "damaged_digest", *_of_masks(batch.column_names))),
        )
        damaged = batch.select(_KEYS).take(pa.array(at))
        same = pc.and_(
            pc.equal(rows["damaged_path"], damaged["mask_path"]),
            pc.equal(rows["damaged_digest"], damaged["mask_digest"]),
        )
        valid = pc.fill_null(same, False).combine_chunks()
        return at[valid.to_numpy(zero_copy_only=False)], rows.filter(valid)

    def _take(self, positions: np.ndarray, names: Iterable[str]) -> pa.Table:
        """Return rows of this table; columns that an earlier version did not write are null."""
        there = set(self._file.schema_arrow.names)
        rows = self._rows.take(positions, tuple(name for name in names if name in there))
        for name in names:
            if name not in there:
                rows = rows.append_column(
                    SCHEMA.field(name), pa.nulls(rows.num_rows, SCHEMA.field(name).type)
                )
        return rows

    def check_files(self, root: str | Path, *, whole: bool = False) -> None:
        """Raise IntegrityError when a repaired mask is not there as it was written; with `whole`
        all of them are read.
        """
        # Tables of earlier versions do not name the folder.
        folder = self.header.get("folder")
        home = Path(root) if folder is None else Path(os.path.normpath(Path(root, to_name(folder))))
        damages = checksums.check_files(
            home, self._files(folder), whole=whole, keep_states=folder is not None
        )
        checksums.raise_damage(
            damages,
            "a repaired mask is missing, or was changed",
            "histoprep repair with --force writes it again",
        )

    def _files(self, folder: str | None) -> Iterator[checksums.Expected]:
        """Yield the repaired masks by their paths in their own folder, or, without, in the data
        set's.
        """
        start = 0 if folder is None else len(folder) + 1
        columns = ["mask_path", "mask_bytes", "mask_digest"]
        for batch in tables.read_batches(self._file, columns):
            for path, size, key in zip(
                *(batch[column].to_pylist() for column in columns), strict=True
            ):
                yield checksums.Expected(path[start:], checksums.Checksum(size, key))


def _key(path: str) -> int:
    # 0 stands for a tile without a mask.
    return hash_text(path) or 1


def _of_masks(names: Sequence[str]) -> list[str]:
    return [name for name in names if name in MASK_COLUMNS]


def _hint(note: Path) -> str:
    return f"run histoprep repair again, or delete {note} to do without"


def open_repaired(folder: Path) -> RepairedMasks | None:
    """Return the repaired masks of a workspace, None when nothing was repaired.

    Raises IntegrityError when a repair was begun and did not end: damaged masks do not come back
    unnoticed.
    """
    ledger_digest = repaired_digest(folder)
    if ledger_digest is None:
        return None
    try:
        masks = RepairedMasks(folder / REPAIRED_TABLE)
    except FileNotFoundError:
        masks = None
    if masks is None or masks.header.get("ledger_digest") != ledger_digest:
        raise IntegrityError(
            "the masks were repaired once, and a later repair did not end",
            path=folder / REPAIRED_TABLE,
            hint=_hint(folder / REPAIRED_NOTE),
        )
    return masks


class TileRows:
    """The rows of a tiles table as later stages see them; `repaired` None gives the table as it is.

    Of a repaired mask come `columns`, and from the damaged one all others.
    """

    def __init__(
        self,
        opened: pq.ParquetFile,
        repaired: RepairedMasks | None = None,
        columns: Sequence[str] = MASK_COLUMNS,
    ) -> None:
        """Read nothing yet."""
        self._file = opened
        self.repaired = repaired
        self._columns = columns

    @property
    def num_rows(self) -> int:
        """Return the number of rows, orphan masks too."""
        return int(self._file.metadata.num_rows)

    def read_batches(
        self, columns: Sequence[str] | None = None, rows: int = tables.ROW_GROUP_ROWS
    ) -> Iterator[pa.Table]:
        """Yield the rows in order, at most `rows` at a time: all columns of the table, or those
        named, `IS_REPAIRED` among them if asked for.

        Raises IntegrityError when a page fails its checksum.
        """
        wanted = list(self._file.schema_arrow.names if columns is None else columns)
        stored = [name for name in wanted if name != IS_REPAIRED]
        repaired_masks = self.repaired if IS_REPAIRED in wanted or _of_masks(stored) else None
        for batch in tables.read_batches(
            self._file,
            list(dict.fromkeys((*stored, *(() if repaired_masks is None else _KEYS)))),
            rows,
        ):
            current, is_repaired = (
                repaired_masks.put_into(batch, self._columns)
                if repaired_masks is not None
                else (batch, np.zeros(batch.num_rows, bool))
            )
            chosen = current.select(stored)
            yield (
                chosen.append_column(IS_REPAIRED, pa.array(is_repaired))
                if IS_REPAIRED in wanted
                else chosen
            )


def open_rows(table: Path) -> tuple[TileRows, dict[str, Any]]:
    """Return the rows of a tiles table as later stages see them, and its header; repaired masks are
    those of its folder.

    Raises IntegrityError, FileNotFoundError.
    """
    opened, header = tables.open_table(table, kind=tiles.KIND, schema_version=tiles.SCHEMA_VERSION)
    return TileRows(opened, open_repaired(table.parent)), header


def num_labelled(table: Path) -> int:
    """Return how many tiles have a mask with a label other than 0."""
    number = 0
    for chunk in open_rows(table)[0].read_batches(["label_ids"]):
        lists = chunk["label_ids"]
        # Compared with a number, Arrow would import pandas.
        is_label = pc.list_flatten(lists).cast(pa.bool_())
        of_tile = pc.list_parent_indices(lists).filter(is_label)
        number += pc.count_distinct(of_tile).as_py()
    return number
