"""Folder -> pairs of files with their sizes and times, in order; no file is opened."""

from __future__ import annotations

import itertools
import os
import shlex
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import xxhash

from histoprep.checksums import FileStates
from histoprep.digests import RunningDigest, digest_text, hash_text
from histoprep.errors import UsageError
from histoprep.image_formats import image_suffixes
from histoprep.names import to_name
from histoprep.phrases import first_of, plural
from histoprep.read_ahead import THREADS, FileStat
from histoprep.scanning import Issue, IssueKind, Pair, scan
from histoprep.scanning.commands import import_commands
from histoprep.scanning.formats import count_unread, describe_unread
from histoprep.tiles.options import TableOptions
from histoprep.tiles.seen_files import SeenFiles, SeenPair

_PAIRS_A_STAT_TASK = 256
_MASK = (1 << 64) - 1
# No row has it, so that the state of all rows together can stand under it.
_ALL_ROWS = 0

T = TypeVar("T")


class LocalState(NamedTuple):
    """What the file system of this machine says of the files of a pair: `changed_ns`, the later
    change time, and a number for times and inodes.

    It is no fact about the data, and stands in no result: a copy of a file has another one.
    """

    changed_ns: int = 0
    number: int = 0

    @classmethod
    def of(cls, *files: os.stat_result | None) -> LocalState:
        """Return the state of files, None for one that is not there."""
        facts = tuple(
            fact
            for file in files
            for fact in ((0, 0) if file is None else (file.st_ctime_ns, file.st_ino))
        )
        # Python's hash of integers is the same in every process, and takes a tenth of the time.
        return cls(max(facts[::2]), hash(facts) & _MASK)


class ListedTile(NamedTuple):
    """A pair and what the file system says of its files; None for a file that is not there."""

    pair: Pair
    image: FileStat | None
    mask: FileStat | None
    local: LocalState = LocalState()

    @property
    def facts(self) -> str:
        """Return what is the same wherever the files lie."""
        return f"Listed(pair={self.pair!r}, image={self.image!r}, mask={self.mask!r})"

    @property
    def key(self) -> int:
        """Return a number for paths, sizes and modification times; see `row_key`."""
        return row_key(
            self.pair.image_path,
            *(self.image or (None, None)),
            self.pair.mask_path,
            *(self.mask or (None, None)),
        )


def row_key(*facts: object) -> int:
    """Return a number for image path, size and time, mask path, size and time of a row; 0 stands
    for a row that must not be found.
    """
    return hash_text("\0".join(map(str, facts))) or 1


