"""Parquet as we write and read it: page checksums both ways, a schema version, row groups of one
size.

Every table of ours has file metadata under the key `histoprep`: a JSON object with
`kind` (tiles, manifest, ...), `schema_version` ("major.minor"), `tool_version` and what
the table's own module adds.

Page checksums cover neither the footer (schema, metadata, offsets) nor the headers of pages, so two
digests stand in the 48 bytes in front of the footer, where other readers never look: of all bytes
before them, and of the rest. Both are compared whenever a table is opened. Tables of earlier
versions have the second digest alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from histoprep.digests import raw_digest
from histoprep.durable import write_file
from histoprep.errors import IntegrityError
from histoprep.version import __version__

METADATA_KEY = b"histoprep"
LATE_METADATA_KEY = b"histoprep-late"
ROW_GROUP_ROWS = 65_536
_MAGIC = b"PAR1"
_BODY_SEAL, _SEAL = b"HPrecord", b"HPfooter"
_DIGEST_BYTES = 16
_SEAL_BYTES = len(_SEAL) + _DIGEST_BYTES
_PIECE_BYTES = 1 << 20


def write_table(
    path: Path,
    batches: Iterable[pa.Table | pa.RecordBatch],
    schema: pa.Schema,
    *,
    kind: str,
    schema_version: str,
    metadata: Mapping[str, Any],
    late_metadata: Callable[[], Mapping[str, Any]] | None = None,
) -> int:
    """Write `batches` as one Parquet file and return the number of rows.

    `late_metadata` is asked when all rows are written, for facts known only then. The bytes depend
    on the rows and the metadata alone, not on how the rows were cut into batches: row groups
    always hold `ROW_GROUP_ROWS`.
    """
    header = {
        "kind": kind,
        "schema_version": schema_version,
        "tool_version": __version__,
        **metadata,
    }
    described = schema.with_metadata({METADATA_KEY: json.dumps(header, sort_keys=True)})
    rows = 0

    def write(stream: Any) -> None:
        nonlocal rows
        options: dict[str, Any] = {
            "compression": "zstd",
            "write_page_checksum": True,
            "store_schema": True,
        }
        with pq.ParquetWriter(stream, described, **options) as writer:
            for group in rebatch(batches, schema):
                writer.write_table(group.cast(described), row_group_size=ROW_GROUP_ROWS)
                rows += group.num_rows
            if late_metadata:
                writer.add_key_value_metadata(
                    {LATE_METADATA_KEY: json.dumps(late_metadata(), sort_keys=True)}
                )
        _seal(stream)

    write_file(path, write)
    return rows


def _seal(stream: BinaryIO) -> None:
    """Put both digests in front of the footer; its offsets count from the start of the file and
    stay true.
    """
    start, footer = _footer(stream)
    body = _BODY_SEAL + _digest_of(stream, start)
    stream.seek(start)
    stream.write(body + _SEAL + raw_digest(body + footer) + footer)


def _footer(stream: BinaryIO) -> tuple[int, bytes]:
    """Return where the footer starts, and all from there to the end of the file."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - 8))
    start = end - 8 - int.from_bytes(stream.read(4), "little")
    stream.seek(max(0, start))
    return start, stream.read()


def _digest_of(stream: BinaryIO, length: int) -> bytes:
    """Return the XXH3-128 of the first `length` bytes."""
    state = xxhash.xxh3_128()
    stream.seek(0)
    while length > 0 and (piece := stream.read(min(length, _PIECE_BYTES))):
        state.update(piece)
        length -= len(piece)
    return state.digest()


def _is_sealed(path: Path) -> bool:
    """Return whether every byte of the table is the one that was written; of a table of an earlier
    version, every byte of its footer.
    """
    with path.open("rb") as stream:
        start, footer = _footer(stream)
        stream.seek(max(0, start - 2 * _SEAL_BYTES))
        seals = stream.read(min(2 * _SEAL_BYTES, max(0, start)))
        body, seal = seals[:-_SEAL_BYTES], seals[-_SEAL_BYTES:]
        if seal == _SEAL + raw_digest(body + footer):
            return body == _BODY_SEAL + _digest_of(stream, start - 2 * _SEAL_BYTES)
        return seal == _SEAL + raw_digest(footer)


