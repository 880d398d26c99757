"""Several masks of an image, as people name and arrange them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from import_samples import SIDE, blob, save, stack_layers, tissue
from test_import import ledger_of, masks_of, run

from histoprep.errors import ExitCode

Arranged = dict[str, list[tuple[int, int]]]
"""Label and number of the blob of each layer, by the path of the image in the tree."""
ARRANGEMENTS: dict[str, tuple[Callable[[Path], Arranged], list[str]]] = {}


def arrangement(*options: str) -> Callable[[Callable[[Path], Arranged]], None]:
    """Register a maker of files with the options that read them; `{}` stands for the source."""

    def register(make: Callable[[Path], Arranged]) -> None:
        ARRANGEMENTS[make.__name__] = (make, list(options))

    return register


def mask(number: int, path: Path) -> None:
    save(blob(number).astype(np.uint8) * 255, path)


@arrangement("--by", "class")
def folders_of_classes_in_each_split(folder: Path) -> Arranged:
    for split in ("train", "test"):
        save(tissue(1), folder / split / "images" / f"{split}1.png")
        for number, name in enumerate(("gland", "vessel")):
            mask(number, folder / split / name / f"{split}1.png")
    return {f"{split}/{split}1": [(1, 0), (2, 1)] for split in ("train", "test")}


@arrangement("--by", "class")
def splits_in_each_folder_of_a_class(folder: Path) -> Arranged:
    for split in ("train", "val"):
        save(tissue(1), folder / "images" / split / f"{split}1.png")
        for number, name in enumerate(("a", "b")):
            mask(number, folder / "masks" / name / split / f"{split}1.png")
    return {f"{split}/{split}1": [(1, 0), (2, 1)] for split in ("train", "val")}


@arrangement("--by", "class", "--images", "{}/1. Original Images")
def numbered_folders_of_classes_and_their_letters(folder: Path) -> Arranged:
    save(tissue(1), folder / "1. Original Images" / "a. Training Set" / "IDRiD_01.jpg")
    for number, (name, letters) in enumerate(
        (("1. Microaneurysms", "MA"), ("2. Haemorrhages", "HE"))
    ):
        truth = folder / "2. Groundtruths" / "a. Training Set" / name
        save(blob(number).astype(np.uint8), truth / f"IDRiD_01_{letters}.tif")
    return {"IDRiD_01": [(1, 0), (2, 1)]}


@arrangement("--by", "class")
def the_class_before_the_word(folder: Path) -> Arranged:
    save(tissue(1), folder / "x.png")
    mask(1, folder / "x_tumor_mask.png")
    mask(2, folder / "x_necrosis_mask.png")
    return {"x": [(1, 2), (2, 1)]}


@arrangement("--by", "class")
def hyphens_and_capitals(folder: Path) -> Arranged:
    save(tissue(1), folder / "IMG" / "A.PNG")
    mask(0, folder / "GT" / "A-tumor.PNG")
    mask(1, folder / "GT" / "A-stroma.PNG")
    return {"A": [(1, 1), (2, 0)]}


@arrangement("--by", "class")
def a_folder_for_each_sample_with_the_same_names_in_all(folder: Path) -> Arranged:
    for sample in (0, 2):
        save(tissue(sample), folder / f"p{sample}" / "image.png")
        mask(sample, folder / f"p{sample}" / "mask_tumor.png")
        mask(sample + 1, folder / f"p{sample}" / "mask_stroma.png")
    return {f"p{sample}/image": [(1, sample + 1), (2, sample)] for sample in (0, 2)}


@arrangement("--by", "class")
def several_files_of_a_class(folder: Path) -> Arranged:
    save(tissue(1), folder / "x.png")
    for number, name in enumerate(("tumor", "tumor_2", "stroma")):
        mask(number, folder / f"x_mask_{name}.png")
    return {"x": [(1, 2), (2, 0), (2, 1)]}


@arrangement("--by", "instance")
def a_folder_of_masks_for_each_image(folder: Path) -> Arranged:
    for name in ("a", "b"):
        save(tissue(1), folder / "images" / f"{name}.png")
        for number in range(3):
            mask(number, folder / "masks" / name / f"{number}.png")
    return {name: [(1, 0), (1, 1), (1, 2)] for name in ("a", "b")}


@arrangement("--by", "instance")
def numbers_after_names_that_end_in_numbers(folder: Path) -> Arranged:
    for name, start in (("img_1", 0), ("img_10", 5)):
        save(tissue(start), folder / "images" / f"{name}.png")
        for number in range(2):
            mask(start + number, folder / "masks" / f"{name}_{number}.png")
    return {"img_1": [(1, 0), (1, 1)], "img_10": [(1, 5), (1, 6)]}


def test_files_with_several_labels_are_no_masks_of_a_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "tree"
    save(tissue(1), source / "x.png")
    labels = stack_layers([(3, blob(1)), (7, blob(2))], SIDE, SIDE)
    save(labels.astype(np.uint8), source / "x_mask.png")
    mask(5, source / "x_mask_1.png")
    assert run("import", "combine", source, "--by", "instance", "--out", out) == ExitCode.OK
    assert "1 mask file with several values" in capsys.readouterr().err
    assert ledger_of(out)[0]["several_values"] == 1
    np.testing.assert_array_equal(masks_of(out)["x"], (labels > 0) | blob(5))


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_arrangements(name: str, tmp_path: Path) -> None:
    make, options = ARRANGEMENTS[name]
    source, out = tmp_path / "source", tmp_path / "tree"
    arranged = make(source)
    words = [option.replace("{}", str(source)) for option in options]
    assert run("import", "combine", source, *words, "--out", out) == ExitCode.OK
    made = masks_of(out)
    assert made.keys() == arranged.keys()
    for image, layers in arranged.items():
        drawn = [(label, blob(number)) for label, number in layers]
        np.testing.assert_array_equal(made[image], stack_layers(drawn, SIDE, SIDE))
