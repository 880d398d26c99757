"""What cannot be read of labelme, CVAT, panoptic, stacks, .mat files, A|B images and several masks:
named, with place, seen and expected; and what each of them does besides.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import import_samples
import numpy as np
import pyarrow.parquet as pq
import pytest
from import_samples import Sample, blob, save, stack_layers, tissue
from PIL import Image
from scipy.io import loadmat, savemat
from test_import import ledger_of, masks_of, run

from histoprep.errors import ExitCode
from histoprep.labels import load_label_map


def refused(sample: Sample, *options: str, capsys: pytest.CaptureFixture[str], out: Path) -> str:
    """Return the error of an import that writes nothing."""
    assert run("import", *sample.arguments, *options, "--out", out) == ExitCode.USAGE
    assert not out.exists()
    return capsys.readouterr().err


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# labelme


def shape(number: int, **entries: Any) -> Callable[[Any], object]:
    return lambda content: content["shapes"][number].update(entries)


BAD_LABELME = {
    "no label": (lambda c: c["shapes"][0].pop("label"), "shape 0: 'label' is missing"),
    "no points": (lambda c: c["shapes"][0].pop("points"), "shape 0: 'points' is missing"),
    "a text": (shape(0, points=[[1, "2"]]), "shape 0, points, 0, 1: not a number"),
    "half a character": (shape(4, shape_type="\ud800"), "shape 4, shape_type: a text with half"),
    "far away": (shape(2, points=[[1, 2], [3e9, 4]]), "shape 2, points, 1: a coordinate far"),
    "three corners": (
        shape(1, points=[[1, 2], [3, 4], [5, 6]]),
        "shape 1, points: another number of points than this shape has",
    ),
    "no bitmap": (shape(3, mask="!!"), "shape 3, mask: no PNG in base64"),
    "other bitmap": (
        shape(3, mask=base64.b64encode(b"GIF89a").decode()),
        "shape 3, mask: no PNG in base64",
    ),
    "size of a bitmap": (
        shape(3, points=[[0, 0], [5, 5]]),
        "shape 3, mask: a bitmap of another size than its corners say",
    ),
    "no shapes": (lambda c: c.pop("shapes"), "this is no labelme file"),
    "height": (lambda c: c.update(imageHeight=-3), "imageHeight: not a usable number"),
}


@pytest.mark.parametrize("case", BAD_LABELME)
def test_labelme_files_that_cannot_be(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = import_samples.make_labelme(tmp_path / "source")
    change, message = BAD_LABELME[case]
    edit_json(tmp_path / "source" / "field_1.json", change)
    errors = refused(sample, capsys=capsys, out=tmp_path / "tree")
    assert message in errors
    assert "field_1.json" in errors


def test_labelme_shapes_outside_and_reversed(tmp_path: Path) -> None:
    sample, out = import_samples.make_labelme(tmp_path / "source", 1), tmp_path / "tree"
    path = tmp_path / "source" / "field_0.json"
    edit_json(
        path,
        lambda content: content.update(
            shapes=[
                {"label": "a", "points": [[5, 5]] * 2, "shape_type": "polygon"},
                {"label": "a", "points": [[900, 900], [950, 950]], "shape_type": "rectangle"},
                {"label": "a", "points": [[30.0, 40.0], [10.0, 20.0]], "shape_type": "rectangle"},
            ]
        ),
    )
    assert run("import", *sample.arguments, "--out", out) == ExitCode.OK
    [row] = ledger_of(out)
    assert [row[name] for name in ("drawn", "empty", "outside")] == [1, 1, 1]
    assert masks_of(out)["field_0"][20:41, 10:31].all()
    assert masks_of(out)["field_0"].sum() == 21 * 21


def test_labelme_pixels_that_belong_to_no_class(tmp_path: Path) -> None:
    sample, out = import_samples.make_labelme(tmp_path / "source"), tmp_path / "tree"
    path = tmp_path / "source" / "field_0.json"
    edit_json(path, shape(1, label="__ignore__"))
    assert run("import", *sample.arguments, "--out", out) == ExitCode.OK
    mask = masks_of(out)["field_0"]
    assert set(np.unique(mask)) == {0, 1, 2, 3, 255}
    label_map = load_label_map(out / "label_map.yml")
    assert label_map.ignore == ((255, 255),)
    assert len(label_map.classes) == 4
    assert run("audit", out, "--workspace", tmp_path / "work", "--workers", "1") == ExitCode.OK
    assert run("manifest", out, "--workspace", tmp_path / "work") == ExitCode.OK
    rows = pq.read_table(tmp_path / "work" / "manifest.parquet").to_pylist()
    [row] = [row for row in rows if row["mask_path"] == "masks/field_0.png"]
    assert row["class_pixels"] == [int((mask == label).sum()) for label in range(4)]


def test_labelme_bitmaps_with_fractions_as_corners(tmp_path: Path) -> None:
    sample, out = import_samples.make_labelme(tmp_path / "source", 1), tmp_path / "tree"
    path = tmp_path / "source" / "field_0.json"
    edit_json(path, shape(3, points=[[10.4, 4.6], [38.7, 24.2]]))
    assert run("import", *sample.arguments, "--out", out) == ExitCode.OK
    np.testing.assert_array_equal(masks_of(out)["field_0"], sample.masks["field_0"])


# CVAT

BAD_CVAT = {
    "cut off": (("</annotations>", ""), "this file is no XML, or cut off"),
    "a track": (("<image id", '<track id="0"/><image id'), "tracks of a video"),
    "a document type": (("<annotations>", "<!DOCTYPE a []><annotations>"), "a document type"),
    "a document type further down": (
        ("<annotations>", f"<!--{' ' * 9000}--><!DOCTYPE a [<!ENTITY b 'c'>]><annotations>"),
        "a document type",
    ),
    "another root": (("annotations>", "notes>"), "this is no CVAT file"),
    "no width": (('width="100" height="96"', 'height="96"'), "the attribute 'width' is missing"),
    "a text": (
        ('cx="20.4"', 'cx="left"'),
        "image 'a/field_0.png', ellipse 3: cx is no usable number",
    ),
    "not finite": (('cx="20.4"', 'cx="nan"'), "cx is no usable number"),
    "far away": (('cx="20.4"', 'cx="2e9"'), "cx is no usable number"),
    "half a point": (('points="', 'points="3;'), "polygon 0: a point that is no pair of numbers"),
    "run lengths": (('rle="', 'rle="3, '), "mask 4: run lengths of another number of pixels"),
    "a radius below 0": (('rx="', 'rx="-'), "ellipse 3: a radius below 0"),
    "a box of less than no width": (('xbr="', 'xbr="-'), "a box of a width or height below 0"),
    "an unknown element": (("<tag", "<blob"), "an element that CVAT does not write here"),
    "no label": (('polygon label="tumour" ', "polygon "), "the attribute 'label' is missing"),
}


@pytest.mark.parametrize("case", BAD_CVAT)
def test_cvat_files_that_cannot_be(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = import_samples.make_cvat(tmp_path / "source")
    (old, new), message = BAD_CVAT[case]
    path = tmp_path / "source" / "annotations.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    errors = refused(sample, capsys=capsys, out=tmp_path / "tree")
    assert message in errors
    assert "annotations.xml" in errors


# Panoptic


def test_panoptic_files_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = import_samples.make_panoptic(tmp_path / "source")
    path = tmp_path / "source" / "panoptic.json"
    original = path.read_text()
    out = tmp_path / "tree"
    edit_json(path, lambda c: c["annotations"][1]["segments_info"][0].update(category_id=99))
    assert "its category is not among the categories" in refused(sample, capsys=capsys, out=out)
    path.write_text(original)
    edit_json(path, lambda c: c["annotations"][1].update(image_id=99))
    assert "its image is not among the images" in refused(sample, capsys=capsys, out=out)
    path.write_text(original)
    renamed = (tmp_path / "source" / "panoptic").rename(tmp_path / "source" / "segments")
    assert "name it with --masks" in refused(sample, capsys=capsys, out=out)
    command = ("import", *sample.arguments, "--masks", renamed, "--out", out)
    assert run(*command) == ExitCode.OK
    np.testing.assert_array_equal(masks_of(out)["field_2"], sample.masks["field_2"])
    coco = Sample(path, ["coco", str(path)], {}, {})
    assert "histoprep import panoptic" in refused(coco, capsys=capsys, out=tmp_path / "other")


def test_segments_that_no_entry_names_and_entries_without_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, out = import_samples.make_panoptic(tmp_path / "source"), tmp_path / "tree"

    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["segments_info"].pop()
        content["annotations"][1]["segments_info"].append({"id": 9999, "category_id": 3})

    edit_json(tmp_path / "source" / "panoptic.json", change)
    assert run("import", *sample.arguments, "--out", out) == ExitCode.INCOMPLETE
    assert "field_0: segment of field_0.png without an entry: seen 300" in capsys.readouterr().err
    row = ledger_of(out)[1]
    assert [row[name] for name in ("read", "drawn", "empty")] == [4, 3, 1]


# Stacks


def stack(tmp_path: Path) -> tuple[Sample, Path]:
    return import_samples.make_npy_stack(tmp_path / "source"), tmp_path / "source"


def test_stacks_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample, source = stack(tmp_path)
    images, masks = source / "images" / "images.npy", source / "masks" / "masks.npy"
    whole = masks.read_bytes()
    out = tmp_path / "tree"

    def error(*options: str) -> str:
        return refused(sample, *options, capsys=capsys, out=out)

    masks.write_bytes(whole[:5000])
    assert "no array of numbers, or cut off" in error()
    masks.write_bytes(b"PK")
    assert "no array of numbers, or cut off" in error()
    np.save(masks, np.zeros((4, 96, 96, 6), object), allow_pickle=True)
    assert "no array of numbers, or cut off" in error()
    np.save(masks, np.zeros((3, 96, 96, 6)))
    assert "seen: float64 [3, 96, 96, 6]" in error()
    masks.write_bytes(whole)
    assert "--classes names another number of channels" in error("--classes", "a,b")
    np.save(source / "images" / "types.npy", np.array(["a"]))
    assert "expected: [4]" in error()
    images.unlink()
    assert "there are no stacks here" in error()


def test_values_that_are_no_colours_or_numbers_fail_for_their_tile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, source = stack(tmp_path)
    images = np.load(source / "images" / "images.npy")
    images[1, 0, 0] = 300
    images[2, 0, 0] = np.nan
    np.save(source / "images" / "images.npy", images)
    masks = np.load(source / "masks" / "masks.npy")
    masks[3, 0, 0, 0] = 0.5
    np.save(source / "masks" / "masks.npy", masks)
    out = tmp_path / "tree"
    assert run("import", *sample.arguments, "--out", out) == ExitCode.INCOMPLETE
    errors = capsys.readouterr().err
    assert "000001: an image with other values than colours" in errors
    assert "000002: an image with other values than colours" in errors
    assert "000003: a mask with values that are no numbers of objects" in errors
    assert masks_of(out).keys() == {"000000"}


def test_images_from_0_to_1_and_folds(tmp_path: Path) -> None:
    for fold in (1, 2):
        made = import_samples.make_npy_stack(tmp_path / "made" / str(fold))
        for kind in ("images", "masks"):
            old = tmp_path / "made" / str(fold) / kind
            new = tmp_path / "source" / f"Fold {fold}" / kind / f"fold{fold}"
            new.parent.mkdir(parents=True, exist_ok=True)
            old.rename(new)
        path = tmp_path / "source" / f"Fold {fold}" / "images" / f"fold{fold}" / "images.npy"
        np.save(path, (np.load(path) / 255).astype(np.float32))
    out = tmp_path / "tree"
    assert run("import", "npy-stack", tmp_path / "source", "--out", out) == ExitCode.OK
    assert len(masks_of(out)) == 8
    np.testing.assert_array_equal(masks_of(out)["fold2_000003"], made.masks["000003"])
    image = np.asarray(Image.open(out / "images" / "fold1_000002.png"))
    np.testing.assert_array_equal(image, tissue(2))
    assert "images/fold1_000000.png,Breast" in (out / "dataset.csv").read_text()
    assert (out / "dataset.csv").read_text().startswith("image,label\n")


def test_masks_without_channels_and_with_a_background_of_choice(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    np.save(source / "images.npy", np.stack([tissue(1), tissue(2)]))
    labels = np.stack([stack_layers([(3, blob(n)), (9, blob(n + 5))], 96, 96) for n in (1, 2)])
    np.save(source / "masks.npy", labels.astype(np.int32))
    assert run("import", "npy-stack", source, "--out", tmp_path / "flat") == ExitCode.OK
    np.testing.assert_array_equal(masks_of(tmp_path / "flat")["000001"], labels[1])
    channels = np.stack([labels == 3, labels == 9], -1).astype(np.uint8)
    np.save(source / "masks.npy", channels)
    assert run("import", "npy-stack", source, "--out", tmp_path / "two") == ExitCode.OK
    expected = np.where(labels == 9, 2, np.where(labels == 3, 1, 0))
    np.testing.assert_array_equal(masks_of(tmp_path / "two")["000000"], expected[0])
    command = ("import", "npy-stack", source, "--background-channel", "last")
    assert run(*command, "--out", tmp_path / "last") == ExitCode.OK
    np.testing.assert_array_equal(masks_of(tmp_path / "last")["000000"], labels[0] == 3)


def test_numbers_of_objects_are_kept(tmp_path: Path) -> None:
    sample, _ = stack(tmp_path)
    out = tmp_path / "tree"
    assert run("import", *sample.arguments, "--keep-instances", "--out", out) == ExitCode.OK
    numbers = np.asarray(Image.open(out / ".instances" / "000000.png"))
    assert numbers.dtype == np.uint16
    np.testing.assert_array_equal(numbers > 0, sample.masks["000000"] > 0)
    for number in np.unique(numbers[numbers > 0]):
        assert len(np.unique(sample.masks["000000"][numbers == number])) == 1


# MATLAB


def test_images_beside_overlays_and_in_two_splits_are_found(tmp_path: Path) -> None:
    for split in ("Train", "Test"):
        import_samples.make_mat_consep(tmp_path / "source" / split)
        (tmp_path / "source" / split / "Overlay").mkdir()
        for image in (tmp_path / "source" / split / "Images").iterdir():
            Image.new("RGB", (96, 96)).save(image.parents[1] / "Overlay" / image.name)
    out = tmp_path / "tree"
    assert run("import", "mat", tmp_path / "source", "--out", out) == ExitCode.OK
    made = sorted(path for path in (out / "images").rglob("*.png"))
    assert len(made) == 4
    for path in made:
        split = path.parent.relative_to(out / "images").parts[0]
        assert path.samefile(tmp_path / "source" / split / "Images" / path.name)


def test_mat_files_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = import_samples.make_mat_lizard(tmp_path / "source")
    path = tmp_path / "source" / "Labels" / "consep_1.mat"
    out, whole = tmp_path / "tree", path.read_bytes()
    content = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}

    def error(**changes: Any) -> str:
        kept = {k: v for k, v in (content | changes).items() if v is not None}
        savemat(path, kept)
        return refused(sample, capsys=capsys, out=out)

    assert "objects of inst_map without a class" in error(id=np.array([[4], [9], [77]]))
    assert "id and class differ in length" in error(id=np.array([[4]]))
    assert "no map of labels" in error(inst_map=None)
    assert "inst_map is no map of labels" in error(inst_map=np.full((96, 96), 0.5))
    assert "inst_map is no map of labels" in error(inst_map=np.zeros((3, 96, 96)))
    for data in (whole[:300], b"", b"nothing of this kind" * 30):
        path.write_bytes(data)
        assert "this is no .mat file, or cut off" in refused(sample, capsys=capsys, out=out)
    path.write_bytes(whole)
    errors = refused(sample, "--classes", "a,b", capsys=capsys, out=out)
    assert "labels that --classes does not name" in errors and "seen: 3, 6" in errors


def test_a_mat_file_that_ends_the_process_that_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One byte: the type of the numbers of inst_map, which SciPy looks up without checking it."""
    sample = import_samples.make_mat_lizard(tmp_path / "source")
    path = tmp_path / "source" / "Labels" / "consep_1.mat"
    data = bytearray(path.read_bytes())
    assert data[176:184] == b"inst_map"
    data[185] = 0x22
    path.write_bytes(data)
    errors = refused(sample, capsys=capsys, out=tmp_path / "tree")
    assert "consep_1.mat" in errors
    assert "damaged" in errors or "no .mat file" in errors


