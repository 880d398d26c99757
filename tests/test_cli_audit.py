"""histoprep audit, rules and explain as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
from audit_cases import DataSet, stripes, write_map

import histoprep
from histoprep.catalogue import all_rules
from histoprep.cli import run
from histoprep.errors import UsageError
from histoprep.report import ReportFormat
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.options import TableOptions, earlier_options

RULES = all_rules()


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    made = DataSet(tmp_path / "data")
    made.pairs(3)
    made.mask("lost_mask.png")
    made.pair("zero", stripes(0))
    return made


def audit(data: DataSet, *options: str) -> int:
    return run(["audit", str(data.root), "--workers", "1", *options])


def test_the_last_line_and_the_exit_code(data: DataSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(data) == 1
    output = capsys.readouterr()
    assert (
        output.out.splitlines()[-1]
        == "4 images, 5 masks: 4 paired, 1 orphan, 1 zero, 0 unreadable | 1 error, 1 warning |"
        " report.html"
    )
    assert "error   HP101 orphan-mask: 1 of 5 masks (20.0 %)" in output.out
    assert "data.histoprep" in output.err


def test_a_report_may_lie_in_the_data_set_but_not_under_the_name_of_a_image(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--output", "--write-baseline"):
        assert audit(data, option, str(data.root / "x.PNG")) == 2
        output = capsys.readouterr().err
        assert "must not mix with the data set" in output and option in output
        assert not (data.root / "x.PNG").exists()
    assert audit(data, "--format", "sarif", "--output", str(data.root / "audit.sarif")) == 1
    assert json.loads((data.root / "audit.sarif").read_text())["runs"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("--fail-on never", 0),
        ("--fail-on info", 1),
        ("--exit-zero", 0),
        ("--ignore HP101", 0),
        ("--ignore orphan-mask", 0),
        ("--ignore HP2,HP101", 0),
        ("--select HP4 --fail-on info", 1),
        ("--select HP4", 0),
        ("--select HP703 --fail-on info", 0),
        ("--severity HP101=warning", 0),
        ("--severity HP101=warning,HP406=error", 1),
        ("--severity zero-mask=error --ignore HP101", 1),
        ("--tile-size 96x96 --ignore HP101", 0),
        ("--tile-size 96 --ignore HP101", 0),
        ("--tile-size 64x64 --ignore HP101", 1),
    ],
)
def test_grading(data: DataSet, options: str, code: int) -> None:
    assert audit(data, *options.split()) == code


WRONG = [
    "--format yaml", "--engine spark", "--engine dask", "--scheduler tcp://x:1", "--fail-on bad",
    "--select HP999", "--ignore nonsense",
    "--severity HP303", "--severity HP303=never", "--severity =error", "--tile-size big",
    "--tile-size 0x9", "--part 3/2", "--part x",
    "--map no-such-map", "--expect absent.yml", "--baseline absent.json", "--layout spiral",
    "--min-area 0", "--sample 0", "--group-by (",
    "--unlabelled absent", "--workspace data/inside", "--csv absent.csv",
]  # fmt: skip


@pytest.mark.parametrize("options", WRONG)
def test_options_that_make_no_sense_are_refused_before_any_work(
    data: DataSet, options: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.root.parent)
    assert audit(data, *options.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err
    assert not (data.root.parent / "data.histoprep" / "tiles.parquet").exists()


@pytest.mark.slow
def test_every_format(data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {}
    for name in ReportFormat:
        assert audit(data, "--format", name) == 1
        texts[name] = capsys.readouterr().out
        path = tmp_path / "out" / f"audit.{name}"
        assert audit(data, "--format", name, "--output", str(path)) == 1
        assert capsys.readouterr().out == ""
        assert "HP101" in path.read_text()
    assert json.loads(texts["json"])["counts"]["errors"] == 1
    assert json.loads(texts["sarif"])["runs"][0]["results"]
    assert ElementTree.fromstring(texts["junit"]).tag in ("testsuite", "testsuites")
    assert texts["github"].startswith("::error")
    assert "| " in texts["markdown"]
    assert texts["html"].lower().startswith("<!doctype html>")


@pytest.mark.slow
def test_inside_the_folder_without_arguments_and_a_second_time(data: DataSet) -> None:
    command = [sys.executable, "-c", "from histoprep.cli import main; main()", "audit"]
    first, second = (
        subprocess.run(
            command, cwd=data.root, capture_output=True, text=True, timeout=120, check=False
        )
        for _ in range(2)
    )
    assert (first.returncode, second.returncode) == (1, 1)
    assert first.stdout == second.stdout
    assert (data.root.parent / "data.histoprep" / "report.html").is_file()


def test_todays_findings_can_be_accepted(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "accepted.json")
    assert audit(data, "--write-baseline", path) == 0
    # One orphan, one zero mask, two rare labels, and no groups.
    assert "accepted 5 entries" in capsys.readouterr().err
    assert audit(data, "--baseline", path) == 0
    assert "0 errors, 0 warnings (+2 known)" in capsys.readouterr().out
    data.mask("lost2_mask.png")
    assert audit(data, "--baseline", path) == 1
    assert "HP101 orphan-mask: 1 of 6 masks" in capsys.readouterr().out
    # Accepting again takes the old ones along.
    assert audit(data, "--baseline", path, "--write-baseline", path) == 0
    assert audit(data, "--baseline", path) == 0


def test_a_sample_says_so(data: DataSet, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for _ in range(2):
        audit(data, "--sample", "2")
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "Only 40.0 % of the tiles were looked at (--sample)." in texts[0]
    assert "| 40.0 % sampled |" in texts[0].splitlines()[-1]
    # The table of the whole is not touched.
    assert (data.root.parent / "data.histoprep" / "sample" / "tiles.parquet").is_file()
    assert not (data.root.parent / "data.histoprep" / "tiles.parquet").exists()


def scanned(data: DataSet) -> dict[str, object]:
    return asdict(earlier_options(Workspace.of(data.root)).scan)


def test_a_later_audit_reads_the_data_set_as_the_first_was_told_to(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = DataSet(tmp_path / "more")
    more.image("fine90.jpg")
    audit(
        data,
        "--group-by",
        "[a-z]+",
        "--label-by",
        "^.",
        "--unlabelled",
        str(more.root),
        "--mask-suffix",
        "_mask",
    )
    first, output = scanned(data), capsys.readouterr()
    assert "as before" not in output.err
    assert audit(data) == 1
    again = capsys.readouterr()
    assert again.out == output.out, "nothing changed"
    assert scanned(data) == first
    assert (
        f"as before: group by [a-z]+, label by ^., unlabelled {more.root} (--forget resets it)"
        in again.err
    )
    audit(data, "--group-by", r"\d")
    assert scanned(data) == first | {"group_by": r"\d"}
    assert "group by" not in capsys.readouterr().err


def test_what_an_earlier_audit_was_told_can_be_forgotten(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    audit(data)
    plain = scanned(data)
    audit(data, "--group-by", "[a-z]+", "--layout", "sibling", "--mask-suffix", "_m")
    audit(data, "--forget", "--label-by", "^.")
    assert scanned(data) == plain | {"label_by": "^."}
    assert "as before" not in capsys.readouterr().err


def test_a_layout_is_found_anew_and_not_called_remembered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = DataSet(tmp_path / "data")
    for split in ("train", "test"):
        made.image(f"{split}/benign/{split}.jpg")
    for _ in range(2):
        audit(made)
        assert scanned(made)["layout"] == "class-folders"
    assert "as before" not in capsys.readouterr().err


def test_parts_of_an_array_job_are_grouped_as_before(data: DataSet) -> None:
    audit(data, "--group-by", "[a-z]+")
    first = scanned(data)
    data.pair("another")
    for part in ("1/2", "2/2"):
        assert audit(data, "--part", part) == 0
    assert run(["collect", str(data.root)]) == 0
    assert scanned(data) == first


def test_quick_and_sample_take_the_options_of_the_whole(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    audit(data, "--group-by", "[a-z]+")
    for how in (["--quick"], ["--sample", "2"]):
        audit(data, *how)
        assert "as before: group by [a-z]+" in capsys.readouterr().err


def test_a_data_set_without_images_and_masks_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = DataSet(tmp_path / "data")
    made.write("readme.txt", b"not mounted")
    for command in (
        ["audit"],
        ["audit", "--quick"],
        ["audit", "--part", "1/1"],
        ["stats"],
        ["manifest"],
        ["remap", "--map", "label_map_5"],
    ):
        assert run([*command[:1], str(made.root), *command[1:], "--workers", "1"]) == 2, command
        output = capsys.readouterr()
        assert (
            output.out == ""
            and "no image or mask found" in output.err
            and str(made.root) in output.err
            and "jpg, png, tif" in output.err
        )
    assert not list((tmp_path / "data.histoprep").rglob("*.parquet"))
    made.mask("lost_mask.png")
    assert audit(made) == 1, "an orphan is something"
    assert "0 images, 1 mask: 0 paired, 1 orphan" in capsys.readouterr().out


def test_results_outlive_a_data_set_that_is_not_mounted(data: DataSet) -> None:
    audit(data)
    tiles = Workspace.of(data.root).tiles
    before = tiles.read_bytes()
    data.root.rename(data.root.with_name("elsewhere"))
    data.root.mkdir()
    assert audit(data) == 2
    assert tiles.read_bytes() == before


def test_the_workspace_of_another_data_set_is_left_alone(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit(data, "--group-by", "[a-z]+")
    other = DataSet(tmp_path / "other")
    other.pairs(2)
    where = Workspace.of(data.root)
    before = where.tiles.read_bytes()
    used = ["--workspace", str(where.folder), "--workers", "1"]
    for command in (
        ["audit"],
        ["audit", "--forget", "--quick"],
        ["audit", "--part", "1/1"],
        ["stats"],
        ["manifest"],
    ):
        capsys.readouterr()
        assert run([*command[:1], str(other.root), *command[1:], *used]) == 2, command
        output = capsys.readouterr().err
        assert (
            "this workspace belongs to another data set" in output
            and str(data.root) in output
            and str(other.root) in output
        )
    assert where.tiles.read_bytes() == before
    with pytest.raises(UsageError, match="belongs to another data set"):
        histoprep.audit(
            other.root, workspace=where.folder, options=histoprep.AuditOptions(table=TableOptions())
        )


@pytest.mark.parametrize("link_left", [False, True])
def test_a_data_set_that_moved_takes_its_workspace_along(link_left: bool, data: DataSet) -> None:
    audit(data, "--group-by", "[a-z]+")
    first = scanned(data)
    moved = DataSet(data.root.with_name("moved"))
    Workspace.of(data.root).folder.rename(data.root.with_name("moved.histoprep"))
    data.root.rename(moved.root)
    if link_left:
        data.root.symlink_to(moved.root)
    assert audit(moved) == 1
    assert scanned(moved) == first


def test_quick_keeps_its_results_apart(data: DataSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(data, "--quick") == 1
    assert "HP406" not in capsys.readouterr().out
    assert (data.root.parent / "data.histoprep" / "quick" / "tiles.parquet").is_file()


def test_several_maps_are_not_chosen_between_without_a_word(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        write_map(data.root).rename(data.root / f"label_map_{name}.yml")
    audit(data)
    assert "choose with --map (label_map_a.yml, label_map_b.yml)" in capsys.readouterr().err
    (data.root / "label_map_b.yml").unlink()
    audit(data)
    output = capsys.readouterr()
    assert "choose" not in output.err
    assert "HP507" in output.out


def test_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rules"]) == 0
    output = capsys.readouterr().out
    assert all(rule.code in output and rule.name in output for rule in RULES.values())
    assert run(["rules", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["code"] for entry in listed] == list(RULES)
    assert set(listed[0]) == {
        "code",
        "name",
        "severity",
        "scope",
        "definition",
        "cause",
        "suggestion",
        "fix_safety",
    }


@pytest.mark.parametrize("key", ["HP401", "hp401", "size-mismatch", "Size-Mismatch"])
def test_a_rule_is_explained(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", key]) == 0
    output = capsys.readouterr().out
    rule = RULES["HP401"]
    assert all(
        text in output
        for text in (rule.code, rule.name, rule.definition, rule.cause, rule.suggestion)
    )


def test_an_unknown_rule_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "size-mismatches"]) == 2
    assert "perhaps you meant 'size-mismatch'" in capsys.readouterr().err
