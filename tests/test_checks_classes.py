"""HP8: what the classes of a data set look like; tables of words, since files would be many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from audit_cases import by_code, findings_of_rows, write_map
from tile_rows import tile_row

from histoprep.choices import Severity

TRIGGERS = ("HP801", "HP802", "HP804", "HP805", "HP806")


def tiles(
    number: int, pixels: dict[int, int], prefix: str = "t", **more: Any
) -> list[dict[str, Any]]:
    return [tile_row(f"{prefix}{index:03}", pixels, **more) for index in range(number)]


def in_groups(
    number: int, pixels: dict[int, int], prefix: str = "t", **more: Any
) -> list[dict[str, Any]]:
    return [
        row | {"group": f"{prefix}-g{index % 4}"}
        for index, row in enumerate(tiles(number, pixels, prefix, **more))
    ]


def of(
    code: str, folder: Path, rows: list[dict[str, Any]], label_map: Path | None = None
) -> dict[str, str]:
    return by_code(findings_of_rows(folder, rows, label_map=label_map)).get(code, {})


def test_plenty_of_every_class_is_fine(tmp_path: Path) -> None:
    rows = in_groups(60, {1: 80, 3: 80}, "a", split="train") + in_groups(
        60, {1: 80, 2: 40, 3: 90}, "b", split="test"
    )
    assert not [
        key
        for key in by_code(findings_of_rows(tmp_path, rows, label_map=write_map(tmp_path)))
        if key.startswith("HP8") and key != "HP806"
    ]


def test_a_class_that_a_split_lacks(tmp_path: Path) -> None:
    rows = in_groups(60, {1: 80, 3: 80}, "a", split="train") + in_groups(
        60, {1: 80}, "b", split="test"
    )
    assert of("HP801", tmp_path, rows, write_map(tmp_path)) == {
        "class 2 Tumour in test": "0 core-present tiles here, 60 in all"
    }
    # Nine pixels are no core.
    rows += tiles(3, {3: 9}, "c", split="test")
    assert of("HP801", tmp_path, rows, write_map(tmp_path)).keys() == {"class 2 Tumour in test"}
    assert (
        of("HP801", tmp_path, [row | {"split": "train"} for row in rows], write_map(tmp_path)) == {}
    )
    # A split of unlabelled tiles alone lacks nothing.
    assert (
        of(
            "HP801",
            tmp_path,
            [*tiles(9, {1: 256}, "a", split="train"), *tiles(9, {}, "b", split="val")],
        )
        == {}
    )


def test_class_0_may_be_missing(tmp_path: Path) -> None:
    rows = tiles(60, {1: 80}, "a", split="train") + tiles(60, {1: 256}, "b", split="test")
    assert of("HP801", tmp_path, rows) == {}


def test_rare_classes(tmp_path: Path) -> None:
    path = write_map(tmp_path)
    rows = in_groups(49, {1: 80}) + in_groups(50, {3: 80}, "u")
    assert of("HP802", tmp_path, rows, path) == {
        "class 1 Tissue": "49 core-present tiles in 4 groups"
    }
    few = [
        *tiles(60, {1: 80}, "a", group="g1"),
        *tiles(60, {1: 80}, "b", group="g2"),
        *in_groups(60, {3: 80}, "c"),
    ]
    assert of("HP802", tmp_path, few, path) == {
        "class 1 Tissue": "120 core-present tiles in 2 groups"
    }
    assert of("HP802", tmp_path, tiles(60, {1: 80, 3: 80}), path) == {}


def test_rare_labels_are_no_fault_while_no_map_joins_them(tmp_path: Path) -> None:
    rows = tiles(3, {1: 80})
    [plain] = [finding for finding in findings_of_rows(tmp_path, rows) if finding.code == "HP802"]
    [mapped] = [
        item
        for item in findings_of_rows(tmp_path, rows, label_map=write_map(tmp_path))
        if item.code == "HP802"
    ]
    assert (plain.severity, mapped.severity) == (Severity.INFO, Severity.WARNING)
    assert (plain.paths, plain.unit) == (("label 1",), "labels")


@pytest.mark.parametrize(
    ("thin", "thick", "is_spurious"),
    [(31, 10, True), (20, 10, False), (5, 0, True), (4, 0, False), (0, 1, False)],
)
def test_spurious_classes(tmp_path: Path, thin: int, thick: int, is_spurious: bool) -> None:
    rows = tiles(thin, {2: 9}) + tiles(thick, {2: 80}, "u")
    found = by_code(findings_of_rows(tmp_path, rows))
    assert ("HP804" in found) is is_spurious
    # What is an artefact is not rare, but wrong.
    assert ("label 2" in found.get("HP802", {})) is not is_spurious
    if is_spurious:
        assert found["HP804"] == {
            "label 2": f"present in {thin + thick} tiles, core-present in {thick}"
        }


def test_a_class_of_one_group(tmp_path: Path) -> None:
    rows = [*tiles(9, {1: 90}, "a", group="g1"), *tiles(1, {1: 90}, "b", group="g2")]
    rows += [*tiles(5, {3: 50}, "c", group="g1"), *tiles(5, {3: 50}, "d", group="g2")]
    assert of("HP805", tmp_path, rows) == {"label 1": "90% of its pixels in g1"}
    assert of("HP805", tmp_path, [row | {"group": "g1"} for row in rows]) == {}
    assert of("HP805", tmp_path, [row | {"group": None} for row in rows]) == {}


def test_shares_that_shift(tmp_path: Path) -> None:
    rows = tiles(30, {1: 64, 2: 128}, "a", split="train") + tiles(
        30, {1: 128, 2: 70}, "b", split="test"
    )
    assert of("HP806", tmp_path, rows) == {
        "label 1": "test 50.0 %, train 25.0 %",
        "label 2": "test 27.3 %, train 50.0 %",
    }
    near = tiles(30, {1: 64}, "a", split="train") + tiles(30, {1: 70}, "b", split="test")
    assert of("HP806", tmp_path, near) == {}
    assert of("HP806", tmp_path, rows[:35]) == {}
