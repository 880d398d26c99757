"""The demo data set: what it promises of itself, measured with Pillow and SciPy on the files."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from histoprep.auditing import AuditOptions, audit
from histoprep.choices import Severity
from histoprep.demo import GROUP_PATTERN, UNMAPPED_VALUE, DemoPlan, make_clean_demo, make_demo
from histoprep.demo.layout import smoothed
from histoprep.errors import OutputError, UsageError
from histoprep.findings import Finding
from histoprep.labels import find_label_map, load_label_map
from histoprep.scanning import ScanOptions
from histoprep.tiles.table import TableOptions

EIGHT = np.ones((3, 3))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> DemoPlan:
    return make_demo(tmp_path_factory.mktemp("demo") / "tiles")


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> DemoPlan:
    return make_clean_demo(tmp_path_factory.mktemp("clean") / "tiles")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def mask_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def labelled(plan: DemoPlan) -> dict[str, np.ndarray]:
    """Return the masks with any label but 0, by file name."""
    masks = {path.name: mask_of(path) for path in sorted(plan.folder.glob("*_mask.png"))}
    return {name: mask for name, mask in masks.items() if mask.any()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    first, second, other = (
        make_demo(tmp_path / name, num_tiles=48, tile_px=64, seed=seed).folder
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert digests(first) == digests(second)
    assert digests(first).keys() == digests(other).keys()
    images = [
        {digest for name, digest in digests(folder).items() if name.endswith(".jpg")}
        for folder in (first, other)
    ]
    assert not images[0] & images[1]


@pytest.mark.slow
def test_numbers_and_names(faulty):
    images = sorted(faulty.folder.glob("*.jpg"))
    masks = {path.name.removesuffix("_mask.png") for path in faulty.folder.glob("*_mask.png")}
    assert len(images) == 96 + 1, "96 and the duplicate"
    assert len(masks - {path.stem for path in images}) == 5
    assert {path.name.split("_")[0] for path in images} == set(faulty.slides)
    import re

    assert all(re.match(GROUP_PATTERN, path.name) for path in images)
    assert all((faulty.folder / defect.path).exists() for defect in faulty.planted)


def test_every_promised_defect_is_there_as_often_as_promised(faulty):
    number = Counter(finding.code for finding in faulty.planted)
    assert number == {
        "HP101": 5, "HP102": 6, "HP106": 1, "HP202": 1, "HP203": 1, "HP401": 1, "HP403": 36,
        "HP406": 24, "HP412": 1, "HP501": 1, "HP601": 1,
    }  # fmt: skip


def test_each_defect_is_what_it_says(faulty):
    folder = faulty.folder
    only = {
        code: folder / faulty.paths(code)[0]
        for code in ("HP202", "HP203", "HP401", "HP412", "HP501", "HP601")
    }
    for path in faulty.paths("HP101"):
        assert not (folder / path.replace("_mask.png", ".jpg")).exists()
        assert mask_of(folder / path).any()
    for path in faulty.paths("HP102"):
        assert not (folder / path.replace(".jpg", "_mask.png")).exists()
    for path in faulty.paths("HP406"):
        assert not mask_of(folder / path).any()
    with Image.open(only["HP202"]) as image, pytest.raises(OSError, match="truncated"):
        image.load()
    assert only["HP203"].read_bytes().startswith(b"\x89PNG")
    assert mask_of(only["HP401"]).shape == (240, 256)
    with Image.open(only["HP412"]) as image:
        assert image.mode == "I;16" and 0 < np.asarray(image).max() < 256
    assert (mask_of(only["HP501"]) == UNMAPPED_VALUE).sum() > 500
    twins = [
        path for path in folder.glob("*.jpg") if path.read_bytes() == only["HP601"].read_bytes()
    ]
    assert len(twins) == 2


@pytest.mark.slow
def test_nothing_is_wrong_that_the_plan_does_not_say(faulty, clean):
    """Every file that no defect names is whole, of the right size and mode, and lists only known
    labels.
    """
    known = set(load_label_map(find_label_map("label_map_5")).mapping)
    for plan in (faulty, clean):
        named = {finding.path for finding in plan.planted if finding.code != "HP406"}
        images = Counter()
        for path in set(plan.folder.iterdir()):
            if path.name in named:
                continue
            with Image.open(path) as image:
                image.load()
                assert image.size == (256, 256)
                assert image.mode == ("L" if path.suffix == ".png" else "RGB")
                assert not image.getexif() and not {"comment", "icc_profile"} & set(image.info)
                assert image.format == ("PNG" if path.suffix == ".png" else "JPEG")
                if path.suffix == ".png":
                    assert set(np.unique(image)) <= known
            images[hashlib.sha256(path.read_bytes()).hexdigest()] += path.suffix == ".jpg"
        assert max(images.values()) == 1


def test_masks_that_went_through_jpeg_carry_its_false_labels_and_stay_in_range(faulty):
    lossy = [mask_of(faulty.folder / path) for path in faulty.paths("HP403")]
    assert len(lossy) >= 30, "a verdict on a source needs 30 masks with boundaries"
    for mask in lossy:
        ids = np.unique(mask)
        thin = [
            identifier
            for identifier in ids
            if not ndimage.binary_erosion(mask == identifier, np.ones((5, 5)), border_value=1).any()
        ]
        assert len(thin) >= 3 and ids.max() <= 54
        # Uniform 8x8 blocks decode exactly at quality 90, so all damage is on boundary blocks.
        blocks = mask.reshape(32, 8, 32, 8).swapaxes(1, 2).reshape(-1, 64)
        uniform = (blocks == blocks[:, :1]).all(axis=1)
        assert uniform.mean() > 0.5


@pytest.mark.parametrize("which", ["clean", "faulty"])
def test_true_regions_are_neither_specks_nor_hairlines(which, request):
    plan = request.getfixturevalue(which)
    lossy = set(plan.paths("HP403"))
    checked = 0
    for name, mask in labelled(plan).items():
        if name in lossy:
            continue
        for label in np.unique(mask):
            parts, number = ndimage.label(mask == label, EIGHT)
            core = np.unique(parts[ndimage.binary_erosion(mask == label, np.ones((5, 5)))])
            assert np.bincount(parts.ravel())[1:].min() >= 64, name
            assert set(range(1, number + 1)) <= set(core.tolist()), name
            checked += number
    assert checked > 150


@pytest.mark.parametrize(("name", "least"), [("label_map_5", 50), ("label_map_10", 8)])
def test_the_clean_set_has_every_class_in_every_slide_and_often(clean, name, least):
    label_map = load_label_map(find_label_map(name))
    table = label_map.lookup_table()
    slides, number, pixels = (
        defaultdict(set),
        Counter(),
        defaultdict(lambda: np.zeros(label_map.num_classes)),
    )
    for file, mask in labelled(clean).items():
        slide = file.split("_")[0]
        for item in np.unique(table[mask]):
            slides[int(item)].add(slide)
            number[int(item)] += 1
        pixels[slide] += np.bincount(table[mask].ravel(), minlength=label_map.num_classes)
    assert slides == {cls.id: set(clean.slides) for cls in label_map.classes}
    assert min(number.values()) >= least
    # Any slide as the test set shifts no class by 5 points against the others.
    whole = sum(pixels.values())
    for part in pixels.values():
        shift = 100 * np.abs(part / part.sum() - (whole - part) / (whole - part).sum())
        assert shift.max() < 5


def test_tiles_look_like_stained_tissue(clean):
    for path in sorted(clean.folder.glob("*.jpg")):
        rgb = np.asarray(Image.open(path)).reshape(-1, 3).astype(float)
        red, green, blue = rgb.mean(axis=0)
        assert red > green and blue > green, "eosin and haematoxylin both absorb green most"
        glass = (rgb.min(axis=1) > 220).mean()
        assert glass < 0.6 and rgb.std() > 15, path.name


def test_a_complete_demo_is_kept_and_an_incomplete_or_other_one_made_again(tmp_path):
    plan = make_demo(tmp_path / "d", num_tiles=48, tile_px=64)
    item = plan.folder / "slide02_0001.jpg"
    stamp = item.stat().st_mtime_ns
    assert make_demo(tmp_path / "d", num_tiles=48, tile_px=64) == plan
    assert item.stat().st_mtime_ns == stamp
    expected = digests(plan.folder)
    item.unlink()
    make_demo(tmp_path / "d", num_tiles=48, tile_px=64)
    assert digests(plan.folder) == expected
    make_clean_demo(tmp_path / "d", num_tiles=48, tile_px=64)
    assert len(list(plan.folder.iterdir())) == 96
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".hp-")]


@pytest.mark.parametrize("strange", ["notes.md", "sub/"])
def test_a_folder_with_anything_else_is_left_alone(tmp_path, strange):
    folder = tmp_path / "mine"
    for made_before in (False, True):
        if made_before:
            shutil.rmtree(folder)
            make_demo(folder, num_tiles=48, tile_px=64)
        if strange.endswith("/"):
            (folder / strange).mkdir(parents=True)
        else:
            folder.mkdir(exist_ok=True)
            (folder / strange).write_text("precious")
        before = sorted(folder.iterdir())
        with pytest.raises(UsageError, match="did not make it"):
            make_demo(folder, num_tiles=48, tile_px=64, seed=9)
        assert sorted(folder.iterdir()) == before


def test_a_file_in_the_place_of_the_folder_and_bad_options_are_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError):
        make_demo(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(OutputError):
        make_demo(tmp_path / "file" / "below", num_tiles=48, tile_px=64)
    with pytest.raises(UsageError, match="too small"):
        make_demo(tmp_path / "few", num_tiles=10)
    (tmp_path / "empty").mkdir()
    assert make_demo(tmp_path / "empty", num_tiles=48, tile_px=64).num_tiles == 48


def test_smoothing_removes_what_is_thin_and_keeps_what_is_thick():
    labels = np.full((96, 96), 1, np.uint8)
    labels[:, 60:] = 2
    labels[40:42, :60] = 3
    labels[10:13, 76:79] = 4
    expected = np.where(np.arange(96) < 60, 1, 2).astype(np.uint8) + np.zeros((96, 1), np.uint8)
    found = smoothed(labels, 5)
    assert set(np.unique(found)) == {1, 2}
    # A disc leaves corners free: where the border meets the edge of the tile or the thin stripe.
    assert (found == expected).mean() > 0.99


# The only rules that a lossy slide (HP408, HP409) and a small set (HP802) set off besides what was
# planted.
CONSEQUENCES = {"HP408", "HP409", "HP502", "HP802"}


def audited(plan: DemoPlan, workspace: Path) -> dict[str, list[Finding]]:
    options = AuditOptions(
        table=TableOptions(scan=ScanOptions(group_by=GROUP_PATTERN)),
        map_path=find_label_map("label_map_5"),
    )
    found = defaultdict(list)
    for finding in audit(plan.folder, workspace=workspace, workers=1, options=options).findings:
        found[finding.code].append(finding)
    return found


def test_an_audit_of_the_clean_set_has_nothing_to_say(clean, tmp_path):
    found = audited(clean, tmp_path / "w")
    assert {
        finding.code
        for each in found.values()
        for finding in each
        if finding.severity is not Severity.INFO
    } == set()
    assert sorted(found["HP406"][0].paths) == clean.paths("HP406")


def test_an_audit_finds_every_planted_defect_and_only_these(faulty, tmp_path):
    found = audited(faulty, tmp_path / "w")
    for code in {finding.code for finding in faulty.planted} - {"HP601", "HP403"}:
        assert sorted(path for file in found[code] for path in file.paths) == faulty.paths(code), (
            code
        )
    assert {"slide06_0000.jpg", "slide06_8000.jpg"} & set(found["HP601"][0].paths)
    assert set(found) <= {finding.code for finding in faulty.planted} | CONSEQUENCES
    lossy = set(faulty.paths("HP403"))
    assert all(set(path.paths) <= lossy for code in ("HP408", "HP409") for path in found[code])
