"""Shards and faults: half a shard is never to be seen, and --resume ends the work with the same
bytes.
"""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults.running import (
    Command,
    Stage,
    Undisturbed,
    Undisturbeds,
    Zygote,
    count_calls,
    every_file,
    fail_at,
    kill_at,
    results,
    temporaries,
)
from faults.test_disk_full import REASONS, check_refused, small_disk
from faults.test_kills import MOST_POINTS, spread
from histoprep.durable import is_temporary
from histoprep.errors import ExitCode
from histoprep.shards import open_tiles
from histoprep.shards.verify import verify_shards

NUM_POINTS = 40
MANY_POINTS = (pytest.mark.faults, pytest.mark.timeout(7200))
POINTS = [
    ("fsync", 1, "EIO"),
    ("fsync", 2, "ENOSPC"),
    ("rename", 1, "EROFS"),
    ("rename", 2, "EACCES"),
]
IN_WORKERS = [
    ("fsync", "1+", "ENOSPC"),
    ("rename", "1+", "EDQUOT"),
    ("write", "4+", "ENOSPC"),
    ("fsync", 3, "EIO"),
]


@dataclass(frozen=True)
class ShardCommand(Command):
    """`histoprep shard`, which takes a manifest in place of a data set."""

    def full(self, stage: Stage) -> list[str]:
        manifest, out = stage.workspace / "manifest.parquet", stage.workspace / "shards"
        return ["shard", str(manifest), "--out", str(out), *self.arguments]


SHARD = ShardCommand("shard", ("--workers", "1", "--resume"), before=("audit", "manifest"))


def untrue(stage: Stage, first: Undisturbed) -> list[str]:
    """Return the published files that are not what an undisturbed run writes; files of no such run
    too.
    """
    shards = stage.workspace / "shards"
    found = []
    for path in sorted(shards.glob("*")) if shards.exists() else []:
        published = path.suffix in (".tar", ".parquet") and not is_temporary(path.name)
        if published and path.read_bytes() != first.results.get(f"shards/{path.name}"):
            found.append(path.name)
    if (shards / "index.parquet").exists() and verify_shards(shards):
        found.append("an index that is not true")
    return found


def check_again(zygote: Zygote, stage: Stage, first: Undisturbed) -> list[str]:
    """Return what is wrong after the same command was run once more."""
    again = zygote.run(SHARD.full(stage))
    if "worker processes cannot be started" in again.stderr:
        # A run that is killed while it asks for a worker takes the zygote's fork server along, on a
        # busy machine a little later.
        again = zygote.run(SHARD.full(stage))
    damages = [] if again.code == 0 else [f"exit {again.code}: {again.stderr[-500:]}"]
    found = results(stage.workspace)
    damages += [
        f"{name} differs"
        for name in sorted(first.results.keys() | found.keys())
        if first.results.get(name) != found.get(name)
    ]
    return damages + [f"{name} is left over" for name in temporaries(stage.workspace)]


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("most", [NUM_POINTS, pytest.param(MOST_POINTS, marks=MANY_POINTS)])
@pytest.mark.slow
def test_a_kill_at_any_point_shows_no_half_shard_and_loses_nothing(
    most: int, zygote: Zygote, undisturbed: Undisturbeds, stage: Stage, tmp_path: Path
) -> None:
    first = undisturbed.set(stage, SHARD)
    damages, reached, points = (
        [],
        0,
        spread(count_calls(zygote, SHARD.full(stage), tmp_path / "log"), most),
    )
    for call, number in points:
        stage.reset()
        killed = zygote.run(SHARD.full(stage), beside=kill_at(call, number))
        reached += killed.code == -9
        seen = [f"half a file: {item}" for item in untrue(stage, first)] + check_again(
            zygote, stage, first
        )
        damages += [f"{call} {number}: {observation}" for observation in seen]
    print(f"{len(points)} points, {reached} reached, {len(damages)} damages")
    assert reached >= 0.9 * len(points) >= 0.9 * 25
    assert not damages, "\n".join(damages)
    assert every_file(stage.data) == stage.data_before


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    "point",
    [("rename", 1), ("fsync", 1), ("fsync", 3), ("write", 1), ("write", 5), ("openat", 40)],
    ids=str,
)
@pytest.mark.slow
def test_a_killed_worker_shows_no_half_shard(
    point: tuple[str, int], zygote: Zygote, undisturbed: Undisturbeds, stage: Stage
) -> None:
    first = undisturbed.set(stage, SHARD)
    # The worker that takes its place dies at the same call.
    killed = zygote.run(SHARD.full(stage), beside=["-f", *kill_at(*point)], pid_of="workers")
    assert killed.code in (0, ExitCode.INCOMPLETE, ExitCode.OUTPUT), killed.stderr
    assert untrue(stage, first) == []
    assert check_again(zygote, stage, first) == []


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_refusal_to_write_is_exit_4(
    point: tuple[str, int, str], zygote: Zygote, undisturbed: Undisturbeds, stage: Stage
) -> None:
    call, number, error = point
    first = undisturbed.set(stage, SHARD)
    refused = zygote.run(SHARD.full(stage), beside=fail_at(call, f"{number}+", error))
    check_refused(refused, stage, error)
    assert untrue(stage, first) == []
    assert check_again(zygote, stage, first) == []


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("point", IN_WORKERS, ids=str)
def test_workers_that_the_system_refuses(
    point: tuple[str, int | str, str], zygote: Zygote, undisturbed: Undisturbeds, stage: Stage
) -> None:
    call, number, error = point
    first = undisturbed.set(stage, SHARD)
    refused = zygote.run(
        SHARD.full(stage), beside=["-f", *fail_at(call, number, error)], pid_of="workers"
    )
    assert refused.code == ExitCode.OUTPUT, refused.stderr
    # A worker that cannot even answer is found dead; all others say why.
    assert call == "write" or REASONS[error] in refused.stderr
    assert untrue(stage, first) == []
    assert check_again(zygote, stage, first) == []


