"""Decoding: damage is refused, labels come back as stored; files are made by other libraries."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from histoprep import imageio
from histoprep.errors import BrokenFileError
from histoprep.imageio.decoders import png as png_decoder

RNG = np.random.default_rng(0)
RGB = cv2.GaussianBlur(RNG.integers(0, 256, (75, 91, 3)).astype(np.uint8), (0, 0), 2)
LABELS = cv2.resize(
    RNG.integers(0, 54, (9, 12)).astype(np.uint8), (91, 75), interpolation=cv2.INTER_NEAREST
)


def saved(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **options)
    return stream.getvalue()


def mask_of(data: bytes) -> np.ndarray:
    return imageio.decode_mask(data, imageio.read_header(data))


def stored_of(data: bytes) -> np.ndarray:
    return imageio.decode_stored(data, imageio.read_header(data))


def look(data: bytes) -> None:
    """Everything that an audit does with the pixels of an image."""
    imageio.decode_luminance_eighth(data, imageio.read_header(data))


@pytest.fixture(params=["with kornia", "without"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the optional fast decoder and without."""
    if request.param == "without":
        monkeypatch.setattr(png_decoder, "fast_png", None)
    elif png_decoder.fast_png is None:
        pytest.skip("kornia-rs is not installed")


# --- damaged JPEG files: the table in the speed notes -------------------------------------


