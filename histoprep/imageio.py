"""The only file that decodes or encodes pixels; RGB starts here.

Headers come first: format by magic bytes, size, mode, metadata. Nothing is decoded that
the header shows to be too large. Each format has one strict path:

- JPEG: markers and end marker checked, decoded by simplejpeg in strict mode, which
  refuses coefficients that do not fill the picture;
- PNG: CRCs, zlib stream and length checked by `png`, then any decoder gives the same;
- TIFF, WebP: Pillow, with its warnings as errors.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from histoprep import jpeg, png
from histoprep.errors import BrokenFileError
from histoprep.privacy import exif_facts, identifying_text, tiff_fields

try:
    from kornia_rs import io as fast_png
except ImportError:
    fast_png = None

# OpenCV's own threads would fight with the worker processes.
cv2.setNumThreads(1)
# Sizes are checked from the header against --max-pixels; Pillow's own limit would only warn.
Image.MAX_IMAGE_PIXELS = None

LABEL_MAP_TEXT = "histoprep-label-map"
_PILLOW_FORMATS = {"jpeg": "JPEG", "png": "PNG", "tiff": "TIFF", "webp": "WEBP"}
_PNG_MODES = {png.GREY: "L", png.RGB: "RGB", png.PALETTE: "P", png.GREY_ALPHA: "LA", png.RGBA: "RGBA"}
# Everything Pillow was seen to raise on broken files.
_PILLOW_ERRORS = (
    OSError, ValueError, SyntaxError, NotImplementedError, struct.error, KeyError, IndexError, TypeError,
    OverflowError, EOFError, MemoryError, ZeroDivisionError, AssertionError, RuntimeError, AttributeError,
    Image.DecompressionBombError, Image.DecompressionBombWarning, UserWarning,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself before any pixel is decoded.

    `mode` is Pillow's name; `jpeg_quality` and `jpeg_subsampling` are None for other formats;
    `metadata` names fields that may identify somebody; `label_map` is our own note in remapped masks.
    `structure` is the parsed file, for the decoders here.
    """

    format: str
    mode: str
    bit_depth: int
    width_px: int
    height_px: int
    metadata: tuple[str, ...] = ()
    orientation: int | None = None
    jpeg_quality: int | None = None
    jpeg_subsampling: str | None = None
    label_map: str | None = None
    structure: png.PngFile | jpeg.JpegFile | None = None

    @property
    def num_pixels(self) -> int:
        """Return width times height."""
        return self.width_px * self.height_px


def sniff_format(data: bytes) -> str | None:
    """Return jpeg, png, tiff or webp by the first bytes, or None."""
    if data.startswith(png.SIGNATURE):
        return "png"
    if data.startswith(jpeg.SIGNATURE):
        return "jpeg"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def read_header(data: bytes) -> Header:
    """Return what the file says of itself; its structure (chunks, markers) is checked on the way.

    Raises BrokenFileError for an empty, foreign, cut or contradictory file.
    """
    if not data:
        raise BrokenFileError("HP201 zero-bytes", "the file is empty")
    found = sniff_format(data)
    if found == "png":
        return _png_header(png.read_chunks(data))
    if found == "jpeg":
        return _jpeg_header(jpeg.read_markers(data))
    if found is not None:
        return _pillow_header(data, found)
    raise BrokenFileError("HP201 bad-header", f"no JPEG, PNG, TIFF or WebP: starts with {data[:8].hex(' ')}")


def _png_header(file: png.PngFile) -> Header:
    mode = _PNG_MODES[file.colour_type]
    if mode == "L":
        mode = {1: "1", 16: "I;16"}.get(file.bit_depth, "L")
    orientation, fields = exif_facts(file.exif) if file.exif else (None, ())
    return Header(
        format="png",
        mode=mode,
        bit_depth=file.bit_depth,
        width_px=file.width_px,
        height_px=file.height_px,
        metadata=(*fields, *identifying_text(file.text)),
        orientation=orientation,
        label_map=file.text.get(LABEL_MAP_TEXT),
        structure=file,
    )


def _jpeg_header(file: jpeg.JpegFile) -> Header:
    orientation, fields = exif_facts(file.exif) if file.exif else (None, ())
    extra = (*(("IPTC",) if file.has_iptc else ()), *(("JPEG comment",) if file.has_comment else ()))
    return Header(
        format="jpeg",
        mode=file.mode,
        bit_depth=file.bit_depth,
        width_px=file.width_px,
        height_px=file.height_px,
        metadata=(*fields, *extra),
        orientation=orientation,
        jpeg_quality=file.quality,
        jpeg_subsampling=file.subsampling,
        structure=file,
    )


def _pillow_header(data: bytes, kind: str) -> Header:
    with _pillow_open(data, kind) as picture:
        raw_exif = picture.info.get("exif")
        orientation, fields = exif_facts(raw_exif) if isinstance(raw_exif, bytes) else (None, ())
        if kind == "tiff":
            orientation, fields = picture.tag_v2.get(274), tiff_fields(picture.tag_v2)  # type: ignore[attr-defined]
        bits = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}.get(picture.mode, 8)
        return Header(kind, picture.mode, bits, picture.width, picture.height, metadata=fields, orientation=orientation)