def matlab_73(path: Path, content: dict[str, np.ndarray]) -> None:
    """Write a MATLAB 7.3 file: HDF5 behind 512 bytes, arrays down the columns."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in content.items():
            file[name] = np.asarray(array).T
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def test_matlab_73_needs_h5py(tmp_path: Path) -> None:
    sample, out = import_samples.make_mat_lizard(tmp_path / "source"), tmp_path / "tree"
    for path in (tmp_path / "source" / "Labels").iterdir():
        matlab_73(path, {k: v for k, v in loadmat(path).items() if not k.startswith("__")})
    assert run("import", *sample.arguments, "--out", out) == ExitCode.OK
    for name, expected in sample.masks.items():
        np.testing.assert_array_equal(masks_of(out)[name], expected)
    errors = without("h5py", [*sample.arguments, "--out", str(tmp_path / "other")])
    assert "MATLAB 7.3 files such as" in errors
    assert "pip install -c constraints.txt '.[import]'" in errors


def without(package: str, arguments: list[str]) -> str:
    """Return what an import prints where a package is not installed."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from histoprep.cli import main; main(['import', *{arguments!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.USAGE or done.returncode == ExitCode.INCOMPLETE
    return done.stderr


@pytest.mark.parametrize(
    ("maker", "package"), [("coco", "pycocotools"), ("cvat", "pycocotools"), ("qupath", "rasterio")]
)
def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(
    tmp_path: Path, maker: str, package: str
) -> None:
    sample = getattr(import_samples, f"make_{maker}")(tmp_path / "source")
    errors = without(package, [*sample.arguments, "--out", str(tmp_path / "tree")])
    assert f"need the package {package}, which is not installed" in errors
    assert "pip install -c constraints.txt '.[import]'" in errors
    assert not (tmp_path / "tree").exists()


