"""decisions.csv: appended to, replayed, taken back, whole after a crash, and a list to drop by."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from audit_cases import DataSet, stripes, tissue
from hypothesis import given
from hypothesis import strategies as st
from report_sample import HOSTILE

from histoprep.browse.decisions import Journal, MarkedRows
from histoprep.cli import run
from histoprep.errors import OutputError, UsageError
from histoprep.names import to_text
from histoprep.schemas.decisions import (
    Action,
    Row,
    format_rows,
    is_decisions,
    parse_rows,
    read_dropped,
    replay,
)
from histoprep.schemas.manifest import read_manifest

# Names of files: neither "/" as an end nor a zero byte.
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
).map(to_text)


def a_row(name: str = "a", action: Action = Action.DROP, tag: str = "", decision: int = 1) -> Row:
    """Return a row of nobody."""
    return Row(name, action, tag, decision)


@given(st.lists(NAMES, max_size=6))
def test_names_of_every_kind_come_back(names: list[str]) -> None:
    rows = [a_row(name, decision=number) for number, name in enumerate(names, start=1)]
    data = format_rows(rows, header=True)
    assert is_decisions(data)
    assert parse_rows(data) == (rows, len(data))


@given(st.lists(NAMES, min_size=1, max_size=4), st.data())
def test_rows_that_a_crash_cut_off_are_left_out(names: list[str], data: st.DataObject) -> None:
    rows = [a_row(name, Action.TAG, name, number) for number, name in enumerate(names, start=1)]
    whole = format_rows(rows, header=True)
    end = data.draw(st.integers(0, len(whole)))
    found, kept = parse_rows(whole[:end])
    # What is there is a beginning of what was written, and can be appended to.
    assert found == rows[: len(found)]
    assert kept <= end
    if kept:
        rest = format_rows([a_row("z", decision=99)])
        assert parse_rows(whole[:kept] + rest)[0] == [*found, a_row("z", decision=99)]


def test_drops_tags_and_their_taking_back() -> None:
    rows = [
        a_row("a", decision=1),
        a_row("b", decision=1),
        a_row("b", Action.TAG, "odd", 2),
        a_row("a", Action.KEEP, "", 3),
        a_row("b", Action.TAG, "good", 4),
        a_row("b", Action.UNTAG, "odd", 5),
        a_row("", Action.UNDO, "", 3),
    ]
    state = replay(rows)
    assert state.dropped == {"a", "b"}
    assert state.tags == {"b": {"good"}}
    assert (state.last, state.undoable) == (5, [1, 2, 4, 5])


def test_a_line_that_is_no_decision_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_bytes(format_rows([a_row("a")], header=True) + b"b,burn,,2,,\n")
    with pytest.raises(UsageError, match="line 3") as caught:
        list(read_dropped(path))
    assert caught.value.path == str(path)
    with pytest.raises(UsageError, match="line 3"):
        Journal(path).append(Action.DROP, ["a"])
    assert path.read_bytes().endswith(b"b,burn,,2,,\n"), "nothing of it may be lost"


def test_the_journal_appends_and_takes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "decisions.csv"
    journal = Journal(path)
    assert journal.undo() is None
    assert journal.append(Action.DROP, ["a", "b"]) == 1
    before = path.read_bytes()
    assert journal.append(Action.TAG, ["a"], "odd") == 2
    assert journal.undo() == 2
    assert journal.undo() == 1
    assert journal.undo() is None
    assert path.read_bytes().startswith(before), "rows are only ever appended"
    state = replay(parse_rows(path.read_bytes())[0])
    assert (state.dropped, state.tags) == (set(), {})
    assert journal.append(Action.DROP, ["c"]) == 3
    assert list(read_dropped(path)) == ["c"]


def test_who_and_when_are_left_out_unless_they_are_asked_for(tmp_path: Path) -> None:
    Journal(tmp_path / "a.csv").append(Action.DROP, ["x"])
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "x,drop,,1,,"
    Journal(tmp_path / "b.csv", "M. Ross").append(Action.DROP, ["x"])
    [row] = parse_rows((tmp_path / "b.csv").read_bytes())[0]
    assert row.who == "M. Ross"
    assert row.when.startswith("20")


@pytest.mark.parametrize("tag", ["", "  ", "a" * 61, "two\nlines"])
def test_tags_that_are_none_are_refused(tmp_path: Path, tag: str) -> None:
    with pytest.raises(UsageError, match="no tag"):
        Journal(tmp_path / "decisions.csv").append(Action.TAG, ["x"], tag)
    assert not (tmp_path / "decisions.csv").exists()


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    (tmp_path / "decisions.csv").symlink_to(tmp_path / "own.txt")
    with pytest.raises(OutputError):
        Journal(tmp_path / "decisions.csv").append(Action.DROP, ["x"])
    assert (tmp_path / "own.txt").read_text() == "mine"


def test_two_journals_of_one_file_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    ids = pa.chunked_array([["a", "b"], ["c"]])
    first, second = MarkedRows(Journal(path), ids), MarkedRows(Journal(path), ids)
    first.journal.append(Action.DROP, ["c", "elsewhere"])
    second.journal.append(Action.TAG, ["b", "a"], "odd")
    for marked in (first, second):
        marked.refresh()
        assert marked.dropped.tolist() == [False, False, True]
        assert marked.tags == {"odd": 2}
        assert (marked.tags_of(1), marked.tags_of(2)) == (["odd"], [])
        assert (marked.num_undoable, marked.num_foreign) == (2, 1)


WRITER = """
import sys
from pathlib import Path
from histoprep.browse.decisions import Journal
from histoprep.schemas.decisions import Action
journal = Journal(Path(sys.argv[1]))
for number in range(100_000):
    journal.append(Action.DROP, [f"tile, {number} {part}" for part in range(3)])
    print(number, flush=True)
