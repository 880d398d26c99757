"""Tiles table -> a row a tile of what table rules look at.

A small one is in memory. That of a large data set is in a file without a name, mapped into memory:
the system reads back what a rule looks at, and drops it again where memory is short.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.checks import OVERVIEW_COLUMNS, nullable
from histoprep.errors import OutputError
from histoprep.labels import IGNORED, LabelMap
from histoprep.schemas.repaired import IS_REPAIRED, TileRows
from histoprep.schemas.tiles import SCHEMA

# Beyond, the overview is in a file: about 100 MB.
_MAX_ROWS_IN_MEMORY = 1 << 18
_FLAGS = ("zero", "foreground")


def read_overview(rows: TileRows, label_map: LabelMap | None, folder: Path) -> pd.DataFrame:
    """Return the overview: `OVERVIEW_COLUMNS`, source, is_repaired, and what `label_ids` says of
    each mask (see `Evidence`), ignored labels left out.

    Args:
        rows: The tiles table.
        label_map: What it ignores is no label.
        folder: Folder for a file of a large table, about 300 bytes a tile; it has no name, so that
            nothing is left of it.

    Raises:
        OutputError: The file cannot be written.
    """
    schema = _schema()
    columns = [*OVERVIEW_COLUMNS, "label_ids", IS_REPAIRED]
    pieces = (_piece(batch, label_map, schema) for batch in rows.read_batches(columns))
    if rows.num_rows <= _MAX_ROWS_IN_MEMORY:
        table = pa.Table.from_batches(pieces, schema)
    else:
        table = _mapped(pieces, schema, folder)
    overview: pd.DataFrame = table.to_pandas(types_mapper=nullable)
    return overview.astype(dict.fromkeys(_FLAGS, bool))


def _schema() -> pa.Schema:
    """Return the columns; texts are as pandas holds them, which so takes them as they are."""
    fields = [
        *(SCHEMA.field(name) for name in OVERVIEW_COLUMNS),
        pa.field(IS_REPAIRED, pa.bool_()),
        *(pa.field(name, pa.bool_()) for name in _FLAGS),
        pa.field("source", pa.string()),
    ]
    return pa.schema(
        [
            pa.field(field.name, pa.large_string() if field.type == pa.string() else field.type)
            for field in fields
        ]
    )


def _mapped(pieces: Iterator[pa.RecordBatch], schema: pa.Schema, folder: Path) -> pa.Table:
    """Return the pieces as one table that is mapped from a file."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            with pa.ipc.new_file(file, schema) as writer:
                for piece in pieces:
                    writer.write_batch(piece)
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise OutputError(
            "cannot write a file of the table that rules look at",
            path=folder,
            seen=error.strerror or str(error),
            hint="free some space there, or name another --workspace",
        ) from error
    return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()


def _piece(batch: pa.Table, label_map: LabelMap | None, schema: pa.Schema) -> pa.RecordBatch:
    lists = batch["label_ids"].combine_chunks()
    if label_map is not None and label_map.ignore:
        lists = _without_ignored(lists, label_map)
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    # Labels stand in order of id, so that a list holds others than 0 unless it is [0] or empty.
    firsts = np.zeros(len(sizes), np.int64)
    firsts[sizes == 1] = lists.filter(pa.array(sizes == 1)).flatten().to_numpy()
    folder = pc.replace_substring_regex(batch["tile_id"], r"/?[^/]*$", "")
    made = {
        "zero": pa.array((sizes == 1) & (firsts == 0)),
        "foreground": pa.array((sizes > 1) | (firsts > 0)),
        "source": pc.coalesce(batch["group"], pc.if_else(pc.equal(folder, ""), ".", folder)),
    }
    table = batch.drop_columns(["label_ids"])
    for name, values in made.items():
        table = table.append_column(name, values)
    [whole] = table.cast(schema).combine_chunks().to_batches() or [_empty(schema)]
    return whole


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema)


def _without_ignored(lists: pa.ListArray, label_map: LabelMap) -> pa.ListArray:
    """Return lists of label ids without those that the map ignores; null stays null."""
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    flat = lists.flatten()
    keep = label_map.apply_to_ids(flat.to_numpy(zero_copy_only=False)) != IGNORED
    kept = np.bincount(np.repeat(np.arange(len(sizes)), sizes)[keep], minlength=len(sizes))
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), flat.filter(pa.array(keep)), mask=pc.is_null(lists)
    )