# Side by side


def test_masks_on_the_left_and_grey_ones(tmp_path: Path) -> None:
    labels = np.where(blob(1), 7, np.where(blob(2), 255, 0)).astype(np.uint8)
    grey = np.repeat(labels[..., None], 3, -1)
    save(np.concatenate([grey, tissue(1)], 1), tmp_path / "source" / "a.png")
    command = ("import", "side-by-side", tmp_path / "source", "--mask", "left")
    assert run(*command, "--out", tmp_path / "tree") == ExitCode.OK
    np.testing.assert_array_equal(masks_of(tmp_path / "tree")["a"], labels)
    image = np.asarray(Image.open(tmp_path / "tree" / "images" / "a.png"))
    np.testing.assert_array_equal(image, tissue(1))


def test_masks_that_went_through_jpeg_need_their_colours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = stack_layers([(1, blob(1)), (2, blob(5))], 96, 96)
    palette = np.array([[0, 0, 0], [0, 160, 0], [255, 0, 0]], np.uint8)
    pair = np.concatenate([tissue(1), palette[labels]], 1)
    path = save(pair, tmp_path / "source" / "a.jpg", quality=95, subsampling=0)
    sample = Sample(path, ["side-by-side", str(tmp_path / "source")], {}, {})
    errors = refused(sample, capsys=capsys, out=tmp_path / "tree")
    assert "went through JPEG" in errors and "--colours" in errors
    stated = "#00a000=stroma,#ff0000=tumour"
    command = ("import", *sample.arguments, "--colours", stated, "--out", tmp_path / "tree")
    assert run(*command) == ExitCode.OK
    assert "have none of the colours, and got the nearest" in capsys.readouterr().err
    made = masks_of(tmp_path / "tree")["a"]
    stored = np.asarray(Image.open(path)).astype(int)[:, 96:]
    distances = ((stored[:, :, None] - palette.astype(int)) ** 2).sum(-1)
    np.testing.assert_array_equal(made, distances.argmin(-1))
    assert (made != labels).mean() < 0.02


