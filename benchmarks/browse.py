"""Load of `histoprep browse`: `python -m benchmarks.browse [--rows N] [--clients N] [--seconds S]
[--data DIR] [--write FILE]`.

A tiles table of a million synthetic rows whose images are real files, and clients that scroll
through it with different filters and orders, each asking for the thumbnails and masks in sight.
Every query is also asked once while nothing else runs. Memory is the largest that the server's
process ever had.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from histoprep import imageio, tables
from histoprep.digests import file_digest
from histoprep.schemas import findings, tiles
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.options import TableOptions

NUM_FILES, NUM_GROUPS, NUM_LABELS, SIDE_PX, IN_SIGHT = 200, 500, 8, 256, 24
MOST_MS, MOST_MIB = 300, 500
Pairs = list[tuple[str, str]]
QUERIES: dict[str, Pairs] = {
    "all tiles": [],
    "by name": [("sort", "tile_id")],
    "by focus, largest first": [("sort", "focus"), ("order", "desc")],
    "by group": [("sort", "group")],
    "of a finding": [("finding", "HP408")],
    "of a class with at least 30 %": [("class", "3"), ("min_share", "0.3")],
    "of a class, by share": [("class", "3"), ("sort", "share"), ("order", "desc")],
    "of a group": [("group", "slide_0042")],
    "name contains": [("text", "9876")],
    "by quality": [("min.focus", "800"), ("max.background_share", "0.3")],
    "everything at once": [
        ("finding", "HP408"),
        ("class", "3"),
        ("min.focus", "200"),
        ("text", "1"),
        ("sort", "luminance"),
    ],
}


def main() -> int:
    """Measure, print a table, and return 1 when a limit is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.browse", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--data", type=Path, help="folder of real images, read below it")
    parser.add_argument("--write", type=Path, help="write the table to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        workspace = make_set(Path(scratch, "million"), chosen.rows, chosen.data)
        text, is_met = measure(workspace.root, chosen.rows, chosen.clients, chosen.seconds)
    print(text)
    if chosen.write:
        chosen.write.write_text(text, "utf-8")
    return 0 if is_met else 1


def make_set(root: Path, num_rows: int, data: Path | None) -> Workspace:
    """Return a workspace whose tables have so many rows; the images are few and real."""
    root.mkdir()
    rng = np.random.default_rng(5)
    images = sorted(data.rglob("*.jpg"))[:NUM_FILES] if data else []
    for number in range(NUM_FILES):
        place = root / f"{number:03}.jpg"
        if number < len(images):
            shutil.copy(images[number], place)
        else:
            coarse = rng.integers(40, 220, (16, 16, 3), np.uint8)
            pixels = np.kron(coarse, np.ones((SIDE_PX // 16, SIDE_PX // 16, 1), np.uint8))
            place.write_bytes(imageio.encode_rgb_jpeg(pixels))
        labels = np.kron(
            rng.integers(0, NUM_LABELS, (8, 8), np.uint8),
            np.ones((SIDE_PX // 8, SIDE_PX // 8), np.uint8),
        )
        (root / f"{number:03}_mask.png").write_bytes(imageio.encode_mask_png(labels))
    workspace = Workspace.of(root)
    tables.write_table(
        workspace.tiles,
        _rows(num_rows, rng),
        tiles.SCHEMA,
        kind=tiles.KIND,
        schema_version=tiles.SCHEMA_VERSION,
        metadata={"root": str(root), "options": TableOptions().identity()},
    )
    named = pa.array([f"{number:03}_mask.png" for number in range(0, NUM_FILES, 10)])
    count = len(named)
    texts = {"code": "HP408", "name": "speck-labels", "severity": "warning", "detail": "1 speck"}
    columns = {
        **{name: pa.array([text] * count) for name, text in texts.items()},
        **{name: pa.array([""] * count) for name in ("subcode", "where")},
        "path": named,
        "known": pa.array([False] * count),
    }
    tables.write_table(
        workspace.findings,
        [pa.table([columns[name] for name in findings.SCHEMA.names], schema=findings.SCHEMA)],
        findings.SCHEMA,
        kind=findings.KIND,
        schema_version=findings.VERSION,
        metadata={"rules": {"HP408": "tile"}, "tiles_digest": file_digest(workspace.tiles)},
    )
    return workspace


def _rows(num_rows: int, rng: np.random.Generator) -> Iterator[pa.Table]:
    for start in range(0, num_rows, tables.ROW_GROUP_ROWS):
        count = min(tables.ROW_GROUP_ROWS, num_rows - start)
        numbers = np.arange(start, start + count)
        files = numbers % NUM_FILES
        groups = rng.integers(0, NUM_GROUPS, count)
        columns = {
            "tile_id": [
                f"cohort/slide_{group:04}/tile_{number:08}"
                for group, number in zip(groups, numbers, strict=True)
            ],
            "group": [f"slide_{group:04}" for group in groups],
            "split": rng.choice(["train", "val", "test"], count).tolist(),
            "unlabelled": [False] * count,
            "image_path": [f"{file:03}.jpg" for file in files],
            "mask_path": [f"{file:03}_mask.png" for file in files],
            "image_bytes": rng.integers(10_000, 90_000, count),
            "width_px": [SIDE_PX] * count,
            "height_px": [SIDE_PX] * count,
            "focus": rng.gamma(4, 150, count),
            "luminance": rng.normal(170, 20, count),
            "contrast": rng.normal(30, 6, count),
            "background_share": rng.beta(1, 4, count),
            "mask_encoding": ["grey"] * count,
            **_labels(rng, count),
        }
        yield pa.table(
            [
                pa.array(columns[field.name], field.type)
                if field.name in columns
                else pa.nulls(count, field.type)
                for field in tiles.SCHEMA
            ],
            schema=tiles.SCHEMA,
        )


def _labels(rng: np.random.Generator, count: int) -> dict[str, pa.Array]:
    """Return the label columns: one to four labels a mask."""
    lengths = rng.integers(1, 5, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    start = np.repeat(rng.integers(0, NUM_LABELS - 4, count), lengths)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    pixels = rng.integers(100, SIDE_PX**2 // 4, offsets[-1])
    values = {
        "label_ids": start + place,
        "label_pixels": pixels,
        "label_core_pixels": pixels // 2,
        "label_radius_px": np.sqrt(pixels),
        "label_regions": np.ones_like(pixels),
        "label_specks": np.zeros_like(pixels),
    }
    return {
        name: pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(column, tiles.SCHEMA.field(name).type.value_type)
        )
        for name, column in values.items()
    }


@dataclass
class Load:
    """What clients met: milliseconds by kind of request, and what failed."""

    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)


class Client:
    """Asks the server over one connection that stays open."""

    def __init__(self, port: int, token: str, load: Load) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._load = load

    def ask(self, kind: str, path: str, pairs: Pairs = []) -> bytes:  # noqa: B006 (never changed)
        """Return the body of an answer and note how long it took."""
        begun = time.perf_counter()
        self._connection.request(
            "GET", f"{path}?{urlencode(pairs)}" if pairs else path, headers=self._headers
        )
        answer = self._connection.getresponse()
        body = answer.read()
        self._load.times[kind].append(1000 * (time.perf_counter() - begun))
        if answer.status != 200:
            self._load.failures.append(f"{path}: {answer.status}")
        return body

    def tiles(self, kind: str, query: Pairs, offset: int, limit: int = 100) -> dict[str, object]:
        """Return a page of tiles."""
        pairs = [*query, ("offset", str(offset)), ("limit", str(limit))]
        found: dict[str, object] = json.loads(self.ask(kind, "/api/tiles", pairs))
        return found


def measure(root: Path, num_rows: int, clients: int, seconds: float) -> tuple[str, bool]:
    """Return the table of a server under load, and whether the limits were kept."""
    command = [sys.executable, "-m", "histoprep", "browse", str(root)]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            seen = re.fullmatch(
                r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", process.stdout.readline().strip()
            )
            assert seen, "the server did not start"
            start_s = time.perf_counter() - begun
            port, token = int(seen[1]), seen[2]
            alone, loaded = Load(), Load()
            first = Client(port, token, alone)
            first.ask("description", "/api/set")
            totals = {}
            for name, query in QUERIES.items():
                answer = first.tiles(f"{name}|first", query, 0)
                totals[name] = answer["total"]
                for _ in range(5):
                    first.tiles(f"{name}|again", query, max(0, int(str(answer["total"])) // 2))
            _run(port, token, loaded, clients, seconds)
            memory_mib = _peak_mib(process.pid)
        finally:
            process.terminate()
    return _report(num_rows, clients, start_s, memory_mib, totals, alone, loaded)


def _run(port: int, token: str, load: Load, clients: int, seconds: float) -> None:
    end = time.monotonic() + seconds

    def scroll(number: int) -> None:
        rng = np.random.default_rng(number)
        client = Client(port, token, load)
        try:
            while time.monotonic() < end:
                query = list(QUERIES.values())[int(rng.integers(len(QUERIES)))]
                total = int(str(client.tiles("tiles", query, 0)["total"]))
                for _ in range(4):
                    offset = int(rng.integers(max(1, total - 100)))
                    page = client.tiles("tiles", query, offset)
                    rows = [tile["row"] for tile in page["tiles"]][:IN_SIGHT]  # type: ignore[attr-defined]
                    for row in rows:
                        client.ask("thumbnail", f"/api/thumbnail/{row}")
                        client.ask("mask", f"/api/overlay/{row}")
        except Exception as error:  # noqa: BLE001 (whatever a client meets is counted)
            load.failures.append(f"client {number}: {error!r}")

    threads = [threading.Thread(target=scroll, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _peak_mib(process_id: int) -> float:
    text = Path(f"/proc/{process_id}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found
    return int(found[1]) / 1024


def _report(
    num_rows: int,
    clients: int,
    start_s: float,
    memory_mib: float,
    totals: dict[str, object],
    alone: Load,
    loaded: Load,
) -> tuple[str, bool]:
    lines = [
        "# Load of histoprep browse",
        "",
        f"{num_rows:,} rows, {clients} clients at once, {os.cpu_count()} cores that others use,"
        " too; `python -m benchmarks.browse`.",
        "",
        "| query | tiles | first, ms | again, ms |",
        "|---|---|---|---|",
    ]
    slowest = 0.0
    for name, total in totals.items():
        [first] = alone.times[f"{name}|first"]
        again = statistics.median(alone.times[f"{name}|again"])
        slowest = max(slowest, first)
        lines.append(f"| {name} | {total:,} | {first:.0f} | {again:.0f} |")
    lines += ["", "| under load | requests | median, ms | 99th, ms |", "|---|---|---|---|"]
    for kind, times in loaded.times.items():
        high = sorted(times)[int(0.99 * (len(times) - 1))]
        lines.append(f"| {kind} | {len(times):,} | {statistics.median(times):.0f} | {high:.0f} |")
    failures = [*alone.failures, *loaded.failures]
    lines += [
        "",
        f"Start {start_s:.1f} s; description {alone.times['description'][0]:.0f} ms; slowest first"
        f" query {slowest:.0f} ms (limit {MOST_MS}); memory at most {memory_mib:.0f} MiB (limit"
        f" {MOST_MIB}); {len(failures)} failures{': ' + failures[0] if failures else ''}.",
        "",
    ]
    is_met = slowest < MOST_MS and memory_mib < MOST_MIB and not failures
    return "\n".join(lines), is_met


if __name__ == "__main__":
    sys.exit(main())
