"""The gates of shards and streams: random access by index, writing, memory, and a million positions.

    python -m benchmarks.shards CORPUS [--samples 2000]

A sample is an image, its mask and latents of 64 KiB (mean and deviation of 4 x 64 x 64 in half precision), 124 KB in all. Ours come from shards
and a memory-mapped array, the others have all three in their own format: Arrow files of `datasets`, tar files of `webdataset`, which
has no access by index and is read from beginning to end, and three plain files a sample. Nobody decodes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.corpus import make_corpus
from benchmarks.measuring import ROUNDS, Row, cpu_seconds, limit, machine, markdown, wall_seconds
from benchmarks.remap import InProcess
from histoprep.execution import Engine
from histoprep.labels import find_label_map, load_label_map
from histoprep.manifest.build import ManifestOptions, build_manifest
from histoprep.shards import ShardOptions, open_tiles, write_shards
from histoprep.streams import Stream, Streams
from histoprep.tiles.table import TileTable
from histoprep.workspace import Workspace

LATENT_SHAPE = (8, 64, 64)
_SHARD_BYTES = 64 * 10**6
_FEW_TILES = 32
_MEMORY_SCRIPT = """
import resource, sys
from histoprep.shards import open_tiles
source = open_tiles(sys.argv[1])
for _ in range(3):
    for row in range(len(source)):
        source.read_bytes(row)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


class _Bench:
    """Some pairs of a corpus, linked into a data set of their own, and the same samples in every format."""

    def __init__(self, corpus: Path, num_samples: int, scratch: Path) -> None:
        self.scratch, self.size = scratch, num_samples
        names = sorted(one.name for one in corpus.glob("*_mask.png"))[:num_samples]
        self.manifest = self._manifest(corpus, names, scratch / "tiles")
        self.few = self._manifest(corpus, names[:_FEW_TILES], scratch / "few")
        self._new = (scratch / f"shards-{number}" for number in itertools.count())
        self.shards = self.write()
        self.tiles = open_tiles(self.shards)
        self.latents = np.lib.format.open_memmap(scratch / "latents.npy", "w+", np.float16, (num_samples, *LATENT_SHAPE))
        self.latents[:] = np.random.default_rng(0).standard_normal(LATENT_SHAPE)
        self.latents.flush()
        self.order = np.random.default_rng(1).permutation(num_samples).tolist()

    @staticmethod
    def _manifest(corpus: Path, masks: list[str], root: Path) -> Path:
        root.mkdir()
        for mask in masks:
            for name in (mask, mask.replace("_mask.png", ".jpg")):
                os.link(corpus / name, root / name)
        workspace = Workspace.of(root)
        TileTable(workspace).build(InProcess(1))
        build_manifest(workspace.tiles, load_label_map(find_label_map("label_map_5")), ManifestOptions(), workspace.manifest)
        return workspace.manifest

    def samples(self) -> Iterator[tuple[str, bytes, bytes, bytes]]:
        """Yield key, image, mask and latents of every sample."""
        for row in range(self.size):
            image, mask = self.tiles.read_bytes(row)
            yield f"{row:06d}", image, mask or b"", self.latents[row].tobytes()

    def write(self, max_bytes: int = _SHARD_BYTES, engine: Engine | None = None, manifest: Path | None = None) -> Path:
        """Return a new folder of shards, written in this process unless another engine is given."""
        out = next(self._new)
        write_shards(manifest or self.manifest, out, ShardOptions(max_bytes), engine or InProcess(1))
        return out

    def write_latents(self) -> None:
        """Write the latents of all samples again, to the disk."""
        array = np.lib.format.open_memmap(self.scratch / "again.npy", "w+", np.float16, self.latents.shape)
        for start in range(0, self.size, 64):
            array[start : start + 64] = self.latents[start : start + 64]
        array.flush()

    def read_ours(self) -> None:
        """Read every sample by index."""
        tiles, latents = self.tiles, self.latents
        for row in self.order:
            tiles.read_bytes(row)
            np.array(latents[row])

    def read_files(self) -> Callable[[], None]:
        """Write three plain files a sample and return a reading of them."""
        folder = self.scratch / "files"
        folder.mkdir()
        for key, *parts in self.samples():
            for suffix, data in zip(("jpg", "png", "latents"), parts, strict=True):
                (folder / f"{key}.{suffix}").write_bytes(data)

        def read() -> None:
            for row in self.order:
                for suffix in ("jpg", "png", "latents"):
                    with open(f"{folder}/{row:06d}.{suffix}", "rb", buffering=0) as stream:  # noqa: PTH123 (the fastest way)
                        stream.read()

        return read

    def read_datasets(self) -> Callable[[], None]:
        """Write Arrow files of `datasets` and return a reading of them by index."""
        import datasets

        datasets.disable_progress_bars()
        fields = datasets.Features({name: datasets.Value("binary") for name in ("image", "mask", "latents")})
        columns = zip(*(parts for _, *parts in self.samples()), strict=True)
        made = datasets.Dataset.from_dict(dict(zip(fields, map(list, columns), strict=True)), features=fields)
        made.save_to_disk(str(self.scratch / "arrow"))
        loaded = datasets.load_from_disk(str(self.scratch / "arrow"))

        def read() -> None:
            for row in self.order:
                loaded[row]

        return read

    def read_webdataset(self) -> Callable[[], None]:
        """Write tar files of `webdataset` and return a reading of them, in order."""
        import webdataset

        with webdataset.ShardWriter(f"{self.scratch}/web-%06d.tar", maxsize=_SHARD_BYTES, verbose=0) as sink:
            for key, image, mask, latents in self.samples():
                sink.write({"__key__": key, "jpg": image, "mask.png": mask, "latents": latents})
        urls = [str(one) for one in sorted(self.scratch.glob("web-*.tar"))]

        def read() -> None:
            assert sum(1 for _ in webdataset.WebDataset(urls, shardshuffle=False)) == self.size

        return read


