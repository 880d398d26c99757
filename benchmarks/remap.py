"""The gate of remap: the whole command's work against a plain loop of Pillow, numpy.take and save.

    python -m benchmarks.remap CORPUS [--masks 8000]

Planning, checks, ledger, syncs and the final count are in our time; making the tiles table is not,
as masks are audited anyway. Both write new files on the file system of the corpus.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.corpus import make_corpus
from benchmarks.measuring import Row, cpu_seconds, machine, markdown, speed_up, wall_seconds
from histoprep.execution import Engine
from histoprep.labels import find_label_map, load_label_map
from histoprep.remapping import RemapOptions, plan_remap, run_remap
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import TileTable

# The naive loop takes a part of the masks, or it would take all of the time.
_NAIVE_SHARE = 1 / 8
_MASKS_A_PAIR = 4


class InProcess(Engine):
    """Runs tasks at once, in this process, whose CPU time can be measured."""

    @contextmanager
    def executor(self, num_workers: int | None = None) -> Iterator[Executor]:
        """Yield an executor without workers."""
        yield _Inline()


class _Inline(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class _Bench:
    """Masks of a corpus, linked into a data set of their own, and new folders to write to."""

    def __init__(self, corpus: Path, num_masks: int, scratch: Path) -> None:
        self._new = (scratch / f"new-{number}" for number in itertools.count())
        root = scratch / "masks"
        root.mkdir()
        names = sorted(path.name for path in corpus.glob("*_mask.png"))[:num_masks]
        for name in names:
            os.link(corpus / name, root / name)
        self.workspace = Workspace.of(root)
        TileTable(self.workspace).build(Engine())
        self.label_map = load_label_map(find_label_map("label_map_5"))
        # Evenly from the whole: files of one slide are alike.
        self.sample = [root / name for name in names[:: round(1 / _NAIVE_SHARE)]]
        self.scale = len(names) / len(self.sample)

    def naive(self) -> None:
        """Remap the sample as most scripts do."""
        out = next(self._new)
        out.mkdir()
        table = self.label_map.lookup_table()[:256].astype(np.uint8)
        for path in self.sample:
            labels = np.array(Image.open(path))
            Image.fromarray(np.take(table, labels)).save(out / path.name)

    def ours(self, engine: Engine) -> Callable[[], None]:
        """Return a call that remaps everything."""

        def work() -> None:
            run_remap(
                plan_remap(self.workspace, self.label_map, RemapOptions(out=next(self._new))),
                engine,
            )

        return work


def rows(corpus: Path, num_pairs: int) -> list[Row]:
    """Return the rows of remap in one process and in two, on four masks for each of `num_pairs`, as
    far as there are.
    """
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=corpus.parent))
    try:
        bench = _Bench(corpus, _MASKS_A_PAIR * num_pairs, scratch)
        base = "Pillow + numpy.take + save, 1 process"
        variants = (
            ("1 process (CPU)", InProcess(1), 3.0, 4.5, cpu_seconds),
            ("1 process (wall)", InProcess(1), 3.0, 4.5, wall_seconds),
            ("2 workers (wall)", Engine(2), 5.5, 7.5, wall_seconds),
        )
        return [
            speed_up(
                f"remap, full checks, {name}", base, bench.naive, bench.ours(engine), gate=gate,
                stretch=stretch, clock=clock, scale=bench.scale
            )
            for name, engine, gate, stretch, clock in variants
        ]  # fmt: skip
    finally:
        shutil.rmtree(scratch)


def rates(corpus: Path, num_masks: int) -> str:
    """Return masks a second of each variant, by wall clock and by CPU time of all processes, one
    run each.
    """
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=corpus.parent))
    lines = []
    try:
        bench = _Bench(corpus, num_masks, scratch)
        whole = round(len(bench.sample) * bench.scale)
        ours = (
            ("1 process", bench.ours(InProcess(1)), whole),
            ("2 workers", bench.ours(Engine(2)), whole),
        )
        for name, work, number in (("naive", bench.naive, len(bench.sample)), *ours):
            wall, cpu = _times(work)
            lines.append(
                f"{name}: {number / wall:,.0f} masks/s; {1e6 * wall / number:,.0f} us wall and"
                f" {1e6 * cpu / number:,.0f} us CPU a mask"
            )
    finally:
        shutil.rmtree(scratch)
    return "\n".join(lines)


def _times(work: Callable[[], None]) -> tuple[float, float]:
    """Return wall and CPU seconds, of this process and the children that it waited for."""
    work()
    children, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    own = cpu_seconds(work)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, own + after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime


def main() -> int:
    """Print the table and the rates, and return 1 when a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--masks", type=int, default=8_000)
    chosen = parser.parse_args()
    if not chosen.corpus.is_dir():
        make_corpus(chosen.corpus, max(chosen.masks, 400))
    print(machine())
    print(rates(chosen.corpus, chosen.masks))
    table = rows(chosen.corpus, chosen.masks // _MASKS_A_PAIR)
    print(markdown(table))
    return int(any(row.verdict == "MISSED" for row in table))


if __name__ == "__main__":
    sys.exit(main())
