"""Functions that the zygote calls beside the command line: the library as a script would use it, and writers that are wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from histoprep import durable
from histoprep.audit import AuditOptions, run_audit
from histoprep.execution import Engine
from histoprep.tile_table import TableOptions
from histoprep.workspace import Workspace


def audit_in_parts(arguments: list[str]) -> int:
    """Audit ROOT to WORKSPACE in partitions of 10 tiles."""
    where = Workspace.of(Path(arguments[0]), Path(arguments[1]))
    return run_audit(where, AuditOptions(TableOptions(partition_tiles=10)), Engine(1)).exit_code


def write_in_place(arguments: list[str]) -> int:
    """Do it wrong: write the table where it is read, and take a file that is there for a finished one."""
    folder = Path(arguments[1])
    folder.mkdir(exist_ok=True)
    table = pa.table({"tile_id": [str(number) for number in range(20_000)]})
    for name in ("tiles.parquet", "findings.parquet"):
        path = folder / name
        if not path.exists():
            with open(path, "wb", buffering=0) as stream:
                pq.write_table(table, stream)
            os.rename(path, path)
    return 0


def forget_to_sweep(arguments: list[str]) -> int:
    """Do it nearly right: atomic, but what a killed run left behind stays."""
    folder = Path(arguments[1])
    folder.mkdir(exist_ok=True)
    durable.write_bytes(folder / "summary.json", b"{}")
    return 0