@pytest.mark.parametrize(
    ("width", "message"),
    [(193, "cannot be cut in the middle"), (192, "neither half looks like a mask")],
)
def test_pairs_that_cannot_be(
    tmp_path: Path, width: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tissue(1, 96, width), tmp_path / "source" / "a.png")
    sample = Sample(tmp_path, ["side-by-side", str(tmp_path / "source")], {}, {})
    assert message in refused(sample, capsys=capsys, out=tmp_path / "tree")


def pair_of(*parts: np.ndarray) -> np.ndarray:
    """Return parts beside each other as one RGB image; labels become grey values."""
    return np.concatenate(
        [part if part.ndim == 3 else np.repeat(part[..., None], 3, -1) for part in parts], 1
    )


GREY = np.where(blob(1), 80, np.where(blob(5), 160, 0)).astype(np.uint8)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_of_the_mask_is_found(tmp_path: Path, side: str) -> None:
    # Half of this image is an even white, as slides have it around the tissue.
    image = tissue(1)
    image[40:] = 255
    parts = (GREY, image) if side == "left" else (image, GREY)
    save(pair_of(*parts), tmp_path / "source" / "a.png")
    # A blank mask beside a blank image says nothing of the side.
    blank = np.zeros_like(GREY)
    save(pair_of(blank, blank), tmp_path / "source" / "b.png")
    out = tmp_path / "tree"
    assert run("import", "side-by-side", tmp_path / "source", "--out", out) == ExitCode.OK
    np.testing.assert_array_equal(masks_of(out)["a"], GREY)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "images" / "a.png")), image)
    request = json.loads((out / "import.json").read_text())
    assert f'"mask": "{side}"' in json.dumps(request)


