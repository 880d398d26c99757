"""The gates of shards and streams: random access by index, writing, memory, and a million
positions.

    python -m benchmarks.shards CORPUS [--samples 2000]

Reading is against the formats of others, without decoding. Writing is the whole of `histoprep
shard` and of a latent set's array: files are read and checked against the manifest's digests, masks
decoded, remapped and encoded anew, all is synced, and there is an index. The others are handed the
finished bytes in memory, and sync them.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.corpus import make_corpus
from benchmarks.measuring import ROUNDS, Row, cpu_seconds, limit, machine, markdown, wall_seconds
from benchmarks.shard_formats import Formats, Sample
from histoprep.execution import Engine
from histoprep.streams import Stream, Streams

# So small that two workers have the same to do.
_SMALL_SHARD_BYTES = 8 * 10**6
_MEMORY_SCRIPT = """
import resource, sys
from histoprep.shards import open_tiles
source = open_tiles(sys.argv[1])
for _ in range(3):
    for row in range(len(source)):
        source.read_bytes(row)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
_DATASETS, _WEBDATASET = "datasets", "webdataset"


def rows(corpus: Path, num_samples: int) -> list[Row]:
    """Return the rows of shards; the formats are read in turn, by CPU time of this process."""
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=corpus.parent))
    try:
        bench = Formats(corpus, num_samples, scratch)
        return [
            *_reading(bench),
            _writing(bench),
            *_writing_cpu(bench),
            _memory(bench),
            placing_row(),
        ]
    finally:
        shutil.rmtree(scratch)


def _installed(*names: str) -> list[str]:
    for name in names:
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: left out", file=sys.stderr)
    return [name for name in names if importlib.util.find_spec(name) is not None]


