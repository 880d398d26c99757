"""What tiles.parquet depends on besides the files, as options and as JSON in its header."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from histoprep import tables
from histoprep.errors import IntegrityError, UsageError
from histoprep.scan import ScanOptions, detect_layout
from histoprep.scan.layout import Layout
from histoprep.tiles import KIND, SCHEMA_VERSION, TileOptions
from histoprep.workspace import Workspace

PARTITION_TILES = 1000
TIME_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class TableOptions:
    """Everything that tiles.parquet depends on besides the files, and how the work is cut."""

    scan: ScanOptions = field(default_factory=ScanOptions)
    tiles: TileOptions = field(default_factory=TileOptions)
    sample: int | None = None
    reuse: bool = True
    partition_tiles: int = PARTITION_TILES
    time_limit_s: float = TIME_LIMIT_S

    def identity(self) -> dict[str, Any]:
        """Return what the rows depend on, as JSON values."""
        chosen = {"scan": dataclasses.asdict(self.scan), "tiles": dataclasses.asdict(self.tiles), "sample": self.sample}
        return dict(json.loads(json.dumps(chosen, default=_as_json)))


def _as_json(value: object) -> object:
    return str(value) if isinstance(value, Path) else list(value)  # type: ignore[call-overload]


def stored_options(stored: dict[str, Any]) -> TableOptions:
    """Return the options whose `identity` is `stored`."""
    scan_options = stored["scan"]
    return TableOptions(
        sample=stored["sample"],
        partition_tiles=stored.get("partition_tiles", PARTITION_TILES),
        scan=ScanOptions(
            layout=Layout(scan_options["layout"]),
            mask_suffix=scan_options["mask_suffix"],
            images=scan_options["images"],
            masks=scan_options["masks"],
            group_by=scan_options["group_by"],
            label_by=scan_options["label_by"],
            unlabelled=tuple(Path(one) for one in scan_options["unlabelled"]),
            csv=Path(scan_options["csv"]) if scan_options["csv"] else None,
        ),
        tiles=TileOptions(**stored["tiles"]),
    )


def earlier_options(workspace: Workspace) -> TableOptions:
    """Return the scan options of the table that is there, so that later commands see the same data set.

    Raises UsageError when that table is of another data set that still exists; one that moved takes its workspace along.
    """
    if not workspace.tiles.exists():
        return TableOptions()
    try:
        _, header = tables.open_table(workspace.tiles, kind=KIND, schema_version=SCHEMA_VERSION)
    except IntegrityError:
        return TableOptions()
    _refuse_other_data_set(workspace, Path(header["root"]))
    return stored_options(header["options"])


def _refuse_other_data_set(workspace: Workspace, owner: Path) -> None:
    if owner.is_dir() and not owner.samefile(workspace.root):
        what, hint = "this workspace belongs to another data set", f"name another --workspace, or delete {workspace.folder}"
        raise UsageError(what, path=workspace.folder, seen=f"results of {owner}", expected=f"results of {workspace.root}", hint=hint)


def resolved(workspace: Workspace, options: TableOptions) -> TableOptions:
    """Return the options with the layout decided and paths made absolute, as the table's header keeps them."""
    chosen = options.scan
    open_question = chosen.layout is Layout.AUTO and not (chosen.images or chosen.masks)
    layout = detect_layout(workspace.root) if open_question else chosen.layout
    csv = chosen.csv.resolve() if chosen.csv else None
    return replace(options, scan=replace(chosen, layout=layout, csv=csv, unlabelled=tuple(one.resolve() for one in chosen.unlabelled)))
