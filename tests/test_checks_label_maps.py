"""HP5: masks and label map held against each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_cases import (
    SKIN_MAP,
    DataSet,
    by_code,
    findings_of_rows,
    image_bytes,
    stripes,
    write_map,
)
from tile_rows import tile_row
from void_masks import blobs, coloured, with_void

from histoprep import cli
from histoprep.choices import Severity
from histoprep.errors import ExitCode, LabelMapError
from histoprep.labels import load_label_map
from histoprep.remapping.evidence import already_remapped
from histoprep.report import render

TRIGGERS = (
    "HP501",
    "HP502",
    "HP503",
    "HP504",
    "HP505",
    "HP506",
    "HP507",
    "HP508",
    "HP509",
    "HP510",
)


def test_values_that_the_map_does_not_list(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(2)
    data.pair("odd", stripes(0, 1, 200))
    data.pair("odder", stripes(7, 200))
    report = data.audit(label_map=write_map(tmp_path))
    found = by_code(report.findings)
    assert found["HP501"] == {
        "odd_mask.png": "value 200: 3,072 px",
        "odder_mask.png": "value 7: 4,608 px, value 200: 4,608 px",
    }
    [finding] = [finding for finding in report.findings if finding.code == "HP501"]
    assert "(7, 200) to two" in finding.suggestion
    assert (finding.count, finding.denominator) == (2, 4)


def test_labels_and_classes_that_do_not_occur(tmp_path: Path) -> None:
    found = by_code(
        findings_of_rows(tmp_path, [tile_row("a", {1: 100})], label_map=write_map(tmp_path))
    )
    assert found["HP502"] == {"label 2": "dermis, scar", "label 3": "tumour"}
    assert found["HP507"] == {"class 2": "Tumour"}


def test_a_missing_class_0_is_no_loss(tmp_path: Path) -> None:
    found = by_code(
        findings_of_rows(
            tmp_path, [tile_row("a", {1: 56, 2: 100, 3: 100})], label_map=write_map(tmp_path)
        )
    )
    assert "HP507" not in found
    assert found["HP502"] == {"label 0": "unknown"}


def test_masks_that_were_not_read_lack_nothing(tmp_path: Path) -> None:
    assert findings_of_rows(tmp_path, [tile_row("a")], label_map=write_map(tmp_path)) == []


FAULTS = {
    "HP503": SKIN_MAP.replace("  tumour: Tumour\n", ""),
    "HP504": SKIN_MAP.replace("  3: tumour\n", "  3: tumour\n  3: carcinoma\n"),
    "HP505": SKIN_MAP.replace("2: {name: Tumour", "256: {name: Tumour"),
    "HP506": SKIN_MAP.replace("2: {name: Tumour", "3: {name: Tumour"),
}


@pytest.mark.parametrize("code", FAULTS)
def test_faults_of_the_map_are_findings_and_the_audit_goes_on(tmp_path: Path, code: str) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(2)
    data.mask("orphan_mask.png")
    path = write_map(tmp_path, FAULTS[code])
    report = data.audit(label_map=path)
    found = by_code(report.findings)
    assert {key for key in found if "HP503" <= key <= "HP506"} - {"HP506"} == {code} - {"HP506"}
    assert all(place.startswith(str(path)) for place in found[code])
    assert "HP101" in found
    # A gap is no obstacle; any other fault leaves the raw labels.
    assert report.classes[1].name == ("Tissue" if code == "HP506" else "label 1")
    assert ("not used" in str(report.options["label map"])) is (code != "HP506")


def test_a_sound_map_has_no_findings_of_its_own(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pair("a", stripes(0, 1, 2, 3))
    assert not [
        key
        for key in by_code(data.audit(label_map=write_map(tmp_path)).findings)
        if key.startswith("HP5")
    ]


def test_what_is_no_label_map_is_refused_before_any_work(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(1)
    with pytest.raises(LabelMapError):
        data.audit(label_map=write_map(tmp_path, "just: [a, list]"))
    assert not (tmp_path / "data.histoprep" / "tiles.parquet").exists()


# Fifty source labels become classes 0 to 4.
MANY = (
    "sources:\n"
    + "".join(f"  {number}: label{number}\n" for number in range(50))
    + "classes:\n  0: Unknown\n  1: A\n  2: B\n  3: C\n  4: D\nmap:\n"
)
MANY += "".join(f"  {number}: {number % 5}\n" for number in range(50))


def test_masks_that_were_remapped_before(tmp_path: Path) -> None:
    path = write_map(tmp_path, MANY)
    rows = [tile_row(f"t{index:02}", {1: 60, 2: 60, 3: 60}) for index in range(25)]
    [(place, reason)] = by_code(findings_of_rows(tmp_path, rows, label_map=path))["HP508"].items()
    assert place == str(tmp_path / "data")
    assert "0, 1, 2, 3" in reason
    note = [tile_row("a", {1: 60}, mask_label_map="label_map_5")]
    assert (
        "label_map_5"
        in by_code(findings_of_rows(tmp_path, note, label_map=path))["HP508"][
            str(tmp_path / "data")
        ]
    )
    assert "HP508" not in by_code(
        findings_of_rows(tmp_path, [*rows, tile_row("other", {40: 60})], label_map=path)
    )
    assert "HP508" not in by_code(findings_of_rows(tmp_path, rows[:5], label_map=path))


def test_evidence_of_a_remap(tmp_path: Path) -> None:
    shifted = SKIN_MAP.replace("  0: unknown", "  10: unknown").replace(
        "  1: dermis\n", "  11: dermis\n"
    )
    label_map = load_label_map(write_map(tmp_path, shifted))
    # 0 and 1 are classes and no source labels: nothing else explains them.
    assert already_remapped(label_map, {0: 3, 1: 3}, ())
    assert already_remapped(label_map, {10: 3, 11: 3}, ()) is None
    assert already_remapped(label_map, {}, ()) is None
    # Every source label is a class of its own: the same values come out again.
    assert already_remapped(load_label_map(write_map(tmp_path)), {0: 99, 1: 99, 2: 99}, ()) is None


# --- values that mark pixels without a label


def with_void_masks(folder: Path, value: int = 255, number: int = 8) -> DataSet:
    data = DataSet(folder / "data")
    for seed in range(number):
        data.pair(f"t{seed}", with_void(blobs(seed), value))
    return data


@pytest.mark.parametrize("value", [255, 254])
def test_a_value_along_boundaries_is_named_with_the_line_that_ignores_it(
    tmp_path: Path, value: int
) -> None:
    data = with_void_masks(tmp_path, value)
    pixels = sum(int((with_void(blobs(seed), value) == value).sum()) for seed in range(8))
    report = data.audit()
    [found] = [each for each in report.findings if each.code == "HP509"]
    assert (found.subcode, found.severity) == ("boundary", Severity.WARNING)
    assert by_code([found])["HP509 boundary"] == {
        f"value {value}": f"{pixels:,} pixels in 8 tiles along boundaries of other labels"
    }
    assert f"`ignore: [{value}]`" in found.suggestion
    assert f"histoprep map init {data.root} --out label_map.yml" in found.suggestion
    # It is not blamed on lossy compression, nor called a rare class.
    others = [each for each in report.findings if each.code != "HP509"]
    assert not any(f" {value}" in text for each in others for text in (*each.details, *each.paths))


def test_void_in_colour_is_spelt_as_a_colour(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for seed in range(5):
        data.image(f"t{seed}.jpg")
        labels = coloured(with_void(blobs(seed)), 0xFFFFFF)
        data.write(f"t{seed}_mask.png", image_bytes(labels, "PNG"))
    [found] = [each for each in data.audit().findings if each.code == "HP509"]
    assert found.paths == ("value #ffffff",) and '`ignore: ["#ffffff"]`' in found.suggestion


IGNORING = """\
sources: {0: a, 1: b, 2: c, 3: d}
ignore: [255]
classes: {0: A, 1: B, 2: C, 3: D}
map: {a: A, b: B, c: C, d: D}
"""


def test_what_a_map_ignores_or_names_is_no_finding(tmp_path: Path) -> None:
    data = with_void_masks(tmp_path)
    for text in (IGNORING, IGNORING.replace("3: d}\nignore: [255]", "3: d, 255: e}").replace(
        "d: D}", "d: D, e: A}"
    )):  # fmt: skip
        found = by_code(data.audit(label_map=write_map(tmp_path, text)).findings)
        assert not {"HP501", "HP502", "HP509"} & {code.split()[0] for code in found}
    [found] = [
        each
        for each in data.audit(
            label_map=write_map(tmp_path, IGNORING.replace("ignore: [255]\n", ""))
        ).findings
        if each.code == "HP509"
    ]
    assert found.suggestion.startswith("Add the line `ignore: [255]` to two, then: histoprep map")


def test_ignored_pixels_are_in_no_finding_about_labels(tmp_path: Path) -> None:
    data = with_void_masks(tmp_path)
    with_map = by_code(data.audit(label_map=write_map(tmp_path, IGNORING)).findings)
    assert not any("255" in detail for found in with_map.values() for detail in found.values())


def test_white_areas_beside_numbered_labels_are_an_info(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for seed in range(4):
        data.pair(f"t{seed}", stripes(0, 1, 2, 255))
    [found] = [each for each in data.audit().findings if each.code == "HP509"]
    assert (found.subcode, found.severity) == ("area", Severity.INFO)


@pytest.mark.parametrize("labels", [(0, 255), (0, 1, 2), (0, 1, 2, 3, 4, 5), (0, 100, 255), (3, 9)])
def test_other_labels_are_not_void(tmp_path: Path, labels: tuple[int, ...]) -> None:
    data = DataSet(tmp_path / "data")
    for seed in range(4):
        data.pair(f"t{seed}", stripes(*labels))
    assert "HP509" not in {each.code for each in data.audit().findings}


# --- image-level labels against masks

SWAPPED = """\
name: two
sources: {0: nothing, 1: Stroma, 2: tumours}
classes: {0: Nothing, 1: Other, 2: Lesion}
map: {nothing: Nothing, Stroma: Other, tumours: Lesion}
"""


def labelled_folders(folder: Path, number: int = 8, **labels: int) -> DataSet:
    """Return a data set with a folder for each name, whose masks hold mostly one label."""
    data = DataSet(folder / "data")
    for name, label in labels.items():
        for index in range(number):
            data.pair(f"{name}/{name}{index}", stripes(0, 0, label, label, 3 - label))
    return data


def test_swapped_entries_are_named_with_both_labels(tmp_path: Path) -> None:
    data = labelled_folders(tmp_path, tumour=1, stroma=2)
    report = data.audit(label_map=write_map(tmp_path, SWAPPED), scan={"label_by": "folder"})
    assert by_code(report.findings)["HP510"] == {
        "label tumour": "8 of 8 tiles hold mostly label 1, which is Stroma in two; tumours is 2",
        "label stroma": "8 of 8 tiles hold mostly label 2, which is tumours in two; Stroma is 1",
    }
    assert report.cross_table is not None
    assert report.cross_table.columns == ("Stroma", "tumours")
    assert dict(report.cross_table.rows) == {"tumour": (8, 0), "stroma": (0, 8)}
    page = render(report, "html")
    assert "Image labels and masks" in page and "<bdi>tumours</bdi>" in page


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        # Names that agree, by source or by class.
        ({"tumour": 2, "stroma": 1}, SWAPPED),
        ({"lesion": 2, "other": 1}, SWAPPED),
        # Names that the map does not have.
        ({"case A": 1, "case B": 2}, SWAPPED),
    ],
)
def test_names_that_agree_or_are_unknown_contradict_nothing(
    tmp_path: Path, labels: dict[str, int], text: str
) -> None:
    data = labelled_folders(tmp_path, **labels)
    report = data.audit(label_map=write_map(tmp_path, text), scan={"label_by": "folder"})
    assert "HP510" not in by_code(report.findings)


def test_few_or_mixed_tiles_contradict_nothing(tmp_path: Path) -> None:
    few = labelled_folders(tmp_path / "few", 4, tumour=1, stroma=2)
    mixed = labelled_folders(tmp_path / "mixed", 8, tumour=1, stroma=2)
    for index in range(4):
        mixed.pair(f"tumour/more{index}", stripes(0, 2))
    for data in (few, mixed):
        report = data.audit(label_map=write_map(tmp_path, SWAPPED), scan={"label_by": "folder"})
        assert "HP510" not in by_code(report.findings)


def test_labels_that_the_masks_hold_beside_others_are_no_firm_contradiction(tmp_path: Path) -> None:
    """Of a tile of tumour most pixels may well be stroma."""
    data = DataSet(tmp_path / "data")
    for index in range(8):
        data.pair(f"tumour/t{index}", stripes(0, 0, 1, 1, 2))
        data.pair(f"normal/n{index}", stripes(0, 0, 3, 3))
    text = (
        "sources: {0: nothing, 1: Stroma, 2: tumours, 3: Mucosa}\n"
        "classes: {0: Nothing, 1: Stroma, 2: Tumour, 3: Mucosa}\n"
        "map: {nothing: Nothing, Stroma: Stroma, tumours: Tumour, Mucosa: Mucosa}\n"
    )
    report = data.audit(label_map=write_map(tmp_path, text), scan={"label_by": "folder"})
    [found] = [each for each in report.findings if each.code == "HP510"]
    assert found.severity is Severity.WARNING and found.paths == ("label tumour",)
    plain = DataSet(tmp_path / "plain")
    for index in range(8):
        plain.pair(f"tumour/t{index}", stripes(0, 0, 1, 1))
        plain.pair(f"normal/n{index}", stripes(0, 0, 3, 3))
    report = plain.audit(label_map=write_map(tmp_path, text), scan={"label_by": "folder"})
    [found] = [each for each in report.findings if each.code == "HP510"]
    assert found.severity is Severity.ERROR


@pytest.mark.parametrize("scan", [[], ["--label-by", "folder"]])
@pytest.mark.slow
def test_swapped_names_stop_remap_and_manifest_and_stats_warns(
    scan: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = labelled_folders(tmp_path, tumour=1, stroma=2)
    label_map, root = write_map(tmp_path, SWAPPED), str(data.root)
    chosen = ["--map", str(label_map), "--workers", "1"]
    assert cli.run(["audit", root, *scan, "--exit-zero", "--workers", "1"]) == ExitCode.OK
    capsys.readouterr()
    for command in ("remap", "manifest"):
        assert cli.run([command, root, *chosen]) == ExitCode.USAGE
        said = capsys.readouterr().err
        assert "HP510" in said and "tumours is 2" in said and "--force" in said
        assert f"histoprep stats {root}" in said
    assert cli.run(["stats", root, *chosen]) == ExitCode.OK
    said = capsys.readouterr().err
    assert "HP510: tumour: 8 of 8 tiles hold mostly label 1, which is Stroma in two" in said
    for command in ("remap", "manifest"):
        assert cli.run([command, root, *chosen, "--force"]) == ExitCode.OK
    # What is left out contradicts nothing.
    left_out = tmp_path / "tumour.txt"
    left_out.write_text("".join(f"tumour/tumour{index}\n" for index in range(8)))
    drop = ["--drop-list", str(left_out)]
    assert cli.run(["manifest", root, *chosen, *drop]) in (ExitCode.OK, ExitCode.INCOMPLETE)
    corrected = SWAPPED.replace("1: Stroma, 2: tumours", "1: tumours, 2: Stroma")
    write_map(tmp_path, corrected.replace("Other", "x").replace("Lesion", "y"))
    for command in ("stats", "remap", "manifest"):
        out = [] if command != "remap" else ["--out", str(tmp_path / "new")]
        assert cli.run([command, root, *chosen, *out]) == ExitCode.OK
        assert "HP510" not in capsys.readouterr().err
