"""Charts and thumbnails show the numbers and the masks they are made from."""

from __future__ import annotations

import base64
import io
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_sample import make_report

from histoprep.report import (
    THUMBNAILS_PER_FINDING,
    ClassRow,
    Report,
    charts,
    thumbnails,
    wanted_thumbnails,
)
from histoprep.report.thumbnails import make_thumbnail


@pytest.fixture(name="report")
def _report() -> Report:
    return make_report()


def test_the_logarithmic_scale_is_one_decade_a_step() -> None:
    steps = [charts.log_position(10.0**power) for power in range(-6, 1)]
    assert steps[0] == 0
    assert steps[-1] == 1
    assert np.allclose(np.diff(steps), 1 / 6)
    assert charts.log_position(0) == charts.log_position(1e-12) == 0


@given(st.lists(st.integers(0, 10**12), max_size=8))
def test_stacked_parts_fill_the_bar_once(pixels: list[int]) -> None:
    rows = [
        ClassRow(index, f"<{index}>", "#102030", count, 0, 0) for index, count in enumerate(pixels)
    ]
    drawn = ElementTree.fromstring(charts.stacked_bar(dict(enumerate(pixels)), rows))
    parts = [(float(part.attrib["x"][:-1]), float(part.attrib["width"][:-1])) for part in drawn]
    assert len(parts) == sum(count > 0 for count in pixels)
    assert all(
        left[0] + left[1] == pytest.approx(right[0], abs=0.01) for left, right in pairwise(parts)
    )
    if parts:
        assert sum(parts[-1]) == pytest.approx(100, abs=0.01)


def test_a_class_with_one_pixel_still_shows() -> None:
    width = [
        float(part.attrib["width"][:-1])
        for part in ElementTree.fromstring(charts.bar(1e-9))
        if part.attrib["class"] == "fill"
    ]
    assert width == [0.4]
    assert 'class="fill"' not in charts.bar(0)


def test_a_colour_that_is_none_becomes_grey() -> None:
    assert thumbnails.checked_colour("#ABCDEF") == "#abcdef"
    for bad in ("red", "#fff", "#12345g", '#123456"/><script>', "#123456\n", ""):
        assert thumbnails.checked_colour(bad) == thumbnails.FALLBACK_COLOUR


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_shrunk_labels_are_labels_of_the_mask(
    height: int, width: int, longest: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 2**16, (height, width)).astype(np.uint16)
    small = thumbnails.shrink_labels(labels, longest)
    assert small.shape == thumbnails.small_size(height, width, longest)
    assert max(small.shape) <= max(longest, 1)
    assert np.isin(small, labels).all()
    if longest >= max(height, width):
        assert np.array_equal(small, labels)


def test_a_shrunk_mask_takes_the_middle_of_each_block() -> None:
    labels = np.arange(81).reshape(9, 9)
    assert np.array_equal(thumbnails.shrink_labels(labels, 3), labels[1::3, 1::3])


def test_outlines_are_where_a_neighbour_differs() -> None:
    labels = np.random.default_rng(3).integers(0, 3, (17, 23))
    around = np.pad(labels, 1, mode="edge")
    shifted = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    assert np.array_equal(
        thumbnails.outline(labels), np.any([value != labels for value in shifted], axis=0)
    )


def test_an_overlay_tints_classes_outlines_them_and_leaves_unknown_alone() -> None:
    image = np.full((20, 30, 3), 200, dtype=np.uint8)
    labels = np.zeros((20, 30), dtype=np.int64)
    labels[5:15, 5:15] = 1
    labels[5:15, 18:28] = 9
    drawn = thumbnails.overlay(image, labels, {0: "#00ff00", 1: "#ff0000"})
    assert (drawn[labels == 0] == 200).all()
    assert (drawn[5, 5:15] == (255, 0, 0)).all()
    assert (drawn[5, 18:28] == (255, 0, 255)).all(), "a label that no class has must be seen"
    inner = drawn[10, 10].astype(int)
    assert inner[0] > 200 > inner[1] == inner[2] > 0
    alone = thumbnails.overlay(None, labels, {0: "#00ff00", 1: "#ff0000"})
    assert (alone[0, 0] == (0, 255, 0)).all()
    assert (alone[10, 10] == (255, 0, 0)).all()


def decoded(data_uri: str) -> Image.Image:
    """Return the thumbnail in a data URI."""
    head, body = data_uri.split(",", 1)
    thumbnail = Image.open(io.BytesIO(base64.b64decode(body, validate=True)))
    assert head == f"data:image/{thumbnail.format.lower()};base64"  # type: ignore[union-attr]
    return thumbnail


