"""A manifest, or shards -> a folder that another program reads.

What is in the folder is the format's business (`formats/`). Beside it lie

    classes.csv            number, name and colour of each class, and its id in the label map
    export.json, ledger.parquet, checksums.json, _SUCCESS.json

The folder is one that a job fills (`job_folder.py`): partitions of the tiles become parts of the
ledger, each written after its files were synced; the files about all tiles are written from the
parts. A stopped run resumes, and the bytes do not depend on interruptions or workers. The data set
is only read.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import pyarrow as pa

from histoprep import checksums, durable, tables
from histoprep.digests import file_digest
from histoprep.execution import Engine, run_tasks
from histoprep.exporting.model import UNLABELLED, Contents, ExportedRow
from histoprep.exporting.numbering import BACKGROUND
from histoprep.exporting.plan import ExportPlan
from histoprep.exporting.result import ExportResult
from histoprep.exporting.task import WRITTEN
from histoprep.job_folder import output_errors
from histoprep.names import to_name
from histoprep.progress import Advance, TaskProgress, silent
from histoprep.schemas.ledgers import EXPORT, LEDGER, ledger_files, open_ledger
from histoprep.split.units import SPLITS
from histoprep.version import __version__

CLASSES = "classes.csv"
_FILES = "files"


def run_export(
    plan: ExportPlan, engine: Engine | None = None, advance: Advance = silent
) -> ExportResult:
    """Write the folder and return what came of it; a stopped run resumes.

    Args:
        plan: What `plan_export` returned.
        engine: Where the work runs; None for worker processes.
        advance: Called with the number of tiles done and of all tiles.

    Raises:
        OutputError: The system refuses to write.
        LockedError: Another process writes to the folder.
        IntegrityError: Files of a finished folder were changed.
    """
    job = plan.job
    with durable.locked(job.path):
        job.refuse_foreign_files()
        job.refuse_other_request(job.read_request(), plan.request)
        done = _finished(plan)
        if done is not None:
            return done
        job.begin(plan.request, unsealed=(LEDGER,))
        return _fill(plan, engine or Engine(), advance)


def _new_result(plan: ExportPlan) -> ExportResult:
    class_ids = tuple(cls.id for cls in plan.manifest.label_map.classes)
    return ExportResult(plan.options.out, plan.format, plan.numbers, class_ids)


def _finished(plan: ExportPlan) -> ExportResult | None:
    """Return the result of an earlier run that is whole and has nothing left to try again."""
    job = plan.job
    seal = job.read_seal()
    if seal is None or seal.get("failed"):
        return None
    result = _new_result(plan)
    try:
        for batch in tables.read_batches(open_ledger(job.path / LEDGER, EXPORT.ledger, EXPORT)):
            for row in batch.to_pylist():
                result.add(row)
        expected = list(ledger_files(job.path, EXPORT))
    except FileNotFoundError:
        return None
    notes = [name for name in checksums.read_checksums(job.path) if name != LEDGER]
    if not job.is_whole(expected, notes=notes):
        return None
    result.files = tuple(seal[_FILES])
    result.up_to_date = True
    return result


def _fill(plan: ExportPlan, engine: Engine, advance: Advance) -> ExportResult:
    job, result, parts = plan.job, _new_result(plan), list[Path]()
    progress = TaskProgress(advance, len(plan.manifest))
    joined = job.parts / LEDGER

    def batches() -> Iterator[pa.Table]:
        with contextlib.closing(run_tasks(plan.tasks(), engine, progress.under_way)) as done:
            for part in done:
                parts.append(part)
                table = tables.read_table(
                    open_ledger(part, EXPORT.part, EXPORT), EXPORT.ledger_schema.names
                )
                for row in table.to_pylist():
                    result.add(row)
                progress.add(table.num_rows)
                yield table

    tables.write_table(
        joined,
        batches(),
        EXPORT.ledger_schema,
        kind=EXPORT.ledger,
        schema_version=EXPORT.schema_version,
        metadata=plan.request,
    )
    result.files = tuple(_write_summaries(plan, result, parts))
    with output_errors(job.path):
        durable.remove_temporaries(job.path)
        os.replace(joined, job.path / LEDGER)
        durable.sync_file_system(job.path)
        checksums.remember_files(job.path, list(ledger_files(job.path, EXPORT)))
    job.seal(
        {
            "tiles": result.num_tiles.total(),
            "left_out": result.num_unlabelled + result.num_left_out,
            "failed": result.num_failed,
            _FILES: list(result.files),
            "schema_version": EXPORT.schema_version,
            "tool_version": __version__,
            "ledger_digest": file_digest(job.path / LEDGER),
        }
    )
    return result


def _write_summaries(
    plan: ExportPlan, result: ExportResult, parts: Sequence[Path]
) -> Iterator[str]:
    """Write the files about all tiles and yield their paths."""
    out = plan.job.path
    contents = Contents(
        plan.manifest.root.name,
        plan.numbers,
        tuple(split for split in (*SPLITS, UNLABELLED) if result.num_tiles[split]),
        lambda: _exported_rows(plan, parts),
        result.num_ignored_pixels,
        plan.manifest.num_folds,
    )
    for name, pieces in plan.format.summaries(contents):
        checksums.forget_files(out, {name}.__contains__)
        durable.write_file(out / name, partial(_write_pieces, pieces))
        checksums.list_files(out, [name])
        yield name
    checksums.publish_file(out, CLASSES, _classes(plan))
    yield CLASSES


def _write_pieces(pieces: Iterator[str], stream: IO[bytes]) -> None:
    stream.writelines(piece.encode() for piece in pieces)


def _exported_rows(plan: ExportPlan, parts: Sequence[Path]) -> Iterator[ExportedRow]:
    """Yield the tiles that were exported, in order of the manifest."""
    tiles = plan.tiles()
    for part in parts:
        table = tables.read_table(open_ledger(part, EXPORT.part, EXPORT))
        for row in table.to_pylist():
            tile = next(tiles)
            if row["status"] == WRITTEN:
                output = row["output_path"]
                yield ExportedRow(
                    tile,
                    to_name(row["image_path"]),
                    None if output is None else to_name(output),
                    None if row["content"] is None else json.loads(row["content"]),
                )


def _classes(plan: ExportPlan) -> str:
    """Return the table of classes; numbers of YOLO are one less, since it has no background."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("number", "name", "colour", "class"))
    first = plan.format.first_number
    background = plan.numbers.background
    if background is not None:
        number = BACKGROUND if first == BACKGROUND + 1 else ""
        writer.writerow((number, background.name, background.colour, background.id))
    for number, cls in plan.numbers.classes:
        writer.writerow((number - 1 + first, cls.name, cls.colour, cls.id))
    return stream.getvalue()
