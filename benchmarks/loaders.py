"""Loaders side by side: the same tiles from our shards and from the formats of others.

    python -m benchmarks.loaders --data DIR [--corpus DIR] [--write FILE]

Two sets: the 734 colon tiles of EBHI-Seg in `--data` (PNG, 224 px), and 600 made pairs (JPEG,
512 px), both with masks and without latents. Figures are samples a second of CPU time: every
loader lives in a process of its own, is asked in turn, and the median of five rounds counts.
`in order` and `by index` (a permutation) hand out bytes, nothing decoded; `batches` is a shuffled
epoch in batches of 32, float32 images and masks, put together in that process. Memory is the
proportional set size of a process and two workers in such an epoch, torch and files mapped into
memory included. To resume, an epoch with two workers ends after a third of its batches; a new
process goes on from the state with two workers, and another one with three, and the rest is held
against the uninterrupted epoch. The others decode with simplejpeg and OpenCV, the quickest that a
competent user has; ours checks CRC, structure and end of every file as well.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks import process_tree
from benchmarks.corpus import make_corpus
from benchmarks.loader_ways import BATCH, SHARD_BYTES, WAYS, Sample, Way
from benchmarks.measuring import ROUNDS, print_page
from benchmarks.remap import InProcess
from histoprep.labels import find_label_map, load_label_map
from histoprep.manifest.build import ManifestOptions, build_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.shards import open_tiles
from histoprep.shards.plan import ShardOptions
from histoprep.shards.write import write_shards
from histoprep.tiles.table import TileTable

_MADE_PAIRS = 600
_EBHI_CLASSES = ("normal", "polyp", "low grade", "high grade", "serrated adenoma", "adenocarcinoma")
_READINGS = ("in order", "by index", "batches")


# --- What a child does ---


def _serve(way: Way, size: int) -> None:
    """Do what the lines of standard input ask for, and answer on the file that was standard
    output; libraries print elsewhere.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    order = np.random.default_rng(1).permutation(size).tolist()
    for line in sys.stdin:
        started = time.process_time()
        match line.strip():
            case "in order":
                count = sum(1 for _ in way.ordered())
            case "by index":
                count = sum(1 for index in order if way.read(index))
            case _:
                count = sum(len(keys) for keys, *_ in way.epoch(0))
        answers.write(json.dumps({"count": count, "s": time.process_time() - started}) + "\n")


def _list_keys(way: Way, chosen: argparse.Namespace) -> None:
    """Write the keys of an epoch, or of part of it and then the state."""
    state = pickle.loads(chosen.resume.read_bytes()) if chosen.resume else None
    batches = way.epoch(chosen.workers, state)
    keys = [key for keys, *_ in itertools.islice(batches, chosen.stop) for key in keys]
    if chosen.stop:
        chosen.state.write_bytes(pickle.dumps(way.state(chosen.stop)))
    chosen.keys.write_text(json.dumps(keys))


def _be_child(chosen: argparse.Namespace) -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    way = WAYS[chosen.child](chosen.folder)
    if chosen.keys:
        _list_keys(way, chosen)
    else:
        _serve(way, chosen.size)


# --- What the parent does ---


class Bench:
    """A set of shards, in all formats under `folder`."""

    def __init__(self, shards: Path, folder: Path) -> None:
        self.tiles = open_tiles(shards)
        self.size = len(self.tiles)
        self.folders: dict[str, Path] = {}
        for name, way in WAYS.items():
            if importlib.util.find_spec(way.module) is None:
                print(f"{way.module} is not installed: left out", file=sys.stderr)
                continue
            self.folders[name] = shards if name == "ours" else folder / way.module
            if name != "ours":
                self.folders[name].mkdir()
                way(self.folders[name]).write(self._samples())

    def _samples(self) -> Iterator[Sample]:
        for row in range(self.size):
            image, mask = self.tiles.read_bytes(row)
            assert mask is not None
            yield {"key": str(row), "image": image, "mask": mask}

    def _command(self, name: str, *more: object) -> list[str]:
        child = ("--child", name, "--folder", self.folders[name], "--size", self.size)
        return [sys.executable, "-m", "benchmarks.loaders", *map(str, (*child, *more))]

    def rates(self) -> dict[tuple[str, str], float]:
        """Return the samples a second of each loader and reading; NaN where it cannot."""
        seconds: dict[tuple[str, str], list[float]] = {}
        with contextlib.ExitStack() as stack:
            children = {
                name: stack.enter_context(
                    subprocess.Popen(
                        self._command(name),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        text=True,
                    )
                )
                for name in self.folders
            }
            for turn, reading, name in itertools.product(
                range(ROUNDS + 1), _READINGS, self.folders
            ):
                if reading == "by index" and not WAYS[name].by_index:
                    continue
                answer = _ask(children[name], reading)
                assert answer["count"] == self.size, (name, reading, answer)
                if turn:  # the first one warms up
                    seconds.setdefault((name, reading), []).append(answer["s"])
            for child in children.values():
                assert child.stdin is not None
                child.stdin.close()
        return {key: self.size / statistics.median(found) for key, found in seconds.items()}

    def epochs(self, name: str, scratch: Path) -> tuple[str, str, str]:
        """Return the memory of a process and two workers in an epoch, and how the rest of it
        compares when it is resumed, with as many workers and with another number.
        """
        stop = self.size // BATCH // 3
        state, out = scratch / "state", scratch / "keys.json"

        def keys(*more: object, with_memory: bool = False) -> tuple[list[str], str]:
            command = self._command(name, "--keys", out, *more)
            used = process_tree.run(command, with_memory=with_memory)
            return list(json.loads(out.read_text())), f"{used.memory_mb:,.0f} MB"

        whole, memory = keys("--workers", 2, with_memory=True)
        assert sorted(whole, key=int) == list(map(str, range(self.size))), name
        begun, _ = keys("--workers", 2, "--stop", stop, "--state", state)
        if begun != whole[: len(begun)]:
            return memory, "another epoch", "another epoch"
        if pickle.loads(state.read_bytes()) is None:
            return memory, "no state", "no state"
        rest = whole[len(begun) :]
        same, other = (
            _compare(rest, keys("--workers", workers, "--resume", state)[0]) for workers in (2, 3)
        )
        return memory, same, other


