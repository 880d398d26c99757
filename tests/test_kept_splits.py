"""A split stays when data grow: tiles keep their place, and what cannot is named."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from audit_cases import DataSet, stripes, tissue
from hypothesis import given, settings
from hypothesis import strategies as st
from test_split import EIGHT_ONE_ONE, NINE_ONE, TEST, TRAIN, VAL, make_rows, random_tiles
from typer.testing import CliRunner, Result

from histoprep.cli import run as run_command
from histoprep.cli.manifest import app
from histoprep.errors import ExitCode, HistoprepError, IntegrityError, UsageError
from histoprep.schemas.manifest import open_manifest, write_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.split import assign_units, fill_split, join_units, parse_fractions, split_of_units
from histoprep.split.certificate import certify
from histoprep.split.units import NO_SPLIT

NUM_SLIDES = 10
HEADER = ("root", "recipe", "certificate", "tiles_digest", "excluded")


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    old=st.integers(30, 200),
    new=st.integers(0, 80),
    num_groups=st.sampled_from([0, 12, 40]),
)
@pytest.mark.slow
def test_old_tiles_stay_and_nothing_crosses(seed: int, old: int, new: int, num_groups: int) -> None:
    tiles = random_tiles(old + new, num_groups, seed, copies=0.0)
    before, after = make_rows(tiles[:old], 4, seed), make_rows(tiles, 4, seed)
    first = assign_units(join_units(before), before, EIGHT_ONE_ONE).splits
    units = join_units(after)
    kept = np.concatenate([first, np.full(new, NO_SPLIT, np.int8)])
    grown = assign_units(units, after, EIGHT_ONE_ONE, split_of_units(units, kept)).splits
    assert np.array_equal(grown[:old], first)
    proof = certify(after, grown, {"train": 0.8, "val": 0.1, "test": 0.1})
    assert (proof["shared_groups"], proof["shared_duplicates"]) == (0, 0)


@pytest.mark.parametrize("num_groups", [0, 60])
@pytest.mark.parametrize("growth", [0.01, 0.05, 0.2])
def test_new_tiles_go_where_they_balance_best(num_groups: int, growth: float) -> None:
    worst = []
    for seed in range(5):
        old = 735
        tiles = random_tiles(old + int(growth * old), num_groups, seed, copies=0.0)
        before, after = make_rows(tiles[:old], 4, seed), make_rows(tiles, 4, seed)
        first = assign_units(join_units(before), before, NINE_ONE).splits
        units = join_units(after)
        kept = np.concatenate([first, np.full(len(tiles) - old, NO_SPLIT, np.int8)])
        grown = assign_units(units, after, NINE_ONE, split_of_units(units, kept)).splits
        shares = np.bincount(grown, minlength=3) / len(tiles)
        worst.append(abs(shares[TEST] - 0.1))
        assert np.array_equal(grown[:old], first)
    assert max(worst) < 0.01


def test_a_unit_has_the_split_of_most_of_its_tiles_and_test_of_equally_many() -> None:
    rows = make_rows(
        [(group, f"i{index}", True, set()) for index, group in enumerate("aaabbccd")], 1
    )
    units = join_units(rows)
    splits = np.array([TRAIN, TRAIN, TEST, TRAIN, TEST, VAL, NO_SPLIT, NO_SPLIT], np.int8)
    assert split_of_units(units, splits)[units.of_tile].tolist() == [
        *[TRAIN] * 3, *[TEST] * 2, *[VAL] * 2, NO_SPLIT,
    ]  # fmt: skip


def test_a_test_that_is_given_gets_no_more() -> None:
    tiles = [(f"g{index}", f"i{index}", True, {index % 2}) for index in range(40)]
    rows = make_rows(tiles, 2)  # type: ignore[arg-type]
    given_codes = np.full(40, NO_SPLIT, np.int8)
    given_codes[:4] = TEST
    units = join_units(rows)
    split = fill_split(units, rows, given_codes, NINE_ONE)
    assert split.splits.tolist() == [TEST] * 4 + [TRAIN] * 36
    split = fill_split(units, rows, given_codes, parse_fractions("0.5/0.25/0.25"))
    assert Counter(split.splits.tolist()) == {TEST: 4, TRAIN: 24, VAL: 12}
    # Validation that is given counts as a part of what was asked for.
    given_codes[4:10] = VAL
    split = fill_split(units, rows, given_codes, parse_fractions("0.5/0.25/0.25"))
    assert Counter(split.splits.tolist()) == {TEST: 4, TRAIN: 24, VAL: 12}
    assert split.splits[4:10].tolist() == [VAL] * 6
    # Without a test, all shares are of all tiles; a split that was not asked for stays as it is.
    given_codes[:4] = NO_SPLIT
    split = fill_split(units, rows, given_codes, NINE_ONE)
    assert Counter(split.splits.tolist())[VAL] == 6
    assert Counter(split.splits.tolist())[TEST] == 3


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Return 40 tiles of 10 slides, two masks in four."""
    found = DataSet(tmp_path / "data")
    for index in range(40):
        add(found, f"s{index // 4}", index)
    return found


