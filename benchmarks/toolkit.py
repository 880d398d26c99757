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
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.measuring import Row, cpu_seconds, limit, peak_memory_mb, speed_up, wall_seconds
from histoprep import imageio, read_ahead
from histoprep.digests import digest
from histoprep.execution import Engine
from histoprep.scan import Pair, ScanOptions, scan
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions
from histoprep.tiles.measure import count_labels
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


def naive_masks(paths: list[str]) -> None:
    """Count the labels of every mask, as most scripts do."""
    for path in paths:
        np.unique(np.array(Image.open(path)), return_counts=True)


def naive_audit(images: list[str], masks: list[str]) -> None:
    """Decode every image and mask and look at their values, as most scripts do."""
    for image, mask in zip(images, masks, strict=True):
        pixels = np.array(Image.open(image).convert("RGB"))
        pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1))
        np.unique(np.array(Image.open(mask)), return_counts=True)


def checked_masks(paths: list[str]) -> None:
    """Read, check to the last byte, decode and count every mask; identical bytes once."""
    known: dict[str, object] = {}
    for data in read_ahead.read_ahead(_requests(paths), 1 << 30):
        assert isinstance(data, bytes)
        key = digest(data)
        if key not in known:
            known[key] = count_labels(imageio.decode_mask(data, imageio.read_header(data)))


def _requests(paths: list[str]) -> list[read_ahead.Request]:
    return [
        read_ahead.Request(path, seen) for path in paths if (seen := read_ahead.stat_file(path))
    ]


def _batch(paths: list[str], parts: int, work: Callable[[list[str]], None]) -> None:
    """Share `paths` among processes."""
    children = []
    for index in range(parts):
        pid = os.fork()
        if not pid:
            work(paths[index::parts])
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


def mask_rows(corpus: Path, num_masks: int) -> list[Row]:
    """Return the rows of reading masks with full checks."""
    _, masks = _paths(corpus, num_masks)
    sample = masks[: num_masks // 4]
    scale = len(masks) / len(sample)
    base = "Pillow + numpy.unique, 1 process"
    return [
        speed_up(
            "masks, full checks, 1 process (CPU)", base, lambda: naive_masks(sample),
            lambda: checked_masks(masks), gate=6, stretch=13, scale=scale
        ),
        speed_up(
            "masks, full checks, 2 processes (wall)", base, lambda: naive_masks(sample),
            lambda: _batch(masks, 2, checked_masks),
            gate=11, stretch=22, clock=wall_seconds, scale=scale,
        ),
    ]  # fmt: skip


def image_row(corpus: Path, num_images: int) -> Row:
    """Return the row of checking images, against reading and decoding luminance at 1/8 alone."""
    images, _ = _paths(corpus, num_images)

    def floor() -> None:
        for path in images:
            simplejpeg.decode_jpeg(
                Path(path).read_bytes(), colorspace="GRAY", min_height=64, min_width=64, strict=True
            )

    def ours() -> None:
        measurer = Measurer(TileOptions())
        for data in read_ahead.read_ahead(_requests(images), 1 << 30):
            measurer.image(data)

    row = speed_up(
        "image check, 1 process (CPU)",
        "read + simplejpeg at 1/8, strict",
        floor,
        ours,
        gate=80,
        stretch=90,
        scale=100,
    )
    return Row(row.name, row.baseline, row.value, row.low, row.high, "%", row.gate, row.stretch)


def audit_rows(corpus: Path, num_pairs: int) -> list[Row]:
    """Return the rows of the tiles table, everything measured, against the naive script on a part
    of the same pairs.
    """
    images, masks = _paths(corpus, num_pairs)
    part = max(50, num_pairs // 8)
    linked = Path(tempfile.mkdtemp(prefix="bench-", dir=corpus.parent))
    for path in (*images, *masks):
        os.link(path, linked / Path(path).name)

    def table(workers: int) -> None:
        workspace = Workspace.of(linked, linked.with_name(linked.name + "-results"))
        shutil.rmtree(workspace.folder, ignore_errors=True)
        TileTable(workspace).build(Engine(workers))

    def whole(workers: int) -> Callable[[], None]:
        return lambda: table(workers)

    base = "Pillow, numpy mean and std, numpy.unique"
    scale = num_pairs / part
    try:
        return [
            speed_up(
                f"whole audit of pairs, {workers} worker{'s' * (workers > 1)} (wall)", base,
                lambda: naive_audit(images[:part], masks[:part]),
                whole(workers), gate=gate, stretch=stretch, clock=wall_seconds, scale=scale,
            )
            for workers, gate, stretch in ((1, 5.0, 7.0), (2, 9.0, 12.0))
        ]  # fmt: skip
    finally:
        shutil.rmtree(linked)
        shutil.rmtree(linked.with_name(linked.name + "-results"), ignore_errors=True)


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
    """Return the rows of the command: peak memory of its largest process, and the share of a second
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
        peak, first = peak_memory_mb(command)
        _, second = peak_memory_mb(command)
        peaks.append(peak)
        shares.append(100 * second / first)
        shutil.rmtree(results)
    return [
        limit(
            "peak memory of the largest process, histoprep audit",
            "absolute",
            peaks,
            "MB",
            gate=250,
            stretch=150,
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