def test_a_photograph_is_no_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        save(pair_of(tissue(ord(name)), GREY), tmp_path / "source" / f"{name}.png")
    sample = Sample(tmp_path, ["side-by-side", str(tmp_path / "source")], {}, {})
    out = tmp_path / "tree"
    for options in (("--mask", "left"), ("--mask", "left", "--colours", "#505050,#a0a0a0")):
        errors = refused(sample, *options, capsys=capsys, out=out)
        assert "the left half is a photograph, not a mask" in errors
        [command] = re.findall(r"try: (histoprep .*)", errors)
        assert "--mask right" in command
        assert run(*shlex.split(command)[1:]) == ExitCode.OK
        np.testing.assert_array_equal(masks_of(out)["a"] > 0, GREY > 0)
        shutil.rmtree(out)


def test_a_photograph_among_pairs_is_not_imported(tmp_path: Path) -> None:
    save(pair_of(tissue(1), GREY), tmp_path / "source" / "a.png")
    save(pair_of(tissue(2), tissue(3)), tmp_path / "source" / "b.png")
    out = tmp_path / "tree"
    assert run("import", "side-by-side", tmp_path / "source", "--out", out) == ExitCode.INCOMPLETE
    reasons = {row["name"]: row["reason"] for row in ledger_of(out)}
    assert reasons == {"a": None, "b": "its right half is a photograph, not a mask"}