def add(data: DataSet, slide: str, index: int) -> None:
    name = f"{slide}_{index:03}"
    data.image(f"{name}.jpg")
    if index % 2:
        data.mask(f"{name}_mask.png", stripes(0, 1 + index % 3))


def run(data: DataSet, *options: str | Path) -> Result:
    return CliRunner().invoke(app, ["build", str(data.root), *map(str, options)])


def run_audit(data: DataSet, *options: str | Path) -> int:
    return run_command(["audit", str(data.root), "--workers", "1", *map(str, options)])


def build(data: DataSet, *options: str | Path) -> str:
    result = run(data, *options)
    assert result.exit_code == ExitCode.OK, result.output
    return result.output


def refused(data: DataSet, *options: str | Path) -> HistoprepError:
    error = run(data, *options).exception
    assert isinstance(error, HistoprepError)
    return error


def splits(data: DataSet) -> dict[str, str]:
    manifest = open_manifest(Workspace.of(data.root).manifest)
    return {row["tile_id"]: row["split"] for row in manifest.read().to_pylist()}


GROUPED = ("--group-by", r"(s\d+)_")


def test_a_manifest_that_is_made_again_keeps_the_split(data: DataSet) -> None:
    build(data, *GROUPED, "--split", "0.7/0.1/0.2", "--seed", "5")
    before = splits(data)
    # A slide more, a tile more of an old one, and one that has another name now.
    for index in range(40, 46):
        add(data, "s10", index)
    add(data, "s3", 50)
    for path in data.root.glob("s7_028*"):
        path.rename(path.with_name(path.name.replace("s7_028", "s7_renamed")))
    text = build(data)
    after = splits(data)
    assert {name: after.get(name) for name in before} == before | {"s7_028": None}
    assert after["s7_renamed"] == before["s7_028"]
    assert after["s3_050"] == before["s3_012"]
    path = Workspace.of(data.root).manifest
    assert f"40 tiles in the split of {path}, 7 new" in text
    recipe = open_manifest(path).recipe
    assert (recipe["seed"], recipe["fractions"]) == (5, {"train": 0.7, "val": 0.1, "test": 0.2})
    assert recipe["kept"] == {"manifest": str(path), "tiles": 40, "new": 7, "moved": 0}
    assert not path.with_name("manifest.moved.csv").exists()


def test_another_split_is_made_only_on_demand(data: DataSet, tmp_path: Path) -> None:
    build(data, *GROUPED)
    before = splits(data)
    for options, expected in (
        (("--seed", "3"), "--seed 0"),
        (("--split", "0.5/0.5"), "--split train=0.9,test=0.1"),
        (("--split-method", "hash"), "--split-method auto --ignore-folder-split"),
        (("--test", "s1"), "--split-method auto --ignore-folder-split"),
    ):
        error = refused(data, *options)
        assert isinstance(error, UsageError)
        assert error.expected == expected
        assert "--reshuffle" in str(error.hint)
        assert splits(data) == before
    build(data, "--split", "0.5/0.5", "--reshuffle")
    assert Counter(splits(data).values()) == {"train": 20, "test": 20}
    error = refused(data, "--reshuffle", "--keep", tmp_path / "x.parquet")
    assert "contradict" in error.what


