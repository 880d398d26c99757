"""Pillow, made strict: warnings are errors, and every error is a BrokenFileError."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from histoprep.errors import BrokenFileError
from histoprep.imageio import libtiff
from histoprep.imageio.decoders.base import Decoder
from histoprep.imageio.header import Header
from histoprep.rule_ids import UNREADABLE_FILE

# Sizes are checked from the header against --max-pixels; Pillow's own limit would only warn.
Image.MAX_IMAGE_PIXELS = None
libtiff.take_over_errors(Image.core.__file__)

# Everything Pillow was seen to raise on broken files.
_ERRORS = (
    OSError, ValueError, SyntaxError, NotImplementedError, struct.error, KeyError, IndexError,
    TypeError,
    OverflowError, EOFError, MemoryError, ZeroDivisionError, AssertionError, RuntimeError,
    AttributeError,
    Image.DecompressionBombError, Image.DecompressionBombWarning, UserWarning,
)  # fmt: skip


@contextlib.contextmanager
def pillow_open(data: bytes, format_name: str) -> Iterator[Image.Image]:
    """Yield the open image of a format, by its name in `image_formats.py` or Pillow's; raises
    BrokenFileError for every warning and error.
    """
    with libtiff.collect_errors() as reported:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.filterwarnings("ignore", "Metadata Warning|Possibly corrupt EXIF")
                with Image.open(io.BytesIO(data), formats=[format_name.upper()]) as image:
                    yield image
        except UnidentifiedImageError as error:
            raise BrokenFileError(
                UNREADABLE_FILE.verdict("bad-header"), f"no readable {format_name} header"
            ) from error
        except _ERRORS as error:
            reason = str(error) or type(error).__name__
            verdict = UNREADABLE_FILE.verdict("truncated" if "runcat" in reason else "corrupt")
            raise BrokenFileError(verdict, "; ".join([reason, *reported[:1]])) from error
        if reported:
            # Pillow goes on with whatever was decoded.
            raise BrokenFileError(UNREADABLE_FILE.verdict("corrupt"), reported[0])


def pillow_pixels(
    data: bytes, format_name: str, mode: str | None = None, page: int = 0
) -> np.ndarray:
    """Return the pixels as Pillow decodes them, in another of its modes if one is named."""
    with pillow_open(data, format_name) as image:
        if page:
            image.seek(page)
        image.load()
        return np.asarray(image if mode is None or image.mode == mode else image.convert(mode))


def pillow_rgb(data: bytes, header: Header) -> np.ndarray:
    """Return the image as uint8 RGB [height, width, 3]: alpha is dropped, 16 bits keep their high
    byte, and float grey is clipped to 0-255.
    """
    if header.mode[0] in "IF":
        grey = pillow_pixels(data, header.format).astype(np.float64)
        bytes_of_grey = (grey if header.mode == "F" else grey // 256).clip(0, 255).astype(np.uint8)
        return np.repeat(bytes_of_grey[..., None], 3, axis=2)
    return pillow_pixels(data, header.format, "RGB")


def indexed_header(image: Image.Image, format_name: str) -> Header:
    """Return the header of an open image of 1, 8 or 16 bits, with its palette."""
    bits = 1 if image.mode == "1" else 16 if image.mode.startswith("I;16") else 8
    palette = bytes(image.getpalette() or ()) if image.mode == "P" else b""
    return Header(format_name, image.mode, bits, image.width, image.height, palette=palette)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    """Return pixels as Pillow writes them."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


class PillowDecoder(Decoder):
    """A decoder of a format that Pillow reads; `read_header` is left to the format."""

    package = "pillow"

    def decode_rgb(self, data: bytes, header: Header) -> np.ndarray:
        """Return the image as uint8 RGB [height, width, 3]."""
        return pillow_rgb(data, header)

    def decode_stored(self, data: bytes, header: Header) -> np.ndarray:
        """Return the values of a mask, integers [height, width], or the colours of an image."""
        return as_stored(pillow_pixels(data, header.format, page=header.page), header)


def as_stored(pixels: np.ndarray, header: Header) -> np.ndarray:
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
