"""A decoder that ends its process, in a whole audit: its file becomes a finding, every other one is
looked at.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from faults.running import Stage, Zygote, results, temporaries

AUDIT = "faults.commands:audit_with_killers"


def arguments(stage: Stage, *killers: str) -> list[str]:
    return [str(stage.data), str(stage.workspace), *killers]


def rows(stage: Stage) -> dict[str, dict[str, object]]:
    return {
        row["tile_id"]: row for row in pq.read_table(stage.workspace / "tiles.parquet").to_pylist()
    }


@pytest.mark.parametrize(
    "killers",
    [
        ("3=exit",),
        ("5=kill",),
        ("2=crash",),
        ("0002=spin",),
        ("1=exit", "mask:4=kill"),
        ("mask:3=exit",),
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_files_that_end_their_worker_become_findings(
    killers: tuple[str, ...], zygote: Zygote, stage: Stage
) -> None:
    assert zygote.run(arguments(stage), AUDIT).code == 1
    undisturbed, expected = rows(stage), results(stage.workspace)
    stage.reset()
    outcome = zygote.run(arguments(stage, *killers), AUDIT)
    assert outcome.code == 3, outcome.stderr
    found = rows(stage)
    ends = {
        killer.partition("=")[0].removeprefix("mask:"): "mask"
        if killer.startswith("mask:")
        else "image"
        for killer in killers
    }
    chosen = {name for name in undisturbed if name.endswith(tuple(ends))}
    assert 1 <= len(chosen) < len(undisturbed)
    assert {name: row for name, row in found.items() if name not in chosen} == {
        name: row for name, row in undisturbed.items() if name not in chosen
    }
    assert list(found) == list(undisturbed)
    blamed = {
        name: next(what for end, what in ends.items() if name.endswith(end)) for name in chosen
    }
    for name, guilty in blamed.items():
        for what in ("image", "mask"):
            # The other file of the pair is read as ever.
            dead = what == guilty and found[name][f"{what}_path"] is not None
            assert found[name][f"{what}_error"] == (
                "HP201 worker-died" if dead else undisturbed[name][f"{what}_error"]
            )
            assert dead or found[name][f"{what}_digest"] == undisturbed[name][f"{what}_digest"]
    findings = pq.read_table(stage.workspace / "findings.parquet").to_pylist()
    dead = {record["path"] for record in findings if record["subcode"] == "worker-died"}
    assert dead == {found[name][f"{what}_path"] for name, what in blamed.items()} - {None}
    # Files that could not be read are read by the next audit.
    assert zygote.run(arguments(stage), AUDIT).code == 1
    assert results(stage.workspace) == expected
    assert not temporaries(stage.workspace)


def workers_of(zygote: Zygote) -> list[int]:
    path = Path(f"/proc/{zygote.forkserver_pid}/task/{zygote.forkserver_pid}/children")
    return [int(file) for file in path.read_text().split()]


@pytest.mark.parametrize("seed", range(4))
def test_a_worker_that_the_system_kills_costs_nothing(
    seed: int, zygote: Zygote, stage: Stage
) -> None:
    first = zygote.run(arguments(stage), AUDIT)
    expected = results(stage.workspace)
    stage.reset()
    delay = random.Random(seed).random() * 0.15
    with zygote.start(arguments(stage), AUDIT) as run:
        until = time.monotonic() + 60
        while not (found := workers_of(zygote)):
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(delay)
        for pid in found[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        outcome = run.wait()
    assert outcome.code == first.code, outcome.stderr
    assert results(stage.workspace) == expected
    assert not temporaries(stage.workspace)
