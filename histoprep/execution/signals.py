"""SIGINT and SIGTERM as errors of ours, so that every command stops the same way."""

from __future__ import annotations

import contextlib
import os
import signal
import types
from collections.abc import Callable, Iterator

from histoprep.errors import Interrupted, Terminated

_KEPT = "finished work was kept"
_cleanups: list[Callable[[], None]] = []
_interrupt_cleanups: list[Callable[[], None]] = []


@contextlib.contextmanager
def at_stop(cleanup: Callable[[], None]) -> Iterator[None]:
    """Have `cleanup` called when the command stops by an error inside this block.

    For what a suspended generator holds: it is closed only when the error's traceback is gone.
    """
    _cleanups.append(cleanup)
    try:
        yield
    finally:
        _cleanups.remove(cleanup)


def when_interrupted(cleanup: Callable[[], None]) -> None:
    """Have `cleanup` called, once, when a signal stops the command."""
    if cleanup not in _interrupt_cleanups:
        _interrupt_cleanups.append(cleanup)


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted` and `Terminated` while a command runs.

    The first one lets the command clean up; the second ends the process at once, which loses
    nothing either: everything on disk is whole, and workers leave with their parent. A stop that
    something swallowed is raised again at the end: a command that was stopped does not end as if it
    were not.
    """
    pending: Interrupted | None = None

    def stop(number: int, _: types.FrameType | None) -> None:
        nonlocal pending
        name = signal.Signals(number).name
        if pending is not None:
            os.write(2, f"stopped at once by {name}; {_KEPT}\n".encode())
            os._exit(128 + number)
        kind = Interrupted if number == signal.SIGINT else Terminated
        pending = kind(f"stopped by {name}; {_KEPT}", hint="rerun the same command to resume")
        raise pending

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
        if pending is not None:
            raise pending
    except BaseException as error:
        by_signal = _interrupt_cleanups if isinstance(error, Interrupted) else []
        for cleanup in (*reversed(_cleanups), *by_signal):
            cleanup()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
