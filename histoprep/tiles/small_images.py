"""Images in cells that were made when they were measured, kept until tiles are compared: files
beside the parts, so that no image is decoded a second time to see that it overlaps nothing.

They are a shortcut: an image that is in none of them is decoded. Each is known by the digest of its
file's bytes.
"""

from __future__ import annotations

import contextlib
import json
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from histoprep.errors import OutputError
from histoprep.neighbours.placement import SmallImage
from histoprep.schemas.workspace import Workspace

_SUFFIX = ".cells"
_FORMAT = "histoprep cells 1"


def path_beside(part: Path) -> Path:
    """Return where the images of a part are kept."""
    return part.with_suffix(_SUFFIX)


def kept_files(workspace: Workspace) -> tuple[Path, ...]:
    """Return the files of a workspace."""
    return tuple(sorted(workspace.parts.glob(f"*{_SUFFIX}")))


def keep(path: Path, images: Mapping[str, SmallImage]) -> None:
    """Write images by digest; nothing where there is no room for them."""
    entries = [
        (digest, *image.cells.shape, *image.shape) for digest, image in sorted(images.items())
    ]
    header = json.dumps([_FORMAT, *entries]).encode() + b"\n"
    with contextlib.suppress(OSError):
        try:
            with path.open("wb") as stream:
                stream.write(header)
                for digest, *_ in entries:
                    stream.write(images[digest].cells.tobytes())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def drop(workspace: Workspace) -> None:
    """Delete the files of a workspace.

    Raises:
        OutputError: One cannot be deleted.
    """
    try:
        for path in kept_files(workspace):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError.from_os_error(error, error.filename or workspace.parts) from error


class KeptImages:
    """The images of some files, which are mapped into memory, not read."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        """Open the files; those that are gone or not whole count as empty."""
        self._found: dict[str, tuple[mmap.mmap, int, tuple[int, int], tuple[int, int]]] = {}
        for path in paths:
            with contextlib.suppress(OSError, ValueError, TypeError):
                self._found |= _entries(path)

    def get(self, digest: str) -> SmallImage | None:
        """Return the image with these bytes; None where it was not kept."""
        entry = self._found.get(digest)
        if entry is None:
            return None
        held, start, (rows, columns), shape = entry
        cells = np.frombuffer(held, np.uint8, rows * columns, start).reshape(rows, columns)
        return SmallImage(cells, shape)


def _entries(path: Path) -> dict[str, tuple[mmap.mmap, int, tuple[int, int], tuple[int, int]]]:
    """Return where the images of one file are; raises ValueError for one that is not whole."""
    with path.open("rb") as stream:
        name, *entries = json.loads(stream.readline())
        start = stream.tell()
        held = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
    found = {}
    for digest, rows, columns, height, width in entries:
        found[digest] = (held, start, (rows, columns), (height, width))
        start += rows * columns
    if name != _FORMAT or start != len(held):
        raise ValueError(f"{path} is not whole")
    return found
