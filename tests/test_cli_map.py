"""`histoprep map`: what it prints, writes and exits with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from histoprep.cli.map import app
from histoprep.errors import ExitCode, HistoprepError, LabelMapError, UsageError
from histoprep.labels import LabelMap, compose, load_label_map, packed_folder

BROKEN = "sources:\n  0: a\n  1: b\nclasses:\n  0: A\n  2: C\nmap:\n  a: A\n"
JOIN = """\
sources:
  {0: Unknown, 1: Background/Artifact, 2: Inflammatory/Reactive, 3: Carcinoma, 4: Normal Tissue}
classes: {0: Other, 1: Carcinoma}
map:
  Unknown: Other
  Background/Artifact: Other
  Inflammatory/Reactive: Other
  Carcinoma: Carcinoma
  Normal Tissue: Other
"""

outer = typer.Typer()
outer.add_typer(app)


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(outer, ["map", *map(str, arguments)])


def _error(*arguments: str | Path) -> HistoprepError:
    error = _run(*arguments).exception
    assert isinstance(error, HistoprepError)
    return error


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["label_map_5.yml", "label_map_10", "source_labels.yml"])
def test_check_accepts_the_packed_maps(name: str) -> None:
    result = _run("check", name)
    assert result.exit_code == ExitCode.OK
    assert "55 source labels" in result.stdout


def test_check_lists_every_problem(tmp_path: Path) -> None:
    (tmp_path / "m.yml").write_text(BROKEN)
    result = _run("check", "m.yml")
    assert result.exit_code == ExitCode.FINDINGS
    assert result.stdout.splitlines() == [
        "m.yml:3: error: HP503 map-not-total: source label 1 (b) has no class",
        "m.yml: warning: HP506 map-gap: class ids are not 0 to 1: 1 missing",
    ]


def test_check_fails_on_warnings_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "m.yml").write_text(BROKEN + "  b: C\n")
    assert _run("check", "m.yml").exit_code == ExitCode.OK
    assert "HP506" in _run("check", "m.yml").stdout
    assert _run("check", "m.yml", "--fail-on", "warning").exit_code == ExitCode.FINDINGS


def test_what_is_no_map_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "m.yml").write_text("- a\n")
    for arguments in (
        ("check", "m.yml"),
        ("show", "m.yml"),
        ("check", "nowhere.yml"),
        ("diff", "label_map_5", "m.yml"),
    ):
        error = _error(*arguments)
        assert isinstance(error, LabelMapError)
        assert error.exit_code == ExitCode.USAGE


def test_show_prints_text_or_json() -> None:
    text = _run("show", "label_map_5.yml").stdout
    assert "Normal Tissue" in text
    assert "tissue_unknown" in text
    printed = _run("show", "label_map_5.yml", "--format", "json").stdout
    assert LabelMap.from_json(printed) == load_label_map(packed_folder() / "label_map_5.yml")
    assert json.loads(printed)["name"] == "label_map_5"


def test_diff_is_silent_about_equal_maps_and_exits_1_otherwise() -> None:
    same = _run("diff", "label_map_5.yml", "label_map_5")
    assert (same.exit_code, same.stdout) == (ExitCode.OK, "no difference\n")
    other = _run("diff", "label_map_5.yml", "label_map_10.yml")
    assert other.exit_code == ExitCode.FINDINGS
    assert "9 Structural" in other.stdout


def test_compose_writes_what_the_library_composes(tmp_path: Path) -> None:
    (tmp_path / "join.yml").write_text(JOIN)
    expected = compose(
        load_label_map(packed_folder() / "label_map_5.yml"), load_label_map(tmp_path / "join.yml")
    )
    printed = _run("compose", "label_map_5", "join.yml").stdout
    result = _run("compose", "label_map_5", "join.yml", "--out", "both.yml")
    assert (result.exit_code, result.stdout) == (ExitCode.OK, "both.yml\n")
    assert (tmp_path / "both.yml").read_text() == printed
    assert load_label_map(tmp_path / "both.yml") == expected
    assert expected.mapping[4] == 1


def test_compose_replaces_a_file_only_when_forced(tmp_path: Path) -> None:
    (tmp_path / "join.yml").write_text(JOIN)
    kept = tmp_path / "both.yml"
    kept.write_text("mine")
    assert isinstance(_error("compose", "label_map_5", "join.yml", "--out", kept), UsageError)
    assert kept.read_text() == "mine"
    assert (
        _run("compose", "label_map_5", "join.yml", "--out", kept, "--force").exit_code
        == ExitCode.OK
    )
    assert load_label_map(kept).num_classes == 2


def test_compose_joins_by_number_when_told_to_ignore_names() -> None:
    assert "another name" in _error("compose", "label_map_10", "label_map_5").what
    assert _run("compose", "label_map_10", "label_map_5", "--ignore-names").exit_code == ExitCode.OK
