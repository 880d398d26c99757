"""What an audit takes once pixels were read: gathering, copies, rules and the report, of synthetic
tiles tables, beside `manifest` on the same table. Prints seconds and peak memory of each step's own
process.

    python benchmarks/scale.py [--rows 1000000 ...] [--folder DIR] [--findings] [--write FILE]

The files of the table do not exist: nothing is decoded, and every candidate for a copy is passed
over. `--findings` makes every tenth tile wrong, so that the report has a million findings at ten
million rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pyarrow as pa

from benchmarks import manifest
from benchmarks.measuring import machine

# Of two such images in a thousand, the hashes differ in a bit or two.
_SHARE_ALIKE = 0.002
_TILES_A_SLIDE = manifest.TILES_A_GROUP
_WHEN_NS = 1_700_000_000_000_000_000


def pieces(rows: int, *, faulty: bool) -> Iterator[pa.Table]:
    """Yield the table of `manifest.pieces` with every column that rules look at.

    Args:
        rows: Number of tiles.
        faulty: Whether every tile is out of focus and of a colour mode that is not RGB.
    """
    draw = np.random.default_rng(1)
    start = 0
    for piece in manifest.pieces(rows):
        count = piece.num_rows
        numbers = np.arange(start, start + count).tolist()
        names = [f"slide_{each // _TILES_A_SLIDE:06d}/tile_{each:09d}" for each in numbers]
        start += count
        hashes = draw.integers(0, 2**64, count, dtype=np.uint64)
        alike = np.flatnonzero(draw.random(count - 1) < _SHARE_ALIKE)
        bits = np.uint64(1) << draw.integers(0, 64, len(alike)).astype(np.uint64)
        hashes[alike + 1] = hashes[alike] ^ bits
        labels = piece["label_ids"].combine_chunks()
        offsets, total = labels.offsets, len(labels.values)
        shifted = draw.integers(50, 900, count)
        columns = {
            "tile_id": names,
            "image_path": [f"{name}.jpg" for name in names],
            "mask_path": [f"{name}_mask.png" for name in names],
            "image_hash": hashes,
            "image_mtime_ns": np.full(count, _WHEN_NS),
            "mask_mtime_ns": np.full(count, _WHEN_NS),
            "image_format": ["jpeg"] * count,
            "image_mode": ["L" if faulty else "RGB"] * count,
            "image_bit_depth": np.full(count, 8),
            "jpeg_quality": np.full(count, 75),
            "jpeg_subsampling": ["4:2:0"] * count,
            "focus": draw.normal(400, 30, count),
            "luminance": draw.normal(180, 10, count),
            "background_share": draw.random(count) / 2,
            "mask_format": ["png"] * count,
            "mask_mode": ["L"] * count,
            "mask_bit_depth": np.full(count, 8),
            "mask_encoding": ["grey"] * count,
            "mask_cell_px": np.full(count, 1),
            "mask_mixed_blocks": (shifted * draw.normal(1, 0.05, count)).astype(int),
            "mask_shifted_blocks": shifted,
            "mask_steps": shifted * 9,
            "mask_rim_pixels": shifted * 30,
            "mask_rough_pairs": shifted,
            "mask_contacts": shifted // 9,
            "label_radius_px": pa.ListArray.from_arrays(
                offsets, pa.array(1.9 + 20 * draw.random(total).astype(np.float32))
            ),
            "label_regions": pa.ListArray.from_arrays(
                offsets, pa.array(draw.integers(1, 9, total))
            ),
            "label_specks": pa.ListArray.from_arrays(offsets, pa.array(np.zeros(total, int))),
        }
        full = piece
        for name, values in columns.items():
            at = piece.schema.get_field_index(name)
            made = values if isinstance(values, pa.Array) else pa.array(values)
            full = full.set_column(
                at, piece.schema.field(at), made.cast(piece.schema.field(at).type)
            )
        yield full


def generate(folder: Path, rows: int, *, faulty: bool) -> None:
    """Write a tiles table and the issues of its listing."""
    from histoprep import tables
    from histoprep.schemas import tiles
    from histoprep.tiles.options import TableOptions

    workspace = _workspace(folder)
    workspace.root.mkdir()
    workspace.folder.mkdir()
    tables.write_table(
        workspace.tiles,
        pieces(rows, faulty=faulty),
        tiles.SCHEMA,
        kind=tiles.KIND,
        schema_version=tiles.SCHEMA_VERSION,
        metadata={"root": str(workspace.root), "options": TableOptions().identity()},
    )
    tables.write_table(
        workspace.listing_issues,
        [],
        tiles.ISSUES_SCHEMA,
        kind=tiles.ISSUES_KIND,
        schema_version=tiles.ISSUES_VERSION,
        metadata={},
    )


def split(folder: Path, rows: int) -> None:
    """Make the manifest, split by hash: what the audit is held against."""
    from benchmarks.manifest import build

    build(_workspace(folder).folder, rows)


def audit(folder: Path, rows: int) -> None:
    """Gather the evidence and run all rules, as an audit does after the tiles table."""
    from histoprep.auditing.evidence import gather, run_rules
    from histoprep.auditing.sources import Sources
    from histoprep.execution import Engine

    workspace = _workspace(folder)
    workspace.duplicates.unlink(missing_ok=True)
    evidence = gather(workspace, Sources(), Engine(1))
    found = run_rules(workspace, evidence)
    assert evidence.amounts.images == rows, evidence.amounts
    print(f"  {sum(each.count for each in found):,} findings", file=sys.stderr)


def report(folder: Path, rows: int) -> None:
    """Do everything that `histoprep audit` does once the tiles table is there."""
    from histoprep.auditing import AuditOptions, Run, _audit, _prepare
    from histoprep.execution import Engine
    from histoprep.progress import silent_phases
    from histoprep.tiles.options import TableOptions
    from histoprep.tiles.table import TableResult

    workspace = _workspace(folder)
    workspace.duplicates.unlink(missing_ok=True)
    options, table = AuditOptions(), TableOptions()
    made = TableResult(workspace.tiles, rows, 0, False, rows)
    run = Run(workspace, options, Engine(1), table, made, time.monotonic())
    result = _audit(run, _prepare(options, table), "", silent_phases)
    assert result.report is not None
    size_mb = workspace.report.stat().st_size / 1e6
    print(f"  page of {size_mb:.1f} MB", file=sys.stderr)


STEPS = {"manifest": split, "audit": audit, "report": report}


def _workspace(folder: Path):
    from histoprep.schemas.workspace import Workspace

    return Workspace(folder / "data", folder / "data.histoprep")


def _run_step(name: str, folder: Path, rows: int) -> None:
    started = time.perf_counter(), time.process_time()
    STEPS[name](folder, rows)
    wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(
        json.dumps({"step": name, "rows": rows, "wall_s": wall, "cpu_s": cpu, "peak_mb": peak_mb})
    )


def main() -> int:
    """Run all steps, each in a fresh process, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--findings", action="store_true")
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=list(STEPS))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path)
    chosen = parser.parse_args()
    if chosen.step:
        _run_step(chosen.step, chosen.folder, chosen.rows[0])
        return 0
    lines = [machine(), "", "| rows | step | wall s | CPU s | peak MB |", "|---|---|---|---|---|"]
    for rows in chosen.rows:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            generate(Path(folder), rows, faulty=chosen.findings)
            for name in chosen.steps:
                command = [
                    sys.executable,
                    __file__,
                    "--step",
                    name,
                    "--folder",
                    folder,
                    "--rows",
                    str(rows),
                ]
                made = json.loads(
                    subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                )
                numbers = (f"{made[key]:.1f}" for key in ("wall_s", "cpu_s", "peak_mb"))
                lines.append(f"| {rows:,} | {name} | {' | '.join(numbers)} |")
                print(lines[-1], flush=True)
    if chosen.write:
        chosen.write.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
