"""Tables in a data set -> columns that say the slide, case or patient of nearly every tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from histoprep.errors import UsageError
from histoprep.scanning.dataset_csv import CASE_COLUMNS, FILE_NAME, SLIDE_COLUMNS, DatasetCsv
from histoprep.scanning.group_patterns import (
    MAX_OFFERED,
    MIN_GROUPS,
    MIN_UNNAMED_GROUPS,
    Grouping,
    is_telling,
)

# Words in the names of columns that say what their values are.
_GROUP_WORDS = ("group", "slide", "case", "patient", "wsi", "donor", "subject", "specimen", "block")
_NO_GROUPS = ("split", "set", "subset", "partition", "fold", "label", "labels", "class", "classes")
_SUFFIXES = (".csv", ".tsv")
_MAX_TABLES = 8
_MAX_BYTES = 256 << 20


def suggest_columns(root: Path, chosen: Path | None, images: Sequence[str]) -> list[Grouping]:
    """Return up to three columns of tables in a data set that group nearly all of its images, those
    named after slides or cases first, then the coarsest.

    Args:
        root: The data set; tables in it are tried, besides dataset.csv.
        chosen: The table of --csv, or None.
        images: Paths of the images below the root.
    """
    offered = [way for table in _tables(root, chosen) for way in _columns(root, table, images)]
    offered.sort(key=lambda way: (not _is_named(way.pattern), way.num_groups))
    return offered[:MAX_OFFERED]


def _tables(root: Path, chosen: Path | None) -> Iterator[tuple[DatasetCsv, bool]]:
    """Yield the tables that can be read, and whether a command has to name them."""
    used = chosen or root / FILE_NAME
    found = sorted(
        path
        for path in root.iterdir()
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    for path in dict.fromkeys([used, *found[:_MAX_TABLES]]):
        try:
            is_small = path.is_file() and path.stat().st_size <= _MAX_BYTES
            if is_small and (table := DatasetCsv.find(root, path)) is not None:
                yield table, path != used
        except (OSError, UsageError):
            continue


def _columns(
    root: Path, found: tuple[DatasetCsv, bool], images: Sequence[str]
) -> Iterator[Grouping]:
    table, is_other = found
    rows = [table.row_of(image) for image in images]
    if not any(rows):
        return
    for at, name in enumerate(table.header):
        cells = [row[at] for row in rows if row is not None and len(row) > at and row[at]]
        least = MIN_GROUPS if _is_named(name) else MIN_UNNAMED_GROUPS
        num_groups = len(set(cells))
        if (
            name
            and name not in _NO_GROUPS
            and is_telling(len(cells), num_groups, len(images), least_groups=least)
        ):
            yield Grouping(
                f"csv:{name}",
                f"column {name} of {table.path.name}",
                num_groups,
                len(cells),
                str(table.path) if is_other else "",
            )


def _is_named(column: str) -> bool:
    """Return whether the name of a column says that it holds slides, cases or patients."""
    name = column.removeprefix("csv:")
    return name in (*SLIDE_COLUMNS, *CASE_COLUMNS) or any(word in name for word in _GROUP_WORDS)
