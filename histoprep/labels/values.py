"""Which values a source label stands for: single ids, ranges and lists of them, or colours.

A set of values is a tuple of closed ranges `(first, last)`, in order, disjoint and not adjacent.
A file spells it as `7`, `1-400`, `3, 7, 9-12` or, where masks are colour-coded, `"#ff0000"` (the
id 0xff0000) and `"#ff0000, #00ff00"`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from histoprep.labels.strict_yaml import DECIMAL, NUMBER_LIKE, Text, fault, whole_number

MAX_SOURCE_ID = (1 << 32) - 1
REST = "*"
MAX_LISTED_COLOURS = 1024

Ranges = tuple[tuple[int, int], ...]

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_RANGE = re.compile(r"([^-]+)-([^-]+)")
_EXPECTED = (
    'a number such as 7, a range 1-400, a list 3, 7, 9-12, a colour "#ff0000", or "*" for all'
    " other values"
)
_LIST_HINT = "put a blank after each comma of a list: 3, 7, 9"
_COLOUR_HINT = 'write six hexadecimal digits in quotes, two each for red, green and blue: "#ff0000"'


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the same values as disjoint ranges in order."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return tuple(result)


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return all values 0 to `MAX_SOURCE_ID` that are in none of the ranges."""
    result: list[tuple[int, int]] = []
    begin = 0
    for first, last in merged(ranges):
        if begin < first:
            result.append((begin, first - 1))
        begin = last + 1
    if begin <= MAX_SOURCE_ID:
        result.append((begin, MAX_SOURCE_ID))
    return tuple(result)


def first_overlap(ranges: Iterable[tuple[int, int]]) -> int | None:
    """Return the smallest value that is in two of the ranges, or None."""
    end = -1
    for first, last in sorted(ranges):
        if first <= end:
            return first
        end = last
    return None


def spelt(ranges: Ranges, *, colours: bool = False) -> str:
    """Return the values as a file spells them, without quotes: `3, 7, 9-12` or `#ff0000`.

    Neighbouring colours are listed one by one, since a file has no ranges of colours. Longer
    ranges, which only `*` has, become `#000001-#fffffe`.
    """
    parts: list[str] = []
    for first, last in ranges:
        if colours and last - first < MAX_LISTED_COLOURS:
            parts += [f"#{value:06x}" for value in range(first, last + 1)]
        else:
            ends = [f"#{end:06x}" if colours else str(end) for end in (first, last)]
            parts.append(ends[0] if first == last else "-".join(ends))
    return ", ".join(parts)


def spells_values(text: str) -> bool:
    """Return whether a key reads as a range, a list or a colour rather than as a name or number."""
    parts = [part.strip() for part in text.split(",")]
    return (
        text == text.strip()
        and not DECIMAL.fullmatch(text)
        and all(
            _COLOUR.fullmatch(part)
            or DECIMAL.fullmatch(part)
            or ((pair := _RANGE.fullmatch(part)) and all(map(DECIMAL.fullmatch, pair.groups())))
            for part in parts
        )
    )


def read_values(text: Text, path: Path, what: str) -> tuple[Ranges, bool]:
    """Return the values that `text` spells, and whether it spells them as colours.

    Raises:
        LabelMapError: It spells something else, a value twice, or colours beside numbers.
    """
    parts = text.value.split(",") if "," in text.value else [text.value]
    if len(parts) > 1:
        _check_list(parts, text, path, what)
        parts = [part.strip(" ") for part in parts]
    ranges = [_read_part(Text(part, text.line), path, what) for part in parts]
    coloured = {part.startswith("#") for part in parts}
    if len(coloured) > 1:
        raise fault(
            path, text.line, f"{what} mixes colours and numbers", seen=repr(text.value[:60]),
            expected="colours alone for colour-coded masks, numbers alone for others",
        )  # fmt: skip
    twice = first_overlap(ranges)
    if twice is not None:
        shown = f"#{twice:06x}" if coloured == {True} else twice
        raise fault(
            path, text.line, f"{what} lists the value {shown} twice", seen=repr(text.value[:60]),
            hint=_COLOUR_HINT if len(parts) == 3 and coloured == {False} else None,
        )  # fmt: skip
    return merged(ranges), coloured == {True}


def _check_list(parts: list[str], text: Text, path: Path, what: str) -> None:
    seen = repr(text.value[:60])
    if not all(part.strip() for part in parts):
        raise fault(path, text.line, f"{what} has a comma too many", seen=seen, hint=_LIST_HINT)
    if not all(part.startswith(" ") for part in parts[1:]):
        raise fault(
            path, text.line, f"{what} may be a list or a number with a thousands separator",
            seen=seen, hint=f"{_LIST_HINT}; a number has no separator",
        )  # fmt: skip


def _read_part(part: Text, path: Path, what: str) -> tuple[int, int]:
    value = part.value
    if value.startswith("#"):
        return _read_colour(part, path, what)
    pair = _RANGE.fullmatch(value)
    if pair and value[:1].isdigit() and not NUMBER_LIKE.fullmatch(value):
        first, last = (
            whole_number(Text(end, part.line), path, f"an end of a range in {what}", MAX_SOURCE_ID)
            for end in pair.groups()
        )
        if first >= last:
            raise fault(
                path, part.line, f"a range in {what} must go up", seen=repr(value[:60]),
                expected=f"{last}-{first}" if last < first else str(first),
            )  # fmt: skip
        return first, last
    if NUMBER_LIKE.fullmatch(value.strip()):
        whole = whole_number(part, path, what, MAX_SOURCE_ID)
    else:
        whole = whole_number(part, path, what, MAX_SOURCE_ID, expected=_EXPECTED)
    return whole, whole


def _read_colour(part: Text, path: Path, what: str) -> tuple[int, int]:
    if _COLOUR.fullmatch(part.value):
        colour = int(part.value[1:], 16)
        return colour, colour
    reasons = (
        (r"#[0-9a-fA-F]{3}", "it has three digits"),
        (r"#[0-9a-fA-F]{4}|#[0-9a-fA-F]{8}", "it has an alpha channel, which masks do not keep"),
        (r"#[0-9a-fA-F]{6} *-.*", "colours have no order, so there is no range of them"),
    )
    reason = next(
        (why for form, why in reasons if re.fullmatch(form, part.value)), "it is not #rrggbb"
    )
    raise fault(
        path, part.line, f"{what} is not a plain colour: {reason}", seen=repr(part.value[:60]),
        expected='"#rrggbb"', hint=_COLOUR_HINT,
    )  # fmt: skip
