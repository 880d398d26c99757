"""Metadata taken out of image files: nothing that names a patient stays, and no pixel, profile or
mark goes.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from histoprep import imageio
from histoprep.errors import BrokenFileError
from histoprep.imageio import strip_metadata

SECRET = "PATIENT-0815"
SECRETS = [SECRET.encode(), SECRET.encode("utf-16-le"), zlib.compress(SECRET.encode())]
PIXELS = np.random.default_rng(1).integers(0, 255, (48, 40, 3), dtype=np.uint8)
PROFILE = b"ICC" + bytes(range(256)) * 2


def exif(orientation: int | None = 6) -> Image.Exif:
    facts = Image.Exif()
    facts[270], facts[315] = SECRET, SECRET
    if orientation:
        facts[274] = orientation
    facts.get_ifd(34665)[37510] = SECRET.encode()
    facts.get_ifd(34853)[29] = SECRET
    return facts


def saved(format_name: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, format_name, **options)
    return stream.getvalue()


def jpeg_with_more() -> bytes:
    """Return a JPEG with a thumbnail in JFIF, a second EXIF block, IPTC, a second image behind
    its end.
    """
    data = saved("JPEG", quality=90, comment=SECRET, icc_profile=PROFILE)
    blocks = [
        (0xED, b"Photoshop 3.0\0" + SECRET.encode()),
        (0xE1, b"http://ns.adobe.com/\0" + SECRET.encode()),
        (0xE2, b"MPF\0" + SECRET.encode()),
    ]
    thumbnail = SECRET.encode().ljust(3 * 2 * 2, b"x")
    jfif = b"JFIF\0\1\2\0\0\1\0\1" + bytes([2, 2]) + thumbnail
    segments = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body
        for marker, body in [(0xE0, jfif), *blocks]
    )
    return data[:2] + segments + data[2 + 18 :] + saved("JPEG", comment=SECRET)


def png_with_more() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", SECRET)
    text.add_itxt("Comment", SECRET)
    text.add_text("Zipped", SECRET, zip=True)
    data = saved("PNG", pnginfo=text, exif=exif(), icc_profile=PROFILE)
    body = b"prVt" + SECRET.encode()
    private = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + private + data[33:] + SECRET.encode()


def tiff(**options: object) -> bytes:
    facts = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in (269, 270, 271, 272, 305, 306, 315, 316, 33432):
        facts[tag] = SECRET + " of the man" * 3
    facts[700] = SECRET.encode()
    return saved("TIFF", tiffinfo=facts, exif=exif(None), icc_profile=PROFILE, **options)


def tiff_with_more() -> bytes:
    """Return a TIFF with what Windows and scanners add: private tags, also of a directory below,
    bytes that no entry names, and a tail.
    """
    facts = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in (40091, 40093, 50735, 65427, 65442):
        facts[tag] = SECRET + " of the man" * 3
    data = bytearray(saved("TIFF", tiffinfo=facts))
    (first,) = struct.unpack_from("<I", data, 4)
    (number,) = struct.unpack_from("<H", data, first)
    # The directory again, behind the image, with one below it that has a secret of its own.
    text, below = len(data), len(data) + 32
    data += SECRET.encode().ljust(32, b"\0") + struct.pack("<HHHIII", 1, 270, 2, 32, text, 0)
    struct.pack_into("<I", data, 4, len(data))
    entries = data[first + 2 : first + 2 + 12 * number] + struct.pack("<HHII", 330, 4, 1, below)
    return bytes(data) + struct.pack("<H", number + 1) + bytes(entries) + bytes(4) + SECRET.encode()


FILES = {
    "jpeg": (
        "jpeg",
        lambda: saved(
            "JPEG", exif=exif(), comment=SECRET, xmp=SECRET.encode(), icc_profile=PROFILE
        ),
    ),
    "jpeg, progressive": (
        "jpeg",
        lambda: saved("JPEG", progressive=True, exif=exif(), icc_profile=PROFILE),
    ),
    "jpeg, restarts": (
        "jpeg",
        lambda: saved("JPEG", restart_marker_blocks=2, exif=exif(), comment=SECRET),
    ),
    "jpeg, 4:4:4 and optimised": (
        "jpeg",
        lambda: saved("JPEG", subsampling=0, optimize=True, comment=SECRET),
    ),
    "jpeg with more": ("jpeg", jpeg_with_more),
    "png with more": ("png", png_with_more),
    "webp": (
        "webp",
        lambda: saved("WEBP", exif=exif().tobytes(), xmp=SECRET.encode(), icc_profile=PROFILE),
    ),
    "webp, lossless": ("webp", lambda: saved("WEBP", lossless=True, exif=exif().tobytes())),
    "tiff": ("tiff", tiff),
    "tiff, deflate": ("tiff", lambda: tiff(compression="tiff_adobe_deflate")),
    "tiff, big": ("tiff", lambda: tiff(big_tiff=True)),
    "tiff with more": ("tiff", tiff_with_more),
    "tiff, JPEG inside": ("tiff", lambda: tiff(compression="jpeg", quality=90)),
}


@pytest.mark.parametrize("kind", FILES)
def test_nothing_that_names_anybody_stays_and_no_pixel_goes(kind: str) -> None:
    format_name, make = FILES[kind]
    data = make()
    assert any(secret in data for secret in SECRETS), "the control"
    stripped = strip_metadata(data, format_name)
    assert not any(secret in stripped for secret in SECRETS)
    assert len(stripped) <= len(data)
    header = imageio.read_header(stripped)
    assert header.metadata == ()
    assert np.array_equal(
        imageio.decode_rgb(stripped, header), imageio.decode_rgb(data, imageio.read_header(data))
    )
    before, after = (Image.open(io.BytesIO(item)) for item in (data, stripped))
    assert after.info.get("icc_profile") == before.info.get("icc_profile")
    assert (after.mode, after.size) == (before.mode, before.size)
    assert strip_metadata(stripped, format_name) == stripped


def test_the_mark_of_synthetic_images_stays() -> None:
    data = imageio.encode_rgb_png(PIXELS, imageio.SYNTHETIC_MARK)
    assert strip_metadata(data, "png") == data


def test_how_a_tiff_is_turned_stays() -> None:
    data = saved("TIFF", exif=exif(6))
    stripped = strip_metadata(data, "tiff")
    assert SECRET.encode() not in stripped
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(stripped))), np.asarray(Image.open(io.BytesIO(data)))
    )


@pytest.mark.parametrize("kind", FILES)
def test_damage_is_refused_or_leaves_no_secret(kind: str) -> None:
    """Cut anywhere, a file is refused or stripped; metadata never travels because nobody could
    follow the structure.
    """
    format_name, make = FILES[kind]
    data = make()
    for end in range(0, len(data), max(1, len(data) // 97)):
        try:
            stripped = strip_metadata(data[:end], format_name)
        except (BrokenFileError, KeyError):
            continue
        assert not any(secret in stripped for secret in SECRETS)


def test_real_tiles(shared_data: Path) -> None:
    count = 0
    for path in sorted(shared_data.rglob("*.jpg"))[:40] + sorted(shared_data.rglob("*.png"))[:40]:
        data = path.read_bytes()
        try:
            header = imageio.read_header(data)
            expected = imageio.decode_rgb(data, header)
        except BrokenFileError:
            continue
        assert np.array_equal(imageio.decode_rgb(strip_metadata(data, header.format)), expected), (
            path
        )
        count += 1
    assert count > 20
