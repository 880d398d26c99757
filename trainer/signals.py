"""SIGINT and SIGTERM: an error at once outside the training loop, a wish to be granted after the
step inside it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import types
from collections.abc import Callable, Iterator

from trainer.errors import Interrupted, Terminated

_STOPS = (signal.SIGINT, signal.SIGTERM)
_states: list[Callable[[], str]] = [lambda: "finished work is kept"]


@contextlib.contextmanager
def _handling(handler: Callable[[int, types.FrameType | None], None]) -> Iterator[None]:
    """Have `handler` called for SIGINT and SIGTERM; does nothing outside the main thread, where
    Python forbids it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _STOPS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted` and `Terminated` while a command runs.

    A stop that something swallowed is raised again at the end: a command that was stopped does not
    end as if it were not.
    """
    pending: list[Interrupted] = []

    def stop(number: int, _: types.FrameType | None) -> None:
        pending.append(stopped_by(number, _states[-1]()))
        raise pending[-1]

    with _handling(stop):
        yield
    if pending:
        raise pending[-1]


@contextlib.contextmanager
def saying(state: Callable[[], str]) -> Iterator[None]:
    """Have a stop inside this block say `state()`: what is kept."""
    _states.append(state)
    try:
        yield
    finally:
        _states.pop()


def stopped_by(number: int, state: str) -> Interrupted:
    """Return the error of a run that signal `number` stopped; `state` says what was saved."""
    kind = Interrupted if number == signal.SIGINT else Terminated
    return kind(
        f"stopped by {signal.Signals(number).name}; {state}",
        hint="rerun the same command to resume",
    )


class StopRequest:
    """Remembers the first SIGINT or SIGTERM; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take note of signals inside this block, instead of raising."""
        with _handling(self._take_note):
            yield self

    def _take_note(self, number: int, _: types.FrameType | None) -> None:
        if self.number is not None:
            name = signal.Signals(number).name
            os.write(2, f"stopped at once by {name}; the last checkpoint is whole\n".encode())
            os._exit(128 + number)
        self.number = number
