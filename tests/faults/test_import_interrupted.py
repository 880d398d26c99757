"""An import may be killed at any call it makes: no half mask is to be seen, the same command ends
the work with the same bytes, and the source stays what it was.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from import_samples import Sample, make_coco, make_npy_stack

from faults.running import Zygote, count_calls, every_file, fail_at, kill_at, unreadable
from faults.test_kills import MOST_POINTS, spread
from histoprep.durable import is_temporary
from histoprep.errors import ExitCode

CALL = "faults.commands:import_in_parts"
NUM_POINTS = 24
MANY_POINTS = (pytest.mark.faults, pytest.mark.timeout(7200))
# Masks are written by threads, which -f follows.
IN_THREADS = [
    (call, number, ["-f"])
    for call, numbers in {"rename": (1, 2, 3), "write": (2, 3), "link": (1, 2)}.items()
    for number in numbers
]
MAKERS = {"coco": make_coco, "npy-stack": make_npy_stack}


def files_of(out: Path) -> dict[str, bytes]:
    """Return the files of a tree, without what is about this machine."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".hp-states")
    }


def command(sample: Sample, out: Path) -> list[str]:
    return ["import", *sample.arguments, "--out", str(out)]


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("most", [NUM_POINTS, pytest.param(MOST_POINTS, marks=MANY_POINTS)])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.slow
def test_a_kill_at_any_point_loses_nothing(
    name: str, most: int, zygote: Zygote, tmp_path: Path
) -> None:
    sample = MAKERS[name](tmp_path / "source", 6)
    before = every_file(tmp_path / "source")
    first = tmp_path / "first"
    # What a run has to import is imported beforehand in later ones, which then make fewer calls.
    assert zygote.run(command(sample, tmp_path / "zeroth"), CALL).code == ExitCode.OK
    counts = count_calls(zygote, command(sample, first), tmp_path / "log", CALL)
    expected = files_of(first)
    assert ("_SUCCESS.json" in expected and "masks/field_5.png" in expected) or name != "coco"
    reached, damages = 0, []
    points = [(call, time, []) for call, time in spread(counts, most)] + IN_THREADS
    for number, (call, time, options) in enumerate(points):
        out = tmp_path / f"out-{number}"
        beside = [*options, *kill_at(call, time)]
        killed = zygote.run(command(sample, out), CALL, beside=beside)
        reached += killed.code == -9
        wrong = [f"half a file: {item}" for item in unreadable(out)] if out.exists() else []
        again = zygote.run(command(sample, out), CALL)
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
    assert len(points) >= 20
    assert reached >= 0.9 * len(points)
    assert every_file(tmp_path / "source") == before


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("call", "number", "error"),
    [("rename", 3, "ENOSPC"), ("fsync", 2, "EIO"), ("syncfs", 1, "EIO"), ("mkdir", 2, "EACCES")],
)
def test_a_refusal_of_the_system_is_an_error_and_the_next_run_resumes(
    call: str, number: int, error: str, zygote: Zygote, tmp_path: Path
) -> None:
    sample, out = make_coco(tmp_path / "source", 6), tmp_path / "out"
    failed = zygote.run(command(sample, out), CALL, beside=fail_at(call, number, error))
    assert failed.code == ExitCode.OUTPUT, failed.stderr
    assert "cannot" in failed.stderr or "refused" in failed.stderr
    assert not (out / "_SUCCESS.json").exists()
    assert zygote.run(command(sample, out), CALL).code == ExitCode.OK
    whole = tmp_path / "whole"
    assert zygote.run(command(sample, whole), CALL).code == ExitCode.OK
    assert files_of(out) == files_of(whole)


@pytest.mark.usefixtures("strace")
def test_parts_that_are_done_are_not_made_again(zygote: Zygote, tmp_path: Path) -> None:
    """A mask of a done part keeps its time; one that was damaged meanwhile is made again."""
    sample, out = make_coco(tmp_path / "source", 6), tmp_path / "out"
    # The ledger parts are renamed after their masks were: the third of them is never written.
    log = tmp_path / "log"
    total = count_calls(zygote, command(sample, tmp_path / "first"), log, CALL)["syncfs"]
    assert total >= 3
    killed = zygote.run(command(sample, out), CALL, beside=kill_at("syncfs", 3))
    assert killed.code == -9
    done = [out / "masks" / f"field_{number}.png" for number in range(4)]
    times = [path.stat().st_mtime_ns for path in done]
    done[1].write_bytes(b"damaged")
    assert zygote.run(command(sample, out), CALL).code == ExitCode.OK
    again = [path.stat().st_mtime_ns for path in done]
    assert [a == b for a, b in zip(times, again, strict=True)] == [False, False, True, True]
    assert done[1].read_bytes() == (tmp_path / "first" / "masks" / "field_1.png").read_bytes()
