"""The files of a tree of new masks: what an earlier run left, and whether all that was promised is
there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from histoprep import tables
from histoprep.errors import IntegrityError
from histoprep.key_index import KeyIndex, hash_names
from histoprep.mask_tree.task import beside
from histoprep.names import to_text
from histoprep.schemas.ledgers import LEDGER, TreeKind, open_ledger

_NUM_SHOWN = 10
_NAMES_AT_ONCE = 8192


def remove_stale(
    out: Path, written: KeyIndex, ledgers: list[tuple[Path, str]], kind: TreeKind
) -> int:
    """Delete files that earlier ledgers (path, kind of table) name and this run did not write, and
    return how many.

    `written` has the hashes of the names that this run wrote.
    """
    return sum(_remove_output(out, name) for name in _stale_names(written, ledgers, kind))


def count_stale(out: Path, written: KeyIndex, kind: TreeKind) -> int:
    """Return how many files of the tree in `out` a run would remove that writes these names; 0
    without a tree.
    """
    names = _stale_names(written, [(out / LEDGER, kind.ledger)], kind)
    return sum(os.path.lexists(beside(out, name)) for name in names)


def _stale_names(
    written: KeyIndex, ledgers: list[tuple[Path, str]], kind: TreeKind
) -> Iterator[str]:
    for path, name in ledgers:
        # What a damaged ledger named stays, and is reported as unexpected.
        with contextlib.suppress(FileNotFoundError, IntegrityError):
            for batch in tables.read_batches(open_ledger(path, name, kind), ["output_path"]):
                names = batch["output_path"].drop_null().to_pylist()
                yield from itertools.compress(names, written.find(hash_names(names)) < 0)


def _remove_output(out: Path, name: str) -> bool:
    """Delete one file of an earlier ledger and the folders it leaves empty; return whether it was
    there.
    """
    target = Path(beside(out, name))
    if ".." in target.parts or not target.is_relative_to(out):
        return False
    try:
        target.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    for folder in target.parents:
        if folder == out:
            break
        with contextlib.suppress(OSError):
            folder.rmdir()
    return True


def count_files(out: Path, written: KeyIndex, ours: frozenset[str]) -> tuple[str, ...]:
    """Return the first files in the tree that are not of the ledger; raises IntegrityError when one
    of the ledger is not there.

    `ours` are the names in the folder itself that are no masks.
    """
    missing, unexpected = len(written), list[str]()
    names = _walk(out, ours)
    while chunk := list(itertools.islice(names, _NAMES_AT_ONCE)):
        promised = written.find(hash_names(chunk)) >= 0
        missing -= int(promised.sum())
        unexpected += itertools.compress(chunk, ~promised)
        del unexpected[_NUM_SHOWN:]
    if missing:
        raise IntegrityError(
            f"{missing:,} of {len(written):,} new files are not in the folder that they were"
            " written to",
            path=out,
            hint=(
                "does another program change this folder, or does its file system ignore case? Run"
                " the same command again"
            ),
        )
    return tuple(sorted(unexpected))


def _walk(out: Path, ours: frozenset[str]) -> Iterator[str]:
    """Yield the path, as text relative to `out`, of everything in the tree that is no folder and
    none of our own notes.
    """
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(out / prefix) as entries:
            for entry in entries:
                if not prefix and entry.name in ours:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{prefix}{entry.name}/")
                else:
                    yield to_text(f"{prefix}{entry.name}")
