"""The audit finds what the demo planted, in exactly these files, and nothing in the clean one."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_cases import by_code, faults

import histoprep
from histoprep.choices import Severity
from histoprep.demo import GROUP_PATTERN, DemoPlan, make_clean_demo, make_demo
from histoprep.report import Report

ARTEFACTS = ("HP408", "HP409")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> DemoPlan:
    return make_demo(tmp_path_factory.mktemp("demo") / "demo")


@pytest.fixture(scope="module")
def report(plan: DemoPlan) -> Report:
    return histoprep.audit(plan.folder, label_map="label_map_5", group_by=GROUP_PATTERN)


def test_every_planted_defect_is_found_in_its_files(plan: DemoPlan, report: Report) -> None:
    found: dict[str, list[str]] = {}
    for finding in report.findings:
        found.setdefault(finding.code, []).extend(finding.paths)
    copies = {path for path in found["HP601"] if path not in plan.paths("HP601")}
    assert len(copies) == len(plan.paths("HP601"))
    for code in {finding.code for finding in plan.planted} - {"HP601"}:
        assert sorted(found[code]) == plan.paths(code), code


def test_nothing_else_is_found(plan: DemoPlan, report: Report) -> None:
    planted = {finding.code for finding in plan.planted}
    lossy = plan.paths("HP403")
    others = {
        finding.code: list(finding.paths)
        for finding in report.findings
        if finding.code not in planted
    }
    for code in ARTEFACTS:
        assert set(others.pop(code)) == set(lossy)
    # The map's 55 labels do not all occur; one class is rare in so small a set.
    assert others.keys() == {"HP502", "HP802"}


def test_rims_of_a_lossy_source_are_spurious_labels(plan: DemoPlan) -> None:
    found = by_code(histoprep.audit(plan.folder, workers=1).findings)
    assert len(found["HP804"]) > 20
    assert all("core-present in" in detail for detail in found["HP804"].values())


def test_the_numbers_add_up(plan: DemoPlan, report: Report) -> None:
    summary = report.summary
    assert summary.num_images == plan.num_tiles + 1  # one tile was copied
    assert summary.num_orphans == len(plan.paths("HP101"))
    assert summary.num_pairs == summary.num_images - len(plan.paths("HP102"))
    assert summary.num_zero_masks == len(plan.paths("HP406"))
    assert summary.num_unreadable == len(plan.paths("HP202"))


@pytest.mark.parametrize(
    "options",
    [{}, {"label_map": "label_map_5"}, {"label_map": "label_map_5", "group_by": GROUP_PATTERN}],
)
@pytest.mark.slow
def test_the_clean_set_has_neither_errors_nor_warnings(
    tmp_path: Path, options: dict[str, str]
) -> None:
    report = histoprep.audit(make_clean_demo(tmp_path / "clean").folder, **options)
    assert faults(report.findings).keys() == (set() if "group_by" in options else {"HP710"})
    assert {finding.code for finding in report.findings if finding.severity is Severity.INFO} <= {
        "HP406",
        "HP502",
        "HP802",
    }
    assert report.status == "passed"
