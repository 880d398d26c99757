"""Which masks of a data set were repaired, and where the new ones are: written by `repair`, read by
later stages.

Two files in the workspace. repaired.parquet has what the tiles table says of a mask, of the new
ones (see `tiles/repaired.py`). repair.json, the last one written, names the tree of the new masks
and the digest of its ledger; repaired.parquet counts only while it has the same digest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from histoprep import checksums, durable, tables
from histoprep.digests import file_digest
from histoprep.errors import IntegrityError, OutputError
from histoprep.job_folder import SUCCESS
from histoprep.mask_tree.task import beside
from histoprep.names import to_text
from histoprep.read_ahead import stat_file
from histoprep.schemas import repaired
from histoprep.schemas.ledgers import LEDGER, ledger_files, open_ledger
from histoprep.schemas.ledgers import REPAIR as KIND
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.lossy_sources import lossy_sources

# What the ledger calls the columns that it has itself.
_LEDGER_NAMES = {
    "damaged_path": "mask_path",
    "damaged_digest": "source_digest",
    "mask_bytes": "output_bytes",
    "mask_digest": "output_digest",
}


class RepairedMask(NamedTuple):
    """A repaired mask: the digest of the damaged one, its own file (absolute, as text), size, time
    and digest, and what it holds.
    """

    source_digest: str
    file: str
    num_bytes: int
    mtime_ns: int
    digest: str
    ids: tuple[int, ...]
    pixels: tuple[int, ...]


def record_repair(workspace: Workspace, out: Path) -> None:
    """Write repaired.parquet from the ledger in `out`, then the note that makes it count; the same
    ledger gives the same bytes.
    """
    ledger_digest = file_digest(out / LEDGER)
    folder = _folder_from(workspace.root, out)
    header = {"root": str(workspace.root), "ledger_digest": ledger_digest, "folder": folder}
    rows = _repaired_rows(out, folder)
    tables.write_table(
        workspace.repaired,
        rows,
        repaired.SCHEMA,
        kind=repaired.KIND,
        schema_version=repaired.SCHEMA_VERSION,
        metadata=header,
    )
    checksums.publish_json(
        workspace.folder, workspace.repair.name, {"out": str(out), "ledger_digest": ledger_digest}
    )


def forget_repaired(workspace: Workspace) -> None:
    """Remove repaired.parquet before a file that it names may go or change; until the repair has
    ended, later stages refuse to go on.
    """
    try:
        workspace.repaired.unlink(missing_ok=True)
        durable.sync_folder(workspace.folder)
    except OSError as error:
        raise OutputError.from_os_error(error, workspace.repaired) from error


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
            for field in repaired.SCHEMA
        ]
        yield pa.table(columns, schema=repaired.SCHEMA)


def repaired_masks(workspace: Workspace, *, whole: bool = False) -> Mapping[str, RepairedMask]:
    """Return the repaired masks by the path of the damaged ones; empty when nothing was repaired.

    Raises IntegrityError when the recorded tree is gone, incomplete or another one, or a mask was
    changed; with `whole` all of them are read.
    """
    recorded = repaired.recorded_repair(workspace.folder)
    if recorded is None:
        return {}
    out = recorded.out
    hint = f"run histoprep repair again, or delete {workspace.repair} to do without"
    whole_tree = (out / SUCCESS).exists() and (out / LEDGER).exists()
    if whole_tree:
        # Raises, with its path, for one that is damaged.
        open_ledger(out / LEDGER, KIND.ledger, KIND)
    if not whole_tree or file_digest(out / LEDGER) != recorded.ledger_digest:
        raise IntegrityError(
            "the repaired masks that were recorded are not there any more", path=out, hint=hint
        )
    damages = checksums.check_files(out, ledger_files(out, KIND), whole=whole)
    checksums.raise_damage(
        damages, "a repaired mask is not there any more, or was changed", KIND.job(out).remake
    )
    columns = [
        "mask_path",
        "output_path",
        "source_digest",
        "output_bytes",
        "output_digest",
        "label_ids",
        "label_pixels",
    ]
    found: dict[str, RepairedMask] = {}
    for batch in tables.read_batches(open_ledger(out / LEDGER, KIND.ledger, KIND), columns):
        for path, name, source, size, digest, ids, pixels in zip(
            *(batch[column].to_pylist() for column in columns), strict=True
        ):
            if name is not None:
                stat = stat_file(beside(out, name))
                if stat is None or stat[0] != size:
                    raise IntegrityError(
                        "a repaired mask is not there any more, or was changed",
                        path=out / name,
                        hint=hint,
                    )
                found[path] = RepairedMask(
                    source, f"{out}/{name}", *stat, digest, tuple(ids), tuple(pixels)
                )
    return found


def unrepaired(workspace: Workspace, repaired: Mapping[str, RepairedMask]) -> dict[str, list[str]]:
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
        for firm, left in _left(workspace, repaired_masks(workspace)).items()
        if left
    ]


def _left(
    workspace: Workspace, repaired: Mapping[str, RepairedMask]
) -> dict[bool, dict[str, list[str]]]:
    """Return the damaged masks without a repaired one, by whether the verdict is firm and by words
    about the source.
    """
    left: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
    for source in lossy_sources(workspace.tiles):
        paths = [
            path
            for path, digest in zip(source.paths, source.digests, strict=True)
            if path not in repaired or repaired[path].source_digest != digest
        ]
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
    masks = f"{number:,} {'mask' if number == 1 else 'masks'}"
    return (
        f"{masks} of {source}"
        if len(left) == 1
        else f"{masks} of {len(left):,} sources, such as {len(first):,} of {source},"
    )
