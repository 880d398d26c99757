"""HP1: every rule names exactly the files that were made for it."""

from __future__ import annotations

import shlex
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from audit_cases import DataSet, Found, by_code, findings_of_rows, stripes, tissue, write_map
from tile_rows import tile_row

from histoprep.catalogue import all_rules
from histoprep.choices import Severity
from histoprep.cli import run
from histoprep.report import Status, last_line, render
from histoprep.schemas.workspace import Workspace

RULES = all_rules()

TRIGGERS = (
    *("HP101", "HP102", "HP103", "HP104", "HP105"),
    *("HP106", "HP107", "HP108", "HP109", "HP110", "HP111"),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    data = DataSet(tmp_path_factory.mktemp("listing") / "data")
    data.pairs(3, "case1_")
    data.mask("case1_lost_mask.png")
    data.image("case1_bare.jpg")
    # One key, two files: by extension and by case.
    data.image("case2_twice.jpg")
    data.image("case2_twice.png")
    data.image("case2_Twin.jpg")
    data.image("case2_twin.jpg")
    # One image with two masks, two images with one mask.
    data.pair("case3_old")
    data.mask("case3_old_mask.tif", stripes(0, 1))
    data.pair("case3_two")
    data.image("case3_two.jpeg")
    data.pair("other")
    data.write("notes.txt", b"scanned twice")
    (data.root / "elsewhere.png").symlink_to("/dev/null")
    data.write(
        "dataset.csv", b"case1_00.jpg,1 2\ncase1_01.jpg,0 1 2\ncase1_02.jpg,1 7\ngone.jpg,1\n"
    )
    return by_code(data.audit(scan={"group_by": r"case\d"}).findings)


def test_pairs_without_a_side(found: Found) -> None:
    assert found["HP101"] == {"case1_lost_mask.png": "no image case1_lost"}
    assert {"case1_bare.jpg", "case2_Twin.jpg"} <= found["HP102"].keys()
    assert not {path for path in found["HP102"] if path.startswith("case1_0")}


def test_two_files_of_one_key(found: Found) -> None:
    assert found["HP103"].keys() == {
        "case2_twice.jpg",
        "case2_twice.png",
        "case2_Twin.jpg",
        "case2_twin.jpg",
    }
    assert found["HP104"].keys() == {
        "case3_old_mask.png",
        "case3_old_mask.tif",
        "case3_two.jpg",
        "case3_two.jpeg",
    }
    assert "case3_old_mask.png" in found["HP104"]["case3_old_mask.tif"]


def test_names_that_say_nothing(found: Found) -> None:
    assert found["HP105"].keys() == {"other.jpg"}
    assert found["HP106"].keys() == {"notes.txt", "elsewhere.png"}
    assert "leaves the data set" in found["HP106"]["elsewhere.png"]


def test_folders_of_images_that_are_not_read_are_a_warning_and_no_files(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for name in ("a", "b"):
        data.image(f"images/{name}.jpg")
        data.mask(f"masks/{name}.png")
        data.mask(f"masks_raw/{name}.png")
    for name in ("notes.txt", "docs/paper.pdf"):
        data.write(name, b"words")
    by_subcode = {
        finding.subcode: finding for finding in data.audit().findings if finding.code == "HP106"
    }
    assert {
        subcode: (finding.severity, finding.paths) for subcode, finding in by_subcode.items()
    } == {
        "unread-folder": (Severity.WARNING, ("masks_raw/",)),
        "other-folder": (Severity.INFO, ("docs/",)),
        "": (Severity.INFO, ("notes.txt",)),
    }
    assert by_subcode["unread-folder"].details == (
        "folder with 2 images beside the images and masks folders; not read",
    )
    assert all(
        option in by_subcode["unread-folder"].suggestion
        for option in ("--images", "--masks", "--unlabelled")
    )
    # Two images, two masks and the note; a folder is no file.
    assert (
        by_subcode[""].count,
        by_subcode[""].denominator,
        by_subcode["unread-folder"].denominator,
    ) == (1, 5, 0)
    assert by_subcode["unread-folder"].suggestion.endswith(
        f": histoprep audit {data.root} --images images --masks masks; or, if the unread files are"
        f" the masks: histoprep audit {data.root} --images images --masks masks_raw"
    )
    named = data.audit(scan={"images": "images", "masks": "masks"}).findings
    assert {finding.severity for finding in named if finding.code == "HP106"} == {Severity.INFO}


def test_unread_folders_deep_in_the_data_set_have_commands_too(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for name in ("21", "22"):
        data.image(f"train/images/{name}_training.jpg")
        data.mask(f"train/mask/{name}_training_mask.png")
        data.mask(f"train/1st_manual/{name}_manual1.png")
        data.image(f"train/photos/{name}.jpg")
    found = data.audit().findings
    [advice] = [item.suggestion for item in found if item.subcode == "unread-folder"]
    command = f"histoprep audit {data.root} --images images --masks"
    # Photographs are no masks.
    assert advice.endswith(
        f": {command} mask; or, if the unread files are the masks: {command} 1st_manual"
        " --image-suffix _training --mask-suffix _manual1"
    )


def test_dataset_csv(found: Found) -> None:
    assert found["HP107 missing-file"].keys() == {"gone.jpg"}
    assert found["HP107 labels-differ"] == {"case1_02.jpg": "declared 1 7, the mask holds 0 1 2"}


def test_an_orphan_pair_of_keys_is_a_duplicate(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(1)
    data.mask("a_mask.png")
    data.mask("a_mask.PNG")
    found = by_code(data.audit().findings)
    assert found["HP103"].keys() == {"a_mask.png", "a_mask.PNG"}
    assert "HP104" not in found


def test_what_is_used_until_names_are_cleared_up_is_what_the_advice_says(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for name in (
        "Twin.jpg",
        "twin.jpg",
        "twice.png",
        "twice.jpg",
        "old.jpg",
        "new.jpg",
        "Rival.jpg",
        "rival.jpg",
    ):
        data.image(name)
    for name in (
        "twin_mask.png",
        "old_mask.tif",
        "OLD_mask.png",
        "New_mask.png",
        "NEW_mask.png",
        "RIVAL_mask.png",
    ):
        data.mask(name)
    data.audit()
    pairs = paired(data)
    assert pairs["Twin"] == ("Twin.jpg", None) and pairs["twin"] == ("twin.jpg", "twin_mask.png")
    assert pairs["Rival"] == ("Rival.jpg", None) and pairs["rival"] == ("rival.jpg", None)
    assert "every spelling is a tile of its own" in RULES["HP103"].suggestion
    assert pairs["twice"] == ("twice.jpg", None)
    assert "only extensions differ, the first file in byte order" in RULES["HP103"].suggestion
    assert pairs["old"] == ("old.jpg", "old_mask.tif")
    assert pairs["new"] == ("new.jpg", "NEW_mask.png")
    assert (
        "spelled exactly like the image is used, or, without rival images, the first in byte order"
        in RULES["HP104"].suggestion
    )
    assert sorted(pairs) == ["Rival", "Twin", "new", "old", "rival", "twice", "twin"]


def paired(data: DataSet) -> dict[str, tuple[str | None, str | None]]:
    """Return image and mask by tile id."""
    rows = pq.read_table(
        Workspace.of(data.root).tiles, columns=["tile_id", "image_path", "mask_path"]
    ).to_pylist()
    return {row["tile_id"]: (row["image_path"], row["mask_path"]) for row in rows}


def test_without_any_image_the_layout_is_to_blame(tmp_path: Path) -> None:
    rows = [{"tile_id": "a", "mask_path": "a_mask.png", "unlabelled": False}]
    [orphan] = findings_of_rows(tmp_path, rows)
    assert orphan.code == "HP101"
    assert "--mask-suffix" in orphan.suggestion


def test_images_alone_lack_no_masks(tmp_path: Path) -> None:
    codes = by_code(findings_of_rows(tmp_path, [tile_row("a"), tile_row("b")])).keys()
    assert codes == {"HP710"}


def test_unlabelled_folders_lack_no_masks(tmp_path: Path) -> None:
    rows = [tile_row("a", {1: 100}), tile_row("more/b", unlabelled=True), tile_row("c")]
    assert by_code(findings_of_rows(tmp_path, rows))["HP102"].keys() == {"c.jpg"}


@pytest.mark.parametrize(
    ("declared", "is_wrong"),
    [
        (["1", "3"], False),
        (["0", "1", "3"], False),
        (["1"], False),  # 3 is a hairline in this mask: core presence is enough
        (["3"], True),
        (["1", "2"], False),  # as classes: tissue and tumour
        (["1", "2", "3"], True),
        ([], True),
        (["dermis", "Tumour"], False),  # a label and a class of the same name in another case
        (["Tissue", "Tumour"], False),
        (["Tissue"], False),
        (["Tumour"], True),
        (["carcinoma"], True),
    ],
)
def test_declared_labels_by_id_and_by_name(
    tmp_path: Path, declared: list[str], is_wrong: bool
) -> None:
    found = by_code(
        findings_of_rows(
            tmp_path,
            [tile_row("a", {1: 100, 3: 9}, declared_labels=declared)],
            label_map=write_map(tmp_path),
        )
    )
    assert ("HP107 labels-differ" in found) is is_wrong


def test_declared_names_cannot_be_checked_without_a_map(tmp_path: Path) -> None:
    assert "HP107 labels-differ" not in by_code(
        findings_of_rows(tmp_path, [tile_row("a", {1: 100}, declared_labels=["carcinoma"])])
    )
    assert "HP107 labels-differ" in by_code(
        findings_of_rows(tmp_path, [tile_row("a", {1: 100}, declared_labels=["7"])])
    )


def test_a_table_whose_names_all_miss_is_for_another_folder(tmp_path: Path) -> None:
    rows = [tile_row("a", {1: 100}), tile_row("b", {1: 100})]
    [finding] = [
        issue
        for issue in findings_of_rows(
            tmp_path, rows, issues=[("csv-missing", f"x/{n}.jpg", "gone") for n in "ab"]
        )
        if issue.code == "HP107"
    ]
    assert "another folder" in finding.cause
    [finding] = [
        issue
        for issue in findings_of_rows(
            tmp_path / "2", rows, issues=[("csv-missing", "x/a.jpg", "gone")]
        )
        if issue.code == "HP107"
    ]
    assert "another folder" not in finding.cause


def test_counts_against_an_expectation(tmp_path: Path) -> None:
    rows = [
        tile_row("a", {1: 100}),
        tile_row("b", {}),
        {"tile_id": "c", "mask_path": "c_mask.png", "unlabelled": False},
    ]
    true_counts = {
        "images": 2,
        "masks": 3,
        "pairs": 2,
        "orphan_masks": 1,
        "zero_masks": 1,
        "unreadable": 0,
        "labels": {0: 2, 1: 1},
    }
    assert "HP108" not in by_code(findings_of_rows(tmp_path, rows, expected=true_counts))
    wrong = {**true_counts, "pairs": 3, "labels": {1: 2, 5: 1}}
    [finding] = [
        finding
        for finding in findings_of_rows(tmp_path, rows, expected=wrong)
        if finding.code == "HP108"
    ]
    assert dict(zip(finding.paths, finding.details, strict=True)) == {
        "pairs": "seen 2, expected 3",
        "label 1": "in tiles: seen 1, expected 2",
        "label 5": "in tiles: seen 0, expected 1",
    }
    assert (finding.count, finding.denominator) == (3, 8)


def test_labels_among_images_are_an_error_of_their_own(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for index, (image, mask) in enumerate(zip("qwert", "zuiop", strict=True)):
        data.image(f"{image}.png")
        data.mask(f"{mask}{index}.png")
    report = data.audit()
    found = by_code(report.findings)
    assert found["HP109 classes"].keys() == {"z0.png", "u1.png", "i2.png", "o3.png", "p4.png"}
    assert all("label mask" in detail for detail in found["HP109 classes"].values())
    # They are not also images of a wrong mode, and nobody is told to convert them.
    assert "HP302 grayscale" not in found
    [finding] = [finding for finding in report.findings if finding.code == "HP109"]
    assert finding.severity is Severity.ERROR
    assert "--pairs" in finding.suggestion
    # Grey photographs are images.
    data = DataSet(tmp_path / "grey")
    for index in range(4):
        grey = np.repeat(tissue(index).mean(2).astype(np.uint8)[..., None], 3, 2)
        data.write(f"{index}.png", cv2.imencode(".png", grey[..., 0])[1].tobytes())
    assert set(by_code(data.audit().findings)) & {"HP109 classes", "HP302 grayscale"} == {
        "HP302 grayscale"
    }


def test_coloured_labels_among_the_images_of_a_known_layout(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(6)
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    for index in range(6):
        data.image(f"view{index:02}.png", colours[stripes(0, 1, 2)])
    assert len(by_code(data.audit().findings)["HP109 colours"]) == 6


def test_further_masks_of_an_image(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(3)
    data.mask("fine01_mask_1.png")
    data.mask("fine01_mask_2.png")
    report = data.audit()
    assert by_code(report.findings)["HP110"].keys() == {"fine01_mask_1.png", "fine01_mask_2.png"}
    [finding] = [finding for finding in report.findings if finding.code == "HP110"]
    assert "histoprep import combine" in finding.suggestion
    assert report.summary.num_images == 3


def test_formats_that_are_not_read_are_counted_and_strictly_an_error(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(2)
    for name in ("a.dcm", "b.dcm", "slide.svs"):
        data.write(name, b"data")
    report = data.audit()
    [finding] = [finding for finding in report.findings if finding.subcode == "unread-format"]
    assert (finding.severity, finding.count) == (Severity.WARNING, 3)
    assert "not read: 2 .dcm, 1 .svs |" in last_line(report)
    assert report.status is Status.PASSED
    strict = data.audit(strict=True)
    assert strict.status is Status.FAILED
    assert '"unread"' in render(strict, "json")
    for name in ("a.dcm", "b.dcm", "slide.svs"):
        (data.root / name).unlink()
    assert "not read" not in last_line(data.audit())


def test_files_that_an_import_takes_are_named_with_its_command(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(2)
    data.write("annotations/x.geojson", b"{}")
    data.write("stack/masks.npz", b"PK")
    [finding] = [item for item in data.audit().findings if item.subcode == "unread-format"]
    assert f"histoprep import qupath {data.root} --out {data.root}-imported" in finding.suggestion
    assert f"histoprep import npy-stack {data.root}" in finding.suggestion


def test_masks_of_another_naming_scheme(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for index in range(3):
        data.image(f"images/field{index}.png")
        data.mask(f"masks/{'xyz'[index]}.png")
    [finding] = [finding for finding in data.audit().findings if finding.code == "HP101"]
    assert (finding.count, finding.denominator) == (3, 3)
    assert "another scheme" in finding.cause
    assert "field0 / x" in finding.cause
    assert "--pairs" in finding.suggestion


def test_masks_of_shifted_numbers_are_named_with_both_images(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for number in range(4):
        data.image(f"images/{number}.jpg")
        data.mask(f"masks/{number + 1}.png")
    assert by_code(data.audit().findings)["HP111 in masks"] == {
        f"masks/{number + 1}.png": (
            f"paired with {f'images/{number + 1}.jpg' if number < 3 else 'no image'}, seems to"
            f" belong to images/{number}.jpg"
        )
        for number in range(4)
    }


def test_broken_links_are_a_warning_that_names_the_store(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(2)
    store = tmp_path / "store"
    for number in range(3):
        (data.root / f"lost{number}.jpg").symlink_to(store / f"ab/{number}")
    [found] = [item for item in data.audit().findings if item.subcode == "broken-link"]
    assert (found.code, found.severity, found.count) == ("HP106", Severity.WARNING, 3)
    assert f"{store}/ab is not there" in found.cause
    assert found.details[0] == f"link to {store}/ab/0, which is not there"
    assert "Then: histoprep audit" in found.suggestion


def test_later_commands_warn_of_broken_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(3)
    (data.root / "fine00_mask.png").unlink()
    (data.root / "fine00_mask.png").symlink_to("/nowhere/at/all.png")
    assert run(["manifest", str(data.root), "--workers", "1"]) == 0
    text = " ".join(capsys.readouterr().err.split())
    assert "fine00_mask.png: link to /nowhere/at/all.png, which is not there" in text


def test_a_data_set_of_broken_links_alone_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name in ("images", "masks"):
        (root / name).symlink_to(tmp_path / "store" / name)
    assert run(["audit", str(root), "--workers", "1"]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert f"2 links to nothing: images, a link to {tmp_path}/store/images" in text
    assert "mount or fetch" in text


def test_what_systems_keep_is_counted_and_left_alone(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(2)
    for name in ("__MACOSX/._a.jpg", "._fine00.jpg", "._fine01.jpg", ".DS_Store", "Thumbs.db"):
        data.write(name, b"\0\5\x16\7")
    report = data.audit()
    [found] = [item for item in report.findings if item.code == "HP106"]
    assert (found.subcode, found.severity) == ("system-file", Severity.INFO)
    assert dict(zip(found.paths, found.details, strict=True)) == {
        ".": "4 files of the system, such as .DS_Store; left alone",
        "__MACOSX/": "folder of the system; left alone",
    }
    assert "2 images, 2 masks" in last_line(report)


@pytest.mark.parametrize("named", ["tiles", "masks"])
def test_a_folder_of_masks_alone_is_called_that(
    named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataSet(tmp_path / "set" / named)
    for number in range(4):
        data.mask(f"{number}.png", stripes(0, 1, 2 + number))
    data.mask("blank.png", stripes(0))
    [found] = [item for item in data.audit().findings if item.code == "HP109"]
    assert "their images are not here" in found.cause
    parent = f"histoprep audit {tmp_path / 'set'}"
    assert (parent in found.suggestion) is (named == "masks")
    assert run(["manifest", str(data.root), "--workers", "1"]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "there are masks alone, and no image (HP109" in text
    assert "their images are not here" in text
    # With an image they lie among the images.
    data.image("a.png")
    [found] = [item for item in data.audit().findings if item.code == "HP109"]
    assert "their images are not here" not in found.cause


def test_rows_of_files_that_are_gone_are_accepted_by_the_printed_command(tmp_path: Path) -> None:
    """A new table of tiles and classes would lose the groups, and the old one would stay."""
    data = DataSet(tmp_path / "data")
    rows = [f"t{index}.jpg,s{index % 2}" for index in range(5)]
    for index in range(4):
        data.pair(f"t{index}", stripes(0, 1))
    data.write("dataset.csv", "\n".join(["image,slide", *rows]).encode())
    report = data.audit(scan={"group_by": "csv:slide"})
    [found] = [each for each in report.findings if each.code == "HP107"]
    assert found.paths == ("t4.jpg",) and "--dataset-csv" not in found.suggestion
    command = shlex.split(found.suggestion.rpartition("accept them: ")[2])
    assert run([*command[1:], "--workers", "1"]) == 0
    baseline = ["--baseline", command[-1], "--workers", "1"]
    assert run(["audit", str(data.root), *baseline]) == 0
