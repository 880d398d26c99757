"""dataset.csv in both forms, as spreadsheets and scripts write it."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from histoprep.errors import UsageError
from histoprep.names import to_text
from histoprep.scanning.dataset_csv import DatasetCsv


def read(tmp_path: Path, text: str | bytes) -> DatasetCsv:
    path = tmp_path / "dataset.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = DatasetCsv.find(tmp_path, None)
    assert found
    return found


def test_without_a_header(tmp_path: Path) -> None:
    table = read(tmp_path, "a.jpg,0 12\nb.jpg,\nc.jpg\n\n , \n")
    assert table.header == ()
    assert [table.labels(f"{name}.jpg") for name in "abcd"] == [("0", "12"), (), None, None]


def test_a_byte_order_mark_is_no_part_of_the_name_after_it(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeffa.jpg,4\n").labels("a.jpg") == ("4",)


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\na.jpg,0 12\n",
        "Labels,File\n0 12,a.jpg\n",
        "case,labels,name\n1,0 12,a.jpg\n",
        "\ufeffimage,labels\r\na.jpg,0 12\r\n",
        'image,labels\n"a.jpg","0  12"\n',
        "image , labels\n a.jpg , 0 12 \n",
        "tile,classes\n./a.jpg,0 12\n",
        "what,labels\na,0 12\n",
    ],
)
def test_with_a_header(tmp_path: Path, text: str) -> None:
    table = read(tmp_path, text)
    assert table.header and table.labels("a.jpg") == ("0", "12")
    assert list(table.unseen()) == []


def test_a_header_of_unknown_words_is_known_by_its_missing_suffix(tmp_path: Path) -> None:
    table = read(tmp_path, "tile,case\na.jpg,one\n")
    assert table.column("CASE")("a", "a.jpg") == "one"
    assert table.labels("a.jpg") is None


def test_names_without_suffix_need_no_header(tmp_path: Path) -> None:
    table = read(tmp_path, "tile_1,0 12\ntile_2,3\n")
    assert table.header == () and len(table.rows) == 2
    assert table.labels("sub/tile_1.jpg") == ("0", "12")


@pytest.mark.parametrize("name", ["sub/x.y.jpg", "x.y.jpg", "sub/x.y", "x.y"])
def test_images_are_found_by_path_or_name(tmp_path: Path, name: str) -> None:
    table = read(tmp_path, f"image,labels\n{name},7\nother.jpg,1\n")
    assert table.labels("sub/x.y.jpg") == ("7",)
    assert list(table.unseen()) == ["other.jpg"]


def test_composed_and_decomposed_names_are_one(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "ä.jpg") for form in ("NFC", "NFD"))
    assert read(tmp_path, f"{nfc},1\n").labels(nfd) == ("1",)
    assert read(tmp_path, f"{nfd},1\n").labels(nfc) == ("1",)


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    table = read(tmp_path, b"\xff.jpg,4\n")
    assert table.labels(to_text(os.fsdecode(b"\xff.jpg"))) == ("4",)


def test_empty_cells_give_no_group(tmp_path: Path) -> None:
    table = read(tmp_path, "image,case\na.jpg,\nb.jpg\nc.jpg,x\n")
    group = table.column("case")
    assert [group("", f"{name}.jpg") for name in "abcd"] == [None, None, "x", None]
    assert group("", None) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,labels\na.jpg,1\na.jpg,2\n", "row 3 names an image for the second time"),
        ("labels,image\n1,\n", "row 2 has no image name"),
        ("labels,image\n1\n", "row 2 has no image name"),
        ('image,labels\n"a.jpg,1\n', "cannot be read"),
    ],
)
def test_tables_that_make_no_sense(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read(tmp_path, text)
    assert caught.value.path == str(tmp_path / "dataset.csv")


def test_a_missing_table(tmp_path: Path) -> None:
    assert DatasetCsv.find(tmp_path, None) is None
    with pytest.raises(UsageError, match="No such file"):
        DatasetCsv.find(tmp_path, tmp_path / "cases.csv")
    with pytest.raises(UsageError, match="no column 'case'"):
        read(tmp_path, "a.jpg,1\n").column("case")


def test_an_empty_table(tmp_path: Path) -> None:
    assert read(tmp_path, "").rows == {}


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="no regular file"):
        DatasetCsv.find(tmp_path, pipe)


CASES = [("a_1", "P1"), ("a_2", "P1"), ("b_1", "P2")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_spreadsheets(encoding: str, separator: str, tmp_path: Path) -> None:
    rows = [("Image", "Case_ID"), *((f"{name}.png", case) for name, case in CASES)]
    text = "".join(f"{separator.join(row)}\r\n" for row in rows)
    group = read(tmp_path, text.encode(encoding)).column("case_id")
    assert [group("", f"images/{name}.png") for name, _ in CASES] == ["P1", "P1", "P2"]


@pytest.mark.parametrize("start", ["C:\\Users\\me\\images\\", "/mnt/d/images/", "..\\images\\"])
def test_paths_of_another_machine(start: str, tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "file_name,case\n" + "".join(f"{start}{name}.png,{case}\n" for name, case in CASES),
    )
    group = table.column("case")
    assert [group("", f"images/{name}.png") for name, _ in CASES] == ["P1", "P1", "P2"]
    assert list(table.unseen()) == []


@pytest.mark.parametrize("column", ["slide_id", "Slide", "wsi", "filename", "case_id"])
def test_one_row_a_slide(column: str, tmp_path: Path) -> None:
    suffix = ".svs" if column in ("wsi", "filename") else ""
    table = read(
        tmp_path,
        f"number,{column},label\n" + "".join(f"{n},s{n}{suffix},t{n}\n" for n in (1, 2, 10)),
    )
    label = table.column("label")
    paths = ["s1_0_0.png", "s10_0_0.png", "s2/7.png", "s3_0.png"]
    assert [label("", path) for path in paths] == ["t1", "t10", "t2", None]
    assert table.names_slides and list(table.shared()) == []


def test_a_patient_with_two_slides_is_no_second_row(tmp_path: Path) -> None:
    table = read(tmp_path, "case_id,slide_id,label\np,s1,t\np,s2,t\n")
    assert table.column("case_id")("", "x/s2_4.png") == "p"


def test_the_column_of_files_names_the_images(tmp_path: Path) -> None:
    table = read(tmp_path, "patient,what\np1,a.png\np1,b.png\n")
    assert table.column("patient")("", "b.png") == "p1"


def test_equal_rows_are_one(tmp_path: Path) -> None:
    assert len(read(tmp_path, "a.jpg,1\na.jpg,1\n").rows) == 1


def test_a_row_that_fits_two_images_is_noted(tmp_path: Path) -> None:
    table = read(tmp_path, "image,labels\na.jpg,1\nx/b.jpg,2\n")
    for path in ("x/a.jpg", "y/a.jpg", "x/b.jpg", "x/a.jpg"):
        table.labels(path)
    assert list(table.shared()) == [("a.jpg", ["x/a.jpg", "y/a.jpg"])]


def test_a_table_of_other_images_is_refused(tmp_path: Path) -> None:
    table = read(tmp_path, "image;case\nq.jpg;1\n")
    table.labels("a.jpg")
    with pytest.raises(UsageError, match="no row of the table names an image") as caught:
        table.refuse_foreign("images/a.jpg")
    message = str(caught.value)
    assert "image q.jpg in the row q.jpg;1" in message and "images/a.jpg" in message
    assert "`slide_id`" in message
    table.labels("q.jpg")
    table.refuse_foreign("images/a.jpg")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("foo;bar\n1;2\n", "no header that is known: the first row is foo;bar"),
        ("", "an empty table"),
    ],
)
def test_a_column_of_a_table_without_a_header(tmp_path: Path, text: str, seen: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text).column("case")
    assert caught.value.seen == seen
