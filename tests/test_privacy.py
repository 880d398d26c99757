"""Names of identifying metadata are found in every format; values never leave the file."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from histoprep.imageio import read_header
from histoprep.imageio.privacy import exif_facts, identifying_text

SECRET = "Erika Mustermann 1964"
PIXELS = np.zeros((8, 8, 3), np.uint8)


def saved(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **options)
    return stream.getvalue()


def personal_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[270] = SECRET
    exif[271] = "Scanner maker"
    exif[305] = "software"
    exif[274] = 6
    exif.get_ifd(34665)[36867] = "2020:01:02 03:04:05"
    exif.get_ifd(34665)[42033] = SECRET
    exif.get_ifd(34853)[1] = "N"
    return exif


FIELDS = ("ImageDescription", "Make", "GPS", "DateTimeOriginal", "BodySerialNumber")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_fields_are_named_and_their_values_kept_in(kind: str) -> None:
    header = read_header(saved(kind, exif=personal_exif()))
    assert header.metadata == FIELDS
    assert header.orientation == 6
    assert "Erika" not in repr((header.metadata, header.orientation, header.label_map))


def test_tiff_tags_are_named() -> None:
    header = read_header(
        saved("TIFF", tiffinfo={270: SECRET, 274: 3, 305: "software", 315: SECRET})
    )
    assert header.metadata == ("ImageDescription", "Artist")
    assert header.orientation == 3


def test_xmp_is_named() -> None:
    assert read_header(saved("JPEG", xmp=b"<x:xmpmeta/>")).metadata == ("XMP",)
    assert read_header(saved("WEBP", xmp=b"<x:xmpmeta/>")).metadata == ("XMP",)
    assert read_header(saved("TIFF", tiffinfo={700: b"<x:xmpmeta/>"})).metadata == ("XMP",)


def test_png_text_is_named_but_for_harmless_keywords() -> None:
    notes = PngImagePlugin.PngInfo()
    for keyword in ("Patient", "Software", "histoprep-label-map"):
        notes.add_text(keyword, SECRET)
    assert read_header(saved("PNG", pnginfo=notes)).metadata == ("PNG text 'Patient'",)
    assert identifying_text({"Software": "x"}) == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_clean_files_have_none(kind: str) -> None:
    header = read_header(saved(kind))
    assert header.metadata == ()
    assert header.orientation is None


def block(order: str, entries: list[tuple[int, int, int, int]]) -> bytes:
    """An EXIF block of one folder: (tag, type, count, value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    body = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        packed = (
            struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
        )
        body += struct.pack(order + "HHI", tag, kind, count) + packed
    return head + body + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_both_byte_orders_and_the_prefix(order: str, prefix: bytes) -> None:
    facts = exif_facts(prefix + block(order, [(274, 3, 1, 8), (315, 2, 4, 0), (305, 2, 4, 0)]))
    assert facts == (8, ("Artist",))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_a_senseless_orientation_is_none(orientation: int) -> None:
    assert exif_facts(block("<", [(274, 3, 1, orientation)])) == (None, ())


def test_text_of_exif_3_in_utf_8_is_named() -> None:
    assert exif_facts(block("<", [(270, 129, 4, 0)])) == (None, ("ImageDescription",))


def test_a_folder_that_points_at_itself_ends() -> None:
    assert exif_facts(block("<", [(34665, 4, 1, 8), (271, 2, 1, 0)])) == (None, ("Make",))


def test_damaged_blocks_never_raise() -> None:
    chance = random.Random(5)
    whole = personal_exif().tobytes()
    for _ in range(3000):
        broken = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(chance.randrange(6)):
            if broken:
                broken[chance.randrange(len(broken))] = chance.randrange(256)
        orientation, fields = exif_facts(bytes(broken))
        assert orientation is None or orientation in range(1, 9)
        assert isinstance(fields, tuple)
