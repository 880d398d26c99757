"""TIFF directories as we read them: against tifffile's, at damage, and by what real encoders of
rare kinds write.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_files import blobs, by_tifffile, tiff_bytes
from PIL import Image

from histoprep import imageio
from histoprep.errors import BrokenFileError
from histoprep.imageio.tiff import read_pages

LABELS = blobs((0, 1, 2)).astype(np.uint8)


def by_gdal(*, mask: bool = False, **options: object) -> bytes:
    """Return a mask as GDAL writes it, with a transparency mask inside if asked for."""
    with warnings.catch_warnings(), rasterio.MemoryFile() as file:
        # A mask has no place on Earth.
        warnings.simplefilter("ignore")
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            height, width = LABELS.shape
            with file.open(
                driver="GTiff", width=width, height=height, count=1, dtype="uint8", **options
            ) as target:
                target.write(LABELS, 1)
                if mask:
                    target.write_mask(LABELS > 0)
        return bytes(file.read())


def verdict_of(data: bytes) -> tuple[str, str]:
    with pytest.raises(BrokenFileError) as refused:
        imageio.read_header(data)
    return refused.value.verdict, refused.value.detail


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"bigtiff": True, "byteorder": ">"},
        {"tile": (32, 32)},
    ],
)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32])
def test_tags_are_those_that_tifffile_reads(options: dict[str, object], dtype: type) -> None:
    data = by_tifffile(LABELS.astype(dtype), metadata=None, **options)
    [page] = read_pages(data)
    theirs = tifffile.TiffFile(io.BytesIO(data)).pages[0]
    assert page.bits == theirs.bitspersample and page.is_min_is_white == (theirs.photometric == 0)
    assert (
        page.is_signed == (theirs.sampleformat == 2)
        and page.software == theirs.software == "tifffile.py"
    )


def test_pages_are_counted_by_what_they_are() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for kind in (0, 1, 4, 5):
            writer.write(LABELS > 0, subfiletype=kind, photometric=4 if kind & 4 else 1)
    pages = read_pages(stream.getvalue())
    assert [(page.is_reduced, page.is_transparency) for page in pages] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]


def test_an_overview_before_the_mask_is_refused_and_one_after_it_is_not() -> None:
    for kinds, refused in (((1, 0), True), ((0, 1), False)):
        stream = io.BytesIO()
        with tifffile.TiffWriter(stream) as writer:
            for kind in kinds:
                writer.write(LABELS[::2, ::2] if kind else LABELS, subfiletype=kind)
        if refused:
            verdict, detail = verdict_of(stream.getvalue())
            assert verdict == "HP208 multi-page" and "reduced copy" in detail
        else:
            header = imageio.read_header(stream.getvalue())
            np.testing.assert_array_equal(imageio.decode_mask(stream.getvalue(), header), LABELS)


def test_an_image_j_stack_in_one_page_is_several_pages() -> None:
    stack = np.stack([LABELS, LABELS[::-1]])
    assert verdict_of(by_tifffile(stack, imagej=True))[0] == "HP208 multi-page"
    single = by_tifffile(LABELS, imagej=True, photometric="minisblack")
    np.testing.assert_array_equal(imageio.decode_mask(single, imageio.read_header(single)), LABELS)


def test_several_bands_and_layers_are_not_one() -> None:
    for bands in (2, 3, 5):
        data = by_tifffile(
            np.dstack([LABELS, *[LABELS[::-1]] * (bands - 1)]),
            photometric="minisblack",
            planarconfig="contig",
        )
        verdict, detail = verdict_of(data)
        assert verdict == "HP208 bands" and detail.startswith(f"{bands} values a pixel")
    volume = by_tifffile(
        np.stack([LABELS, LABELS.T]), photometric="minisblack", volumetric=True, tile=(16, 16, 16)
    )
    assert verdict_of(volume)[0] == "HP208 multi-page"
    alpha = by_tifffile(
        np.dstack([LABELS, LABELS]),
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    assert imageio.read_header(alpha).mode == "LA"


def test_what_gdal_writes_is_named() -> None:
    assert verdict_of(by_gdal(compress="LERC"))[0] == "HP208 compression"
    assert verdict_of(by_gdal(nbits=3))[0] == "HP208 bit-depth"
    verdict, detail = verdict_of(by_gdal(mask=True))
    assert verdict == "HP208 internal-mask" and "GDAL" in detail
    for options in (
        {},
        {"compress": "deflate"},
        {"nbits": 2},
        {"compress": "lzw", "tiled": True, "blockxsize": 32, "blockysize": 32},
    ):
        data = by_gdal(**options)
        np.testing.assert_array_equal(imageio.decode_mask(data, imageio.read_header(data)), LABELS)


def test_old_colour_tables_of_8_bits_count_as_such() -> None:
    old, new = (
        tiff_bytes(
            LABELS.astype(int), 8, 3, colour_map=[number * scale for number in range(256)] * 3
        )
        for scale in (1, 257)
    )
    assert (
        imageio.read_header(old).palette
        == imageio.read_header(new).palette
        == bytes(level for number in range(256) for level in (number,) * 3)
    )


def test_directories_in_a_circle_end() -> None:
    data = bytearray(tiff_bytes(LABELS.astype(int), 8))
    count = int.from_bytes(data[8:10], "little")
    data[10 + 12 * count : 14 + 12 * count] = (8).to_bytes(4, "little")
    assert len(read_pages(bytes(data))) == 1


WHOLE = by_tifffile(LABELS, metadata=None)


@settings(max_examples=300)
@given(cut=st.integers(0, len(WHOLE)), at=st.integers(0, 400), value=st.integers(0, 255))
def test_damage_is_never_an_error_of_ours(cut: int, at: int, value: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] = value
    for data in (WHOLE[:cut], bytes(damaged)):
        read_pages(data)
        if data[:4] == WHOLE[:4]:
            try:
                header = imageio.read_header(data)
                # Whoever decodes has looked at the size before.
                if header.num_pixels < 1 << 20:
                    imageio.decode_mask(data, header)
            except BrokenFileError as error:
                assert error.verdict.startswith("HP")


def group_4(*, damaged: bool) -> bytes:
    """Return a mask of one bit in CCITT Group 4, in which zeros, that are no code word, stand for
    some bytes.
    """
    stream = io.BytesIO()
    Image.fromarray(LABELS > 0).save(stream, "TIFF", compression="group4")
    data = bytearray(stream.getvalue())
    [start] = tifffile.TiffFile(io.BytesIO(data)).pages[0].dataoffsets
    if damaged:
        data[start + 4 : start + 8] = bytes(4)
    return bytes(data)


def test_damage_that_only_libtiff_reports_is_damage() -> None:
    whole, damaged = group_4(damaged=False), group_4(damaged=True)
    # Pillow reads other labels and raises nothing.
    assert not np.array_equal(np.asarray(Image.open(io.BytesIO(damaged))), LABELS > 0)
    assert np.array_equal(imageio.decode_mask(whole, imageio.read_header(whole)), LABELS > 0)
    with pytest.raises(BrokenFileError, match="Fax4Decode: Bad code word at line") as refused:
        imageio.decode_mask(damaged, imageio.read_header(damaged))
    assert refused.value.verdict == "HP201 corrupt"
    # What one file is blamed for, the next is not.
    assert np.array_equal(imageio.decode_mask(whole, imageio.read_header(whole)), LABELS > 0)


@pytest.mark.slow
def test_libtiff_prints_nothing_between_our_lines(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    damaged = group_4(damaged=True)
    for name, data in {
        "a_mask.tif": damaged,
        "a.tif": damaged,
        "b.tif": by_tifffile(np.zeros((9, 9, 3), np.uint8), compression="zlib")[:-10],
    }.items():
        (root / name).write_bytes(data)
    command = [
        sys.executable,
        "-c",
        "from histoprep.cli import main; main()",
        "--quiet",
        "audit",
        str(root),
        "--workers",
        "1",
        "--format",
        "json",
    ]
    audit = subprocess.run(
        command,
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert audit.returncode == 1 and b"Fax4Decode" in audit.stdout
    assert audit.stderr == b""
