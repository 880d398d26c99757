"""A manifest of ten million rows: write, split by hash, read back. Prints seconds and peak memory
of each step's own process.

    python benchmarks/manifest.py [--rows 10000000] [--folder DIR]

Exits with 1 when a step needs 700 MB or more.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

LIMIT_MB = 700
PIECE = 65_536
TILES_A_GROUP = 500
SHARE_OF_COPIES = 0.001


def pieces(rows: int) -> Iterator[pa.Table]:
    """Yield a tiles table like the reference one: 37 % conditional, 1 to 4 of 54 labels, slides of
    500 tiles, some copies.
    """
    from histoprep.schemas.tiles import SCHEMA

    draw = np.random.default_rng(0)
    for start in range(0, rows, PIECE):
        count = min(PIECE, rows - start)
        number = np.arange(start, start + count)
        # Scattered, so that the table is not in order of anything.
        names = [
            f"slide_{(count * 7919) % 1_000_003:07d}/tile_{count:09d}" for count in number.tolist()
        ]
        copied = np.where(
            draw.random(count) < SHARE_OF_COPIES, draw.integers(0, 1000, count), number + 10_000
        )
        labels = np.where(draw.random(count) < 0.37, draw.integers(1, 5, count), 0)
        offsets = np.concatenate([[0], np.cumsum(1 + labels)]).astype(np.int32)
        total = int(offsets[-1])
        first = np.zeros(total, dtype=bool)
        first[offsets[:-1]] = True
        ids = np.where(first, 0, draw.integers(1, 54, total)).astype(np.uint16)
        given = {
            "tile_id": pa.array(names),
            "group": pa.array([f"case {count // TILES_A_GROUP}" for count in number.tolist()]),
            "unlabelled": pa.array(np.zeros(count, dtype=bool)),
            "image_path": pa.array([f"{name}.jpg" for name in names]),
            "mask_path": pa.array([f"{name}_mask.png" for name in names]),
            "image_digest": pa.array(
                [f"{copy * 0x9E3779B97F4A7C15 % 2**64:016x}{copy:016x}" for copy in copied.tolist()]
            ),
            "luminance_digest": pa.array(
                [f"{copy:016x}{copy * 0x9E3779B97F4A7C15 % 2**64:016x}" for copy in copied.tolist()]
            ),
            "mask_digest": pa.array([f"{count:032x}" for count in number.tolist()]),
            "contrast": pa.array(np.full(count, 30, dtype=np.float32)),
            **{
                name: pa.array(np.full(count, 512, dtype=np.int32))
                for name in ("width_px", "height_px", "mask_width_px", "mask_height_px")
            },
            **{
                name: pa.array(draw.integers(300, 60_000, count))
                for name in ("image_bytes", "mask_bytes")
            },
            "label_ids": pa.ListArray.from_arrays(offsets, pa.array(ids)),
            "label_pixels": pa.ListArray.from_arrays(
                offsets, pa.array(draw.integers(1, 50_000, total))
            ),
            "label_core_pixels": pa.ListArray.from_arrays(
                offsets, pa.array(draw.integers(0, 20_000, total))
            ),
            "label_radius_px": pa.ListArray.from_arrays(
                offsets, pa.array(draw.random(total).astype(np.float32) * 9)
            ),
        }
        yield pa.table(
            [given.get(field.name, pa.nulls(count, field.type)) for field in SCHEMA], schema=SCHEMA
        )


def generate(folder: Path, rows: int) -> None:
    """Write the synthetic tiles table."""
    from histoprep import tables
    from histoprep.schemas import tiles

    metadata = {"root": str(folder / "data"), "options": {}}
    tables.write_table(
        folder / "tiles.parquet",
        pieces(rows),
        tiles.SCHEMA,
        kind=tiles.KIND,
        schema_version=tiles.SCHEMA_VERSION,
        metadata=metadata,
    )


def build(folder: Path, rows: int) -> None:
    """Make the manifest with a split by hash."""
    from fractions import Fraction

    from histoprep.labels import LabelMap, SourceLabel, TargetClass
    from histoprep.manifest.build import ManifestOptions, build_manifest

    sources = tuple(SourceLabel(number, f"label {number}") for number in range(54))
    classes = tuple(
        TargetClass(number, f"class {number}", f"#{number * 40:02x}0000") for number in range(5)
    )
    label_map = LabelMap(
        "bench",
        sources,
        classes,
        {number: 0 if number == 0 else 1 + number % 4 for number in range(54)},
    )
    options = ManifestOptions({"train": Fraction(9, 10), "test": Fraction(1, 10)}, method="hash")
    summary = build_manifest(
        folder / "tiles.parquet", label_map, options, folder / "manifest.parquet"
    )
    assert summary.tiles == rows


def read(folder: Path, rows: int) -> None:
    """Read every column of every row."""
    from histoprep.schemas.manifest import open_manifest

    seen = sum(
        batch.num_rows for batch in open_manifest(folder / "manifest.parquet").iter_batches()
    )
    assert seen == rows


def certify(folder: Path, rows: int) -> None:
    """Compute the certificate again, as the trainer does."""
    from histoprep.manifest.check import check_certificate
    from histoprep.schemas.manifest import open_manifest

    manifest = open_manifest(folder / "manifest.parquet")
    assert len(manifest) == rows
    check_certificate(manifest)


STEPS = {"generate": generate, "build": build, "read": read, "certify": certify}


def run_step(name: str, folder: Path, rows: int) -> None:
    """Do one step in this process and print seconds and peak memory in MB."""
    started = time.monotonic()
    STEPS[name](folder, rows)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"{time.monotonic() - started:.1f} {peak_mb:.0f}")


def main() -> int:
    """Run all steps, each in a fresh process, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--step", choices=STEPS)
    given = parser.parse_args()
    if given.step:
        run_step(given.step, given.folder, given.rows)
        return 0
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        print(f"{given.rows:,} rows\n{'step':10} {'seconds':>8} {'peak MB':>8}")
        for name in STEPS:
            command = [
                sys.executable,
                __file__,
                "--step",
                name,
                "--folder",
                folder,
                "--rows",
                str(given.rows),
            ]
            seconds, peak_mb = subprocess.run(
                command, check=True, capture_output=True, text=True
            ).stdout.split()
            print(f"{name:10} {seconds:>8} {peak_mb:>8}", flush=True)
            worst = max(worst, float(peak_mb) if name != "generate" else 0.0)
    print(f"peak {worst:.0f} MB, limit {LIMIT_MB} MB: {'met' if worst < LIMIT_MB else 'MISSED'}")
    return int(worst >= LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
