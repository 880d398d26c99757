"""Folder -> pairs of files with their sizes and times, in order; no file is opened."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from histoprep.digests import RunningDigest, digest_text, hash_text
from histoprep.errors import UsageError
from histoprep.names import IMAGE_SUFFIXES, to_name
from histoprep.read_ahead import THREADS, FileStat, stat_file
from histoprep.scan import Issue, Pair, scan
from histoprep.tiles.options import TableOptions

_PAIRS_A_STAT_TASK = 256

T = TypeVar("T")


class Listed(NamedTuple):
    """A pair and what the file system says of its files; None for a file that is not there."""

    pair: Pair
    image: FileStat | None
    mask: FileStat | None


@dataclass(slots=True)
class Listing:
    """One walk through a data set: its issues, its length, and a digest of both and of every pair.

    Complete when `walk` is used up.
    """

    issues: list[Issue] = field(default_factory=list)
    num_tiles: int = 0
    num_found: int = 0
    _digest: RunningDigest = field(default_factory=RunningDigest)

    def walk(self, root: Path, options: TableOptions) -> Iterator[Listed]:
        """Yield every pair with its files' sizes and times; sixteen threads ask the file system.

        Raises UsageError, at the end, when there is neither an image nor a mask.
        """
        pairs = self._counted(scan(root, options.scan, self.issues.append))
        if options.sample is not None:
            pairs = _sampled(pairs, options.sample)
        for one in _with_stats(str(root), pairs):
            self.num_tiles += 1
            self._digest.update(repr(one))
            yield one
        if not self.num_found:
            wanted = f"x.jpg beside x{options.scan.mask_suffix}.png, or folders images/ and masks/ ({', '.join(IMAGE_SUFFIXES)})"
            raise UsageError("no image or mask found", path=root, expected=wanted, hint="is the folder mounted, and the right one?")

    def _counted(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        for pair in pairs:
            self.num_found += 1
            yield pair

    @property
    def digest(self) -> str:
        """Return the digest of the pairs so far and of the issues."""
        return digest_text(self._digest.value() + repr(self.issues))


def absolute_path(root: str | Path, path: str) -> str:
    """Return the file system path of a path stored in a table of ours."""
    return os.path.join(root, to_name(path))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _with_stats(root: str, pairs: Iterable[Pair]) -> Iterator[Listed]:
    waiting: deque[Future[list[Listed]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk in batched(pairs, _PAIRS_A_STAT_TASK):
            waiting.append(pool.submit(_stat_chunk, root, chunk))
            if len(waiting) > 2 * THREADS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _stat_chunk(root: str, pairs: list[Pair]) -> list[Listed]:
    return [
        Listed(
            pair,
            stat_file(absolute_path(root, pair.image_path)) if pair.image_path is not None else None,
            stat_file(absolute_path(root, pair.mask_path)) if pair.mask_path is not None else None,
        )
        for pair in pairs
    ]


def _sampled(pairs: Iterable[Pair], num_tiles: int) -> Iterator[Pair]:
    """Return the `num_tiles` pairs whose ids hash lowest, in order of the listing: the same ones every time."""
    keyed = [(hash_text(pair.tile_id), index, pair) for index, pair in enumerate(pairs)]
    chosen = sorted(keyed, key=lambda one: one[:2])[:num_tiles]
    return (pair for _, _, pair in sorted(chosen, key=lambda one: one[1]))
