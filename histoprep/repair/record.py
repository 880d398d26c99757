"""Which masks of a data set were mended, and where the new ones are: written by `repair`, read by `remap`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from histoprep import durable, tables
from histoprep.errors import IntegrityError
from histoprep.lossy.sources import lossy_sources
from histoprep.manifest import file_digest
from histoprep.mask_tree import LEDGER, SUCCESS
from histoprep.mask_tree.task import beside
from histoprep.read_ahead import stat_file
from histoprep.repair import KIND
from histoprep.workspace import Workspace

RECORD = "repair.json"


class MendedMask(NamedTuple):
    """A mended mask: the digest of the damaged one, its own file (absolute, as text), size, time and digest, and what it holds."""

    source_digest: str
    file: str
    num_bytes: int
    mtime_ns: int
    digest: str
    ids: tuple[int, ...]
    pixels: tuple[int, ...]


def record_repair(workspace: Workspace, out: Path) -> None:
    """Note in the workspace where the mended masks are."""
    durable.write_json(workspace.folder / RECORD, {"out": str(out), "ledger_digest": file_digest(out / LEDGER)})


def mended_masks(workspace: Workspace) -> Mapping[str, MendedMask]:
    """Return the mended masks by the path of the damaged ones; empty when nothing was repaired.

    Raises IntegrityError when the recorded tree is gone, incomplete or another one.
    """
    note = workspace.folder / RECORD
    try:
        recorded = json.loads(note.read_text("utf-8", "surrogateescape"))
        out = Path(recorded["out"])
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"damaged note of a repair: {error}", path=note, hint="delete it and repair again") from error
    hint = f"run histoprep repair again, or delete {note} to do without"
    if not (out / SUCCESS).exists() or not (out / LEDGER).exists() or file_digest(out / LEDGER) != recorded.get("ledger_digest"):
        raise IntegrityError("the mended masks that were recorded are not there any more", path=out, hint=hint)
    columns = ["mask_path", "output_path", "source_digest", "output_bytes", "output_digest", "label_ids", "label_pixels"]
    found: dict[str, MendedMask] = {}
    opened, _ = tables.open_table(out / LEDGER, kind=KIND.ledger, schema_version=KIND.schema_version)
    for batch in tables.read_batches(opened, columns):
        for path, name, source, size, digest, ids, pixels in zip(*(batch[one].to_pylist() for one in columns), strict=True):
            if name is not None:
                stat = stat_file(beside(out, name))
                if stat is None or stat[0] != size:
                    raise IntegrityError("a mended mask is not there any more, or was changed", path=out / name, hint=hint)
                found[path] = MendedMask(source, f"{out}/{name}", *stat, digest, tuple(ids), tuple(pixels))
    return found


def unmended(workspace: Workspace, mended: Mapping[str, MendedMask]) -> dict[str, list[str]]:
    """Return, for each source that is surely lossy or interpolated, the damaged masks without a mended one; by words about the source."""
    left: dict[str, list[str]] = {}
    for one in lossy_sources(workspace.tiles):
        paths = [path for path in one.paths if path not in mended]
        if paths and one.verdict.firm:
            quality = f", JPEG quality {one.verdict.quality}" if one.verdict.quality else ""
            left[f"{one.source} ({one.code} {one.verdict.kind.value}{quality})"] = paths
    return left
