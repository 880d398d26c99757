"""Arrays of numpy.save, read without it: nothing in a file is ever executed."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from histoprep.errors import BrokenFileError
from histoprep.image_formats import NPY
from histoprep.imageio.decoders.base import Decoder, Sample, header_of
from histoprep.imageio.header import Header
from histoprep.rule_ids import UNREADABLE_FILE, UNSUPPORTED_ENCODING

_CHANNELS = (3, 4)
MAX_HEADER_BYTES = 1 << 16
_NUMBERS = "buif"


class ArrayHeader(NamedTuple):
    """Shape and type of an array, whether its columns come first, and where its values start."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    start: int

    @property
    def num_bytes(self) -> int:
        """Return how many bytes its values take."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpyDecoder(Decoder):
    """Labels [height, width], colours, or a stack of which somebody chose a page."""

    package = "numpy"

    def read_header(self, data: bytes) -> Header:
        """Return the header of the array."""
        return self.read_page_header(data, None)

    def read_page_header(self, data: bytes, page: int | None) -> Header:
        """Return the header of an array, or of the chosen page of a stack."""
        array = read_array_header(data)
        if len(data) - array.start != array.num_bytes:
            cut = len(data) - array.start < array.num_bytes
            raise BrokenFileError(
                UNREADABLE_FILE.verdict("truncated" if cut else "corrupt"),
                f"{len(data) - array.start:,} bytes of values, its header asks for"
                f" {array.num_bytes:,}",
            )
        return header_of_array(array.shape, array.dtype, NPY.name, page)

    def decode_stored(self, data: bytes, header: Header) -> np.ndarray:
        """Return the values."""
        return image_of(values_of(data), header)

    def samples(self) -> Sequence[Sample]:
        """Return labels of 16 bits."""
        labels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
        stream = io.BytesIO()
        np.save(stream, labels)
        return [Sample(stream.getvalue(), labels)]


def read_array_header(data: bytes) -> ArrayHeader:
    """Return the header of an array from the first bytes of its file.

    Raises:
        BrokenFileError: It is none, or its values are not numbers.
    """
    stream = io.BytesIO(data[:MAX_HEADER_BYTES])
    try:
        version = npy_format.read_magic(stream)
        read = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[version]
        shape, is_fortran, dtype = read(stream)
    except (ValueError, KeyError, TypeError, SyntaxError, EOFError, MemoryError) as error:
        raise BrokenFileError(
            UNREADABLE_FILE.verdict("bad-header"), f"no readable NumPy header: {error}"
        ) from error
    if dtype.hasobject or dtype.kind not in _NUMBERS or dtype.itemsize > 8:
        raise no_labels(f"values of type {dtype}" if not dtype.hasobject else "pickled objects")
    return ArrayHeader(tuple(shape), dtype, is_fortran, stream.tell())


def values_of(data: bytes) -> np.ndarray:
    """Return the values of an array file whose header was read, in this machine's byte order."""
    array = read_array_header(data)
    flat = np.frombuffer(data, array.dtype, math.prod(array.shape), array.start)
    shaped = flat.reshape(array.shape, order="F" if array.is_fortran else "C")
    return shaped.astype(array.dtype.newbyteorder("="))


def header_of_array(
    shape: tuple[int, ...], dtype: np.dtype, format_name: str, page: int | None
) -> Header:
    """Return the header of an array as an image: [height, width], with 3 or 4 channels at its end,
    or a page of a stack; axes of length 1 do not count.

    Raises:
        BrokenFileError: HP208; it is no image, or a stack of which nobody chose a page.
    """
    shape = _image_shape(shape)
    if len(shape) != 2 and not _is_stack(shape) and shape[-1:] not in ((3,), (4,)):
        raise no_labels(f"{dtype} of shape {'x'.join(map(str, shape)) or 'none'}")
    num_pages, chosen = 1, 0
    if _is_stack(shape):
        axis = _page_axis(shape)
        num_pages = shape[axis]
        shape = shape[:axis] + shape[axis + 1 :]
        if page is None or page > num_pages:
            wish = "" if page is None else f", no page {page}"
            raise BrokenFileError(
                UNSUPPORTED_ENCODING.verdict("multi-page"),
                f"an array of {num_pages} planes of {shape[1]}x{shape[0]} pixels{wish}",
            )
        chosen = page - 1
    if min(shape) < 1:
        raise no_labels("an empty array")
    described = header_of(np.empty((0, 0, *shape[2:]), dtype), format_name)
    return Header(
        format_name,
        described.mode,
        described.bit_depth,
        shape[1],
        shape[0],
        is_signed=described.is_signed,
        num_pages=num_pages,
        page=chosen,
    )


def image_of(values: np.ndarray, header: Header) -> np.ndarray:
    """Return the values [height, width] or [height, width, channels] that a header describes."""
    values = values.reshape(_image_shape(values.shape))
    if _is_stack(values.shape):
        values = np.take(values, header.page, axis=_page_axis(values.shape))
    result: np.ndarray = np.ascontiguousarray(values)
    return result.view(np.uint8) if result.dtype == bool else result


def no_labels(what: str) -> BrokenFileError:
    """Return the error of arrays that are no image of labels."""
    return BrokenFileError(UNSUPPORTED_ENCODING.verdict("arrays"), f"{what}: no image of labels")


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without axes of length 1, two axes at least."""
    spare = len(shape) - 2
    kept = []
    for length in shape:
        if length == 1 and spare > 0:
            spare -= 1
        else:
            kept.append(length)
    return tuple(kept)


def _is_stack(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] not in _CHANNELS


def _page_axis(shape: tuple[int, ...]) -> int:
    """Return the axis along which pages lie: the shortest."""
    return int(np.argmin(shape))


DECODER = NpyDecoder()
