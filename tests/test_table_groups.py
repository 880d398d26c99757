"""Columns of tables in a data set that are offered as groups."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from audit_cases import DataSet
from typer.testing import CliRunner

from histoprep.cli.manifest import app
from histoprep.errors import UsageError
from histoprep.scanning.group_patterns import Grouping
from histoprep.scanning.table_groups import suggest_columns
from histoprep.schemas.manifest import open_manifest
from histoprep.schemas.workspace import Workspace

IMAGES = [f"images/t{number}.png" for number in range(12)]


def write(root: Path, name: str, header: str, cells: list[str]) -> Path:
    lines = [f"t{number}.png,{cell}" for number, cell in enumerate(cells)]
    (root / name).write_text("\n".join([header, *lines]) + "\n")
    return root / name


def test_columns_of_slides_come_first_and_those_that_name_nothing_not_at_all(
    tmp_path: Path,
) -> None:
    cells = [f"s{n // 2},P{n // 6},{'ab'[n % 2]},note {n},{'train' if n < 9 else 'test'}"
             for n in range(12)]  # fmt: skip
    write(tmp_path, "dataset.csv", "image,slide_id,patient,stain,note,split", cells)
    assert suggest_columns(tmp_path, None, IMAGES) == [
        Grouping("csv:patient", "column patient of dataset.csv", 2, 12),
        Grouping("csv:slide_id", "column slide_id of dataset.csv", 6, 12),
    ]


def test_other_tables_are_named_and_those_of_something_else_left(tmp_path: Path) -> None:
    table = write(tmp_path, "meta data.csv", "file,Case ID", [f"c{n // 3}" for n in range(12)])
    (tmp_path / "other.csv").write_text("x,y\n1,2\n3,4\n")
    (tmp_path / "broken.csv").write_bytes(b"PK\x03\x04")
    [way] = suggest_columns(tmp_path, None, IMAGES)
    assert way.option == f"--csv '{table}' --group-by 'csv:case id'"
    # The table of --csv needs no name again, and a table of a few tiles groups nothing.
    assert suggest_columns(tmp_path, table, IMAGES)[0].option == "--group-by 'csv:case id'"
    assert suggest_columns(tmp_path, None, [*IMAGES, *(f"u{n}.png" for n in range(9))]) == []


def test_a_row_a_slide_is_a_group_by_the_slide(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text("slide_id;label\ns1;a\ns2;b\n")
    images = [f"s{1 + n % 2}/x{n}.png" for n in range(8)]
    [way] = suggest_columns(tmp_path, None, images)
    assert (way.pattern, way.num_groups, way.num_tiles) == ("csv:slide_id", 2, 8)


def test_the_printed_command_groups_the_tiles(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(8, "x")
    rows = [f"x{n:02}.jpg,s{n // 2}" for n in range(8)]
    data.write("slides.csv", "\n".join(["image,slide", *rows]).encode())
    [found] = [item for item in data.audit().findings if item.code == "HP710"]
    first = found.suggestion.split("; or ")[0]
    assert first.startswith("column slide of slides.csv (4 groups of 8 tiles): ")
    words = shlex.split(first.partition(": ")[2])
    options = dict(zip(words[3::2], words[4::2], strict=True))
    report = data.audit(scan={"csv": Path(options["--csv"]), "group_by": options["--group-by"]})
    assert "HP710" not in {item.code for item in report.findings}


@pytest.fixture
def cut(tmp_path: Path) -> DataSet:
    """Return tiles of four slides, and a table of pairs that puts one of them into two splits."""
    data = DataSet(tmp_path / "data")
    data.pairs(8, "s")
    splits = ["train", "test", *["train"] * 4, "test", "test"]
    rows = [f"s{n:02}.jpg,s{n:02}_mask.png,slide{n // 2},{split}" for n, split in enumerate(splits)]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,mask,group,split", *rows]) + "\n")
    return data


def test_a_table_that_cuts_a_group_is_named_with_the_command_that_helps(
    cut: DataSet, tmp_path: Path
) -> None:
    cut.audit(scan={"pairs": tmp_path / "pairs.csv"})
    result = CliRunner().invoke(app, ["build", str(cut.root)])
    assert isinstance(result.exception, UsageError)
    text = str(result.exception)
    assert "the column split of pairs.csv cuts a group (HP702): slide0" in text
    assert "folder" not in text.partition("try:")[0]
    [command] = [line for line in text.splitlines() if "--ignore-folder-split" in line]
    words = shlex.split(command[command.index("histoprep manifest") :])
    assert words == ["histoprep", "manifest", str(cut.root), "--ignore-folder-split"]
    done = CliRunner().invoke(app, ["build", *words[2:]])
    assert done.exit_code == 0, done.output


def test_a_split_of_a_table_is_called_that(cut: DataSet, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(table.read_text().replace("slide0,test", "slide0,train"))
    cut.audit(scan={"pairs": table})
    result = CliRunner().invoke(app, ["build", str(cut.root)])
    assert result.exit_code == 0, result.output
    assert "Split by table" in result.output
    assert open_manifest(Workspace.of(cut.root).manifest).recipe["method"] == "table"


def test_a_split_file_that_cuts_a_group_is_named(cut: DataSet, tmp_path: Path) -> None:
    cut.audit(scan={"group_by": "s0"})
    table = tmp_path / "splits.csv"
    splits = ["train", "test"] * 4
    table.write_text(
        "image,split\n" + "".join(f"s{n:02}.jpg,{split}\n" for n, split in enumerate(splits))
    )
    result = CliRunner().invoke(app, ["build", str(cut.root), "--split-file", str(table)])
    text = str(result.exception)
    assert "the split file splits.csv cuts a group (HP702): s0" in text
    assert f"correct the rows in {table}; or split anew: histoprep manifest {cut.root}" in text
