"""What a repair leaves in the workspace for later stages, and which masks it left damaged.

The one form in which stages know repaired masks is the table `repaired.parquet` (see
`schemas/repaired.py`); here it is made from the ledger of the tree of new masks.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from histoprep import tables
from histoprep.digests import file_digest
from histoprep.names import to_text
from histoprep.phrases import plural
from histoprep.schemas.ledgers import LEDGER, open_ledger
from histoprep.schemas.ledgers import REPAIR as KIND
from histoprep.schemas.repaired import SCHEMA, RepairedMasks, open_repaired, write_repaired
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.lossy_sources import lossy_sources

# What the ledger calls the columns that it has itself.
_LEDGER_NAMES = {
    "damaged_path": "mask_path",
    "damaged_digest": "source_digest",
    "mask_bytes": "output_bytes",
    "mask_digest": "output_digest",
}


def record_repair(workspace: Workspace, out: Path) -> None:
    """Write the table of repaired masks from the ledger in `out`; the same ledger gives the same
    bytes.
    """
    folder = _folder_from(workspace.root, out)
    header = {
        "root": str(workspace.root),
        "ledger_digest": file_digest(out / LEDGER),
        "folder": folder,
    }
    write_repaired(workspace.folder, _repaired_rows(out, folder), header)


def _folder_from(root: Path, out: Path) -> str:
    """Return the tree's folder as tables name it: from the root where both move together, else
    absolute.
    """
    real = out.resolve()
    return to_text(os.path.relpath(real, root) if real.is_relative_to(root.parent) else str(out))


def _repaired_rows(out: Path, folder: str) -> Iterator[pa.Table]:
    """Yield the rows of repaired.parquet, in order of the tiles table; times are left out: no stage
    compares them, and no two runs have the same.
    """
    for batch in tables.read_batches(open_ledger(out / LEDGER, KIND.ledger, KIND)):
        written = batch.filter(batch["output_path"].is_valid())
        measured = written["measured"].combine_chunks()
        known = {
            name: written[_LEDGER_NAMES.get(name, name)]
            for name in (*_LEDGER_NAMES, "label_ids", "label_pixels")
        }
        known |= {field.name: measured.field(field.name) for field in measured.type}
        known["mask_path"] = pa.array(
            [f"{folder}/{name}" for name in written["output_path"].to_pylist()], pa.string()
        )
        columns = [
            known[field.name] if field.name in known else pa.nulls(written.num_rows, field.type)
            for field in SCHEMA
        ]
        yield pa.table(columns, schema=SCHEMA)


def unrepaired(workspace: Workspace, repaired: RepairedMasks | None) -> dict[str, list[str]]:
    """Return, for each source that is surely lossy or interpolated, the damaged masks without a
    repaired one; by words about the source.
    """
    return _left(workspace, repaired)[True]


def damage_warnings(workspace: Workspace) -> list[str]:
    """Return what stages that take damaged masks as they are should warn of; nothing when all are
    repaired.
    """
    return [
        f"{_counted(left)} {'went' if firm else 'perhaps went'} through JPEG or interpolation and"
        " are not repaired: their false labels count as true ones; histoprep repair, then the same"
        " command"
        for firm, left in _left(workspace, open_repaired(workspace.folder)).items()
        if left
    ]


def _left(workspace: Workspace, repaired: RepairedMasks | None) -> dict[bool, dict[str, list[str]]]:
    """Return the damaged masks without a repaired one, by whether the verdict is firm and by words
    about the source.
    """
    left: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
    for source in lossy_sources(workspace.tiles):
        paths = list(source.paths)
        if repaired is not None:
            masks = pa.table({"mask_path": paths, "mask_digest": source.digests})
            paths = list(itertools.compress(paths, repaired.without(masks)))
        if paths:
            quality = f", JPEG quality {source.verdict.quality}" if source.verdict.quality else ""
            left[source.verdict.firm].setdefault(
                f"{source.source} ({source.code} {source.verdict.kind.value}{quality})", []
            ).extend(paths)
    return left


def _counted(left: Mapping[str, list[str]]) -> str:
    """Return "5 masks of s1 (HP403 ...)", or "731 masks of 6 sources, such as 147 of s1 (HP404
    ...),".
    """
    number, (source, first) = sum(map(len, left.values())), next(iter(left.items()))
    masks = plural(number, "mask")
    return (
        f"{masks} of {source}"
        if len(left) == 1
        else f"{masks} of {len(left):,} sources, such as {len(first):,} of {source},"
    )