def test_sides_that_differ_or_cannot_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = Sample(tmp_path, ["side-by-side", str(tmp_path / "source")], {}, {})
    save(pair_of(GREY, GREY), tmp_path / "source" / "a.png")
    errors = refused(sample, capsys=capsys, out=tmp_path / "tree")
    assert "both halves could be the mask" in errors
    assert "--mask left" in errors and "--mask right" in errors
    save(pair_of(tissue(1), GREY), tmp_path / "source" / "a.png")
    save(pair_of(GREY, tissue(1)), tmp_path / "source" / "b.png")
    errors = refused(sample, capsys=capsys, out=tmp_path / "tree")
    assert "on the left in 1 file, such as" in errors and "on the right in 1 file" in errors
    save(pair_of(tissue(1), GREY, tissue(2)), tmp_path / "third" / "a.png")
    third = Sample(tmp_path, ["side-by-side", str(tmp_path / "third")], {}, {})
    errors = refused(third, capsys=capsys, out=tmp_path / "tree")
    assert "neither half looks like a mask" in errors


def test_colours_that_no_mask_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(pair_of(tissue(1), GREY), tmp_path / "source" / "a.png")
    sample = Sample(tmp_path, ["side-by-side", str(tmp_path / "source")], {}, {})
    out = tmp_path / "tree"
    errors = refused(sample, "--colours", "#ff0000=tumour", capsys=capsys, out=out)
    assert "far from every colour" in errors
    [command] = re.findall(r"try: (histoprep .*)", errors)
    assert "#505050" in command and "#ff0000" not in command
    assert run(*shlex.split(command)[1:]) == ExitCode.OK
    assert np.unique(masks_of(out)["a"]).tolist() == [0, 1, 2]


# What has no area


def test_boxes_are_drawn_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_samples.make_coco(tmp_path / "source")
    path = tmp_path / "source" / "instances.json"

    def keep_boxes(content: Any) -> None:
        for annotation in content["annotations"]:
            del annotation["segmentation"]
            annotation["bbox"] = [10, 20, 30, 5]

    edit_json(path, keep_boxes)
    out = tmp_path / "plain"
    assert run("import", "coco", path, "--out", out) == ExitCode.INCOMPLETE
    printed = capsys.readouterr().err
    assert "12 annotations without an area, in no mask: 12 without outline" in printed
    assert "no annotation covers a pixel" in printed and "--boxes" in printed
    # The same again says the same, although nothing is done.
    assert run("import", "coco", path, "--out", out) == ExitCode.INCOMPLETE
    capsys.readouterr()
    out = tmp_path / "boxes"
    assert run("import", "coco", path, "--boxes", "--out", out) == ExitCode.OK
    rows, columns = np.nonzero(masks_of(out)["field_0"])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 24, 10, 39)
    edit_json(path, lambda content: content["annotations"][2].update(bbox=[10, 20, -30, 5]))
    assert run("import", "coco", path, "--boxes", "--out", tmp_path / "bad") == ExitCode.USAGE
    assert "annotation 3, bbox: no box" in capsys.readouterr().err