def test_a_thumbnail_is_small_and_says_what_is_in_it(report: Report) -> None:
    image = np.random.default_rng(1).integers(0, 255, (600, 300, 3), dtype=np.uint8)
    labels = np.ones((600, 300), dtype=np.uint16)
    labels[:150] = 77
    thumbnail = make_thumbnail(image, labels, report.classes, "caption")
    assert (
        decoded(thumbnail.image_data_uri or "").size
        == decoded(thumbnail.overlay_data_uri or "").size
        == (120, 240)
    )
    assert [(entry.name, entry.share) for entry in thumbnail.legend] == [
        ("tumour <b>bold</b>", 0.75),
        ("label 77, not listed", 0.25),
    ]


def test_a_mask_of_another_size_is_drawn_alone(report: Report) -> None:
    thumbnail = make_thumbnail(
        np.zeros((64, 64, 3), dtype=np.uint8), np.ones((32, 48), dtype=np.uint8), report.classes
    )
    drawn = decoded(thumbnail.overlay_data_uri or "")
    assert drawn.size == (48, 32)
    assert drawn.getcolors() == [(48 * 32, (0xC8, 0x38, 0x5A))]


def test_thumbnails_are_asked_for_worst_findings_first_and_files_only(report: Report) -> None:
    wanted = wanted_thumbnails(report.findings)
    assert [path for path, _ in wanted][:THUMBNAILS_PER_FINDING] == list(
        report.findings[0].paths[:THUMBNAILS_PER_FINDING]
    )
    assert "case <i>7</i>" not in [path for path, _ in wanted]
    assert len(wanted) == len(set(wanted))
    assert wanted_thumbnails(report.findings, limit=2) == wanted[:2]


def test_a_real_tile_makes_a_small_thumbnail(shared_data: Path, report: Report) -> None:
    path = next((shared_data / "diffinfinite" / "inpainting").glob("*_mask.png"))
    with (
        Image.open(path) as mask,
        Image.open(path.with_name(path.name.replace("_mask.png", ".jpg"))) as image,
    ):
        thumbnail = make_thumbnail(np.array(image.convert("RGB")), np.array(mask), report.classes)
    assert 1_000 < len(thumbnail.image_data_uri or "") < 60_000
    assert sum(entry.share for entry in thumbnail.legend) == pytest.approx(1)


YELLOW, BLACK = (255, 230, 0), (0, 0, 0)


def drawn_pixels(uri: str | None) -> np.ndarray:
    assert uri is not None
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.array(image.convert("RGB"))


def test_marks_have_a_frame_and_an_enlarged_part(report: Report) -> None:
    labels = np.zeros((480, 480), np.int32)
    labels[100:104, 200:206] = 1
    thumbnail = make_thumbnail(None, labels, report.classes, marks=[(100, 200, 104, 206)])
    mask = drawn_pixels(thumbnail.overlay_data_uri)
    yellow = np.argwhere((mask == YELLOW).all(axis=2))
    # At half the size the region is [50:52, 100:103]; the frame keeps 4 px off, and is 2 px wide.
    assert yellow.min(axis=0).tolist() == [45, 95] and yellow.max(axis=0).tolist() == [56, 107]
    assert (mask[44, 94:109] == BLACK).all() and (mask[57, 94:109] == BLACK).all()
    crop = drawn_pixels(thumbnail.crop_data_uri)
    # 32 px at 7 times their size, with the region in the middle.
    assert crop.shape == (224, 224, 3)
    inside = crop[14 * 7 : 18 * 7, 13 * 7 : 19 * 7]
    assert len(np.unique(inside[7:-7, 7:-7].reshape(-1, 3), axis=0)) == 1
    assert (inside[7, 7] != crop[5, 5]).any()


@given(st.integers(1, 50), st.integers(1, 50), st.data())
def test_the_enlarged_part_holds_the_mark_and_stays_inside(
    height: int, width: int, data: st.DataObject
) -> None:
    top = data.draw(st.integers(0, height - 1))
    left = data.draw(st.integers(0, width - 1))
    bottom = data.draw(st.integers(top + 1, height))
    right = data.draw(st.integers(left + 1, width))
    box = thumbnails.around((top, left, bottom, right), (height, width))
    assert 0 <= box[0] <= top and bottom <= box[2] <= height
    assert 0 <= box[1] <= left and right <= box[3] <= width
    assert box[2] - box[0] == min(height, max(32, 2 * max(bottom - top, right - left)))
