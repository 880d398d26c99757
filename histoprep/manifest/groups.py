"""The groups that a split keeps together: how they are read from names, and whether there are any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from histoprep.errors import UsageError
from histoprep.manifest.given import UsableTiles
from histoprep.scan import ScanOptions
from histoprep.tiles.table import TileTable
from histoprep.workspace import Workspace


@contextmanager
def regrouped(workspace: Workspace, group_by: str | None) -> Iterator[ScanOptions | None]:
    """Yield how the data set was scanned last, but grouped by `group_by`; None, which means unchanged, without it.

    When what is done inside is refused (UsageError), a tiles table that was made with the new groups is given the earlier ones back.
    """
    earlier = TileTable(workspace).options.scan
    try:
        yield None if group_by is None else replace(earlier, group_by=group_by)
    except UsageError:
        if TileTable(workspace).options.scan != earlier:
            from histoprep.audit import ensure_tiles

            ensure_tiles(workspace, earlier)
        raise


def ungrouped_warning(source: UsableTiles, grouped: np.ndarray, group_by: str) -> Iterator[str]:
    """Yield a warning when some tiles have no group (bool [n] says which have); raises UsageError when none has one."""
    alone = np.flatnonzero(~grouped)
    if not len(alone):
        return
    first = source.describe(alone[:1])[0]["tile_id"]
    if len(alone) == len(grouped):
        expected = "a regular expression that is found in tile ids, `folder`, or csv:COLUMN"
        raise UsageError(f"--group-by {group_by} finds no group for any tile", seen=f"tile {first}", expected=expected)
    yield f"--group-by {group_by} finds no group for {len(alone):,} of {len(grouped):,} tiles, such as {first} (HP105): they are split one by one"
