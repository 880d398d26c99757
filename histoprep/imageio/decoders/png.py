"""PNG: its structure is checked by `imageio/png.py`, and pixels come from whatever is fastest."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cv2
import numpy as np

from histoprep import native
from histoprep.errors import BrokenFileError
from histoprep.image_formats import PNG
from histoprep.imageio import png
from histoprep.imageio.decoders.base import Decoder, Sample
from histoprep.imageio.decoders.pillow import as_stored, pillow_pixels, pillow_rgb
from histoprep.imageio.encode import encode_mask_png, encode_rgb_png
from histoprep.imageio.header import LABEL_MAP_TEXT, Header
from histoprep.imageio.metadata import without_chunks
from histoprep.imageio.privacy import exif_facts, identifying_text
from histoprep.rule_ids import UNREADABLE_FILE

fast_png: Any
try:
    from kornia_rs import io as fast_png
except ImportError:
    fast_png = None

_MODES = {
    png.GREY: "L",
    png.RGB: "RGB",
    png.PALETTE: "P",
    png.GREY_ALPHA: "LA",
    png.RGBA: "RGBA",
}


class PngDecoder(Decoder):
    """Everything is checked before a decoder sees the file."""

    @property
    def package(self) -> str:  # type: ignore[override]
        """Return what decodes: Pillow where the quick decoder is missing."""
        try:
            version("kornia-rs")
        except PackageNotFoundError:
            return "pillow"
        return "kornia-rs"

    def read_header(self, data: bytes) -> Header:
        """Return the header; all chunks are checked on the way."""
        file = png.read_chunks(data)
        mode = _MODES[file.colour_type]
        if mode == "L":
            mode = {1: "1", 16: "I;16"}.get(file.bit_depth, "L")
        orientation, fields = exif_facts(file.exif) if file.exif else (None, ())
        return Header(
            format=PNG.name,
            mode=mode,
            bit_depth=file.bit_depth,
            width_px=file.width_px,
            height_px=file.height_px,
            metadata=(*fields, *identifying_text(file.text)),
            orientation=orientation,
            label_map=file.text.get(LABEL_MAP_TEXT),
            palette=file.palette if file.colour_type == png.PALETTE else b"",
            structure=file,
        )

    def decode_rgb(self, data: bytes, header: Header) -> np.ndarray:
        """Return the image as uint8 RGB [height, width, 3]."""
        file = _file_of(header)
        lines = png.inflate(file)
        if file.colour_type == png.RGB and file.bit_depth == 8 and not file.interlaced:
            pixels = native.unfilter_colours(lines, file.height_px, file.width_px)
            if pixels is not None:
                return pixels
        return pillow_rgb(png.bare(file), header)

    def decode_stored(self, data: bytes, header: Header) -> np.ndarray:
        """Return grey values or indices [height, width], or the colours of an image."""
        file = _file_of(header)
        if png.holds_bytes(file):
            return _bytes_of(file)
        png.inflate(file)
        if file.bit_depth == 16 and file.colour_type in (png.RGB, png.RGBA, png.GREY_ALPHA):
            return _deep_colours(png.bare(file))
        return as_stored(pillow_pixels(png.bare(file), header.format), header)

    def strip_metadata(self, data: bytes) -> bytes:
        """Return the file without the chunks that no decoder needs."""
        return without_chunks(data)

    def samples(self) -> Sequence[Sample]:
        """Return four colours, and a mask of all 8-bit labels."""
        labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        return [Sample(encode_mask_png(labels), labels), Sample(encode_rgb_png(CORNERS), CORNERS)]


CORNERS = np.array([[[200, 30, 60], [10, 220, 90]], [[40, 50, 230], [255, 255, 255]]], np.uint8)
"""Four colours: uint8 [2, 2, 3]."""


def _file_of(header: Header) -> png.PngFile:
    assert isinstance(header.structure, png.PngFile)
    return header.structure


def _deep_colours(data: bytes) -> np.ndarray:
    """Return RGB, RGBA or grey with alpha of 16 bits a channel, which Pillow reduces to 8; grey
    three times.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise BrokenFileError(
            UNREADABLE_FILE.verdict("corrupt"), "colours of 16 bits that OpenCV refuses"
        )
    # cv2 gives BGR; RGB starts here.
    return np.asarray(pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])


def _bytes_of(file: png.PngFile) -> np.ndarray:
    """Return grey values or palette indices, uint8 [height, width]."""
    lines = png.inflate(file)
    filters, rows = png.rows_of_bytes(file, lines)
    if filters.count(png.NO_FILTER) == len(filters):
        return rows
    pixels = native.unfilter(lines, file.height_px, file.width_px)
    if pixels is not None:
        return pixels
    grey = png.bare(file, as_grey=True)
    if fast_png is not None:
        result: np.ndarray = fast_png.decode_image_png_u8(
            grey, (file.height_px, file.width_px), "mono"
        )[..., 0]
        return result
    if filters.count(png.SUB) == len(filters):
        # What cv2 writes, and reads at half of this speed.
        return np.cumsum(rows, axis=1, dtype=np.uint8)
    decoded = cv2.imdecode(np.frombuffer(grey, np.uint8), cv2.IMREAD_UNCHANGED)
    # cv2 has a limit on the number of pixels of its own.
    return decoded if decoded is not None else pillow_pixels(grey, PNG.name)


DECODER = PngDecoder()
