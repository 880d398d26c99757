"""How work says how far it is, to whoever wants to know: a terminal, a test, nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Called with how much is done and how much there is, which is 0 where that is not known.
Advance = Callable[[int, int], None]
# Called when a phase of a command begins, with its name (`reading`) and the unit of what it counts
# (`tiles`); returns what to call as the phase goes on.
Phases = Callable[[str, str], Advance]


def silent(done: int, total: int) -> None:
    """Say nothing; an `Advance`."""


def silent_phases(label: str, unit: str) -> Advance:
    """Say nothing; a `Phases`."""
    return silent


@dataclass(slots=True)
class TaskProgress:
    """Progress of work that is done in tasks: what is finished and what is under way.

    Never goes back: a task that is run again, since its worker died, counts on from where it was.
    """

    advance: Advance
    total: int
    finished: int = 0
    shown: int = 0

    def add(self, amount: int) -> None:
        """Count `amount` more as finished."""
        self.finished += amount
        self._show(self.finished)

    def under_way(self, amount: int) -> None:
        """Say that tasks that are not finished have done `amount` together."""
        self._show(self.finished + amount)

    def _show(self, amount: int) -> None:
        if amount > self.shown:
            self.shown = amount
            self.advance(amount, self.total)
