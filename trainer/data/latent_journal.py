"""The journal of a latent set: its request, then a line for each chunk with the bytes that it added
to each file and their digests.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from histoprep import checksums
from trainer.errors import LatentSetError

JOURNAL = "journal.jsonl"


def digest(data: bytes) -> str:
    """Return the XXH3-128 of bytes, in hex."""
    return xxhash.xxh3_128_hexdigest(data)


def format_line(value: dict[str, Any]) -> bytes:
    """Return a line of the journal."""
    return json.dumps(value, sort_keys=True).encode() + b"\n"


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Return the whole lines of the journal, the request first; empty when there is none.

    Raises:
        OSError: For one that cannot be read.
    """
    try:
        text = checksums.read_file(
            folder / JOURNAL, hint="copy the folder again, or encode again with --force"
        ).split(b"\n")
    except FileNotFoundError:
        return []
    # Up to the first line that a power cut left half written.
    return [*itertools.takewhile(bool, map(_parsed, text[:-1]))]


def read_chunks(
    folder: Path, lines: Sequence[Mapping[str, Any]], starts: Mapping[str, int]
) -> Iterator[dict[str, bytes]]:
    """Yield the bytes of each chunk by file, which begin at `starts`.

    Raises:
        LatentSetError: When they are not those that were written.
    """
    offsets = dict(starts)
    for line in lines:
        pieces = {
            name: _piece(folder / name, offsets[name], length)
            for name, length in line["bytes"].items()
        }
        for name, piece in pieces.items():
            if digest(piece) != line["digests"].get(name):
                seen = f"bytes {offsets[name]} to {offsets[name] + line['bytes'][name] - 1}"
                hint = "copy the folder again, or encode again with --force"
                raise LatentSetError(
                    "the latent set is damaged: bytes differ from their digest",
                    path=folder / name,
                    seen=seen,
                    hint=hint,
                )
            offsets[name] += len(piece)
        yield pieces


def _piece(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
