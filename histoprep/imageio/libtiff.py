"""What libtiff, which Pillow reads compressed TIFFs with, says is wrong with a file.

By itself it prints that on stderr, between our lines, and Pillow raises an error for a part of it
only: a mask in Group 4 with damaged code words comes back with other labels and no error.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Any

_MAX_LENGTH = 300
_local = threading.local()


@contextlib.contextmanager
def collect_errors() -> Iterator[list[str]]:
    """Yield a list that receives the errors libtiff reports in this thread, such as `Fax4Decode:
    Bad code word at line 3`.
    """
    errors: list[str] = []
    _local.errors = errors
    try:
        yield errors
    finally:
        _local.errors = None


def _note_error(module: bytes | None, template: bytes, values: Any) -> None:
    errors = getattr(_local, "errors", None)
    if errors is None:
        return
    text = ctypes.create_string_buffer(_MAX_LENGTH)
    _format(text, _MAX_LENGTH, template, values)
    errors.append(f"{(module or b'libtiff').decode('latin-1')}: {text.value.decode('latin-1')}")


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_take_error = _Handler(_note_error)


# A va_list is passed as a pointer where we run: x86-64 and arm64.
_format = ctypes.CDLL(None).vsnprintf
_format.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]


def take_over_errors(module: str) -> None:
    """Have `collect_errors` receive what libtiff reports, and nothing printed; `module` is the path
    of Pillow's compiled module.
    """
    # Found through Pillow's module, so it is the library that Pillow uses; one that hides the
    # function, or none, prints as before.
    with contextlib.suppress(AttributeError, OSError):
        set_handler = ctypes.CDLL(module).TIFFSetErrorHandler
        set_handler.restype = ctypes.c_void_p
        set_handler(_take_error)
