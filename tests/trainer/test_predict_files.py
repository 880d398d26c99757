"""Which files of a folder `trainer predict` takes: those that the audit takes for images."""

from __future__ import annotations

from pathlib import Path

import pytest

from histoprep import image_formats
from histoprep.errors import BrokenFileError
from histoprep.imageio import encode_rgb_png
from trainer.classification.predict import find_images, read_image
from trainer.errors import UsageError
from trainer.reporter import Reporter


def test_every_suffix_of_an_image_is_found(tmp_path: Path) -> None:
    suffixes = image_formats.image_suffixes()
    assert {"jfif", "jpe", "webp"} <= set(suffixes)
    for suffix in suffixes:
        (tmp_path / f"tile.{suffix}").touch()
        (tmp_path / f"TILE.{suffix.upper()}").touch()
    (tmp_path / "notes.txt").touch()
    found = find_images([tmp_path])
    assert [path.name for path in found.skipped] == ["notes.txt"]
    assert {path.name for path in found.files} == {
        *(f"tile.{suffix}" for suffix in suffixes),
        *(f"TILE.{suffix.upper()}" for suffix in suffixes),
    }


def test_a_folder_without_images_names_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected: .*\.jfif"):
        find_images([tmp_path])


def test_folders_are_walked_and_what_is_skipped_is_named(tmp_path: Path) -> None:
    for name in ("b/deep/2.png", "a/1.jpg", "a/.hidden.png", "a/notes.csv", "x.histoprep/t.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found.files] == [
        "a/1.jpg",
        "b/deep/2.png",
    ]
    assert {path.relative_to(tmp_path).as_posix() for path in found.skipped} == {
        "x.histoprep",
        "a/.hidden.png",
        "a/notes.csv",
    }
    said: list[str] = []
    found.tell(Reporter(said.append, said.append))
    assert said[0].startswith("skipped what is no image, 3:") and "notes.csv" in said[0]


def test_a_huge_image_has_the_code_of_huge_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from trainer.classification import predict

    monkeypatch.setattr(predict, "_MAX_PIXELS", 3)
    file = tmp_path / "a.png"
    file.write_bytes(encode_rgb_png(np.zeros((2, 2, 3), np.uint8)))
    with pytest.raises(BrokenFileError) as refused:
        read_image(file)
    assert refused.value.verdict == "HP205 too-large"


def test_masks_beside_their_images_are_no_images(tmp_path: Path) -> None:
    for name in ("1.jpg", "1_mask.png", "2_mask.png"):
        (tmp_path / name).touch()
    found = find_images([tmp_path])
    # Of the last one no image is known, so it may be one.
    assert found.names == ("1", "2_mask")
    assert [path.name for path in found.skipped] == ["1_mask.png"]
    assert find_images([tmp_path / "1_mask.png"]).names == ("1_mask",)
