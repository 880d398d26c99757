"""TIFF, by Pillow, after `imageio/tiff.py` has refused what readers do not read alike."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from histoprep.errors import BrokenFileError
from histoprep.image_formats import JPEG, TIFF
from histoprep.imageio import tiff
from histoprep.imageio.decoders.base import Sample, rgb_of
from histoprep.imageio.decoders.pillow import PillowDecoder, pillow_open, pillow_pixels
from histoprep.imageio.decoders.png import CORNERS
from histoprep.imageio.header import Header
from histoprep.imageio.label_encoding import GREY_MODES
from histoprep.imageio.metadata import without_tags
from histoprep.imageio.privacy import tiff_fields
from histoprep.rule_ids import UNREADABLE_FILE, UNSUPPORTED_ENCODING

_COMPRESSION, _ORIENTATION = 259, 274
# Old and new style of JPEG inside of a TIFF.
_JPEG_COMPRESSIONS = (6, 7)
# `CORNERS`, with LZW.
_SAMPLE = (
    "SUkqABgAAACAMgPDwFNwtCgZOZ/wuAgACgAAAQMAAQAAAAIAAAABAQMAAQAAAAIAAAACAQMAAwAAAJYAAAADAQMAAQAAAAUAAAAGAQMAAQAAAAIAAAARAQQAAQAAAAgA"
    "AAAVAQMAAQAAAAMAAAAWAQMAAQAAAAIAAAAXAQQAAQAAAA8AAAAcAQMAAQAAAAEAAAAAAAAACAAIAAgA"
)


class TiffDecoder(PillowDecoder):
    """One page of values that all readers return alike."""

    def read_header(self, data: bytes) -> Header:
        """Return the header of the only page or of the first of a pyramid."""
        return self.read_page_header(data, None)

    def read_page_header(self, data: bytes, page: int | None) -> Header:
        """Return the header of a page; several pages of which nobody chose, and what readers refuse
        or return differently, are refused.
        """
        pages = tiff.read_pages(data)
        index, num_pages = tiff.choose_page(pages, page) if pages else (0, 1)
        if pages:
            tiff.refuse_unread(pages[index])
        chosen = pages[index] if pages else None
        if chosen is not None and _is_wide(chosen):
            return replace(_wide_header(chosen), num_pages=num_pages, page=index)
        try:
            with pillow_open(_readable(data, chosen), TIFF.name) as image:
                image.seek(index)
                return replace(_header_of(image, chosen), num_pages=num_pages, page=index)
        except BrokenFileError as error:
            if error.verdict == UNREADABLE_FILE.verdict("bad-header") and tiff.is_plausible(pages):
                raise BrokenFileError(
                    UNSUPPORTED_ENCODING.verdict("values"),
                    f"{pages[index].describe()}, which most readers refuse",
                ) from error
            raise

    def decode_rgb(self, data: bytes, header: Header) -> np.ndarray:
        """Return the image as uint8 RGB [height, width, 3]."""
        if header.mode == "F" and header.bit_depth != 32:
            return rgb_of(self.decode_stored(data, header), header.bit_depth)
        return super().decode_rgb(data, header)

    def decode_stored(self, data: bytes, header: Header) -> np.ndarray:
        """Return the values of a mask, [height, width], or the colours of an image, with 16 bits
        where they have as many.
        """
        if header.bit_depth == 64 or (header.bit_depth == 16 and header.mode in ("RGB", "RGBA")):
            return _by_opencv(data, header)
        if header.bit_depth == 16 and header.mode == "F":
            values = pillow_pixels(tiff.as_unsigned(data), header.format, page=header.page)
            return values.astype(np.uint16).view(np.float16)
        return super().decode_stored(data, header)

    def strip_metadata(self, data: bytes) -> bytes:
        """Return the file without the tags that no decoder needs."""
        return without_tags(data)

    def samples(self) -> Sequence[Sample]:
        """Return four colours."""
        return [Sample(b64decode(_SAMPLE), CORNERS)]


def _is_wide(page: tiff.Page) -> bool:
    """Return whether OpenCV decodes what Pillow refuses: one channel of 64 bits."""
    return page.bits == 64 and page.is_grey


def _wide_header(page: tiff.Page) -> Header:
    return Header(
        TIFF.name,
        "F" if page.is_float else "I",
        page.bits,
        page.width_px,
        page.height_px,
        metadata=tiff_fields((*page.numbers, *page.texts)),
        orientation=page.orientation if page.orientation in range(1, 9) else None,
        is_signed=page.is_signed,
        software=page.software,
    )


def _readable(data: bytes, page: tiff.Page | None) -> bytes:
    """Return a file that Pillow opens: it refuses floating-point numbers of 16 bits."""
    is_half = page is not None and page.is_float and page.bits == 16 and page.is_grey
    return tiff.as_unsigned(data) if is_half else data


def _by_opencv(data: bytes, header: Header) -> np.ndarray:
    """Return values of 64 bits, or RGB or RGBA of 16 bits a channel; raises BrokenFileError."""
    if not tiff.read_pages(data)[header.page].is_interleaved:
        raise BrokenFileError(
            UNSUPPORTED_ENCODING.verdict("values"),
            f"channels of {header.bit_depth} bits in planes of their own, which OpenCV mixes up",
        )
    done, pages = cv2.imdecodemulti(
        np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, range=(header.page, header.page + 1)
    )
    shape = (header.height_px, header.width_px)
    if not done or len(pages) != 1 or pages[0].shape[:2] != shape:
        raise BrokenFileError(
            UNREADABLE_FILE.verdict("corrupt"), f"the pixels of {header.bit_depth} bits are damaged"
        )
    pixels: np.ndarray = pages[0]
    # cv2 gives BGR; RGB starts here.
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}
    return pixels if pixels.ndim == 2 else pixels[..., order[pixels.shape[2]]]


def _header_of(image: Image.Image, page: tiff.Page | None) -> Header:
    tags = image.tag_v2  # type: ignore[attr-defined]
    orientation = tags.get(_ORIENTATION)
    bits = {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)
    is_grey = image.mode in GREY_MODES
    is_half = bool(page and page.is_float and page.bits == 16 and page.is_grey)
    is_deep = bool(page and page.is_deep_colour)
    return Header(
        TIFF.name,
        "F" if is_half else image.mode,
        page.bits if page and (is_grey or is_deep or image.mode == "P") else bits,
        image.width,
        image.height,
        metadata=tiff_fields(tags),
        orientation=orientation if orientation in range(1, 9) else None,
        lossy=JPEG.name if tags.get(_COMPRESSION) in _JPEG_COMPRESSIONS else None,
        palette=page.palette if page and image.mode == "P" else b"",
        is_min_is_white=bool(page and is_grey and page.is_min_is_white),
        is_signed=bool(page and is_grey and page.is_signed),
        software=page.software if page else "",
    )


DECODER = TiffDecoder()
