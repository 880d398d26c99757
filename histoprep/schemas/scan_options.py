"""scan-options.json: the options with which a data set is scanned, kept for later commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histoprep.sealed_json import read_sealed_json, write_sealed_json

_KIND, _VERSION = "scan options", 1


def read_scan_options(
    path: Path, *, hint: str = "histoprep audit ROOT --forget, with what was chosen before"
) -> dict[str, Any]:
    """Return the root of the data set and the options of the last audit, as JSON values.

    Raises:
        IntegrityError: The file was changed since it was written; with `hint`.
        FileNotFoundError: There is none.
    """
    return read_sealed_json(path, kind=_KIND, version=_VERSION, hint=hint)


def write_scan_options(path: Path, content: dict[str, Any]) -> None:
    """Publish root and options (JSON values) durably; raises OutputError."""
    write_sealed_json(path, content, kind=_KIND, version=_VERSION)
