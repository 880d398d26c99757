"""Rows of an earlier tiles table that still hold, so that their files need not be read again.

A row holds while paths, sizes, modification times, change times and inodes of its files are the
same: what git looks at. A file that was replaced by one of the same size and modification time has
another inode or change time, which no program sets. Sizes and modification times stand in the
table. Change times and inodes do not, since a table has the same bytes wherever it is made: they
are in `.hp-states` beside it, a memory of this machine. Without it, or where a data set was copied,
everything is read once more. After a decision about masks that readers understand in two ways, only
those masks are read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from histoprep import rule_ids, tables
from histoprep.checksums import STATES, FileStates
from histoprep.choices import PaletteReading
from histoprep.errors import IntegrityError
from histoprep.key_index import KeyIndex
from histoprep.mask_reading import DEPTH, MIN_IS_WHITE, PALETTE, RGB, Reading
from histoprep.schemas.tiles import MEASURED, SCHEMA, SCHEMA_VERSION, open_tiles_table
from histoprep.tiles import TileOptions
from histoprep.tiles.listing import ListedTile, row_key
from histoprep.tiles.options import TableOptions
from histoprep.version import __version__

_KEYS = ("image_path", "image_bytes", "image_mtime_ns", "mask_path", "mask_bytes", "mask_mtime_ns")
_READS = ("image_digest", "image_error", "mask_digest", "mask_error")
# Decided by the size alone; every other file without a digest could not be read and may be readable
# now.
_NOT_WANTED = rule_ids.HUGE_IMAGE.verdict("huge-file")
_ENCODING = ("mask_mode", "mask_bit_depth", "mask_doubt", "mask_error", "mask_pages")
_SEVERAL_PAGES = rule_ids.UNSUPPORTED_ENCODING.verdict("multi-page")


class Reused(NamedTuple):
    """Earlier rows, measured columns only, and the positions in a partition they are for."""

    rows: pa.Table
    at: tuple[int, ...]


class EarlierTable:
    """Finds rows of an earlier table by the paths, sizes, times and inodes of their files.

    `num_unread` rows name files that could not be read, or masks that were read otherwise than by
    `reading`; these are never found.
    """

    def __init__(self, path: Path, reading: Reading | None = None) -> None:
        """Read the table once, all of it: raises IntegrityError when any page of it is damaged."""
        self.states = FileStates.read(path.parent / STATES)
        self._file, self.header = open_tiles_table(path)
        missing = set(SCHEMA.names) - set(self._file.schema_arrow.names)
        if missing:
            raise IntegrityError(
                "this table lacks columns", path=path, seen=", ".join(sorted(missing))
            )
        self._rows = tables.RowTaker(self._file)
        earlier = TileOptions.from_json(self.header["options"]["tiles"]).mask_reading
        self._readings = earlier, earlier if reading is None else reading
        keys = np.fromiter(self._read_keys(), np.uint64)
        self.num_unread = int((keys == 0).sum())
        self._index = KeyIndex(keys)

    def _read_keys(self) -> Iterator[int]:
        for batch in tables.read_batches(self._file):
            columns = [batch[name].to_pylist() for name in (*_KEYS, *_READS)]
            other = self._read_otherwise(batch)
            for (*facts, image_digest, image_error, mask_digest, mask_error), is_other in zip(
                zip(*columns, strict=True), other, strict=True
            ):
                unread = (
                    is_other
                    or _is_unread(facts[0], image_digest, image_error)
                    or _is_unread(facts[3], mask_digest, mask_error)
                )
                yield 0 if unread else row_key(*facts)

    def _read_otherwise(self, batch: pa.Table) -> list[bool]:
        earlier, now = self._readings
        if earlier == now:
            return [False] * batch.num_rows
        return [
            _is_read_otherwise(earlier, now, *facts)
            for facts in zip(*(batch[name].to_pylist() for name in _ENCODING), strict=True)
        ]

    def find(self, listed: list[ListedTile]) -> Reused | None:
        """Return the earlier rows that still hold for some of `listed`, or None."""
        wanted = np.array([tile.key for tile in listed], np.uint64)
        unchanged = self.states.find_keys(wanted) == np.array(
            [tile.local.number for tile in listed], np.uint64
        )
        position = self._index.find(wanted)
        positions = np.flatnonzero((position >= 0) & (wanted != 0) & unchanged)
        if not len(positions):
            return None
        return Reused(self._rows.take(position[positions], MEASURED), tuple(positions.tolist()))


def _is_unread(path: str | None, digest: str | None, error: str | None) -> bool:
    return path is not None and digest is None and error != _NOT_WANTED


def _is_read_otherwise(
    earlier: Reading,
    now: Reading,
    mode: str | None,
    bits: int | None,
    doubt: str | None,
    error: str | None,
    num_pages: int | None,
) -> bool:
    """Return whether a mask has other labels under another decision."""
    if earlier.page != now.page and (num_pages or error == _SEVERAL_PAGES):
        return True
    if mode is None:
        return False
    decided = tuple(reading.as_json() for reading in (earlier, now))
    changed = {
        name
        for name in (PALETTE, MIN_IS_WHITE, RGB)
        if decided[0].get(name) != decided[1].get(name)
    }
    by_colour = PaletteReading.COLOUR in (earlier.palette, now.palette)
    if doubt in changed or (
        PALETTE in changed
        and (
            (error or "").startswith(rule_ids.INDEX_BEYOND_PALETTE.code)
            or (by_colour and mode == "P")
        )
    ):
        return True
    if RGB in changed and mode in ("RGB", "RGBA"):
        return True
    depths = tuple(decision.get(DEPTH) for decision in decided)
    return depths[0] != depths[1] and (bits or 0) < max(
        int(depth) if depth in ("8", "16") else 0 for depth in depths
    )


def earlier_table(path: Path, options: TableOptions) -> EarlierTable | None:
    """Return the table at `path` if its rows can be used with these options, or None.

    One of another version may have measured something else: everything is read again then. Raises
    IntegrityError for a damaged table and one of another major version, whose rows are worth
    nothing either.
    """
    try:
        earlier = EarlierTable(path, options.tiles.mask_reading)
    except FileNotFoundError:
        return None
    same_tool = (
        earlier.header.get("tool_version") == __version__
        and earlier.header.get("schema_version") == SCHEMA_VERSION
    )
    stored: dict[str, Any] = earlier.header.get("options", {})
    before, wanted = (
        {**tile, "reading": None} for tile in (stored.get("tiles", {}), options.identity()["tiles"])
    )
    return earlier if same_tool and before == wanted else None
