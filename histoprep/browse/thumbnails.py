"""Thumbnails on demand, kept in the workspace: made once for each state of a tile's files."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from histoprep.digests import digest_text
from histoprep.durable import publish_in_batch
from histoprep.schemas.workspace import THUMBNAILS

# Decoders need memory; more than a few at once would not be faster.
_NUM_AT_ONCE = 4


class ThumbnailCache:
    """Files of the workspace by a digest of what they show. A file that cannot be written, as on a
    full disk, is made again each time.
    """

    def __init__(self, workspace: Path) -> None:
        """Read nothing yet."""
        self._folder = workspace / THUMBNAILS
        self._slots = threading.BoundedSemaphore(_NUM_AT_ONCE)

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return the bytes of a thumbnail, made now if they are not there.

        Args:
            key: A text that differs for every content.
            make: Makes the bytes; what it raises is passed on, and nothing is kept.
        """
        name = digest_text(key)
        # Folders of some hundred files each.
        path = self._folder / name[:2] / name[2:]
        try:
            return path.read_bytes()
        except OSError:
            pass
        with self._slots:
            data = make()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            publish_in_batch(path, data)
        return data
