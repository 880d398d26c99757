"""Structure checks of JPEG: quality, subsampling and whether every scan is there."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from histoprep.errors import BrokenFileError
from histoprep.imageio import jpeg

RGB = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (72, 88, 3)).astype(np.uint8), (0, 0), 2
)


def saved(pixels: np.ndarray = RGB, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def test_quality_is_named_exactly_for_three_encoders() -> None:
    for quality in range(1, 101):
        files = {
            "Pillow": saved(quality=quality),
            "Pillow grey": saved(mode="L", quality=quality),
            "Pillow progressive": saved(quality=quality, progressive=True),
            "cv2": cv2.imencode(".jpg", RGB, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes(),
            "simplejpeg": simplejpeg.encode_jpeg(RGB, quality=quality),
        }
        assert {
            name: jpeg.read_markers(data).quality for name, data in files.items()
        } == dict.fromkeys(files, quality)


def test_a_table_of_16_bit_entries_is_read() -> None:
    data = saved(quality=40)
    at = data.index(b"\xff\xdb")
    wide = b"".join(struct.pack(">H", item) for item in data[at + 5 : at + 69])
    segment = b"\xff\xdb" + struct.pack(">H", 131) + b"\x10" + wide
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    assert jpeg.read_markers(data[:at] + segment + data[end:]).quality == 40


def test_own_tables_give_the_nearest_quality() -> None:
    table = [
        max(1, item + (index % 3) - 1)
        for index, item in enumerate(Image.open(io.BytesIO(saved(quality=80))).quantization[0])
    ]
    assert abs((jpeg.read_markers(saved(qtables=[table, table])).quality or 0) - 80) <= 2


@pytest.mark.parametrize(
    ("option", "name"), [("4:4:4", "4:4:4"), ("4:2:2", "4:2:2"), ("4:2:0", "4:2:0")]
)
def test_subsampling_of_pillow(option: str, name: str) -> None:
    assert jpeg.read_markers(saved(subsampling=option)).subsampling == name


@pytest.mark.parametrize(
    ("option", "name"),
    [("444", "4:4:4"), ("422", "4:2:2"), ("420", "4:2:0"), ("440", "4:4:0"), ("411", "4:1:1")],
)
def test_subsampling_of_simplejpeg(option: str, name: str) -> None:
    assert (
        jpeg.read_markers(simplejpeg.encode_jpeg(RGB, colorsubsampling=option)).subsampling == name
    )


def test_modes_size_and_depth() -> None:
    for mode, name in (("L", "L"), ("RGB", "RGB"), ("CMYK", "CMYK")):
        file = jpeg.read_markers(saved(mode=mode))
        assert (file.mode, file.width_px, file.height_px, file.bit_depth) == (name, 88, 72, 8)
    assert jpeg.read_markers(saved(mode="L")).subsampling == "grey"
    assert jpeg.read_markers(saved(mode="CMYK")).adobe_transform is not None


def scan_starts(data: bytes) -> list[int]:
    return [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_scan_of_a_progressive_file_is_asked_for(mode: str) -> None:
    whole = saved(mode=mode, progressive=True)
    starts = scan_starts(whole)
    assert len(starts) > 4 and jpeg.read_markers(whole).progressive
    for start in starts[1:]:
        shortened = whole[:start] + jpeg.END
        with Image.open(io.BytesIO(shortened)) as image:
            image.load()
        with pytest.raises(BrokenFileError, match="last scan") as caught:
            jpeg.read_markers(shortened)
        assert caught.value.verdict == "HP202 missing-data"


def test_a_baseline_file_of_three_scans_needs_all_of_them() -> None:
    whole = in_three_scans(simplejpeg.encode_jpeg(RGB, colorsubsampling="444"))
    with Image.open(io.BytesIO(whole)) as image:
        image.load()
    jpeg.read_markers(whole)
    for start in scan_starts(whole)[1:]:
        with pytest.raises(BrokenFileError, match="last scan"):
            jpeg.read_markers(whole[:start] + jpeg.END)


def in_three_scans(one_scan: bytes) -> bytes:
    """A file with one scan a component: three grey images share the frame header of a colour
    image.
    """
    greys = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(RGB[..., [channel]]), colorspace="GRAY")
        for channel in range(3)
    ]
    start = scan_starts(one_scan)[0]
    head = one_scan[:start].replace(b"\x02\x11\x01\x03\x11\x01", b"\x02\x11\x00\x03\x11\x00")
    scans = []
    for number, grey in enumerate(greys, start=1):
        at = scan_starts(grey)[0]
        scans.append(
            b"\xff\xda\x00\x08\x01" + bytes([number]) + b"\x00\x00\x3f\x00" + grey[at + 10 : -2]
        )
    return head + b"".join(scans) + jpeg.END


def test_cuts_name_what_is_missing() -> None:
    whole = saved()
    start = jpeg.read_markers(whole).scan_start
    for length in range(3, len(whole) - 1):
        with pytest.raises(BrokenFileError) as caught:
            jpeg.read_markers(whole[:length])
        assert caught.value.verdict == (
            "HP202 no-end-marker" if length >= start + 4 else "HP201 truncated"
        )
    assert jpeg.read_markers(whole + b"trailing").width_px == 88


def test_impossible_markers_are_refused() -> None:
    whole = saved()
    frame = whole.index(b"\xff\xc0")
    without_size = whole[: frame + 5] + bytes(4) + whole[frame + 9 :]
    end = frame + 2 + int.from_bytes(whole[frame + 2 : frame + 4], "big")
    for broken in (
        without_size,
        whole[:frame] + whole[end:],
        whole[:20] + b"\0\0\0\0" + whole[20:],
    ):
        with pytest.raises(BrokenFileError) as caught:
            jpeg.read_markers(broken)
        assert caught.value.verdict == "HP201 bad-header"


def test_an_end_marker_instead_of_a_scan_is_refused() -> None:
    whole = saved()
    with pytest.raises(BrokenFileError):
        jpeg.read_markers(whole[: jpeg.read_markers(whole).scan_start] + b"\xff\xda" + jpeg.END)


def test_metadata_is_noted() -> None:
    exif = Image.Exif()
    exif[274] = 6
    file = jpeg.read_markers(saved(exif=exif, comment=b"seen by Dr. X", xmp=b"<x:xmpmeta/>"))
    assert file.exif and file.has_comment and file.has_xmp and not file.has_iptc
    plain = jpeg.read_markers(saved())
    assert not (plain.exif or plain.has_comment or plain.has_xmp or plain.has_iptc)


@pytest.mark.parametrize(
    ("resource", "is_iptc"), [(b"8BIM\x04\x04", True), (b"8BIM\x03\xed", False)]
)
def test_only_iptc_of_photoshops_resources_counts(resource: bytes, is_iptc: bool) -> None:
    body = b"Photoshop 3.0\0" + resource + b"\0\0\0\0\0\x04abcd"
    data = saved()
    segment = b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
    assert jpeg.read_markers(data[:2] + segment + data[2:]).has_iptc is is_iptc
