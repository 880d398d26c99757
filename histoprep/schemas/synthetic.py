"""Which real tiles belong to a synthetic data set: a note in its workspace, which `trainer sample`
writes and `histoprep browse` reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from histoprep import checksums
from histoprep.errors import IntegrityError

REAL = "real.json"
_PATH, _RELATIVE = "path", "relative"


def write_real(workspace: Path, sources: Iterable[str | Path]) -> None:
    """Publish the note; hold the lock of the workspace.

    Args:
        workspace: Workspace of the synthetic data set.
        sources: Manifests, or folders of shards, of the real tiles, the likeliest first: that of
            the masks, then that of the training.
    """
    places = dict.fromkeys(str(Path(source).absolute()) for source in sources)
    content = [
        {_PATH: place, _RELATIVE: os.path.relpath(place, workspace.absolute())} for place in places
    ]
    checksums.publish_json(workspace, REAL, {"real": content})


def read_real(workspace: Path) -> list[tuple[str, Path | None]]:
    """Return the sources that a note names, each as stated and where it is now: there, at the same
    place relative to the workspace, or None; nothing without a note, or for a damaged one.
    """
    try:
        entries = checksums.read_json(workspace / REAL)["real"]
        return [(str(entry[_PATH]), _place_of(entry, workspace)) for entry in entries]
    except (OSError, IntegrityError, KeyError, TypeError):
        return []


def _place_of(entry: dict[str, Any], workspace: Path) -> Path | None:
    places = Path(entry[_PATH]), Path(os.path.normpath(workspace.absolute() / entry[_RELATIVE]))
    return next((place for place in places if place.exists()), None)
