"""One partition of a listing -> one part file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from histoprep import rule_ids, tables
from histoprep.errors import BrokenFileError, IntegrityError
from histoprep.execution.marker import Marker
from histoprep.read_ahead import FileStat, Request, read_ahead
from histoprep.scanning import Pair
from histoprep.schemas.tiles import LISTED, SCHEMA, SCHEMA_VERSION, measured_schema, to_table
from histoprep.tiles import TileOptions, small_images
from histoprep.tiles.listing import ListedTile, absolute_path
from histoprep.tiles.reuse import Reused

_KIND = "tiles-part"
_LISTED_SCHEMA = pa.schema([SCHEMA.field(name) for name in LISTED])


@dataclass(frozen=True, slots=True)
class TileTask:
    """One partition: measures the pairs that are not reused and writes one part file."""

    root: str
    listed: tuple[ListedTile, ...]
    options: TileOptions
    part: Path
    marker: Path
    time_limit_s: float
    reused: Reused | None = None
    left_out: tuple[tuple[int, str], ...] = ()
    # Whether images in cells are kept beside the part, for the tiles that are compared.
    keeps_cells: bool = False

    def run(self) -> Path:
        """Write the part unless it is there, and return its path; raises OutputError."""
        if not self.is_done():
            at = self.reused.at if self.reused else ()
            fresh_at = sorted(set(range(len(self.listed))) - set(at))
            with contextlib.closing(Marker(self.marker, self.time_limit_s)) as marker:
                fresh = to_table(list(self._measure(fresh_at, marker)), measured_schema())
            measured = _in_order(fresh, fresh_at, self.reused)
            listed = to_table(
                [dict(zip(LISTED, _listed_values(tile.pair), strict=True)) for tile in self.listed],
                _LISTED_SCHEMA,
            )
            whole = pa.table(
                {name: (listed if name in LISTED else measured)[name] for name in SCHEMA.names},
                schema=SCHEMA,
            )
            tables.write_table(
                self.part, [whole], SCHEMA, kind=_KIND, schema_version=SCHEMA_VERSION, metadata={}
            )
        return self.part

    def num_done(self, index: int | None) -> int:
        """Return how many tiles are done at item `index`; all of them for None."""
        return len(self.listed) if index is None else index // 2

    def without(self, index: int, reason: str) -> TileTask:
        """Return the task that reports a file as unreadable instead of decoding it: `index` is
        twice the pair's, plus one for a mask.
        """
        return replace(self, left_out=(*self.left_out, (index, reason)))

    def is_done(self) -> bool:
        """Return whether the part is there, undamaged and of the right length, and no file of it
        was changed since it was written.
        """
        try:
            if self.part.stat().st_mtime_ns < max(
                (tile.local.changed_ns for tile in self.listed), default=0
            ):
                return False
            result: bool = sum(batch.num_rows for batch in read_part(self.part)) == len(self.listed)
            return result
        except (FileNotFoundError, IntegrityError):
            return False

    def _measure(self, positions: list[int], marker: Marker) -> Iterator[dict[str, Any]]:
        # Decoders take longest to import, and only workers need them.
        from histoprep.tiles.measurer import Measurer, fit_of

        measurer = Measurer(self.options, keeps_cells=self.keeps_cells)
        refused = dict(self.left_out)
        contents = read_ahead(self._requests(positions, refused), self.options.max_file_bytes)
        for index in positions:
            row: dict[str, Any] = {}
            measured: dict[str, dict[str, Any]] = {"image": {}, "mask": {}}
            for what, _, stat in _files(self.listed[index]):
                # Each file by itself: the mask is not to be blamed for what its image does.
                item = _item(index, what)
                marker.at(item)
                row[f"{what}_bytes"], row[f"{what}_mtime_ns"] = stat or (None, None)
                if stat is None:
                    data: bytes | BrokenFileError = BrokenFileError(
                        rule_ids.UNREADABLE_FILE.verdict("absent"),
                        "not there when the data set was listed",
                    )
                elif item in refused:
                    data = BrokenFileError(
                        rule_ids.UNREADABLE_FILE.verdict("worker-died"), refused[item]
                    )
                else:
                    data = next(contents)
                pair = self.listed[index].pair
                is_alone = pair.mask_path is None and not pair.unlabelled
                measured[what] = (
                    measurer.image(data, is_alone=is_alone)
                    if what == "image"
                    else measurer.mask(data)
                )
            yield row | measured["image"] | measured["mask"] | fit_of(**measured)
        if measurer.cells:
            small_images.keep(small_images.path_beside(self.part), measurer.cells)

    def _requests(self, positions: list[int], refused: dict[int, str]) -> list[Request]:
        files = (
            (_item(index, what), path, stat)
            for index in positions
            for what, path, stat in _files(self.listed[index])
        )
        return [
            Request(absolute_path(self.root, path), stat)
            for item, path, stat in files
            if stat is not None and item not in refused
        ]


def read_part(part: Path) -> Iterator[pa.Table]:
    """Yield the rows of a part; raises IntegrityError when it is damaged, FileNotFoundError when it
    is not there.
    """
    return tables.read_batches(
        tables.open_table(part, kind=_KIND, schema_version=SCHEMA_VERSION)[0]
    )


def _item(index: int, what: str) -> int:
    """Return the number of a file in its task."""
    return 2 * index + (what == "mask")


def _files(listed: ListedTile) -> Iterator[tuple[str, str, FileStat | None]]:
    """Yield column prefix, path and stat of the image and of the mask, where there is one."""
    for what, path, stat in (
        ("image", listed.pair.image_path, listed.image),
        ("mask", listed.pair.mask_path, listed.mask),
    ):
        if path is not None:
            yield what, path, stat


def _listed_values(pair: Pair) -> tuple[Any, ...]:
    return (
        pair.tile_id,
        pair.group,
        pair.split,
        pair.label,
        pair.unlabelled,
        pair.declared_labels,
        pair.image_path,
        pair.mask_path,
    )


def _in_order(fresh: pa.Table, fresh_at: list[int], reused: Reused | None) -> pa.Table:
    if reused is None:
        return fresh
    positions = np.concatenate((np.array(fresh_at, np.int64), np.array(reused.at, np.int64)))
    return pa.concat_tables([fresh, reused.rows.cast(fresh.schema)]).take(
        pa.array(np.argsort(positions))
    )
