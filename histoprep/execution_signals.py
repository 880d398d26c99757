"""SIGINT and SIGTERM as errors of ours, so that every command stops the same way."""

from __future__ import annotations

import contextlib
import signal
import types
from collections.abc import Iterator

from histoprep.errors import Interrupted, Terminated


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted` and `Terminated` while a command runs."""

    def stop(number: int, _: types.FrameType | None) -> None:
        kind = Interrupted if number == signal.SIGINT else Terminated
        raise kind(
            f"stopped by {signal.Signals(number).name}; finished work was kept",
            hint="run the same command again to go on from there",
        )

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
