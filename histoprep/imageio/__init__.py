"""The only file that decodes or encodes pixels; RGB starts here.

Headers come first: format by magic bytes, size, mode, metadata. Nothing is decoded that
the header shows to be too large. Each format has one strict path:

- JPEG: markers, end marker and completeness of the scans checked by `jpeg`, decoded by simplejpeg
  in strict mode, which refuses coefficients that do not fill the image. Chroma subsampling
  that simplejpeg does not know (4:1:0, factors of 3) is left to Pillow, which is less strict;
- PNG: CRCs, zlib stream, length and filters checked by `png`, then any decoder gives the same;
- TIFF, WebP: Pillow, with its warnings as errors; what a TIFF says of its pages and values is read
  by `tiff` before.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from histoprep.errors import BrokenFileError
from histoprep.imageio import jpeg, libtiff, png, tiff
from histoprep.imageio.header import LABEL_MAP_TEXT as LABEL_MAP_TEXT
from histoprep.imageio.header import Header, is_lossy_webp, jpeg_header, png_header, sniff_format
from histoprep.imageio.label_encoding import GREY_MODES
from histoprep.imageio.label_encoding import find_doubt as find_doubt
from histoprep.imageio.label_encoding import labels_of as labels_of
from histoprep.imageio.label_encoding import palette_colours as palette_colours
from histoprep.imageio.metadata import strip_metadata as strip_metadata
from histoprep.imageio.privacy import SYNTHETIC_MARK as SYNTHETIC_MARK
from histoprep.imageio.privacy import exif_facts, tiff_fields
from histoprep.mask_reading import UNDECIDED, Reading

fast_png: Any
try:
    from kornia_rs import io as fast_png
except ImportError:
    fast_png = None

# OpenCV's own threads would fight with the worker processes.
cv2.setNumThreads(1)
# Sizes are checked from the header against --max-pixels; Pillow's own limit would only warn.
Image.MAX_IMAGE_PIXELS = None
libtiff.take_over_errors(Image.core.__file__)

_TIFF_COMPRESSION, _TIFF_ORIENTATION = 259, 274
# Old and new style of JPEG inside of a TIFF.
_TIFF_JPEG = (6, 7)
# Images with a side under this at 1/8 size are compared at full size.
MIN_COMPARED_PX = 16
_SIMPLEJPEG_SUBSAMPLING = ("grey", "4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1")
_PILLOW_FORMATS = {"jpeg": "JPEG", "png": "PNG", "tiff": "TIFF", "webp": "WEBP"}
# Everything Pillow was seen to raise on broken files.
_PILLOW_ERRORS = (
    OSError, ValueError, SyntaxError, NotImplementedError, struct.error, KeyError, IndexError,
    TypeError,
    OverflowError, EOFError, MemoryError, ZeroDivisionError, AssertionError, RuntimeError,
    AttributeError,
    Image.DecompressionBombError, Image.DecompressionBombWarning, UserWarning,
)  # fmt: skip


def read_header(data: bytes) -> Header:
    """Return what the file says of itself; its structure (chunks, markers) is checked on the way.

    Raises BrokenFileError for an empty, foreign, cut or contradictory file.
    """
    if not data:
        raise BrokenFileError("HP201 zero-bytes", "the file is empty")
    found = sniff_format(data)
    if found == "png":
        return png_header(png.read_chunks(data))
    if found == "jpeg":
        return jpeg_header(jpeg.read_markers(data))
    if found is not None:
        return _pillow_header(data, found)
    raise BrokenFileError(
        "HP201 bad-header", f"no JPEG, PNG, TIFF or WebP: starts with {data[:8].hex(' ')}"
    )


def _pillow_header(data: bytes, kind: str) -> Header:
    pages = tiff.read_pages(data) if kind == "tiff" else []
    tiff.refuse_unread(pages)
    try:
        with _pillow_open(data, kind) as image:
            return _tiff_header(image, pages) if kind == "tiff" else _webp_header(image, data)
    except BrokenFileError as error:
        if error.verdict == "HP201 bad-header" and tiff.is_plausible(pages):
            raise BrokenFileError(
                "HP208 values", f"{pages[0].describe()}, which most readers refuse"
            ) from error
        raise


def _tiff_header(image: Image.Image, pages: Sequence[tiff.Page]) -> Header:
    tags = image.tag_v2  # type: ignore[attr-defined]
    orientation = tags.get(_TIFF_ORIENTATION)
    bits = {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)
    page = pages[0] if pages else None
    is_grey = image.mode in GREY_MODES
    return Header(
        "tiff",
        image.mode,
        page.bits if page and (is_grey or image.mode == "P") else bits,
        image.width,
        image.height,
        metadata=tiff_fields(tags),
        orientation=orientation if orientation in range(1, 9) else None,
        lossy="jpeg" if tags.get(_TIFF_COMPRESSION) in _TIFF_JPEG else None,
        palette=page.palette if page and image.mode == "P" else b"",
        is_min_is_white=bool(page and is_grey and page.is_min_is_white),
        is_signed=bool(page and is_grey and page.is_signed),
        software=page.software if page else "",
    )


def _webp_header(image: Image.Image, data: bytes) -> Header:
    orientation, fields = exif_facts(image.info.get("exif") or b"")
    fields += ("XMP",) if image.info.get("xmp") else ()
    lossy = "webp" if is_lossy_webp(data) else None
    return Header(
        "webp",
        image.mode,
        8,
        image.width,
        image.height,
        metadata=fields,
        orientation=orientation,
        lossy=lossy,
    )


@contextlib.contextmanager
def _pillow_open(data: bytes, kind: str) -> Iterator[Image.Image]:
    """Yield the open image with every warning an error and every error a BrokenFileError."""
    with libtiff.collect_errors() as reported:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.filterwarnings("ignore", "Metadata Warning|Possibly corrupt EXIF")
                with Image.open(io.BytesIO(data), formats=[_PILLOW_FORMATS[kind]]) as image:
                    yield image
        except UnidentifiedImageError as error:
            raise BrokenFileError("HP201 bad-header", f"no readable {kind} header") from error
        except _PILLOW_ERRORS as error:
            reason = str(error) or type(error).__name__
            verdict = "HP201 truncated" if "runcat" in reason else "HP201 corrupt"
            raise BrokenFileError(verdict, "; ".join([reason, *reported[:1]])) from error
        if reported:
            # Pillow goes on with whatever was decoded.
            raise BrokenFileError("HP201 corrupt", reported[0])


def _pillow_pixels(data: bytes, kind: str, mode: str | None = None) -> np.ndarray:
    with _pillow_open(data, kind) as image:
        image.load()
        return np.asarray(image if mode is None or image.mode == mode else image.convert(mode))


def decode_luminance_eighth(data: bytes, header: Header) -> np.ndarray:
    """Return luminance at 1/8 size, uint8 [ceil(height / 8), ceil(width / 8)].

    For JPEG this reads every coefficient but inverts only the means of the blocks, so it is the
    cheapest complete check. Raises BrokenFileError, HP202 for a JPEG that does not fill its
    image.
    """
    if _is_plain_jpeg(header):
        return _jpeg_luminance_eighth(data, header)
    grey = cv2.cvtColor(decode_rgb(data, header), cv2.COLOR_RGB2GRAY)
    return cv2.resize(
        grey, (-(-header.width_px // 8), -(-header.height_px // 8)), interpolation=cv2.INTER_AREA
    )


def decode_compared_luminance(
    data: bytes, header: Header, eighth: np.ndarray | None = None
) -> np.ndarray:
    """Return the luminance by which images are compared, uint8 [height, width]: `eighth`, the 1/8
    size, or the full size of small images.

    Four pixels of a 16 px tile tell nothing apart, so the full size is taken where a side at 1/8 is
    under `MIN_COMPARED_PX`. Raises BrokenFileError.
    """
    eighth = decode_luminance_eighth(data, header) if eighth is None else eighth
    if min(eighth.shape) >= MIN_COMPARED_PX:
        return eighth
    return cv2.cvtColor(decode_rgb(data, header), cv2.COLOR_RGB2GRAY)


def _is_plain_jpeg(header: Header) -> bool:
    """Return whether simplejpeg gives the colours of this file."""
    return (
        header.format == "jpeg"
        and header.mode in ("L", "RGB")
        and header.jpeg_subsampling in _SIMPLEJPEG_SUBSAMPLING
    )


def _jpeg_luminance_eighth(data: bytes, header: Header) -> np.ndarray:
    height, width = -(-header.height_px // 8), -(-header.width_px // 8)
    with _strict_jpeg():
        return simplejpeg.decode_jpeg(data, colorspace="GRAY", min_height=height, min_width=width)[
            ..., 0
        ]


@contextlib.contextmanager
def _strict_jpeg() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        reason = str(error)
        cut = "remature" in reason or "extraneous" in reason
        raise BrokenFileError("HP202 missing-data" if cut else "HP201 corrupt", reason) from error


def decode_rgb(data: bytes, header: Header | None = None) -> np.ndarray:
    """Return the image as uint8 RGB [height, width, 3], whatever its mode; raises BrokenFileError.

    Alpha is dropped, 16 bits keep their high byte, and float grey is clipped to 0-255.
    """
    header = header or read_header(data)
    if _is_plain_jpeg(header):
        with _strict_jpeg():
            return simplejpeg.decode_jpeg(data, colorspace="RGB")
    if (
        header.format == "jpeg"
        and header.mode == "CMYK"
        and header.jpeg_subsampling in _SIMPLEJPEG_SUBSAMPLING
    ):
        # Pillow knows how such files invert their inks, but not when pixels are missing.
        _jpeg_luminance_eighth(data, header)
    if isinstance(header.structure, png.PngFile):
        png.inflate(header.structure)
        data = png.bare(header.structure)
    if header.mode[0] in "IF":
        grey = _pillow_pixels(data, header.format).astype(np.float64)
        bytes_of_grey = (grey if header.mode == "F" else grey // 256).clip(0, 255).astype(np.uint8)
        return np.repeat(bytes_of_grey[..., None], 3, axis=2)
    return _pillow_pixels(data, header.format, "RGB")


def decode_mask(data: bytes, header: Header, reading: Reading = UNDECIDED) -> np.ndarray:
    """Return the labels, uint8 or uint16 [height, width], as `encodings.ENCODINGS` says what they
    are.

    `reading` is what somebody decided where readers disagree. RGB, RGBA, float and other images
    come back as uint8 or float [height, width, channels] for `describe_colours`. Raises
    BrokenFileError, HP413, HP415, HP416 for values that are no labels.
    """
    return labels_of(decode_stored(data, header), header, reading)


def decode_stored(data: bytes, header: Header) -> np.ndarray:
    """Return the values of a mask as stored, integers [height, width], whatever they stand for.

    Palette masks give their indices, 1-, 2- and 4-bit masks their raw values, min-is-white ones
    what other readers turn round. Images that are no class map come back as in `decode_mask`.
    Raises BrokenFileError.
    """
    if isinstance(header.structure, png.PngFile):
        if png.holds_bytes(header.structure):
            return _png_bytes(header.structure)
        png.inflate(header.structure)
        data = png.bare(header.structure)
    if _is_plain_jpeg(header):
        with _strict_jpeg():
            pixels = simplejpeg.decode_jpeg(
                data, colorspace="GRAY" if header.mode == "L" else "RGB"
            )
        return pixels[..., 0] if header.mode == "L" else pixels
    if header.format == "jpeg":
        return decode_rgb(data, header)
    return _as_stored(_pillow_pixels(data, header.format), header)


def _as_stored(pixels: np.ndarray, header: Header) -> np.ndarray:
    """Return what a file holds of what Pillow made of it: it stretches grey of few bits, turns
    min-is-white round and drops signs.
    """
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    elif header.mode == "L" and header.bit_depth in (2, 4):
        pixels = pixels // (255 // ((1 << header.bit_depth) - 1))
    if header.is_min_is_white and header.bit_depth <= 8:
        return ((1 << header.bit_depth) - 1) - pixels
    if header.mode == "L" and header.is_signed:
        return pixels.view(np.int8)
    if header.mode == "I" and not header.is_signed:
        pixels = pixels.view(np.uint32)
    is_wide_integer = pixels.ndim == 2 and pixels.dtype.kind == "u" and pixels.dtype.itemsize > 1
    return pixels.astype(np.uint16) if is_wide_integer and pixels.max() < 1 << 16 else pixels


def _png_bytes(file: png.PngFile) -> np.ndarray:
    """Return grey values or palette indices, uint8 [height, width]."""
    filters, rows = png.rows_of_bytes(file, png.inflate(file))
    if filters.count(png.NO_FILTER) == len(filters):
        return rows
    grey = png.bare(file, as_grey=True)
    if fast_png is not None:
        return fast_png.decode_image_png_u8(grey, (file.height_px, file.width_px), "mono")[..., 0]
    if filters.count(png.SUB) == len(filters):
        # What cv2 writes, and reads at half of this speed.
        return np.cumsum(rows, axis=1, dtype=np.uint8)
    decoded = cv2.imdecode(np.frombuffer(grey, np.uint8), cv2.IMREAD_UNCHANGED)
    # cv2 has a limit on the number of pixels of its own.
    return decoded if decoded is not None else _pillow_pixels(grey, "png")


def encode_mask_png(labels: np.ndarray, text: dict[str, str] | None = None) -> bytes:
    """Return labels, uint8 or uint16 [height, width], as a grey PNG of that depth."""
    if labels.dtype == np.uint8:
        return png.encode_grey(labels, text)
    stream = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def encode_rgb_jpeg(rgb: np.ndarray, quality: int = 90, subsampling: str = "4:2:0") -> bytes:
    """Return uint8 RGB [height, width, 3] as a JPEG without metadata."""
    sampling = subsampling.replace(":", "")
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb),
        quality=quality,
        colorspace="RGB",
        colorsubsampling=sampling,
        fastdct=False,
    )


def through_jpeg(grey: np.ndarray, quality: int) -> np.ndarray:
    """Return what a grey JPEG of `quality` makes of an image, uint8 [height, width]."""
    _, encoded = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))


def encode_rgb_png(rgb: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """Return uint8 RGB [height, width, 3] as a PNG without other metadata than `text`."""
    marks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        marks.add_text(key, value)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(stream, "PNG", compress_level=6, pnginfo=marks)
    return stream.getvalue()


def shrink_rgb(rgb: np.ndarray, longest_px: int) -> np.ndarray:
    """Return the image scaled down by area so that its longer side is at most `longest_px`."""
    height, width = rgb.shape[:2]
    factor = min(1.0, longest_px / max(height, width))
    if factor == 1.0:
        return rgb
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
