"""HP4: masks as files and as class maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from audit_cases import DataSet, Found, by_code, findings_of_rows, image_bytes, stripes, write_map
from PIL import Image
from tile_rows import tile_row

from histoprep.choices import Severity
from histoprep.findings import Finding
from histoprep.labels import load_label_map
from histoprep.remapping.first_map import first_label_map
from histoprep.tiles import TileOptions

TRIGGERS = (
    "HP401",
    "HP402",
    "HP405",
    "HP406",
    "HP407",
    "HP408",
    "HP409",
    "HP410",
    "HP412",
    "HP417",
)


def _enlarged(seed: int, cell_px: int) -> np.ndarray:
    small = (
        np.random.default_rng(seed).integers(0, 3, (96 // cell_px, 96 // cell_px)).astype(np.uint8)
    )
    return np.ascontiguousarray(small.repeat(cell_px, axis=0).repeat(cell_px, axis=1))


def _with(labels: np.ndarray, where: tuple[slice, slice], value: int) -> np.ndarray:
    labels = labels.copy()
    labels[where] = value
    return labels


def _make(root: Path) -> DataSet:
    data = DataSet(root)
    data.pairs(3)
    labels = stripes(0, 1, 2)
    data.pair("short", labels[:80])
    data.pair("sideways", labels.T[:80].copy())
    for stem, mode in (
        ("rgb", "RGB"),
        ("grey_rgb", "RGB"),
        ("rgba", "RGBA"),
        ("palette", "P"),
        ("one_bit", "1"),
    ):
        data.image(f"{stem}.jpg")
        image = Image.fromarray(labels)
        if stem == "rgb":
            image = Image.fromarray(np.dstack([labels * 80, labels * 20, 255 - labels]))
        elif mode == "P":
            image.putpalette(list(range(48)))
        elif mode == "1":
            image = Image.fromarray(labels > 0)
        else:
            image = image.convert(mode)
        data.write(f"{stem}_mask.png", image_bytes(image, "PNG"))
    data.image("float.jpg")
    data.write("float_mask.tif", image_bytes(labels.astype(np.float32), "TIFF"))
    data.image("wide32.jpg")
    data.write("wide32_mask.tif", image_bytes(labels.astype(np.int32), "TIFF"))
    data.pair("coarse8", _enlarged(1, 8))
    data.pair("coarse4", _enlarged(2, 4))
    data.pair("straight", stripes(1, 2))
    data.pair("zero", stripes(0))
    data.pair("full", stripes(2))
    data.mask("orphan_mask.png", stripes(0))
    # 49 pixels: a speck, and too round for a hairline.
    data.pair("speck", _with(labels, np.s_[40:47, 10:17], 2))
    data.pair("hairline", _with(labels, np.s_[8:90, 15:17], 3))
    data.pair("sixteen", labels.astype(np.uint16))
    data.pair("needs16", stripes(0, 1, 300, dtype=np.uint16))
    return data


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finding, ...]:
    return tuple(_make(tmp_path_factory.mktemp("masks") / "data").audit().findings)


@pytest.fixture(scope="module")
def found(findings: tuple[Finding, ...]) -> Found:
    return by_code(findings)


def test_sizes(found: Found) -> None:
    assert found["HP401"] == {
        "short_mask.png": "mask 96x80, image 96x96",
        "sideways_mask.png": "mask 96x80, image 96x96",
    }


def test_modes(found: Found) -> None:
    assert {key: set(paths) for key, paths in found.items() if key.startswith("HP402")} == {
        "HP402 colours": {"rgb_mask.png"},
        "HP402 grey-in-rgb": {"grey_rgb_mask.png", "rgba_mask.png"},
        "HP402 palette": {"palette_mask.png"},
        "HP402 low-bit-depth": {"one_bit_mask.png"},
        "HP402 whole-float": {"float_mask.tif"},
    }
    assert found["HP402 colours"]["rgb_mask.png"] == (
        "RGB, coded by colour: #0000ff, #5014fe, #a028fd"
    )
    assert found["HP402 low-bit-depth"]["one_bit_mask.png"].startswith("1 bit a pixel")


def test_masks_that_are_read_all_the_same_are_a_warning(findings: tuple[Finding, ...]) -> None:
    grades = {finding.subcode: finding.severity for finding in findings if finding.code == "HP402"}
    assert len(grades) == 5 and set(grades.values()) == {Severity.WARNING}


def test_coarse_masks(found: Found) -> None:
    # Neither a fourfold enlargement nor one straight border at 48 = 6 x 8 pixels is coarse.
    assert found["HP405"] == {"coarse8_mask.png": "cells of 8x8 pixels"}


def test_uniform_masks(found: Found) -> None:
    # An orphan has no tile that could belong to a pool.
    assert found["HP406"] == {"zero_mask.png": "only label 0"}
    assert found["HP407"] == {"full_mask.png": "only label 2"}


def test_small_and_thin_regions(found: Found) -> None:
    assert found["HP408"]["speck_mask.png"] == "1 region under 64 pixels, of label 2"
    assert found["HP409"] == {"hairline_mask.png": "label 3"}
    # Cells of 4 x 4 pixels are specks too, and those of 8 x 8 are not.
    assert found["HP408"].keys() == {"speck_mask.png", "coarse4_mask.png"}


def test_needless_bits(found: Found) -> None:
    assert found["HP412"] == {
        "sixteen_mask.png": "16 bits, highest value 2",
        "wide32_mask.tif": "32 bits, highest value 2",
    }


def test_nothing_else_is_said(found: Found) -> None:
    codes = {key.split()[0] for key in found}
    # Masks of 1, 8 and 16 bits, with a palette and without, lie in one folder (see
    # test_checks_encodings.py).
    assert {key for key in found if key.startswith("HP414")} == {
        "HP414 depth",
        "HP414 mode",
        "HP414 rgb",
    }
    assert codes == {
        "HP101",
        "HP401",
        "HP402",
        "HP405",
        "HP406",
        "HP407",
        "HP408",
        "HP409",
        "HP412",
        "HP414",
        "HP710",
        "HP802",
    }


def test_headers_alone_show_modes_and_sizes(tmp_path: Path) -> None:
    found = by_code(
        _make(tmp_path / "data").audit(tile_options=TileOptions(headers_only=True)).findings
    )
    modes = ("rgb", "alpha", "palette", "low-bit-depth", "float")
    assert {key for key in found if key.startswith("HP4")} == {
        "HP401",
        *(f"HP402 {mode}" for mode in modes),
    }
    assert found["HP402 rgb"] == {"rgb_mask.png": "RGB", "grey_rgb_mask.png": "RGB"}


def test_long_lists_of_labels_are_cut(tmp_path: Path) -> None:
    thin = dict.fromkeys(range(1, 12), 9)
    found = by_code(findings_of_rows(tmp_path, [tile_row("a", thin), tile_row("b", {3: 9})]))
    assert found["HP409"] == {
        "a_mask.png": "labels 1, 2, 3, 4, 5, 6, 7, 8 and 3 more",
        "b_mask.png": "label 3",
    }


def _scaled(
    folder: Path, masks: Mapping[str, tuple[int, ...]], label_map: Path | None = None
) -> dict[str, str]:
    rows = [tile_row(name, dict.fromkeys(values, 60)) for name, values in masks.items()]
    return by_code(findings_of_rows(folder, rows, label_map=label_map)).get("HP410", {})


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((255,), (1,)),
        ((65_535,), (1,)),
        ((20, 40, 60), (1, 2, 3)),
        ((50, 100), (1, 2)),
        ((2, 4, 6, 8, 10, 12, 14, 16, 18, 20), tuple(range(1, 11))),
    ],
)
def test_scaled_values_without_a_map(
    tmp_path: Path, values: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    found = _scaled(tmp_path, {f"t{value}": (value,) for value in values})
    assert found.keys() == {f"value {value}" for value in values}
    assert (
        found[f"value {values[-1]}"]
        == f"1 tile; label {labels[-1]} times {values[-1] // labels[-1]}"
    )


@pytest.mark.parametrize(
    "values", [(4,), (200,), (128,), (4, 10, 28), (0,), (), (2, 4, 6), (10, 20), (1, 255)]
)
def test_values_that_may_well_be_labels(tmp_path: Path, values: tuple[int, ...]) -> None:
    assert _scaled(tmp_path, {f"t{value}": (value,) for value in values} | {"zero": ()}) == {}


@pytest.mark.parametrize(
    ("values", "pairs"),
    [
        ((1, 255), {1: 255}),
        ((1, 2, 3, 85, 170, 255), {1: 85, 2: 170, 3: 255}),
        ((1, 2, 40, 80), {1: 40, 2: 80}),
    ],
)
def test_labels_in_two_scales(
    tmp_path: Path, values: tuple[int, ...], pairs: dict[int, int]
) -> None:
    half = len(values) // 2
    masks = {
        f"{side}{number}": part
        for side, part in (("plain", values[:half]), ("white", values[half:]))
        for number in range(3)
    }
    rows = [tile_row(name, dict.fromkeys(part, 30)) for name, part in masks.items()]
    [found] = [item for item in findings_of_rows(tmp_path, rows) if item.code == "HP410"]
    assert found.subcode == "two-scales"
    assert set(found.paths) == {f"value {value}" for value in values}
    assert f"histoprep map init {tmp_path / 'data'} --out label_map.yml" in found.suggestion
    # The map that it writes has one class for both.
    text, _ = first_label_map(tmp_path / "data.histoprep" / "tiles.parquet")
    for label, value in pairs.items():
        assert f"\n  {label}, {value}: label {label}\n" in text
    path = tmp_path / "made.yml"
    path.write_text(text)
    label_map = load_label_map(path)
    assert label_map.num_classes == half + 1
    assert "HP410" not in by_code(findings_of_rows(tmp_path / "mapped", rows, label_map=path))


@pytest.mark.parametrize(
    "masks",
    [
        # One mask is chance, both in one mask are two labels, and 2 is a label of its own.
        {"a": (1,), "b": (1,), "c": (255,)},
        {"a": (1, 255), "b": (1,), "c": (255,), "d": (255,)},
        {"a": (1,), "b": (1,), "c": (2,), "d": (2,)},
        {"a": (1,), "b": (1,), "c": (255,), "d": (255, 7)},
    ],
)
def test_labels_in_one_scale(tmp_path: Path, masks: dict[str, tuple[int, ...]]) -> None:
    assert _scaled(tmp_path, masks) == {}


@pytest.mark.slow
def test_scaled_values_with_a_map(tmp_path: Path) -> None:
    # The map knows 0 to 3.
    path = write_map(tmp_path)
    assert _scaled(tmp_path / "white", {"a": (255,)}, path) == {
        "value 255": "1 tile; label 1 times 255"
    }
    assert _scaled(tmp_path / "tens", {"a": (10,), "b": (20,)}, path).keys() == {
        "value 10",
        "value 20",
    }
    assert _scaled(tmp_path / "one", {"a": (200,)}, path) == {}
    assert _scaled(tmp_path / "known", {"a": (2,)}, path) == {}
    assert _scaled(tmp_path / "stray", {"a": (2,), "b": (200,)}, path) == {}
    assert _scaled(tmp_path / "beyond", {"a": (50,), "b": (200,)}, path) == {}


def _wrapped(
    folder: Path, masks: Mapping[str, tuple[int, ...]], label_map: Path | None = None
) -> list[Finding]:
    rows = [tile_row(name, dict.fromkeys(values, 60)) for name, values in masks.items()]
    found = findings_of_rows(folder, rows, label_map=label_map)
    return [
        finding
        for finding in found
        if (finding.code, finding.subcode) == ("HP410", "wrapped") or finding.code == "HP501"
    ]


@pytest.mark.parametrize(
    ("values", "labels"),
    [((255, 254, 251), "1, 2, 5"), ((65_535, 65_534), "1, 2"), ((255, 254), "1, 2")],
)
def test_labels_that_r_wrote_as_brightness(
    tmp_path: Path, values: tuple[int, ...], labels: str
) -> None:
    [finding] = _wrapped(tmp_path, {f"t{value}": (value,) for value in values} | {"zero": (0,)})
    assert (
        "R's writePNG" in finding.cause
        and f"({labels})" in finding.cause
        and "labels / 255" in finding.suggestion
    )
    assert set(finding.paths) == {f"value {value}" for value in values}


@pytest.mark.parametrize("values", [(255,), (1, 255), (0, 254, 100), (200, 250), (65_535,)])
def test_values_near_white_that_may_well_be_labels(tmp_path: Path, values: tuple[int, ...]) -> None:
    assert _wrapped(tmp_path, {"a": values}) == []


def test_wrapped_labels_with_a_map(tmp_path: Path) -> None:
    # The map knows 0 to 3: then even few values are sure, and values that it knows are what they
    # are.
    path = write_map(tmp_path)
    found = _wrapped(tmp_path / "known", {"a": (0, 253), "b": (255, 254)}, path)
    assert [finding.code for finding in found] == ["HP410", "HP501"] and all(
        "R's writePNG" in item.cause for item in found
    )
    assert [finding.code for finding in _wrapped(tmp_path / "others", {"a": (255, 200)}, path)] == [
        "HP501"
    ]
    assert _wrapped(tmp_path / "listed", {"a": (1, 2)}, path) == []


def test_ids_of_objects_are_blamed_for_nothing(tmp_path: Path) -> None:
    many = dict.fromkeys(range(1, 31), 5)
    rows = [tile_row(name, many, mask_bit_depth=16, mask_mode="I;16") for name in "abcdef"]
    found = by_code(findings_of_rows(tmp_path, rows))
    assert found["HP417"] == {
        "masks": "30 ids up to 30, up to 30 in one mask, each of them one region"
    }
    assert "HP409 instances" in found
    assert not {"HP412", "HP804", "HP802", "HP409"} & set(found)
