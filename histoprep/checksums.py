"""Digests of the files that we write into a folder, and whether a file is still the one that was
written.

`checksums.json` of a folder has the size and the XXH3-128 of each file, by its path relative to the
folder, and the digest of this list. It stands for the small files that steer later commands and for
results to look at. What comes in thousands has digests in a table of its own (ledger, index,
manifest, journal) and is looked at by `check_files`: quickly by size, modification and change time
and inode, as they were when the digest was last compared (`.hp-states`), and wholly where one of
these differs or everything is to be read. Tables have their digests inside (`tables.py`),
checkpoints beside each file (SHA256SUMS).

A digest finds damage and edits; it is no protection against somebody who writes a new one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from histoprep.digests import digest, digest_text, file_digest, hash_text, raw_digest
from histoprep.durable import is_temporary, publish_in_batch, write_bytes, write_json
from histoprep.errors import IntegrityError
from histoprep.names import to_name, to_text
from histoprep.phrases import first_of

CHECKSUMS, STATES = "checksums.json", ".hp-states"
IMAGE_STATES = ".hp-states-images"
OWN_FILES = frozenset({CHECKSUMS, STATES, IMAGE_STATES, ".lock"})
"""Names in a folder of ours that are about it and no part of its content."""
RESTORE = "restore it from a copy, or run the command that made it again"
_VERSION = 1
_STATES_MAGIC = b"HPstates"
_THREADS = 16
_FILES_AT_ONCE, _FILES_A_TASK = 8192, 128
_NUM_SHOWN = 5


class Checksum(NamedTuple):
    """Size and XXH3-128 (hex) of a file as it was written."""

    num_bytes: int
    digest: str

    @classmethod
    def of(cls, data: bytes) -> Checksum:
        """Return those of `data`."""
        return cls(len(data), digest(data))


class Expected(NamedTuple):
    """A file that should be there: its path relative to a folder, as text, and its checksum."""

    name: str
    checksum: Checksum


class Damage(NamedTuple):
    """A file that is not what was written: its path, what was seen and what was expected."""

    path: str
    seen: str
    expected: str
    is_missing: bool = False


def read_checksums(folder: Path) -> dict[str, Checksum]:
    """Return the files listed in checksums.json of a folder, none where there is no such list;
    raises IntegrityError for a damaged one.
    """
    path = folder / CHECKSUMS
    hint = f"restore it from a copy, or delete it: {folder} is used unchecked then"
    try:
        record = json.loads(path.read_text("utf-8", "surrogateescape"))
        version, files, stated = record["version"], record["files"], record["digest"]
        files_listed = {
            name: Checksum(int(size), str(seen)) for name, (size, seen) in files.items()
        }
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise IntegrityError(
            f"cannot read the checksums of a folder: {error.strerror or error}", path=path
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"the checksums of a folder are damaged: {error!r}", path=path, hint=hint
        ) from error
    if version != _VERSION:
        raise IntegrityError(
            "the checksums of a folder are of another version",
            path=path,
            seen=version,
            expected=_VERSION,
            hint=hint,
        )
    if stated != (made := _list_digest(files)):
        raise IntegrityError(
            "the checksums of a folder are damaged",
            path=path,
            seen=f"digest {stated}",
            expected=made,
            hint=hint,
        )
    return files_listed


def _list_digest(files: Mapping[str, Any]) -> str:
    return digest_text(
        json.dumps(
            [_VERSION, {name: list(checksum) for name, checksum in files.items()}],
            sort_keys=True,
            ensure_ascii=True,
        )
    )


def _write_checksums(folder: Path, files: Mapping[str, Checksum]) -> None:
    listed = {name: list(checksum) for name, checksum in files.items()}
    write_json(
        folder / CHECKSUMS, {"version": _VERSION, "files": listed, "digest": _list_digest(listed)}
    )


def publish_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Publish files of a folder durably and list them in its checksums; hold the folder's lock.
    Raises OutputError, IntegrityError.

    A process that is killed in between leaves files that are not listed, never ones that seem
    damaged.
    """
    written = {name: Checksum.of(data) for name, data in files.items()}
    forget_files(folder, lambda name: name in written, unless=written)
    for name, data in files.items():
        write_bytes(folder / name, data)
    listed = read_checksums(folder)
    if any(listed.get(name) != checksum for name, checksum in written.items()):
        _write_checksums(folder, listed | written)


def publish_file(folder: Path, name: str, data: bytes | str) -> None:
    """Publish one file; see `publish_files`."""
    publish_files(
        folder, {name: data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data}
    )


def publish_json(folder: Path, name: str, value: Any) -> None:
    """Publish `value` as indented JSON with sorted keys; see `publish_files`."""
    publish_files(folder, {name: json_bytes(value)})


