"""Split files: what they say of a name, and the whole text of every refusal."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from histoprep.errors import UsageError
from histoprep.split import (
    SPLITS,
    assign_units,
    complete_split,
    exact_fractions,
    parse_fractions,
)
from histoprep.split.given import GivenSplit, read_split_file
from histoprep.split.units import NO_SPLIT, SplitRows, Units, join_units, leaking_units, name_keys

SEED = 3
TABLE = "a table as text: cells separated by commas, semicolons, tabs or bars"
COLUMNS = (
    "columns such as tile_id,split or group,split; a column of names for each split, called train"
    " and test; or a folder with train.txt and test.txt"
)


def lines(*texts: str) -> str:
    return "\n  ".join(texts)


def message(call: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(("column", "kind"), [("tile_id", "tile"), ("group", "group")])
def test_every_name_has_the_split_of_its_row(column: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    rows = {"a": "test", "007": "train", "NA": "val", "": "test", "b": "val", "z": "train"}
    path.write_text(
        f"split,{column}\n" + "".join(f"{code},{name}\n" for name, code in rows.items())
    )
    found = read_split_file(path, SEED)
    assert found.kind == kind and found.codes.dtype == np.int8
    assert (np.diff(found.keys.astype(np.float64)) > 0).all()
    codes = found.lookup(name_keys([*rows, "7", "other", "zz"], SEED, kind))
    assert codes.dtype == np.int8
    assert codes.tolist() == [SPLITS.index(code) for code in rows.values()] + [NO_SPLIT] * 3
    assert (found.lookup(name_keys(["a"], SEED + 1, kind)) == NO_SPLIT).all()


@pytest.mark.parametrize("names", [["007", "7"], ["1.0", "1"], ["true", "True"], ["NA", ""]])
def test_names_are_text_whatever_they_look_like(names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text(f"tile_id,split\n{names[0]},val\n{names[1]},test\n")
    codes = read_split_file(path, SEED).lookup(name_keys(names, SEED, "tile"))
    assert codes.tolist() == [1, 2]


def test_fractions_may_miss_one_by_a_millionth() -> None:
    nearly = exact_fractions({"train": "0.9000005", "test": "0.1"})
    assert sum(nearly.values()) == 1 and nearly["test"] == Fraction(1_000_000, 10_000_005)
    assert exact_fractions({"train": "0.9000010", "test": "0.1"})
    assert message(lambda: exact_fractions({"train": "0.9000011", "test": "0.1"})).startswith(
        "split fractions must lie in [0, 1] and sum to 1"
    )
    assert exact_fractions({"train": 1.0, "val": 0.0}) == {"train": Fraction(1)}


def test_a_row_may_be_repeated_but_not_contradicted(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("tile_id,split\na,val\nb,test\na,val\n")
    found = read_split_file(path, SEED)
    assert found.lookup(name_keys(["a", "b"], SEED, "tile")).tolist() == [1, 2]
    for column, kind in (("tile_id", "tile"), ("group", "group")):
        path.write_text(f"{column},split\na,val\nb,test\na,train\n")
        assert message(lambda: read_split_file(path, SEED)) == lines(
            f"the split file puts one {kind} in two splits",
            f"at: {path}",
            "seen: a in train and val",
        )


def test_an_empty_file_says_nothing_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("tile_id,split\n")
    codes = read_split_file(path, SEED).lookup(name_keys(["a", "b"], SEED, "tile"))
    assert codes.tolist() == [NO_SPLIT] * 2 and codes.dtype == np.int8
    empty = GivenSplit("tile", np.zeros(0, np.uint64), np.zeros(0, np.int8))
    assert empty.lookup(np.zeros(0, np.uint64)).shape == (0,)


def test_odd_columns_and_splits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    for text, seen in (
        ("word,split\na,val\n", "word, split"),
        ("group,part\na,val\n", "group, part"),
    ):
        path.write_text(text)
        assert message(lambda: read_split_file(path, SEED)) == lines(
            "the split file lacks a column",
            f"at: {path}",
            f"seen: {seen}",
            f"expected: {COLUMNS}",
        )
    path.write_text("group,split\n" + "".join(f"g{n},part{n}\n" for n in range(7)) + "h,val\n")
    assert message(lambda: read_split_file(path, SEED)) == lines(
        "the split file names an unknown split",
        f"at: {path}",
        "seen: part0, part1, part2, part3, part4",
        "expected: train, val, test",
    )
    path.write_text("group,split,split\na,val,val\n")
    assert message(lambda: read_split_file(path, SEED)) == lines(
        "the split file has two columns of one name", f"at: {path}", "seen: group, split, split"
    )


def test_what_is_no_csv_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert message(lambda: read_split_file(pipe, SEED)) == lines(
        "the split file is no regular file", f"at: {pipe}", f"expected: {TABLE}"
    )
    absent = tmp_path / "absent.csv"
    text = message(lambda: read_split_file(absent, SEED)).split("\n")
    assert text[0].startswith("the split file cannot be read: ")
    assert text[-2:] == [f"  at: {absent}", f"  expected: {TABLE}"]
    book = tmp_path / "book.xlsx"
    book.write_bytes(b"PK\x03\x04" + bytes(100))
    assert message(lambda: read_split_file(book, SEED)) == lines(
        "the split file is no text",
        f"at: {book}",
        "seen: an Excel workbook or another archive",
        f"expected: {TABLE}",
        "try: save it as CSV, and name that file",
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("first", ["", "sep=;\r\n"])
def test_encodings_and_separators_are_found(
    encoding: str, separator: str, first: str, tmp_path: Path
) -> None:
    if first and separator != ";":
        return
    path = tmp_path / "split.csv"
    rows = [("Slide_ID", "Split"), ("a", "Train"), ("b", "TEST"), ("c", "validation")]
    path.write_bytes(
        (first + "".join(f"{separator.join(row)}\r\n" for row in rows)).encode(encoding)
    )
    found = read_split_file(path, SEED)
    assert found.kind == "group"
    codes = found.lookup(name_keys(["a", "b", "c", "d"], SEED, "group"))
    assert codes.tolist() == [0, 2, 1, NO_SPLIT]


def test_a_column_of_names_for_each_split(tmp_path: Path) -> None:
    path = tmp_path / "splits_0.csv"
    path.write_text(",train,val,test\n0,s1,s3,s4\n1,s2,nan,\n")
    found = read_split_file(path, SEED)
    assert found.kind == "group" and sorted(found.names.to_pylist()) == ["s1", "s2", "s3", "s4"]
    codes, meant = found.lookup_paths(
        ["t/s1_0.png", "s2/x.png", "s3-4.png", "a_s4_b.png", "s5.png"]
    )
    assert codes.tolist() == [0, 0, 1, 2, NO_SPLIT]
    assert meant == ["s1", "s2", "s3", "s4", None]


def test_a_folder_of_lists(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\nb.png labels/b.png\n\n")
    (tmp_path / "val.txt").write_text("C:\\data\\img\\c.png\n")
    (tmp_path / "trainval.txt").write_text("a\nb\nc\n")
    found = read_split_file(tmp_path, SEED)
    codes, _ = found.lookup_paths(["images/a.jpg", "images/b.png", "img/c.png", "d.png"])
    assert found.kind == "tile" and codes.tolist() == [0, 0, 1, NO_SPLIT]
    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").unlink()
    assert message(lambda: read_split_file(tmp_path, SEED)) == lines(
        "the folder holds no list of a split",
        f"at: {tmp_path}",
        "seen: trainval.txt",
        "expected: train.txt and test.txt, a name a line",
    )


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: parse_fractions("train=0.5,train=0.5"),
            lines("a split is given twice", "seen: train=0.5,train=0.5"),
        ),
        (
            lambda: parse_fractions("0.2/0.2/0.2/0.4"),
            lines(
                "cannot read these split fractions",
                "seen: 0.2/0.2/0.2/0.4",
                "expected: 0.9/0.1, 0.8/0.1/0.1 or train=0.9,test=0.1",
            ),
        ),
        (
            lambda: exact_fractions({"train": 0.5, "dev": 0.25, "a": 0.25}),
            lines("no such split", "seen: a, dev", "expected: train, val, test"),
        ),
        (
            lambda: exact_fractions({"train": "x", "test": 0.1}),
            lines("a split fraction is not a number", "seen: train=x, test=0.1"),
        ),
        (
            lambda: exact_fractions({"train": 0.5, "test": 0.25}),
            lines(
                "split fractions must lie in [0, 1] and sum to 1",
                "seen: train=0.5, test=0.25 (sum 0.75)",
                "expected: for instance 0.9/0.1",
            ),
        ),
        (
            lambda: exact_fractions({"train": 1.5, "test": -0.5}),
            lines(
                "split fractions must lie in [0, 1] and sum to 1",
                "seen: train=1.5, test=-0.5 (sum 1)",
                "expected: for instance 0.9/0.1",
            ),
        ),
    ],
)
def test_fractions_that_make_no_sense_are_refused(call: Callable[[], object], text: str) -> None:
    assert message(call) == text


def rows_of(groups: list[str]) -> SplitRows:
    """Return one conditional tile for each group, all of one stratum."""
    count = len(groups)
    return SplitRows(
        name_keys(groups, SEED, "group"),
        np.ones(count, bool),
        np.zeros(0, np.int64),
        np.zeros(0, np.uint64),
        np.zeros(count, np.int32),
        np.array([[1.0, 1.0, 0.0]]),
        ("tiles", "conditional", "unconditional"),
    )


def units_of(rows: SplitRows) -> Units:
    return join_units(rows)


def test_too_few_groups_are_refused() -> None:
    rows = rows_of(["a", "a", "b", "b"])
    assert message(
        lambda: assign_units(units_of(rows), rows, parse_fractions("0.8/0.1/0.1"))
    ) == lines(
        "too few groups for the splits",
        "seen: 2 groups of tiles (identical images join groups)",
        "expected: at least 3: one for each of train, val, test",
        "try: ask for fewer splits, or remove identical images that join groups",
    )


def test_a_split_without_train_is_refused() -> None:
    rows = rows_of(["a", "b"])
    known = np.array([2, 2], np.int8)
    validation = {"train": Fraction(9, 10), "val": Fraction(1, 10)}
    assert message(lambda: complete_split(units_of(rows), rows, known, validation)) == lines(
        "the given split has no train part",
        "expected: a folder, or a split in the table, called train",
    )
    whole = complete_split(units_of(rows), rows, known, {"train": Fraction(1)})
    assert whole.splits.tolist() == [2, 2] and whole.solver == "given"


def test_units_leak_where_known_splits_of_their_tiles_differ() -> None:
    rows = rows_of(["a", "a", "b", "b", "c", "c"])
    units = units_of(rows)
    known = np.array([0, 2, 1, NO_SPLIT, NO_SPLIT, NO_SPLIT], np.int8)
    assert leaking_units(units, known).tolist() == [units.of_tile[0]]
    assert leaking_units(units, np.full(6, NO_SPLIT, np.int8)).tolist() == []


def test_rows_of_a_choice_keep_their_copies() -> None:
    rows = SplitRows(
        name_keys(["a", "b", "c", "d"], SEED, "group"),
        np.array([True, False, True, True]),
        np.array([0, 2, 3]),
        np.array([7, 7, 9], np.uint64),
        np.array([1, 2, 3, 4], np.int32),
        np.eye(5),
        ("x",),
    )
    kept = rows.where(np.array([False, True, True, True]))
    assert kept.names.tolist() == rows.names[1:].tolist()
    assert kept.grouped.tolist() == [False, True, True]
    assert kept.copy_rows.tolist() == [1, 2] and kept.copy_keys.tolist() == [7, 9]
    assert kept.strata.tolist() == [2, 3, 4]
    assert kept.profiles is rows.profiles and kept.columns == ("x",)


def test_a_column_of_flags_for_each_split(tmp_path: Path) -> None:
    path = tmp_path / "splits_0_bool.csv"
    path.write_text(",train,val,test\ns1,True,False,False\ns2,False,False,True\ns3,False,TRUE,\n")
    codes, _ = read_split_file(path, SEED).lookup_paths(["s1_0.png", "s2_0.png", "s3/1.png"])
    assert codes.tolist() == [0, 2, 1]
    path.write_text("train,test\nTrue,False\n")
    assert message(lambda: read_split_file(path, SEED)).startswith(
        "the split file lacks a column of names"
    )
