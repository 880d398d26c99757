"""What the user sees: results on stdout, everything else on stderr.

On a terminal there are colours and bars; otherwise plain lines, with one line of
progress a minute. `NO_COLOR` and `--quiet` are honoured.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from histoprep.phrases import NUM_SHOWN
from histoprep.progress import Advance, Phases
from histoprep.remote import address_of
from histoprep.visible import harmless, visible

_PLAIN_PERIOD_S = 60.0
_LINE_BREAK = "\n"
_NUMBER = re.compile(r"[\d\s.,%+-]*")
_LEAST_TEXT = 12
_SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}

_out = Console(soft_wrap=True, highlight=False)
_err = Console(stderr=True, soft_wrap=True, highlight=False)
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Silence notes and progress; results, warnings and errors stay."""
    global _quiet  # noqa: PLW0603 (one process, one terminal)
    _quiet = quiet


def is_quiet() -> bool:
    """Return whether notes and progress are silenced."""
    return _quiet


def out(text: str) -> None:
    """Print one line of a result to stdout; what no reader can see, line breaks of names too, is
    spelled out.
    """
    _out.print(Text(_line(text)))


def block(text: str) -> None:
    """Print a result of several lines to stdout; names in it are `visible` already, or hold no line
    break.
    """
    _out.print(Text(harmless(visible(text, keep="\n"))))


def raw(text: str) -> None:
    """Print to stdout, as it is, what a program reads: JSON, SARIF, CSV, YAML, commands for a CI
    runner.
    """
    _out.print(Text(text))


def note(text: str) -> None:
    """Print one line about what is going on to stderr, unless quiet."""
    if not _quiet:
        _err.print(Text(_line(text)))


def next_steps(*commands: Sequence[object]) -> None:
    """Print what to do next, at most two commands given as their words, to stderr unless quiet."""
    for words in commands[:2]:
        note(f"next: {shlex.join(address_of(word) or str(word) for word in words)}")


def warn(text: str) -> None:
    """Print a warning of one line to stderr."""
    _err.print(Text(f"warning: {_line(text)}", style="yellow"))


def warn_each(lines: Sequence[str], *, total: int, rest: str) -> None:
    """Warn of the first things of a kind, and then of how many more there are.

    Args:
        lines: A line each; those that are known, at least the first ones.
        total: How many there are.
        rest: Where the others are, such as `all are in ledger.parquet`.
    """
    for line in lines[:NUM_SHOWN]:
        warn(line)
    if total > NUM_SHOWN:
        warn(f"and {total - NUM_SHOWN:,} more; {rest}")


def error(text: str) -> None:
    """Print an error of one or several lines to stderr."""
    _err.print(Text(f"error: {harmless(visible(text, keep=_LINE_BREAK))}", style="bold red"))


def _line(text: str) -> str:
    return harmless(visible(text))


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    severity_column: int | None = None,
) -> None:
    """Print a table to stdout; numbers are set right and never broken, the severity column
    coloured.

    Where a terminal is too narrow, text is folded, and below `_LEAST_TEXT` characters of it lines
    get longer than the terminal.
    """
    from rich.table import Table

    grid = Table(
        title=escape(_line(title)) or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    least = 2 * (len(columns) - 1)
    for index, name in enumerate(map(_line, columns)):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        texts = [_cell(row[index]) for row in rows]
        whole = all(_NUMBER.fullmatch(text) for text in texts)
        grid.add_column(
            name, justify="right" if numeric else "left", overflow="fold", no_wrap=whole
        )
        width = max(map(cell_len, (name, *texts)))
        least += width if whole else min(width, _LEAST_TEXT)
    if _out.width < least:
        grid.width = least
    for row in rows:
        style = (
            _SEVERITY_STYLES.get(str(row[severity_column]), "")
            if severity_column is not None
            else ""
        )
        cells = [
            Text(_cell(value), style=style if index == severity_column else "")
            for index, value in enumerate(row)
        ]
        grid.add_row(*cells)
    _out.print(grid)


def _cell(value: object) -> str:
    return (
        f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else _line(str(value))
    )


class Meter(Protocol):
    """Counts what is done."""

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more as done."""


@dataclass(slots=True)
class _Count:
    show: Advance
    total: int
    done: int = 0

    def advance(self, amount: int = 1) -> None:
        self.done += amount
        self.show(self.done, self.total)


@contextmanager
def progress(label: str, total: int | None, unit: str = "tiles") -> Iterator[Meter]:
    """Yield a meter of a command of one phase."""
    with phases() as begin:
        meter = _Count(begin(label, unit), total or 0)
        meter.advance(0)
        yield meter


@contextmanager
def phases() -> Iterator[Phases]:
    """Yield what draws the phases of a command, one after the other.

    On a terminal a phase is a bar, which is there from its beginning and goes when the next phase
    begins or the command ends; elsewhere a line each minute.
    """
    if _quiet or not _err.is_terminal:
        yield _plain_phase
        return
    # Takes long to import.
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_err, transient=True) as bar:

        def begin(label: str, unit: str) -> Advance:
            for earlier in bar.task_ids:
                bar.remove_task(earlier)
            task = bar.add_task(escape(label), total=None, unit=escape(unit))

            def advance(done: int, total: int) -> None:
                # The end is drawn at once: the next phase may begin before the bar is drawn again.
                is_end = 0 < total <= done
                bar.update(task, completed=done, total=total or None, refresh=is_end)

            return advance

        yield begin


def _plain_phase(label: str, unit: str) -> Advance:
    started = shown = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _PLAIN_PERIOD_S:
            shown = now
            note(_plain_line(label, unit, done, total, now - started))

    return advance


def _plain_line(label: str, unit: str, done: int, total: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    of = f" of {total:,}" if total else ""
    left = f", {(total - done) / rate:,.0f} s left" if total and rate else ""
    return f"{label}: {done:,}{of} {unit}, {rate:,.0f}/s{left}"
