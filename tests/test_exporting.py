"""Exports are read back by the tools they are for, or by the documented rules of their formats."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from audit_cases import DataSet, image_bytes, tissue
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from histoprep import cli, tables
from histoprep.errors import ExitCode
from histoprep.exporting.regions import find_regions, joined_ring
from histoprep.schemas.ledgers import EXPORT, open_ledger
from histoprep.schemas.manifest import Manifest, open_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.shards import open_tiles

FORMATS = ("coco", "yolo-seg", "nnunet", "fiftyone")
NUM_SLIDES, NUM_TILES, SIDE_PX = 8, 24, 96
LABEL_MAP = """\
sources: {0: glass, 1: stroma, 2: tumour, 7: vessel}
ignore: [200]
classes:
  0: {name: Background, colour: "#000000"}
  1: {name: Stroma, colour: "#d55e00"}
  3: {name: "Tumour: solid", colour: "#0072b2"}
  4: {name: Vessel, colour: "#009e73"}
map: {glass: Background, stroma: Stroma, tumour: "Tumour: solid", vessel: Vessel}
"""


def labels(seed: int, *, ignored: bool = False) -> np.ndarray:
    """Return a mask with rings, specks, pinched corners and several regions of a class."""
    rng = np.random.default_rng(seed)
    found = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    for _ in range(4):
        place = tuple(rng.integers(10, 86, 2).tolist())
        label = int(rng.choice([1, 2, 7]))
        cv2.circle(found, place, int(rng.integers(8, 24)), label, int(rng.choice([-1, 4])))
    found[rng.random(found.shape) < 0.003] = 1
    found[2:4, 2:4] = found[4:6, 4:6] = 2
    if ignored:
        found[80:, 70:] = 200
    return found


def run(*arguments: str | Path) -> int:
    return cli.run([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Return a data set of folders with equal names, of turned and odd images, and of tiles without
    a mask.
    """
    folder = tmp_path_factory.mktemp("export")
    data = DataSet(folder / "tiles")
    for index in range(NUM_TILES):
        name = f"images/s{index % NUM_SLIDES}/t{index // NUM_SLIDES}"
        pixels = tissue(index)
        if index == 0:
            turned = Image.Exif()
            turned[0x0112] = 6
            data.write(f"{name}.jpg", image_bytes(pixels, "JPEG", quality=95, exif=turned))
        elif index == 1:
            data.write(f"{name}.png", image_bytes(Image.fromarray(pixels).convert("P"), "PNG"))
        else:
            data.image(f"{name}.{'jpg' if index % 2 else 'png'}", pixels)
        if index % 6:
            mask = labels(index, ignored=index % 5 == 1)
            data.mask(f"{name}_mask.png".replace("images/", "masks/", 1), mask)
    (folder / "map.yml").write_text(LABEL_MAP)
    words = [data.root, "--map", folder / "map.yml", "--workers", "1"]
    layout = ["--images", "images", "--masks", "masks", "--group-by", r"(s\d+)/"]
    run("audit", *words, *layout)
    splits = ["--split", "train=0.5,val=0.25,test=0.25", "--seed", "1"]
    assert run("manifest", *words, *splits) == ExitCode.OK
    return open_manifest(Workspace.of(data.root).manifest)


