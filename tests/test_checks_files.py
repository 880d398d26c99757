"""HP2: files that cannot be read, or are not what they seem."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from audit_cases import DataSet, Found, by_code, findings_of_rows, image_bytes, stripes, tissue
from mask_files import tiff_bytes
from PIL import Image, PngImagePlugin
from tile_rows import tile_row

from histoprep.mask_reading import Reading
from histoprep.tiles import TileOptions

TRIGGERS = ("HP201", "HP202", "HP203", "HP205", "HP206", "HP207", "HP208", "HP209")


def _jpeg(seed: int) -> bytes:
    return image_bytes(tissue(seed), "JPEG", quality=90)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    data = DataSet(tmp_path_factory.mktemp("files") / "data")
    data.pairs(3)
    good_mask = image_bytes(stripes(0, 1, 2), "PNG")
    # Images.
    data.write("cut.jpg", _jpeg(100)[:-400])
    data.write("empty.jpg", b"")
    data.write("prose.jpg", b"Not an image at all.")
    data.write("really.jpg", image_bytes(tissue(101), "PNG"))
    data.write("upper.JPEG", _jpeg(102))
    data.image("huge.png", tissue(103, 200))
    exif = Image.Exif()
    exif[0x013B], exif[0x0132] = "Dr. A. Example", "2024:01:02 03:04:05"
    data.write("named.jpg", image_bytes(tissue(104), "JPEG", quality=90, exif=exif))
    # Masks, each beside a good image.
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "A. Example")
    flipped = bytearray(good_mask)
    flipped[45] ^= 1
    masks = {
        "cut2": good_mask[:-30],
        "flipped": bytes(flipped),
        "png_in_tif": good_mask,
        "told": image_bytes(stripes(0, 1, 2), "PNG", pnginfo=text),
    }
    for stem, content in masks.items():
        data.image(f"{stem}.jpg")
        data.write(f"{stem}_mask.{'tif' if stem == 'png_in_tif' else 'png'}", content)
    # Between the tiles (96 x 96) and the huge image (200 x 200).
    return by_code(data.audit(tile_options=TileOptions(max_pixels=20_000)).findings)


def test_unreadable_files(found: Found) -> None:
    assert found["HP201 zero-bytes"].keys() == {"empty.jpg"}
    assert found["HP201 bad-header"].keys() == {"prose.jpg"}
    assert found["HP201 truncated"].keys() == {"cut2_mask.png"}
    assert found["HP201 bad-checksum"].keys() == {"flipped_mask.png"}
    assert {key for key in found if key.startswith("HP201")} == {
        f"HP201 {item}" for item in ("zero-bytes", "bad-header", "truncated", "bad-checksum")
    }


def test_a_jpeg_cut_short(found: Found) -> None:
    [(key, paths)] = [(key, paths) for key, paths in found.items() if key.startswith("HP202")]
    assert (key, paths.keys()) == ("HP202 no-end-marker", {"cut.jpg"})


def test_names_that_lie(found: Found) -> None:
    assert found["HP203"] == {
        "really.jpg": "its first bytes are those of a PNG",
        "png_in_tif_mask.tif": "its first bytes are those of a PNG",
    }


def test_images_beyond_the_limit(found: Found) -> None:
    assert found["HP205 huge-image"].keys() == {"huge.png"}
    assert "200x200" in found["HP205 huge-image"]["huge.png"]


def test_whole_files_that_readers_refuse_are_named_for_what_they_are(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(1)
    labels = stripes(0, 1, 2).astype(int)
    masks = {
        "lerc": tiff_bytes(labels, 8, compression=34887),
        "jxl": tiff_bytes(labels, 8, compression=50002),
        "jp2k": tiff_bytes(labels, 8, compression=34712),
        "twelve": tiff_bytes(labels, 12),
        "three": tiff_bytes(labels, 3),
        "wide_palette": tiff_bytes(labels, 16, 3, colour_map=[0] * (3 << 16)),
        "white32": tiff_bytes(labels, 32, 0),
        "fine": tiff_bytes(labels, 16),
    }
    for stem, content in masks.items():
        data.image(f"{stem}.jpg")
        data.write(f"{stem}_mask.tif", content)
    report = data.audit()
    found = by_code(report.findings)
    assert found["HP208 compression"] == {
        "lerc_mask.tif": "LERC compression (TIFF number 34887)",
        "jxl_mask.tif": "JPEG XL compression (TIFF number 50002)",
        "jp2k_mask.tif": "JPEG 2000 compression (TIFF number 34712)",
    }
    assert found["HP208 bit-depth"].keys() == {
        "twelve_mask.tif",
        "three_mask.tif",
        "wide_palette_mask.tif",
    }
    assert found["HP208 bit-depth"]["twelve_mask.tif"].startswith("12 bits")
    assert found["HP208 values"] == {
        "white32_mask.tif": "32-bit unsigned min-is-white, which most readers refuse"
    }
    assert not [key for key in found if key.startswith("HP201")]
    assert all(
        "interrupted" not in finding.cause for finding in report.findings if finding.code == "HP208"
    )


def test_metadata_names_fields_and_never_values(found: Found) -> None:
    assert found["HP207"].keys() == {"named.jpg", "told_mask.png"}
    assert "Example" not in "".join(found["HP207"].values())


def test_what_happens_between_listing_and_reading(tmp_path: Path) -> None:
    rows = [
        tile_row("a", {1: 100}),
        tile_row(
            "b",
            {1: 100},
            image_error="HP206 changed",
            image_error_detail="listed with 9 bytes, 10 when read",
            image_digest=None,
        ),
        tile_row(
            "c",
            {1: 100},
            mask_error="HP201 vanished",
            mask_error_detail="gone between listing and reading",
        ),
    ]
    found = by_code(findings_of_rows(tmp_path, rows))
    assert found["HP206 changed"] == {"b.jpg": "listed with 9 bytes, 10 when read"}
    assert found["HP201 vanished"] == {"c_mask.png": "gone between listing and reading"}


def test_folders_that_cannot_be_listed(tmp_path: Path) -> None:
    [finding] = findings_of_rows(
        tmp_path, [tile_row("a")], issues=[("unreadable", "secret/", "Permission denied")]
    )
    assert (finding.code, finding.subcode, finding.paths) == ("HP201", "folder", ("secret/",))
    # How many folders there are is not known, so no share is claimed.
    assert finding.denominator == 0


def test_names_that_are_no_utf8_are_reported_as_themselves(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(2)
    name = os.fsdecode(b"caf\xe9.jpg")
    (data.root / name).write_bytes(b"")
    report = data.audit()
    from histoprep.report import render

    assert r"caf\xe9.jpg: the file is empty" in render(report, "text")
    assert "caf%E9.jpg" in render(report, "json")
    assert "caf%E9.jpg" in render(report, "sarif")


def test_pages_are_no_damage(tmp_path: Path) -> None:
    """A pyramid is read at full size; a stack asks for a page, which `--page` gives for masks."""
    data = DataSet(tmp_path / "data")
    labels = stripes(0, 1, 2)
    other = np.ascontiguousarray(labels.T)

    def pages(*arrays: np.ndarray) -> bytes:
        images = [Image.fromarray(array) for array in arrays]
        return image_bytes(images[0], "TIFF", save_all=True, append_images=images[1:])

    data.write("pyramid.tif", pages(tissue(1), tissue(1)[::2, ::2]))
    data.write("pyramid_mask.tif", pages(labels, labels[::2, ::2], labels[::4, ::4]))
    data.write("stack.tif", pages(tissue(2), tissue(3)))
    data.image("plain.jpg")
    data.write("plain_mask.tif", pages(labels, other))
    report = data.audit()
    found = by_code(report.findings)
    assert found["HP209"] == {
        "pyramid.tif": "2 pages, of which page 1 is read",
        "pyramid_mask.tif": "3 pages, of which page 1 is read",
    }
    assert found["HP208 multi-page-image"].keys() == {"stack.tif"}
    assert found["HP208 multi-page-mask"].keys() == {"plain_mask.tif"}
    words = {finding.subcode: finding for finding in report.findings if finding.code == "HP208"}
    assert all("The file is whole" in finding.cause for finding in words.values())
    assert f"histoprep audit {data.root} --page 1" in words["multi-page-mask"].suggestion
    second = TileOptions().with_reading(Reading(page=2))
    found = by_code(data.audit(tile_options=second).findings)
    assert not any(key.startswith("HP208 multi-page-mask") for key in found)
    assert found["HP209 page-decided"] == {
        "pyramid_mask.tif": "3 pages, of which page 2 is read",
        "plain_mask.tif": "2 pages, of which page 2 is read",
    }


@pytest.mark.parametrize(
    ("data", "subcode", "hint"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
            "pointer",
            "git lfs",
        ),
        (b"/annex/objects/SHA256E-s9--1.png\n", "pointer", "git annex get"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "web-page", "download"),
        (b"", "zero-bytes", "again"),
        (b"GIF", "bad-header", "file NAME"),
    ],
)
def test_causes_and_advice_fit_what_is_in_the_place_of_a_file(
    tmp_path: Path, data: bytes, subcode: str, hint: str
) -> None:
    folder = DataSet(tmp_path / "data")
    folder.pairs(2)
    folder.write("odd.png", data)
    [finding] = [finding for finding in folder.audit().findings if finding.code == "HP201"]
    assert (finding.subcode, finding.paths) == (subcode, ("odd.png",))
    assert hint in finding.suggestion
    assert finding.cause != finding.rule.cause
