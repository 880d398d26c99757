"""Importing COCO: outlines bit for bit, orders, and files that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_samples import make_coco, save, stack_layers, tissue, wavy
from pycocotools import mask as coco_masks
from test_import import ledger_of, masks_of, run

from histoprep.errors import ExitCode
from histoprep.importing.model import ImageSize
from histoprep.importing.outlines import CocoPolygons, RunLengths, corners
from histoprep.importing.reading import AnnotationError, Node
from histoprep.importing.run_lengths import decompress

NUMBERS = st.floats(-20, 60, allow_nan=False, width=32)


def pixels_of(outline: CocoPolygons | RunLengths, size: ImageSize) -> np.ndarray:
    pixels = np.zeros(size, bool)
    patch = outline.fill(size)
    height, width = patch.pixels.shape
    pixels[patch.top : patch.top + height, patch.left : patch.left + width] = patch.pixels
    return pixels


@given(st.lists(st.lists(NUMBERS, min_size=6, max_size=20), min_size=1, max_size=3))
@settings(max_examples=200)
def test_polygons_are_those_of_pycocotools(polygons: list[list[float]]) -> None:
    rings = [ring[: len(ring) // 2 * 2] for ring in polygons]
    expected = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(rings, 31, 43)))
    made = pixels_of(CocoPolygons(tuple(map(corners, rings))), ImageSize(31, 43))
    np.testing.assert_array_equal(made, expected.astype(bool))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=200)
def test_run_lengths_are_those_of_pycocotools(
    height: int, width: int, seed: int, share: float
) -> None:
    drawn = np.random.default_rng(seed).random((height, width)) < share
    runs = decompress(coco_masks.encode(np.asfortranarray(drawn, np.uint8))["counts"])
    made = pixels_of(RunLengths(runs, ImageSize(height, width)), ImageSize(height, width))
    np.testing.assert_array_equal(made, drawn)


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> tuple[str, ...]:
    """Return the command that imports a sample after a change of its file."""
    sample = make_coco(tmp_path / "source")
    content = json.loads(sample.source.read_text())
    change(content)
    sample.source.write_text(json.dumps(content))
    return ("import", "coco", str(sample.source), "--out", str(tmp_path / "tree"))


def annotation(number: int, **entries: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["annotations"][number].update(entries)


BAD = {
    "odd": (
        annotation(1, segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
        "annotation 2, segmentation, 0: a polygon of an odd number of coordinates",
    ),
    "text in a polygon": (
        annotation(1, segmentation=[[1, 2, "3", 4, 5, 6]]),
        "annotation 2, segmentation, 0, 2: not a number",
    ),
    "infinite": (
        annotation(1, segmentation=[[1, 2, float("inf"), 4, 5, 6]]),
        "not a finite number",
    ),
    "unknown category": (annotation(0, category_id=9), "annotation 1: its category is not among"),
    "unknown image": (annotation(0, image_id=99), "annotation 1: its image is not among"),
    "a number that no array holds": (
        annotation(1, segmentation=[[1, 2, 10**400, 4, 5, 6]]),
        "annotation 2, segmentation, 0, 2: not a finite number",
    ),
    "a run length that no array holds": (
        annotation(3, segmentation={"size": [96, 112], "counts": [10**30]}),
        "annotation 4, segmentation, counts, 0: not a usable number",
    ),
    "a coordinate far away": (
        annotation(1, segmentation=[[1, 2, 1e9, 4, 5, 6]]),
        "annotation 2, segmentation, 0: a coordinate far beyond any image",
    ),
    "no image": (
        lambda content: content["annotations"][0].pop("image_id"),
        "'image_id' is missing",
    ),
    "other size": (
        annotation(2, segmentation={"size": [112, 96], "counts": [112 * 96]}),
        "annotation 3, segmentation: a mask of another size than its image",
    ),
    "short run lengths": (
        annotation(3, segmentation={"size": [96, 112], "counts": [3, 5, 100]}),
        "annotation 4, segmentation, counts: run lengths of another number of pixels",
    ),
    "long run lengths": (
        annotation(3, segmentation={"size": [96, 112], "counts": [3, 5, 100000]}),
        "108 pixels",
    ),
    "negative run length": (
        annotation(3, segmentation={"size": [96, 112], "counts": [10757, -5]}),
        "annotation 4, segmentation, counts, 1: not a usable number",
    ),
    "cut off": (
        annotation(3, segmentation={"size": [96, 112], "counts": "Zo"}),
        "no compressed run lengths, or cut off",
    ),
    "not of this alphabet": (
        annotation(3, segmentation={"size": [96, 112], "counts": "Z~é"}),
        "no compressed run lengths, or cut off",
    ),
    "two images of an id": (
        lambda content: content["images"][1].update(id=7),
        "image 7: two images have this id",
    ),
    "no size": (lambda content: content["images"][0].pop("width"), "image 7: 'width' is missing"),
    "no categories": (lambda content: content.pop("categories"), "this is no COCO file"),
    "a category without name": (
        lambda content: content["categories"][0].pop("name"),
        "categories, 0: 'name' is missing",
    ),
    "a list of annotations that is none": (
        lambda content: content.update(annotations=[1]),
        "annotation no. 0: not an object",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_named_and_nothing_is_written(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = BAD[case]
    assert run(*changed(tmp_path, change)) == ExitCode.USAGE
    errors = capsys.readouterr().err
    assert message.replace("108 pixels", "100,008 pixels") in errors
    assert "instances.json" in errors
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize(
    "data", [b"", b'{"images": [', b"\x89PNG\r\n", b"[" * 100_000, b"[]", b"[" + b"1" * 5000 + b"]"]
)
def test_what_is_no_json_is_an_error(
    tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_bytes(data)
    assert run("import", "coco", tmp_path / "x.json", "--out", tmp_path / "tree") == ExitCode.USAGE
    assert "x.json" in capsys.readouterr().err


def test_annotations_that_draw_nothing_are_counted(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        new = [
            {"segmentation": [[1, 1, 5, 5]]},  # two points
            {"segmentation": [[500, 500, 600, 500, 600, 600]]},
            {"segmentation": []},
            {},
            {"segmentation": [[10, 10, 10, 20, 10, 15]]},  # a line
        ]
        for number, entries in enumerate(new):
            content["annotations"].append(
                {"id": 100 + number, "image_id": 7, "category_id": 1, **entries}
            )

    assert run(*changed(tmp_path, change)) == ExitCode.OK
    row = ledger_of(tmp_path / "tree")[0]
    names = ("read", "drawn", "empty", "outside", "skipped", "skipped_kinds")
    assert [row[name] for name in names] == [9, 4, 2, 1, 2, "without outline 2"]


def overlapping(tmp_path: Path, *options: str) -> tuple[np.ndarray, dict[str, object]]:
    """Return the mask of a large area over a small one over a larger, and its row."""
    areas = [(2, (40, 40), 12), (3, (40, 40), 8), (1, (40, 40), 20)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 80, "width": 80}],
        "categories": [{"id": number, "name": f"kind {number}"} for number in (1, 2, 3)],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": label,
                "segmentation": [wavy(0, centre, radius).ravel().tolist()],
            }
            for number, (label, centre, radius) in enumerate(areas)
        ],
    }
    save(tissue(1, 80, 80), tmp_path / "a.png")
    (tmp_path / "x.json").write_text(json.dumps(content))
    out = tmp_path / "tree"
    assert run("import", "coco", tmp_path / "x.json", *options, "--out", out) == ExitCode.OK
    return masks_of(out)["a"], ledger_of(out)[0]


@pytest.mark.parametrize(
    ("order", "layers", "hidden"),
    [
        (None, (2, 3, 1), 2),
        ("file", (2, 3, 1), 2),
        ("reversed", (1, 3, 2), 1),
        ("area", (1, 2, 3), 0),
        ("label", (1, 2, 3), 0),
    ],
)
def test_the_order_says_what_lies_on_top(
    tmp_path: Path, order: str | None, layers: tuple[int, ...], hidden: int
) -> None:
    mask, row = overlapping(tmp_path, *(["--order", order] if order else []))
    radii = {1: 20, 2: 12, 3: 8}

    def drawn(label: int) -> np.ndarray:
        ring = [wavy(0, (40, 40), radii[label]).ravel().tolist()]
        return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(ring, 80, 80)))

    expected = stack_layers([(label, drawn(label)) for label in layers], 80, 80)
    np.testing.assert_array_equal(mask, expected)
    assert row["hidden"] == hidden
    # The middle one lies in the largest wholly, and the smallest in it.
    assert row["overlapped_pixels"] == row["contested_pixels"] == int(drawn(2).sum())


def test_crowds_lie_below_or_are_left_out(tmp_path: Path) -> None:
    sample = make_coco(tmp_path / "source", num_images=1)
    out = tmp_path / "tree"
    assert run("import", *sample.arguments, "--skip-crowds", "--out", out) == ExitCode.OK
    row = ledger_of(out)[0]
    assert (row["drawn"], row["skipped_kinds"]) == (3, "crowd 1")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("../../secret.png", "secret"),
        ("/etc/secret.png", "secret"),
        ("C:\\Users\\me\\photos\\secret.png", "secret"),
        ("..\\..\\secret.png", "secret"),
        ("https://host/bucket/secret.png", "secret"),
        (".secret.png", "_.secret"),
    ],
)
def test_no_name_leads_out_of_the_tree(tmp_path: Path, name: str, path: str) -> None:
    source = tmp_path / "deep" / "er" / "source"
    content = {
        "images": [{"id": 1, "file_name": name, "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [],
    }
    save(tissue(1, 20, 20), source / "photos" / "secret.png")
    save(tissue(1, 20, 20), source / "photos" / "b.png")
    (source / "photos" / ".secret.png").write_bytes((source / "photos" / "b.png").read_bytes())
    (source / "x.json").write_text(json.dumps(content))
    save(tissue(2, 20, 20), tmp_path / "deep" / "secret.png")
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "deep" / "er" / "tree"
    code = run("import", "coco", source / "x.json", "--out", out)
    if name.startswith(".s"):
        assert code == ExitCode.USAGE  # hidden files are not listed
        return
    assert code == ExitCode.OK
    assert (out / "images" / f"{path}.png").samefile(source / "photos" / "secret.png")
    made = [file for file in sorted(tmp_path.rglob("*")) if file not in before]
    assert all(file.is_relative_to(out) for file in made)


def test_images_of_one_name_are_told_apart_by_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [r"D:\data\slide_1\tile.png", r"D:\data\slide_2\tile.png"]
    content = {
        "images": [
            {"id": number, "file_name": name, "height": 20, "width": 20}
            for number, name in enumerate(names)
        ],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [],
    }
    for number in (1, 2):
        save(tissue(number, 20, 20), tmp_path / "source" / f"slide_{number}" / "tile.png")
    path = tmp_path / "source" / "x.json"
    path.write_text(json.dumps(content))
    out = tmp_path / "tree"
    assert run("import", "coco", path, "--out", out) == ExitCode.OK
    for number in (1, 2):
        made = out / "images" / f"slide_{number}" / "tile.png"
        assert made.samefile(tmp_path / "source" / f"slide_{number}" / "tile.png")
    content["images"] = [{"id": 1, "file_name": "tile.png", "height": 20, "width": 20}]
    path.write_text(json.dumps(content))
    assert run("import", "coco", path, "--out", tmp_path / "other") == ExitCode.USAGE
    assert "several images have this name" in capsys.readouterr().err


def test_files_of_several_splits_become_folders(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for split in ("train", "valid"):
        make_coco(source / split, num_images=1)
        photo = source / split / "photos" / "field_0.png"
        photo.rename(source / split / f"{split}.png")
        path = source / split / "instances.json"
        content = json.loads(path.read_text())
        content["images"][0]["file_name"] = f"{split}.png"
        path.rename(source / split / "_annotations.coco.json").write_text(json.dumps(content))
    out = tmp_path / "tree"
    assert run("import", "coco", source, "--out", out) == ExitCode.OK
    assert masks_of(out).keys() == {"train/train", "valid/valid"}


def test_categories_that_masks_cannot_hold_are_numbered_anew(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": 0, "name": "tumour"}, {"id": 70_000, "name": "7"}]
        for entry in content["annotations"]:
            entry["category_id"] = {1: 0, 4: 70_000}[entry["category_id"]]

    assert run(*changed(tmp_path, change)) == ExitCode.OK
    text = (tmp_path / "tree" / "label_map.yml").read_text()
    assert "0: background" in text and "1: tumour" in text and "2: label 7" in text
    assert run("map", "check", tmp_path / "tree" / "label_map.yml") == ExitCode.OK
    assert set(np.unique(masks_of(tmp_path / "tree")["field_0"])) == {0, 1, 2}


def test_many_categories_need_masks_of_16_bits(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": number, "name": f"k{number}"} for number in range(1, 400)]
        content["annotations"][1]["category_id"] = 399

    assert run(*changed(tmp_path, change)) == ExitCode.OK
    mask = masks_of(tmp_path / "tree")["field_0"]
    assert mask.dtype == np.uint16 and 399 in mask
    assert run("map", "check", tmp_path / "tree" / "label_map.yml") == ExitCode.OK


def test_an_error_names_the_place(tmp_path: Path) -> None:
    node = Node(tmp_path / "x.json", "annotation 3", {"a": [1, "x"]})
    with pytest.raises(AnnotationError, match="annotation 3, a, 1: not a number") as error:
        node.entry("a").numbers()
    assert error.value.path == str(tmp_path / "x.json")
