"""`histoprep collect`."""

from __future__ import annotations

from pathlib import Path

from histoprep import console
from histoprep.cli.options import Root, WorkspaceFolder


def collect(root: Root = Path(), workspace: WorkspaceFolder = None) -> None:
    """Merge the parts that array jobs (histoprep audit --part i/n) have made into tiles.parquet.

    The table has the same bytes as one made in a single run. Then run histoprep audit with the same options.
    """
    from histoprep.durable import locked
    from histoprep.tile_table import TileTable
    from histoprep.workspace import Workspace

    where = Workspace.of(root, workspace)
    with locked(where.folder):
        made = TileTable.of_parts(where).collect()
    console.out(f"{made.num_tiles:,} tiles in {made.path}")
