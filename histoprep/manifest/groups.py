"""The groups that a split keeps together: how they are read from names, and whether there are
any.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from histoprep.errors import IntegrityError, UsageError
from histoprep.manifest.given import IncludedTiles
from histoprep.scanning import ScanOptions
from histoprep.scanning.pixel_groups import PIXELS, groups_by_names, joined_with_pixels
from histoprep.schemas.manifest import open_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import TileTable


@contextmanager
def regrouped(
    workspace: Workspace, group_by: str | None, *, no_groups: bool = False
) -> Iterator[ScanOptions | None]:
    """Yield how the data set was scanned last, but grouped by `group_by` or not at all; None, which
    means unchanged, without either.

    When what is done inside is refused (UsageError), a tiles table that was made with the new
    groups is given the earlier ones back.
    """
    earlier = TileTable(workspace).requested.scan
    try:
        yield replace(earlier, group_by=group_by) if group_by is not None or no_groups else None
    except UsageError:
        if TileTable(workspace).requested.scan != earlier:
            from histoprep.tiles.table import ensure_tiles

            ensure_tiles(workspace, earlier)
        raise


def check_groups_stay(workspace: Workspace, group_by: str | None, target: Path) -> None:
    """Raise UsageError when the manifest at `target` kept groups apart and the new one in its place
    would not know any.

    Raises IntegrityError when that manifest is damaged, so that nobody can tell.
    """
    if (
        not target.exists()
        or group_by is not None
        or TileTable(workspace).requested.scan.group_by is not None
    ):
        return
    hint = "name the groups with --group-by, or say --no-groups to split tile by tile"
    try:
        earlier = open_manifest(target).recipe.get("grouping")
    except IntegrityError as error:
        what = (
            "the manifest in this place cannot be read, so that nobody can tell whether it kept"
            " groups apart"
        )
        raise IntegrityError(what, path=target, seen=error.what, hint=hint) from error
    if earlier is not None:
        what = "the manifest in this place keeps groups apart, and this one would not"
        raise UsageError(
            what,
            path=target,
            seen="no --group-by",
            expected=f"--group-by {shlex.quote(earlier)}",
            hint=hint,
        )


def left_groups_warning(workspace: Workspace, group_by: str | None) -> str | None:
    """Return a warning when groups of pixels alone take the place of those that were known."""
    earlier = groups_by_names(TileTable(workspace).requested.scan.group_by)
    if group_by != PIXELS or earlier is None:
        return None
    return (
        f"--group-by pixels takes the place of --group-by {shlex.quote(earlier)}: slides that no"
        " pixel joins may be in two splits; with both:"
        f" --group-by {shlex.quote(joined_with_pixels(earlier))}"
    )


def ungrouped_warning(source: IncludedTiles, grouped: np.ndarray, group_by: str) -> Iterator[str]:
    """Yield a warning when some tiles have no group (bool [n] says which have); raises UsageError
    when none has one.
    """
    alone = np.flatnonzero(~grouped)
    if not len(alone):
        return
    first = source.describe(alone[:1])[0]["tile_id"]
    if len(alone) == len(grouped):
        expected = "a regular expression that is found in tile ids, `folder`, or csv:COLUMN"
        raise UsageError(
            f"--group-by {group_by} finds no group for any tile",
            seen=f"tile {first}",
            expected=expected,
        )
    yield (
        f"--group-by {group_by} finds no group for {len(alone):,} of {len(grouped):,} tiles, such"
        f" as {first} (HP105): they are split one by one"
    )
