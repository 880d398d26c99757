"""`histoprep import`: the tree of every format is the one that its library says, and stays it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import import_samples
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from import_samples import Sample, save, tissue
from PIL import Image

from histoprep import cli, tables
from histoprep.errors import ExitCode
from histoprep.schemas.ledgers import IMPORT, open_ledger

MAKERS = {
    name.removeprefix("make_"): maker
    for name, maker in vars(import_samples).items()
    if name.startswith("make_")
}
Maker = Callable[[Path], Sample]


def run(*arguments: str | Path) -> int:
    return cli.run([str(argument) for argument in arguments])


def every_file(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def results(folder: Path) -> dict[str, bytes]:
    """Return the files of a tree without what is about this machine."""
    files = every_file(folder)
    return {
        name: data for name, data in files.items() if not name.endswith((".hp-states", ".lock"))
    }


def masks_of(out: Path) -> dict[str, np.ndarray]:
    return {
        path.relative_to(out / "masks").with_suffix("").as_posix(): np.asarray(Image.open(path))
        for path in sorted((out / "masks").rglob("*.png"))
    }


def ledger_of(out: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for batch in tables.read_batches(open_ledger(out / "ledger.parquet", IMPORT.ledger, IMPORT)):
        rows += batch.to_pylist()
    return rows


@pytest.fixture(scope="module", params=MAKERS)
def imported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Sample, Path]]:
    """Yield a source of each format and the tree that was made of it."""
    top = tmp_path_factory.mktemp(request.param)
    sample = MAKERS[request.param](top / "source")
    before = every_file(top / "source")
    assert run("import", *sample.arguments, "--out", top / "tree") == ExitCode.OK
    yield sample, top / "tree"
    assert every_file(top / "source") == before, "the source was changed"


def test_masks_are_those_of_the_source(imported: tuple[Sample, Path]) -> None:
    sample, out = imported
    made = masks_of(out)
    assert made.keys() == sample.masks.keys()
    for name, expected in sample.masks.items():
        np.testing.assert_array_equal(made[name], expected, err_msg=name)
        assert made[name].dtype == (np.uint8 if expected.max() < 256 else np.uint16)


def test_labels_have_the_names_of_the_source(imported: tuple[Sample, Path]) -> None:
    sample, out = imported
    label_map = yaml.safe_load((out / "label_map.yml").read_text())
    assert label_map["sources"] == sample.names
    assert run("map", "check", out / "label_map.yml") == ExitCode.OK


def test_images_are_linked_and_the_same(imported: tuple[Sample, Path]) -> None:
    sample, out = imported
    for row in ledger_of(out):
        image = out / str(row["image_path"])
        assert not image.is_symlink()
        if row["image_how"] == "hard link":
            assert image.samefile(str(row["image_source"]))
        size = Image.open(image).size
        assert (row["width_px"], row["height_px"]) == size
        assert sample.masks[str(row["name"])].shape == size[::-1]


def test_counts_add_up(imported: tuple[Sample, Path]) -> None:
    sample, out = imported
    for row in ledger_of(out):
        parts = [row[name] for name in ("drawn", "empty", "outside", "skipped")]
        assert sum(parts) == row["read"]  # type: ignore[arg-type]
        ids, pixels = np.unique(sample.masks[str(row["name"])], return_counts=True)
        assert (row["label_ids"], row["label_pixels"]) == (ids.tolist(), pixels.tolist())


def test_the_same_command_again_changes_nothing(
    imported: tuple[Sample, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sample, out = imported
    before = results(out)
    assert run("import", *sample.arguments, "--out", out) == ExitCode.OK
    assert "nothing had changed" in capsys.readouterr().err
    assert results(out) == before
    assert run("verify", out) == ExitCode.OK


def test_the_tree_goes_through_audit_and_manifest(
    imported: tuple[Sample, Path], tmp_path: Path
) -> None:
    sample, out = imported
    options = ["--workspace", tmp_path, "--workers", "1"]
    grouping = ["--group-by", "csv:group"] if sample.groups else []
    assert run("audit", out, *grouping, *options) == ExitCode.OK
    # What an import writes beside images and masks is expected there.
    assert "HP106" not in (tmp_path / "report.html").read_text()
    assert run("manifest", out, *options) == ExitCode.OK
    manifest = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert {row["tile_id"].removeprefix("images/") for row in manifest} == sample.masks.keys()
    classes = sorted(sample.names)
    for row in manifest:
        expected = sample.masks[row["tile_id"].removeprefix("images/")]
        assert row["class_pixels"] == [int((expected == label).sum()) for label in classes]
        if sample.groups:
            assert row["group"] == sample.groups[row["tile_id"].removeprefix("images/")]


def coco(tmp_path: Path) -> Sample:
    return import_samples.make_coco(tmp_path / "source")


def test_another_import_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample, out = coco(tmp_path), tmp_path / "tree"
    assert run("import", *sample.arguments, "--out", out) == ExitCode.OK
    before = results(out)
    assert run("import", *sample.arguments, "--order", "area", "--out", out) == ExitCode.USAGE
    assert "made with other settings: options" in capsys.readouterr().err
    other = import_samples.make_by_instance(tmp_path / "other")
    assert run("import", *other.arguments, "--out", out) == ExitCode.USAGE
    content = json.loads(sample.source.read_text())
    content["annotations"].pop()
    sample.source.write_text(json.dumps(content))
    assert run("import", *sample.arguments, "--out", out) == ExitCode.USAGE
    assert "annotations" in capsys.readouterr().err
    assert results(out) == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    sample, out = coco(tmp_path), tmp_path / "tree"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert run("import", *sample.arguments, "--out", out) == ExitCode.USAGE
    assert every_file(out) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("place", [".", "photos", "photos/tree"])
def test_a_tree_in_the_source_is_refused(tmp_path: Path, place: str) -> None:
    sample = import_samples.make_by_class(tmp_path / "source")
    before = every_file(sample.source)
    code = run("import", *sample.arguments, "--out", sample.source / place)
    assert code == ExitCode.USAGE
    assert every_file(sample.source) == before


def test_a_changed_mask_is_an_error_and_a_missing_one_is_made_again(tmp_path: Path) -> None:
    sample, out = coco(tmp_path), tmp_path / "tree"
    command = ("import", *sample.arguments, "--out", out)
    assert run(*command) == ExitCode.OK
    before = results(out)
    mask = out / "masks" / "field_0.png"
    mask.unlink()
    assert run(*command) == ExitCode.OK
    assert results(out) == before
    save(np.zeros((96, 112), np.uint8), mask)
    assert run(*command) == ExitCode.INTEGRITY
    assert run("verify", out) == ExitCode.INTEGRITY


def test_missing_images_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, out = coco(tmp_path), tmp_path / "tree"
    photo = tmp_path / "source" / "photos" / "field_1.png"
    photo.rename(tmp_path / "elsewhere.png")
    strict = ("import", *sample.arguments, "--strict", "--out", out)
    assert run(*strict) == ExitCode.USAGE
    assert not out.exists()
    assert "field_1: there is no such image" in capsys.readouterr().err
    assert run("import", *sample.arguments, "--out", out) == ExitCode.INCOMPLETE
    output = capsys.readouterr()
    assert "field_1: there is no such image" in output.err
    assert "2 images with masks, 1 failed" in output.out
    assert masks_of(out).keys() == {"field_0", "field_2"}
    # Found later, it is added by the same command.
    (tmp_path / "elsewhere.png").rename(photo)
    assert run("import", *sample.arguments, "--out", out) == ExitCode.OK
    assert masks_of(out).keys() == sample.masks.keys()


def test_no_image_at_all_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = coco(tmp_path)
    shutil.move(tmp_path / "source" / "photos", tmp_path / "photos")
    assert run("import", *sample.arguments, "--out", tmp_path / "tree") == ExitCode.USAGE
    assert "--images" in capsys.readouterr().err
    named = (*sample.arguments, "--images", tmp_path / "photos")
    assert run("import", *named, "--out", tmp_path / "tree") == ExitCode.OK


def test_the_tree_is_no_part_of_its_own_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = coco(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ("import", "coco", sample.source, "--images", ".", "--out", "tree")
    assert run(*command) == ExitCode.OK
    before = results(tmp_path / "tree")
    assert run(*command) == ExitCode.OK
    assert results(tmp_path / "tree") == before


def test_an_image_of_another_size_or_damaged_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, out = coco(tmp_path), tmp_path / "tree"
    photos = tmp_path / "source" / "photos"
    save(tissue(0, 50, 50), photos / "field_0.png")
    (photos / "field_1.png").write_bytes((photos / "field_1.png").read_bytes()[:900])
    assert run("import", *sample.arguments, "--out", out) == ExitCode.INCOMPLETE
    errors = capsys.readouterr().err
    assert "field_0: the image has another size" in errors
    assert "seen 50 x 50 px; expected 112 x 96 px" in errors
    assert "field_1: HP201 truncated" in errors
    assert every_file(out).keys() & {"masks/field_0.png", "images/field_0.png"} == set()


def test_images_are_copied_on_request(tmp_path: Path) -> None:
    sample, out = coco(tmp_path), tmp_path / "tree"
    assert run("import", *sample.arguments, "--copy", "--out", out) == ExitCode.OK
    photo, image = tmp_path / "source" / "photos" / "field_0.png", out / "images" / "field_0.png"
    assert image.read_bytes() == photo.read_bytes()
    assert not image.samefile(photo)
    assert {row["image_how"] for row in ledger_of(out)} == {"copied"}


def test_links_are_symbolic_where_hard_ones_are_not_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    sample = coco(tmp_path)
    import tempfile

    with tempfile.TemporaryDirectory(dir=shared_memory) as folder:
        out = Path(folder) / "tree"
        assert run("import", *sample.arguments, "--out", out) == ExitCode.OK
        image = out / "images" / "field_0.png"
        assert image.is_symlink()
        assert image.read_bytes() == (tmp_path / "source/photos/field_0.png").read_bytes()
        assert "--follow-links" in capsys.readouterr().err
        assert run("import", *sample.arguments, "--out", out) == ExitCode.OK


def test_numbers_of_annotations_are_kept_on_request(tmp_path: Path) -> None:
    sample, out = import_samples.make_by_instance(tmp_path / "source"), tmp_path / "tree"
    assert run("import", *sample.arguments, "--keep-instances", "--out", out) == ExitCode.OK
    for name, expected in sample.masks.items():
        numbers = np.asarray(Image.open(out / ".instances" / f"{name}.png"))
        np.testing.assert_array_equal(numbers > 0, expected > 0)
        assert numbers.max() == int(name[:4], 16) + 1
    assert run("verify", out) == ExitCode.OK
    # The scan leaves the hidden folder alone.
    assert run("audit", out, "--workspace", tmp_path / "work", "--workers", "1") == ExitCode.OK