def json_bytes(value: Any) -> bytes:
    """Return `value` as indented JSON with sorted keys."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(
        "utf-8", "surrogateescape"
    )


def list_files(folder: Path, names: Iterable[str]) -> None:
    """List files that are there already, as they are now; hold the folder's lock. Raises
    OSError.
    """
    listed = read_checksums(folder)
    checksums = {
        name: Checksum((folder / name).stat().st_size, file_digest(folder / name)) for name in names
    }
    if any(listed.get(name) != checksum for name, checksum in checksums.items()):
        _write_checksums(folder, listed | checksums)


def list_all_files(folder: Path) -> None:
    """List every file in a folder and below it; see `list_files`."""
    paths = (
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and not is_temporary(path.name)
    )
    list_files(folder, sorted(path.as_posix() for path in paths if path.name not in OWN_FILES))


def forget_files(
    folder: Path, which: Callable[[str], bool], *, unless: Mapping[str, Checksum] | None = None
) -> None:
    """Take files off the list before they are changed or removed, but those that are in `unless`
    with the same checksum.
    """
    listed = read_checksums(folder)
    remaining = {
        name: checksum
        for name, checksum in listed.items()
        if not which(name) or (unless or {}).get(name) == checksum
    }
    if remaining != listed:
        _write_checksums(folder, remaining)


def read_file(path: Path, *, folder: Path | None = None, hint: str = RESTORE) -> bytes:
    """Return the bytes of a file after comparing them with the checksums of its folder (or of
    `folder` above it), where they list it.

    Raises IntegrityError with path, expected and seen digest; OSError.
    """
    home = folder or path.parent
    data = path.read_bytes()
    expected = read_checksums(home).get(path.relative_to(home).as_posix())
    if expected is not None and (seen := Checksum.of(data)) != expected:
        raise _changed(path, _words(seen), _words(expected), hint)
    return data


def read_json(path: Path, *, hint: str = RESTORE) -> Any:
    """Return the value in a JSON file after comparing it with the checksums of its folder; raises
    IntegrityError, FileNotFoundError.
    """
    try:
        return json.loads(read_file(path, hint=hint).decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"damaged file: {error}", path=path, hint=hint) from error


def damaged_files(folder: Path, *, names: Iterable[str] | None = None) -> list[Damage]:
    """Return what differs from the checksums of a folder: of all files that they list, or of
    `names`; every byte is read.
    """
    chosen = None if names is None else set(names)
    wanted = [
        Expected(name, checksum)
        for name, checksum in read_checksums(folder).items()
        if chosen is None or name in chosen
    ]
    return check_files(folder, wanted, whole=True, keep_states=False)


def raise_damage(damages: list[Damage], what: str, hint: str) -> None:
    """Raise IntegrityError that names the first damaged files, unless there are none."""
    if damages:
        others = [damage.path for damage in damages[1:]]
        rest = first_of(others, separator="; ", limit=_NUM_SHOWN - 1)
        raise IntegrityError(
            what,
            path=damages[0].path,
            seen=damages[0].seen + (f"; also {rest}" if rest else ""),
            expected=damages[0].expected,
            hint=hint,
        )


def _changed(path: Path, seen: str, expected: str, hint: str) -> IntegrityError:
    return IntegrityError(
        "this file was changed since it was written",
        path=path,
        seen=seen,
        expected=expected,
        hint=hint,
    )


def _words(checksum: Checksum) -> str:
    return f"{checksum.num_bytes:,} bytes, digest {checksum.digest}"


def state_of(status: os.stat_result, file_digest_hex: str) -> int:
    """Return a number for a file of this digest, size, modification time, change time and inode, in
    [0, 2^64).
    """
    return hash_text(
        f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        f" {file_digest_hex}"
    )


@dataclass
class FileStates:
    """What the file system said of files when their digests were last compared: `keys` of their
    names, sorted, and `values`, uint64 [n].

    A memory of this machine, not a result: `.hp-states` may go at any time, and a copy of it says
    nothing about copies of the files.
    """

    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    @classmethod
    def read(cls, path: Path) -> FileStates:
        """Return the states in a file, none where there is no such file or it is damaged."""
        try:
            data = path.read_bytes()
        except OSError:
            return cls()
        head = len(_STATES_MAGIC) + 16
        numbers = data[head:]
        if data[:head] != _STATES_MAGIC + raw_digest(numbers) or len(numbers) % 16:
            return cls()
        keys, values = np.frombuffer(numbers, np.uint64).reshape(2, -1)
        return cls(keys, values)

    @classmethod
    def of(cls, entries: Mapping[str, int]) -> FileStates:
        """Return the states of files by name; see `state_of`."""
        return cls.of_keys(
            np.fromiter(map(hash_text, entries), np.uint64, len(entries)),
            np.fromiter(entries.values(), np.uint64, len(entries)),
        )

    @classmethod
    def of_keys(cls, keys: np.ndarray, values: np.ndarray) -> FileStates:
        """Return the states of files by the XXH3-64 of their names, in any order."""
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], values[order])

    def write(self, path: Path) -> None:
        """Publish the states; where the system does not let us, files are read again next time."""
        numbers = np.concatenate([self.keys, self.values]).tobytes()
        with contextlib.suppress(OSError):
            publish_in_batch(path, _STATES_MAGIC + raw_digest(numbers) + numbers)

    def find(self, names: Iterable[str]) -> np.ndarray:
        """Return the state of each file, uint64 [names], 0 for one that is not known."""
        return self.find_keys(np.array([hash_text(name) for name in names], np.uint64))

    def find_keys(self, wanted: np.ndarray) -> np.ndarray:
        """Return the state of each key (uint64 [n]) as `find` does."""
        if not len(self.keys):
            return np.zeros(len(wanted), np.uint64)
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[at] == wanted, self.values[at], np.uint64(0))


def check_files(
    folder: Path,
    files: Iterable[Expected],
    *,
    whole: bool,
    keep_states: bool = True,
    states_path: Path | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> list[Damage]:
    """Return the files below `folder` that are gone or not what was written, in the order given.

    Without `whole`, a file whose size, times and inode are those of the last comparison is not
    read. What was compared is remembered in the folder, or in the file `states_path`, unless
    `keep_states` is off.
    """
    home = states_path or folder / STATES
    states = FileStates.read(home) if keep_states else FileStates()
    names: list[int] = []
    values: list[int] = []
    damages: list[Damage] = []
    num_read = 0
    with ThreadPoolExecutor(_THREADS) as threads:
        for chunk in _chunks(files):
            known = (
                states.find(entry.name for entry in chunk).tolist()
                if not whole
                else [0] * len(chunk)
            )
            tasks = [(folder, entry, state) for entry, state in zip(chunk, known, strict=True)]
            pieces = [
                tasks[start : start + _FILES_A_TASK]
                for start in range(0, len(tasks), _FILES_A_TASK)
            ]
            looked_at = itertools.chain.from_iterable(threads.map(_look_at_each, pieces))
            for entry, (damage, state, was_read) in zip(chunk, looked_at, strict=True):
                num_read += was_read
                if damage is not None:
                    damages.append(damage)
                else:
                    names.append(hash_text(entry.name))
                    values.append(state)
            advance(len(chunk))
    if keep_states and (num_read or damages):
        FileStates.of_keys(np.array(names, np.uint64), np.array(values, np.uint64)).write(home)
    return damages


def remember_files(folder: Path, files: Iterable[Expected]) -> None:
    """Remember the files below `folder` as they are now, because they were written just now:
    `check_files` need not read them.
    """
    names: list[int] = []
    values: list[int] = []
    for file in files:
        with contextlib.suppress(OSError):
            values.append(
                state_of(os.stat(os.path.join(folder, to_name(file.name))), file.checksum.digest)
            )
            names.append(hash_text(file.name))
    FileStates.of_keys(np.array(names, np.uint64), np.array(values, np.uint64)).write(
        folder / STATES
    )


def _chunks(files: Iterable[Expected]) -> Iterable[list[Expected]]:
    chunk: list[Expected] = []
    for file in files:
        chunk.append(file)
        if len(chunk) == _FILES_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _look_at_each(tasks: list[tuple[Path, Expected, int]]) -> list[tuple[Damage | None, int, bool]]:
    # Handing over single files takes longer than looking at them.
    return [_look_at(task) for task in tasks]


def _look_at(task: tuple[Path, Expected, int]) -> tuple[Damage | None, int, bool]:
    """Return what is wrong with a file or None, its state now, and whether it was read."""
    folder, (name, expected), known = task
    path = os.path.join(folder, to_name(name))
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return Damage(to_text(path), "not a regular file", _words(expected)), 0, False
        if status.st_size != expected.num_bytes:
            return (
                Damage(to_text(path), f"{status.st_size:,} bytes", f"{expected.num_bytes:,} bytes"),
                0,
                False,
            )
        state = state_of(status, expected.digest)
        if known == state:
            return None, state, False
        seen = file_digest(Path(path))
    except FileNotFoundError:
        return Damage(to_text(path), "no such file", _words(expected), is_missing=True), 0, False
    except OSError as error:
        return Damage(to_text(path), error.strerror or str(error), _words(expected)), 0, False
    if seen != expected.digest:
        return Damage(to_text(path), f"digest {seen}", expected.digest), 0, True
    return None, state, True
