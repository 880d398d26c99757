"""The gates of the audit: what the product runs, against what a competent user would write.

    python -m benchmarks.audit [--folder DIR] [--pairs 360] [--write FILE]

Rows of masks time `Measurer.mask`, which every audit calls, on masks of two labels or more. Rows of
the audit time the command, by the CPU time of all its processes. Its start-up and its cost a tile
are told apart by two data sets of different size; the baselines of `baselines.py` are commands too
and treated alike. No two tiles of the corpora show the same place. Variants run in turn,
after each ran once.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.baselines import mask_of
from benchmarks.corpus import ZERO_SHARE, make_corpus, png_bytes
from benchmarks.measuring import ROUNDS, Row, cpu_seconds, limit, machine, markdown
from benchmarks.process_tree import Usage, run
from histoprep import imageio
from histoprep.tiles import TileOptions
from histoprep.tiles.measurer import Measurer

_SIZES_PX = (512, 224)
_MAX_MASKS = 200
# Tiles of the small data set, as a share of those of the large one.
_SMALL = 1 / 3
_FEW = 10
_HISTOPREP = (sys.executable, "-m", "histoprep")


def mask_rows(folder: Path, tile_px: int, rounds: int = ROUNDS) -> list[Row]:
    """Return the rows of one mask of two labels or more, and of masks of equal bytes."""
    labelled = []
    for path in sorted(folder.glob("*_mask.png"))[:_MAX_MASKS]:
        data = path.read_bytes()
        if len(imageio.distinct(imageio.decode_mask(data, imageio.read_header(data)))[0]) > 1:
            labelled.append(data)
    blank = Image.new("L", (tile_px, tile_px))
    stream = io.BytesIO()
    blank.save(stream, "PNG")
    zeros = [stream.getvalue()] * _MAX_MASKS

    def ours(masks: Sequence[bytes]) -> Callable[[], None]:
        def work() -> None:
            measurer = Measurer(TileOptions())
            for data in masks:
                measurer.mask(data)

        return work

    def histogram(masks: Sequence[bytes], *, known: bool) -> Callable[[], None]:
        def work() -> None:
            seen: dict[bytes, object] = {}
            for data in masks:
                if data not in seen or not known:
                    seen[data] = Image.open(io.BytesIO(data)).histogram()

        return work

    rows = []
    for name, baseline, masks, known, gate, stretch in (
        ("labelled mask", "Pillow's histogram", labelled, False, 1.5, 1.2),
        ("zero masks of equal bytes", "the same, each distinct file once", zeros, True, 10.0, 5.0),
    ):
        slow, fast = histogram(masks, known=known), ours(masks)
        slow(), fast()
        ratios, own = [], []
        for _ in range(rounds):
            own.append(cpu_seconds(fast))
            ratios.append(own[-1] / cpu_seconds(slow))
        each = 1e6 * statistics.median(own) / len(masks)
        rows.append(
            limit(
                f"{name}, {tile_px} px: full measurement, {each:,.0f} us (CPU)",
                baseline,
                ratios,
                "x",
                gate=gate,
                stretch=stretch,
            )
        )
    return rows


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of a command: to start, and for a tile."""

    start_s: float
    tile_s: float


class _Sets:
    """A corpus of labelled pairs and, beside it, the same images with 63 % zero masks; of each, a
    small part in a folder of its own.
    """

    def __init__(self, corpus: Path, scratch: Path, tile_px: int) -> None:
        images = sorted(corpus.glob("*.jpg"))
        self.sizes = (round(len(images) * _SMALL), len(images))
        self._scratch = scratch
        zero = png_bytes_of_zero(tile_px)
        for name, share in (("labelled", 0.0), ("zero", ZERO_SHARE)):
            for size in self.sizes:
                folder = self.folder(name, size)
                folder.mkdir(parents=True)
                for number, image in enumerate(images[:size]):
                    os.link(image, folder / image.name)
                    is_zero = int((number + 1) * share) > int(number * share)
                    if is_zero:
                        (folder / mask_of(image).name).write_bytes(zero)
                    else:
                        os.link(mask_of(image), folder / mask_of(image).name)

    def folder(self, name: str, size: int) -> Path:
        return self._scratch / f"{name}-{size}"

    def cost(self, name: str, command: Callable[[Path], Sequence[str]]) -> Cost:
        """Return what a command costs, once on each size."""
        small, large = self.sizes
        seconds = []
        for size in self.sizes:
            folder = self.folder(name, size)
            shutil.rmtree(f"{folder}.histoprep", ignore_errors=True)
            seconds.append(run(command(folder)).cpu_s)
        tile = (seconds[1] - seconds[0]) / (large - small)
        return Cost(seconds[0] - small * tile, tile)


def png_bytes_of_zero(tile_px: int) -> bytes:
    """Return a mask of label 0 as Pillow writes it."""
    import numpy as np

    return png_bytes(np.zeros((tile_px, tile_px), np.uint8))


def _audit(*options: str) -> Callable[[Path], Sequence[str]]:
    return lambda folder: (*_HISTOPREP, "audit", str(folder), "--workers", "2", *options)


def _baseline(name: str) -> Callable[[Path], Sequence[str]]:
    return lambda folder: (sys.executable, "-m", "benchmarks.baselines", name, str(folder))


_COMMANDS = {
    "audit": _audit(),
    "bare": _audit("--no-neighbours"),
    "competent": _baseline("competent"),
    "floor": _baseline("floor"),
    "naive": _baseline("naive"),
}


