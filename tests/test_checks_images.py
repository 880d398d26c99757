"""HP3: what images are like, each by itself and beside the others."""

from __future__ import annotations

from pathlib import Path

import coloured_tissue
import cv2
import numpy as np
import pytest
from audit_cases import DataSet, Found, by_code, findings_of_rows, image_bytes, stripes, tissue
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tile_rows import tile_row

from histoprep.checks import CheckOptions
from histoprep.checks.images import cramers_v

TRIGGERS = ("HP301", "HP302", "HP303", "HP304", "HP308", "HP309")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    data = DataSet(tmp_path_factory.mktemp("images") / "data")
    data.pairs(35)
    data.image("wide.jpg", np.tile(tissue(201), (2, 2, 1))[:128, :128])
    data.write(
        "grey.jpg", image_bytes(Image.fromarray(tissue(202)).convert("L"), "JPEG", quality=90)
    )
    data.write(
        "cmyk.jpg", image_bytes(Image.fromarray(tissue(203)).convert("CMYK"), "JPEG", quality=90)
    )
    data.write("alpha.png", image_bytes(Image.fromarray(tissue(204)).convert("RGBA"), "PNG"))
    data.write("palette.png", image_bytes(Image.fromarray(tissue(205)).quantize(64), "PNG"))
    data.write("deep.png", image_bytes(tissue(206)[..., 0].astype(np.uint16) * 256, "PNG"))
    glass = np.full((96, 96, 3), 243, np.uint8)
    glass[:12, :20] = tissue(207)[:12, :20]
    data.image("glass.png", glass)
    data.image("black.png", np.zeros((96, 96, 3), np.uint8))
    data.image("soft.jpg", cv2.GaussianBlur(tissue(208), (0, 0), 14))
    exif = Image.Exif()
    exif[0x0112] = 6
    data.write("turned.jpg", image_bytes(tissue(209), "JPEG", quality=90, exif=exif))
    exif[0x0112] = 1
    data.write("upright.jpg", image_bytes(tissue(210), "JPEG", quality=90, exif=exif))
    return by_code(data.audit().findings)


def test_sizes(found: Found) -> None:
    assert found["HP301"] == {"wide.jpg": "128x128, most tiles 96x96"}


def test_modes(found: Found) -> None:
    modes = {key: set(paths) for key, paths in found.items() if key.startswith("HP302")}
    assert modes == {
        "HP302 grayscale": {"grey.jpg"},
        "HP302 cmyk": {"cmyk.jpg"},
        "HP302 alpha": {"alpha.png"},
        "HP302 palette": {"palette.png"},
        "HP302 sixteen-bit": {"deep.png"},
    }


def test_blank_tiles(found: Found) -> None:
    assert found["HP303"].keys() == {"glass.png", "black.png"}
    assert found["HP303"]["black.png"].startswith("0% glass, contrast 0.0")


def test_blurry_tiles(found: Found) -> None:
    assert found["HP304"].keys() == {"soft.jpg"}


def test_orientation(found: Found) -> None:
    assert found["HP309"] == {"turned.jpg": "orientation 6"}


def test_declared_size_goes_before_the_most_common_one(tmp_path: Path) -> None:
    rows = [tile_row("a"), tile_row("b"), tile_row("c", width_px=32)]
    assert by_code(findings_of_rows(tmp_path, rows, options=CheckOptions(tile_size_px=(32, 16))))[
        "HP301"
    ] == {
        "a.jpg": "16x16, declared 32x16",
        "b.jpg": "16x16, declared 32x16",
    }


def test_no_size_is_wrong_where_none_is_common(tmp_path: Path) -> None:
    rows = [tile_row(f"t{index}", width_px=20 + index) for index in range(5)]
    finding = findings_of_rows(tmp_path, rows)[0]
    assert (finding.code, finding.subcode, finding.count) == ("HP301", "no-common-size", 5)
    assert "5 sizes" in finding.cause
    # Half of them is common enough.
    assert by_code(findings_of_rows(tmp_path, [tile_row("a"), tile_row("b"), *rows[:2]]))[
        "HP301"
    ].keys() == {"t0.jpg", "t1.jpg"}


def test_blur_is_measured_against_the_own_source(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)

    def rows(source: str, focus: float, number: int) -> list[dict]:
        return [
            tile_row(f"{source}/{index}", group=source, focus=focus * np.exp(rng.normal(0, 0.2)))
            for index in range(number)
        ]

    sharp, soft = rows("sharp", 1000, 60), rows("soft", 20, 35)
    assert findings_of_rows(tmp_path, sharp + soft) == []
    odd = tile_row("sharp/odd", group="sharp", focus=20.0)
    few = tile_row("few/odd", group="few", focus=0.0)
    assert by_code(
        findings_of_rows(tmp_path, [*sharp, *soft, odd, *rows("few", 1000, 10), few])
    ).keys() == {"HP304"}
    assert by_code(findings_of_rows(tmp_path, [*sharp, odd]))["HP304"].keys() == {"sharp/odd.jpg"}


def _jpegs(
    source: str, quality: int | None, number: int, label: str | None = None, kind: str = "jpeg"
) -> list[dict]:
    chroma = "4:2:0" if quality else None
    return [
        tile_row(
            f"{source}/{index}",
            group=source,
            image_format=kind,
            jpeg_quality=quality,
            jpeg_subsampling=chroma,
            label=label,
        )
        for index in range(number)
    ]