@dataclass(slots=True)
class Listing:
    """One walk through a data set: its issues, its length, and a digest of both and of every pair.

    Complete when `walk` is used up.
    """

    issues: list[Issue] = field(default_factory=list)
    num_tiles: int = 0
    num_found: int = 0
    _digest: RunningDigest = field(default_factory=RunningDigest)
    _keys: array[int] = field(default_factory=lambda: array("Q"))
    _states: array[int] = field(default_factory=lambda: array("Q"))

    def walk(
        self,
        root: Path,
        options: TableOptions,
        *,
        keep: SeenFiles | None = None,
        seen: SeenFiles | None = None,
    ) -> Iterator[ListedTile]:
        """Yield every pair with its files' sizes and times; sixteen threads ask the file system.

        Args:
            root: The data set.
            options: What is listed, and how.
            keep: Takes note of what the file system says, for a later walk.
            seen: Notes of an earlier walk, which spare asking again.

        Raises UsageError, at the end, when there is neither an image nor a mask.
        """
        pairs = self._counted(scan(root, options.scan, self.issues.append))
        if options.sample is not None:
            pairs = _sampled(pairs, options.sample)
        for tile in _with_stats(str(root), pairs, seen):
            self.num_tiles += 1
            self._digest.update(tile.facts)
            self._states.append(tile.local.number)
            if keep is not None:
                keep.note(tile.pair, SeenPair(tile.image, tile.mask, *tile.local))
            yield tile
        if not self.num_found:
            raise self._nothing_found(root, options)

    def _nothing_found(self, root: Path, options: TableOptions) -> UsageError:
        """Return the error of a data set without a file to read; says what was seen instead."""
        leaving = [issue.path for issue in self.issues if issue.kind is IssueKind.LEAVING_LINK]
        broken = [issue for issue in self.issues if issue.kind is IssueKind.BROKEN_LINK]
        unread = count_unread(self.issues)
        wanted = (
            f"x.jpg beside x{options.scan.mask_suffix}.png, or folders images/ and masks/"
            f" ({', '.join(image_suffixes())})"
        )
        hint = "is the folder mounted, and the right one?"
        seen = []
        if leaving:
            words = "link that leaves" if len(leaving) == 1 else "links that leave"
            seen.append(f"{len(leaving):,} {words} the folder: {first_of(leaving)}")
            hint = f"histoprep audit {shlex.quote(str(root))} --follow-links"
        if broken:
            words = plural(len(broken), "link")
            seen.append(f"{words} to nothing: {broken[0].path}, a {broken[0].detail}")
            hint = "mount or fetch what the links lead to, then the same command again"
        if unread:
            seen.append(f"files of formats that are not read: {describe_unread(unread)}")
            commands = import_commands(root, unread)
            imports = (
                " or ".join(commands) or "histoprep import makes a data set of some: see --help"
            )
            hint = hint if leaving or broken else imports
        return UsageError(
            "no image or mask found",
            path=root,
            seen="; ".join(seen) or None,
            expected=wanted,
            hint=hint,
        )

    def _counted(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        for pair in pairs:
            self.num_found += 1
            yield pair

    @property
    def digest(self) -> str:
        """Return the digest of the pairs so far and of the issues."""
        return digest_text(
            "\0".join([self._digest.value(), *itertools.chain.from_iterable(self.issues)])
        )

    def note_keys(self, listed: Iterable[ListedTile]) -> None:
        """Take note of the keys of pairs, all in order, which `states` needs."""
        self._keys.extend(tile.key for tile in listed)

    @property
    def states(self) -> FileStates:
        """Return the local state of each pair, by its key, and of all of them in order."""
        keys = np.append(np.array(self._keys, np.uint64), np.uint64(_ALL_ROWS))
        return FileStates.of_keys(
            keys, np.append(np.array(self._states, np.uint64), np.uint64(self._all_states()))
        )

    def restate_last(self, number: int) -> None:
        """Let the last pair that `walk` gave have another local state."""
        self._states[-1] = number

    def is_same_as(self, states: FileStates) -> bool:
        """Return whether states are those of exactly these pairs in this order."""
        return int(states.find_keys(np.array([_ALL_ROWS], np.uint64))[0]) == self._all_states()

    def _all_states(self) -> int:
        return xxhash.xxh3_64_intdigest(self._states.tobytes()) or 1


def absolute_path(root: str | Path, path: str) -> str:
    """Return the file system path of a path stored in a table of ours."""
    return os.path.join(root, to_name(path))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _with_stats(root: str, pairs: Iterable[Pair], seen: SeenFiles | None) -> Iterator[ListedTile]:
    notes = (seen or SeenFiles()).of(pairs)
    for pair, known in notes:
        if known is None:
            rest = itertools.chain([pair], (pair for pair, _ in notes))
            yield from _asked(root, rest)
            return
        yield ListedTile(pair, known.image, known.mask, LocalState(*known[2:]))


def _asked(root: str, pairs: Iterable[Pair]) -> Iterator[ListedTile]:
    waiting: deque[Future[list[ListedTile]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk in batched(pairs, _PAIRS_A_STAT_TASK):
            waiting.append(pool.submit(_stat_chunk, root, chunk))
            if len(waiting) > 2 * THREADS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _stat_chunk(root: str, pairs: list[Pair]) -> list[ListedTile]:
    return [_listed(root, pair) for pair in pairs]


def _listed(root: str, pair: Pair) -> ListedTile:
    files = [
        None if path is None else _status(absolute_path(root, path))
        for path in (pair.image_path, pair.mask_path)
    ]
    image, mask = (
        None if file is None else FileStat(file.st_size, file.st_mtime_ns) for file in files
    )
    return ListedTile(pair, image, mask, LocalState.of(*files))


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _sampled(pairs: Iterable[Pair], num_tiles: int) -> Iterator[Pair]:
    """Return the `num_tiles` pairs whose ids hash lowest, in order of the listing: the same ones
    every time.
    """
    keyed = [(hash_text(pair.tile_id), index, pair) for index, pair in enumerate(pairs)]
    chosen = sorted(keyed, key=lambda entry: entry[:2])[:num_tiles]
    return (pair for _, _, pair in sorted(chosen, key=lambda entry: entry[1]))
