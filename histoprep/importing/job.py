"""A collection -> a tree of images and masks that every other command reads.

    DIR/images/NAME.suffix      the images: linked, copied, or made
    DIR/masks/NAME.png          their labels, 8 bits, or 16 where a label needs them
    DIR/.instances/NAME.png     on request: the number of the annotation on top, 16 bits
    DIR/label_map.yml           names and colours
    DIR/dataset.csv             groups, labels and splits, where the source has them
    DIR/import.json, ledger.parquet, _SUCCESS.json

The tree is a folder that one job fills (`job_folder.py`): partitions of the images become parts of
the ledger, each written after its files were synced, so that a stopped run resumes, and its bytes
do not depend on interruptions. The source is only read.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from histoprep import checksums, durable, tables
from histoprep.digests import digest_text, file_digest
from histoprep.errors import IntegrityError
from histoprep.importing.model import ImageFile, Item
from histoprep.importing.output import FAILED, IMAGES, INSTANCES, MASKS, render, write_tile
from histoprep.importing.plan import ImportPlan
from histoprep.importing.result import ImportResult
from histoprep.job_folder import output_errors
from histoprep.labels import format_label_map
from histoprep.names import to_name, to_text
from histoprep.progress import Advance, silent
from histoprep.schemas.ledgers import (
    DATASET_CSV,
    IMPORT,
    LABEL_MAP,
    LEDGER,
    expected_files,
    ledger_files,
    open_ledger,
)
from histoprep.version import __version__

PARTITION_IMAGES = 64
NUM_THREADS = len(os.sched_getaffinity(0))
_FORMULA_STARTS = ("=", "+", "-", "@")


def run_import(plan: ImportPlan, advance: Advance = silent) -> ImportResult:
    """Write the tree and return what came of it; a stopped run resumes.

    Raises:
        OutputError: The system refuses to write.
        LockedError: Another process writes to the folder.
        IntegrityError: Files of a finished tree were changed.
    """
    job = plan.job
    with durable.locked(job.path):
        job.refuse_foreign_files()
        job.refuse_other_request(job.read_request(), plan.request)
        done = _finished(plan)
        if done is not None:
            return done
        job.begin(plan.request, unsealed=(LEDGER, *IMPORT.notes))
        return _fill(plan, advance)


def _finished(plan: ImportPlan) -> ImportResult | None:
    """Return the result of an earlier run that is whole and has nothing left to try again."""
    job = plan.job
    seal = job.read_seal()
    if seal is None or seal.get("failed"):
        return None
    result = _new_result(plan)
    try:
        for batch in tables.read_batches(open_ledger(result.ledger, IMPORT.ledger, IMPORT)):
            for row in batch.to_pylist():
                result.add(row)
        expected = list(ledger_files(job.path, IMPORT))
    except FileNotFoundError:
        return None
    notes = [name for name in checksums.read_checksums(job.path) if name != LEDGER]
    if not job.is_whole(expected, notes=notes, own=IMPORT.notes):
        return None
    result.unexpected = _unexpected(job.path, {file.name for file in expected})
    result.up_to_date = True
    return result


def _new_result(plan: ImportPlan) -> ImportResult:
    columns = tuple(dict.fromkeys(key for item in plan.collection.items for key in item.columns))
    return ImportResult(plan.options.out, plan.label_map, columns=columns)


def _fill(plan: ImportPlan, advance: Advance) -> ImportResult:
    job, result = plan.job, _new_result(plan)
    total = len(plan.collection.items)
    joined = job.parts / LEDGER

    def batches() -> Iterator[pa.Table]:
        for part in _parts(plan):
            ledger = tables.read_table(open_ledger(part, IMPORT.part, IMPORT))
            for row in ledger.to_pylist():
                result.add(row)
            advance(result.num_images, total)
            yield ledger

    tables.write_table(
        joined,
        batches(),
        IMPORT.ledger_schema,
        kind=IMPORT.ledger,
        schema_version=IMPORT.schema_version,
        metadata=plan.request,
    )
    checksums.publish_file(job.path, LABEL_MAP, format_label_map(plan.label_map))
    if result.columns:
        checksums.publish_file(job.path, DATASET_CSV, _dataset_csv(plan, result.columns, joined))
    with output_errors(job.path):
        durable.remove_temporaries(job.path)
        os.replace(joined, job.path / LEDGER)
        durable.sync_file_system(job.path)
        expected = list(ledger_files(job.path, IMPORT))
        checksums.remember_files(job.path, expected)
    result.unexpected = _unexpected(job.path, {file.name for file in expected})
    job.seal(
        {
            "format": plan.format,
            "written": result.num_written,
            "unlabelled": result.num_unlabelled,
            "failed": result.num_failed,
            "label_map_digest": plan.label_map.digest,
            "schema_version": IMPORT.schema_version,
            "tool_version": __version__,
            "ledger_digest": file_digest(job.path / LEDGER),
        }
    )
    return result


def _unexpected(out: Path, expected: set[str]) -> tuple[str, ...]:
    """Return the files in the folders of images and masks that the ledger does not name, sorted."""
    found = (
        to_text(os.path.relpath(os.path.join(parent, name), out))
        for folder in (IMAGES, MASKS)
        for parent, _, names in os.walk(out / folder)
        for name in names
        if not durable.is_temporary(name)
    )
    return tuple(sorted(name for name in found if name not in expected))


def _dataset_csv(plan: ImportPlan, columns: Sequence[str], ledger: Path) -> str:
    """Return the table of images with their further columns."""
    opened = open_ledger(ledger, IMPORT.ledger, IMPORT)
    paths = tables.read_table(opened, ["image_path"])["image_path"].to_pylist()
    stream = io.StringIO()
    plain, quoted = (
        csv.writer(stream, lineterminator="\n", quoting=quoting)
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    plain.writerow(("image", *columns))
    for item, path in zip(plan.collection.items, paths, strict=True):
        if path is not None:
            row = (to_name(path), *(item.columns.get(name, "") for name in columns))
            risky = any(cell.startswith(_FORMULA_STARTS) for cell in row)
            (quoted if risky else plain).writerow(row)
    return stream.getvalue()


def _parts(plan: ImportPlan) -> Iterator[Path]:
    """Yield the parts of the ledger in order, making those that are not there yet."""
    job, items = plan.job, iter(plan.collection.items)
    settings = digest_text(repr((IMPORT.schema_version, __version__, sorted(plan.request.items()))))
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for number in itertools.count():
            chosen = list(itertools.islice(items, PARTITION_IMAGES))
            if not chosen:
                return
            images = [_image_key(item) for item in chosen]
            part = job.parts / f"{digest_text(repr((settings, number, images)))}.parquet"
            if not _is_done(part, job.path):
                _make_part(plan, chosen, part, threads)
            yield part


def _image_key(item: Item) -> tuple[str, str]:
    if isinstance(item.image, ImageFile):
        return item.name, str(item.image.path)
    return item.name, item.image if isinstance(item.image, str) else item.image.suffix


def _is_done(part: Path, out: Path) -> bool:
    """Return whether a part is there, and every file that it promises is the one it says."""
    if not part.exists():
        return False
    try:
        ledger = tables.read_table(open_ledger(part, IMPORT.part, IMPORT))
    except IntegrityError:
        return False
    if FAILED in ledger["status"].to_pylist():
        return False
    expected = expected_files(ledger, IMPORT.outputs)
    return not checksums.check_files(out, expected, whole=True, keep_states=False)


def _make_part(
    plan: ImportPlan, items: Sequence[Item], part: Path, threads: ThreadPoolExecutor
) -> None:
    out = plan.job.path
    with output_errors(out):
        folders = {
            out / folder / os.path.dirname(item.name)
            for item in items
            for folder in (IMAGES, MASKS, *([INSTANCES] if plan.options.keep_instances else []))
        }
        for folder in sorted(folders):
            folder.mkdir(parents=True, exist_ok=True)
        rows = list(_rows(plan, items, threads))
        # Its files first: a part promises them.
        durable.sync_file_system(out)
    tables.write_table(
        part,
        [pa.Table.from_pylist(rows, schema=IMPORT.ledger_schema)],
        IMPORT.ledger_schema,
        kind=IMPORT.part,
        schema_version=IMPORT.schema_version,
        metadata={},
    )


def _rows(
    plan: ImportPlan, items: Sequence[Item], threads: ThreadPoolExecutor
) -> Iterator[dict[str, Any]]:
    """Yield the row of each image, in order. Images are read and drawn here, one after the other,
    since decoders change what this process does about warnings; threads encode and write.
    """
    options, out = plan.options, plan.job.path
    waiting: deque[Future[dict[str, Any]]] = deque()
    for item in items:
        tile = render(item)
        waiting.append(
            threads.submit(
                write_tile, out, tile, copy=options.copy, keep_instances=options.keep_instances
            )
        )
        if len(waiting) > 2 * NUM_THREADS:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()
