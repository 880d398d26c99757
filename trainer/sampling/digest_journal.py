"""The journal of a synthetic data set: size and digest of every file in it, a line a batch, so that
each is known as the one that was made.

`OUT.histoprep/digests.jsonl`. A later line replaces an earlier one. Each line has a digest of its
own; only the last may be half written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from histoprep import checksums
from histoprep.checksums import Checksum, Damage, Expected
from histoprep.digests import digest_text
from histoprep.errors import IntegrityError

JOURNAL = "digests.jsonl"
_HINT = "restore it from a copy, or make the images again: the same command with --force"


def append_digests(workspace: Path, files: Mapping[str, Checksum]) -> None:
    """Add a line with the checksums of `files`, by path relative to the data set, durably.

    Raises:
        OSError: When it cannot be written.
    """
    if not files:
        return
    content = {name: list(checksum) for name, checksum in files.items()}
    line = (
        json.dumps({"files": content, "line": _line_digest(content)}, sort_keys=True).encode()
        + b"\n"
    )
    with (workspace / JOURNAL).open("a+b") as stream:
        stream.seek(0)
        stream.truncate(_whole_bytes(stream.read()))
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())


def _whole_bytes(data: bytes) -> int:
    """Return how many bytes the whole lines have; a power cut leaves a piece of one behind them."""
    return data.rfind(b"\n") + 1


def _line_digest(content: Mapping[str, list[object]]) -> str:
    return digest_text(json.dumps(content, sort_keys=True))


def read_digests(workspace: Path) -> dict[str, Checksum]:
    """Return size and digest of every file by path relative to the data set, none without a
    journal.

    Raises:
        IntegrityError: For a damaged one.
    """
    path = workspace / JOURNAL
    try:
        data = checksums.read_file(path, hint=_HINT)
    except FileNotFoundError:
        return {}
    found: dict[str, Checksum] = {}
    for number, line in enumerate(data[: _whole_bytes(data)].split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            content = record["files"]
            if record["line"] != _line_digest(content):
                raise ValueError("it differs from its digest")
            found |= {name: Checksum(int(size), str(key)) for name, (size, key) in content.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"line {number} of the journal is damaged: {error}", path=path, hint=_HINT
            ) from error
    return found


def check_images(
    root: Path, workspace: Path, files: Mapping[str, Checksum], *, whole: bool
) -> list[Damage]:
    """Return the files of a data set that are gone or were changed since they were made; see
    `checksums.check_files`.
    """
    expected = (Expected(name, checksum) for name, checksum in files.items())
    return checksums.check_files(
        root, expected, whole=whole, states_path=workspace / checksums.IMAGE_STATES
    )
