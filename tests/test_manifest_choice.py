"""Tiles that a user leaves out of a manifest: by finding, by list, or all but a sample."""

from __future__ import annotations

from pathlib import Path

import lossy_masks as made
import numpy as np
import pytest
from audit_cases import DataSet, stripes, tissue
from typer.testing import CliRunner, Result

from histoprep.cli.manifest import app
from histoprep.digests import file_digest
from histoprep.errors import UsageError
from histoprep.execution import Engine
from histoprep.findings import Selection
from histoprep.manifest.choice import ChoiceOptions, choose_tiles
from histoprep.repairing import RepairOptions, plan_repair, run_repair
from histoprep.schemas.manifest import open_manifest, read_manifest
from histoprep.schemas.repaired import open_rows
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Return 12 pairs of 6 cases, of which one is a copy and two masks hold nothing."""
    made = DataSet(tmp_path / "data")
    for index in range(12):
        labels = stripes(0) if index in (4, 7) else stripes(0, 1, 2)
        made.pair(f"case{index // 2}_{index}", labels, tissue(index))
    made.write("case9_copy.jpg", (made.root / "case1_2.jpg").read_bytes())
    made.write("case9_copy_mask.png", (made.root / "case1_2_mask.png").read_bytes())
    return made


def build(data: DataSet, *options: str | Path) -> Result:
    words = ["build", str(data.root), "--group-by", r"case\d+", *map(str, options)]
    return CliRunner().invoke(app, words)


def refused(data: DataSet, *options: str | Path) -> str:
    result = build(data, *options)
    assert isinstance(result.exception, UsageError), result.output
    return str(result.exception)


def tiles(data: DataSet) -> set[str]:
    return set(read_manifest(Workspace.of(data.root).manifest)["tile_id"].to_pylist())


EVERY = {f"case{index // 2}_{index}" for index in range(12)} | {"case9_copy"}


def test_findings_are_left_out_and_one_of_each_copy_stays(data: DataSet) -> None:
    data.audit(scan={"group_by": r"case\d+"})
    result = build(data, "--exclude", "HP406,HP601")
    assert result.exit_code == 0, result.output
    gone = EVERY - tiles(data)
    assert {"case2_4", "case3_7"} < gone and len(gone & {"case1_2", "case9_copy"}) == 1
    assert len(gone) == 3
    manifest = open_manifest(Workspace.of(data.root).manifest)
    left_out = {"findings": {"HP406": 2, "HP601": 1}}
    assert manifest.recipe["left_out"] == manifest.certificate["left_out"] == left_out
    reasons = open_excluded(data)
    assert set(reasons.values()) == {"finding"} and reasons.keys() == gone
    assert "finding" in result.output


def open_excluded(data: DataSet) -> dict[str, str]:
    import pyarrow.parquet as pq

    path = Workspace.of(data.root).folder / "manifest.excluded.parquet"
    rows = pq.read_table(path).to_pylist()
    return {row["tile_id"]: row["reason"] for row in rows}


@pytest.mark.parametrize(
    "content",
    [
        "case0_0\ncase1_3\n",
        "tile_id,why\ncase0_0,fold\ncase1_3,pen\n",
        "case0_0.jpg\ncase1_3_mask.png\n",
        "why;image\nx;C:\\me\\case0_0.jpg\nx;C:\\me\\case1_3.jpg\n",
    ],
)
def test_lists_drop_or_keep_tiles(content: str, data: DataSet, tmp_path: Path) -> None:
    names = tmp_path / "list.csv"
    names.write_text(content)
    assert build(data, "--drop-list", names).exit_code == 0
    assert tiles(data) == EVERY - {"case0_0", "case1_3"}
    recipe = open_manifest(Workspace.of(data.root).manifest).recipe
    assert recipe["left_out"] == {"drop_list": {"path": str(names), "tiles": 2}}
    assert build(data, "--keep-list", names, "--split", "0.5/0.5").exit_code == 0
    assert tiles(data) == {"case0_0", "case1_3"}
    assert set(open_excluded(data).values()) == {"keep-list"}


def test_a_sample_is_the_same_every_time_and_of_what_is_left(data: DataSet, tmp_path: Path) -> None:
    dropped = tmp_path / "dropped.txt"
    dropped.write_text("case0_0\n")
    taken = []
    for _ in range(2):
        assert build(data, "--sample", "6", "--drop-list", dropped).exit_code == 0
        taken.append(tiles(data))
    assert taken[0] == taken[1] and len(taken[0]) == 6 and "case0_0" not in taken[0]
    recipe = open_manifest(Workspace.of(data.root).manifest).recipe
    assert recipe["left_out"]["sample"] == {"size": 6, "tiles": 6}


def test_without_options_nothing_is_recorded(data: DataSet) -> None:
    assert build(data).exit_code == 0
    manifest = open_manifest(Workspace.of(data.root).manifest)
    assert "left_out" not in manifest.recipe and "left_out" not in manifest.certificate
    assert tiles(data) == EVERY


def test_what_cannot_be_left_out_is_refused(data: DataSet, tmp_path: Path) -> None:
    assert "there was none" in refused(data, "--exclude", "HP406")
    data.audit(scan={"group_by": r"case\d+"})
    assert "no rule is called 'HP499'" in refused(data, "--exclude", "HP499")
    data.audit(scan={"group_by": r"case\d+"}, selection=Selection(ignore=("HP406",)))
    assert "did not look for HP406" in refused(data, "--exclude", "HP406")
    assert "findings of HP802 name none" in refused(data, "--exclude", "HP802")
    names = tmp_path / "list.csv"
    names.write_text("nothing\nnobody\n")
    text = refused(data, "--drop-list", names)
    assert "names no tile" in text and "2 names, such as nothing" in text
    names.write_text("\n".join(sorted(EVERY)))
    # Both lists name tiles that there are: what is left is none.
    text = refused(data, "--drop-list", names, "--keep-list", names)
    assert "no tile can be used" in text and f"{len(EVERY)} drop-list" in text
    assert "leave out less" in text
    data.pair("more/case0_0", stripes(0, 1), tissue(77))
    names.write_text("/x/case0_0.jpg\n")
    assert "fits several tiles" in refused(data, "--drop-list", names)


def test_findings_of_other_files_are_refused(data: DataSet) -> None:
    data.audit(scan={"group_by": r"case\d+"})
    data.pair("case7_99", stripes(0, 1), tissue(99))
    text = refused(data, "--exclude", "HP406")
    assert "files or groups changed since the last audit" in text and "histoprep audit" in text


def test_findings_of_other_groups_are_refused_with_the_audit_that_has_these(data: DataSet) -> None:
    data.audit(scan={"group_by": r"case\d+"})
    text = refused(data, "--exclude", "HP406", "--group-by", "case(.)")
    assert "files or groups changed since the last audit" in text
    assert "--group-by 'case(.)'" in text


@pytest.mark.parametrize("option", ["--drop-list", "--keep-list", "--split-file"])
def test_names_that_fit_no_tile_are_a_warning_in_lists_and_split_files(
    option: str, data: DataSet, tmp_path: Path
) -> None:
    names = tmp_path / "names.csv"
    known = {"case0_0", "case0_1"} if option == "--drop-list" else EVERY
    rows = [f"{name},train" for name in sorted(known)] + ["nobody,train", "nothing,train"]
    names.write_text("tile_id,split\n" + "\n".join(rows) + "\n")
    result = build(data, option, names)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert f"2 of {len(rows)} names in the " in text
    assert "fit no tile and change nothing, such as nobody" in text
    # Names of tiles that are left out are names of tiles.
    names.write_text("tile_id,split\n" + "\n".join(rows[:-2]) + "\n")
    data.write("case0_0.jpg", b"")
    result = build(data, option, names)
    assert result.exit_code in (0, 3) and "fit no tile" not in result.output


def test_names_of_slides_that_have_no_tile_are_a_warning(data: DataSet, tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    cases = [f"case{number}" for number in (0, 1, 2, 3, 4, 5, 9)]
    table.write_text("case_id,split\n" + "".join(f"{case},train\n" for case in [*cases, "case77"]))
    text = " ".join(build(data, "--split-file", table).output.split())
    assert "1 of 8 names in the split file slides.csv fit no tile" in text and "case77" in text


@pytest.mark.slow
def test_findings_of_repaired_masks_leave_their_tiles_out(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    for index in range(32):
        damaged = made.jpeg(made.regions(index), 90)
        data.image(f"s{index % 4}_{index}.png", np.full((*damaged.shape, 3), 200, np.uint8))
        data.mask(f"s{index % 4}_{index}_mask.png", damaged)
    options = {"scan": {"group_by": r"s\d"}, "tile_options": TileOptions(min_area_px=4000)}
    data.audit(**options)
    workspace = Workspace.of(data.root)
    plan = plan_repair(workspace, RepairOptions(workspace.folder / "repaired"))
    assert run_repair(plan, Engine(1)).num_repaired > 20
    report = data.audit(**options)
    named = {
        path
        for finding in report.findings
        if (finding.code, finding.subcode) == ("HP408", "repaired")
        for path in finding.paths
    }
    assert len(named) > 20
    left_out = ChoiceOptions(("HP408",))
    rows, _ = open_rows(workspace.tiles)
    choice = choose_tiles(workspace, rows, left_out, file_digest(workspace.tiles))
    assert choice.by_code["HP408"] >= len(named)
