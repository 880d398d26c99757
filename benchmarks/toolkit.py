"""Gates of the toolkit: masks, images, whole audit, latency, listing, memory, growth."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg

from benchmarks.measuring import Row, cpu_seconds, limit, speed_up, wall_seconds
from benchmarks.process_tree import run
from histoprep import imageio, read_ahead
from histoprep.execution import Engine
from histoprep.scanning import Pair, ScanOptions, scan
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions
from histoprep.tiles.measurer import Measurer
from histoprep.tiles.options import TableOptions
from histoprep.tiles.table import TileTable

# Too few for their own time to count.
_FEW_TILES = 8


def _paths(corpus: Path, num_pairs: int) -> tuple[list[str], list[str]]:
    pairs = []
    for pair in scan(corpus, ScanOptions(), lambda issue: None):
        pairs.append((f"{corpus}/{pair.image_path}", f"{corpus}/{pair.mask_path}"))
        if len(pairs) == num_pairs:
            break
    return [image for image, _ in pairs], [mask for _, mask in pairs]


def checked_masks(paths: list[str]) -> None:
    """Read, check to the last byte, decode and measure every mask, as an audit does."""
    measurer = Measurer(TileOptions())
    for data in read_ahead.read_ahead(_requests(paths), 1 << 30):
        measurer.mask(data)


def _requests(paths: list[str]) -> list[read_ahead.Request]:
    return [
        read_ahead.Request(path, seen) for path in paths if (seen := read_ahead.stat_file(path))
    ]


def image_rows(corpus: Path, num_images: int) -> list[Row]:
    """Return the rows of checking images, against reading and decoding luminance at 1/8 alone."""
    images, _ = _paths(corpus, num_images)

    def floor() -> None:
        for path in images:
            simplejpeg.decode_jpeg(
                Path(path).read_bytes(), colorspace="GRAY", min_height=64, min_width=64, strict=True
            )

    def ours(options: TileOptions) -> Callable[[], None]:
        def work() -> None:
            measurer = Measurer(options)
            for data in read_ahead.read_ahead(_requests(images), 1 << 30):
                measurer.image(data)

        return work

    rows = [
        speed_up(
            name, "read + simplejpeg at 1/8, strict", floor, ours(TileOptions(neighbours=wanted)),
            gate=80, stretch=90, scale=100,
        )
        for name, wanted in (
            ("image check, 1 process (CPU)", False),
            ("image check and what neighbours are found by, 1 process (CPU)", True),
        )
    ]  # fmt: skip
    return [replace(row, unit="%") for row in rows]


def latency_row(corpus: Path, num_masks: int = 512, delay_s: float = 0.004) -> Row:
    """Return the row of reading masks from storage that takes 4 ms a read."""
    _, masks = _paths(corpus, num_masks)
    original = read_ahead.read_file

    def slow_read(request: read_ahead.Request, max_bytes: int) -> object:
        time.sleep(delay_s)
        return original(request, max_bytes)

    def serial() -> None:
        for path in masks:
            time.sleep(delay_s)
            imageio.decode_mask(data := Path(path).read_bytes(), imageio.read_header(data))

    read_ahead.read_file = slow_read  # type: ignore[assignment]
    try:
        return speed_up(
            f"masks at {delay_s * 1000:.0f} ms a read, 1 process (wall)", "serial loop", serial,
            lambda: checked_masks(masks),
            gate=8, stretch=10, clock=wall_seconds,
        )  # fmt: skip
    finally:
        read_ahead.read_file = original


def listing_row(num_images: int = 246_750, num_orphans: int = 5) -> Row:
    """Return the row of listing and pairing the files of the published data set in one folder,
    orphan masks among them.
    """
    with tempfile.TemporaryDirectory() as folder:
        for index in range(num_images + num_orphans):
            for suffix in (".jpg", "_mask.png")[index >= num_images :]:
                os.close(
                    os.open(
                        f"{folder}/slide{index // 1000:03d}_{index:06d}{suffix}",
                        os.O_CREAT | os.O_WRONLY,
                    )
                )

        def walk() -> None:
            pairs = list(scan(Path(folder), ScanOptions(), lambda issue: None))
            # Every field of every row is there, also beyond the first block of names.
            assert all(len(pair) == len(Pair._fields) for pair in pairs)
            assert (len(pairs), sum(pair.image_path is None for pair in pairs)) == (
                num_images + num_orphans,
                num_orphans,
            )

        walk()
        seconds = [cpu_seconds(walk) for _ in range(5)]
    return limit(
        f"list and pair {2 * num_images + num_orphans:,} files (CPU)",
        "absolute",
        seconds,
        "s",
        gate=1.5,
        stretch=0.9,
    )


def command_rows(corpus: Path) -> list[Row]:
    """Return the rows of the command: peak memory of all its processes, and the share of a second
    run with nothing changed.
    """
    command = [
        sys.executable,
        "-c",
        "from histoprep.cli import main; main()",
        "audit",
        str(corpus),
        "--workers",
        "2",
    ]
    peaks, shares = [], []
    for _ in range(3):
        results = corpus.with_name(corpus.name + ".histoprep")
        shutil.rmtree(results, ignore_errors=True)
        first = run(command, with_memory=True)
        second = run(command, with_memory=True)
        peaks.append(first.memory_mb)
        shares.append(100 * second.wall_s / first.wall_s)
        shutil.rmtree(results)
    return [
        limit(
            "peak memory of all processes of histoprep audit (PSS)",
            "absolute",
            peaks,
            "MB",
            gate=500,
            stretch=350,
        ),
        limit("second audit, nothing changed (wall)", "the first", shares, "%", gate=10, stretch=5),
    ]


def growth_row(make: Callable[[Path, int], object], sizes: tuple[int, ...]) -> Row:
    """Return the row of how time grows with the number of tiles, with one worker: the slope of log
    time over log number.

    What starting takes, measured on a handful of tiles, is subtracted. With more workers a thousand
    tiles, which are one partition, would have one of them all the same.
    """
    times = []
    with tempfile.TemporaryDirectory() as parent:
        for size in (_FEW_TILES, *sizes):
            folder = Path(parent, str(size))
            make(folder, size)
            workspace = Workspace.of(folder)
            times.append(statistics.median(_fresh_build(workspace) for _ in range(3)))
            shutil.rmtree(folder)
    start, *grown = times
    slope = float(
        np.polyfit(
            [math.log(size) for size in sizes], [math.log(item - start) for item in grown], 1
        )[0]
    )
    print(
        "  seconds: "
        + ", ".join(
            f"{size:,} tiles {item - start:.2f}" for size, item in zip(sizes, grown, strict=True)
        ),
        file=sys.stderr,
    )
    name = (
        f"growth of time, {sizes[0]:,} to {sizes[-1]:,} tiles of 128 px, 1 worker (distance of the"
        " log-log slope from 1)"
    )
    return Row(
        name,
        "linear",
        abs(slope - 1),
        abs(slope - 1),
        abs(slope - 1),
        "",
        0.05,
        0.02,
        smaller_is_better=True,
    )


def _fresh_build(workspace: Workspace) -> float:
    shutil.rmtree(workspace.folder, ignore_errors=True)
    # Neighbours are looked for in few tiles alone, which would bend the line.
    options = TableOptions(tiles=TileOptions(neighbours=False))
    return wall_seconds(lambda: TileTable(workspace, options).build(Engine(1)))
