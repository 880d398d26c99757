"""One partition of a tree of new masks: reads masks, writes new ones, syncs them, then writes their
part of the ledger.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from histoprep import durable, rule_ids, tables
from histoprep.checksums import check_files
from histoprep.digests import digest
from histoprep.errors import BrokenFileError, IntegrityError, OutputError
from histoprep.execution.marker import Marker
from histoprep.names import to_name
from histoprep.read_ahead import FileStat, Request, read_ahead
from histoprep.schemas import tiles
from histoprep.schemas.ledgers import TreeKind, expected_files, open_ledger

WRITTEN, FAILED, REFUSED = "written", "failed", "refused"


class MaskRow(Protocol):
    """What tiles.parquet says of one mask; `failure` is the reason why there will be no new one, or
    None.
    """

    @property
    def path(self) -> str:
        """Return its path relative to the data set."""

    @property
    def file(self) -> str:
        """Return the file to read: `path`, or the absolute path of one that stands for it."""

    @property
    def num_bytes(self) -> int:
        """Return the size of the file."""

    @property
    def mtime_ns(self) -> int:
        """Return its modification time."""

    @property
    def digest(self) -> str | None:
        """Return the digest of its bytes, None when it could not be read."""

    @property
    def failure(self) -> str | None:
        """Return why there will be no new mask, or None."""


class RefusedMaskError(BrokenFileError):
    """A mask that the maker looked at and cannot or may not make a new one of, however often it is
    tried.
    """


class EncodedMask(NamedTuple):
    """A new mask as a file, its digest, and the columns of the ledger that say how it was made."""

    encoded: bytes
    digest: str
    facts: dict[str, Any]


Make = Callable[[bytes, str, Any], EncodedMask]


class Maker(Protocol):
    """How masks become new ones; it travels to the workers."""

    def open(self) -> Make:
        """Return a function from the bytes of a mask, their digest and its row to what is made of
        it; raises BrokenFileError when called.
        """


@dataclass(frozen=True, slots=True)
class TreeTask:
    """One partition."""

    root: str
    out: str
    kind: TreeKind
    rows: tuple[Any, ...]
    maker: Maker
    max_file_bytes: int
    part: Path
    marker: Path
    time_limit_s: float
    left_out: tuple[tuple[int, str], ...] = ()

    def run(self) -> Path:
        """Do the work unless it is done, and return the path of the part; raises OutputError."""
        if self.is_done():
            return self.part
        try:
            with contextlib.closing(Marker(self.marker, self.time_limit_s)) as marker:
                rows = list(self._make(marker))
            # Its files first: a part promises them.
            durable.sync_file_system(Path(self.out))
        except OSError as error:
            raise OutputError.from_os_error(error, error.filename or self.out) from error
        ledger = tiles.to_table(rows, self.kind.ledger_schema)
        schema_version = self.kind.schema_version
        tables.write_table(
            self.part,
            [ledger],
            self.kind.ledger_schema,
            kind=self.kind.part,
            schema_version=schema_version,
            metadata={},
        )
        return self.part

    def num_done(self, index: int | None) -> int:
        """Return how many masks are done at item `index`; all of them for None."""
        return len(self.rows) if index is None else index

    def without(self, index: int, reason: str) -> TreeTask:
        """Return the task that reports item `index` as failed instead of decoding it."""
        return replace(self, left_out=(*self.left_out, (index, reason)))

    def is_done(self) -> bool:
        """Return whether the part is there, its files have their sizes, and nothing failed that
        could be tried again.
        """
        if not self.part.exists():
            return False
        try:
            ledger = tables.read_table(
                open_ledger(self.part, self.kind.part, self.kind),
                ["output_path", "output_bytes", "output_digest", "status"],
            )
        except IntegrityError:
            return False
        num_refused = sum(row.failure is not None for row in self.rows)
        # Read again: nobody looked at these files while the run was stopped.
        return ledger["status"].to_pylist().count(FAILED) == num_refused and not check_files(
            Path(self.out), expected_files(ledger), whole=True, keep_states=False
        )

    def _make(self, marker: Marker) -> Iterator[dict[str, Any]]:
        failures = {index: row.failure for index, row in enumerate(self.rows) if row.failure}
        failures |= {
            index: f"{rule_ids.UNREADABLE_FILE.verdict('worker-died')}: {reason}"
            for index, reason in self.left_out
        }
        chosen = [row for index, row in enumerate(self.rows) if index not in failures]
        contents = read_ahead(
            [
                Request(beside(self.root, row.file), FileStat(row.num_bytes, row.mtime_ns))
                for row in chosen
            ],
            self.max_file_bytes,
        )
        make, folders = self.maker.open(), set[str]()
        for index, row in enumerate(self.rows):
            marker.at(index)
            if index in failures:
                yield _failed(row, failures[index])
                continue
            try:
                yield self._write(row, next(contents), make, folders)
            except BrokenFileError as error:
                status = REFUSED if isinstance(error, RefusedMaskError) else FAILED
                yield _failed(row, f"{error.verdict}: {error.detail}", status)

    def _write(
        self, row: MaskRow, data: bytes | BrokenFileError, make: Make, folders: set[str]
    ) -> dict[str, Any]:
        if isinstance(data, BrokenFileError):
            raise data
        key = digest(data)
        if key != row.digest:
            raise BrokenFileError(
                rule_ids.CHANGED_WHILE_READING.verdict("changed"),
                "its bytes are not those that were audited",
            )
        mask = make(data, key, row)
        name = output_name(row.path)
        path = Path(beside(self.out, name))
        try:
            if (folder := str(path.parent)) not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.add(folder)
            durable.publish_in_batch(path, mask.encoded)
        except OSError as error:
            raise OutputError.from_os_error(error, path) from error
        promised = {
            "output_path": name,
            "source_digest": key,
            "output_digest": mask.digest,
            "output_bytes": len(mask.encoded),
        }
        return {"mask_path": row.path, **promised, "status": WRITTEN, **mask.facts}


def _failed(row: MaskRow, reason: str | None, status: str = FAILED) -> dict[str, Any]:
    return {"mask_path": row.path, "source_digest": row.digest, "status": status, "reason": reason}


def beside(folder: str | Path, path: str) -> str:
    """Return the file system path of a path in a table of ours."""
    return os.path.join(folder, to_name(path))


def output_name(mask_path: str) -> str:
    """Return the path of the new mask of `mask_path`: the same with the suffix .png."""
    folder, slash, name = mask_path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}.png"
