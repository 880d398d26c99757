"""The table of image-level labels against mask labels, against a count in plain Python."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from audit_cases import DataSet, stripes
from hypothesis import given
from hypothesis import strategies as st

from histoprep.cli import main
from histoprep.errors import ExitCode
from histoprep.tiles.image_labels import NO_LABEL, CrossTable

TILES = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "b", "c"]),
        st.one_of(
            st.none(), st.dictionaries(st.integers(0, 5), st.integers(1, 9), min_size=1, max_size=5)
        ),
    ),
    max_size=12,
)


def table(tiles: list) -> pa.Table:
    return pa.table(
        {
            "label": pa.array([name for name, _ in tiles], pa.string()),
            "label_ids": pa.array(
                [None if held is None else sorted(held) for _, held in tiles],
                pa.list_(pa.uint32()),
            ),
            "label_pixels": pa.array(
                [
                    None if held is None else [held[key] for key in sorted(held)]
                    for _, held in tiles
                ],
                pa.list_(pa.int64()),
            ),
        }
    )


@given(TILES, st.integers(0, 12), st.sampled_from([None, 5]))
def test_each_tile_counts_for_the_label_of_most_pixels(
    tiles: list, cut: int, ignored: int | None
) -> None:
    expected: dict[str, Counter[int]] = {}
    for name, held in tiles:
        if name is None or held is None:
            continue
        kept = {label: number for label, number in held.items() if label not in (0, ignored)}
        label = min(kept, key=lambda key: (-kept[key], key)) if kept else NO_LABEL
        expected.setdefault(name, Counter())[label] += 1
    found = CrossTable()
    for piece in (tiles[:cut], tiles[cut:]):
        chunk = table(piece)
        ids = chunk["label_ids"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        found.add(chunk, chunk["label"], ids == -1 if ignored is None else ids == ignored)
    assert found.tiles == expected


def test_many_labels_are_no_table() -> None:
    names = CrossTable({f"case {index}": Counter({1: 1}) for index in range(51)})
    assert not names.is_shown and not CrossTable().is_shown
    assert CrossTable({"a": Counter({1: 1}), "b": Counter({NO_LABEL: 2})}).is_shown
    assert not CrossTable({"a": Counter(range(31)), "b": Counter({1: 1})}).is_shown


def test_folders_that_go_with_the_masks_are_image_labels(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    for index in range(6):
        data.pair(f"a/high_grade/h{index}", stripes(0, 1))
        data.pair(f"a/low_grade/l{index}", stripes(0, 2))
    label_map = tmp_path / "map.yml"
    label_map.write_text(
        "sources: {0: nothing, 1: low grade, 2: high grade}\n"
        "classes: {0: Nothing, 1: Low grade, 2: High grade}\n"
        "map: {nothing: Nothing, low grade: Low grade, high grade: High grade}\n"
    )
    for options in ({}, {"scan": {"label_by": "folder"}}):
        report = data.audit(map_path=label_map, **options)
        [found] = [finding for finding in report.findings if finding.code == "HP510"]
        assert found.count == 2 and "which is low grade in map" in found.details[0]
        assert report.cross_table is not None
    # Folders that say nothing of the masks are no image-level labels.
    other = DataSet(tmp_path / "other")
    for index in range(12):
        other.pair(f"slide{index % 2}/t{index}", stripes(0, 1 + index // 2 % 2))
    assert other.audit(map_path=label_map).cross_table is None


def test_stats_print_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = DataSet(tmp_path / "set")
    for index in range(3):
        data.pair(f"lesion/l{index}", stripes(0, 1))
        data.pair(f"normal/n{index}", stripes(0, 2) if index else np.zeros((96, 96), np.uint8))
    run = ["--workers", "1"]
    for arguments in (["audit", "--label-by", "folder", "--exit-zero"], ["stats"]):
        with pytest.raises(SystemExit) as done:
            main([arguments[0], str(data.root), *arguments[1:], *run])
        assert int(done.value.code or 0) == ExitCode.OK
    printed = capsys.readouterr().out.splitlines()
    start = next(index for index, line in enumerate(printed) if "Tiles of each image label" in line)
    assert [line.split() for line in printed[start + 2 : start + 4]] == [
        ["lesion", "3", "0", "0"],
        ["normal", "0", "2", "1"],
    ]
    stats = json.loads((tmp_path / "set.histoprep" / "stats.json").read_text())
    assert stats["image_labels"] == {"lesion": {"1": 3}, "normal": {"2": 2, "none": 1}}
