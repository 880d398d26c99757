"""Counts and lists as messages have them: `1 mask`, `2 masks`, `a, b and 3 more`."""

from __future__ import annotations

from collections.abc import Sequence

NUM_SHOWN = 10


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: `1 mask`, `1,234 masks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def unmatched_warning(what: str, names: Sequence[str], total: int) -> str:
    """Return the warning of a table or list some of whose names fit no tile.

    Args:
        what: The table or list.
        names: The names that fit none, at least one.
        total: How many names there are.
    """
    return (
        f"{len(names):,} of {plural(total, 'name')} in {what} fit no tile and change nothing, such"
        f" as {names[0]}"
    )


def first_of(items: Sequence[object], *, separator: str = ", ", limit: int = NUM_SHOWN) -> str:
    """Return the first items and how many more there are: `a, b and 3 more`.

    Args:
        items: What to list; each as its text.
        separator: What stands between two items. After one with a semicolon the rest is set off by
            it, too: `a; b; and 3 more`.
        limit: How many items are written out.
    """
    more = len(items) - limit
    end = "" if more <= 0 else f"{separator if ';' in separator else ' '}and {more:,} more"
    return separator.join(map(str, items[:limit])) + end
