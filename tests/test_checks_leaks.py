"""HP7: what stands in two splits or two pools, as folders or a manifest give them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from audit_cases import DataSet, Found, by_code, faults, findings_of_rows, stripes, tissue
from tile_rows import tile_row

from histoprep import imageio
from histoprep.checks.leaks import content_of
from histoprep.report.wording import steps_of

TRIGGERS = ("HP701", "HP702", "HP703", "HP704", "HP710")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    base = tmp_path_factory.mktemp("leaks")
    data, loose = DataSet(base / "data"), DataSet(base / "loose")
    for split, first in (("train", 0), ("test", 4)):
        for index in range(first, first + 4):
            data.pair(f"{split}/case{index}_a", pixels=tissue(index))
    same = tissue(60)
    data.pair("train/case10_x", pixels=same)
    data.pair("test/case10_x", pixels=same)
    # Another name, another format, the same pixels.
    data.pair("train/case11_y", pixels=tissue(61))
    data.image(
        "test/case12_z.png", imageio.decode_rgb((data.root / "train/case11_y.jpg").read_bytes())
    )
    data.mask("test/case12_z_mask.png")
    data.pair("train/case13_a", pixels=tissue(62))
    data.pair("test/case13_b", pixels=tissue(63))
    # One name in two folders for two images.
    data.pair("train/case14/0001", pixels=tissue(64))
    data.pair("test/case15/0001", pixels=tissue(65))
    data.pair("train/case16_zero", stripes(0), tissue(66))
    for source, copy in (
        ("train/case0_a.jpg", "copy.jpg"),
        ("train/case16_zero.jpg", "zero_copy.jpg"),
    ):
        loose.write(copy, (data.root / source).read_bytes())
    loose.image("case99_own.jpg", tissue(67))
    report = data.audit(scan={"group_by": r"case\d+", "unlabelled": (loose.root,)})
    return by_code(report.findings)


def test_one_tile_in_two_splits(found: Found) -> None:
    assert found["HP701"] == {"train/case10_x.jpg": "1 in test, 1 in train; also test/case10_x.jpg"}


def test_one_group_in_two_splits(found: Found) -> None:
    assert found["HP702"] == {"case10": "1 in test, 1 in train", "case13": "1 in test, 1 in train"}


def test_one_image_in_two_splits(found: Found) -> None:
    assert found["HP703"] == {
        "train/case10_x.jpg": "1 in test, 1 in train; also test/case10_x.jpg",
        "train/case11_y.jpg": "1 in test, 1 in train; also test/case12_z.png",
    }


def test_one_image_in_two_pools(found: Found) -> None:
    # The copy of a zero mask's tile stays within the unconditional pool.
    [(path, detail)] = found["HP704"].items()
    assert path.endswith("loose/copy.jpg")
    assert detail == "shows the same as train/case0_a.jpg"


def test_a_clean_split_leaks_nothing(tmp_path: Path) -> None:
    rows = [
        tile_row(f"{split}/{index}", {1: 100}, split=split, group=f"{split}{index % 3}")
        for split in ("train", "test")
        for index in range(9)
    ]
    assert not [key for key in by_code(findings_of_rows(tmp_path, rows)) if key.startswith("HP7")]


def test_tiles_in_no_split_cross_none(tmp_path: Path) -> None:
    rows = [
        tile_row("a", {1: 100}, group="g"),
        tile_row("train/b", {1: 100}, group="g", split="train"),
        tile_row("c", {1: 100}, group="g"),
    ]
    assert not [key for key in faults(findings_of_rows(tmp_path, rows)) if key.startswith("HP7")]


def test_content_joins_bytes_and_pixels_over_several_steps() -> None:
    images = pd.DataFrame(
        {"image_path": list("abcdef"), "image_digest": ["1", "1", "2", "3", "4", None]},
        dtype="string",
    )
    pairs = pd.DataFrame(
        {"image_a": ["b", "c"], "image_b": ["c", "d"], "equal_pixels": [True, True]}
    )
    content = content_of(images, pairs)
    assert content[:4].nunique() == 1
    assert content[4] == "4"
    assert pd.isna(content[5])
    apart = content_of(images, pairs.assign(equal_pixels=False))
    assert apart.tolist()[:5] == ["1", "1", "2", "3", "4"]


def test_groups_that_nobody_named_are_offered_as_commands(tmp_path: Path) -> None:
    names = [f"case{case}/tile_{tile}" for case in range(5) for tile in range(4)]
    [finding] = [
        finding
        for finding in findings_of_rows(tmp_path, [tile_row(name) for name in names])
        if finding.code == "HP710"
    ]
    assert by_code([finding])["HP710"] == {"images": "20 without a group"}
    words, command = steps_of(finding.suggestion)[0]
    assert words == "patient, case or slide number (5 groups of 20 tiles):"
    # What it prints is what it takes.
    pattern = shlex.split(command)[4]
    assert {re.search(pattern, name)[0] for name in names} == {f"case{case}" for case in range(5)}


def test_names_that_say_nothing_are_said_to(tmp_path: Path) -> None:
    rows = [tile_row(f"t{index}") for index in range(9)]
    [finding] = [f for f in findings_of_rows(tmp_path, rows) if f.code == "HP710"]
    assert "csv:COLUMN" in finding.suggestion and "baseline" in finding.suggestion


def test_folders_of_classes_are_no_groups(tmp_path: Path) -> None:
    rows = [
        tile_row(f"{name}/{index}") | {"label": name}
        for name in "abcdefghijklmn"
        for index in range(4)
    ]
    [finding] = [f for f in findings_of_rows(tmp_path, rows) if f.code == "HP710"]
    assert "--group-by folder" not in finding.suggestion


@pytest.mark.parametrize(
    "rows",
    [
        [tile_row("a")],
        [tile_row("a_1") | {"group": "a"}, tile_row("b_1")],
    ],
    ids=["one image", "a group"],
)
def test_where_groups_are_known_or_mean_nothing_all_is_quiet(
    rows: list[dict[str, object]], tmp_path: Path
) -> None:
    assert "HP710" not in by_code(findings_of_rows(tmp_path, rows))
