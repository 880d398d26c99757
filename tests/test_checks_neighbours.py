"""HP705 and HP706: tiles that touch or overlap across splits and groups, and what stays silent."""

from __future__ import annotations

import re
from pathlib import Path

import coloured_tissue as made
import numpy as np
import pytest
from audit_cases import DataSet, by_code

import histoprep
from histoprep.auditing import AuditOptions
from histoprep.findings import Finding, Mark
from histoprep.report import Report, render
from histoprep.scanning import ScanOptions
from histoprep.tiles import TileOptions
from histoprep.tiles.options import TableOptions

TRIGGERS = ("HP705", "HP706")
TILE_PX = 128


def fill(root: Path, stride_px: int = TILE_PX, names: str = "{split}/case{side}_{number}") -> None:
    """Write fields that were cut into tiles, the left half of each in train."""
    data = DataSet(root)
    for seed in range(3):
        image, labels = made.tile(seed, 4 * TILE_PX)
        number = 0
        for row in range(0, 2 * TILE_PX, stride_px):
            for column in range(0, 3 * TILE_PX + 1, stride_px):
                part = np.s_[row : row + TILE_PX, column : column + TILE_PX]
                is_left = column < 2 * TILE_PX
                name = names.format(
                    split="train" if is_left else "test",
                    side=2 * seed + (not is_left),
                    seed=seed,
                    number=f"{seed}{(number * 37) % 101:03}",
                )
                data.pair(name, labels[part], image[part])
                number += 1


def audited(root: Path, group_by: str | None = None, *, neighbours: bool | None = None) -> Report:
    table = TableOptions(
        scan=ScanOptions(group_by=group_by), tiles=TileOptions(neighbours=neighbours)
    )
    return histoprep.audit(root, options=AuditOptions(table=table), workers=1)


def about_neighbours(report: Report) -> dict[str, Finding]:
    return {
        f"{finding.code} {finding.subcode}": finding
        for finding in report.findings
        if finding.code in TRIGGERS
    }


@pytest.fixture(scope="module")
def touching(tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("touching") / "data"
    fill(root)
    return audited(root, r"case\d+")


def test_touching_tiles_in_two_splits_are_an_error(touching: Report) -> None:
    found = about_neighbours(touching)["HP705 touching"]
    # Two rows of each of three fields are cut in the middle.
    assert found.severity.value == "error"
    assert found.count == 6
    assert all(path.startswith("test/") for path in found.paths)
    assert re.fullmatch(
        r"lies to the right of train/case\d_\d+\.jpg \(borders correlate by 0\.\d\d, the next best"
        r" by 0\.\d\d\): train and test",
        found.details[0],
    )


def test_touching_tiles_in_two_groups_are_a_warning(touching: Report) -> None:
    found = about_neighbours(touching)["HP706 touching"]
    assert found.severity.value == "warning"
    assert found.count == 6
    assert found.details[0].endswith("case0 and case1")


def test_the_advice_keeps_the_groups_that_are_known(touching: Report, tmp_path: Path) -> None:
    for finding in about_neighbours(touching).values():
        assert finding.suggestion.endswith(r"--group-by 'pixels:case\d+'")
    fill(tmp_path / "data")
    found = about_neighbours(audited(tmp_path / "data"))["HP705 touching"]
    assert found.suggestion.endswith("--group-by pixels")


def test_the_page_shows_the_seam(touching: Report) -> None:
    [first, *_] = about_neighbours(touching)["HP705 touching"].paths
    thumbnail = touching.thumbnails[first, Mark.SEAM]
    assert thumbnail.seam_data_uri
    assert thumbnail.crop_data_uri
    page = render(touching, "html")
    assert thumbnail.seam_data_uri in page
    assert "as they lie" in page


def test_overlapping_tiles_in_two_splits_are_an_error(tmp_path: Path) -> None:
    fill(tmp_path / "data", stride_px=96)
    found = about_neighbours(audited(tmp_path / "data"))["HP705 overlapping"]
    assert found.severity.value == "error"
    assert re.match(r"shows \d+% of \S+ \(pixels correlate by [01]\.\d\d\)", found.details[0])


def test_tiles_of_one_group_in_one_split_are_silent(tmp_path: Path) -> None:
    fill(tmp_path / "data", names="case{seed}/{number}")
    report = audited(tmp_path / "data", r"case\d+")
    assert about_neighbours(report) == {}
    assert report.options["tiles that touch or overlap"] == "looked for"


def test_nothing_is_looked_for_where_that_was_declined(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    declined = audited(tmp_path / "data", neighbours=False)
    assert about_neighbours(declined) == {}
    assert declined.options["tiles that touch or overlap"] == "not looked for (--neighbours)"
    # What was declined once stays so until somebody says otherwise.
    assert about_neighbours(audited(tmp_path / "data")) == {}
    assert "HP705 touching" in by_code(audited(tmp_path / "data", neighbours=True).findings)
