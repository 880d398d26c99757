"""Functions that the zygote calls beside the command line: the library as a script would use it,
and writers that are wrong.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faults.tasks import FragileTable
from histoprep import auditing, cli, durable, fixing
from histoprep.auditing import AuditOptions, run_audit
from histoprep.execution import Engine, run_tasks
from histoprep.fixing import FixOptions
from histoprep.importing import job as importing_job
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import options as tile_options
from histoprep.tiles import table as tile_table
from histoprep.tiles.options import TableOptions
from histoprep.tiles.table import TileTable
from histoprep.tiles.task import TileTask


def audit_in_parts(arguments: list[str]) -> int:
    """Audit ROOT to WORKSPACE in partitions of 10 tiles."""
    where = Workspace.of(Path(arguments[0]), Path(arguments[1]))
    return run_audit(where, AuditOptions(TableOptions(partition_tiles=10)), Engine(1)).exit_code


def cli_in_parts(arguments: list[str]) -> None:
    """Be the command line, with partitions of 4 tiles; say on stderr how many of them were done
    before.
    """
    tile_options.TableOptions = functools.partial(TableOptions, partition_tiles=4)  # type: ignore[assignment,misc]

    def noted(tasks: Iterable[TileTask]) -> Iterator[TileTask]:
        before = total = 0
        for task in tasks:
            total += 1
            before += task.is_done()
            yield task
        print(f"resumed {before} of {total}", file=sys.stderr)

    tile_table.run_tasks = lambda tasks, *rest: run_tasks(noted(tasks), *rest)  # type: ignore[assignment]
    cli.main(arguments)


def audit_with_killers(arguments: list[str]) -> int:
    """Audit ROOT to WORKSPACE; tiles whose id ends with one of the numbers that follow (NUMBER=HOW)
    end their worker.
    """
    root, folder, *killers = arguments

    def fragile(where: Workspace, options: TableOptions | None) -> TileTable:
        return FragileTable(where, options, dict(killer.split("=") for killer in killers))

    auditing.TileTable = fragile  # type: ignore[assignment,misc]
    where = Workspace.of(Path(root), Path(folder))
    return run_audit(
        where, AuditOptions(TableOptions(partition_tiles=10, time_limit_s=2.0)), Engine(2)
    ).exit_code


def hold(arguments: list[str]) -> Any:
    """Hold the lock of WORKSPACE until killed."""
    with durable.locked(Path(arguments[0])):
        print("held", flush=True)
        sys.stdin.read()


def write_in_place(arguments: list[str]) -> int:
    """Do it wrong: write the table where it is read, and take a file that is there for a finished
    one.
    """
    folder = Path(arguments[1])
    folder.mkdir(exist_ok=True)
    table = pa.table({"tile_id": [str(number) for number in range(20_000)]})
    for name in ("tiles.parquet", "findings.parquet"):
        path = folder / name
        if not path.exists():
            with path.open("wb", buffering=0) as stream:
                pq.write_table(table, stream)
            path.rename(path)
    return 0


def forget_to_sweep(arguments: list[str]) -> int:
    """Do it nearly right: atomic, but what a killed run left behind stays."""
    folder = Path(arguments[1])
    folder.mkdir(exist_ok=True)
    durable.write_bytes(folder / "summary.json", b"{}")
    return 0


def import_in_parts(arguments: list[str]) -> None:
    """Be the command line, with partitions of 2 images for imports."""
    importing_job.PARTITION_IMAGES = 2
    cli.main(arguments)


def fix_in_parts(arguments: list[str]) -> None:
    """Be the command line, with partitions of 5 files for corrected copies."""
    fixing.FixOptions = functools.partial(FixOptions, partition_files=5)  # type: ignore[assignment,misc]
    cli.main(arguments)