def test_labelme_lines_alone_leave_every_mask_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = import_samples.make_labelme(tmp_path / "source")
    for path in (tmp_path / "source").rglob("*.json"):
        line = {"label": "a", "shape_type": "line", "points": [[1, 1], [9, 9]]}
        edit_json(path, lambda content, line=line: content.update(shapes=[line]))
    assert run("import", *sample.arguments, "--out", tmp_path / "tree") == ExitCode.INCOMPLETE
    printed = capsys.readouterr().err
    assert re.search(r"(\d+) annotations without an area, in no mask: \1 line", printed)
    assert "no annotation covers a pixel" in printed


def test_images_that_annotations_name_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_samples.make_coco(tmp_path / "coco")
    path = tmp_path / "coco" / "instances.json"
    edit_json(path, lambda c: c["images"].append(c["images"][0] | {"id": 99}))
    assert run("import", "coco", path, "--out", tmp_path / "tree") == ExitCode.USAGE
    errors = capsys.readouterr().err
    assert "the source names an image twice" in errors and "field_0.png" in errors


def test_coco_ids_as_text_and_no_categories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = import_samples.make_coco(tmp_path)
    path = tmp_path / "instances.json"
    edit_json(path, lambda c: [image.update(id=str(image["id"])) for image in c["images"]])
    assert run("import", *sample.arguments, "--out", tmp_path / "tree") == ExitCode.OK
    for name, labels in sample.masks.items():
        np.testing.assert_array_equal(masks_of(tmp_path / "tree")[name], labels)
    capsys.readouterr()
    edit_json(path, lambda content: content.update(categories=[]))
    errors = refused(sample, capsys=capsys, out=tmp_path / "other")
    assert "the file has no categories" in errors and "one of" not in errors


def test_more_categories_than_classes_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = import_samples.make_coco(tmp_path)
    many = [{"id": number, "name": f"kind {number}"} for number in range(1, 400)]
    edit_json(tmp_path / "instances.json", lambda content: content.update(categories=many))
    assert run("import", *sample.arguments, "--out", tmp_path / "tree") == ExitCode.OK
    printed = capsys.readouterr().err
    assert "400 labels are more than the 256 classes" in printed
    assert "2 classes, background and annotated" in printed


@pytest.mark.filterwarnings("error")
def test_stacks_with_values_that_are_no_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.stack([tissue(0, 8, 8), tissue(1, 8, 8)]).astype(np.float64)
    masks = np.ones((2, 8, 8, 2), np.float64)
    images[0], masks[1, 0, 0, 0] = np.nan, np.nan
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "masks.npy", masks)
    command = ("import", "npy-stack", tmp_path, "--out", tmp_path.with_name("tree"))
    assert run(*command, "--background-channel", "none") == ExitCode.INCOMPLETE
    printed = capsys.readouterr().err
    assert "192 of 192 values NaN or infinite, row 0" in printed
    assert "float64, 1 to 1, 1 of 128 values NaN or infinite, row 1" in printed
    shutil.rmtree(tmp_path.with_name("tree"))


# Several masks


def test_the_order_of_classes_is_stated_and_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, out = import_samples.make_by_class(tmp_path / "source"), tmp_path / "tree"
    command = ("import", *sample.arguments, "--out", out)
    assert run(*command, "--classes", "tumour,stroma") == ExitCode.OK
    assert "the last on top" in capsys.readouterr().err
    expected = stack_layers([(1, blob(9)), (2, blob(0))], 96, 96)
    np.testing.assert_array_equal(masks_of(out)["field_0"], expected)
    row = ledger_of(out)[0]
    assert row["contested_pixels"] == row["overlapped_pixels"] == int((blob(9) & blob(0)).sum())


