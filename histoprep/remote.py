"""A data set in an object store, as the other stages see it: a folder of its names.

`mirror` lists the objects and makes a folder in the workspace that looks like a local copy. Images
and masks have their names, sizes and times there, and no content: they are read from the store when
they are looked at. Everything else, such as tables and label maps, is copied. So names are
understood, paired and remembered by the same code, and results are those of a local copy.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from histoprep.durable import locked
from histoprep.errors import OutputError, UsageError
from histoprep.image_formats import is_image
from histoprep.names import to_name, to_text
from histoprep.sealed_json import read_sealed_json, write_sealed_json
from histoprep.storage import (
    ListedObject,
    ObjectStore,
    Storage,
    is_object_address,
    open_storage,
)

FOLDER = "objects.histoprep"
"""Folder in the workspace with the note and the mirror."""
_NOTE = "store.json"
_MARK = f"/{FOLDER}/"
# What a path of the system makes of an address: it has one slash fewer.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+]+):/+(.+)", re.DOTALL)
_MAX_NAME_BYTES = 255
_KIND, _VERSION = "object store", 1


def address_of(root: object) -> str | None:
    """Return the address that a path from the command line means, None for a path.

    Raises:
        UsageError: It holds a user name, a password or a signature: these come from where the
            libraries of the stores look for them.
    """
    found = _SCHEME.fullmatch(str(root))
    address = f"{found[1]}://{found[2].rstrip('/')}" if found else ""
    if not is_object_address(address) or os.path.isdir(str(root)):
        return None
    host = address.partition("://")[2].partition("/")[0]
    if "@" in host or "?" in address:
        raise UsageError(
            "keys, passwords and signatures do not belong in an address",
            expected="such as s3://bucket/folder, with keys from the environment or a profile",
        )
    return address


def shown_root(root: str | Path) -> str:
    """Return what a data set is called: its address, or the path of a folder."""
    found = _note_of(f"{root}/")
    return str(root) if found is None else found.address


def mirror(address: str, workspace: Path) -> Path:
    """Bring the mirror of a data set in its workspace up to date and return its root.

    Raises:
        UsageError: The objects cannot be listed, there are none, names cannot be those of files, or
            the workspace is of another address.
        OutputError: The workspace cannot be written.
        LockedError: Another process brings it up to date.
    """
    store, base = ObjectStore(address), workspace / FOLDER
    root = base / address.rpartition("/")[2]
    earlier = _note_of(f"{root}/")
    if earlier is not None and earlier.address != address:
        raise UsageError(
            "this workspace belongs to another data set",
            path=workspace,
            seen=f"results of {earlier.address}",
            expected=f"results of {address}",
            hint="name another --workspace",
        )
    with locked(base):
        try:
            kept = {str(root / to_name(each.name)): each for each in _listed(store)}
            _refuse_clashes(address, kept, root)
            note = {"address": address}
            write_sealed_json(base / _NOTE, note, kind=_KIND, version=_VERSION)
            _note_in.cache_clear()
            root.mkdir(exist_ok=True)
            _remove_others(root, kept)
            for path, each in kept.items():
                _place(store, path, each)
        except OSError as error:
            raise OutputError.from_os_error(error, base) from error
    return root


def file_bytes(path: str | Path) -> bytes:
    """Return all bytes of a file of the data set, wherever it is; raises OSError."""
    found = object_of(str(path))
    return Path(path).read_bytes() if found is None else found[0].read(found[1])


def open_folder(folder: str | Path) -> Storage:
    """Return the storage of a folder or an address; of the root of a mirror that of the objects.

    Raises:
        UsageError: The library for its scheme is missing.
    """
    return _note_of(f"{folder}/") or open_storage(folder)


def object_of(path: str) -> tuple[ObjectStore, str] | None:
    """Return the store and the name of the object that a path of a mirror stands for; None for a
    file that is on this machine.
    """
    if _MARK not in path or not is_image(path):
        return None
    store = _note_of(path)
    if store is None:
        return None
    return store, to_text(path.partition(_MARK)[2].partition("/")[2])


def _note_of(path: str) -> ObjectStore | None:
    """Return the store of a path inside a mirror."""
    before, mark, _ = path.partition(_MARK)
    return _note_in(before) if mark else None


@functools.lru_cache(maxsize=64)
def _note_in(workspace: str) -> ObjectStore | None:
    path = Path(workspace, FOLDER, _NOTE)
    hint = f"delete {path} and run histoprep audit with the address again"
    try:
        note = read_sealed_json(path, kind=_KIND, version=_VERSION, hint=hint)
    except FileNotFoundError:
        return None
    return ObjectStore(str(note["address"]))


def _listed(store: ObjectStore) -> Iterator[ListedObject]:
    """Yield the objects that are files: names that end with a slash stand for folders."""
    number = 0
    try:
        for each in store.list():
            number += 1
            parts = each.name.split("/")
            is_file = all(
                part not in ("", ".", "..") and len(part.encode()) <= _MAX_NAME_BYTES
                for part in parts
            )
            if not is_file or "\0" in each.name:
                raise UsageError(
                    "the name of an object cannot be that of a file",
                    path=store.where(each.name),
                    hint="copy the objects to names without empty parts, or name a folder without",
                )
            yield each
    except OSError as error:
        raise UsageError(
            "the objects cannot be listed", path=store.address, seen=str(error.strerror)
        ) from error
    if not number:
        raise UsageError("there are no objects below this address", path=store.address)


def _refuse_clashes(address: str, kept: dict[str, ListedObject], root: Path) -> None:
    """Raise UsageError for an object whose name is that of a folder with others."""
    folders = {folder for path in kept for folder in _folders_above(path, str(root))}
    for path in sorted(folders & kept.keys()):
        raise UsageError(
            "an object has the name of a folder",
            path=f"{address}/{kept[path].name}",
            hint="move the object, or name a folder that does not hold it",
        )


def _folders_above(path: str, root: str) -> Iterator[str]:
    folder = path.rpartition("/")[0]
    while len(folder) > len(root):
        yield folder
        folder = folder.rpartition("/")[0]


def _remove_others(root: Path, kept: dict[str, ListedObject]) -> None:
    """Remove what is in the mirror and no more in the store, and folders that are left empty."""
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            if (path := f"{folder}/{name}") not in kept:
                os.unlink(path)
        if folder != str(root) and not os.listdir(folder):
            os.rmdir(folder)


def _place(store: ObjectStore, path: str, each: ListedObject) -> None:
    """Make a file of the name, size and time of an object; a copy of it where it is no image."""
    times = (each.mtime_ns, each.mtime_ns)
    try:
        found = os.stat(path)
        if (found.st_size, found.st_mtime_ns) == (each.num_bytes, each.mtime_ns):
            return
        os.unlink(path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as stream:  # noqa: PTH123 (made for every object)
        if is_image(path):
            stream.truncate(each.num_bytes)
        else:
            stream.write(store.read(each.name))
    os.utime(path, ns=times)
