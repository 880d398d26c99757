"""How a gate is measured: variants in turn, medians of at least five rounds, ratios round by
round.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, against what, and where it should be."""

    name: str
    baseline: str
    value: float
    low: float
    high: float
    unit: str
    gate: float
    stretch: float
    smaller_is_better: bool = False

    @property
    def verdict(self) -> str:
        """Return whether the median meets the stretch goal, the gate, or neither."""
        better = (
            (lambda limit: self.value <= limit)
            if self.smaller_is_better
            else (lambda limit: self.value >= limit)
        )
        return "stretch" if better(self.stretch) else "gate" if better(self.gate) else "MISSED"


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of this process for `work`, which machines with other tenants
    disturb least.
    """
    before = time.process_time()
    work()
    return time.process_time() - before


def wall_seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock time of `work`."""
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def speed_up(
    name: str,
    baseline: str,
    slow: Callable[[], object],
    fast: Callable[[], object],
    *,
    gate: float,
    stretch: float,
    clock: Callable[[Callable[[], object]], float] = cpu_seconds,
    scale: float = 1.0,
    rounds: int = ROUNDS,
) -> Row:
    """Return how many times faster `fast` is than `slow`, in turn, `rounds` times after one
    warm-up.

    `scale` is how much more work the fast variant does than the slow one.
    """
    slow(), fast()
    ratios = [scale * clock(slow) / clock(fast) for _ in range(rounds)]
    return Row(
        name, baseline, statistics.median(ratios), min(ratios), max(ratios), "x", gate, stretch
    )


def limit(
    name: str, baseline: str, values: Sequence[float], unit: str, *, gate: float, stretch: float
) -> Row:
    """Return a row of a figure that must stay below its limit."""
    return Row(
        name,
        baseline,
        statistics.median(values),
        min(values),
        max(values),
        unit,
        gate,
        stretch,
        smaller_is_better=True,
    )


def machine() -> str:
    """Return what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        "unknown processor",
    )
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {sys.version.split()[0]}"


def print_page(
    title: str, command: str, about: str | None, lines: Sequence[str], path: Path | None
) -> None:
    """Print a page of results, and write it to `path` where there is one.

    Args:
        title: Its heading.
        command: What writes it, such as `benchmarks.large --run RUN --write FILE`.
        about: Docstring of the benchmark, whose third paragraph says what is measured.
        lines: The results, in Markdown.
        path: File to write.
    """
    purpose = " ".join((about or "").split("\n\n")[2].split())
    written = f"Written by `python -m {command}`."
    page = "\n".join([f"# {title}", "", written, "", purpose, "", machine(), "", *lines, ""])
    if path:
        path.write_text(page)
    print(page)


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    lines = [
        "| what | against | median | range | gate | stretch | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shown = [f"{value:,.3g} {row.unit}" for value in (row.value, row.gate, row.stretch)]
        lines.append(
            f"| {row.name} | {row.baseline} | {shown[0]} | {row.low:,.3g} - {row.high:,.3g} |"
            f" {shown[1]} | {shown[2]} | {row.verdict} |"
        )
    return "\n".join(lines)
