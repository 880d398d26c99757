"""From bytes to columns of tiles.parquet: each fact lands in its column, identical bytes are
decoded once.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from histoprep import imageio
from histoprep.digests import digest
from histoprep.errors import BrokenFileError
from histoprep.schemas.tiles import LISTED, MEASURED, SCHEMA, measured_schema, to_table
from histoprep.tiles import TileOptions
from histoprep.tiles.measurer import Measurer

RGB = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8), (0, 0), 3
)
MASK = np.zeros((64, 96), np.uint8)
MASK[10:40, 20:60] = 7
MASK[50:52, 70:72] = 9


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(
        stream, kind, **options
    )
    return stream.getvalue()


def test_every_column_says_what_it_means() -> None:
    assert all(field.metadata and field.metadata[b"meaning"] for field in SCHEMA)
    assert set(LISTED) | set(MEASURED) == set(SCHEMA.names) and not set(LISTED) & set(MEASURED)
    assert measured_schema().names == list(MEASURED)


def test_image_columns() -> None:
    exif = Image.Exif()
    exif[274], exif[315] = 3, "Somebody"
    data = saved(RGB, "JPEG", quality=83, subsampling="4:2:2", exif=exif)
    facts = Measurer(TileOptions()).image(data)
    expected = {
        "image_digest": digest(data),
        "image_format": "jpeg",
        "image_mode": "RGB",
        "image_bit_depth": 8,
        "width_px": 96,
        "height_px": 64,
        "jpeg_quality": 83,
        "jpeg_subsampling": "4:2:2",
        "exif_orientation": 3,
        "image_metadata": ("Artist",),
    }
    assert {name: facts[name] for name in expected} == expected
    assert "Somebody" not in repr(facts) and "image_error" not in facts
    assert abs(facts["luminance"] - cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY).mean()) < 2


def test_mask_columns() -> None:
    data = imageio.encode_mask_png(MASK, {imageio.LABEL_MAP_TEXT: "five"})
    facts = Measurer(TileOptions(min_area_px=10)).mask(data)
    assert facts["label_ids"].tolist() == [0, 7, 9]
    assert facts["label_pixels"].tolist() == [64 * 96 - 1204, 1200, 4]
    assert facts["label_core_pixels"].tolist()[1:] == [26 * 36, 0]
    assert facts["label_regions"].tolist() == [1, 1, 1] and facts["label_specks"].tolist() == [
        0,
        0,
        1,
    ]
    assert (
        facts["mask_width_px"],
        facts["mask_height_px"],
        facts["mask_label_map"],
        facts["mask_cell_px"],
    ) == (96, 64, "five", 2)
    assert "width_px" not in facts and "mask_error" not in facts


def test_colours_that_nobody_chose_are_no_labels() -> None:
    photograph = np.random.default_rng(1).integers(0, 256, (*MASK.shape, 3), np.uint8)
    facts = Measurer(TileOptions()).mask(saved(photograph, "PNG"))
    assert facts["mask_error"] == "HP402 rgb" and facts["mask_mode"] == "RGB"
    assert facts["mask_colours"] > MASK.size * 0.9 and not facts["mask_channels_equal"]
    assert "label_ids" not in facts and "mask_encoding" not in facts


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_more_pixels_than_allowed_are_not_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("decode_luminance_eighth", "decode_stored"):
        monkeypatch.delattr(imageio, name)
    measurer = Measurer(TileOptions(max_pixels=64 * 96 - 1))
    for what, facts in (
        ("image", measurer.image(saved(RGB, kind))),
        ("mask", measurer.mask(saved(RGB, kind))),
    ):
        assert (
            facts[f"{what}_error"] == "HP205 huge-image"
            and "96x64" in facts[f"{what}_error_detail"]
        )
        assert facts["width_px" if what == "image" else "mask_width_px"] == 96


def test_headers_only_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("decode_luminance_eighth", "decode_stored"):
        monkeypatch.delattr(imageio, name)
    measurer = Measurer(TileOptions(headers_only=True))
    assert measurer.image(saved(RGB, "JPEG"))["width_px"] == 96
    assert measurer.mask(saved(MASK, "PNG"))["mask_mode"] == "L"


def test_identical_bytes_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = imageio.decode_stored
    monkeypatch.setattr(
        imageio, "decode_stored", lambda data, header: calls.append(1) or original(data, header)
    )
    measurer = Measurer(TileOptions(), num_remembered=3)
    files = [saved(MASK + index, "PNG") for index in range(5)]
    first = [measurer.mask(data) for data in files[:3] * 4]
    assert len(calls) == 3 and first[0] is first[3]
    for data in files:
        measurer.mask(data)
    assert len(calls) == 5 and len(measurer._masks) == 3


def test_images_and_masks_are_remembered_apart() -> None:
    measurer = Measurer(TileOptions())
    data = saved(MASK, "PNG")
    assert "label_ids" in measurer.mask(data) and "label_ids" not in measurer.image(data)


def test_errors_become_columns() -> None:
    measurer = Measurer(TileOptions())
    assert measurer.image(BrokenFileError("HP201 vanished", "gone")) == {
        "image_error": "HP201 vanished",
        "image_error_detail": "gone",
    }
    broken = saved(MASK, "PNG")[:-30]
    facts = measurer.mask(broken)
    assert facts["mask_error"] == "HP201 truncated" and facts["mask_digest"] == digest(broken)
    facts = measurer.image(saved(RGB, "JPEG")[:-90] + b"\xff\xd9")
    assert (
        facts["image_error"] == "HP202 missing-data"
        and facts["width_px"] == 96
        and "focus" not in facts
    )


def test_rows_become_a_table() -> None:
    measurer = Measurer(TileOptions())
    whole = {
        **measurer.image(saved(RGB, "JPEG")),
        **measurer.mask(saved(MASK.astype(np.uint16) * 9000, "PNG")),
    }
    table = to_table([whole, {}, {"image_error": "HP201 vanished"}], measured_schema())
    table.validate(full=True)
    assert table.schema.equals(measured_schema()) and table.num_rows == 3
    assert table["label_ids"].to_pylist() == [[0, 81000 - 65536, 63000], None, None]
    assert pa.types.is_uint64(table["image_hash"].type)