def test_compression_that_differs_between_sources(tmp_path: Path) -> None:
    rows = [
        *_jpegs("a", 90, 5),
        *_jpegs("b", 90, 5),
        *_jpegs("c", 91, 5),
        *_jpegs("d", 70, 5),
        *_jpegs("e", None, 5, kind="png"),
    ]
    assert by_code(findings_of_rows(tmp_path, rows))["HP308 between-sources"] == {
        "d": "JPEG quality 70, 4:2:0; most sources JPEG quality 90, 4:2:0",
        "e": "PNG, TIFF or BMP; most sources JPEG quality 90, 4:2:0",
    }


def test_compression_that_does_not_differ(tmp_path: Path) -> None:
    lossless = [*_jpegs("a", None, 5, kind="png"), *_jpegs("b", None, 5, kind="tiff")]
    assert by_code(findings_of_rows(tmp_path, lossless)).keys() == {"HP203"}
    assert findings_of_rows(tmp_path, [*_jpegs("a", 90, 5), *_jpegs("b", 92, 5)]) == []
    assert findings_of_rows(tmp_path, _jpegs("a", 90, 5)) == []


def test_compression_that_gives_the_class_away(tmp_path: Path) -> None:
    rows = [*_jpegs("a", 90, 20, "benign"), *_jpegs("b", 60, 20, "malignant")]
    [finding] = [
        finding
        for finding in findings_of_rows(tmp_path, rows)
        if finding.subcode == "predicts-class"
    ]
    assert finding.paths == ("benign", "malignant")
    assert "100%" in finding.details[0]
    mixed = [
        *_jpegs("a", 90, 20, "benign"),
        *_jpegs("b", 60, 20, "benign"),
        *_jpegs("c", 90, 20, "malignant"),
        *_jpegs("d", 60, 20, "malignant"),
    ]
    assert not [
        finding
        for finding in findings_of_rows(tmp_path, mixed)
        if finding.subcode == "predicts-class"
    ]


@given(st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=2, max_size=5))
def test_association_is_in_range_and_knows_no_order(counts: list[list[int]]) -> None:
    table = np.array(counts)
    strength = cramers_v(table)
    assert 0 <= strength <= 1.0000001
    assert strength == pytest.approx(cramers_v(table.T))
    assert strength == pytest.approx(cramers_v(table[::-1, ::-1]))


def test_association_of_the_extremes() -> None:
    assert cramers_v(np.diag([50, 50, 50])) == pytest.approx(1)
    assert cramers_v(np.full((3, 4), 25)) == 0
    # Many rare settings and few tiles look associated by chance; the correction takes that away.
    rng = np.random.default_rng(1)
    by_chance = []
    for _ in range(50):
        table = np.zeros((3, 15), int)
        np.add.at(table, (rng.integers(0, 3, 30), rng.integers(0, 15, 30)), 1)
        by_chance.append(cramers_v(table[:, table.sum(axis=0) > 0]))
    assert np.median(by_chance) < 0.2
    assert max(by_chance) < 0.5


def tagged(folder: Path, *, turned: bool, number: int = 5) -> DataSet:
    """Return tiles that readers turn clockwise, whose masks fit them as stored, or as turned."""
    data = DataSet(folder / "set")
    exif = Image.Exif()
    exif[274] = 6
    for seed in range(number):
        image, labels = coloured_tissue.tile(seed)
        data.write(f"t{seed}.jpg", image_bytes(image, "JPEG", quality=95, exif=exif))
        data.mask(f"t{seed}_mask.png", np.rot90(labels, -1).copy() if turned else labels)
    return data


@pytest.mark.parametrize(("turned", "choice"), [(True, "apply"), (False, "drop")])
def test_the_orientation_that_masks_fit_is_advised(
    turned: bool, choice: str, tmp_path: Path
) -> None:
    report = tagged(tmp_path, turned=turned).audit()
    [found] = [each for each in report.findings if each.code == "HP309"]
    assert f"--only orientation={choice}" in found.suggestion
    assert found.suggestion.count("histoprep fix") == 1
    assert "(by 5 tiles)" in found.suggestion


def test_orientation_is_left_open_where_masks_do_not_tell(tmp_path: Path) -> None:
    few = tagged(tmp_path / "few", turned=True, number=2).audit()
    mixed = tagged(tmp_path / "mixed", turned=True, number=4)
    for seed in range(4):
        _, labels = coloured_tissue.tile(seed)
        if seed % 2:
            mixed.mask(f"t{seed}_mask.png", labels)
    for report in (few, mixed.audit()):
        [found] = [each for each in report.findings if each.code == "HP309"]
        assert "orientation=drop" in found.suggestion and "orientation=apply" in found.suggestion


@pytest.mark.parametrize(("turned", "choice"), [(True, "apply"), (False, "drop")])
def test_sides_tell_the_orientation_of_images_that_are_no_squares(
    turned: bool, choice: str, tmp_path: Path
) -> None:
    data = DataSet(tmp_path / "set")
    exif = Image.Exif()
    exif[274] = 8
    for seed in range(3):
        image = tissue(seed)[:64]
        data.write(f"t{seed}.jpg", image_bytes(image, "JPEG", exif=exif))
        labels = stripes(0, 1, 2)[:64]
        data.mask(f"t{seed}_mask.png", labels.T.copy() if turned else labels)
    [found] = [each for each in data.audit().findings if each.code == "HP309"]
    assert f"orientation={choice}" in found.suggestion
    assert found.suggestion.count("histoprep fix") == 1
