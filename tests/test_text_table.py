"""Tables as other tools write them: encodings, separators, lines, and files that are no tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from histoprep.errors import UsageError
from histoprep.text_table import detect_format, read_text_table

ROWS = [("image", "case", "note"), ("a.png", "P 1", "x"), ("b.png", "P,2;3", "Müller")]


def written(rows: list[tuple[str, ...]], separator: str, ending: str) -> str:
    cells = [[f'"{cell}"' if set(cell) & set(',;"') else cell for cell in row] for row in rows]
    return "".join(separator.join(row) + ending for row in cells)


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_every_way_to_write_a_table(
    encoding: str, separator: str, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(written(ROWS, separator, ending).encode(encoding))
    table = read_text_table(path)
    assert table.rows == ROWS and table.separator == separator
    form = detect_format(path)
    assert form.separator == separator and form.skipped == 0
    assert path.read_bytes().decode(form.encoding) == written(ROWS, separator, ending)


def test_rows_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,1\n\n"two\nlines",2\n , \nb,3\n')
    table = read_text_table(path)
    assert table.rows == [("a", "1"), ("two\nlines", "2"), ("b", "3")]
    assert table.lines == [1, 3, 6]
    assert table.show(2) == "b,3"


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("image;labels\na.png;1,2\nb.png;3\n", ";"),
        ("a;b.png,1 2\nc.png,3\n", ","),
        ("sep=|\na,b|1\nc,d|2\n", "|"),
        ("sep=;\r\na;1\r\n", ";"),
        ("only one column\na.png\n", ","),
        ("a.png,1\n", ","),
        ("name\tmpp, note\nx\t0.25, 0.5\ny\t1\n", "\t"),
    ],
)
def test_the_separator_is_the_one_that_makes_equal_rows(
    text: str, separator: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert read_text_table(path).separator == separator


def test_the_line_of_excel_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("sep=;\na;1\n")
    assert read_text_table(path).rows == [("a", "1")]
    assert detect_format(path).skipped == 1


def test_a_table_longer_than_the_look_at_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{index};ä\n" for index in range(200_000)), "utf-8")
    assert detect_format(path) == ("utf-8", ";", 0)


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"PK\x03\x04" + bytes(64), "an Excel workbook or another archive"),
        (b"\xd0\xcf\x11\xe0" + bytes(64), "an Excel workbook"),
        (b"PAR1" + bytes(64), "a Parquet file"),
        (b"\x1f\x8b" + bytes(64), "a compressed file"),
        (b"a,b\n" + b"c\0,ddddd\n" * 3, "bytes that are no text"),
    ],
)
def test_what_is_no_text_is_called_by_its_name(data: bytes, seen: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    for read in (read_text_table, detect_format):
        with pytest.raises(UsageError, match="the table is no text") as caught:
            read(path)
        assert caught.value.seen == seen and "save it as CSV" in str(caught.value)


def test_a_table_that_ends_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,"b\n')
    with pytest.raises(UsageError, match="the table cannot be read"):
        read_text_table(path)
    path.write_bytes("a,b\n".encode("utf-16")[:-1])
    with pytest.raises(UsageError, match="the table cannot be read"):
        read_text_table(path)


@pytest.mark.parametrize(
    "text", ['{"train": ["s1"]}', ' [\n {"train": []}]', '["a", "b"]', "{}", "[[1, 2]]"]
)
@pytest.mark.parametrize("read", [read_text_table, detect_format])
def test_json_is_called_that(
    text: str, read: Callable[[Path, str], object], tmp_path: Path
) -> None:
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="the split file is JSON"):
        read(path, "the split file")


@pytest.mark.parametrize("text", ["[1] a.png,train\n", "{x}.png\n", "[d=1,x=0].png\n"])
def test_names_in_brackets_are_no_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text(text)
    assert read_text_table(path).rows
