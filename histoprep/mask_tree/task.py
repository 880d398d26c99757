"""One partition of a tree of new files: reads files, writes new ones, syncs them, then writes
their part of the ledger.
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
from histoprep.choices import LinkKind
from histoprep.digests import digest, file_digest
from histoprep.errors import BrokenFileError, IntegrityError, OutputError
from histoprep.execution.marker import Marker
from histoprep.links import place_file
from histoprep.names import to_name
from histoprep.read_ahead import FileStat, Request, read_ahead, refused
from histoprep.schemas import tiles
from histoprep.schemas.ledgers import TreeKind, expected_files, open_ledger

WRITTEN, FAILED, REFUSED = "written", "failed", "refused"


class SourceRow(Protocol):
    """What is known of one file, of a mask from tiles.parquet; `failure` is the reason why there
    will be no new one, or None.
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
        """Return the digest of its bytes, None when it is not known."""

    @property
    def failure(self) -> str | None:
        """Return why there will be no new file, or None."""

    @property
    def is_kept(self) -> bool:
        """Return whether the file itself comes into the tree; then nobody reads it."""


class RefusedMaskError(BrokenFileError):
    """A mask that the maker looked at and cannot or may not make a new one of, however often it is
    tried.
    """


class NewFile(NamedTuple):
    """A new file, its digest, and the columns of the ledger that say how it was made.

    `encoded` is None where the file itself is put into the tree. `output` is its path there, as
    text; "" for that of the mask with the suffix .png.
    """

    encoded: bytes | None
    digest: str
    facts: dict[str, Any]
    output: str = ""


Make = Callable[[bytes | None, str, Any], NewFile]


class Maker(Protocol):
    """How files become new ones; it travels to the workers."""

    def open(self) -> Make:
        """Return a function from the bytes of a file (None for one that is kept), their digest and
        its row to what is made of it; raises BrokenFileError when called.
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
    link: LinkKind = LinkKind.COPY
    begun_ns: int = 0
    """What is known of kept files holds for those that did not change since; see `FixOptions`."""

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
        chosen = [
            row for index, row in enumerate(self.rows) if index not in failures and not row.is_kept
        ]
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
                yield self._failed(row, failures[index])
                continue
            try:
                data = None if row.is_kept else next(contents)
                yield self._write(row, data, make, folders)
            except BrokenFileError as error:
                status = REFUSED if isinstance(error, RefusedMaskError) else FAILED
                yield self._failed(row, f"{error.verdict}: {error.detail}", status)

    def _write(
        self, row: SourceRow, data: bytes | BrokenFileError | None, make: Make, folders: set[str]
    ) -> dict[str, Any]:
        if isinstance(data, BrokenFileError):
            raise data
        key = self._digest_of(row, data)
        new = make(data, key, row)
        name = new.output or output_name(row.path)
        path = Path(beside(self.out, name))
        try:
            if (folder := str(path.parent)) not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.add(folder)
            if new.encoded is not None:
                durable.publish_in_batch(path, new.encoded)
        except OSError as error:
            raise OutputError.from_os_error(error, path) from error
        placed = {}
        if new.encoded is None:
            placed["how"] = place_file(Path(beside(self.root, row.file)), path, self.link)
        promised = {
            "output_path": name,
            "source_digest": key,
            "output_digest": new.digest,
            "output_bytes": row.num_bytes if new.encoded is None else len(new.encoded),
        }
        named = {self.kind.path_column: row.path}
        return {**named, **promised, "status": WRITTEN, **placed, **new.facts}

    def _digest_of(self, row: SourceRow, data: bytes | None) -> str:
        """Return the digest of a file; raises BrokenFileError when it is another one than what is
        known of it.
        """
        key = self._digest_of_kept(row) if data is None else digest(data)
        if row.digest is not None and key != row.digest:
            raise BrokenFileError(
                rule_ids.CHANGED_WHILE_READING.verdict("changed"),
                "its bytes are not those that were audited",
            )
        return key

    def _digest_of_kept(self, row: SourceRow) -> str:
        """Return the digest of a file that is kept, without reading it where it is known: it holds
        while size and time are the same, and nothing about the file changed meanwhile.
        """
        path = Path(beside(self.root, row.file))
        try:
            seen = path.stat()
            is_same = (seen.st_size, seen.st_mtime_ns) == (row.num_bytes, row.mtime_ns)
            if row.digest is not None and is_same and seen.st_ctime_ns < self.begun_ns:
                return row.digest
            if seen.st_size == row.num_bytes:
                return file_digest(path)
        except OSError as error:
            raise refused(error) from error
        raise BrokenFileError(
            rule_ids.CHANGED_WHILE_READING.verdict("changed"),
            f"listed with {row.num_bytes:,} bytes, {seen.st_size:,} now",
        )

    def _failed(self, row: SourceRow, reason: str | None, status: str = FAILED) -> dict[str, Any]:
        named = {self.kind.path_column: row.path}
        return {**named, "source_digest": row.digest, "status": status, "reason": reason}


def beside(folder: str | Path, path: str) -> str:
    """Return the file system path of a path in a table of ours."""
    return os.path.join(folder, to_name(path))


def output_name(mask_path: str) -> str:
    """Return the path of the new mask of `mask_path`: the same with the suffix .png."""
    folder, slash, name = mask_path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}.png"
