"""Files that were changed, and a file system that says they were not."""

from __future__ import annotations

from pathlib import Path

from histoprep.checksums import STATES
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.listing import Listing
from histoprep.tiles.options import earlier_options


def believe(root: Path, folder: Path | None = None) -> None:
    """Make the files of a data set, of their old sizes and modification times, those that were read
    last: whoever reads one now sees it.
    """
    workspace = Workspace.of(root, folder)
    listing = Listing()
    for path in listing.walk(workspace.root, earlier_options(workspace)):
        listing.note_keys([path])
    listing.states.write(workspace.folder / STATES)
