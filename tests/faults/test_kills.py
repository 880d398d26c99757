"""A command may be killed at any call it makes: what is published is whole, and the same command ends the work.

Points are (call, k): SIGKILL as the process enters that call for the k-th time. The main
process is killed where files appear; its workers then leave by themselves. CI takes some
points of every command, `pytest -m faults` all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from faults.running import CALLS, CLI, Stage, Zygote, count_calls, every_file, kill_at, results, temporaries, unreadable

pytestmark = pytest.mark.usefixtures("strace")

NUM_POINTS = 42
MOST_POINTS = 400
# Calls after which something is different on disk; all of them are points.
DECISIVE = ("rename", "renameat", "renameat2", "fsync", "syncfs", "ftruncate", "unlinkat")

Point = tuple[str, int]


@dataclass
class Survey:
    """What killing one command at many points came to."""

    points: int = 0
    reached: int = 0
    damages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Command:
    """A command, its arguments but for the folders, and the commands that are run before it."""

    name: str
    arguments: tuple[str, ...]
    before: tuple[str, ...] = ()
    call: str = CLI

    def full(self, stage: Stage) -> list[str]:
        if self.call != CLI:
            return [str(stage.data), str(stage.workspace)]
        first, *rest = self.arguments
        return [first, str(stage.data), "--workspace", str(stage.workspace), *rest]


COMMANDS = {
    one.name: one
    for one in (
        Command("audit", ("audit", "--workers", "1")),
        Command("audit in parts", (), call="faults.commands:audit_in_parts"),
        Command("audit again", ("audit", "--workers", "1", "--min-area", "32"), before=("audit",)),
        Command("audit part 1", ("audit", "--workers", "1", "--part", "1/2")),
        Command("audit part 2", ("audit", "--workers", "1", "--part", "2/2")),
        Command("collect", ("collect",), before=("audit part 1", "audit part 2")),
        Command("remap", ("remap", "--workers", "1", "--map", "label_map_5", "--on-unmapped", "unknown"), before=("audit",)),
        Command("stats", ("stats", "--map", "label_map_5"), before=("audit",)),
        Command("manifest", ("manifest",), before=("audit",)),
    )
}


def prepared(zygote: Zygote, stage: Stage, command: Command, saved: Path) -> Stage:
    """Return the stage as the command finds it; runs what comes before once."""
    if command.before:
        stage.reset()
        for name in command.before:
            outcome = zygote.run(COMMANDS[name].full(stage))
            assert outcome.code in (0, 1, 3), outcome.stderr
        shutil.copytree(stage.workspace, saved)
        stage.saved = saved
    return stage


def spread(counts: dict[str, int], most: int) -> list[Point]:
    """Return at most `most` points: the decisive calls first, the others evenly spread over the run."""
    points = [(call, number) for call in DECISIVE for number in range(1, counts.get(call, 0) + 1)][:most]
    others = {call: counts[call] for call in CALLS if call not in DECISIVE and call in counts}
    left = most - len(points)
    total = sum(others.values())
    for call, count in others.items():
        share = count if total <= left else max(1, round(left * count / total))
        points += [(call, 1 + round(step * (count - 1) / max(share - 1, 1))) for step in range(min(share, count))]
    return list(dict.fromkeys(points))


def kill_everywhere(zygote: Zygote, stage: Stage, command: Command, log: Path, choose: Callable[[dict[str, int]], list[Point]]) -> Survey:
    """Run the command undisturbed, then once for every point with a kill and once more without."""
    arguments = command.full(stage)
    stage.reset()
    first = zygote.run(arguments, command.call)
    expected = results(stage.workspace)
    # Once more to count: now everything is imported.
    stage.reset()
    points = choose(count_calls(zygote, arguments, log, command.call))
    survey = Survey(len(points))
    for call, number in points:
        stage.reset()
        killed = zygote.run(arguments, command.call, beside=kill_at(call, number))
        survey.reached += killed.code == -9
        survey.damages += [f"{call} {number}: half a file: {one}" for one in unreadable(stage.workspace)]
        again = zygote.run(arguments, command.call)
        if again.code != first.code:
            survey.damages.append(f"{call} {number}: exit {again.code} instead of {first.code}: {again.stderr[-500:]}")
        found = results(stage.workspace)
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        survey.damages += [f"{call} {number}: {name} differs" for name in differing]
        survey.damages += [f"{call} {number}: {name} is left over" for name in temporaries(stage.workspace)]
    if every_file(stage.data) != stage.data_before:
        survey.damages.append("the data set was changed")
    return survey


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["audit", "remap", "stats", "manifest", "collect"])
def test_a_kill_at_any_point_loses_nothing(
    name: str, zygote: Zygote, stage: Stage, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    command = COMMANDS[name]
    survey = kill_everywhere(
        zygote, prepared(zygote, stage, command, tmp_path / "saved"), command, tmp_path / "log", lambda counts: spread(counts, NUM_POINTS)
    )
    record_property("points", survey.points)
    print(f"{name}: {survey.points} points, {survey.reached} reached, {len(survey.damages)} damages")
    assert survey.points >= 40
    # A run may make a few calls less than the one that was counted.
    assert survey.reached >= 0.9 * survey.points
    assert not survey.damages, "\n".join(survey.damages)


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_kill_at_every_point_loses_nothing(name: str, zygote: Zygote, stage: Stage, tmp_path: Path) -> None:
    command = COMMANDS[name]
    survey = kill_everywhere(
        zygote, prepared(zygote, stage, command, tmp_path / "saved"), command, tmp_path / "log", lambda counts: spread(counts, MOST_POINTS)
    )
    print(f"{name}: {survey.points} points, {survey.reached} reached, {len(survey.damages)} damages")
    assert survey.reached >= 0.9 * survey.points
    assert not survey.damages, "\n".join(survey.damages)


def test_the_harness_sees_a_writer_that_writes_in_place(zygote: Zygote, stage: Stage, tmp_path: Path) -> None:
    command = Command("control", (), call="faults.commands:write_in_place")
    survey = kill_everywhere(zygote, stage, command, tmp_path / "log", lambda counts: spread(counts, 12))
    assert any("half a file" in one for one in survey.damages)
    assert any("differs" in one for one in survey.damages)


def test_the_harness_sees_what_is_left_over(zygote: Zygote, stage: Stage, tmp_path: Path) -> None:
    command = Command("control", (), call="faults.commands:forget_to_sweep")
    survey = kill_everywhere(zygote, stage, command, tmp_path / "log", lambda counts: spread(counts, 12))
    assert any("is left over" in one for one in survey.damages)
    assert not any("half a file" in one for one in survey.damages)


@pytest.mark.parametrize(
    "call, number", [("rename", 1), ("fsync", 1), ("fsync", 2), ("ftruncate", 1), ("openat", 3), ("openat", 40), ("mkdir", 1), ("unlink", 1)]
)
@pytest.mark.parametrize("name", ["audit", "remap"])
def test_workers_that_always_die_end_the_run_and_cost_nothing(
    name: str, call: str, number: int, zygote: Zygote, stage: Stage, tmp_path: Path
) -> None:
    command = COMMANDS[name]
    prepared(zygote, stage, command, tmp_path / "saved")
    arguments = command.full(stage)
    stage.reset()
    first, expected = zygote.run(arguments), results(stage.workspace)
    stage.reset()
    every_worker = ["-f", *kill_at(call, number)]
    killed = zygote.run(arguments, beside=every_worker, pid_of="workers")
    # Not reached: as without. At a file: it is blamed. Elsewhere: the run cannot go on, and says so.
    assert killed.code in (first.code, 3, 4), killed.stderr
    assert killed.code == 4 or call != "rename", "every worker renames its result"
    assert killed.code != 4 or "worker processes end while they are at no file" in killed.stderr
    assert not unreadable(stage.workspace)
    again = zygote.run(arguments)
    assert again.code == first.code, again.stderr
    assert results(stage.workspace) == expected
    assert not temporaries(stage.workspace)
