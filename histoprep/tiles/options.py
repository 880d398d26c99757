"""What tiles.parquet depends on besides the files, as options and as JSON in its header."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from histoprep.choices import Layout
from histoprep.durable import write_bytes
from histoprep.errors import IntegrityError, UsageError
from histoprep.scanning import ScanOptions, detect_layout, understand
from histoprep.schemas.scan_options import read_scan_options, write_scan_options
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions

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
        chosen = {
            "scan": dataclasses.asdict(self.scan),
            "tiles": dataclasses.asdict(self.tiles),
            "sample": self.sample,
        }
        return dict(json.loads(json.dumps(chosen, default=_as_json)))


def _as_json(value: object) -> object:
    return str(value) if isinstance(value, Path) else list(value)  # type: ignore[call-overload]


def stored_options(stored: dict[str, Any], moved: tuple[str, Path] | None = None) -> TableOptions:
    """Return the options whose `identity` is `stored`.

    With `moved`, where the data set was and where it is, files and folders of the options that are
    gone are looked for at the same place relative to it.
    """
    scan_options = stored["scan"]

    def path_of(text: str | None) -> Path | None:
        if not text:
            return None
        path = Path(text)
        if moved is None or path.exists():
            return path
        there = Path(os.path.normpath(moved[1] / os.path.relpath(path, moved[0])))
        return there if there.exists() else path

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
            unlabelled=tuple(filter(None, map(path_of, scan_options["unlabelled"]))),
            csv=path_of(scan_options["csv"]),
            pairs=path_of(scan_options.get("pairs")),
            # Workspaces of before these options have none of them.
            image_suffix=scan_options.get("image_suffix", ""),
            image_pattern=scan_options.get("image_pattern"),
            mask_pattern=scan_options.get("mask_pattern"),
            follow_links=scan_options.get("follow_links", False),
            is_inferred=scan_options.get("is_inferred", False),
        ),
        tiles=TileOptions.from_json(stored["tiles"]),
    )


def earlier_options(workspace: Workspace) -> TableOptions:
    """Return the options of the last audit, so that later commands see the same data set; the
    defaults when there was none.

    They are in a file of their own, written before any work starts. Workspaces of before that file
    have them in the tiles table alone. Raises UsageError when the workspace is of another data set
    that still exists (one that moved takes its workspace along), and IntegrityError when options
    were chosen once and cannot be read.
    """
    stored = _stored(workspace)
    if stored is None:
        return TableOptions()
    _refuse_other_data_set(workspace, stored)
    return stored_options(stored["options"], (stored["root"], workspace.root))


def refuse_foreign_workspace(workspace: Workspace) -> None:
    """Raise UsageError when the workspace holds results of another data set that still exists."""
    with contextlib.suppress(IntegrityError):
        stored = _stored(workspace)
        if stored is not None:
            _refuse_other_data_set(workspace, stored)


@contextlib.contextmanager
def keeping_options(workspace: Workspace, options: TableOptions) -> Iterator[None]:
    """Keep the options for later commands, durably, before the work inside begins; those that are
    refused there (UsageError) are dropped again.

    The caller holds the workspace's lock. Raises OutputError.
    """
    path = workspace.scan_options
    before = path.read_bytes() if path.exists() else None
    content = {"root": str(workspace.root), "options": options.identity()}
    if not _is_kept(workspace, content):
        write_scan_options(path, content)
    try:
        yield
    except UsageError:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            write_bytes(path, before)
        raise


def chosen_words(
    workspace: Workspace, scan_options: ScanOptions, beside: ScanOptions | None = None
) -> list[str]:
    """Return, in words, the options that are not as in `beside` (the defaults), such as `group by
    slide\\d+`.
    """
    # Resolved, since a layout that would be found again needs no words.
    chosen, others = (
        dataclasses.asdict(resolved(workspace, TableOptions(options)).scan)
        for options in (scan_options, beside or ScanOptions())
    )
    return [
        f"{name.replace('_', ' ')} {_in_words(value)}"
        for name, value in chosen.items()
        if value != others[name] and name != "is_inferred"
    ]


def _in_words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _is_kept(workspace: Workspace, content: dict[str, Any]) -> bool:
    try:
        return _read(workspace) == content
    except (FileNotFoundError, IntegrityError):
        return False


def _read(workspace: Workspace) -> dict[str, Any]:
    return read_scan_options(workspace.scan_options, hint=_hint(workspace))


def _stored(workspace: Workspace) -> dict[str, Any] | None:
    """Return root and options of the last audit, None when there was none."""
    with contextlib.suppress(FileNotFoundError):
        return _read(workspace)
    if not workspace.tiles.exists():
        return None
    try:
        return open_tiles_table(workspace.tiles)[1]
    except IntegrityError as error:
        what = (
            "the options of the last audit are lost: they are in this table alone, and it cannot be"
            " used"
        )
        raise IntegrityError(
            what, path=workspace.tiles, seen=error.what, hint=_hint(workspace)
        ) from error


def _hint(workspace: Workspace) -> str:
    return (
        f"histoprep audit {workspace.root} --forget, with --group-by and what else was chosen"
        " before; they are kept again then"
    )


def _refuse_other_data_set(workspace: Workspace, stored: dict[str, Any]) -> None:
    owner = Path(stored["root"])
    if owner.is_dir() and not owner.samefile(workspace.root):
        what, hint = (
            "this workspace belongs to another data set",
            f"name another --workspace, or move {workspace.folder} elsewhere",
        )
        raise UsageError(
            what,
            path=workspace.folder,
            seen=f"results of {owner}",
            expected=f"results of {workspace.root}",
            hint=hint,
        )


def resolved(workspace: Workspace, options: TableOptions) -> TableOptions:
    """Return the options with the layout decided and paths made absolute, as the table's header
    keeps them.
    """
    chosen = _absolute(options.scan)
    is_said = chosen.images or chosen.masks or chosen.image_pattern or chosen.mask_pattern
    open_question = chosen.layout is Layout.AUTO and not is_said
    layout = detect_layout(workspace.root) if open_question else chosen.layout
    return replace(options, scan=replace(chosen, layout=layout))


def _absolute(chosen: ScanOptions) -> ScanOptions:
    return replace(
        chosen,
        csv=chosen.csv.resolve() if chosen.csv else None,
        unlabelled=tuple(folder.resolve() for folder in chosen.unlabelled),
    )


@dataclass(frozen=True, slots=True)
class SettledOptions:
    """Options after a look at the data set.

    Attributes:
        requested: Those that later commands begin with.
        used: Those that the data set is read with: with the folders and names that were understood.
        understood: What was understood, in one line; "" where the layout is one that needs no look.
    """

    requested: TableOptions
    used: TableOptions
    understood: str = ""


def settle(workspace: Workspace, options: TableOptions) -> SettledOptions:
    """Return the options with which a data set is read, after a short look at it.

    Raises:
        UsageError: It can be read in several ways; each is printed as a command.
    """
    found = understand(workspace.root, _absolute(options.scan))
    if found.words:
        requested = replace(options, scan=_absolute(options.scan))
        used = replace(options, scan=found.options)
    else:
        requested = used = resolved(workspace, options)
    tiles = replace(options.tiles, seeks_labels=found.has_labels_among_images)
    return SettledOptions(requested, replace(used, tiles=tiles), found.words)
