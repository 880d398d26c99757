"""Names and colours of the label map to begin with: from files that list classes, from folders and
image-level labels, from folders and endings of masks, and from palettes that can be told apart.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from audit_cases import DataSet, image_bytes, stripes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_first_map import first_map

from histoprep.labels import LabelMap
from histoprep.labels.model import PALETTE
from histoprep.remapping.legends import Entry, Legend, read_legend

NAMES = {0: "background", 1: "stroma", 2: "tumour"}


def names(label_map: LabelMap) -> dict[int, str]:
    return {source.id: source.name for source in label_map.sources}


def colours(label_map: LabelMap) -> dict[str, str]:
    return {cls.name: cls.colour for cls in label_map.classes}


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    data = DataSet(tmp_path / "set")
    for index in range(4):
        data.pair(f"t{index}", stripes(0, 1, 2))
    return data


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "background\nstroma\ntumour\n"),
        ("labels.txt", "stroma\r\ntumour\r\n"),
        ("class_names.txt", "0: background\n1: stroma\n2: tumour\n"),
        ("label_codes.txt", "# ids\n2 tumour\n1 stroma\n0 background"),
        ("_classes.csv", "Pixel Value, Class\n0, background\n1, stroma\n2, tumour\n"),
        ("classes.csv", "name;id\nbackground;0\nstroma;1\ntumour;2\n"),
        ("dataset.json", json.dumps({"labels": {"background": 0, "stroma": 1, "tumour": 2}})),
        (
            "dataset.json",
            json.dumps({"name": "x", "labels": NAMES}),
        ),
        ("classes.json", json.dumps(["background", "stroma", "tumour"])),
        ("labels.json", json.dumps([{"id": k, "name": v} for k, v in NAMES.items()])),
        ("masks/classes.txt", "background\nstroma\ntumour\n"),
    ],
)
def test_files_that_list_classes_give_names(
    file: str, text: str, data: DataSet, tmp_path: Path
) -> None:
    data.write(file, text.encode())
    assert names(first_map(data, tmp_path)) == NAMES
    assert f"; named in {file}" in (tmp_path / "mine.yml").read_text()


def test_other_encodings_and_more_classes_than_occur(data: DataSet, tmp_path: Path) -> None:
    data.write("class_list.txt", "Hintergrund\nStroma\nTumor, groß\nNerv\n".encode("utf-16"))
    # Without a background among more names than labels, nobody knows where they begin.
    (tmp_path / "first").mkdir()
    assert names(first_map(data, tmp_path / "first")) == {n: f"label {n}" for n in range(3)}
    shutil.rmtree(f"{data.root}.histoprep")
    data.write("class_list.txt", "background\nStroma\nTumor, groß\nNerv\n".encode("utf-16"))
    found = names(first_map(data, tmp_path))
    assert found == {0: "background", 1: "Stroma", 2: "Tumor, groß"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "images/a.png\nimages/b.png\nimages/c.png\n"),
        ("classes.txt", "1 stroma\nsomething\n"),
        ("classes.txt", "stroma\nstroma\ntumour\n"),
        ("notes.txt", "background\nstroma\ntumour\n"),
        ("classes.json", "{"),
        ("label_list.txt", "7 lymph\n8 nerve\n"),
    ],
)
def test_files_that_say_something_else_give_none(
    file: str, text: str, data: DataSet, tmp_path: Path
) -> None:
    data.write(file, text.encode())
    assert names(first_map(data, tmp_path)) == {n: f"label {n}" for n in range(3)}


@pytest.mark.parametrize("name", ["yes", "a: b", "x, {y}", "2nd layer", 'so "called"', "[0]"])
def test_any_name_can_be_read_back(name: str, data: DataSet, tmp_path: Path) -> None:
    data.write("classes.json", json.dumps(["background", "stroma", name]).encode())
    assert names(first_map(data, tmp_path))[2] == name


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("class_dict.csv", "name,r,g,b\nrest,0,0,0\nstroma,0,200,0\ntumour,200,0,10\n"),
        ("label_colors.txt", "0 0 0\trest\n0 200 0\tstroma\n200 0 10\ttumour\n"),
        ("legend.txt", "#000000 rest\n#00c800 stroma\n#c8000a tumour\n"),
        (
            "meta.json",
            json.dumps(
                {
                    "classes": [
                        {"title": "rest", "color": "#000000"},
                        {"title": "stroma", "color": "#00C800"},
                        {"title": "tumour", "color": "#C8000A"},
                    ]
                }
            ),
        ),
    ],
)
def test_colours_of_masks_are_called_as_a_file_says(file: str, text: str, tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    table = np.array([[0, 0, 0], [0, 200, 0], [200, 0, 10]], np.uint8)
    for index in range(4):
        data.image(f"images/t{index}.png")
        coloured = image_bytes(table[stripes(0, 1, 2)], "PNG")
        data.write(f"masks/t{index}.png", coloured)
    data.write(file, text.encode())
    label_map = first_map(data, tmp_path)
    assert names(label_map) == {0: "rest", 0x00C800: "stroma", 0xC8000A: "tumour"}
    assert colours(label_map) == {"rest": "#000000", "stroma": "#00c800", "tumour": "#c8000a"}


def test_values_keep_the_colours_of_a_file(data: DataSet, tmp_path: Path) -> None:
    data.write("classes.csv", b"id,name,r,g,b\n0,none,1,2,3\n1,stroma,0,200,0\n2,tumour,9,0,200\n")
    label_map = first_map(data, tmp_path)
    assert colours(label_map) == {"none": "#010203", "stroma": "#00c800", "tumour": "#0900c8"}


@pytest.mark.parametrize(
    ("colours_stored", "is_used"),
    [([0, 0, 0, 1, 1, 1, 2, 2, 2], False), ([0, 0, 0, 200, 0, 0, 0, 200, 0], True)],
)
def test_a_palette_counts_where_its_colours_differ(
    colours_stored: list[int], is_used: bool, tmp_path: Path
) -> None:
    """Tools write a ramp of greys, 0x010101 beside 0x020202, where nobody chose colours."""
    data = DataSet(tmp_path / "set")
    for index in range(3):
        data.image(f"images/t{index}.png")
        mask = Image.fromarray(stripes(0, 1, 2), "P")
        mask.putpalette(colours_stored)
        data.write(f"masks/t{index}.png", image_bytes(mask, "PNG"))
    found = list(colours(first_map(data, tmp_path)).values())
    assert found == (["#000000", "#c80000", "#00c800"] if is_used else list(PALETTE[:3]))


def test_folders_that_go_with_a_label_name_it(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    for index in range(6):
        data.pair(f"high grade/h{index}", stripes(0, 4))
        data.pair(f"normal/n{index}", stripes(0, 1))
    assert names(first_map(data, tmp_path)) == {0: "background", 1: "normal", 4: "high grade"}
    assert "6 of 6 tiles of normal" in (tmp_path / "mine.yml").read_text()


@pytest.mark.parametrize("folders", [("slide1", "slide2"), ("case A", "case B"), ("2019001", "x")])
def test_folders_of_slides_name_nothing(folders: tuple[str, str], tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    for index in range(6):
        data.pair(f"{folders[0]}/h{index}", stripes(0, 4))
        data.pair(f"{folders[1]}/n{index}", stripes(0, 1))
    found = names(first_map(data, tmp_path))
    assert found[4] == "label 4"


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("masks_tumour/t{}.png", "tumour"),
        ("gland masks/t{}.png", "gland"),
        ("masks/t{}_nuclei_mask.png", "nuclei"),
        ("masks/t{}.png", "label 255"),
        ("binary_masks/t{}.png", "label 255"),
        ("ground_truth/t{}.png", "label 255"),
    ],
)
def test_the_only_label_is_called_as_its_folder_or_ending(
    mask: str, expected: str, tmp_path: Path
) -> None:
    data = DataSet(tmp_path / "set")
    for index in range(4):
        data.image(f"images/t{index}.png")
        data.mask(mask.format(index), stripes(0, 255))
    assert names(first_map(data, tmp_path))[255] == expected


def test_names_without_numbers_count_from_one_where_the_background_is_missing() -> None:
    listed = Legend("x", (Entry("stroma"), Entry("tumour")))
    assert listed.by_value([0, 1, 2])[2].name == "tumour"
    assert listed.by_value([0, 1])[1].name == "tumour"
    assert listed.by_value([0, 1, 2, 3]) == {}
    spread = Legend("x", (Entry("bg"), Entry("stroma"), Entry("tumour")))
    assert spread.by_value([0, 127, 255])[255].name == "tumour"


@given(content=st.binary(max_size=300), suffix=st.sampled_from([".txt", ".csv", ".json"]))
def test_any_file_is_read_or_passed_over(
    content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"classes{suffix}"
    path.write_bytes(content)
    assert all(entry.name for entry in read_legend(path))


def json_of(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)


@given(value=st.recursive(st.none() | st.integers() | st.text(max_size=5), json_of))
def test_any_json_is_read_or_passed_over(
    value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "labels.json"
    path.write_text(json.dumps(value))
    assert all(entry.name for entry in read_legend(path))
