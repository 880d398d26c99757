"""Manifest -> shards and their index. The index comes last: without it there are no shards, and
with it all of them are whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from histoprep import checksums, durable
from histoprep.digests import file_digest
from histoprep.errors import IncompleteError, IntegrityError
from histoprep.execution import Engine, run_tasks
from histoprep.job_folder import SUCCESS, output_errors
from histoprep.notebook import html_result
from histoprep.phrases import first_of, plural
from histoprep.progress import Advance, TaskProgress, silent
from histoprep.read_ahead import stat_file
from histoprep.schemas.manifest import SHARD_COLUMNS, Manifest, open_manifest
from histoprep.schemas.shards import OWN_FIELDS, index_schema, is_index, open_part, part_facts
from histoprep.shards.index import write_index
from histoprep.shards.layout import INDEX, shard_files
from histoprep.shards.plan import ShardOptions, ShardPlan, plan_shards
from histoprep.shards.task import FailedTile, ShardDone
from histoprep.visible import visible

if TYPE_CHECKING:
    from pandas import DataFrame

_REQUEST_WORDS = {
    "manifest_digest": "manifest",
    "label_map_digest": "label map",
    "max_shard_bytes": "--max-shard-size",
    "keep_metadata": "--keep-metadata",
    "layout_version": "version of the layout",
}
_PIECE = 8192


@dataclass(frozen=True, slots=True, repr=False)
class ShardResult:
    """What was written: `num_reused` shards were there from a stopped run; `up_to_date` when all
    was there already.

    `image_suffixes` are those of the images in the shards.
    """

    index: Path
    num_tiles: int
    num_shards: int
    num_bytes: int
    num_reused: int = 0
    up_to_date: bool = False
    image_suffixes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the counts in one line."""
        return f"<ShardResult: {self._counts()} | {visible(str(self.index))}>"

    def _repr_html_(self) -> str:
        """Return the counts, for notebooks."""
        return html_result(f"{self._counts()} | {self.index}")

    def _counts(self) -> str:
        shards = plural(self.num_shards, "shard")
        return f"{plural(self.num_tiles, 'tile')} in {shards}, {self.num_bytes:,} bytes"

    def to_pandas(self) -> DataFrame:
        """Return the index: a row a tile, with where its members lie."""
        frame: DataFrame = open_manifest(self.index).read().to_pandas()
        return frame


def write_shards(
    manifest_path: str | Path,
    out: str | Path,
    options: ShardOptions | None = None,
    engine: Engine | None = None,
    *,
    root: str | Path | None = None,
    advance: Advance = silent,
) -> ShardResult:
    """Pack the tiles of a manifest into shards and return what was written.

    The same manifest gives the same bytes, for any number of workers and interruptions; the same
    call resumes. Masks become 8-bit PNG files of classes.

    Args:
        manifest_path: Path of manifest.parquet.
        out: Folder of the shards and their index.
        options: Size of shards, and whether images keep their metadata.
        engine: Where the work runs; None for worker processes.
        root: Folder that relative paths start from; None for that of the manifest.
        advance: Called with the number of tiles done and of all tiles.

    Raises:
        UsageError: The folder holds something else or shards of another request.
        IntegrityError: The manifest does not hold, or shards were changed.
        IncompleteError: Files are gone, unreadable or not what the manifest says; there is no
            index.
        OutputError: The folder cannot be written.
        LockedError: Another process writes there.
    """
    manifest = open_manifest(manifest_path)
    plan = plan_shards(
        manifest, Path(out), options or ShardOptions(), None if root is None else Path(root)
    )
    with durable.locked(plan.out):
        done = _finished(plan)
        if done is None:
            plan.job.refuse_foreign_files()
            plan.job.begin(plan.request, removed=(INDEX,))
            parts, failures, reused = _write_all(plan, engine or Engine(), advance)
            if failures:
                raise _incomplete(plan, failures)
            done = _finish(plan, parts, reused)
    return replace(done, image_suffixes=tuple(plan.image_suffixes()))


def _finished(plan: ShardPlan) -> ShardResult | None:
    """Return the result of an earlier run that is whole; raises UsageError where one may not go on
    from what is there.
    """
    earlier = plan.job.read_request()
    hint = "name another --out, or delete this folder"
    plan.job.refuse_other_request(earlier, plan.request, words=_REQUEST_WORDS, hint=hint)
    return None if earlier is None else _whole(plan)


