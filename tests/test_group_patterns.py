"""Ways to read groups from names: which are offered, and that --group-by reads the same."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from histoprep.scanning.group_patterns import FOLDER, suggest_groupings

UUID = "0005f7aa-ab28-4f61-8f17-0c39969{:05}"
NAMES = {
    "barcodes": [
        f"images/TCGA-05-{4244 + i // 4}-01Z-00-DX1_{i}_{j}" for i in range(12) for j in "abc"
    ],
    "uuids": [f"{UUID.format(i)}/{j}" for i in range(5) for j in range(9)],
    "slides": [f"Slide{i}_x{j}_y{k}" for i in range(4) for j in range(4) for k in range(4)],
    "qupath": [f"CMU-{i} [d=1,x={j * 64},y=0,w=64,h=64]" for i in range(4) for j in range(8)],
    "coordinates": [f"ab{i}_{j}_{k}" for i in range(4) for j in range(4) for k in range(4)],
    "numbers": [f"b{i}_{j:03}" for i in range(5) for j in range(9)],
    "folders": [f"train/p{i}/{j}" for i in range(12) for j in range(9)],
    "first part": [f"{i}-{j}" for i in "abcd" for j in ("core", "edge", "fat", "node")],
}  # fmt: skip
# The least number of tiles that must be read as one group, by name.
FIRST = {
    "barcodes": 3,
    "uuids": 5,
    "slides": 4,
    "qupath": 4,
    "coordinates": 4,
    "numbers": 5,
    "folders": 12,
    "first part": 4,
}


def read(pattern: str, name: str) -> str | None:
    """Return the group as the scan reads it."""
    if pattern == FOLDER:
        return name.rpartition("/")[0] or None
    match = re.search(pattern, name)
    return match and (match[1] if match.re.groups else match[0])


@pytest.mark.parametrize("kind", NAMES)
def test_the_first_way_makes_the_groups_that_were_made(kind: str) -> None:
    ways = suggest_groupings(pa.array(NAMES[kind]))
    assert ways[0].num_groups == FIRST[kind] and len(ways) <= 3


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_offered_is_what_the_scan_reads(kind: str) -> None:
    for way in suggest_groupings(pa.array(NAMES[kind])):
        groups = [read(way.pattern, name) for name in NAMES[kind]]
        assert len(set(groups) - {None}) == way.num_groups
        assert sum(group is not None for group in groups) == way.num_tiles
        assert way.option.startswith("--group-by ")


@pytest.mark.parametrize(
    "names",
    [
        [f"t{i}" for i in range(30)],
        [f"images/{i}" for i in range(30)],
        [f"{'abcdefgh'[i % 8]}{i}" for i in range(30)],
        # A few folders are rather classes: whole classes would be train or test.
        [f"{name}/{i}" for name in ("benign", "invasive") for i in range(9)],
        [f"images/{name}/{i}" for name in "abcdefghi" for i in range(9)],
        # One group, or one a tile.
        [f"slide1_{i}" for i in range(9)],
        [f"slide{i}_a" for i in range(9)],
        [],
    ],
)
def test_names_without_groups_offer_none(names: list[str]) -> None:
    assert suggest_groupings(pa.array(names, pa.string())) == []


def test_a_way_that_leaves_tiles_out_is_not_offered() -> None:
    names = [f"s{i}_{j}" for i in range(4) for j in range(4)]
    assert suggest_groupings(pa.array(names))
    assert suggest_groupings(pa.array([*names, "a", "b"])) == []


def test_equal_groups_are_offered_once() -> None:
    names = [f"case{i}/tile_{j}" for i in range(5) for j in range(4)]
    assert [way.what for way in suggest_groupings(pa.array(names))] == [
        "patient, case or slide number"
    ]


def test_the_coarser_of_two_readings_by_separators_goes_first() -> None:
    names = [f"GT2012{i // 4:03}-{i % 4}-400-{j:03}" for i in range(24) for j in range(3)]
    assert [way.num_groups for way in suggest_groupings(pa.array(names))] == [6, 24]


def test_columns_and_rows_of_tiles_are_no_groups() -> None:
    grid = [f"tiles/W{slide}/{x}_{y}" for slide in (1, 2) for x in range(5) for y in range(5)]
    assert suggest_groupings(pa.array(grid)) == []
