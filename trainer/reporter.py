"""Where the engine reports its progress: the console under the command line, nowhere in tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from histoprep.console import Meter


class _NullMeter:
    def advance(self, amount: int = 1) -> None:
        """Do nothing."""


def _no_progress(
    label: str, total: int | None, unit: str
) -> contextlib.AbstractContextManager[Meter]:
    return contextlib.nullcontext(_NullMeter())


def _report_nothing(text: str) -> None:
    """Ignore `text`."""


@dataclass(frozen=True)
class Reporter:
    """Where notes, warnings and progress go; by default nowhere.

    Attributes:
        note: Takes a line or paragraph of information.
        warn: Takes a line or paragraph that the user should act on.
        progress: Takes a label, the total (None when unknown) and the unit; returns a context
            whose value is a meter.
    """

    note: Callable[[str], Any] = _report_nothing
    warn: Callable[[str], Any] = _report_nothing
    progress: Callable[[str, int | None, str], contextlib.AbstractContextManager[Meter]] = (
        _no_progress
    )


NULL_REPORTER = Reporter()
"""Reports nothing."""