def test_the_split_of_another_manifest_is_kept(data: DataSet, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    build(data, *GROUPED, "--seed", "7", "--out", other)
    build(data, "--keep", other)
    manifest = open_manifest(other)
    wanted = {row["tile_id"]: row["split"] for row in manifest.read().to_pylist()}
    assert splits(data) == wanted
    other.write_bytes(b"no manifest")
    error = refused(data, "--keep", other)
    assert isinstance(error, IntegrityError)
    assert "--reshuffle" in str(error.hint)
    assert "no manifest" in refused(data, "--keep", tmp_path / "none").what


def test_what_must_change_its_split_is_named(data: DataSet) -> None:
    build(data, *GROUPED)
    before = splits(data)
    test = next(name for name, split in sorted(before.items()) if split == "test")
    train = next(name for name, split in sorted(before.items()) if split == "train")
    # A copy of a test tile in a slide of train: both slides must lie in one split.
    copy = train.partition("_")[0] + "_copy"
    (data.root / f"{copy}.jpg").write_bytes((data.root / f"{test}.jpg").read_bytes())
    text = build(data)
    after = splits(data)
    slides = {train.partition("_")[0], test.partition("_")[0]}
    moved = {name for name in before if before[name] != after[name]}
    assert moved and {name.partition("_")[0] for name in moved} < slides
    table = Workspace.of(data.root).folder / "manifest.moved.csv"
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["tile_id"]: (row["from"], row["to"]) for row in rows} == {
        name: (before[name], after[name]) for name in moved
    }
    assert "4 tiles changed the split, since groups or copies of images now join" in text
    assert str(table) in text
    # The next time nothing moves, and the table still says what moved last.
    rows = table.read_bytes()
    assert "changed the split" not in build(data)
    assert splits(data) == after
    assert table.read_bytes() == rows
    build(data, *GROUPED, "--reshuffle")
    assert not table.exists()


def test_a_split_that_knew_no_groups_is_no_basis(data: DataSet) -> None:
    build(data)
    before = splits(data)
    text = build(data, *GROUPED)
    after = splits(data)
    assert len({(name.partition("_")[0], split) for name, split in after.items()}) == NUM_SLIDES
    number = sum(before[name] != split for name, split in after.items())
    assert number
    assert f"{number} tiles changed the split, since" in text
    assert "knew no groups" in text


def test_a_manifest_of_other_tiles_keeps_nothing(data: DataSet, tmp_path: Path) -> None:
    target = tmp_path / "m.parquet"
    build(data, "--out", target)
    other = DataSet(tmp_path / "other")
    for index in range(20):
        other.image(f"t_{index:03}.jpg", tissue(1000 + index))
    assert "in the split of" not in build(other, "--out", target, "--seed", "4")


def test_named_groups_are_test_and_no_others(data: DataSet, tmp_path: Path) -> None:
    build(data, *GROUPED, "--test", "s2,s5")
    assert {name.partition("_")[0] for name, split in splits(data).items() if split == "test"} == {
        "s2",
        "s5",
    }
    recipe = open_manifest(Workspace.of(data.root).manifest).recipe
    assert (recipe["method"], recipe["test"]) == ("test", ["s2", "s5"])
    names = tmp_path / "names.txt"
    names.write_text("s2\ns5\n")
    build(data, "--test", names, "--split", "0.75/0.25/0")
    found = splits(data)
    counts = Counter(found.values())
    assert counts == {"train": 32, "test": 8}, "tiles that were in train stay there"
    build(data, "--test", names, "--split", "0.75/0.25/0", "--reshuffle")
    assert Counter(splits(data).values()) == {"train": 24, "val": 8, "test": 8}
    error = refused(data, "--test", "s2,s77")
    assert error.seen == "s77"
    assert str(error.expected).startswith("groups such as s0, s1, s2")
    # Without --test the new tiles of a data set that grew could go to test.
    error = refused(data)
    assert error.expected == "--test s2,s5"
    # A group that was test before and is named no more is shared out among the others.
    build(data, "--test", "s2")
    assert {name.partition("_")[0] for name, split in splits(data).items() if split == "test"} == {
        "s2"
    }


def test_a_split_file_may_name_a_part(data: DataSet, tmp_path: Path) -> None:
    table = tmp_path / "split.csv"
    table.write_text("slide,split\ns2,test\ns3,test\ns4,val\n")
    text = build(data, *GROUPED, "--split-file", table, "--split", "0.75/0.25/0")
    found = {name.partition("_")[0]: split for name, split in splits(data).items()}
    assert (found["s2"], found["s3"], found["s4"]) == ("test", "test", "val")
    assert Counter(found.values()) == {"test": 2, "val": 2, "train": 6}
    assert (
        "the split file split.csv says nothing of 28 tiles, such as s0_000, s0_001:"
        " 24 in train, 4 in val" in text
    )


