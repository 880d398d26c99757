"""What the audit says of real tiles; the facts are those of the data's own description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from audit_cases import by_code

import histoprep
from histoprep import AuditOptions, Report, ScanOptions, TableOptions
from histoprep.choices import Severity

# GT2000000-1-400-001, GTxc2012481-...: the number is the case.
CASE = r"/[A-Za-z]+(\d+)-[^/]*$"


def audit(root: Path, folder: Path, **scan: Any) -> Report:
    return histoprep.audit(
        root,
        workspace=folder / "results",
        options=AuditOptions(table=TableOptions(ScanOptions(**scan))),
    )


def grades(report: Report) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"error": set(), "warning": set(), "info": set()}
    for finding in report.findings:
        found[str(finding.severity)].add(finding.code)
    return found


def test_real_tiles_and_masks(shared_data: Path, tmp_path: Path) -> None:
    report = audit(shared_data / "diffinfinite" / "inpainting", tmp_path)
    assert (report.summary.num_images, report.summary.num_pairs, report.summary.num_orphans) == (
        12,
        12,
        0,
    )
    assert {row.id for row in report.classes} == {0, 4, 7, 8, 9}
    assert grades(report) == {"error": set(), "warning": {"HP408", "HP710"}, "info": {"HP802"}}


def test_generated_tiles_with_sixteen_bit_masks(shared_data: Path, tmp_path: Path) -> None:
    report = audit(shared_data / "diffinfinite" / "patches", tmp_path)
    found = by_code(report.findings)
    assert len(found["HP412"]) == 100
    assert {detail.split(",")[0] for detail in found["HP412"].values()} == {"16 bits"}
    # The images are PNG files that are called .jpg.
    assert set(found["HP203"].values()) == {"its first bytes are those of a PNG"}
    assert len(found["HP203"]) == 100
    assert {row.id for row in report.classes} == set(range(5))
    assert not grades(report)["error"]


@pytest.mark.slow
def test_masks_without_images(shared_data: Path, tmp_path: Path) -> None:
    report = audit(shared_data / "diffinfinite" / "large_masks", tmp_path)
    assert (report.summary.num_masks, report.summary.num_orphans, report.summary.num_images) == (
        16,
        16,
        0,
    )
    assert grades(report)["error"] == {"HP101"}


@pytest.mark.slow
def test_a_whole_folder_of_folders(shared_data: Path, tmp_path: Path) -> None:
    report = audit(shared_data / "diffinfinite", tmp_path)
    found = by_code(report.findings)
    assert (report.summary.num_masks, report.summary.num_pairs) == (128, 112)
    assert len(found["HP101"]) == 16
    assert all(path.startswith("large_masks/") for path in found["HP101"])
    assert len(found["HP412"]) == 116
    assert found["HP308 between-sources"].keys() == {"inpainting"}
    assert found["HP106"].keys() == {"ATTRIBUTION.md", "LICENSE"}


@pytest.mark.slow
def test_cleaned_labels(shared_data: Path, tmp_path: Path) -> None:
    report = audit(shared_data / "ebhi_seg", tmp_path)
    found = by_code(report.findings)
    assert report.summary.num_pairs == 734
    assert {row.id for row in report.classes} == set(range(7))
    assert grades(report) == {
        "error": set(),
        "warning": {"HP106", "HP408", "HP710"},
        "info": {"HP106", "HP407", "HP603"},
    }
    assert found["HP106 unread-folder"].keys() == {"defects/", "masks_raw/"}


@pytest.mark.slow
def test_masks_as_published(shared_data: Path, tmp_path: Path) -> None:
    report = audit(shared_data / "ebhi_seg", tmp_path, masks="masks_raw")
    found = by_code(report.findings)
    # Smoothed edges: every grey value between the two labels, none of them thick.
    assert "HP804" in grades(report)["error"]
    assert found["HP804"].keys() == {f"label {value}" for value in range(1, 255)}
    assert len(found["HP409 see-hp404"]) > 700
    # Every mask with a boundary is accused, folder by folder: antialiasing leaves no doubt.
    assert sum(finding.count for finding in report.findings if finding.code == "HP404") == len(
        found["HP409 see-hp404"]
    )
    assert "HP802" not in found


def test_groups_and_classes_of_a_table(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "ebhi_seg"
    report = audit(
        root, tmp_path, csv=root / "index.csv", group_by="csv:case_id", label_by="csv:class"
    )
    found = by_code(report.findings)
    assert not {"HP105", "HP107 missing-file", "HP308 predicts-class"} & found.keys()
    assert grades(report)["error"] == set()


@pytest.mark.slow
def test_cases_that_stand_in_several_classes_leak_when_classes_are_split(
    shared_data: Path, tmp_path: Path
) -> None:
    """A split by class folder is the worst one: a third of it as test set shares cases with the
    rest.
    """
    source = shared_data / "ebhi_seg" / "images"
    for split, names in (
        ("train", ("normal", "polyp", "low_grade_in")),
        ("test", ("high_grade_in", "adenocarcinoma")),
    ):
        for name in names:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for path in sorted((source / name).iterdir()):
                (tmp_path / "data" / split / name / path.name).write_bytes(path.read_bytes())
    cases: dict[str, set[str]] = {}
    for path in (tmp_path / "data").rglob("*.png"):
        cases.setdefault(path.name.split("-")[0].lstrip("GTXCgtxc"), set()).add(path.parts[-3])
    shared = {case for case, splits in cases.items() if len(splits) == 2}
    assert shared
    report = audit(tmp_path / "data", tmp_path, group_by=CASE)
    assert by_code(report.findings)["HP702"].keys() == shared


def test_class_folders(shared_data: Path, tmp_path: Path) -> None:
    report = audit(
        shared_data / "ebhi_seg" / "images", tmp_path, layout="class-folders", group_by=CASE
    )
    assert report.summary.num_images == 734
    assert grades(report) == {"error": set(), "warning": set(), "info": {"HP603"}}


def test_a_table_meant_for_another_folder_fits_by_the_ends_of_its_paths(
    shared_data: Path, tmp_path: Path
) -> None:
    root = shared_data / "ebhi_seg"
    report = audit(
        root / "images",
        tmp_path,
        layout="class-folders",
        csv=root / "index.csv",
        group_by="csv:case_id",
    )
    assert not {"HP105", "HP107", "HP710"} & {finding.code for finding in report.findings}


def test_real_duplicates(shared_data: Path, tmp_path: Path) -> None:
    report = audit(shared_data / "ebhi_seg" / "defects", tmp_path)
    assert by_code(report.findings) == {
        "HP602": {"GTGT2012149-2-400-001.png": "same pixels as GT2012149-2-400-001.png"},
        "HP710": {"images": "2 without a group"},
    }
    assert report.findings[0].severity is Severity.WARNING


def test_files_that_are_broken_in_every_way(shared_data: Path, tmp_path: Path) -> None:
    """Each file of the corrupt set gets one verdict, and none stops the audit."""
    names = 0
    for kind in ("jpeg", "png", "tiff", "webp"):
        suffix = {"jpeg": "jpg", "tiff": "tif"}.get(kind, kind)
        for number, path in enumerate(
            sorted((shared_data / "corrupt" / "gofuzz" / kind / "corpus").iterdir())
        ):
            target = tmp_path / "data" / kind / f"{number:04}.{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            names += 1
    report = audit(tmp_path / "data", tmp_path)
    assert report.summary.num_images == names
    broken = [
        path
        for finding in report.findings
        if finding.code in ("HP201", "HP202", "HP205", "HP206")
        for path in finding.paths
    ]
    assert len(broken) == len(set(broken)) == report.summary.num_unreadable
    assert len(broken) > 100
