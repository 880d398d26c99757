"""`histoprep collect`."""

from __future__ import annotations

from pathlib import Path

from histoprep import console
from histoprep.cli.options import Root, WorkspaceFolder
from histoprep.durable import locked
from histoprep.schemas.workspace import Workspace


def collect(root: Root = Path(), workspace: WorkspaceFolder = None) -> None:
    """Merge the results of array jobs (histoprep audit --part i/n, histoprep remap --part i/n).

    Tables and ledgers have the same bytes as those of a single run. After the parts of an audit,
    run histoprep audit with the same options.

    Examples:
        histoprep collect tiles
    """
    from histoprep.remapping import collect_remap, unfinished_remaps
    from histoprep.tiles.table import TileTable

    where = Workspace.of(root, workspace)
    with locked(where.folder):
        made = TileTable.of_parts(where).collect()
        console.out(f"{made.num_tiles:,} tiles in {made.path}")
        for out in unfinished_remaps(where):
            console.out(f"{collect_remap(where, out).num_written:,} masks in {out}")
    console.next_steps(("histoprep", "audit", root))
