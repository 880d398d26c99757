"""Arguments and options that several commands share, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from histoprep.choices import (
    DepthReading,
    EngineName,
    MinIsWhiteReading,
    PaletteReading,
    ReportFormat,
    RgbReading,
)
from histoprep.errors import UsageError
from histoprep.execution import Engine
from histoprep.labels.format import packed_folder

if TYPE_CHECKING:
    from histoprep.execution import Engine


def _packed_maps() -> list[str]:
    """Return the names of label maps that are found by name alone."""

    return sorted(path.stem for path in packed_folder().glob("label_map*.yml"))


Root = Annotated[
    Path, typer.Argument(help="Folder of the data set.", show_default="current folder")
]
WorkspaceFolder = Annotated[
    Path | None,
    typer.Option(
        "--workspace", help="Folder of the results.", show_default="ROOT.histoprep, beside ROOT"
    ),
]
MapName = Annotated[
    str | None,
    typer.Option(
        "--map",
        help=(
            "Label map: a path, or the name of one in the current folder, in ROOT or packed with"
            " histoprep."
        ),
        metavar="MAP",
        autocompletion=_packed_maps,
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Worker processes.", show_default="one per core"),
]
EngineOption = Annotated[
    EngineName,
    typer.Option("--engine", help="Execution engine: local processes, or dask with --scheduler."),
]
DaskScheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Address of a running dask scheduler.",
        show_default=False,
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Read every file that is used again, even if its size, times and inode are unchanged.",
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="i/n",
        help="Process only part i of n of an array job; then run histoprep collect.",
        show_default=False,
    ),
]
PaletteOption = Annotated[
    PaletteReading | None,
    typer.Option(
        "--palette",
        rich_help_panel="What is read",
        help="Label of a mask with a palette: the index, the grey or the colour (0xRRGGBB).",
        show_default="refuse or as before",
    ),
]
MinIsWhiteOption = Annotated[
    MinIsWhiteReading | None,
    typer.Option(
        "--min-is-white",
        rich_help_panel="What is read",
        help="Label of a TIFF whose 0 is white.",
        show_default="refuse or as before",
    ),
]
DepthOption = Annotated[
    DepthReading | None,
    typer.Option(
        "--depth",
        rich_help_panel="What is read",
        help="Label of a grey mask with fewer bits than others: stored, or scaled to 8 or 16 bits.",
        show_default="refuse or as before",
    ),
]
RgbOption = Annotated[
    RgbReading | None,
    typer.Option(
        "--rgb",
        rich_help_panel="What is read",
        help="Label of an RGB mask with equal channels: their value, or the colour (0xRRGGBB).",
        show_default="grey, or refuse beside masks in colour",
    ),
]
PageOption = Annotated[
    int | None,
    typer.Option(
        "--page",
        min=1,
        rich_help_panel="What is read",
        help="Page that is read of masks with several, from 1.",
        show_default="the first of a pyramid, or refuse",
    ),
]
FormatOption = Annotated[ReportFormat, typer.Option("--format", help="Format of the result.")]


def separated(entries: list[str] | None) -> tuple[str, ...]:
    """Return the parts of entries that may hold several, separated by commas."""
    return tuple(
        part.strip() for entry in entries or () for part in entry.split(",") if part.strip()
    )


def engine_of(name: EngineName, scheduler: str | None, workers: int | None) -> Engine:
    """Return the engine that the options ask for; raises UsageError for a contradiction."""

    if (name is EngineName.DASK) != (scheduler is not None):
        raise UsageError(
            "--engine dask and --scheduler ADDRESS belong together",
            seen=f"--engine {name}, --scheduler {scheduler}",
        )
    return Engine(workers or 0, scheduler, spares_few=workers is None and scheduler is None)


def parse_part(text: str) -> tuple[int, int]:
    """Return (i, n) of `i/n`; raises UsageError unless 1 <= i <= n."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(
            "--part is not a part of an array job",
            seen=text,
            expected="i/n with 1 <= i <= n, such as 3/10",
        )
    return int(number), int(count)


@contextmanager
def progress_of(label: str, unit: str = "tiles") -> Iterator[Callable[[int, int], None]]:
    """Yield `advance(done, total)`, which draws the progress of a command of one phase."""
    with console.phases() as phases:
        yield phases(label, unit)