@pytest.fixture(scope="module")
def shards(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "shards"
    assert run("shard", manifest.path, "--out", out, "--workers", "1") == ExitCode.OK
    return out


def out_of(folder: Path, form: str) -> Path:
    return folder / ("Dataset501_Tiles" if form == "nnunet" else form)


@pytest.fixture(scope="module")
def exported(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that exports a format once for the same options."""
    known: dict[tuple[str, ...], Path] = {}

    def export(form: str, *options: str, source: Path | None = None) -> Path:
        key = (form, *options, str(source))
        if key not in known:
            known[key] = out_of(tmp_path_factory.mktemp("out"), form)
            words = ("export", form, source or manifest.path, "--out", known[key], "--workers", "1")
            assert run(*words, *options) == ExitCode.OK
        return known[key]

    return export


def ledger_of(out: Path) -> list[dict[str, Any]]:
    opened = open_ledger(out / "ledger.parquet", EXPORT.ledger, EXPORT)
    rows: list[dict[str, Any]] = tables.read_table(opened).to_pylist()
    return rows


def numbers_of(out: Path) -> dict[int, int]:
    """Return the number of each class id, as classes.csv says."""
    with (out / "classes.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return {int(row["class"]): int(row["number"]) for row in rows if row["number"]}


def expected_masks(manifest: Manifest, out: Path, ignored: int) -> dict[str, np.ndarray]:
    """Return the mask of each tile that has one, in the numbers of an export."""
    source, numbers = open_tiles(manifest.path), numbers_of(out)
    found = {}
    for row, tile_id in enumerate(source.tile_ids):
        mask = source.read(row).mask
        if mask is not None:
            table = np.full(256, ignored)
            for class_id, number in numbers.items():
                table[class_id] = number
            found[str(tile_id)] = table[mask]
    return found


def splits_of(manifest: Manifest) -> dict[str, str]:
    rows = manifest.read(["tile_id", "split", "mask_path"]).to_pylist()
    return {row["tile_id"]: row["split"] for row in rows if row["mask_path"]}


def masks_of_coco(out: Path, split: str) -> dict[str, np.ndarray]:
    """Return what pycocotools draws of each image, by the path of the image without suffix."""
    opened = COCO(str(out / "annotations" / f"instances_{split}.json"))
    found = {}
    for image in opened.loadImgs(opened.getImgIds()):
        drawn = np.zeros((image["height"], image["width"]), int)
        for annotation in opened.loadAnns(opened.getAnnIds(imgIds=[image["id"]])):
            pixels = opened.annToMask(annotation).astype(bool)
            assert not drawn[pixels].any(), "regions overlap"
            assert pixels.sum() == annotation["area"]
            left, top, width, height = cv2.boundingRect(pixels.astype(np.uint8))
            assert annotation["bbox"] == [left, top, width, height]
            drawn[pixels] = annotation["category_id"]
        found[image["file_name"].rpartition(".")[0]] = drawn
    return found


def test_pycocotools_draws_the_masks(manifest: Manifest, exported: Callable[..., Path]) -> None:
    out = exported("coco")
    wanted, splits = expected_masks(manifest, out, 255), splits_of(manifest)
    seen = {}
    for split in ("train", "val", "test"):
        for name, drawn in masks_of_coco(out, split).items():
            tile_id = name.removeprefix(f"{split}/")
            assert splits[tile_id] == split
            np.testing.assert_array_equal(drawn, wanted[tile_id])
            seen[tile_id] = drawn
    assert seen.keys() == wanted.keys()
    assert any((mask == 255).any() for mask in seen.values())


def test_coco_has_classes_crowds_holes_and_readable_images(
    manifest: Manifest, exported: Callable[..., Path]
) -> None:
    out = exported("coco")
    content = json.loads((out / "annotations" / "instances_train.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert names == {1: "Stroma", 3: "Tumour: solid", 4: "Vessel", 255: "ignore"}
    assert content["categories"][0]["color"] == [0xD5, 0x5E, 0x00]
    crowds = [entry for entry in content["annotations"] if entry["iscrowd"]]
    assert crowds and {entry["category_id"] for entry in crowds} == {255}
    kinds = {isinstance(entry["segmentation"], dict) for entry in content["annotations"]}
    assert kinds == {True, False}, "run lengths where there are holes, polygons elsewhere"
    ids = [entry["id"] for entry in content["annotations"]]
    assert len(set(ids)) == len(ids)
    for image in content["images"]:
        assert Image.open(out / "images" / image["file_name"]).size == (SIDE_PX, SIDE_PX)


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32 - 1), st.integers(2, 4))
@settings(max_examples=150, deadline=None)
def test_regions_are_the_pixels_of_the_mask(
    height: int, width: int, seed: int, num_labels: int
) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, num_labels, (-(-height // 3), -(-width // 3)))
    mask = np.kron(blocks, np.ones((3, 3), int))[:height, :width].astype(np.uint8)
    mask[rng.random(mask.shape) < 0.1] = 1
    drawn, joined = np.zeros_like(mask), np.zeros_like(mask)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    for region in find_regions(mask):
        pixels = region.pixels(mask.shape).astype(bool)
        assert pixels.sum() == region.num_pixels
        drawn[pixels] += region.number
        # An implementation of its own: winding numbers of the centres of pixels.
        ring = joined_ring(region)
        inside = Outline(np.concatenate([ring, ring[:1]])).contains_points(centres)
        joined[inside.reshape(mask.shape)] += region.number
        if not region.holes:
            polygon = [region.exterior.ravel().astype(float).tolist()]
            by_coco = coco_masks.decode(coco_masks.frPyObjects(polygon, height, width))[..., 0]
            np.testing.assert_array_equal(by_coco.astype(bool), pixels)
    np.testing.assert_array_equal(drawn, mask)
    np.testing.assert_array_equal(joined, mask)


def test_export_and_import_give_the_same_labels(
    manifest: Manifest, exported: Callable[..., Path], tmp_path: Path
) -> None:
    out = exported("coco")
    wanted, splits = expected_masks(manifest, out, 255), splits_of(manifest)
    assert run("import", "coco", out, "--out", tmp_path / "tree") == ExitCode.OK
    for tile_id, mask in wanted.items():
        path = tmp_path / "tree" / "masks" / splits[tile_id] / f"{tile_id}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(path)), mask)
    names = yaml.safe_load((tmp_path / "tree" / "label_map.yml").read_text())["sources"]
    assert names == {0: "background", 1: "Stroma", 3: "Tumour: solid", 4: "Vessel", 255: "ignore"}


def read_yolo(out: Path, split: str) -> dict[str, tuple[np.ndarray, list[np.ndarray]]]:
    """Return mask (class + 1) and rings in pixels of each image of a split, by the rules of the
    documentation of Ultralytics.
    """
    data = yaml.safe_load((out / "data.yaml").read_text())
    found = {}
    for image in sorted((out / data[split]).iterdir()):
        before, after = str(image).rsplit("/images/", 1)
        width, height = Image.open(image).size
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        drawn, rings = np.zeros((height, width), int), []
        text = Path(f"{before}/labels/{after}").with_suffix(".txt").read_text()
        for line in text.splitlines():
            number, *shares = line.split()
            ring = np.array(shares, float).reshape(-1, 2)
            assert len(ring) >= 3 and ring.min() >= 0 and ring.max() <= 1
            assert int(number) in data["names"]
            rings.append(ring * (width, height))
            closed = Outline(np.concatenate([rings[-1], rings[-1][:1]]))
            inside = closed.contains_points(np.stack([x.ravel(), y.ravel()], axis=1))
            drawn[inside.reshape(height, width)] = int(number) + 1
        found[image.stem] = drawn, rings
    return found


def test_yolo_segments_have_the_pixels_of_the_mask(
    manifest: Manifest, exported: Callable[..., Path]
) -> None:
    out = exported("yolo-seg")
    assert numbers_of(out) == {1: 0, 3: 1, 4: 2}
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert data["names"] == {0: "Stroma", 1: "Tumour: solid", 2: "Vessel"}
    assert "path" not in data, "relative paths start from the folder of data.yaml"
    source, splits = open_tiles(manifest.path), splits_of(manifest)
    table = np.zeros(256, int)
    table[[1, 3, 4]] = 1, 2, 3
    wanted = {
        str(tile_id).replace("/", "__"): (splits[tile_id], table[source.read(row).mask])
        for row, tile_id in enumerate(source.tile_ids)
        if tile_id in splits
    }
    seen = set()
    for split in ("train", "val", "test"):
        for name, (drawn, _) in read_yolo(out, split).items():
            assert wanted[name][0] == split
            np.testing.assert_array_equal(drawn, wanted[name][1])
            seen.add(name)
    assert seen == wanted.keys()


def test_yolo_segments_as_ultralytics_fills_them_differ_at_outlines_alone(
    exported: Callable[..., Path],
) -> None:
    for drawn, rings in read_yolo(exported("yolo-seg"), "train").values():
        for ring in rings:
            filled = np.zeros(drawn.shape, np.uint8)
            # As polygon2mask of Ultralytics: whole numbers, boundary included.
            cv2.fillPoly(filled, [ring.astype(np.int32)], 1)
            exact = Outline(np.concatenate([ring, ring[:1]])).contains_points(
                np.argwhere(np.ones_like(filled))[:, ::-1] + 0.5
            )
            exact = exact.reshape(filled.shape).astype(np.uint8)
            near = cv2.dilate(exact, np.ones((3, 3), np.uint8))
            assert (filled <= near).all() and (exact <= cv2.dilate(filled, np.ones((3, 3)))).all()


def test_the_data_set_of_ultralytics_reads_it(
    exported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    dataset = pytest.importorskip("ultralytics.data.dataset")
    utils = pytest.importorskip("ultralytics.data.utils")
    out = exported("yolo-seg")
    described = utils.check_det_dataset(str(out / "data.yaml"))
    assert described["names"] == {0: "Stroma", 1: "Tumour: solid", 2: "Vessel"}
    for split in ("train", "val", "test"):
        wanted = read_yolo(out, split)
        opened = dataset.YOLODataset(
            img_path=described[split], data=described, task="segment", imgsz=SIDE_PX, augment=False
        )
        assert {Path(label["im_file"]).stem for label in opened.labels} == wanted.keys()
        for label in opened.labels:
            drawn, rings = wanted[Path(label["im_file"]).stem]
            assert set(label["cls"].ravel() + 1) == set(np.unique(drawn)) - {0}
            for read, ring in zip(label["segments"], rings, strict=True):
                np.testing.assert_allclose(read * drawn.shape[::-1], ring, atol=1e-4)


def test_yolo_says_what_it_cannot_keep(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", "yolo-seg", manifest.path, "--workers", "1", "--out")
    assert run(*words, tmp_path / "all") == ExitCode.OK
    rows = ledger_of(tmp_path / "all")
    written = [row for row in rows if row["status"] == "written"]
    pixels = sum(row["ignored_pixels"] for row in written)
    holding = sum(row["ignored_pixels"] > 0 for row in written)
    text = " ".join(capsys.readouterr().err.split())
    assert pixels and f"{pixels:,} pixels without a class in {holding} tiles are background" in text
    assert run(*words, tmp_path / "fewer", "--leave-out-ignored") == ExitCode.OK
    kept = [row for row in ledger_of(tmp_path / "fewer") if row["status"] == "written"]
    assert len(kept) == len(written) - holding
    assert f"{holding} tiles with pixels that have no class left out" in capsys.readouterr().err


def test_nnunet_has_images_of_three_channels_consecutive_labels_and_folds(
    manifest: Manifest, exported: Callable[..., Path]
) -> None:
    out = exported("nnunet")
    dataset = json.loads((out / "dataset.json").read_text())
    assert dataset["labels"] == {
        "background": 0, "Stroma": 1, "Tumour: solid": 2, "Vessel": 3, "ignore": 4,
    }  # fmt: skip
    assert dataset["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    wanted, splits = expected_masks(manifest, out, 4), splits_of(manifest)
    source = open_tiles(manifest.path)
    rows = {str(tile_id): row for row, tile_id in enumerate(source.tile_ids)}
    cases = {path.name.removesuffix("_0000.png") for path in (out / "imagesTr").iterdir()}
    assert len(cases) == dataset["numTraining"]
    for tile_id, split in splits.items():
        name, end = tile_id.replace("/", "__"), "Ts" if split == "test" else "Tr"
        image = Image.open(out / f"images{end}" / f"{name}_0000.png")
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), source.read(rows[tile_id]).image)
        label = np.asarray(Image.open(out / f"labels{end}" / f"{name}.png"))
        np.testing.assert_array_equal(label, wanted[tile_id])
    (fold,) = json.loads((out / "splits_final.json").read_text())
    assert {*fold["train"], *fold["val"]} == cases
    assert len(fold["val"]) == sum(split == "val" for split in splits.values())


def test_nnunet_takes_the_folds_of_the_manifest(manifest: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "tiles"
    shutil.copytree(manifest.root, root)
    label_map = manifest.root.with_name("map.yml")
    words = [root, "--map", label_map, "--workers", "1"]
    run("audit", *words, "--images", "images", "--masks", "masks", "--group-by", r"(s\d+)/")
    assert run("manifest", *words, "--folds", "3", "--seed", "1") == ExitCode.OK
    path, out = Workspace.of(root).manifest, tmp_path / "Dataset007_Folds"
    assert run("export", "nnunet", path, "--out", out, "--workers", "1") == ExitCode.OK
    folds = json.loads((out / "splits_final.json").read_text())
    rows = open_manifest(path).read(["tile_id", "fold", "split", "mask_path"]).to_pylist()
    for number, fold in enumerate(folds):
        held = {
            row["tile_id"].replace("/", "__")
            for row in rows
            if row["fold"] == number and row["mask_path"] and row["split"] != "test"
        }
        assert set(fold["val"]) == held
        assert not held & set(fold["train"])
    assert len(folds) == 3


def test_nnunet_without_validation_is_said(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [manifest.root, "--map", manifest.root.with_name("map.yml"), "--workers", "1"]
    path = tmp_path / "manifest.parquet"
    splits = ("--split", "train=0.5,test=0.5", "--reshuffle", "--out", path)
    assert run("manifest", *words, *splits) == ExitCode.OK
    out = tmp_path / "Dataset003_No"
    assert run("export", "nnunet", path, "--out", out, "--workers", "1") == ExitCode.OK
    assert not (out / "splits_final.json").exists()
    assert "no tile is for validation" in " ".join(capsys.readouterr().err.split())


def test_nnunet_needs_its_name(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", "nnunet", manifest.path, "--out", tmp_path / "colon")
    assert run(*words) == ExitCode.USAGE
    text = capsys.readouterr().err
    assert "Dataset501_Tiles" in text
    assert not (tmp_path / "colon").exists()


def test_the_integrity_check_of_nnunet_passes(exported: Callable[..., Path]) -> None:
    check = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity")
    check.verify_dataset_integrity(str(exported("nnunet")), 1)


def test_fiftyone_has_masks_targets_splits_and_groups(
    manifest: Manifest, exported: Callable[..., Path]
) -> None:
    out = exported("fiftyone")
    info = json.loads((out / "metadata.json").read_text())["info"]
    assert info["default_mask_targets"] == {
        "0": "Background", "1": "Stroma", "3": "Tumour: solid", "4": "Vessel", "255": "(ignored)",
    }  # fmt: skip
    samples = json.loads((out / "samples.json").read_text())["samples"]
    wanted, splits = expected_masks(manifest, out, 255), splits_of(manifest)
    assert {sample["tile_id"] for sample in samples} == splits.keys()
    for sample in samples:
        assert sample["tags"] == [splits[sample["tile_id"]]]
        assert sample["group"] == sample["tile_id"].split("/")[1]
        mask = np.asarray(Image.open(out / sample["ground_truth"]["mask_path"]))
        np.testing.assert_array_equal(mask, wanted[sample["tile_id"]])
        assert Image.open(out / sample["filepath"]).size == (SIDE_PX, SIDE_PX)


def test_the_importer_of_fiftyone_reads_it(
    manifest: Manifest, exported: Callable[..., Path]
) -> None:
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    out = exported("fiftyone")
    wanted = expected_masks(manifest, out, 255)
    with importers.LegacyFiftyOneDatasetImporter(str(out)) as opened:
        samples = list(opened)
    for sample in samples:
        mask = sample["ground_truth"].get_mask()
        np.testing.assert_array_equal(mask, wanted[sample["tile_id"]])
    assert len(samples) == len(wanted)


@pytest.mark.parametrize("form", FORMATS)
def test_shards_give_the_same_annotations(
    exported: Callable[..., Path], shards: Path, form: str
) -> None:
    from_files, packed = exported(form), exported(form, source=shards)
    for row, other in zip(ledger_of(from_files), ledger_of(packed), strict=True):
        assert row["tile_id"] == other["tile_id"]
        assert row["output_digest"] == other["output_digest"]
        assert row["class_regions"] == other["class_regions"]
        if row["status"] == "written":
            pixels = [
                np.asarray(Image.open(out / entry["image_path"]).convert("RGB"))
                for out, entry in ((from_files, row), (packed, other))
            ]
            np.testing.assert_array_equal(*pixels)
    if form == "coco":
        for split in ("train", "val", "test"):
            name = f"annotations/instances_{split}.json"
            assert (from_files / name).read_bytes() == (packed / name).read_bytes()


@pytest.mark.parametrize("form", FORMATS)
def test_images_are_linked_unless_programs_would_read_them_otherwise(
    manifest: Manifest, exported: Callable[..., Path], form: str
) -> None:
    out, hows = exported(form, "--keep-unlabelled"), set()
    sources = {row["tile_id"]: row for row in manifest.read().to_pylist()}
    tiles = open_tiles(manifest.path)
    for index, row in enumerate(ledger_of(out)):
        image = out / row["image_path"]
        hows.add(row["image_how"])
        source = manifest.root / sources[row["tile_id"]]["image_path"]
        assert image.samefile(source) == (row["image_how"] == "hard link")
        opened = Image.open(image)
        assert opened.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.asarray(opened.convert("RGB")), tiles.read(index).image)
        assert opened.mode == "RGB"
    assert hows == {"hard link", "written"}


@pytest.mark.parametrize("form", FORMATS)
def test_unlabelled_tiles_are_left_out_or_kept_apart(
    manifest: Manifest, exported: Callable[..., Path], form: str
) -> None:
    unlabelled = {row["tile_id"] for row in manifest.read().to_pylist() if row["mask_path"] is None}
    assert unlabelled
    left_out = {row["tile_id"] for row in ledger_of(exported(form)) if row["status"] == "left-out"}
    assert left_out == unlabelled
    out = exported(form, "--keep-unlabelled")
    rows = [row for row in ledger_of(out) if row["split"] == "unlabelled"]
    assert {row["tile_id"] for row in rows} == unlabelled
    assert all(row["output_path"] is None and (out / row["image_path"]).is_file() for row in rows)
    if form == "coco":
        content = json.loads((out / "annotations" / "instances_unlabelled.json").read_text())
        assert (len(content["images"]), content["annotations"]) == (len(unlabelled), [])
    if form == "yolo-seg":
        assert "unlabelled" not in (out / "data.yaml").read_text()
    if form == "nnunet":
        assert len(list((out / "imagesUnlabelled").iterdir())) == len(unlabelled)


def test_without_a_background_every_class_is_annotated(
    manifest: Manifest, exported: Callable[..., Path], tmp_path: Path
) -> None:
    out = exported("coco", "--background", "none")
    assert numbers_of(out) == {0: 1, 1: 2, 3: 3, 4: 4}
    wanted = expected_masks(manifest, out, 255)
    for name, drawn in masks_of_coco(out, "train").items():
        np.testing.assert_array_equal(drawn, wanted[name.removeprefix("train/")])
        assert drawn.all()
    assert run("import", "coco", out, "--out", tmp_path / "tree") == ExitCode.OK
    other = exported("coco", "--background", "Stroma")
    assert numbers_of(other) == {1: 0, 0: 1, 3: 2, 4: 3}


def test_a_background_that_is_no_class_is_named(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", "coco", manifest.path, "--out", tmp_path / "out", "--background", "5")
    assert run(*words) == ExitCode.USAGE
    text = capsys.readouterr().err
    assert "5" in text and "3 Tumour: solid" in text


def results(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith((".hp-states", ".lock"))
    }


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_goes_on_and_stays(
    manifest: Manifest,
    exported: Callable[..., Path],
    tmp_path: Path,
    form: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = results(exported(form))
    out = out_of(tmp_path, form)
    words = ("export", form, manifest.path, "--out", out, "--workers", "2")
    assert run(*words) == ExitCode.OK
    assert results(out) == whole
    capsys.readouterr()
    assert run(*words) == ExitCode.OK
    assert "nothing had changed" in capsys.readouterr().err
    assert run("verify", out) == ExitCode.OK
    # As a stopped run leaves it: without seal and ledger, and some files.
    (out / "_SUCCESS.json").unlink()
    (out / "ledger.parquet").unlink()
    first = next(row for row in ledger_of(exported(form)) if row["status"] == "written")
    (out / first["image_path"]).unlink()
    assert run(*words) == ExitCode.OK
    assert results(out) == whole
    other = ("export", form, manifest.path, "--out", out, "--background", "Stroma")
    assert run(*other) == ExitCode.USAGE
    assert "with other settings: background" in " ".join(capsys.readouterr().err.split())


def test_a_tile_that_changed_is_named_and_tried_again(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "moved"
    shutil.copytree(manifest.root, root)
    broken = root / "masks" / "s1" / "t0_mask.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    words = ("export", "coco", manifest.path, "--root", root, "--out", tmp_path / "out")
    assert run(*words, "--workers", "1") == ExitCode.INCOMPLETE
    assert "not exported: images/s1/t0" in " ".join(capsys.readouterr().err.split())
    assert sum(row["status"] == "failed" for row in ledger_of(tmp_path / "out")) == 1
    broken.write_bytes(whole)
    assert run(*words, "--workers", "1") == ExitCode.OK
    assert all(row["status"] != "failed" for row in ledger_of(tmp_path / "out"))


@pytest.mark.parametrize("place", ["inside", "around", "foreign"])
def test_places_that_hold_something_else_are_refused(
    manifest: Manifest, tmp_path: Path, place: str
) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    out = {
        "inside": manifest.root / "coco",
        "around": manifest.root.parent,
        "foreign": tmp_path / "foreign",
    }[place]
    assert run("export", "coco", manifest.path, "--out", out) == ExitCode.USAGE
    assert (tmp_path / "foreign" / "notes.txt").read_text() == "mine"
    assert not (manifest.root / "coco").exists()
