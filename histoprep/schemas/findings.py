"""findings.parquet: every file that a finding of the last audit names, one a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from histoprep import tables

KIND, VERSION = "findings", "1.1"

SCHEMA = pa.schema(
    [
        ("code", pa.string()),
        ("name", pa.string()),
        ("subcode", pa.string()),
        ("severity", pa.string()),
        ("where", pa.string()),
        ("path", pa.string()),
        ("detail", pa.string()),
        ("known", pa.bool_()),
    ]
)


def read_findings(path: Path) -> tuple[dict[str, Any], Iterator[pa.Table]]:
    """Return the header of a table of findings and its rows in pieces.

    The header has `rules`, the rules that were applied: scope by code; and `tiles_digest`, the
    digest of the tiles table that they were applied to.

    Raises:
        IntegrityError: It is damaged.
        FileNotFoundError: There is none.
    """
    opened, header = tables.open_table(path, kind=KIND, schema_version=VERSION)
    return header, tables.read_batches(opened, SCHEMA.names)
