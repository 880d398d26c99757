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
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from histoprep import checksums, durable, tables
from histoprep.digests import digest_text, file_digest
from histoprep.errors import (
    IntegrityError,
    UsageError,
)
from histoprep.importing.legend import label_map_of
from histoprep.importing.model import (
    Collection,
    Counts,
    ImageFile,
    Item,
)
from histoprep.importing.output import (
    FAILED,
    IMAGES,
    INSTANCES,
    MASKS,
    WRITTEN,
    render,
    write_tile,
)
from histoprep.job_folder import JobFolder, output_errors
from histoprep.labels import LabelMap, format_label_map
from histoprep.names import to_name, to_text
from histoprep.phrases import first_of, plural
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
_NUM_KEPT = 1000

Advance = Callable[[int, int], object]


def silent(done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How the tree is made.

    Attributes:
        out: Folder of the tree.
        copy: Whether images are copied; else they are linked.
        keep_instances: Whether the number of the annotation on top is kept, too.
        strict: Whether an image that is missing is an error before anything is written.
        stated: The options of the format, as the request shows them.
    """

    out: Path
    copy: bool = False
    keep_instances: bool = False
    strict: bool = False
    stated: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """Everything decided before the first file is written."""

    format: str
    source: Path
    options: ImportOptions
    collection: Collection
    label_map: LabelMap
    request: dict[str, Any]

    @property
    def job(self) -> JobFolder:
        """Return the folder of the tree as one that a job fills."""
        return IMPORT.job(self.options.out.absolute())


@dataclass(slots=True)
class ImportResult:
    """What an import came to.

    Attributes:
        out: Folder of the tree.
        label_map: Its label map.
        num_written: Images with a mask.
        num_unlabelled: Images that the source says nothing of, without a mask.
        failed: Images without one, and why: the first 1,000.
        num_failed: How many these are.
        counts: What became of the annotations.
        label_pixels: Pixels of each label.
        how: How many images were linked, copied or made, by the word for it.
        columns: Columns of dataset.csv.
        up_to_date: Whether nothing had to be done.
    """

    out: Path
    label_map: LabelMap
    num_written: int = 0
    num_unlabelled: int = 0
    num_failed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    label_pixels: dict[int, int] = field(default_factory=dict)
    how: dict[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    up_to_date: bool = False

    @property
    def ledger(self) -> Path:
        """Return the path of the ledger."""
        return self.out / LEDGER

    @property
    def num_images(self) -> int:
        """Return how many images were looked at, those that failed among them."""
        return self.num_written + self.num_unlabelled + self.num_failed

    def add(self, row: dict[str, Any]) -> None:
        """Count a row of the ledger."""
        numbers = {name: row[name] or 0 for name in Counts.NUMBERS}
        self.counts.add(Counts(**numbers, skipped=_kinds_of(row["skipped_kinds"])))
        if row["status"] != WRITTEN:
            self.num_failed += 1
            if len(self.failed) < _NUM_KEPT:
                self.failed.append((row["name"], row["reason"]))
            return
        self.num_written += row["output_path"] is not None
        self.num_unlabelled += row["output_path"] is None
        self.how[row["image_how"]] = self.how.get(row["image_how"], 0) + 1
        for label, pixels in zip(row["label_ids"] or (), row["label_pixels"] or (), strict=True):
            self.label_pixels[label] = self.label_pixels.get(label, 0) + pixels


def plan_import(
    format_name: str, source: Path, collection: Collection, options: ImportOptions
) -> ImportPlan:
    """Return the plan of an import; nothing is written.

    Args:
        format_name: Name of the format.
        source: What was imported from.
        collection: What the format read of it.
        options: How the tree is made.

    Raises:
        UsageError: There is nothing to import, an image is missing (with `strict`), the tree would
            lie in the source or hold it, or the folder holds something else.
        OutputError: The folder cannot be listed.
    """
    if not collection.items:
        raise UsageError("there is nothing to import here", path=source)
    _refuse_place(options.out, source)
    missing = [(item.name, item.image) for item in collection.items if isinstance(item.image, str)]
    if options.strict and missing:
        raise UsageError(
            f"{plural(len(missing), 'image')} of {len(collection.items):,} cannot be used",
            path=source,
            seen=first_of([f"{name}: {reason}" for name, reason in missing], separator="; "),
            hint="name the folder that holds them with --images, or leave out --strict",
        )
    if len(missing) == len(collection.items):
        raise UsageError(
            f"none of the {plural(len(missing), 'image')} that the annotations name is there",
            path=source,
            seen=f"{missing[0][0]}: {missing[0][1]}",
            hint="name the folder that holds the images with --images",
        )
    label_map = label_map_of(collection.labels, _map_name(source), collection.ignored)
    request = {
        "format": format_name,
        "source": to_text(str(source.absolute())),
        "options": options.stated
        | {"copy": options.copy, "keep_instances": options.keep_instances},
        "annotations": _inputs_digest(collection),
        "labels": {str(label.id): to_text(label.name) for label in collection.labels},
    }
    plan = ImportPlan(format_name, source, options, collection, label_map, request)
    plan.job.refuse_foreign_files()
    plan.job.refuse_other_request(plan.job.read_request(), request)
    return plan


def _map_name(source: Path) -> str:
    name = "".join(
        character if character.isalnum() or character in " _-." else "_"
        for character in source.absolute().stem or "imported"
    )
    return name.strip(" .")[:60].strip(" .") or "imported"


def _refuse_place(out: Path, source: Path) -> None:
    real, held = out.resolve(), source.resolve()
    folder = held if held.is_dir() else held.parent
    if out.exists() and not out.is_dir():
        raise UsageError("the new tree needs a folder", path=out, seen="a file of that name")
    if held.is_dir() and real.is_relative_to(folder):
        raise UsageError(
            "the new tree would lie in the source",
            path=out,
            seen=f"it is inside {folder}",
            hint="name a folder outside of the source with --out",
        )
    if folder.is_relative_to(real):
        raise UsageError(
            "the new tree needs a folder of its own",
            path=out,
            seen=f"it holds {folder}",
            hint="name a new folder with --out",
        )


def _inputs_digest(collection: Collection) -> str:
    """Return a digest of the annotation files, and of what else the drawings depend on."""
    files = [file_digest(path) for path in collection.files]
    states = [item.state for item in collection.items if item.state]
    return digest_text("\n".join([*files, *states]))


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
    damages = checksums.check_files(job.path, expected, whole=False)
    notes = [name for name in checksums.read_checksums(job.path) if name != LEDGER]
    damages += checksums.damaged_files(job.path, names=notes)
    if any(damage.is_missing for damage in damages):
        return None
    checksums.raise_damage(
        damages, f"{len(damages):,} files are not those that histoprep import wrote", job.remake
    )
    # A run that was killed at its very end may not have listed them.
    own = (job.seal_name, job.request_name, *IMPORT.notes)
    checksums.list_files(job.path, [name for name in own if (job.path / name).is_file()])
    job.tidy()
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


def _kinds_of(text: str | None) -> Counter[str]:
    pairs = (entry.rpartition(" ") for entry in (text or "").split(", ") if entry)
    return Counter({kind: int(number) for kind, _, number in pairs})