def rows(corpus: Path, num_samples: int) -> list[Row]:
    """Return the rows of shards; the formats are read in turn, by CPU time of this process."""
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=corpus.parent))
    try:
        bench = _Bench(corpus, num_samples, scratch)
        return [*_reading(bench), _writing(bench), _memory(bench), placing_row()]
    finally:
        shutil.rmtree(scratch)


def _reading(bench: _Bench) -> list[Row]:
    others: dict[str, Callable[[], None]] = {"plain files": bench.read_files()}
    for name, make in (("datasets", bench.read_datasets), ("webdataset (in order)", bench.read_webdataset)):
        try:
            others[name] = make()
        except ImportError:
            print(f"{name} is not installed: left out", file=sys.stderr)
    rates: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
    for warm in (True, *[False] * ROUNDS):
        for name, read in {"ours": bench.read_ours, **others}.items():
            rate = bench.size / cpu_seconds(read)
            if not warm:
                rates[name].append(rate)
    for name, found in rates.items():
        print(f"  {name}: {statistics.median(found):,.0f} samples/s", file=sys.stderr)
    best = max(others, key=lambda name: statistics.median(rates[name]))
    ratios = [ours / other for ours, other in zip(rates["ours"], rates[best], strict=True)]
    return [
        _absolute("samples by index from shards and latents (CPU)", rates["ours"], "1/s", 20_000, 40_000),
        Row("samples by index from shards and latents (CPU)", f"{best}, the best other", *_three(ratios), "x", 1.5, 2.0),
    ]


def _writing(bench: _Bench) -> Row:
    """Return the row of writing with two workers; what starting them takes, measured on a handful of tiles, is subtracted."""
    size = sum(one.stat().st_size for one in bench.shards.glob("*.tar")) / 1e6
    starts, shards, latents, alone = [], [], [], []
    for _ in range(ROUNDS):
        starts.append(wall_seconds(lambda: bench.write(engine=Engine(2), manifest=bench.few)))
        shards.append(wall_seconds(lambda: bench.write(8 * 10**6, Engine(2))))
        latents.append(wall_seconds(bench.write_latents))
        alone.append(size / cpu_seconds(lambda: bench.write(8 * 10**6)))
        for folder in bench.scratch.glob("shards-*"):
            if folder != bench.shards:
                shutil.rmtree(folder)
    print(f"  write shards in one process: {statistics.median(alone):,.0f} MB a second of CPU", file=sys.stderr)
    start = statistics.median(starts)
    rates = [(size + bench.latents.nbytes / 1e6) / (max(one - start, 0.1 * one) + other) for one, other in zip(shards, latents, strict=True)]
    return _absolute("write shards (masks remapped, all checked and synced, 2 workers, wall) and latents", rates, "MB/s", 400, 650)


def _memory(bench: _Bench) -> Row:
    """Return how much more memory reading from many shards takes than reading the same tiles from few."""
    many = bench.write(10**6)
    peaks = []
    for _ in range(3):
        few_mb, many_mb = (
            float(subprocess.run([sys.executable, "-c", _MEMORY_SCRIPT, folder], check=True, capture_output=True, text=True).stdout)
            for folder in (bench.shards, many)
        )
        peaks.append(many_mb / few_mb)
    counts = [len(list(folder.glob("*.tar"))) for folder in (bench.shards, many)]
    return limit(f"peak memory of reading from {counts[1]} shards", f"the same from {counts[0]}", peaks, "x", gate=1.1, stretch=1.03)


def placing_row() -> Row:
    """Return the row of placing a million training positions in five streams."""
    sizes = (140_422, 20_000, 30_000, 1_653, 30_000)
    starts = np.cumsum((0, *sizes))
    shares = (0.5, 0.125, 0.125, 0.125, 0.125)
    streams = Streams(tuple(Stream(f"s{index}", index, np.arange(starts[index], starts[index + 1]), share) for index, share in enumerate(shares)))
    positions = np.arange(1_000_000)
    seconds = [cpu_seconds(lambda: streams.place(positions, 1)) for _ in range(ROUNDS)]
    return limit("place a million positions in five streams (CPU)", "absolute", seconds, "s", gate=1.0, stretch=0.5)


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