def jpeg_cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def jpeg_half_with_end(data: bytes) -> bytes:
    return data[: len(data) // 2] + b"\xff\xd9"


def jpeg_zeros_inside(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(200) + data[len(data) // 2 + 200 :]


DAMAGES = [jpeg_cut, jpeg_half_with_end, jpeg_zeros_inside]
# In CMYK zeros are valid code and may fill the image exactly; the mode is an error of its own,
# HP302.
DAMAGED = [
    (make, damage)
    for make in ("4:4:4", "4:2:2", "4:2:0", "grey", "progressive", "cmyk")
    for damage in DAMAGES[: 2 if make == "cmyk" else 3]
]


@pytest.mark.parametrize(
    ("make", "damage"), DAMAGED, ids=lambda item: getattr(item, "__name__", item)
)
def test_damaged_jpeg_is_refused(make: str, damage: object) -> None:
    noisy = RNG.integers(0, 256, (256, 256, 3)).astype(np.uint8)
    whole = {
        "grey": lambda: saved(noisy[..., 0], "JPEG"),
        "progressive": lambda: saved(noisy, "JPEG", progressive=True),
        "cmyk": lambda: saved(Image.fromarray(noisy).convert("CMYK"), "JPEG"),
    }.get(make, lambda: saved(noisy, "JPEG", subsampling=make))()
    look(whole)
    for use in (look, imageio.decode_rgb, mask_of):
        with pytest.raises(BrokenFileError) as caught:
            use(damage(whole))  # type: ignore[operator]
        assert caught.value.verdict.startswith(("HP201 ", "HP202 "))


def test_trailing_bytes_and_most_flipped_bits_of_a_jpeg_pass() -> None:
    whole = saved(RGB, "JPEG")
    look(whole + b"trailing bytes")
    passed = 0
    for at in range(len(whole) - 400, len(whole) - 100):
        broken = bytearray(whole)
        broken[at] ^= 1
        try:
            look(bytes(broken))
            passed += 1
        except BrokenFileError:
            continue
    assert passed > 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_a_png_with_half_its_rows_is_refused(mode: str) -> None:
    # Valid chunks and a valid stream: Pillow fills the rest with zeros.
    whole = saved(Image.fromarray(RGB).convert(mode))
    start = whole.index(b"IDAT") + 4
    length = int.from_bytes(whole[start - 8 : start - 4], "big")
    lines = zlib.decompress(whole[start : start + length])
    half = (
        whole[: start - 8]
        + chunk(b"IDAT", zlib.compress(lines[: len(lines) // 2]))
        + chunk(b"IEND", b"")
    )
    for use in (look, imageio.decode_rgb, stored_of):
        use(whole)
        with pytest.raises(BrokenFileError, match="the header asks for"):
            use(half)


# --- masks ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("decoder")
class TestMasks:
    @pytest.mark.parametrize("writer", ["Pillow", "cv2", "ours", "optimised"])
    def test_8_bit_grey(self, writer: str) -> None:
        data = {
            "Pillow": lambda: saved(LABELS),
            "optimised": lambda: saved(LABELS, optimize=True),
            "cv2": lambda: cv2.imencode(".png", LABELS)[1].tobytes(),
            "ours": lambda: imageio.encode_mask_png(LABELS),
        }[writer]()
        decoded = mask_of(data)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, LABELS)

    @settings(max_examples=80)
    @given(
        shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
        num_labels=st.integers(1, 256),
        seed=st.integers(0, 2**32 - 1),
        palette=st.booleans(),
    )
    def test_random_masks_in_grey_and_palette(
        self, shape: tuple[int, int], num_labels: int, seed: int, palette: bool
    ) -> None:
        labels = np.random.default_rng(seed).integers(0, num_labels, shape).astype(np.uint8)
        image = Image.fromarray(labels)
        if palette:
            image.putpalette(
                np.random.default_rng(seed).integers(0, 256, 768).astype(np.uint8).tobytes()
            )
        np.testing.assert_array_equal(mask_of(saved(image)), labels)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_palette_masks_give_indices(self, bits: int) -> None:
        labels = LABELS & ((1 << bits) - 1)
        image = Image.fromarray(labels)
        image.putpalette(RNG.integers(0, 256, 3 * (1 << bits)).astype(np.uint8).tobytes())
        data = saved(image, bits=bits, transparency=b"\0\x80")
        header = imageio.read_header(data)
        assert (header.mode, header.bit_depth) == ("P", bits)
        np.testing.assert_array_equal(imageio.decode_mask(data, header), labels)

    def test_16_bit_masks_give_uint16(self) -> None:
        labels = LABELS.astype(np.uint16) * 1000 + 7
        for data in (
            saved(labels),
            cv2.imencode(".png", labels)[1].tobytes(),
            imageio.encode_mask_png(labels),
        ):
            decoded = mask_of(data)
            assert decoded.dtype == np.uint16
            np.testing.assert_array_equal(decoded, labels)
            assert (imageio.read_header(data).mode, imageio.read_header(data).bit_depth) == (
                "I;16",
                16,
            )

    def test_1_bit_masks_give_0_and_1(self) -> None:
        data = saved(Image.fromarray(LABELS % 2 * 255).convert("1"))
        assert imageio.read_header(data).mode == "1"
        np.testing.assert_array_equal(mask_of(data), LABELS % 2)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    @pytest.mark.parametrize("interlace", [0, 1])
    def test_raw_values_of_few_bits_and_interlaced(self, bits: int, interlace: int) -> None:
        labels = LABELS & ((1 << bits) - 1)
        np.testing.assert_array_equal(mask_of(packed_png(labels, bits, interlace)), labels)

    def test_interlaced_16_bits(self) -> None:
        labels = LABELS.astype(np.uint16) * 1000
        np.testing.assert_array_equal(mask_of(packed_png(labels, 16, 1)), labels)

    @pytest.mark.parametrize("colour", [0, 3])
    def test_every_row_filter(self, colour: int) -> None:
        filters = [index % 5 for index in range(len(LABELS))]
        header = struct.pack(">IIBBBBB", LABELS.shape[1], LABELS.shape[0], 8, colour, 0, 0, 0)
        # Colours: a palette of greys would have to say what its labels are.
        palette = chunk(b"PLTE", bytes([9, 0, 0]) * 256) if colour else b""
        data = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + palette
            + chunk(b"IDAT", zlib.compress(filtered(LABELS, filters)))
            + chunk(b"IEND", b"")
        )
        np.testing.assert_array_equal(mask_of(data), LABELS)

    def test_metadata_cannot_spoil_a_mask(self) -> None:
        data = saved(LABELS, optimize=True)
        broken_text = (
            chunk(b"zTXt", b"Comment\0\0not zlib")
            + chunk(b"iCCP", b"x\0\0not zlib")
            + chunk(b"eXIf", b"II*\0\xff\xff")
        )
        np.testing.assert_array_equal(mask_of(data[:33] + broken_text + data[33:]), LABELS)
        two = packed_png(LABELS % 2, 1, 0)
        np.testing.assert_array_equal(mask_of(two[:33] + broken_text + two[33:]), LABELS % 2)

    def test_transparency_does_not_change_labels(self) -> None:
        np.testing.assert_array_equal(mask_of(saved(LABELS, transparency=0)), LABELS)


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


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def packed_png(labels: np.ndarray, bits: int, interlace: int) -> bytes:
    """A grey PNG of any depth, interlaced or not, made by hand from the specification."""

    def lines(part: np.ndarray) -> bytes:
        if bits == 16:
            rows = part.astype(">u2").view(np.uint8).reshape(len(part), -1)
        else:
            rows = np.packbits(
                np.unpackbits(part[..., None].astype(np.uint8), axis=-1)[..., 8 - bits :].reshape(
                    len(part), -1
                ),
                axis=1,
            )
        return b"".join(b"\0" + row.tobytes() for row in rows)

    passes = (
        [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]
        if interlace
        else [(0, 0, 1, 1)]
    )
    parts = [labels[y::dy, x::dx] for x, y, dx, dy in passes]
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, 0, 0, 0, interlace)
    body = zlib.compress(b"".join(lines(part) for part in parts if part.size))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("num_more", "kinds"), [(1, "the image"), (2, "the mask")])
def test_a_tiff_of_several_pages_is_refused(num_more: int, kinds: str) -> None:
    pixels = RGB if kinds == "the image" else LABELS
    pages = [
        Image.fromarray(np.roll(pixels, 5 * (number + 1), axis=0)) for number in range(num_more)
    ]
    with pytest.raises(BrokenFileError) as refused:
        imageio.read_header(saved(pixels, "TIFF", save_all=True, append_images=pages))
    assert (
        refused.value.verdict == "HP208 multi-page"
        and f"{num_more + 1} pages" in refused.value.detail
    )


def test_a_smaller_copy_in_a_tiff_is_no_page() -> None:
    small = Image.fromarray(RGB).resize((45, 37))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    data = saved(RGB, "TIFF", save_all=True, append_images=[small])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    header = imageio.read_header(data)
    assert (header.width_px, header.height_px) == (91, 75)
    np.testing.assert_array_equal(imageio.decode_rgb(data, header), RGB)


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "packbits"}],
)
def test_tiff_masks(options: dict[str, str]) -> None:
    np.testing.assert_array_equal(mask_of(saved(LABELS, "TIFF", **options)), LABELS)
    wide = LABELS.astype(np.uint16) * 900
    np.testing.assert_array_equal(mask_of(saved(wide, "TIFF", **options)), wide)
    np.testing.assert_array_equal(
        mask_of(saved(Image.fromarray(LABELS % 2 * 255).convert("1"), "TIFF", **options)),
        LABELS % 2,
    )
    np.testing.assert_array_equal(
        mask_of(saved(LABELS.astype(np.int32), "TIFF", **options)), LABELS
    )
    image = Image.fromarray(LABELS)
    image.putpalette(bytes(range(256)) * 3)
    np.testing.assert_array_equal(mask_of(saved(image, "TIFF", **options)), LABELS)