@contextlib.contextmanager
def _pillow_open(data: bytes, kind: str) -> Iterator[Image.Image]:
    """Yield the open picture with every warning an error and every error a BrokenFileError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=[_PILLOW_FORMATS[kind]]) as picture:
                yield picture
    except UnidentifiedImageError as error:
        raise BrokenFileError("HP201 bad-header", f"no readable {kind} header") from error
    except _PILLOW_ERRORS as error:
        reason = str(error) or type(error).__name__
        verdict = "HP201 truncated" if "runcat" in reason else "HP201 corrupt"
        raise BrokenFileError(verdict, reason) from error


def _pillow_pixels(data: bytes, kind: str, mode: str | None = None) -> np.ndarray:
    with _pillow_open(data, kind) as picture:
        picture.load()
        return np.asarray(picture if mode is None or picture.mode == mode else picture.convert(mode))


def decode_luminance_eighth(data: bytes, header: Header) -> np.ndarray:
    """Return luminance at 1/8 size, uint8 [ceil(height / 8), ceil(width / 8)].

    For JPEG this reads every coefficient but inverts only the means of the blocks, so it is
    the cheapest complete check. Raises BrokenFileError, HP202 for a JPEG that does not fill its picture.
    """
    width, height = -(-header.width_px // 8), -(-header.height_px // 8)
    if header.format == "jpeg" and header.mode in ("L", "RGB"):
        with _strict_jpeg():
            return simplejpeg.decode_jpeg(data, colorspace="GRAY", min_height=height, min_width=width)[..., 0]
    grey = cv2.cvtColor(decode_rgb(data, header), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


@contextlib.contextmanager
def _strict_jpeg() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        reason = str(error)
        cut = "Premature" in reason or "premature" in reason or "extraneous" in reason
        raise BrokenFileError("HP202 missing-data" if cut else "HP201 corrupt", reason) from error


def decode_rgb(data: bytes, header: Header | None = None) -> np.ndarray:
    """Return the image as uint8 RGB [height, width, 3], whatever its mode; raises BrokenFileError."""
    header = header or read_header(data)
    if header.format == "jpeg" and header.mode in ("L", "RGB"):
        with _strict_jpeg():
            return simplejpeg.decode_jpeg(data, colorspace="RGB")
    if isinstance(header.structure, png.PngFile):
        png.inflate(header.structure)
    if header.mode.startswith("I"):
        # Pillow clips 16 bits to 8 when it converts; the high byte is what a viewer shows.
        grey = (_pillow_pixels(data, header.format).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return _pillow_pixels(data, header.format, "RGB")


def decode_mask(data: bytes, header: Header) -> np.ndarray:
    """Return the labels as stored, uint8 or uint16 [height, width].

    Palette masks give their indices, 1-, 2- and 4-bit masks their raw values. RGB, RGBA, float and
    other pictures come back as uint8 or float [height, width, channels] for `describe_colours`.
    Raises BrokenFileError.
    """
    if isinstance(header.structure, png.PngFile):
        return _png_mask(data, header, header.structure)
    if header.format == "jpeg" and header.mode == "L":
        with _strict_jpeg():
            return simplejpeg.decode_jpeg(data, colorspace="GRAY")[..., 0]
    pixels = _pillow_pixels(data, header.format)
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 1 and pixels.ndim == 2 and 0 <= pixels.min() and pixels.max() < 1 << 16:
        return pixels.astype(np.uint16)
    return pixels


def _png_mask(data: bytes, header: Header, file: png.PngFile) -> np.ndarray:
    lines = png.inflate(file)
    plain = png.unfiltered_grey(file, lines)
    if plain is not None:
        return plain
    if fast_png is not None and file.colour_type == png.GREY and file.bit_depth == 8 and not file.interlaced:
        return fast_png.decode_image_png_u8(data, (file.height_px, file.width_px), "mono")[..., 0]
    pixels = _pillow_pixels(data, "png")
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    if header.mode == "L" and file.bit_depth in (2, 4):
        # Pillow stretches 2- and 4-bit grey to 0-255; labels are the raw values.
        return pixels // (255 // ((1 << file.bit_depth) - 1))
    return pixels.astype(np.uint16) if pixels.dtype == np.int32 else pixels


def encode_mask_png(labels: np.ndarray, text: dict[str, str] | None = None) -> bytes:
    """Return labels, uint8 or uint16 [height, width], as a grey PNG of that depth."""
    if labels.dtype == np.uint8:
        return png.encode_grey(labels, text)
    stream = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def encode_rgb_jpeg(rgb: np.ndarray, quality: int = 90, subsampling: str = "4:2:0") -> bytes:
    """Return uint8 RGB [height, width, 3] as a JPEG without metadata."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=quality, colorspace="RGB", colorsubsampling=subsampling.replace(":", ""), fastdct=False)


def encode_rgb_png(rgb: np.ndarray) -> bytes:
    """Return uint8 RGB [height, width, 3] as a PNG without metadata."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def shrink_rgb(rgb: np.ndarray, longest_px: int) -> np.ndarray:
    """Return the image scaled down by area so that its longer side is at most `longest_px`."""
    height, width = rgb.shape[:2]
    factor = min(1.0, longest_px / max(height, width))
    if factor == 1.0:
        return rgb
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def thumbnail_png(rgb: np.ndarray, longest_px: int) -> bytes:
    """Return uint8 RGB [height, width, 3] as a small PNG."""
    return encode_rgb_png(shrink_rgb(rgb, longest_px))