def test_masks_by_a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    save(tissue(1), source / "case7" / "scan.png")
    save(blob(1).astype(np.uint8) * 255, source / "case7" / "A-scan-tumour-v2.png")
    save(blob(2).astype(np.uint8) * 255, source / "case7" / "A-scan-stroma-v2.png")
    pattern = r"(.*/)?A-(?P<key>\w+)-(?P<class>\w+)-v2"
    command = ("import", "combine", source, "--by", "class", "--mask-pattern", pattern)
    assert run(*command, "--out", tmp_path / "tree") == ExitCode.OK
    expected = stack_layers([(1, blob(2)), (2, blob(1))], 96, 96)
    np.testing.assert_array_equal(masks_of(tmp_path / "tree")["scan"], expected)
    for bad in ("(", "(?P<key>.*)"):
        code = run(*command[:-1], bad, "--out", tmp_path / "other")
        assert code == ExitCode.USAGE
        assert "--mask-pattern" in capsys.readouterr().err


def test_masks_in_folders_that_options_name(tmp_path: Path) -> None:
    save(tissue(1), tmp_path / "source" / "A" / "x.tif")
    save(blob(1), tmp_path / "source" / "B" / "x_1.png")
    save(blob(2), tmp_path / "source" / "B" / "x_2.png")
    source = tmp_path / "source"
    command = ("import", "combine", source, "--by", "instance", "--out", tmp_path / "tree")
    assert run(*command) == ExitCode.USAGE
    assert run(*command, "--images", source / "A", "--masks", source / "B") == ExitCode.OK
    np.testing.assert_array_equal(masks_of(tmp_path / "tree")["x"], blob(1) | blob(2))


@pytest.mark.parametrize("kind", ["palette", "rgb", "rgba", "sixteen", "one bit", "jpeg"])
def test_pixels_of_a_mask_are_set_in_any_encoding(tmp_path: Path, kind: str) -> None:
    pixels = blob(3)
    folder = tmp_path / "source"
    save(tissue(1), folder / "x.png")
    path = folder / "x_mask_1.png"
    if kind == "palette":
        image = Image.fromarray(pixels.astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 128, 0, 0])
        image.save(path)
    elif kind == "rgb":
        save(pixels[..., None] * np.array([0, 0, 200], np.uint8), path)
    elif kind == "rgba":
        opaque = np.full((96, 96, 1), 255, np.uint8)
        save(np.concatenate([pixels[..., None] * np.full(3, 9, np.uint8), opaque], -1), path)
    elif kind == "sixteen":
        save(pixels.astype(np.uint16) * 300, path)
    elif kind == "one bit":
        save(pixels, path)
    else:
        path = save(pixels.astype(np.uint8) * 255, folder / "x_mask_1.jpg", quality=95)
    out = tmp_path / "tree"
    assert run("import", "combine", folder, "--by", "instance", "--out", out) == ExitCode.OK
    np.testing.assert_array_equal(masks_of(out)["x"], pixels)


def test_images_without_masks_and_masks_without_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, out = import_samples.make_by_class_folder(tmp_path / "source"), tmp_path / "tree"
    save(tissue(77), tmp_path / "source" / "images" / "alone.jpg")
    save(blob(77), tmp_path / "source" / "masks" / "tumour" / "lost.png")
    assert run("import", *sample.arguments, "--out", out) == ExitCode.INCOMPLETE
    output = capsys.readouterr()
    assert "masks/tumour/lost: there is no image of this name" in output.err
    assert "3 images with masks, 1 without, 1 failed" in output.out
    assert (out / "images" / "alone.jpg").exists()
    assert masks_of(out).keys() == sample.masks.keys()


def test_a_mask_of_another_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample, out = import_samples.make_by_instance(tmp_path / "source"), tmp_path / "tree"
    path = sorted((tmp_path / "source").rglob("masks/*.png"))[0]
    save(blob(1, 40, 40), path)
    assert run("import", *sample.arguments, "--out", out) == ExitCode.INCOMPLETE
    assert "the mask has another size than its image" in capsys.readouterr().err


def test_folders_without_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("coco", "labelme", "cvat", "qupath", "panoptic", "npy-stack", "mat"):
        command = ("import", name, tmp_path / "empty", "--out", tmp_path / "tree")
        assert run(*command) == ExitCode.USAGE, name
        assert run("import", name, tmp_path / "gone", "--out", tmp_path / "tree") == ExitCode.USAGE
    for options in (("combine", "--by", "class"), ("side-by-side",)):
        command = ("import", options[0], tmp_path / "empty", *options[1:])
        assert run(*command, "--out", tmp_path / "tree") == ExitCode.USAGE
    assert not (tmp_path / "tree").exists()
    shutil.rmtree(tmp_path / "empty")
