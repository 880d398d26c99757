"""The table of image formats: the only place that knows suffixes and first bytes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from histoprep import image_formats, imageio
from histoprep.image_formats import BUILT_IN, Compression, format_of, shard_suffix, sniff
from histoprep.imageio.decoders import decoder_of
from histoprep.imageio.decoders.base import Decoder, header_of, rgb_of
from histoprep.scanning.keys import PLAIN_FROM, sort_names
from histoprep.scanning.name_rules import NameEnd, NameRules

PACKAGES = [
    Path(image_formats.__file__).parent,
    Path(image_formats.__file__).parents[1] / "trainer",
]


def test_every_built_in_format_has_a_decoder_whose_samples_are_its_own() -> None:
    files = {path.stem for path in (PACKAGES[0] / "imageio" / "decoders").glob("*.py")}
    assert files - {"__init__", "base", "pillow"} == {
        image_format.name for image_format in BUILT_IN
    }
    for image_format in BUILT_IN:
        decoder = decoder_of(image_format.name)
        assert isinstance(decoder, Decoder)
        for sample in decoder.samples():
            assert sniff(sample.data) is image_format
            assert imageio.read_header(sample.data).format == image_format.name


def test_suffixes_stand_in_the_table_alone() -> None:
    """A second list of them would disagree with the first one day."""
    lists = re.compile(
        r"\"\.?(?:jpe?g|png|tiff?|webp|jfif)\",\s*\"\.?(?:jpe?g|png|tiff?|webp|jpe)\""
    )
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            if path.name != "image_formats.py":
                assert not lists.search(path.read_text("utf-8")), path


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.JPG", "jpeg"), ("b.jfif", "jpeg"), ("c.tiff", "tiff"), ("d.webp", "webp"),
     ("e.bmp", "bmp"), ("f.J2K", "jpeg2000"), ("g.npy", "npy"), ("h.ppm", None), ("png", "png"),
     ("f", None)],
)  # fmt: skip
def test_the_format_of_a_name(name: str, expected: str | None) -> None:
    found = format_of(name)
    assert (found.name if found else None) == expected


@pytest.mark.parametrize(
    ("suffix", "member"),
    [("jpeg", "jpg"), ("jfif", "jpg"), ("tiff", "tif"), ("png", "png"), ("bin", "bin")],
)
def test_members_of_shards_have_one_suffix_a_format(suffix: str, member: str) -> None:
    assert shard_suffix(suffix) == member


def test_titles_and_lossless_suffixes() -> None:
    assert image_formats.titles() == (
        "JPEG, PNG, TIFF, WebP, BMP, JPEG 2000, GIF, NumPy array, NumPy archive or MATLAB array"
    )
    lossless = [
        image_format
        for image_format in BUILT_IN
        if image_format.compression is Compression.LOSSLESS
    ]
    assert image_formats.titles(lossless[:2]) == "PNG or TIFF"
    suffixes = {"png", "tif", "tiff", "bmp", "gif", "npy", "npz", "mat"}
    assert set(image_formats.lossless_suffixes()) == suffixes
    assert not {"gif", "npy", "npz", "mat"} & set(image_formats.image_suffixes())


@pytest.fixture
def masks_only(monkeypatch: pytest.MonkeyPatch):
    """A format of masks, registered for one test."""
    monkeypatch.setattr(image_formats, "_registered", dict(image_formats._registered))
    image_formats.register(
        image_formats.ImageFormat(
            "labels",
            "label array",
            ("lbl",),
            (((0, b"LABELS"),),),
            holds=image_formats.Holds.MASKS,
        )
    )
    yield
    monkeypatch.undo()
    image_formats.clear_caches()


@pytest.mark.usefixtures("masks_only")
@pytest.mark.parametrize("number", [3, PLAIN_FROM])
def test_a_format_of_masks_is_never_taken_for_an_image(number: int) -> None:
    images = [f"{index}.png" for index in range(number)]
    masks = [f"{index}_mask.lbl" for index in range(number)]
    rules = NameRules(NameEnd(""), NameEnd("_mask"))
    found = sort_names([*images, *masks, "alone.lbl"], None, rules)
    assert found.images.all() == set(images)
    assert found.masks.all() == set(masks)
    assert found.others == ["alone.lbl"]
    beside = sort_names([*images, "alone.lbl"], [f"{index}.lbl" for index in range(number)], rules)
    assert len(beside.masks.all()) == number
    assert beside.images.all() == set(images) and beside.others == ["alone.lbl"]
    # Beside its image, such a mask needs no suffix.
    same = sort_names([*images, "0.lbl", "alone.lbl"], None, rules)
    assert same.images.all() == set(images) and same.others == ["alone.lbl"]
    assert same.masks.all() == {"0.lbl"}


@pytest.mark.parametrize(
    ("dtype", "mode", "bits"),
    [(np.uint8, "L", 8), (np.uint16, "I;16", 16), (np.int32, "I", 32), (np.float32, "F", 32),
     (np.bool_, "1", 1)],
)  # fmt: skip
def test_headers_of_arrays(dtype: type, mode: str, bits: int) -> None:
    header = header_of(np.zeros((3, 5), dtype), "labels")
    assert (header.mode, header.bit_depth, header.width_px, header.height_px) == (mode, bits, 5, 3)
    assert header.is_signed is (dtype is np.int32)


def test_colours_of_stored_values() -> None:
    grey = np.array([[0, 256, 65_535]], np.uint16)
    assert rgb_of(grey, 16)[0, :, 0].tolist() == [0, 1, 255]
    assert rgb_of(np.array([[0, 1]], np.uint8), 1)[0, :, 2].tolist() == [0, 255]
    assert rgb_of(np.array([[-4.0, 300.0]], np.float32), 32)[0, :, 1].tolist() == [0, 255]
    rgba = np.arange(8, dtype=np.uint8).reshape(1, 2, 4)
    assert rgb_of(rgba, 8).tolist() == rgba[..., :3].tolist()
