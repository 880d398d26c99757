"""SIGINT and SIGTERM: an error at once outside the training loop, a wish to be granted after the
step inside it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator

from trainer.errors import Interrupted, Terminated

_STOPS = (signal.SIGINT, signal.SIGTERM)
_LOOK_EVERY_S = 0.1
# How long a second signal leaves to the handler.
_AGAIN_LIMIT_S = 1.0
_states: list[Callable[[], str]] = [lambda: "finished work is kept"]


class _Handler:
    """Calls a function for signals, and counts how often any handler of ours was called."""

    num_called = 0

    def __init__(self, act: Callable[[int, types.FrameType | None], None]) -> None:
        self._act = act

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        _Handler.num_called += 1
        self._act(number, frame)


@contextlib.contextmanager
def _handling(handler: Callable[[int, types.FrameType | None], None]) -> Iterator[None]:
    """Have `handler` called for SIGINT and SIGTERM; does nothing outside the main thread, where
    Python forbids it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    counted = _Handler(handler)
    before = {number: signal.signal(number, counted) for number in _STOPS}
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


@contextlib.contextmanager
def ending_blocked_waits(limit_s: float = 10.0) -> Iterator[None]:
    """End this process on SIGINT and SIGTERM also where it waits for another process inside a
    library: no handler runs there, since Python does not.

    Python itself writes down a signal when it comes, and a thread reads that. When the handler has
    not run `limit_s` seconds later, or one second after a second signal, the process ends with 128
    and the number of the signal. Checkpoints are whole at any time. Does nothing outside the main
    thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    _wakeups.add(write)
    threading.Thread(target=_watch, args=(read, limit_s), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        _wakeups.discard(write)
        os.close(write)


_wakeups: set[int] = set()


def _forget_wakeups() -> None:
    """In a process that was forked, signals are its own, not those of the one it comes from."""
    if _wakeups:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_wakeups)


def _watch(read: int, limit_s: float) -> None:
    """Read signals until the other end of the pipe is closed."""
    settled = _Handler.num_called
    while numbers := os.read(read, 64):
        number = next((item for item in numbers if item in _STOPS), None)
        if number is None or not isinstance(signal.getsignal(number), _Handler):
            settled = _Handler.num_called
            continue
        deadline = time.monotonic() + limit_s
        while _Handler.num_called == settled:
            if select.select([read], [], [], _LOOK_EVERY_S)[0]:
                if not os.read(read, 64):
                    break
                deadline = min(deadline, time.monotonic() + _AGAIN_LIMIT_S)
            if time.monotonic() >= deadline and _Handler.num_called == settled:
                _end_blocked(number)
        while select.select([read], [], [], 0)[0] and os.read(read, 64):
            pass
        settled = _Handler.num_called
    os.close(read)


def _end_blocked(number: int) -> None:
    name = signal.Signals(number).name
    os.write(
        2,
        f"stopped at once by {name} while waiting for another process of this run; the last"
        " checkpoint is whole\n".encode(),
    )
    os._exit(128 + number)


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