def test_a_new_split_says_that_the_folds_of_before_go(data: DataSet) -> None:
    build(data, *GROUPED, "--folds", "4")
    assert "folds" not in build(data, "--folds", "4", "--reshuffle").partition("Folds")[0]
    text = build(data, "--reshuffle")
    assert "warning: the manifest before had 4 folds, and --reshuffle makes none: --folds 4" in text
    assert "folds" not in build(data, "--reshuffle")


def folds(data: DataSet) -> dict[str, int | None]:
    manifest = open_manifest(Workspace.of(data.root).manifest)
    return {row["tile_id"]: row["fold"] for row in manifest.read().to_pylist()}


@pytest.mark.slow
def test_folds_share_out_what_is_not_test(data: DataSet) -> None:
    text = build(data, *GROUPED, "--test", "s2,s5", "--folds", "4")
    found = folds(data)
    assert {name for name, fold in found.items() if fold is None} == {
        name for name, split in splits(data).items() if split == "test"
    }
    by_slide = {name.partition("_")[0]: fold for name, fold in found.items()}
    assert Counter(by_slide.values()) == {0: 2, 1: 2, 2: 2, 3: 2, None: 2}
    assert len({(name.partition("_")[0], fold) for name, fold in found.items()}) == NUM_SLIDES
    assert "folds: shared groups 0, shared duplicates 0, worst class deviation" in text
    path = Workspace.of(data.root).manifest
    assert open_manifest(path).recipe["folds"] == {"by": "number", "names": ["0", "1", "2", "3"]}
    check = CliRunner().invoke(app, ["check", str(path)])
    assert check.exit_code == ExitCode.OK, check.output
    # Folds stay when data grow, also without the option.
    for index in range(60, 70):
        add(data, f"t{index // 5}", index)
    build(data, "--test", "s2,s5")
    after = folds(data)
    assert {name: after[name] for name in found} == found
    assert {after[name] for name in after.keys() - found} <= {0, 1, 2, 3}
    # A slide in two folds is found.
    manifest = open_manifest(path)
    table = manifest.read()
    column = table["fold"].to_pylist()
    column[column.index(0)] = 1
    at = table.schema.get_field_index("fold")
    changed = table.set_column(at, table.schema.field(at), pa.array(column, pa.int8()))
    header = {name: manifest.header[name] for name in HEADER}
    write_manifest(path, [changed], manifest.label_map, header)
    check = CliRunner().invoke(app, ["check", str(path)])
    assert check.exit_code == ExitCode.FINDINGS
    assert "1 shared groups between folds" in " ".join(check.output.split())


def test_each_value_is_a_fold(data: DataSet, tmp_path: Path) -> None:
    table = tmp_path / "centres.csv"
    names = sorted(path.stem for path in data.root.glob("*.jpg"))
    lines = [f"{name}.jpg,{'AB'[int(name[1]) % 2]}" for name in names]
    table.write_text("image,centre\n" + "\n".join(lines) + "\n")
    options = ("--csv", table, *GROUPED)
    assert run_audit(data, *options) == ExitCode.OK
    build(data, "--split", "1/0", "--folds", "csv:centre")
    assert folds(data) == {name: int(name[1]) % 2 for name in names}
    recipe = open_manifest(Workspace.of(data.root).manifest).recipe
    assert recipe["folds"] == {"by": "csv:centre", "names": ["A", "B"]}
    table.write_text("image,centre\n" + "\n".join([*lines[1:], f"{names[0]}.jpg,B"]) + "\n")
    error = refused(data, "--split", "1/0", "--folds", "csv:centre")
    assert error.what == "--folds csv:centre cuts a group, or images that are equal"
    assert error.seen == "s0 in A and B"


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("1", "gives no folds"),
        ("40", "too few groups"),
        ("csv:nothing", "csv"),
        ("x(y)", "finds nothing for some tiles"),
        ("(s)", "gives no folds"),
    ],
)
def test_folds_that_cannot_be_are_refused(data: DataSet, how: str, what: str) -> None:
    assert what in refused(data, *GROUPED, "--folds", how).what
