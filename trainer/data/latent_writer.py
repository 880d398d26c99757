"""A latent set in the making: chunks are appended, synced and entered in a journal, so that a
killed run goes on with the same bytes.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float16, UInt8

from histoprep import checksums, tables
from histoprep.durable import write_bytes
from histoprep.errors import OutputError
from histoprep.job_folder import JobFolder, output_errors
from histoprep.schemas.latents import ENTRIES, KIND, SCHEMA, SCHEMA_VERSION, SUMMARY
from trainer.data.latent_journal import JOURNAL, digest, format_line, read_chunks, read_journal
from trainer.data.latents import DATA, LATENTS, MASK_COUNTS, MASK_LENGTHS, MASK_VALUES, data_files
from trainer.data.run_lengths import encode_runs

# What the request of every latent set names, by which a journal is known as one of ours.
_REQUEST_KEYS = {"tiles", "codec"}


@dataclass(frozen=True)
class LatentLayout:
    """What the array will look like: `num_entries` of [views, parts, channels, height, width],
    written `chunk` entries at a time. `written` are the lengths of chunks that are there already;
    another version may have made longer ones.
    """

    num_entries: int
    views: tuple[int, ...]
    num_parts: int
    shape: tuple[int, int, int]
    chunk: int
    written: tuple[int, ...] = ()

    @property
    def entry_shape(self) -> tuple[int, ...]:
        """Return the shape of an entry."""
        return (len(self.views), self.num_parts, *self.shape)

    def header(self) -> bytes:
        """Return the first bytes of latents.npy."""
        stream = io.BytesIO()
        described = {
            "descr": "<f2",
            "fortran_order": False,
            "shape": (self.num_entries, *self.entry_shape),
        }
        np.lib.format.write_array_header_1_0(stream, described)
        return stream.getvalue()

    def chunks(self) -> list[range]:
        """Return the entries of each chunk."""
        ends = [*itertools.accumulate(self.written)]
        ends += range((ends or [0])[-1] + self.chunk, self.num_entries, self.chunk)
        if (ends or [0])[-1] < self.num_entries:
            ends.append(self.num_entries)
        return [range(start, end) for start, end in itertools.pairwise([0, *ends])]


class LatentWriter:
    """Appends chunks to the files of a folder; the caller holds its lock and has called
    `refuse_foreign_files`.

    `request` (JSON) says what is being made; a folder begun with another request is refused, or
    begun `anew`. `done` is the number of finished chunks, which are not written again; `skipped`
    the rows that could not be read so far.
    """

    def __init__(
        self, folder: Path, layout: LatentLayout, request: dict[str, Any], *, anew: bool = False
    ) -> None:
        self.folder, self.layout, self.request = folder, layout, request
        self.job = latent_job(folder)
        if anew:
            (folder / checksums.CHECKSUMS).unlink(missing_ok=True)
        self._lines = [] if anew else self._read_journal()
        entry_bytes = 2 * math.prod(layout.entry_shape)
        lengths = tuple(line["bytes"][LATENTS] // entry_bytes for line in self._lines)
        self.layout = replace(layout, written=lengths)
        self.done = len(self._lines)
        self.skipped: list[int] = [row for line in self._lines for row in line["skipped"]]
        self._cut_back()

    @property
    def complete(self) -> bool:
        """Return whether all chunks are written."""
        return self.done == len(self.layout.chunks())

    def append(
        self,
        latents: Float16[np.ndarray, "entries views parts channels latent_height latent_width"],
        masks: UInt8[np.ndarray, "entries views height width"],
        skipped: Sequence[int],
    ) -> None:
        """Write the next chunk, durably: float16 [entries, *entry_shape], uint8 [entries, views,
        height, width], rows not readable.

        Raises:
            OutputError: With the system's reason; the same command goes on from the last whole
                chunk then.
        """
        runs = [encode_runs(mask) for entry in masks for mask in entry]
        data = {
            LATENTS: latents.astype("<f2").tobytes(),
            MASK_VALUES: b"".join(values.tobytes() for values, _ in runs),
            MASK_LENGTHS: b"".join(lengths.astype("<i4").tobytes() for _, lengths in runs),
            MASK_COUNTS: np.array([len(values) for values, _ in runs], "<i4").tobytes(),
        }
        for name, piece in data.items():
            self._append(name, piece)
        line = {
            "bytes": {name: len(piece) for name, piece in data.items()},
            "digests": {name: digest(piece) for name, piece in data.items()},
        }
        self._lines.append({**line, "skipped": sorted(skipped)})
        self._append(JOURNAL, format_line(self._lines[-1]))
        self.done += 1
        self.skipped += skipped

    def read_chunks(self) -> Iterator[tuple[range, np.ndarray]]:
        """Yield the entries and latents of each chunk, as stored.

        Raises:
            LatentSetError: When its bytes are not those that were written.
        """
        starts = {name: len(self.layout.header()) if name == LATENTS else 0 for name in DATA}
        for entries, pieces in zip(
            self.layout.chunks(), read_chunks(self.folder, self._lines, starts), strict=True
        ):
            yield (
                entries,
                np.frombuffer(pieces[LATENTS], "<f2").reshape(
                    len(entries), *self.layout.entry_shape
                ),
            )

    def finish(self, entries: pa.Table, header: dict[str, Any], summary: dict[str, Any]) -> None:
        """Publish entries.parquet and then latents.json, which makes the set a whole one."""
        self.job.unseal(unsealed=(ENTRIES, JOURNAL))
        tables.write_table(
            self.folder / ENTRIES,
            [entries],
            SCHEMA,
            kind=KIND,
            schema_version=SCHEMA_VERSION,
            metadata=header,
        )
        files = {name: (self.folder / name).stat().st_size for name in (*DATA, ENTRIES)}
        checksums.list_files(self.folder, (ENTRIES, JOURNAL))
        # Just read, or written, whole.
        checksums.remember_files(self.folder, data_files(self.folder, files))
        self.job.seal({"kind": KIND, "schema_version": SCHEMA_VERSION, "files": files, **summary})

    def _read_journal(self) -> list[dict[str, Any]]:
        """Return the lines of chunks whose bytes are all there; the first line of the journal is
        the request.
        """
        lines = read_journal(self.folder)
        if not lines:
            return []
        self.job.refuse_other_request(
            lines[0], self.request, hint="choose another --out, or start over with --force"
        )
        whole, sizes = (
            [],
            {name: len(self.layout.header()) if name == LATENTS else 0 for name in DATA},
        )
        for line in lines[1:]:
            sizes = {name: size + line["bytes"][name] for name, size in sizes.items()}
            if any(
                not (self.folder / name).exists() or (self.folder / name).stat().st_size < size
                for name, size in sizes.items()
            ):
                break
            whole.append(line)
        return whole

    def _cut_back(self) -> None:
        """Drop what a killed run left beyond its last whole chunk, and begin the files when there
        is none.
        """
        if self.complete and self.layout.num_entries:
            return
        self.job.unseal(unsealed=checksums.read_checksums(self.folder))
        # The journal first: with it, whatever a kill leaves here is known as a latent set.
        write_bytes(self.folder / JOURNAL, b"".join(map(format_line, [self.request, *self._lines])))
        try:
            for name in DATA:
                path = self.folder / name
                if not self._lines:
                    path.unlink(missing_ok=True)
                with path.open("r+b" if path.exists() else "x+b") as stream:
                    length = sum(line["bytes"][name] for line in self._lines)
                    if name == LATENTS:
                        header = self.layout.header()
                        stream.write(header)
                        length += len(header)
                    stream.truncate(length)
                    stream.flush()
                    os.fsync(stream.fileno())
        except OSError as error:
            raise OutputError.from_os_error(error, self.folder) from error

    def _append(self, name: str, data: bytes) -> None:
        path = self.folder / name
        try:
            # Plain writes: a full disk is an error here, and a signal on a memory map.
            with path.open("ab") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise OutputError.from_os_error(error, path) from error


def refuse_foreign_files(folder: Path) -> None:
    """Raise UsageError, with nothing written, when files are in the folder but no journal of a
    latent set: they are somebody's.
    """
    with output_errors(folder):
        request = read_journal(folder)[:1]
    begun = bool(request) and _REQUEST_KEYS.issubset(request[0])
    latent_job(folder).refuse_foreign_files(begun=begun)


def latent_job(folder: Path) -> JobFolder:
    """Return a folder as one that `trainer encode` fills: the journal begins with the request."""
    remake = "copy the folder again, or encode again with --force"
    return JobFolder(folder, JOURNAL, "trainer encode", "latents", remake, seal_name=SUMMARY)