def rebatch(batches: Iterable[pa.Table | pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of `batches` in tables of exactly `ROW_GROUP_ROWS`, the last one shorter."""
    waiting: list[pa.Table] = []
    count = 0
    for batch in batches:
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        waiting.append(table.select(schema.names).cast(schema))
        count += table.num_rows
        while count >= ROW_GROUP_ROWS:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, ROW_GROUP_ROWS).combine_chunks()
            waiting = [whole.slice(ROW_GROUP_ROWS)]
            count -= ROW_GROUP_ROWS
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


class _OpenTable(pq.ParquetFile):  # type: ignore[misc]  # Arrow has no types.
    """An open table that knows its path, which errors about its pages name."""

    path: Path


def looks_like_parquet(path: Path) -> bool:
    """Return whether a file begins or ends as every Parquet file does, so that a damaged one is
    still known; raises OSError.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        # Opening a pipe waits for a writer.
        return False
    with path.open("rb") as stream:
        begin = stream.read(len(_MAGIC))
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - len(_MAGIC)))
        return _MAGIC in (begin, stream.read())


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a table of any kind after looking at every byte, empty for a Parquet
    file that is not ours.

    Raises IntegrityError for a damaged table of ours, FileNotFoundError.
    """
    hint = "restore it from a copy, or run the command that made it again"
    if not looks_like_parquet(path):
        raise IntegrityError("this is no Parquet file", path=path, expected="a table", hint=hint)
    sealed = _is_sealed(path)
    try:
        opened = pq.ParquetFile(_source(path), page_checksum_verification=True)
        header = dict(json.loads((opened.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}")))
        header |= json.loads((opened.metadata.metadata or {}).get(LATE_METADATA_KEY, b"{}"))
        if sealed:
            # All that tables of earlier versions have.
            check_pages(opened)
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise IntegrityError(f"cannot read this table: {error}", path=path, hint=hint) from error
    if not sealed and (header or _has_seal(path)):
        raise IntegrityError(
            "this table is damaged: its bytes are not those that were written", path=path, hint=hint
        )
    return header


def _has_seal(path: Path) -> bool:
    with path.open("rb") as stream:
        start, _ = _footer(stream)
        stream.seek(max(0, start - 2 * _SEAL_BYTES))
        return any(seal in stream.read(2 * _SEAL_BYTES) for seal in (_SEAL, _BODY_SEAL))


def open_table(
    path: Path, *, kind: str, schema_version: str
) -> tuple[pq.ParquetFile, dict[str, Any]]:
    """Return the open Parquet file and its header.

    Raises IntegrityError when it is not a table of this kind, was cut short or
    has another major version; extra columns and newer minor versions are fine.
    """
    hint = f"delete it and make the {kind} again"
    try:
        if not looks_like_parquet(path):
            # Perhaps the user's own, under a wrong name: nothing to delete.
            raise IntegrityError("this is no Parquet file", path=path, expected=f"the {kind} table")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IntegrityError(
            f"cannot read this table: {error.strerror or error}", path=path
        ) from error
    try:
        sealed = _is_sealed(path)
        opened = _OpenTable(_source(path), page_checksum_verification=True)
        opened.path = path
        header = json.loads((opened.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}"))
        header |= json.loads((opened.metadata.metadata or {}).get(LATE_METADATA_KEY, b"{}"))
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise IntegrityError(f"cannot read this table: {error}", path=path, hint=hint) from error
    if header and not sealed:
        raise IntegrityError(
            "this table is damaged: its bytes are not those that were written", path=path, hint=hint
        )
    if header.get("kind") != kind:
        raise IntegrityError(
            "not the expected table",
            path=path,
            seen=header.get("kind", "no histoprep metadata"),
            expected=kind,
        )
    seen, expected = (
        str(version).split(".")[0] for version in (header.get("schema_version"), schema_version)
    )
    if seen != expected:
        raise IntegrityError(
            f"unknown major version of the {kind} schema",
            path=path,
            seen=header.get("schema_version"),
            expected=f"{expected}.x",
            hint=(
                f"make the {kind} again with this version, or read it with the version that"
                " wrote it"
            ),
        )
    return opened, header


def _source(path: Path) -> Path | BinaryIO:
    """Return the path, or the open file where Arrow cannot take the path: it wants UTF-8."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return path.open("rb")
    return path


def read_batches(
    opened: pq.ParquetFile, columns: Sequence[str] | None = None, rows: int = ROW_GROUP_ROWS
) -> Iterator[pa.Table]:
    """Yield the table in order in pieces of at most `rows`, so that memory stays bounded.

    Raises IntegrityError when a page fails its checksum.
    """
    for index in range(opened.num_row_groups):
        group = read_row_group(opened, index, columns)
        for start in range(0, group.num_rows, rows):
            yield group.slice(start, rows)


def read_row_group(
    opened: pq.ParquetFile, index: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return one row group, or the named columns of it; raises IntegrityError when a page fails its
    checksum.
    """
    try:
        return opened.read_row_group(index, columns=list(columns) if columns is not None else None)
    except (OSError, pa.ArrowException) as error:
        path = getattr(opened, "path", None)
        raise IntegrityError(
            f"damaged table: {error}",
            path=path,
            seen=f"row group {index}",
            hint="restore it or make it again",
        ) from error


class RowTaker:
    """Takes rows of a table by number; one row group is in memory at a time."""

    def __init__(self, opened: pq.ParquetFile) -> None:
        """Read nothing yet."""
        self._file = opened
        sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._group: tuple[int, tuple[str, ...], pa.Table] | None = None

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Return rows in the order given; each row group is read once where they ascend.

        Args:
            rows: Numbers of rows, int64 [n], at least one.
            columns: Names of the columns.

        Raises:
            IntegrityError: A page fails its checksum.
        """
        pieces, positions = [], []
        for index in np.unique(np.searchsorted(self._starts, rows, side="right") - 1).tolist():
            start, end = self._starts[index : index + 2]
            inside = np.flatnonzero((rows >= start) & (rows < end))
            positions.append(inside)
            pieces.append(self._read(index, tuple(columns)).take(pa.array(rows[inside] - start)))
        order = np.argsort(np.concatenate(positions))
        return pa.concat_tables(pieces).take(pa.array(order))

    def _read(self, index: int, columns: tuple[str, ...]) -> pa.Table:
        if self._group is None or self._group[:2] != (index, columns):
            self._group = (index, columns, read_row_group(self._file, index, columns))
        return self._group[2]


def read_table(opened: pq.ParquetFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the whole table, or the named columns of it."""
    pieces = list(read_batches(opened, columns))
    if pieces:
        return pa.concat_tables(pieces)
    names = list(columns) if columns is not None else opened.schema_arrow.names
    return pa.schema([opened.schema_arrow.field(name) for name in names]).empty_table()


def check_pages(opened: pq.ParquetFile) -> None:
    """Read the whole table and forget it; raises IntegrityError when a page fails its checksum."""
    for _ in read_batches(opened):
        pass
