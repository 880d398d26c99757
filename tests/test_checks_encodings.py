"""HP4: masks whose labels depend on who reads them, by themselves and beside others."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from audit_cases import DataSet, Found, by_code
from mask_files import blobs, by_tifffile, grey_palette_png, greys, png_bytes, saved, tiff_bytes

from histoprep.choices import Severity
from histoprep.findings import Finding
from histoprep.mask_reading import Reading
from histoprep.tiles import TileOptions

TRIGGERS = ("HP413", "HP414", "HP415", "HP416")

SHORT = png_bytes(blobs((0, 1, 2, 15)), 4, greys(range(5)))
NEGATIVE = tiff_bytes(blobs((0, 1, -1)), 8, sample_format=2)


def grey(*labels: int, kind: type = np.uint8) -> bytes:
    return saved(blobs(labels).astype(kind))


def audited(folder: Path, masks: dict[str, bytes], **decided: str) -> tuple[Finding, ...]:
    """Return the findings about masks, by path without `_mask.` and suffix, each beside an
    image.
    """
    data = DataSet(folder / "data")
    for name, content in masks.items():
        suffix = "png" if content.startswith(b"\x89PNG") else "tif"
        data.image(f"{name}.jpg")
        data.write(f"{name}_mask.{suffix}", content)
    return tuple(
        data.audit(tile_options=TileOptions().with_reading(Reading.from_json(decided))).findings
    )


def about_encodings(found: Iterable[Finding]) -> Found:
    return by_code(finding for finding in found if finding.code in TRIGGERS)


def test_a_clean_set_is_silent(tmp_path: Path) -> None:
    # Palettes whose greys are their indices, and 16 bits in a folder of their own, leave nothing
    # open.
    same = png_bytes(blobs((0, 1, 2)), 8, greys(range(3)))
    wide = {f"wide/{index}": grey(0, 1, 300 + index, kind=np.uint16) for index in range(2)}
    masks = {
        "a": grey(0, 1, 2),
        "b": grey(0, 5),
        "c": same,
        **wide,
        "d": tiff_bytes(blobs((0, 1, 100)), 8, sample_format=2),
    }
    assert about_encodings(audited(tmp_path, masks)) == {}


def test_an_optimised_mask_among_grey_ones_is_named_with_both_readings_and_the_right_advice(
    tmp_path: Path,
) -> None:
    found = audited(
        tmp_path, {"a": grey(2, 3, 4), "b": grey(2, 4), "c": grey_palette_png(blobs((2, 3, 4)))}
    )
    assert about_encodings(found) == {
        "HP413 palette": {"c_mask.png": "0, 1, 2 by index, 2, 3, 4 by grey value"}
    }
    [finding] = [finding for finding in found if finding.code == "HP413"]
    assert (
        finding.severity is Severity.ERROR
        and "lossless optimiser" in finding.cause
        and "--palette grey" in finding.suggestion
    )


def test_a_palette_for_viewing_is_told_apart(tmp_path: Path) -> None:
    found = audited(
        tmp_path,
        {"a": grey(0, 1, 2), "b": png_bytes(blobs((0, 1, 2)), 2, greys([0, 85, 170, 255]))},
    )
    [finding] = [finding for finding in found if finding.code == "HP413"]
    assert "for viewing" in finding.cause and "--palette index" in finding.suggestion
    alone = audited(
        tmp_path / "alone", {"b": png_bytes(blobs((0, 1, 2)), 2, greys([0, 85, 170, 255]))}
    )
    [advice] = [finding.suggestion for finding in alone if finding.code == "HP413"]
    # No options of other doubts.
    assert re.findall(r"--[a-z-]+ [a-z]+", advice) == ["--palette index", "--palette grey"]
    decided = audited(
        tmp_path / "decided",
        {"b": png_bytes(blobs((0, 1, 2)), 2, greys([0, 85, 170, 255]))},
        palette="grey",
    )
    [advice] = [finding.suggestion for finding in decided if finding.code == "HP413"]
    assert advice.startswith("No command is needed where this was right")


def test_min_is_white_is_an_error_that_tifffile_decides(tmp_path: Path) -> None:
    masks = {
        "own": by_tifffile(blobs((0, 1)).astype(bool)),
        "other": tiff_bytes(blobs((0, 1)), 1, 0),
    }
    found = audited(tmp_path, masks)
    both = "0, 1 as stored, 1, 0 inverted"
    assert about_encodings(found) == {
        "HP413 min-is-white": {"other_mask.tif": both},
        "HP413 min-is-white-of-tifffile": {"own_mask.tif": both},
    }
    # What nobody decided is no unreadable file.
    assert not [finding for finding in found if finding.code == "HP201"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("palette", "grey"),
        ("palette", "index"),
        ("min-is-white", "stored"),
        ("min-is-white", "inverted"),
    ],
)
def test_a_decision_makes_a_warning_of_it(tmp_path: Path, option: str, value: str) -> None:
    mask = (
        grey_palette_png(blobs((0, 3))) if option == "palette" else tiff_bytes(blobs((0, 1)), 8, 0)
    )
    found = audited(tmp_path, {"a": mask}, **{option: value})
    [finding] = [finding for finding in found if finding.code in TRIGGERS]
    assert (
        finding.subcode == f"{option}-decided"
        and finding.severity is Severity.WARNING
        and f"--{option} {value}" in finding.cause
    )


def test_depths_that_change_from_file_to_file(tmp_path: Path) -> None:
    one_bit = png_bytes(blobs((0, 1)), 1)
    masks = {
        "a": grey(0, 1, 2, 255),
        "b": one_bit,
        "zero": png_bytes(blobs((0,)), 1),
        "elsewhere/c": one_bit,
    }
    said = "1 bit beside 8, such as a_mask.png: 0, 1 as stored, or 0, 255 scaled"
    assert about_encodings(audited(tmp_path, masks)) == {
        "HP414 depth": {"b_mask.png": said, "elsewhere/c_mask.png": said}
    }
    assert about_encodings(audited(tmp_path, masks, depth="8")) == {}


@pytest.mark.slow
def test_8_and_16_bits_in_one_folder_name_the_fewer(tmp_path: Path) -> None:
    few_small = {
        "a": grey(0, 1),
        "b": grey(0, 257, 300, kind=np.uint16),
        "c": grey(0, 300, kind=np.uint16),
    }
    assert about_encodings(audited(tmp_path, few_small)) == {
        "HP414 depth": {
            "a_mask.png": "8 bits beside 16, such as b_mask.png: 0, 1 as stored, or 0, 257 scaled"
        }
    }
    few_wide = {"a": grey(0, 1), "b": grey(0, 2), "c": grey(0, 300, kind=np.uint16)}
    assert about_encodings(audited(tmp_path / "wide", few_wide)) == {
        "HP414 depth": {
            "c_mask.png": (
                "16 bits beside 8, such as a_mask.png: a label 1 of those is 1 as stored, or 257"
                " scaled"
            )
        }
    }
    # 16 bits that nothing needs are needless (HP412); but a 255 may be the white of 16 bits.
    needless = {"a": grey(0, 1), "b": grey(0, 2, kind=np.uint16)}
    assert about_encodings(audited(tmp_path / "needless", needless)) == {}
    assert about_encodings(
        audited(tmp_path / "white", {"a": grey(0, 255), "b": grey(0, 2, kind=np.uint16)})
    ) == {
        "HP414 depth": {
            "a_mask.png": (
                "8 bits beside 16, such as b_mask.png: 0, 255 as stored, or 0, 65535 scaled"
            )
        }
    }
    assert (
        about_encodings(
            audited(tmp_path / "both", {"a": grey(0, 255), "b": grey(0, 255, kind=np.uint16)})
        )
        == {}
    )
    # In folders of their own nothing says that they were one export.
    apart = {"a/a": grey(0, 1), "b/b": grey(0, 257, 300, kind=np.uint16)}
    assert about_encodings(audited(tmp_path / "apart", apart)) == {}


def test_an_optimiser_that_used_1_bit_and_palettes_leaves_the_1_bit_open(tmp_path: Path) -> None:
    masks = {"a": grey_palette_png(blobs((0, 3, 255))), "b": png_bytes(blobs((0, 1)), 1)}
    assert "HP414 depth" in about_encodings(audited(tmp_path, masks, palette="grey"))
    assert "HP414 depth" not in about_encodings(audited(tmp_path / "index", masks, palette="index"))


RED, GREEN, BLUE = (
    bytes([0, 0, 0, 200, 0, 0, 0, 200, 0]),
    bytes([0, 0, 0, 0, 200, 0, 200, 0, 0]),
    bytes([0, 0, 0, 200, 0, 0]),
)


def test_palettes_that_differ_within_a_folder(tmp_path: Path) -> None:
    labels, two = blobs((0, 1, 2)), blobs((0, 1))
    # A palette cut to the colours in use says nothing else.
    masks = {
        "a": png_bytes(labels, 8, RED),
        "b": png_bytes(labels, 8, RED),
        "cut": png_bytes(two, 8, BLUE),
        "odd": png_bytes(labels, 8, GREEN),
    }
    said = {
        "HP414 palette": {
            "odd_mask.png": "index 1 is #00c800 here and #c80000 in others, such as a_mask.png"
        }
    }
    assert about_encodings(audited(tmp_path, masks)) == said
    assert about_encodings(audited(tmp_path, masks, palette="index")) == said
    apart = {name if name != "odd" else "other/odd": content for name, content in masks.items()}
    assert about_encodings(audited(tmp_path / "apart", apart)) == {}


def test_masks_of_background_alone_are_beside_nothing(tmp_path: Path) -> None:
    zero = png_bytes(blobs((0,)), 8, RED)
    assert (
        about_encodings(
            audited(tmp_path, {"a": zero, "b": png_bytes(blobs((0, 1, 2)), 8, RED), "c": zero})
        )
        == {}
    )


def test_a_palette_of_colours_beside_grey(tmp_path: Path) -> None:
    masks = {"a": grey(0, 1, 2), "b": png_bytes(blobs((0, 1, 2)), 8, RED)}
    found = about_encodings(audited(tmp_path, masks))
    assert found["HP414 mode"]["b_mask.png"].startswith(
        "indices 0, 1, 2 of a palette of colours beside grey masks, such as a_mask.png"
    )
    assert about_encodings(audited(tmp_path, masks, palette="index")) == {}


def test_a_mask_that_asks_to_be_turned(tmp_path: Path) -> None:
    turned = by_tifffile(
        blobs((0, 1), 1).astype(np.uint8),
        photometric="minisblack",
        extratags=[(274, 3, 1, 6, True)],
    )
    upright = by_tifffile(
        blobs((0, 1), 1).astype(np.uint8),
        photometric="minisblack",
        extratags=[(274, 3, 1, 1, True)],
    )
    found = about_encodings(audited(tmp_path, {"a": turned, "b": upright}))
    assert found == {
        "HP413 orientation": {
            "a_mask.tif": "orientation 6: some readers turn the mask, others do not"
        }
    }


def test_values_that_are_no_labels(tmp_path: Path) -> None:
    found = about_encodings(
        audited(tmp_path, {"a": grey(0, 1), "short": SHORT, "negative": NEGATIVE})
    )
    assert found["HP415"] == {
        "short_mask.png": "label 15 of a palette of 5 colours (0 to 4), perhaps of a larger label"
    }
    [detail] = found["HP416"].values()
    assert detail.startswith("-1 (") and "readers that ignore the sign return 255" in detail
    assert found.keys() == {"HP415", "HP416"}