"""


def test_what_was_confirmed_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    for round_ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        time.sleep(0.05 + 0.03 * round_)
        process.send_signal(signal.SIGKILL)
        confirmed = 1 + len(process.stdout.read().splitlines())
        process.wait()
        process.stdout.close()
        wanted = {f"tile, {number} {part}" for number in range(confirmed) for part in range(3)}
        assert wanted <= set(read_dropped(path))


@pytest.fixture(name="data")
def _data(tmp_path: Path) -> DataSet:
    made = DataSet(tmp_path / "set")
    for number in range(6):
        made.image(f"{number}.png", tissue(number))
        made.mask(f"{number}_mask.png", stripes(0, 1))
    made.image("sub/1.png", tissue(11))
    made.mask("sub/1_mask.png", stripes(1, 0))
    return made


def test_a_manifest_leaves_out_what_was_dropped(data: DataSet, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "set.histoprep" / "decisions.csv")
    assert run(["audit", str(data.root), "--exit-zero", "--quiet"]) == 0
    journal.append(Action.DROP, ["1", "2", "3"])
    journal.append(Action.TAG, ["4"], "odd")
    journal.append(Action.KEEP, ["3"])
    journal.append(Action.DROP, ["5"])
    journal.undo()
    # As a crash leaves it: "4" was never dropped.
    with journal.path.open("ab") as stream:
        stream.write(b'4,drop,,9,"')
    command = ["manifest", str(data.root), "--drop-list", str(journal.path), "--quiet"]
    assert run(command) == 0
    ids = read_manifest(tmp_path / "set.histoprep" / "manifest.parquet")["tile_id"].to_pylist()
    # An id means that tile alone, not the tile of that name in another folder.
    assert sorted(ids) == ["0", "3", "4", "5", "sub/1"]


def test_hostile_names_are_dropped_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    names = [to_text(name) for name in HOSTILE if "\ud800" not in name and not name.startswith("/")]
    Journal(path).append(Action.DROP, names)
    assert list(read_dropped(path)) == sorted(names)
    assert os.fsencode("no-utf8-\udcff\udc80.png") in path.read_bytes()
