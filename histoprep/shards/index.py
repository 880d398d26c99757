"""The index of shards: the manifest, row for row, with where the members of each tile lie.

It is a manifest itself, so whatever reads manifests reads it. Beyond those its header has the
digest of the manifest it was made from and, of each shard, its size, number of tiles and digest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from histoprep import tables
from histoprep.errors import IntegrityError, UsageError
from histoprep.schemas.manifest import KIND, SCHEMA_VERSION, Manifest, folder_instead, open_manifest
from histoprep.schemas.shards import index_schema, is_index
from histoprep.shards.layout import INDEX
from histoprep.storage import is_address, open_storage


def write_index(
    path: Path, manifest: Manifest, rows: Iterable[pa.Table], facts: dict[str, Any]
) -> int:
    """Publish the rows of an index and return how many; `facts` join the manifest's header."""
    header = {
        name: value
        for name, value in manifest.header.items()
        if name not in ("kind", "schema_version", "tool_version")
    }
    columns = index_schema(manifest.label_map.num_classes, has_folds=manifest.num_folds > 0)
    return tables.write_table(
        path, rows, columns, kind=KIND, schema_version=SCHEMA_VERSION, metadata=header | facts
    )


def open_index(path: str | Path) -> Manifest:
    """Return the index in a file or in its folder, a path or an address; raises UsageError,
    IntegrityError when it is none.
    """
    manifest = open_any(path)
    if not is_index(manifest):
        raise UsageError(
            "this is a manifest of files, not an index of shards",
            path=path,
            hint="histoprep shard MANIFEST --out DIR",
        )
    return manifest


def open_any(path: str | Path) -> Manifest:
    """Return the manifest, or the index of shards, in a file or in its folder, a path or an
    address.
    """
    text = str(path)
    if is_address(text):
        return _fetch(text if text.endswith(".parquet") else f"{text.rstrip('/')}/{INDEX}")
    place = Path(text)
    if place.is_dir():
        if not (place / INDEX).exists():
            instead = folder_instead(place)
            if instead.expected is not None:
                raise instead
            hint = "histoprep shard MANIFEST --out DIR, which also goes on where it was stopped"
            raise UsageError("there is no index of shards in this folder", path=path, hint=hint)
        place /= INDEX
    return open_manifest(place)


def _fetch(address: str) -> Manifest:
    """Return the manifest at an address."""
    folder, _, name = address.rpartition("/")
    try:
        data = open_storage(folder).read(name)
    except OSError as error:
        raise UsageError(
            f"cannot read this manifest: {error.strerror or error}", path=address
        ) from error
    with tempfile.TemporaryDirectory(prefix="histoprep-") as parent:
        local = Path(parent, name)
        local.write_bytes(data)
        try:
            # It is open, and stays so when its name is gone.
            return open_manifest(local)
        except IntegrityError as error:
            raise IntegrityError(
                error.what, path=address, seen=error.seen, expected=error.expected, hint=error.hint
            ) from error
