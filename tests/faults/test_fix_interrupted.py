"""A corrected copy may be killed at any call that it makes: no half file is to be seen, the same
command ends the work with the same bytes, and the data set stays what it was.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fix_samples import make_faulty

from faults.running import Zygote, count_calls, every_file, fail_at, kill_at, unreadable
from faults.test_kills import spread
from histoprep.durable import is_temporary
from histoprep.errors import ExitCode

CALL = "faults.commands:fix_in_parts"
NUM_POINTS = 12
MANY_POINTS = (pytest.mark.faults, pytest.mark.timeout(7200))


def files_of(out: Path) -> dict[str, bytes]:
    """Return the files of a tree, without what is about this machine."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".hp-states")
    }


def command(root: Path, out: Path) -> list[str]:
    chosen = ["--specks", "64", "--also", "orientation", "--workers", "1"]
    return ["fix", str(root), "--out", str(out), *chosen]


def prepared(zygote: Zygote, tmp_path: Path) -> Path:
    """Return a faulty data set that was audited, with groups."""
    root = tmp_path / "set"
    make_faulty(root)
    audited = zygote.run(["audit", str(root), "--group-by", "csv:slide", "--workers", "1"])
    assert audited.code in (ExitCode.OK, ExitCode.FINDINGS), audited.stderr
    return root


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("most", [NUM_POINTS, pytest.param(100, marks=MANY_POINTS)])
@pytest.mark.slow
def test_a_kill_at_any_point_loses_nothing(most: int, zygote: Zygote, tmp_path: Path) -> None:
    root = prepared(zygote, tmp_path)
    before = every_file(root)
    # What a run has to import is imported beforehand in later ones, which then make fewer calls.
    assert zygote.run(command(root, tmp_path / "zeroth"), CALL).code == ExitCode.OK
    first = tmp_path / "first"
    counts = count_calls(zygote, command(root, first), tmp_path / "log", CALL)
    expected = files_of(first)
    assert {"_SUCCESS.json", "ledger.parquet", "images/s1_misnamed.jpg"} <= expected.keys()
    reached, damages = 0, []
    points = spread(counts, most)
    for number, (call, time) in enumerate(points):
        out = tmp_path / f"out-{number}"
        killed = zygote.run(command(root, out), CALL, beside=kill_at(call, time))
        reached += killed.code == -9
        wrong = [f"half a file: {item}" for item in unreadable(out)] if out.exists() else []
        again = zygote.run(command(root, out), CALL)
        if again.code != ExitCode.OK:
            wrong.append(f"exit {again.code}: {again.stderr[-300:]}")
        found = files_of(out)
        wrong += [
            f"{path} differs"
            for path in sorted(expected.keys() | found.keys())
            if expected.get(path) != found.get(path)
        ]
        wrong += [f"{path} is left over" for path in found if is_temporary(Path(path).name)]
        damages += [f"{call} {time}: {item}" for item in wrong]
    assert not damages, "\n".join(damages)
    assert len(points) >= 10
    # Links change what the system says of the data set's files, so that runs read more or fewer.
    assert reached >= 0.8 * len(points)
    assert every_file(root) == before


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(("call", "number"), [("link", 3), ("rename", 7), ("syncfs", 2)])
@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(
    call: str, number: int, zygote: Zygote, tmp_path: Path
) -> None:
    """Links and files are made by workers, which the forkserver starts."""
    root, out, whole = prepared(zygote, tmp_path), tmp_path / "out", tmp_path / "whole"
    beside = ["-f", *kill_at(call, number)]
    fixed = zygote.run(command(root, out), CALL, beside=beside, pid_of="forkserver")
    assert fixed.code in (ExitCode.OK, ExitCode.OUTPUT, -9), fixed.stderr
    assert zygote.run(command(root, out), CALL).code == ExitCode.OK
    assert zygote.run(command(root, whole), CALL).code == ExitCode.OK
    assert files_of(out) == files_of(whole)


@pytest.mark.usefixtures("strace")
def test_where_hard_links_are_refused_links_are_symbolic(zygote: Zygote, tmp_path: Path) -> None:
    """As on another file system, or for files of somebody else."""
    root, out = prepared(zygote, tmp_path), tmp_path / "out"
    beside = ["-f", *fail_at("link", "1+", "EXDEV")]
    fixed = zygote.run(command(root, out), CALL, beside=beside, pid_of="forkserver")
    assert fixed.code == ExitCode.OK, fixed.stderr
    assert "symbolic link" in fixed.stdout
    assert "--follow-links" in fixed.stderr
    linked = [path for path in (out / "images").iterdir() if path.is_symlink()]
    assert linked
    assert all(os.path.realpath(path).startswith(f"{root}/images/") for path in linked)
