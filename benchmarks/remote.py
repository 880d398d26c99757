"""Reading masks from an object store that takes 20 ms an answer, against a serial loop: a real S3
server on this machine behind a slow door. Prints a table.

    python benchmarks/remote.py [--masks 256] [--delay-ms 20] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from s3_server import credentials, door_before, make_bucket, s3_server, upload

from benchmarks.measuring import machine
from benchmarks.toolkit import checked_masks
from histoprep import imageio
from histoprep.remote import file_bytes, mirror
from histoprep.tiles import TileOptions
from histoprep.tiles.measurer import Measurer

GATE = 8


def main() -> int:
    """Measure and return 1 when the gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, default=256)
    parser.add_argument("--delay-ms", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_server(Path(folder, "log")) as server,
        door_before(server) as (door, address),
    ):
        os.environ.update(credentials(address))
        make_bucket(server, "tiles")
        local = Path(folder, "masks")
        local.mkdir()
        draw = np.random.default_rng(0)
        for number in range(chosen.masks):
            labels = np.repeat(draw.integers(0, 9, (64, 1), np.uint8), 64, axis=1)
            (local / f"{number:05}.png").write_bytes(imageio.encode_mask_png(labels))
        upload(local, "s3://tiles/masks")
        root = mirror("s3://tiles/masks", Path(folder, "workspace"))
        paths = [str(root / path.name) for path in sorted(local.iterdir())]
        door.answers = {}
        checked_masks(paths)
        door.delay_s = chosen.delay_ms / 1000
        works = (_serial, checked_masks)
        rounds = [[_seconds(work, paths) for work in works] for _ in range(chosen.rounds)]
    serial, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        machine(), f"\n\n| {chosen.masks} masks, {chosen.delay_ms:g} ms a GET | seconds | ratio |"
    )
    print("|---|---|---|")
    for name, seconds in (("serial loop", serial), ("read ahead", ours)):
        print(f"| {name} | {seconds:.2f} | {serial / seconds:.1f} |")
    return int(serial / ours < GATE)


def _seconds(work, paths: list[str]) -> float:
    started = time.perf_counter()
    work(paths)
    return time.perf_counter() - started


def _serial(paths: list[str]) -> None:
    measurer = Measurer(TileOptions())
    for path in paths:
        measurer.mask(file_bytes(path))


if __name__ == "__main__":
    sys.exit(main())
