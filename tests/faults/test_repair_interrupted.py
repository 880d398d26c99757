"""Repair and faults: repaired.parquet never names a file that is not there, and the same command
ends the work with the same bytes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faults.running import (
    COMMANDS,
    Command,
    Stage,
    Undisturbed,
    Zygote,
    count_calls,
    every_file,
    kill_at,
    results,
    temporaries,
    unreadable,
)
from faults.test_kills import MOST_POINTS, spread
from histoprep import tables
from histoprep.errors import IntegrityError
from histoprep.schemas import repaired
from histoprep.schemas.repaired import open_rows

NUM_POINTS = 16
MANY_POINTS = (pytest.mark.faults, pytest.mark.timeout(7200))
REPAIR = Command("repair", ("repair", "--workers", "1"))
# Of the masks that were repaired some are refused now: their files go.
STRICTER = Command(
    "repair again", ("repair", "--workers", "1", "--min-confidence", "0.9", "--force")
)


def prepared(zygote: Zygote, stage: Stage, command: Command) -> Undisturbed:
    """Set the stage, run the command undisturbed and set the stage again; paths of the workspace
    are in its results, so it stays the same.
    """
    for before in (COMMANDS["audit"], *((REPAIR,) if command is STRICTER else ())):
        assert zygote.run(before.full(stage)).code in (0, 1, 3)
    saved = stage.workspace.with_name("saved")
    stage.workspace.rename(saved)
    stage.saved = saved
    stage.reset()
    outcome = zygote.run(command.full(stage))
    assert outcome.code == (3 if command is STRICTER else 0), outcome.stderr
    first = Undisturbed(outcome.code, results(stage.workspace), saved)
    stage.reset()
    return first


def named(workspace: Path) -> list[str]:
    """Return the files that repaired.parquet names, none where it is not there."""
    path = workspace / "repaired.parquet"
    if not path.exists():
        return []
    opened, _ = tables.open_table(path, kind=repaired.KIND, schema_version=repaired.SCHEMA_VERSION)
    names: list[str] = tables.read_table(opened, ["mask_path"])["mask_path"].to_pylist()
    return names


def untrue(stage: Stage) -> list[str]:
    """Return what is wrong with a workspace whatever happened: half files, names of files that are
    not there, damaged masks come back unnoticed.
    """
    wrong = [f"half a file: {item}" for item in unreadable(stage.workspace)]
    wrong += [
        f"{name} is not there"
        for name in named(stage.workspace)
        if not os.path.exists(os.path.join(stage.data, name))
    ]
    try:
        rows, _ = open_rows(stage.workspace / "tiles.parquet")
    except IntegrityError as error:
        return wrong if "did not end" in error.what else [*wrong, error.what]
    if (stage.workspace / "repaired.json").exists() and not rows.repaired:
        wrong.append("a repair is recorded, and damaged masks are used")
    return wrong


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("most", [NUM_POINTS, pytest.param(MOST_POINTS, marks=MANY_POINTS)])
@pytest.mark.parametrize("command", [REPAIR, STRICTER], ids=lambda item: item.name)
@pytest.mark.slow
def test_a_kill_at_any_point_leaves_true_tables_and_loses_nothing(
    command: Command, most: int, zygote: Zygote, stage: Stage, tmp_path: Path
) -> None:
    first = prepared(zygote, stage, command)
    arguments = command.full(stage)
    points = spread(count_calls(zygote, arguments, tmp_path / "log"), most)
    assert named(stage.workspace)
    damages, reached = [], 0
    for call, number in points:
        stage.reset()
        reached += zygote.run(arguments, beside=kill_at(call, number)).code == -9
        seen = untrue(stage)
        again = zygote.run(arguments)
        if "worker processes cannot be started" in again.stderr:
            # A run that is killed while it asks for a worker takes the zygote's fork server along,
            # on a busy machine a little later.
            again = zygote.run(arguments)
        seen += [] if again.code == first.code else [f"exit {again.code}: {again.stderr[-500:]}"]
        found = results(stage.workspace)
        seen += [
            f"{name} differs"
            for name in sorted(first.results.keys() | found.keys())
            if first.results.get(name) != found.get(name)
        ]
        seen += [f"{name} is left over" for name in temporaries(stage.workspace)]
        damages += [f"{call} {number}: {observation}" for observation in seen]
    print(f"{command.name}: {len(points)} points, {reached} reached, {len(damages)} damages")
    assert reached >= 0.9 * len(points) >= 0.9 * 14
    assert not damages, "\n".join(damages)
    assert every_file(stage.data) == stage.data_before


@pytest.mark.slow
def test_the_check_sees_a_table_that_names_what_went(zygote: Zygote, stage: Stage) -> None:
    prepared(zygote, stage, REPAIR)
    assert zygote.run(REPAIR.full(stage)).code == 0
    assert untrue(stage) == []
    os.unlink(os.path.join(stage.data, named(stage.workspace)[0]))
    assert untrue(stage)