def audit_rows(corpus: Path, tile_px: int, rounds: int = ROUNDS) -> list[Row]:
    """Return the rows of the command on labelled pairs and on pairs of which 63 % are zero."""
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=corpus.parent))
    rows = []
    try:
        sets = _Sets(corpus, scratch, tile_px)
        for name, words in (("labelled", "all masks labelled"), ("zero", "63 % zero masks")):
            found: dict[str, list[Cost]] = {command: [] for command in _COMMANDS}
            for line in _COMMANDS.values():
                # Modules are compiled then.
                sets.cost(name, line)
            for _ in range(rounds):
                for command, line in _COMMANDS.items():
                    found[command].append(sets.cost(name, line))
            what = f"{tile_px} px, {words}"
            rows += _rows_of(what, found)
    finally:
        shutil.rmtree(scratch)
    return rows


def _rows_of(what: str, found: dict[str, list[Cost]]) -> list[Row]:
    def ratio(slow: str, fast: str) -> list[float]:
        pairs = zip(found[slow], found[fast], strict=True)
        return [above.tile_s / below.tile_s for above, below in pairs]

    each = {
        name: 1e3 * statistics.median(cost.tile_s for cost in costs)
        for name, costs in found.items()
    }
    named = f"audit, {what}: {each['audit']:.2f} ms a tile"
    competent = f"simplejpeg + OpenCV + bincount ({each['competent']:.2f} ms)"
    rows = [
        _faster(named, competent, ratio("competent", "audit"), 0.8, 1.1),
        _faster(named, f"naive loop ({each['naive']:.2f} ms)", ratio("naive", "audit"), 5, 7),
        limit(
            named, f"floor: read, 1/8 JPEG, inflate ({each['floor']:.2f} ms)",
            ratio("audit", "floor"), "x", gate=1.8, stretch=1.5
        ),
        _faster(
            f"audit --no-neighbours, {what}: {each['bare']:.2f} ms a tile",
            competent, ratio("competent", "bare"), 0.8, 1.1
        ),
        limit(
            f"neighbours, {what}", "audit --no-neighbours",
            [100 * (value - 1) for value in ratio("audit", "bare")], "% more", gate=5, stretch=3
        ),
        limit(
            f"start-up of the audit, {what} (CPU)", "absolute",
            [cost.start_s for cost in found["audit"]], "s", gate=0.8, stretch=0.6
        ),
    ]  # fmt: skip
    return rows


def _faster(name: str, baseline: str, ratios: list[float], gate: float, stretch: float) -> Row:
    median = statistics.median(ratios)
    return Row(name, baseline, median, min(ratios), max(ratios), "x", gate, stretch)


def few_rows(corpus: Path, rounds: int = ROUNDS) -> list[Row]:
    """Return the rows of an audit of ten tiles: the whole command, from nothing to the end."""
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=corpus.parent))
    first: list[Usage] = []
    second: list[Usage] = []
    sizes: list[Usage] = []
    try:
        folder = scratch / "few"
        folder.mkdir()
        for image in sorted(corpus.glob("*.jpg"))[:_FEW]:
            os.link(image, folder / image.name)
            os.link(mask_of(image), folder / mask_of(image).name)
        line = (*_HISTOPREP, "audit", str(folder))
        run(line)
        for _ in range(rounds):
            for with_memory in (True, False):
                shutil.rmtree(f"{folder}.histoprep", ignore_errors=True)
                (sizes if with_memory else first).append(run(line, with_memory=with_memory))
            second.append(run(line))
    finally:
        shutil.rmtree(scratch)
    shares = [before.cpu_s / after.cpu_s for before, after in zip(first, second, strict=True)]
    name = f"audit of {_FEW} tiles"
    processes = [usage.num_processes for usage in sizes]
    memory = [usage.memory_mb for usage in sizes]
    return [
        limit(f"{name} (CPU)", "absolute", [u.cpu_s for u in first], "s", gate=1, stretch=0.8),
        limit(f"{name} (CPU)", "a second run", shares, "x", gate=1.5, stretch=1.3),
        limit(f"{name}, processes", "absolute", processes, "", gate=1, stretch=1),
        limit(
            f"{name}, memory of all processes (PSS)", "absolute", memory, "MB",
            gate=250, stretch=150
        ),
    ]  # fmt: skip


def main() -> int:
    """Print the table and return 1 when a gate is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the corpora are or will be made; kept")
    parser.add_argument("--pairs", type=int, default=360)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        steps: dict[str, Callable[[Path, int], list[Row]]] = {
            "masks": lambda corpus, px: mask_rows(corpus, px, options.rounds),
            "audit": lambda corpus, px: audit_rows(corpus, px, options.rounds),
            "few": lambda corpus, px: few_rows(corpus, options.rounds) if px == 512 else [],
        }
        for name, step in steps.items():
            for tile_px in _SIZES_PX:
                if options.only and name not in options.only:
                    continue
                corpus = folder / f"labelled{tile_px}"
                make_corpus(
                    corpus, options.pairs, tile_px=tile_px, zero_share=0, pool=options.pairs
                )
                rows += step(corpus, tile_px)
                text = f"{machine()}; {options.pairs:,} pairs, variants in turn, medians of"
                text += f" {options.rounds} rounds\n\n{markdown(rows)}\n"
                if options.write:
                    options.write.write_text(text)
    print(text)
    return int(any(row.verdict == "MISSED" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
