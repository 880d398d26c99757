"""How fast a run is: images a second and the share of time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")


class Stopwatch:
    """Measures between two readings; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._waited_s = 0.0
        self._images = 0
        self._since = clock()

    def waiting(self, items: Iterator[_Item]) -> Iterator[_Item]:
        """Yield `items`, counting the time until each arrives as waiting."""
        while True:
            started = self._clock()
            item = next(items, None)
            self._waited_s += self._clock() - started
            if item is None:
                return
            yield item

    def count(self, images: int) -> None:
        """Count images as trained on."""
        self._images += images

    def pause(self) -> Callable[[], None]:
        """Stop the clock until the returned function is called: validation and checkpoints are no
        training.
        """
        stopped = self._clock()

        def go_on() -> None:
            self._since += self._clock() - stopped

        return go_on

    def read(self) -> dict[str, float]:
        """Return `images_per_s` and `data_wait_share` since the last reading, and begin anew."""
        now = self._clock()
        elapsed_s = max(now - self._since, 1e-9)
        reading = {
            "images_per_s": self._images / elapsed_s,
            "data_wait_share": min(1.0, self._waited_s / elapsed_s),
        }
        self._waited_s, self._images, self._since = 0.0, 0, now
        return reading
