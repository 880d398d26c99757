"""Which label map a command uses, said in one line where `--map` does not name it."""

from __future__ import annotations

from pathlib import Path

from histoprep import console
from histoprep.errors import IntegrityError
from histoprep.labels import LabelMap, default_map, find_label_map
from histoprep.schemas.manifest import open_manifest
from histoprep.schemas.workspace import Workspace

_OTHER = "--map names another"


def chosen_map(name: str | None, root: Path) -> Path | None:
    """Return the file of the label map, None without one.

    Args:
        name: What `--map` says; None for the only label map in the data set.
        root: Folder of the data set.

    Raises:
        UsageError: There is no label map of that name.
    """
    if name:
        return find_label_map(name, root)
    path = default_map(root)
    if path is not None:
        console.note(f"label map: {path.name} of the data set ({_OTHER})")
    return path


def manifest_map(workspace: Workspace) -> LabelMap | None:
    """Return the label map that the manifest of a workspace was made with; None without a manifest,
    or where each label is a class.
    """
    try:
        manifest = open_manifest(workspace.manifest) if workspace.manifest.exists() else None
    except IntegrityError:
        # The audit says what is wrong with it.
        return None
    return None if manifest is None or manifest.label_map.is_identity else manifest.label_map


def note_manifest_map(workspace: Workspace, *, is_used: bool) -> LabelMap | None:
    """Return the label map of the manifest, after a note of whether it is used; no map is named
    elsewhere.
    """
    label_map = manifest_map(workspace)
    if label_map is None:
        return None
    made_with = f"{label_map.name}, with which {workspace.manifest} was made"
    console.note(
        f"label map: {made_with} ({_OTHER}, --forget takes none)"
        if is_used
        else f"no label map is used, not that of the manifest either: {made_with} (--map)"
    )
    return label_map