def _in_turn(
    ways: Mapping[str, Callable[[], float]], clean_up: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Return the seconds of each way, measured in turn, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for warm in (True, *[False] * ROUNDS):
        for name, measure in ways.items():
            found = measure()
            clean_up()
            if not warm:
                seconds[name].append(found)
    return seconds


def _reading(bench: Formats) -> list[Row]:
    makers: dict[str, Callable[[], Callable[[], None]]] = {
        _DATASETS: bench.read_datasets,
        _WEBDATASET: bench.read_webdataset,
    }
    reads = {
        "ours": bench.read_ours,
        "plain files": bench.read_files(),
        **{name: makers[name]() for name in _installed(*makers)},
    }
    seconds = _in_turn({name: partial(cpu_seconds, read) for name, read in reads.items()})
    rates = {name: [bench.size / item for item in found] for name, found in seconds.items()}
    for name, found in rates.items():
        print(
            f"  {name}{' (in order)' * (name == _WEBDATASET)}:"
            f" {statistics.median(found):,.0f} samples/s",
            file=sys.stderr,
        )
    what = "samples by index from shards and latents (CPU)"
    return [
        _absolute(what, rates["ours"], "1/s", 20_000, 40_000),
        _against_best(what, seconds, 1.5, 2.0),
    ]


def _writing(bench: Formats) -> Row:
    """Return the row of writing with two workers.

    Starting them is not counted: what a handful of tiles takes is subtracted from the time, and
    their bytes from the size.
    """
    few_mb = _megabytes(bench.write(manifest=bench.few))
    whole_mb = _megabytes(bench.shards) + bench.latents.nbytes / 1e6
    ways = {
        "few": lambda: wall_seconds(lambda: bench.write(engine=Engine(2), manifest=bench.few)),
        "shards": lambda: wall_seconds(lambda: bench.write(_SMALL_SHARD_BYTES, Engine(2))),
        "latents": lambda: wall_seconds(bench.write_latents),
    }
    seconds = _in_turn(ways, bench.forget)
    for name, found in seconds.items():
        print(f"  write {name}, 2 workers: {statistics.median(found):.3f} s", file=sys.stderr)
    start = statistics.median(seconds["few"])
    rates = [
        (whole_mb - few_mb) / (max(shards - start, 0.1 * shards) + latents)
        for shards, latents in zip(seconds["shards"], seconds["latents"], strict=True)
    ]
    name = (
        "write shards (masks decoded, remapped and encoded, all checked and synced, 2 workers,"
        " wall) and latents"
    )
    return _absolute(name, rates, "MB/s", 400, 650)


def _writing_cpu(bench: Formats) -> list[Row]:
    """Return the rows of writing in one process, by CPU time: against others who are handed
    finished bytes, and where there are no masks.
    """

    def ours(manifest: Path) -> None:
        bench.write(_SMALL_SHARD_BYTES, manifest=manifest)
        bench.write_latents()

    samples = list(bench.samples())
    bare_mb = _megabytes(bench.write(manifest=bench.bare)) + bench.latents.nbytes / 1e6
    writers: dict[str, Callable[[Iterable[Sample]], object]] = {
        _DATASETS: bench.write_datasets,
        _WEBDATASET: bench.write_webdataset,
    }
    works: dict[str, Callable[[], object]] = {
        "ours": partial(ours, bench.manifest),
        "bare": partial(ours, bench.bare),
    }
    works |= {name: partial(writers[name], samples) for name in _installed(*writers)}
    seconds = _in_turn(
        {name: partial(cpu_seconds, work) for name, work in works.items()}, bench.forget
    )
    for name, found in seconds.items():
        print(
            f"  write {name}, 1 process: {statistics.median(found):.3f} s of CPU", file=sys.stderr
        )
    rates = [bare_mb / item for item in seconds.pop("bare")]
    what = (
        "write shards (masks decoded, remapped and encoded, all checked and synced) and latents, 1"
        " process (CPU)"
    )
    bare = _absolute(
        "write shards of images without masks, and latents, 1 process (CPU)",
        rates,
        "MB/s",
        400,
        650,
    )
    # As many times the 450 MB/s of webdataset in the study of formats as its gates of 400 and 650
    # are.
    return [_against_best(what, seconds, 0.9, 1.45, ", handed finished bytes"), bare]


def _against_best(
    name: str, seconds: dict[str, list[float]], gate: float, stretch: float, how: str = ""
) -> Row:
    """Return the row of how many times quicker "ours" is than the best of the others."""
    best = min(seconds.keys() - {"ours"}, key=lambda item: statistics.median(seconds[item]))
    ratios = [other / ours for ours, other in zip(seconds["ours"], seconds[best], strict=True)]
    return Row(name, f"{best}, the best other{how}", *_three(ratios), "x", gate, stretch)


def _megabytes(shards: Path) -> float:
    return sum(path.stat().st_size for path in shards.glob("*.tar")) / 1e6


def _memory(bench: Formats) -> Row:
    """Return how much more memory reading from many shards takes than reading the same tiles from
    few.
    """
    many = bench.write(10**6)
    peaks = []
    for _ in range(3):
        few_mb, many_mb = (
            float(
                subprocess.run(
                    [sys.executable, "-c", _MEMORY_SCRIPT, folder],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for folder in (bench.shards, many)
        )
        peaks.append(many_mb / few_mb)
    counts = [len(list(folder.glob("*.tar"))) for folder in (bench.shards, many)]
    return limit(
        f"peak memory of reading from {counts[1]} shards",
        f"the same from {counts[0]}",
        peaks,
        "x",
        gate=1.1,
        stretch=1.03,
    )


def placing_row() -> Row:
    """Return the row of placing a million training positions in five streams."""
    sizes = (140_422, 20_000, 30_000, 1_653, 30_000)
    starts = np.cumsum((0, *sizes))
    shares = (0.5, 0.125, 0.125, 0.125, 0.125)
    streams = Streams(
        tuple(
            Stream(f"s{index}", index, np.arange(starts[index], starts[index + 1]), share)
            for index, share in enumerate(shares)
        )
    )
    positions = np.arange(1_000_000)
    seconds = [cpu_seconds(lambda: streams.place(positions, 1)) for _ in range(ROUNDS)]
    return limit(
        "place a million positions in five streams (CPU)",
        "absolute",
        seconds,
        "s",
        gate=1.0,
        stretch=0.5,
    )


def _absolute(name: str, found: list[float], unit: str, gate: float, stretch: float) -> Row:
    return Row(name, "absolute", *_three(found), unit, gate, stretch)


def _three(found: list[float]) -> tuple[float, float, float]:
    return statistics.median(found), min(found), max(found)


def main() -> int:
    """Print the table and return 1 when a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--samples", type=int, default=2_000)
    chosen = parser.parse_args()
    if not chosen.corpus.is_dir():
        make_corpus(chosen.corpus, max(chosen.samples, 400))
    print(machine())
    table = rows(chosen.corpus, chosen.samples)
    print(markdown(table))
    return int(any(row.verdict == "MISSED" for row in table))


if __name__ == "__main__":
    sys.exit(main())
