"""Files of MATLAB 5 to 7 that hold one array, by SciPy."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import io as scipy_io

from histoprep.errors import BrokenFileError
from histoprep.image_formats import MAT
from histoprep.imageio.decoders.base import Decoder, Sample
from histoprep.imageio.decoders.npy import header_of_array, image_of, no_labels
from histoprep.imageio.header import Header
from histoprep.rule_ids import UNREADABLE_FILE

# Its functions read open files, too, which their types do not say.
_read: Any = scipy_io.loadmat
_list: Any = scipy_io.whosmat
_write: Any = scipy_io.savemat
# What a MATLAB class holds; `double` is the usual one, also for labels.
_TYPES = {
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "single": np.float32, "double": np.float64, "logical": np.uint8,
}  # fmt: skip
_HDF5 = b"MATLAB 7.3"
_NUM_SHOWN = 6


class MatDecoder(Decoder):
    """The only array of a file."""

    package = "scipy"

    def read_header(self, data: bytes) -> Header:
        """Return the header of the array."""
        return self.read_page_header(data, None)

    def read_page_header(self, data: bytes, page: int | None) -> Header:
        """Return the header of the array, or of the chosen page of a stack; raises
        BrokenFileError.
        """
        _, shape, dtype = _only_array(data)
        return header_of_array(shape, dtype, MAT.name, page)

    def decode_stored(self, data: bytes, header: Header) -> np.ndarray:
        """Return the values."""
        name, _, dtype = _only_array(data)
        with _strict():
            values = _read(io.BytesIO(data), variable_names=[name])[name]
        # Files store numbers in the smallest type that holds them.
        return image_of(np.asarray(values).astype(dtype), header)

    def samples(self) -> Sequence[Sample]:
        """Return labels of 16 bits."""
        labels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
        stream = io.BytesIO()
        _write(stream, {"labels": labels})
        return [Sample(stream.getvalue(), labels)]


def _only_array(data: bytes) -> tuple[str, tuple[int, ...], np.dtype]:
    """Return name, shape and type of the only array; raises BrokenFileError."""
    if data.startswith(_HDF5):
        raise no_labels("a MATLAB 7.3 file (HDF5): save it with -v7")
    with _strict():
        variables = _list(io.BytesIO(data))
    if len(variables) != 1:
        listed = [f"{name} {'x'.join(map(str, shape))}" for name, shape, _ in variables]
        more = f" and {len(listed) - _NUM_SHOWN} more" if len(listed) > _NUM_SHOWN else ""
        raise no_labels(
            f"{len(listed)} arrays ({', '.join(listed[:_NUM_SHOWN])}{more}), of which nobody chose"
            " one"
        )
    name, shape, kind = variables[0]
    if kind not in _TYPES:
        raise no_labels(f"{name} of MATLAB class {kind}")
    return name, tuple(shape), np.dtype(_TYPES[kind])


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """Raise BrokenFileError for every error and warning of SciPy's reader."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    except Exception as error:  # The reader trusts what a file says, and fails in any way.
        raise BrokenFileError(
            UNREADABLE_FILE.verdict("corrupt"),
            f"no readable MATLAB file: {str(error) or type(error).__name__}",
        ) from error


DECODER = MatDecoder()
