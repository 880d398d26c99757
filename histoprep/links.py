"""A file of somebody else in a folder of ours: linked, or copied."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from histoprep import durable
from histoprep.choices import LinkKind
from histoprep.errors import OutputError
from histoprep.remote import file_bytes, object_of

HARD_LINK, SYMBOLIC_LINK, COPY = "hard link", "symbolic link", "copied"
"""What ledgers call what was done."""


def place_file(source: Path, target: Path, kind: LinkKind) -> str:
    """Make `target` stand for a file, without syncing it, and return how: one of `HARD_LINK`,
    `SYMBOLIC_LINK` and `COPY`.

    A hard link is an ordinary file to every reader, and does not break when the source is moved.
    Where the system allows none (another file system, somebody else's file), it is a symbolic
    link. Links lead to the file itself, not to another link. A file in an object store is copied.

    Raises:
        OutputError: The system or the store refuses.
    """
    try:
        if object_of(str(source)) is not None:
            return _fetch(source, target)
        if kind is LinkKind.COPY:
            return _copy(source, target)
        return _link(source.resolve(), target, hard=kind is LinkKind.HARD)
    except OSError as error:
        raise OutputError.from_os_error(error, target, "cannot link") from error


def _link(real: Path, target: Path, *, hard: bool) -> str:
    if hard and target.exists() and not target.is_symlink() and target.samefile(real):
        return HARD_LINK
    temporary = durable.temporary_beside(target)
    how = SYMBOLIC_LINK
    if hard:
        try:
            os.link(real, temporary)
            how = HARD_LINK
        except OSError:
            hard = False
    if not hard:
        os.symlink(real, temporary)
    os.replace(temporary, target)
    return how


def _fetch(source: Path, target: Path) -> str:
    durable.write_bytes(target, file_bytes(source))
    return COPY


def _copy(source: Path, target: Path) -> str:
    temporary = durable.temporary_beside(target)
    try:
        with source.open("rb") as read, temporary.open("xb") as written:
            shutil.copyfileobj(read, written, 1 << 20)
        os.replace(temporary, target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return COPY
