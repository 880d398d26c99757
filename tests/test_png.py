"""Structure checks of PNG: every damage that a decoder may let pass has to be noticed here."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from histoprep.errors import BrokenFileError
from histoprep.imageio import png

PIXELS = np.random.default_rng(0).integers(0, 54, (40, 56)).astype(np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png(
    lines: bytes,
    width: int,
    height: int,
    depth: int = 8,
    colour: int = 0,
    interlace: int = 0,
    extra: bytes = b"",
    packed: bytes | None = None,
) -> bytes:
    """A PNG of given scanlines, filter bytes included; nothing is checked."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = zlib.compress(lines) if packed is None else packed
    return (
        png.SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def saved(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def unfiltered(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def filtered(pixels: np.ndarray, filters: list[int]) -> bytes:
    """Scanlines of 8-bit pixels, each with its own filter; straight from the specification, pixel
    by pixel.
    """
    height, width = pixels.shape
    wide = np.zeros((height + 1, width + 1), int)
    wide[1:, 1:] = pixels
    lines = bytearray()
    for row in range(1, height + 1):
        lines.append(filters[row - 1])
        for column in range(1, width + 1):
            left, up, corner = (
                wide[row, column - 1],
                wide[row - 1, column],
                wide[row - 1, column - 1],
            )
            near = sorted((left, up, corner), key=lambda item: abs(left + up - corner - item))[0]
            guess = (0, left, up, (left + up) // 2, near)[filters[row - 1]]
            lines.append((wide[row, column] - guess) % 256)
    return bytes(lines)


def check(data: bytes) -> bytes:
    return png.inflate(png.read_chunks(data))


def idat(data: bytes) -> tuple[int, int]:
    """Start of the first IDAT's body and its length."""
    start = data.index(b"IDAT") + 4
    return start, int.from_bytes(data[start - 8 : start - 4], "big")


def with_idat(data: bytes, body: bytes) -> bytes:
    start, length = idat(data)
    return data[: start - 8] + chunk(b"IDAT", body) + data[start + length + 4 :]


def cut_in_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def without_end(data: bytes) -> bytes:
    return data[:-12]


def without_last_pixel_bytes(data: bytes) -> bytes:
    start, length = idat(data)
    return with_idat(data, data[start : start + length - 6])


def flipped(data: bytes) -> bytes:
    start, length = idat(data)
    at = start + length // 2
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def flipped_with_new_checksum(data: bytes) -> bytes:
    start, length = idat(data)
    return with_idat(data, flipped(data)[start : start + length])


def half_the_rows(data: bytes) -> bytes:
    lines = check(data)
    return with_idat(data, zlib.compress(lines[: len(lines) // 2]))


def one_row_more(data: bytes) -> bytes:
    return with_idat(data, zlib.compress(check(data) + bytes(PIXELS.shape[1] + 1)))


def bomb(data: bytes) -> bytes:
    return with_idat(data, zlib.compress(bytes(1 << 26), 9))


def zlib_without_checksum(data: bytes) -> bytes:
    start, length = idat(data)
    return with_idat(data, data[start : start + length - 4])


def unknown_filter(data: bytes) -> bytes:
    lines = bytearray(unfiltered(PIXELS))
    lines[(PIXELS.shape[1] + 1) * 7] = 5
    return with_idat(data, zlib.compress(bytes(lines)))


def split_pixels(data: bytes) -> bytes:
    start, length = idat(data)
    body = data[start : start + length]
    return (
        data[: start - 8]
        + chunk(b"IDAT", body[:9])
        + chunk(b"tEXt", b"a\0b")
        + chunk(b"IDAT", body[9:])
        + chunk(b"IEND", b"")
    )


def no_pixels(data: bytes) -> bytes:
    return data[: idat(data)[0] - 8] + chunk(b"IEND", b"")


def unknown_critical_chunk(data: bytes) -> bytes:
    return data[:33] + chunk(b"CgBI", b"") + data[33:]


def changed_header(data: bytes) -> bytes:
    return data[:19] + b"\x80" + data[20:]


def wrong_size_with_checksum(data: bytes) -> bytes:
    return data[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 57, 40, 8, 0, 0, 0, 0)) + data[33:]


DAMAGES = {
    cut_in_half: "HP201 truncated",
    without_end: "HP201 truncated",
    without_last_pixel_bytes: "HP201 truncated",
    flipped: "HP201 bad-checksum",
    flipped_with_new_checksum: "HP201 corrupt",
    half_the_rows: "HP201 truncated",
    one_row_more: "HP201 corrupt",
    bomb: "HP201 corrupt",
    zlib_without_checksum: "HP201 truncated",
    unknown_filter: "HP201 corrupt",
    split_pixels: "HP201 corrupt",
    no_pixels: "HP201 truncated",
    unknown_critical_chunk: "HP201 bad-header",
    changed_header: "HP201 bad-checksum",
    wrong_size_with_checksum: "HP201 truncated",
}


def test_a_image_without_pixels_is_refused_with_its_chunks() -> None:
    with pytest.raises(BrokenFileError, match="no chunk of pixels"):
        png.read_chunks(no_pixels(saved(PIXELS)))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda item: item.__name__)
def test_damage_is_noticed(damage: object) -> None:
    whole = saved(PIXELS)
    check(whole)
    with pytest.raises(BrokenFileError) as caught:
        check(damage(whole))  # type: ignore[operator]
    assert caught.value.verdict == DAMAGES[damage]


def test_every_cut_and_every_flipped_bit_is_noticed() -> None:
    whole = saved(PIXELS[:6, :9], optimize=True)
    lines = check(whole)
    for length in range(8, len(whole)):
        with pytest.raises(BrokenFileError):
            check(whole[:length])
    for bit in range(8 * 8, 8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BrokenFileError):
            check(bytes(broken))
    assert lines


def test_trailing_bytes_pass() -> None:
    assert check(saved(PIXELS) + b"anything") == check(saved(PIXELS))


def test_a_bomb_costs_no_memory() -> None:
    file = png.read_chunks(make_png(b"", 4, 4, packed=zlib.compress(bytes(1 << 28), 9)))
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(BrokenFileError):
        png.inflate(file)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("palette", [b"", b"\1\2", bytes(771)])
def test_a_palette_must_be_whole(palette: bytes) -> None:
    extra = chunk(b"PLTE", palette) if palette else b""
    with pytest.raises(BrokenFileError, match="palette"):
        png.read_chunks(make_png(bytes(12), 3, 3, colour=png.PALETTE, extra=extra))


@pytest.mark.parametrize(
    ("width", "height", "depth", "colour", "interlace"),
    [
        (0, 5, 8, 0, 0),
        (5, 0, 8, 0, 0),
        (5, 5, 3, 0, 0),
        (5, 5, 16, 3, 0),
        (5, 5, 8, 5, 0),
        (5, 5, 8, 0, 2),
        (1 << 31, 5, 8, 0, 0),
    ],
)
def test_impossible_headers_are_refused(
    width: int, height: int, depth: int, colour: int, interlace: int
) -> None:
    with pytest.raises(BrokenFileError) as caught:
        png.read_chunks(make_png(b"", width, height, depth, colour, interlace))
    assert caught.value.verdict == "HP201 bad-header"


@settings(max_examples=60)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 40),
    case=st.sampled_from(
        [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (4, 3), (8, 4), (16, 6)]
    ),
)
def test_scanline_bytes_are_what_decoders_read(
    width: int, height: int, case: tuple[int, int]
) -> None:
    # Pillow decodes exactly this many bytes and refuses one less.
    depth, colour = case
    extra = chunk(b"PLTE", bytes(48)) if colour == png.PALETTE else b""
    for interlace in (0, 1):
        file = png.read_chunks(make_png(b"", width, height, depth, colour, interlace, extra))
        whole = make_png(bytes(file.scanline_bytes), width, height, depth, colour, interlace, extra)
        check(whole)
        with Image.open(io.BytesIO(whole)) as image:
            image.load()
        short = make_png(
            bytes(file.scanline_bytes - 1), width, height, depth, colour, interlace, extra
        )
        with (
            Image.open(io.BytesIO(short)) as image,
            pytest.raises(OSError, match=r"broken|truncated"),
        ):
            image.load()


def test_header_only_reads_no_further() -> None:
    file = png.read_chunks(saved(PIXELS)[:33], header_only=True)
    assert (file.width_px, file.height_px, file.bit_depth, file.colour_type, file.interlaced) == (
        56,
        40,
        8,
        png.GREY,
        False,
    )


def test_text_and_exif_are_noted() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Patient", "Jane", zip=True)
    notes.add_text("histoprep-label-map", "label_map_5 0123")
    notes.add_itxt("Besitzer", "Jörg")
    file = png.read_chunks(saved(PIXELS, pnginfo=notes, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"))
    assert file.text["histoprep-label-map"] == "label_map_5 0123"
    assert set(file.text) == {"Patient", "histoprep-label-map", "Besitzer"}
    assert file.exif


def test_rows_and_their_filters() -> None:
    chosen = [index % 5 for index in range(40)]
    lines = filtered(PIXELS, chosen)
    filters, rows = png.rows_of_bytes(png.read_chunks(make_png(lines, 56, 40)), lines)
    assert list(filters) == chosen
    np.testing.assert_array_equal(rows[::5], PIXELS[::5])


@pytest.mark.parametrize("interlace", [0, 1])
def test_bare_keeps_pixels_and_palette_and_nothing_else(interlace: int) -> None:
    palette = bytes(range(150))
    lines = (
        unfiltered(PIXELS[:8, :8] % 50)
        if not interlace
        else bytes(png.PngFile(8, 8, 8, 3, True).scanline_bytes)
    )
    extra = chunk(b"tEXt", b"Patient\0Jane") + chunk(b"PLTE", palette) + chunk(b"tRNS", b"\0\1")
    file = png.read_chunks(
        make_png(lines, 8, 8, colour=png.PALETTE, interlace=interlace, extra=extra)
    )
    bare = png.bare(file)
    assert b"Jane" not in bare and b"tRNS" not in bare
    with Image.open(io.BytesIO(bare)) as image:
        assert image.mode == "P" and image.getpalette() == list(palette) + [0] * (
            len(image.getpalette() or ()) - 150
        )
        np.testing.assert_array_equal(
            image, PIXELS[:8, :8] % 50 if not interlace else np.zeros((8, 8), np.uint8)
        )
    with Image.open(io.BytesIO(png.bare(file, as_grey=True))) as image:
        assert image.mode == "L"


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    num_labels=st.integers(1, 256),
    seed=st.integers(0, 2**32 - 1),
)
def test_written_masks_read_back_everywhere(
    shape: tuple[int, int], num_labels: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, num_labels, shape).astype(np.uint8)
    data = png.encode_grey(pixels, {"histoprep-label-map": "five"})
    np.testing.assert_array_equal(
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), pixels
    )
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(image, pixels)
        assert image.info["histoprep-label-map"] == "five"


def test_written_masks_do_not_depend_on_the_zlib_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = cv2.resize(PIXELS, (300, 260), interpolation=cv2.INTER_NEAREST)
    for pixels in (blobs, PIXELS, np.zeros((512, 512), np.uint8)):
        fast = png.encode_grey(pixels)
        with monkeypatch.context() as patch:
            patch.setattr(png, "fast_zlib", zlib)
            slow = png.encode_grey(pixels)
        assert fast == slow
