"""How the engine tells what it does: callables that the command line fills with the console, and
tests with nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Meter(Protocol):
    """Something that is told how much is done."""

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more as done."""


class _Deaf:
    def advance(self, amount: int = 1) -> None:
        """Do nothing."""


def _no_progress(
    label: str, total: int | None, unit: str
) -> contextlib.AbstractContextManager[Meter]:
    return contextlib.nullcontext(_Deaf())


def _say_nothing(text: str) -> None:
    """Swallow `text`."""


@dataclass(frozen=True)
class Voice:
    """`note` and `warn` take one line or paragraph; `progress(label, total, unit)` is a context
    that gives a meter.
    """

    note: Callable[[str], Any] = _say_nothing
    warn: Callable[[str], Any] = _say_nothing
    progress: Callable[[str, int | None, str], contextlib.AbstractContextManager[Meter]] = (
        _no_progress
    )


SILENT = Voice()
