"""decisions.csv: what somebody decided of tiles, a row a tile, only ever appended to.

The columns are `tile_id`, `action` (drop, keep, tag, untag or undo), `tag` (the tag, else empty),
`decision` (a number from 1; rows with the same number were decided together), and `who` and
`when`, empty unless they were asked for. `keep` takes a drop back. `undo` names in `decision` the
number of the decision that it takes back; its `tile_id` is empty.

A row that a crash cut off has fewer cells than the header, since what counts comes first.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from histoprep.errors import UsageError
from histoprep.names import to_name, to_text

HEADER = ("tile_id", "action", "tag", "decision", "who", "when")
_FIRST_LINE = ",".join(HEADER)


class Action(StrEnum):
    """What a row of decisions.csv does."""

    DROP = "drop"
    KEEP = "keep"
    TAG = "tag"
    UNTAG = "untag"
    UNDO = "undo"


class Row(NamedTuple):
    """A row of decisions.csv; `tile_id` as in tiles.parquet."""

    tile_id: str
    action: Action
    tag: str
    decision: int
    who: str = ""
    when: str = ""


@dataclass
class Decisions:
    """What holds after all rows.

    Attributes:
        dropped: Ids of the tiles that are dropped.
        tags: The tags of each tile that has any, by its id.
        last: The number of the last decision, 0 without one.
        undoable: The numbers of the decisions that were not taken back, in order.
    """

    dropped: set[str] = field(default_factory=set)
    tags: dict[str, set[str]] = field(default_factory=dict)
    last: int = 0
    undoable: list[int] = field(default_factory=list)


def is_decisions(data: bytes) -> bool:
    """Return whether the bytes of a file begin as decisions.csv does."""
    return data.startswith(_FIRST_LINE.encode())


def format_rows(rows: Iterable[Row], *, header: bool = False) -> bytes:
    """Return rows as they are appended, names as the bytes that they are on disk."""
    lines = [*([HEADER] if header else []), *((to_name(row.tile_id), *row[1:]) for row in rows)]
    text = "".join(f"{','.join(_cell(str(cell)) for cell in line)}\n" for line in lines)
    return text.encode("utf-8", "surrogateescape")


def _cell(text: str) -> str:
    # Python's writer leaves a carriage return without quotes, at which readers break the row.
    is_plain = not any(sign in text for sign in '",\r\n')
    return text if is_plain else '"' + text.replace('"', '""') + '"'


def parse_rows(data: bytes) -> tuple[list[Row], int]:
    """Return the rows of decisions.csv, and how many of its bytes are whole rows.

    What is behind these is the beginning of a row that a crash cut off; it was never confirmed.

    Raises:
        UsageError: A whole row is no decision; it says which line.
    """
    whole = _whole_bytes(data)
    text = data[:whole].decode("utf-8", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""))
    rows = []
    for cells in reader:
        if tuple(cells) == HEADER or not cells:
            continue
        rows.append(_row(cells, reader.line_num))
    return rows, whole


def _whole_bytes(data: bytes) -> int:
    """Return the end of the last line break that is not inside quotes."""
    # Quotes inside of a quoted cell are doubled, so that an even number is outside.
    end = len(data)
    while (end := data.rfind(b"\n", 0, end)) >= 0:
        if data.count(b'"', 0, end) % 2 == 0:
            return end + 1
    return 0


def _row(cells: list[str], line: int) -> Row:
    try:
        tile_id, action, tag, decision, who, when = cells
        return Row(to_text(tile_id), Action(action), to_text(tag), int(decision), who, when)
    except ValueError:
        raise UsageError(
            f"line {line} of the decisions is no decision",
            seen=",".join(map(to_text, cells))[:200],
            expected=_FIRST_LINE,
            hint="restore the file from a copy, or take that line out",
        ) from None


def replay(rows: Iterable[Row]) -> Decisions:
    """Return what holds after all rows; decisions that were taken back count nowhere."""
    listed = list(rows)
    undone = {row.decision for row in listed if row.action is Action.UNDO}
    state = Decisions(last=max((row.decision for row in listed), default=0))
    for row in listed:
        if row.action is not Action.UNDO and row.decision not in undone:
            _apply(state, row)
    return state


def _apply(state: Decisions, row: Row) -> None:
    if row.decision not in state.undoable[-1:]:
        state.undoable.append(row.decision)
    if row.action is Action.DROP:
        state.dropped.add(row.tile_id)
    elif row.action is Action.KEEP:
        state.dropped.discard(row.tile_id)
    elif row.action is Action.TAG:
        state.tags.setdefault(row.tile_id, set()).add(row.tag)
    else:
        tags = state.tags.get(row.tile_id, set())
        tags.discard(row.tag)
        if not tags:
            state.tags.pop(row.tile_id, None)


def read_dropped(path: Path) -> Iterator[str]:
    """Yield the ids of the tiles that decisions.csv drops, in order; raises UsageError."""
    try:
        rows, _ = parse_rows(path.read_bytes())
    except UsageError as error:
        error.path = str(path)
        raise
    yield from sorted(replay(rows).dropped)