def _whole(plan: ShardPlan) -> ShardResult | None:
    index = plan.out / INDEX
    # Listed among the checksums last of all.
    if not (index.exists() and SUCCESS in checksums.read_checksums(plan.out)):
        return None
    try:
        shards = open_manifest(index).header["shards"] if is_index(open_manifest(index)) else []
    except IntegrityError:
        return None
    sizes = [(stat_file(str(plan.out / shard["name"])) or (None,))[0] for shard in shards]
    if not shards or sizes != [shard["bytes"] for shard in shards]:
        return None
    damages = checksums.check_files(plan.out, shard_files(shards), whole=False)
    hint = (
        "delete this file, then the same command writes the shards again; histoprep verify names"
        " all that were changed"
    )
    checksums.raise_damage(damages, "a shard was changed since it was written", hint)
    plan.job.tidy()
    return ShardResult(
        index,
        sum(shard["tiles"] for shard in shards),
        len(shards),
        sum(shard["bytes"] for shard in shards),
        len(shards),
        up_to_date=True,
    )


def _write_all(
    plan: ShardPlan, engine: Engine, advance: Advance
) -> tuple[list[ShardDone], list[FailedTile], int]:
    done: list[ShardDone] = []
    failures: list[FailedTile] = []
    progress = TaskProgress(advance, len(plan.manifest))
    with contextlib.closing(run_tasks(plan.tasks(), engine, progress.under_way)) as shards:
        for shard in shards:
            done.append(shard)
            failures += shard.failures
            progress.add(shard.num_tiles)
    return done, failures, sum(result.reused for result in done)


def _incomplete(plan: ShardPlan, failures: list[FailedTile]) -> IncompleteError:
    named = [f"{failure.path}: {failure.reason}" for failure in failures]
    return IncompleteError(
        f"{plural(len(failures), 'file')} cannot be packed, so there is no index",
        path=plan.out,
        seen=first_of(named, separator="; "),
        hint=(
            "restore the files, then the same command again; or make the manifest again without"
            " them, and another --out"
        ),
    )


def _finish(plan: ShardPlan, done: list[ShardDone], reused: int) -> ShardResult:
    facts = [part_facts(result.part) for result in done]
    index = plan.out / INDEX
    with output_errors(plan.out):
        names = {fact["name"] for fact in facts}
        for path in plan.out.glob("*.tar"):
            if path.name not in names:
                path.unlink()
        tiles = write_index(
            index,
            plan.manifest,
            _rows(plan.manifest, done),
            {"manifest_digest": plan.manifest_digest, "shards": facts},
        )
        size = sum(fact["bytes"] for fact in facts)
        checksums.remember_files(plan.out, shard_files(facts))
    seal = {"tiles": tiles, "shards": len(facts), "bytes": size, "index_digest": file_digest(index)}
    plan.job.seal(seal)
    return ShardResult(index, tiles, len(facts), size, reused)


def _rows(manifest: Manifest, done: list[ShardDone]) -> Iterator[pa.Table]:
    """Yield the rows of the index in the manifest's order; only a few parts are in memory at a
    time.
    """
    columns = index_schema(manifest.label_map.num_classes, has_folds=manifest.num_folds > 0)
    own = (*SHARD_COLUMNS, *(field.name for field in OWN_FIELDS))
    found = _Members(done)
    start = 0
    for batch in manifest.iter_batches(rows=_PIECE):
        members = found.between(start, start + batch.num_rows)
        start += batch.num_rows
        yield pa.table(
            [members[name] if name in own else batch[name] for name in columns.names],
            schema=columns,
        )


class _Members:
    """Where the tiles of ever later rows lie; parts are read when their first row is due."""

    def __init__(self, done: list[ShardDone]) -> None:
        self._later = sorted(done, key=lambda shard: shard.first_row, reverse=True)
        self._waiting: list[pa.Table] = []

    def between(self, start: int, end: int) -> pa.Table:
        """Return the members of rows `start` to `end` - 1, in order; raises IntegrityError when one
        is missing.
        """
        while self._later and self._later[-1].first_row < end:
            shard = self._later.pop()
            part = open_part(shard.part)
            self._waiting.append(
                part.append_column("shard", pa.array([shard.name] * part.num_rows, pa.string()))
            )
        due = []
        for index, part in enumerate(self._waiting):
            rows = part["row"].to_numpy()
            due.append(part.filter(pa.array(rows < end)))
            self._waiting[index] = part.filter(pa.array(rows >= end))
        self._waiting = [part for part in self._waiting if part.num_rows]
        members = pa.concat_tables(due).sort_by("row").combine_chunks() if due else None
        if members is None or members["row"].to_pylist() != list(range(start, end)):
            raise IntegrityError(
                "the parts of the shards do not have every tile once",
                seen=f"rows {start} to {end - 1}",
                hint="delete the folder",
            )
        return members