@pytest.mark.parametrize("bits", [2, 4])
def test_tiff_masks_of_few_bits(bits: int) -> None:
    labels = LABELS[:, :88] & ((1 << bits) - 1)
    rows = np.packbits(
        np.unpackbits(labels[..., None], axis=-1)[..., 8 - bits :].reshape(len(labels), -1), axis=1
    )
    height, width = labels.shape
    tags = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, height),
        (279, 4, rows.size),
    ]
    folder = (
        struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
        + bytes(4)
    )
    data = b"II*\0" + struct.pack("<I", 8 + rows.size) + rows.tobytes() + folder
    assert imageio.read_header(data).bit_depth == bits
    np.testing.assert_array_equal(mask_of(data), labels)


@pytest.mark.parametrize(
    ("mode", "kind", "shape", "dtype"),
    [
        ("RGB", "PNG", (75, 91, 3), np.uint8),
        ("RGBA", "PNG", (75, 91, 4), np.uint8),
        ("LA", "PNG", (75, 91, 2), np.uint8),
        ("RGB", "WEBP", (75, 91, 3), np.uint8),
        ("RGB", "JPEG", (75, 91, 3), np.uint8),
        ("F", "TIFF", (75, 91), np.float32),
        ("RGB", "TIFF", (75, 91, 3), np.uint8),
    ],
)
def test_colours_come_back_as_colours(
    mode: str, kind: str, shape: tuple[int, ...], dtype: type
) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"subsampling": 0, "quality": 95}}.get(kind, {})
    original = Image.fromarray(RGB).convert(mode)
    decoded = stored_of(saved(original, kind, **options))
    assert decoded.shape == shape and decoded.dtype == dtype
    assert np.abs(decoded.astype(float) - np.asarray(original, float)).max() <= (
        12 if kind == "JPEG" else 0
    )


def test_a_grey_jpeg_mask_is_two_dimensional() -> None:
    decoded = mask_of(saved(LABELS, "JPEG", quality=95))
    assert decoded.shape == LABELS.shape and decoded.dtype == np.uint8