def test_a_disk_that_is_really_full(
    zygote: Zygote, undisturbed: Undisturbeds, stage: Stage, tmp_path: Path
) -> None:
    first, num_full = undisturbed.set(stage, SHARD), 0
    for spare_kb in (8, 40, 80, 120, 160, 240, 400):
        disk = tmp_path / f"disk{spare_kb}"
        stage.workspace = disk / "workspace"
        used_kb = (
            sum(path.stat().st_size // 4096 * 4 + 4 for path in first.saved.rglob("*"))
            if first.saved
            else 0
        )
        with small_disk(disk, f"{used_kb + spare_kb}k"):
            stage.reset()
            refused = zygote.run(SHARD.full(stage))
            if refused.code:
                num_full += 1
                check_refused(refused, stage, "ENOSPC")
            assert untrue(stage, first) == []
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            assert check_again(zygote, stage, first) == []
    print(f"{num_full} of 7 disks were too small")
    assert num_full >= 3, "the disks were not small enough to prove anything"


def test_half_a_shard_would_be_seen_control(
    undisturbed: Undisturbeds, stage: Stage, zygote: Zygote
) -> None:
    first = undisturbed.set(stage, SHARD)
    zygote.run(SHARD.full(stage))
    assert untrue(stage, first) == []
    shard = sorted((stage.workspace / "shards").glob("*.tar"))[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert untrue(stage, first) == [shard.name, "an index that is not true"]


def test_a_tile_that_ends_its_worker_is_named(
    stage: Stage, zygote: Zygote, undisturbed: Undisturbeds
) -> None:
    first = undisturbed.set(stage, SHARD)
    zygote.run(SHARD.full(stage))
    names = open_tiles(stage.workspace / "shards").tile_ids
    victim = str(random.Random(3).choice(names.tolist()))
    stage.reset()
    outcome = zygote.run([*SHARD.full(stage), victim], "faults.fragile_shards:shard_with_killer")
    assert outcome.code == ExitCode.INCOMPLETE, outcome.stderr
    assert victim in outcome.stderr and "HP201 worker-died" in outcome.stderr
    assert not (stage.workspace / "shards/index.parquet").exists()
    assert untrue(stage, first) == []
    assert check_again(zygote, stage, first) == []
