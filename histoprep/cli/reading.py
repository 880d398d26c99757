"""What `repair`, `remap`, `manifest` and `stats` begin with: the tiles table, and what of the data
set is not in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histoprep import console
from histoprep.errors import ExitCode
from histoprep.mask_reading import UNDECIDED

if TYPE_CHECKING:
    from histoprep.mask_reading import Reading
    from histoprep.scanning import ScanOptions
    from histoprep.schemas.workspace import Workspace


def read_tiles(
    workspace: Workspace,
    scan_options: ScanOptions | None = None,
    *,
    workers: int | None,
    reading: Reading | None = None,
    verify: bool = False,
) -> ExitCode:
    """Bring the tiles table up to date and return what a command that ends well exits with.

    That is INCOMPLETE when folders cannot be listed; they are named in warnings. Options as in
    `ensure_tiles`. With `verify` every file is read, and raises IntegrityError for a mask that
    `repair` wrote and that was changed since.
    """
    from histoprep.schemas.repaired import open_repaired
    from histoprep.tiles.options import chosen_words, earlier_options
    from histoprep.tiles.table import broken_links, ensure_tiles, unlisted_folders

    earlier = earlier_options(workspace)
    kept = chosen_words(workspace, earlier.scan) if scan_options is None else []
    if kept := [*kept, *([earlier.tiles.mask_reading.describe()] if earlier.tiles.reading else [])]:
        console.note(f"as in the last audit: {', '.join(kept)}")
    with console.phases() as phases:
        ensure_tiles(
            workspace,
            scan_options,
            workers=workers,
            phases=phases,
            warn=console.warn,
            note=console.note,
            reading=reading or UNDECIDED,
            verify=verify,
        )
    if verify and (repaired := open_repaired(workspace.folder)) is not None:
        repaired.check_files(workspace.root, whole=True)
    unlisted = unlisted_folders(workspace)
    left_out = [f"{folder}: {reason}; what is in it is left out" for folder, reason in unlisted]
    console.warn_each(left_out, total=len(left_out), rest="histoprep audit lists all folders")
    broken = [f"{path}: {reason}; it is left out" for path, reason in broken_links(workspace)]
    console.warn_each(broken, total=len(broken), rest="histoprep audit lists all links")
    return ExitCode.INCOMPLETE if unlisted else ExitCode.OK