# --- images --------------------------------------------------------------------------------


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpeg_decodes_as_pillow_does(subsampling: str) -> None:
    data = saved(RGB, "JPEG", subsampling=subsampling)
    assert (
        np.abs(
            imageio.decode_rgb(data).astype(int) - np.asarray(Image.open(io.BytesIO(data)))
        ).max()
        <= 3
    )


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (17, 1000), (511, 513), (512, 512)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_luminance_at_an_eighth(size: tuple[int, int], kind: str) -> None:
    rgb = cv2.resize(RGB, size[::-1], interpolation=cv2.INTER_CUBIC)
    data = saved(rgb, kind)
    small = imageio.decode_luminance_eighth(data, imageio.read_header(data))
    assert small.shape == (-(-size[0] // 8), -(-size[1] // 8)) and small.dtype == np.uint8
    whole = np.asarray(Image.fromarray(rgb).convert("L"), float)[
        : size[0] // 8 * 8, : size[1] // 8 * 8
    ]
    if whole.size:
        blocks = whole.reshape(size[0] // 8, 8, size[1] // 8, 8).mean(axis=(1, 3))
        exact = size[0] % 8 == 0 and size[1] % 8 == 0
        assert np.abs(small[: size[0] // 8, : size[1] // 8] - blocks).max() <= (
            3 if exact or kind == "JPEG" else 40
        )


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_every_mode_of_jpeg_becomes_rgb(mode: str) -> None:
    original = Image.fromarray(RGB).convert(mode)
    data = saved(original, "JPEG", quality=98, **({} if mode == "L" else {"subsampling": 0}))
    assert imageio.read_header(data).mode == mode
    assert (
        np.abs(imageio.decode_rgb(data).astype(int) - np.asarray(original.convert("RGB"))).mean()
        < 3
    )
    look(data)


def test_ycck_and_plain_rgb_jpeg() -> None:
    # An Adobe marker with transform 2 says YCCK; Pillow converts such files.
    data = saved(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95)
    at = data.index(b"Adobe") + 11
    ycck = data[:at] + b"\2" + data[at + 1 :]
    assert imageio.decode_rgb(ycck).shape == RGB.shape
    look(ycck)
    plain = saved(RGB, "JPEG", keep_rgb=True, subsampling=0, quality=98)
    assert np.abs(imageio.decode_rgb(plain).astype(int) - RGB).max() <= 6
    luminance = imageio.decode_luminance_eighth(plain, imageio.read_header(plain))
    assert abs(luminance.mean() - cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY).mean()) < 3


@pytest.mark.parametrize("factor", [(4, 2), (3, 1)])
def test_sampling_that_simplejpeg_does_not_know_is_decoded(factor: tuple[int, int]) -> None:
    data = oddly_sampled(factor)
    header = imageio.read_header(data)
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(data)
    assert imageio.decode_rgb(data, header).shape == (16, 8 * factor[0], 3)
    look(data)
    assert stored_of(data).shape == (16, 8 * factor[0], 3)


def oddly_sampled(factor: tuple[int, int]) -> bytes:
    """A JPEG of one colour whose luminance is sampled `factor` times as finely; all blocks are
    alike, so only the header says so.
    """
    flat = simplejpeg.encode_jpeg(np.full((8, 8, 3), 128, np.uint8), colorsubsampling="444")
    frame = flat.index(b"\xff\xc0")
    scan = flat.index(b"\xff\xda")
    across, down = factor
    head = (
        flat[: frame + 5]
        + struct.pack(">HH", 16, 8 * across)
        + flat[frame + 9 : frame + 11]
        + bytes([across << 4 | down])
        + flat[frame + 12 : scan + 14]
    )
    # A block without any difference is `00` for the mean and `1010` for the end of a luminance
    # block, `00` `00` for chroma.
    units = 16 // (8 * down)
    bits = ("001010" * (across * down) + "0000" * 2) * units
    bits += "1" * (-len(bits) % 8)
    return (
        head
        + int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
        + b"\xff\xd9"
    )


@pytest.mark.parametrize(
    ("image", "kind", "mode"),
    [
        (Image.fromarray(RGB), "PNG", "RGB"),
        (Image.fromarray(RGB).convert("RGBA"), "PNG", "RGBA"),
        (Image.fromarray(RGB).convert("L"), "PNG", "L"),
        (Image.fromarray(RGB).convert("LA"), "PNG", "LA"),
        (Image.fromarray(RGB).quantize(256), "PNG", "P"),
        (Image.fromarray(RGB), "TIFF", "RGB"),
        (Image.fromarray(RGB).convert("CMYK"), "TIFF", "CMYK"),
        (Image.fromarray(RGB).convert("F"), "TIFF", "F"),
        (Image.fromarray(RGB).convert("LAB"), "TIFF", "LAB"),
        (Image.fromarray(RGB), "WEBP", "RGB"),
    ],
)
def test_every_mode_of_other_formats_becomes_rgb(image: Image.Image, kind: str, mode: str) -> None:
    data = saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    header = imageio.read_header(data)
    assert (header.format, header.mode, header.width_px, header.height_px) == (
        kind.lower(),
        mode,
        91,
        75,
    )
    decoded = imageio.decode_rgb(data, header)
    assert decoded.dtype == np.uint8 and decoded.shape == RGB.shape
    if mode not in ("LAB",):
        expected = image.convert("L").convert("RGB") if mode == "F" else image.convert("RGB")
        assert np.abs(decoded.astype(int) - np.asarray(expected)).max() <= 1
    look(data)


def test_16_bits_keep_their_high_byte() -> None:
    wide = RNG.integers(0, 65536, (20, 30)).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(imageio.decode_rgb(saved(wide, kind))[..., 1], wide >> 8)


def test_a_palette_image_with_transparency_is_fine() -> None:
    image = Image.fromarray(RGB).quantize(16)
    data = saved(image, transparency=b"\0\x40\x80")
    np.testing.assert_array_equal(imageio.decode_rgb(data), image.convert("RGB"))


# --- headers -------------------------------------------------------------------------------


def test_formats_go_by_their_first_bytes() -> None:
    for kind in ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000"):
        assert imageio.read_header(saved(RGB, kind)).format == kind.lower()
    with pytest.raises(BrokenFileError) as caught:
        imageio.read_header(saved(RGB, "PPM"))
    assert caught.value.verdict == "HP201 bad-header"
    with pytest.raises(BrokenFileError) as caught:
        imageio.read_header(b"")
    assert caught.value.verdict == "HP201 zero-bytes"


@pytest.mark.parametrize("kind", ["TIFF", "WEBP"])
def test_cut_files_of_pillows_formats_are_refused(kind: str) -> None:
    whole = saved(RGB, kind)
    for length in range(12, len(whole) - 1, max(1, len(whole) // 97)):
        with pytest.raises(BrokenFileError):
            look(whole[:length])


@pytest.mark.parametrize("orientation", [0, 700, 3])
def test_a_senseless_tiff_orientation_is_none(orientation: int) -> None:
    seen = imageio.read_header(saved(RGB, "TIFF", tiffinfo={274: orientation})).orientation
    assert seen == (3 if orientation == 3 else None)


def test_our_own_note_is_read_back() -> None:
    data = imageio.encode_mask_png(LABELS, {imageio.LABEL_MAP_TEXT: "label_map_5 abc"})
    header = imageio.read_header(data)
    assert header.label_map == "label_map_5 abc" and header.metadata == ()


def test_written_images_hold_no_metadata() -> None:
    for data in (imageio.encode_rgb_jpeg(RGB), imageio.encode_rgb_png(RGB)):
        assert imageio.read_header(data).metadata == ()
    np.testing.assert_array_equal(imageio.decode_rgb(imageio.encode_rgb_png(RGB)), RGB)
    header = imageio.read_header(imageio.encode_rgb_jpeg(RGB, 83, "4:2:2"))
    assert (header.jpeg_quality, header.jpeg_subsampling) == (83, "4:2:2")


def test_shrinking_keeps_the_shape() -> None:
    assert imageio.shrink_rgb(RGB, 30).shape == (25, 30, 3)
    assert imageio.shrink_rgb(RGB, 500) is RGB


# --- anything at all -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "progressive", "palette", "cmyk"])
def test_damaged_files_raise_nothing_but_broken_file(kind: str) -> None:
    chance = np.random.default_rng(len(kind))
    small = RGB[:24, :32]
    whole = {
        "progressive": lambda: saved(small, "JPEG", progressive=True),
        "palette": lambda: saved(Image.fromarray(small).quantize(16), optimize=True),
        "cmyk": lambda: saved(Image.fromarray(small).convert("CMYK"), "JPEG"),
    }.get(kind, lambda: saved(small, kind))()
    for _ in range(400):
        broken = np.frombuffer(
            whole[: chance.integers(1, len(whole) + 1)] if chance.random() < 0.3 else whole,
            np.uint8,
        ).copy()
        at = chance.integers(
            0,
            min(len(broken), 200) if chance.random() < 0.5 else len(broken),
            chance.integers(1, 6),
        )
        broken[at] = chance.integers(0, 256, len(at))
        data = broken.tobytes()
        for use in (look, mask_of, imageio.decode_rgb):
            try:
                header = imageio.read_header(data)
                if header.num_pixels <= 1 << 22:
                    use(data)
            except BrokenFileError:
                continue
