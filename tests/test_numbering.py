"""Masks that are counted from another number on than their images."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from layouts import classes, save, tissue

from histoprep.scanning.numbering import find_shifts
from histoprep.schemas.manifest import read_manifest
from histoprep.schemas.workspace import Workspace

Row = tuple[str | None, str | None]


def rows(
    images: range | list[int], masks: range | list[int], named: str = "{}/{}.png"
) -> list[Row]:
    """Return the tiles of files that pair by equal numbers."""
    return [
        (
            named.format("images", number) if number in images else None,
            named.format("masks", number) if number in masks else None,
        )
        for number in sorted({*images, *masks})
    ]


@pytest.mark.parametrize(
    ("images", "masks", "amount"),
    [
        (range(100), range(1, 101), 1),
        (range(1, 101), range(100), -1),
        (range(3), range(1, 4), 1),
        (range(20), range(5, 25), 5),
        (range(100), [number for number in range(1, 101) if number != 50], 1),
        ([0, 1, 2, 7, 9], [1, 2, 3, 8, 10], 1),
        # Nothing is shifted where all masks have images, or some numbers are simply missing.
        (range(100), range(100), None),
        (range(100), range(1, 100), None),
        (range(1, 100), range(100), None),
        (range(2), range(1, 3), None),
        (range(100), [*range(3, 100), 250], None),
        (range(100), [*range(100), 100], None),
        (range(100), range(51, 101), None),
        ([], [], None),
    ],
)
def test_shifts(images: range | list[int], masks: range | list[int], amount: int | None) -> None:
    found = find_shifts(rows(images, masks))
    assert [shift.amount for shift in found] == ([] if amount is None else [amount])
    for shift in found:
        assert len(shift.masks) == len(masks)
        for mask, image, partner in shift.masks:
            number = int(mask.removeprefix("masks/").removesuffix(".png"))
            assert partner == f"images/{number - amount}.png"
            assert image == (f"images/{number}.png" if number in images else None)


def test_each_folder_counts_by_itself() -> None:
    shifted = rows(range(5), range(1, 6), "a/{}/t{}_x2.png")
    plain = rows(range(5), range(5), "b/{}/t{}_x2.png")
    [shift] = find_shifts([*plain, *shifted, ("other.png", None), (None, "lone_mask.png")])
    assert all(mask.startswith("a/masks/t") for mask, _, _ in shift.masks)
    assert "a/masks/t1_x2.png is paired with a/images/t1_x2.png" in shift.example


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "histoprep", *arguments, "--workers", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.png", "masks/{}.png"),
        ("HE/img_{}.png", "gt/mask_{}.png"),
        ("{}.jpg", "{}_mask.png"),
    ],
)
@pytest.mark.slow
def test_the_manifest_stops_and_the_printed_command_pairs_them(
    image: str, mask: str, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    pairs = {image.format(i): mask.format(i + 1) for i in range(8)}
    for i, (path, partner) in enumerate(pairs.items()):
        save(tissue(i), root / path)
        save(classes(i), root / partner)
    audit = run("audit", str(root))
    assert audit.returncode == 1
    assert "HP111 shifted-numbers: 8 of 8 masks" in audit.stdout
    assert "Export the missing images" not in audit.stdout
    manifest = run("manifest", str(root))
    assert manifest.returncode == 2 and "(HP111 shifted-numbers)" in manifest.stderr
    command = audit.stdout.partition("To pair them by their order: ")[2].partition("; or,")[0]
    assert run(*shlex.split(command)[1:]).returncode == 0
    assert run("manifest", str(root)).returncode == 0
    written = read_manifest(Workspace.of(root).manifest, ["image_path", "mask_path"]).to_pylist()
    assert {row["image_path"]: row["mask_path"] for row in written} == pairs


@pytest.mark.slow
def test_equal_numbers_on_demand(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for i in range(5):
        save(tissue(i), root / f"images/{i}.png")
        save(classes(i), root / f"masks/{i + 1}.png")
    assert run("manifest", str(root), "--force").returncode == 0
    masks = read_manifest(Workspace.of(root).manifest, ["mask_path"])["mask_path"].to_pylist()
    assert sorted(filter(None, masks)) == [f"masks/{i}.png" for i in range(1, 5)]
