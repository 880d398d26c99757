"""Files among the images that belong to other images: the audit names them, the manifest stops."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from layouts import binary, classes, overlay, save, tissue
from PIL import Image

from histoprep.scanning.companions import CompanionKind, ImageFacts, find_companions
from histoprep.schemas.manifest import read_manifest
from histoprep.schemas.workspace import Workspace

SERIES, SAME_NAME = CompanionKind.SERIES, CompanionKind.SAME_NAME
VIEWS = ["a", "a_vis", "b", "b_vis", "c", "c_vis"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "histoprep", *arguments, "--workers", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def softened(seed: int) -> np.ndarray:
    """Return a probability map, float32 [side, side]."""
    return cv2.GaussianBlur(binary(seed).astype(np.float32) / 255, (0, 0), 4)


def grey(seed: int) -> np.ndarray:
    return np.asarray(Image.fromarray(tissue(seed)).convert("L"))


def mixed(seed: int) -> np.ndarray:
    """Return a distance map, which looks like labels, or a probability map, uint8 [side, side]."""
    if seed % 2:
        return cv2.distanceTransform(binary(seed), cv2.DIST_L2, 5).astype(np.uint8)
    return (softened(seed) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("names", "unpaired", "found"),
    [
        (VIEWS, "010101", {"_vis": ["a_vis", "b_vis", "c_vis"]}),
        (VIEWS, "111111", {"_vis": ["a_vis", "b_vis", "c_vis"]}),
        # Numbers are further tiles, few files chance, and masks that were paired no question.
        (["s1", "s1_1", "s1_2", "s1_3", "s1_4"], "11111", {}),
        (["a", "a_x", "b", "b_x", "c", "d"], "111111", {}),
        (VIEWS, "000000", {}),
        (["x/a", "a_vis", "b", "x/b_vis", "c", "x/c_vis"], "111111", {}),
        (["a", *map(str, range(9)), "a_x", "0_x", "1_x"], "1" * 13, {}),
        # What other folders hold is no matter.
        (
            [*VIEWS, *(f"other/{number}" for number in range(20))],
            "1" * 26,
            {"_vis": ["a_vis", "b_vis", "c_vis"]},
        ),
        (
            [f"{case}/{name}" for case in "pqr" for name in ("x", "x_vis")],
            "1" * 6,
            {"_vis": ["p/x_vis", "q/x_vis", "r/x_vis"]},
        ),
        ([], "", {}),
    ],
)
def test_files_called_like_other_images_are_a_series(
    names: list[str], unpaired: str, found: dict[str, list[str]]
) -> None:
    images = [
        ImageFacts(f"{name}.png", sign == "0", "RGB")
        for name, sign in zip(names, unpaired, strict=True)
    ]
    series = find_companions(images)
    assert {group.kind for group in series} <= {SERIES}
    assert {group.shared: list(group.paths) for group in series} == {
        tail: [f"{name}.png" for name in paths] for tail, paths in found.items()
    }


def pool(folder: str, mode: str, numbers: range, error: str | None = None) -> list[ImageFacts]:
    return [ImageFacts(f"{folder}/{number}.png", False, mode, error) for number in numbers]


@pytest.mark.parametrize(
    ("others", "is_found"),
    [
        (pool("pred", "F", range(8)), True),
        (pool("second", "L", range(8)), True),
        (pool("depth", "I;16", range(8)), True),
        (pool("overlays", "RGB", range(8)), True),
        # Two series of images, other names, too few, most without a partner, all like labels.
        (pool("second", "RGB", range(8)), False),
        (pool("second", "L", range(8, 16)), False),
        (pool("pred", "L", range(2)), False),
        (pool("pred", "L", range(5, 15)), False),
        (pool("pred", "L", range(8), "HP109 classes"), False),
        (pool("pred", "L", range(8), "HP201 truncated"), False),
    ],
)
def test_files_called_like_images_of_another_folder(
    others: list[ImageFacts], is_found: bool
) -> None:
    found = find_companions([*others, *pool("images", "RGB", range(8))])
    assert len(found) == is_found
    for group in found:
        assert group.kind is SAME_NAME
        assert group.paths == tuple(sorted(image.path for image in others))
        assert group.example == group.paths[0].replace(group.shared, "images/")


def test_grey_images_alone_and_grey_images_with_masks_are_images() -> None:
    assert not find_companions([*pool("a", "L", range(8)), *pool("b", "L", range(8))])
    masked = [image._replace(has_mask=True) for image in pool("grey", "L", range(8))]
    assert not find_companions([*masked, *pool("images", "RGB", range(8))])


def test_files_that_partly_look_like_labels_are_one_group() -> None:
    images = [ImageFacts(f"t{number}.png", False, "RGB") for number in range(4)]
    maps = [
        ImageFacts(f"t{number}_dist.png", False, "L", "HP109 instances" if number % 2 else None)
        for number in range(4)
    ]
    (group,) = find_companions([*images, *maps])
    assert group.paths == tuple(image.path for image in maps)


Draw = Callable[[int], np.ndarray]


@pytest.mark.parametrize(
    ("named", "draw", "masked", "subcode"),
    [
        ("t{}_overlay.png", overlay, False, "series"),
        ("t{}_overlay.png", overlay, True, "series"),
        ("t{}_dist.png", mixed, True, "series"),
        ("t{}_gray.png", grey, True, "series"),
        ("pred/t{}.tif", softened, False, "same-name"),
        ("other/t{}.png", grey, False, "same-name"),
        ("prob/t{}.png", mixed, False, "same-name"),
        ("overlay/t{}.png", overlay, False, "same-name"),
    ],
)
@pytest.mark.slow
def test_the_audit_names_them_and_the_manifest_stops(
    named: str, draw: Draw, masked: bool, subcode: str, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    folder = "images/" if "/" in named else ""
    for index in range(8):
        save(tissue(index), root / f"{folder}t{index}.png")
        save(draw(index), root / named.format(index))
        if masked:
            save(classes(index), root / f"t{index}_mask.png")
    audit = run("audit", str(root))
    assert audit.returncode == 1
    assert f"HP109 label-like-image ({subcode}): 8 of 16 images" in audit.stdout
    assert "HP302" not in audit.stdout and "HP110" not in audit.stdout
    manifest = run("manifest", str(root))
    assert manifest.returncode == 2 and f"8 files: {named.format(0)}" in manifest.stderr
    for text in (" ".join(audit.stdout.split()), " ".join(manifest.stderr.split())):
        assert "masks, probability maps or overlays of those images" in text
        assert "histoprep audit" in text
        assert f"leaves them out: histoprep manifest {root} --exclude HP109" in text


@pytest.mark.slow
def test_they_are_left_out_or_taken_on_demand(tmp_path: Path) -> None:
    root, names = tmp_path / "set", tmp_path / "dropped.txt"
    for index in range(8):
        save(tissue(index), root / f"t{index}.png")
        save(overlay(index), root / f"t{index}_overlay.png")
    names.write_text("".join(f"t{index}_overlay\n" for index in range(8)))
    assert run("audit", str(root)).returncode == 1
    choices = (("--exclude", "HP109"), ("--drop-list", str(names)), ("--force",))
    for options, number in zip(choices, (8, 8, 16), strict=True):
        done = run("manifest", str(root), *options)
        assert done.returncode == 0, done.stderr
        manifest = Workspace.of(root).manifest
        assert len(read_manifest(manifest, ["image_path"])["image_path"]) == number


def test_the_advice_on_grey_images_asks_whether_they_are_photographs(tmp_path: Path) -> None:
    for index in range(4):
        save(grey(index), tmp_path / "set" / f"{index}.png")
    text = " ".join(run("audit", str(tmp_path / "set")).stdout.split())
    assert "HP302 wrong-mode (grayscale)" in text and "If these are photographs" in text
