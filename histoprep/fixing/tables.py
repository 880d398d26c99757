"""The last part of a corrected copy: tables of the data set with the new names of files, and other
texts that name files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from histoprep import durable, tables
from histoprep.digests import digest, digest_text, file_digest
from histoprep.errors import OutputError, UsageError
from histoprep.fixing.files import OtherFile
from histoprep.fixing.fixer import MADE, split_suffix
from histoprep.fixing.names_in_tables import Names, Renamed, Rewritten
from histoprep.fixing.operations.base import IMAGE, MASK
from histoprep.fixing.plan import OTHER, TABLE, FixPlan, role_of, tables_outside
from histoprep.job_folder import output_errors
from histoprep.links import place_file
from histoprep.mask_tree.task import FAILED, WRITTEN, beside
from histoprep.name_index import composed
from histoprep.names import to_name, to_text
from histoprep.phrases import plural
from histoprep.schemas import tiles
from histoprep.schemas.ledgers import FIX, open_ledger
from histoprep.text_table import detect_format

NAMES = "names"
"""The operation of tables, which follows from the others."""
_MAX_BYTES = 1 << 29


def with_tables(plan: FixPlan, parts: Iterable[Path]) -> Iterator[Path]:
    """Yield the parts of the ledger as they are done, and at last one of the tables and other texts
    that name files.

    Raises:
        OutputError: The tree cannot be written.
    """
    done = []
    for part in parts:
        done.append(part)
        yield part
    names = find_names(done)
    rows = [_row(plan, other, names) for other in plan.named]
    rows += filter(None, (_outside_row(plan, path, names) for path in tables_outside(plan)))
    if not rows:
        return
    with output_errors(plan.out):
        durable.sync_file_system(plan.out)
    part = plan.job.parts / f"{digest_text(repr((plan.inputs, plan.request)))}-tables.parquet"
    tables.write_table(
        part,
        [tiles.to_table(rows, FIX.ledger_schema)],
        FIX.ledger_schema,
        kind=FIX.part,
        schema_version=FIX.schema_version,
        metadata={},
    )
    yield part


def find_names(parts: Iterable[Path]) -> Names:
    """Return the files that were renamed, and those of the same name, from parts of the ledger."""
    parts = list(parts)
    columns = ["path", "role", "output_path"]
    renamed: set[str] = set()
    for part in parts:
        for batch in tables.read_batches(open_ledger(part, FIX.part, FIX), columns):
            is_new = pc.not_equal(batch["path"], batch["output_path"])
            renamed.update(map(_base, batch.filter(is_new)["path"].to_pylist()))
    if not renamed:
        return Names()
    return _names(
        (
            Renamed(row["role"], row["path"], row["output_path"] or row["path"])
            for part in parts
            for batch in tables.read_batches(open_ledger(part, FIX.part, FIX), columns)
            for row in batch.to_pylist()
        ),
        renamed,
    )


def _names(files: Iterable[Renamed], renamed: AbstractSet[str]) -> Names:
    return Names.of(
        file for file in files if file.role in (IMAGE, MASK) and _base(file.before) in renamed
    )


def _base(path: str) -> str:
    return composed(path.rpartition("/")[2])


def try_tables(plan: FixPlan, files: Sequence[Renamed]) -> Iterator[dict[str, Any]]:
    """Yield what the ledger would say of tables and other texts, as far as it is counted; nothing
    is written.

    Args:
        plan: The plan of the copy.
        files: All images and masks with the names that they would get.
    """
    names = _names(files, {_base(file.before) for file in files if file.before != file.after})
    named = [(file.path, Path(beside(plan.workspace.root, file.path))) for file in plan.named]
    named += [(to_text(os.fspath(path.resolve())), path) for path in tables_outside(plan)]
    for name, source in named:
        try:
            rewritten, left = _rewrite(source, source.stat().st_size, names)
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
            yield {"path": name, "left": [], "status": FAILED, "reason": reason, "operations": []}
            continue
        if rewritten is None and name.startswith("/"):
            continue
        yield {
            "path": name,
            "output_path": name,
            "role": role_of(name),
            "how": "",
            "operations": [] if rewritten is None else [NAMES],
            "left": left,
            "changed_names": 0 if rewritten is None else rewritten[1],
            "status": WRITTEN,
        }


def _row(plan: FixPlan, file: OtherFile, names: Names) -> dict[str, Any]:
    """Put one file of the data set into the tree and return its row of the ledger."""
    source = Path(beside(plan.workspace.root, file.path))
    target = Path(beside(plan.out, file.path))
    row: dict[str, Any] = {
        "path": file.path,
        "role": role_of(file.path),
        "operations": [],
        "left": [],
        "status": WRITTEN,
    }
    try:
        rewritten, left = _rewrite(source, file.num_bytes, names)
        row |= {"left": left, "source_digest": file_digest(source)}
    except OSError as error:
        return row | {"status": FAILED, "reason": f"cannot be read: {error.strerror or error}"}
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    row["output_path"] = file.path
    if rewritten is not None:
        return row | _publish(target, rewritten)
    how = place_file(source, target, plan.options.link)
    return row | {"how": how, "output_digest": row["source_digest"], "output_bytes": file.num_bytes}


def _publish(target: Path, rewritten: tuple[bytes, int]) -> dict[str, Any]:
    data, number = rewritten
    with output_errors(target):
        durable.publish_in_batch(target, data)
    return {
        "how": MADE,
        "operations": [NAMES],
        "changed_names": number,
        "output_digest": digest(data),
        "output_bytes": len(data),
    }


def _rewrite(
    source: Path, num_bytes: int, names: Names
) -> tuple[tuple[bytes, int] | None, list[str]]:
    """Return the bytes with new names and how many there are, None where nothing has to change, and
    what is left to do.
    """
    if not names:
        return None, []
    if num_bytes > _MAX_BYTES:
        return None, [f"{NAMES}: {num_bytes:,} bytes, too large to look for names of renamed files"]
    data = source.read_bytes()
    if role_of(source.name) == OTHER:
        number = names.count(data.decode("utf-8", "replace"))
        return None, [_left(number, "renamed files are as before")] if number else []
    try:
        written = detect_format(source)
        rewritten = _rewritten(data, written.encoding, written.separator, names)
    except (UsageError, UnicodeError):
        return None, []
    ambiguous = rewritten.num_ambiguous
    left = (
        [_left(ambiguous, "several files, of which some were renamed, are as before")]
        if ambiguous
        else []
    )
    if not rewritten.num_changed:
        return None, left
    return (rewritten.text.encode(*_codec(data, written.encoding)), rewritten.num_changed), left


def _rewritten(data: bytes, encoding: str, separator: str, names: Names) -> Rewritten:
    return names.rewrite_table(data.decode(*_codec(data, encoding)), separator)


def _codec(data: bytes, encoding: str) -> tuple[str, str]:
    """Return encoding and error handling with which a text comes back as the same bytes."""
    if encoding == "utf-16":
        # The mark stays part of the text.
        encoding = "utf-16-le" if data.startswith(b"\xff\xfe") else "utf-16-be"
    elif encoding == "utf-32":
        encoding = "utf-32-le" if data.startswith(b"\xff\xfe\0\0") else "utf-32-be"
    elif encoding == "utf-8-sig":
        encoding = "utf-8"
    return encoding, "surrogateescape" if encoding == "utf-8" else "strict"


def _left(number: int, rest: str) -> str:
    return f"{NAMES}: {plural(number, 'name')} of {rest}"


def _outside_row(plan: FixPlan, path: Path, names: Names) -> dict[str, Any] | None:
    """Write a copy with new names of a table that lies elsewhere; None where it holds as it is."""
    real = path.resolve()
    try:
        rewritten, left = _rewrite(real, real.stat().st_size, names)
    except OSError as error:
        raise OutputError.from_os_error(error, real, "cannot read") from error
    if rewritten is None:
        return None
    name = free_name(plan, to_text(real.name))
    row = {"path": to_text(os.fspath(real)), "role": TABLE, "left": left, "status": WRITTEN}
    row |= {"source_digest": file_digest(real), "output_path": name}
    return row | _publish(plan.out / to_name(name), rewritten)


def free_name(plan: FixPlan, name: str) -> str:
    """Return a name at the root of the tree that no file of the data set has."""
    stem, suffix = split_suffix(name)
    while os.path.lexists(beside(plan.workspace.root, name)):
        stem += "-fixed"
        name = stem + suffix
    return name
