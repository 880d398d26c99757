"""How long it takes to understand a folder of many files, beside listing and pairing them:
`python -m benchmarks.detection [--files N] [--only TEXT] [--write FILE]`.

Files are hard links to one image and one mask, since names and a few files count. Times are CPU
seconds, the best of three and of two.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import machine
from histoprep.scanning import ScanOptions, scan, understand

NUM_FILES = 493_600
NUM_SLIDES = 400
# Below the number of links that file systems allow.
_LINKS = 30_000

LAYOUTS: dict[str, Callable[[int, int], tuple[str, str]]] = {
    "`images/`, `masks/`": lambda at, s: (f"images/{s}_{at}.png", f"masks/{s}_{at}.png"),
    "`HE/`, `truth/`": lambda at, s: (f"HE/{s}_{at}.png", f"truth/{s}_{at}.png"),
    "`S/0.png`, `S/0_truth.png`": lambda at, s: (f"s{s}/{at}.png", f"s{s}/{at}_truth.png"),
    "`S/HE/`, `S/truth/`": lambda at, s: (f"s{s}/HE/{at}.png", f"s{s}/truth/{at}.png"),
    "`S/0.png`, `truth/S_0.png`": lambda at, s: (f"s{s}/{at}.png", f"truth/s{s}_{at}.png"),
    "a folder a sample": lambda at, s: (f"c{s}_{at}/photo.png", f"c{s}_{at}/outline.png"),
}


def main() -> int:
    """Measure the layouts and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--files", type=int, default=NUM_FILES)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", type=Path, help="write the table to this file")
    chosen = parser.parse_args()
    lines = [
        f"{machine()}; {chosen.files:,} files of {NUM_SLIDES} slides",
        "",
        "| layout | understood in | listed and paired in | share | pairs |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, paths in LAYOUTS.items():
        if chosen.only in name:
            with tempfile.TemporaryDirectory() as scratch:
                lines.append(f"| {name} | {_measure(Path(scratch), paths, chosen.files // 2)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join(lines) + "\n"
    if chosen.write:
        chosen.write.write_text(text, "utf-8")
    print(text)
    return 0


def _measure(scratch: Path, paths: Callable[[int, int], tuple[str, str]], number: int) -> str:
    root = scratch / "set"
    _make(scratch, (paths(at, at * NUM_SLIDES // number) for at in range(number)))
    understood = min(_seconds(lambda: understand(root, ScanOptions())) for _ in range(3))
    options = understand(root, ScanOptions()).options
    pairs = 0

    def list_all() -> None:
        nonlocal pairs
        pairs = sum(tile.mask_path is not None for tile in scan(root, options, lambda _: None))

    listed = min(_seconds(list_all) for _ in range(2))
    shutil.rmtree(root)
    share = f"{100 * understood / listed:.1f} %"
    return f"{understood:.3f} s | {listed:.2f} s | {share} | {pairs:,}"


def _make(scratch: Path, pairs: Iterable[tuple[str, str]]) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 1
    contents = {"image": rng.integers(60, 220, (32, 32, 3), dtype=np.uint8), "mask": mask}
    made: set[str] = set()
    for number, pair in enumerate(pairs):
        for path, (kind, pixels) in zip(pair, contents.items(), strict=True):
            origin = scratch / f"{kind}{number // _LINKS}.png"
            if number % _LINKS == 0:
                Image.fromarray(pixels).save(origin)
            folder = f"{scratch}/set/{path.rpartition('/')[0]}"
            if folder not in made:
                os.makedirs(folder, exist_ok=True)
                made.add(folder)
            os.link(origin, f"{scratch}/set/{path}")


def _seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    sys.exit(main())