def _ask(child: subprocess.Popen[str], what: str) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(what + "\n")
    child.stdin.flush()
    return dict(json.loads(child.stdout.readline()))


def _compare(expected: list[str], found: list[str]) -> str:
    if found == expected:
        return "the same tiles in the same order"
    if sorted(found) == sorted(expected):
        return "the same tiles in another order"
    lost, again = len(set(expected) - set(found)), len(found) - len(set(found) & set(expected))
    return f"{lost} of {len(expected)} tiles lost, {again} repeated"


def _prepare(root: Path, label_map: str, out: Path) -> None:
    workspace = Workspace.of(root)
    TileTable(workspace).build(InProcess(1))
    labels = load_label_map(find_label_map(label_map))
    build_manifest(workspace.tiles, labels, ManifestOptions(), workspace.manifest)
    write_shards(workspace.manifest, out, ShardOptions(SHARD_BYTES), InProcess(1))


def _shards(root: Path, label_map: Path | str, out: Path) -> Path:
    """Return the shards of a data set; made by a process of their own, since `process_tree` waits
    for whatever this one has started.
    """
    given = ("--prepare", root, "--label-map", label_map, "--folder", out)
    command = [sys.executable, "-m", "benchmarks.loaders", *map(str, given)]
    subprocess.run(command, check=True)
    return out


def _ebhi(data: Path, folder: Path) -> Path:
    root = folder / "tiles"
    root.mkdir(parents=True)
    for image in sorted((data / "ebhi_seg/images").glob("*/*.png")):
        mask = data / "ebhi_seg/labels" / image.parent.name / image.name
        name = f"{image.parent.name}-{image.stem}"
        shutil.copyfile(image, root / f"{name}.png")
        shutil.copyfile(mask, root / f"{name}_mask.png")
    names = list(enumerate(("background", *_EBHI_CLASSES)))
    listed = "".join(f"  {number}: {name}\n" for number, name in names)
    same = "".join(f"  {number}: {number}\n" for number, _ in names)
    label_map = folder / "label_map.yml"
    label_map.write_text(f"sources:\n{listed}classes:\n{listed}map:\n{same}")
    return _shards(root, label_map, folder / "shards")


def _made(corpus: Path, folder: Path) -> Path:
    root = folder / "tiles"
    root.mkdir(parents=True)
    names = sorted(path.name for path in corpus.glob("*_mask.png"))[:_MADE_PAIRS]
    for name in [*names, *(name.replace("_mask.png", ".jpg") for name in names)]:
        shutil.copyfile(corpus / name, root / name)
    return _shards(root, "label_map_5", folder / "shards")


def _table(title: str, bench: Bench, scratch: Path) -> list[str]:
    rates = bench.rates()
    lines = [
        f"## {title}: {bench.size:,} tiles",
        "",
        "| loader | in order | by index | batches | memory, 2 workers"
        " | resumed, 2 workers | resumed, 3 workers |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in bench.folders:
        shown = [
            f"{rates[name, reading]:,.0f}" if (name, reading) in rates else "-"
            for reading in _READINGS
        ]
        cells = (name, *shown, *bench.epochs(name, scratch))
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> int:
    """Measure both sets and print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("HISTOPREP_DATA"))
    parser.add_argument("--corpus", type=Path, help="made pairs; made here if there are none")
    parser.add_argument("--write", type=Path)
    for hidden in ("folder", "keys", "state", "resume", "prepare"):
        parser.add_argument(f"--{hidden}", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--label-map", help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    for hidden in ("size", "workers", "stop"):
        parser.add_argument(f"--{hidden}", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        _be_child(chosen)
        return 0
    if chosen.prepare:
        _prepare(chosen.prepare, chosen.label_map, chosen.folder)
        return 0
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        corpus = chosen.corpus or scratch / "corpus"
        if not corpus.is_dir():
            make_corpus(corpus, _MADE_PAIRS)
        sets = {"Made tissue, JPEG, 512 px": _made(corpus.absolute(), scratch / "made")}
        if chosen.data:
            sets = {
                "EBHI-Seg, PNG, 224 px": _ebhi(Path(chosen.data).absolute(), scratch / "ebhi")
            } | sets
        lines = []
        for title, shards in sets.items():
            lines += [*_table(title, Bench(shards, shards.parent), scratch), ""]
    versions = ", ".join(
        f"{way.module} {_version(way.module)}" for way in WAYS.values() if way.module != "histoprep"
    )
    lines.append(f"Versions: {versions}.")
    command = "benchmarks.loaders --data DIR --write FILE"
    print_page("Loaders side by side", command, __doc__, lines, chosen.write)
    return 0


def _version(module: str) -> str:
    from importlib.metadata import PackageNotFoundError, packages_distributions, version

    try:
        return version(packages_distributions()[module][0])
    except (KeyError, PackageNotFoundError):
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
