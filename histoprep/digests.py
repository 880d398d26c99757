"""Digests: XXH3 of bytes and of text, the same on every machine."""

from __future__ import annotations

from pathlib import Path

import xxhash

_PIECE_BYTES = 1 << 20


def digest(data: bytes) -> str:
    """Return the XXH3-128 of `data` as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def raw_digest(data: bytes) -> bytes:
    """Return the XXH3-128 of `data` as 16 bytes."""
    return xxhash.xxh3_128_digest(data)


def digest_text(text: str) -> str:
    """Return the XXH3-128 of a text in UTF-8, as 32 hex digits."""
    return digest(_encoded(text))


def file_digest(path: Path) -> str:
    """Return the XXH3-128 of a file's bytes as 32 hex digits; raises OSError."""
    state = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE_BYTES):
            state.update(piece)
    return state.hexdigest()


def hash_text(text: str) -> int:
    """Return the XXH3-64 of a text in UTF-8, in [0, 2^64)."""
    return xxhash.xxh3_64_intdigest(_encoded(text))


def _encoded(text: str) -> bytes:
    # Names that are not UTF-8 hold lone surrogates.
    return text.encode("utf-8", "surrogatepass")


class RunningDigest:
    """A digest of texts that come one after another; where one ends matters."""

    def __init__(self) -> None:
        """Begin with no text."""
        self._state = xxhash.xxh3_128()

    def update(self, text: str) -> None:
        """Add a text."""
        self._state.update(_encoded(text) + b"\0")

    def value(self) -> str:
        """Return the digest of everything so far, as 32 hex digits."""
        return self._state.hexdigest()
