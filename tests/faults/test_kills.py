"""A command may be killed at any call it makes: what is published is whole, and the same command
ends the work.

Points are (call, k): SIGKILL as the process enters that call for the k-th time. The main
process is killed where files appear; its workers then leave by themselves. CI takes some
points of every command, `pytest -m faults` those at every decisive call and more of the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from faults.running import (
    CALLS,
    COMMANDS,
    Command,
    Stage,
    Undisturbeds,
    Zygote,
    count_calls,
    every_file,
    kill_at,
    results,
    temporaries,
    unreadable,
)

pytestmark = pytest.mark.usefixtures("strace")

NUM_POINTS = 24
MOST_POINTS = 120
# Calls after which something is different on disk; all of them are points.
DECISIVE = ("rename", "renameat", "renameat2", "fsync", "syncfs", "ftruncate", "unlinkat")
WORKER_POINTS = [("rename", 1), ("fsync", 1), ("openat", 3), ("openat", 40)]
MORE_WORKER_POINTS = [
    ("fsync", 2),
    ("ftruncate", 1),
    ("mkdir", 1),
    ("unlink", 1),
    *[("openat", number) for number in (1, 2, 5, 10, 20, 30, 60, 90, 120)],
]

Point = tuple[str, int]


@dataclass
class MaskInventory:
    """What killing one command at many points came to."""

    points: int = 0
    reached: int = 0
    damages: list[str] = field(default_factory=list)


def spread(counts: dict[str, int], most: int) -> list[Point]:
    """Return about `most` points: the decisive calls first, the others evenly spread over the
    run.
    """
    points = [(call, number) for call in DECISIVE for number in range(1, counts.get(call, 0) + 1)][
        :most
    ]
    others = {call: counts[call] for call in CALLS if call not in DECISIVE and call in counts}
    left = most - len(points)
    total = sum(others.values())
    for call, count in others.items():
        share = count if total <= left else max(1, round(left * count / total))
        points += [
            (call, 1 + round(step * (count - 1) / max(share - 1, 1)))
            for step in range(min(share, count))
        ]
    return list(dict.fromkeys(points))


def kill_everywhere(
    zygote: Zygote, undisturbed: Undisturbeds, stage: Stage, command: Command, log: Path, most: int
) -> MaskInventory:
    """Run the command with a kill and once more without, for about so many points."""
    arguments, first = command.full(stage), undisturbed.set(stage, command)
    survey = MaskInventory()
    for call, number in spread(count_calls(zygote, arguments, log, command.call), most):
        stage.reset()
        killed = zygote.run(arguments, command.call, beside=kill_at(call, number))
        survey.points += 1
        survey.reached += killed.code == -9
        damages = [f"half a file: {item}" for item in unreadable(stage.workspace)]
        again = zygote.run(arguments, command.call)
        if again.code != first.code:
            damages.append(f"exit {again.code} instead of {first.code}: {again.stderr[-500:]}")
        found = results(stage.workspace)
        compared = first.results.keys() | found.keys()
        if command.leaves_parts:
            # Another job may be at work in that folder: `collect` sweeps it and lists its files.
            compared = {name for name in compared if name.endswith(".parquet")}
        else:
            damages += [f"{name} is left over" for name in temporaries(stage.workspace)]
        damages += [
            f"{name} differs"
            for name in sorted(compared)
            if first.results.get(name) != found.get(name)
        ]
        survey.damages += [f"{call} {number}: {damage}" for damage in damages]
    if every_file(stage.data) != stage.data_before:
        survey.damages.append("the data set was changed")
    print(
        f"{command.name}: {survey.points} points, {survey.reached} reached,"
        f" {len(survey.damages)} damages"
    )
    return survey


@pytest.mark.parametrize("name", ["audit", "remap", "stats", "manifest", "collect"])
@pytest.mark.slow
def test_a_kill_at_any_point_loses_nothing(
    name: str, zygote: Zygote, undisturbed: Undisturbeds, stage: Stage, tmp_path: Path
) -> None:
    survey = kill_everywhere(
        zygote, undisturbed, stage, COMMANDS[name], tmp_path / "log", NUM_POINTS
    )
    assert survey.points >= 22
    # A run may make a few calls less than the one that was counted.
    assert survey.reached >= 0.9 * survey.points
    assert not survey.damages, "\n".join(survey.damages)


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_kill_at_every_decisive_point_loses_nothing(
    name: str, zygote: Zygote, undisturbed: Undisturbeds, stage: Stage, tmp_path: Path
) -> None:
    survey = kill_everywhere(
        zygote, undisturbed, stage, COMMANDS[name], tmp_path / "log", MOST_POINTS
    )
    assert survey.reached >= 0.9 * survey.points
    assert not survey.damages, "\n".join(survey.damages)


def test_the_harness_sees_a_writer_that_writes_in_place(
    zygote: Zygote, undisturbed: Undisturbeds, stage: Stage, tmp_path: Path
) -> None:
    command = Command("in place", (), call="faults.commands:write_in_place")
    survey = kill_everywhere(zygote, undisturbed, stage, command, tmp_path / "log", 12)
    assert any("half a file" in damage for damage in survey.damages)
    assert any("differs" in damage for damage in survey.damages)


def test_the_harness_sees_what_is_left_over(
    zygote: Zygote, undisturbed: Undisturbeds, stage: Stage, tmp_path: Path
) -> None:
    command = Command("no sweep", (), call="faults.commands:forget_to_sweep")
    survey = kill_everywhere(zygote, undisturbed, stage, command, tmp_path / "log", 12)
    assert any("is left over" in damage for damage in survey.damages)
    assert not any("half a file" in damage for damage in survey.damages)


@pytest.mark.parametrize(
    "point",
    [
        *WORKER_POINTS,
        *[
            pytest.param(more_worker_point, marks=pytest.mark.faults)
            for more_worker_point in MORE_WORKER_POINTS
        ],
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["audit", "remap"])
@pytest.mark.slow
def test_workers_that_always_die_end_the_run_and_cost_nothing(
    name: str, point: Point, zygote: Zygote, undisturbed: Undisturbeds, stage: Stage
) -> None:
    command = COMMANDS[name]
    first = undisturbed.set(stage, command)
    killed = zygote.run(command.full(stage), beside=["-f", *kill_at(*point)], pid_of="workers")
    # Not reached: as without. At a file: it is blamed. Elsewhere: the run cannot go on, and says
    # so.
    assert killed.code in (first.code, 3, 4), killed.stderr
    assert killed.code == 4 or point[0] != "rename", "every worker renames its result"
    assert killed.code != 4 or "worker processes end while they are at no file" in killed.stderr
    assert not unreadable(stage.workspace)
    again = zygote.run(command.full(stage))
    assert again.code == first.code, again.stderr
    assert results(stage.workspace) == first.results
    assert not temporaries(stage.workspace)
