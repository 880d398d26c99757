"""Archives of numpy.savez that hold one array."""

from __future__ import annotations

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from histoprep.errors import BrokenFileError
from histoprep.image_formats import NPZ
from histoprep.imageio.decoders.base import Decoder, Sample
from histoprep.imageio.decoders.npy import (
    MAX_HEADER_BYTES,
    header_of_array,
    image_of,
    no_labels,
    read_array_header,
    values_of,
)
from histoprep.imageio.header import Header
from histoprep.rule_ids import UNREADABLE_FILE

_NUM_SHOWN = 6


class NpzDecoder(Decoder):
    """The only array of an archive."""

    package = "numpy"

    def read_header(self, data: bytes) -> Header:
        """Return the header of the array."""
        return self.read_page_header(data, None)

    def read_page_header(self, data: bytes, page: int | None) -> Header:
        """Return the header of the array, or of the chosen page of a stack, without its values."""
        with _only_member(data) as (archive, member):
            with archive.open(member) as stream:
                array = read_array_header(stream.read(MAX_HEADER_BYTES))
            if member.file_size != array.start + array.num_bytes:
                raise BrokenFileError(
                    UNREADABLE_FILE.verdict("corrupt"),
                    f"{member.filename} has {member.file_size:,} bytes, its header asks for"
                    f" {array.start + array.num_bytes:,}",
                )
            return header_of_array(array.shape, array.dtype, NPZ.name, page)

    def decode_stored(self, data: bytes, header: Header) -> np.ndarray:
        """Return the values."""
        with _only_member(data) as (archive, member), archive.open(member) as stream:
            # Not a byte more than the archive promises, whatever its stream holds.
            inflated = stream.read(member.file_size)
            if len(inflated) != member.file_size:
                raise BrokenFileError(UNREADABLE_FILE.verdict("truncated"), "values are missing")
            return image_of(values_of(inflated), header)

    def samples(self) -> Sequence[Sample]:
        """Return labels of 16 bits."""
        labels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
        stream = io.BytesIO()
        np.savez_compressed(stream, labels=labels)
        return [Sample(stream.getvalue(), labels)]


@contextlib.contextmanager
def _only_member(data: bytes) -> Iterator[tuple[zipfile.ZipFile, zipfile.ZipInfo]]:
    """Yield the archive and its only array; raises BrokenFileError."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) != 1 or not members[0].filename.endswith(".npy"):
                names = [member.filename.removesuffix(".npy") for member in members]
                more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
                raise no_labels(
                    f"{len(names)} arrays ({', '.join(names[:_NUM_SHOWN])}{more}), of which nobody"
                    " chose one"
                )
            yield archive, members[0]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError,
            ValueError) as error:  # fmt: skip
        raise BrokenFileError(
            UNREADABLE_FILE.verdict("corrupt"), f"the archive is damaged: {error}"
        ) from error


DECODER = NpzDecoder()
