"""JPEG, by simplejpeg."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import simplejpeg

from histoprep.errors import BrokenFileError
from histoprep.image_formats import JPEG
from histoprep.imageio import jpeg
from histoprep.imageio.decoders.base import Decoder, Sample
from histoprep.imageio.decoders.pillow import pillow_pixels
from histoprep.imageio.encode import encode_rgb_jpeg
from histoprep.imageio.header import Header
from histoprep.imageio.metadata import without_segments
from histoprep.imageio.privacy import exif_facts
from histoprep.rule_ids import TRUNCATED_JPEG, UNREADABLE_FILE

_SIMPLEJPEG_SUBSAMPLING = ("grey", "4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1")
_SAMPLE_ERROR = 12  # of 255: two conversions and quality 95 on a smooth ramp


class JpegDecoder(Decoder):
    """Strict where simplejpeg knows the file; Pillow reads the rest."""

    package = "simplejpeg"

    def read_header(self, data: bytes) -> Header:
        """Return the header; markers and the end of the file are checked on the way."""
        return _header_of(jpeg.read_markers(data))

    def decode_rgb(self, data: bytes, header: Header) -> np.ndarray:
        """Return the image as uint8 RGB [height, width, 3]."""
        if _is_plain(header):
            with _strict():
                result: np.ndarray = simplejpeg.decode_jpeg(data, colorspace="RGB")
                return result
        if header.mode == "CMYK" and header.jpeg_subsampling in _SIMPLEJPEG_SUBSAMPLING:
            # Pillow knows how such files invert their inks, but not when pixels are missing.
            _luminance_eighth(data, header)
        return pillow_pixels(data, header.format, "RGB")

    def decode_stored(self, data: bytes, header: Header) -> np.ndarray:
        """Return grey [height, width], or RGB [height, width, 3]."""
        if not _is_plain(header):
            return self.decode_rgb(data, header)
        with _strict():
            pixels = simplejpeg.decode_jpeg(
                data, colorspace="GRAY" if header.mode == "L" else "RGB"
            )
        result: np.ndarray = pixels[..., 0] if header.mode == "L" else pixels
        return result

    def decode_luminance_eighth(self, data: bytes, header: Header) -> np.ndarray:
        """Return luminance at 1/8 size; every coefficient is read, but only means of blocks are
        inverted.
        """
        if _is_plain(header):
            return _luminance_eighth(data, header)
        return super().decode_luminance_eighth(data, header)

    def decode_luminance(self, data: bytes, header: Header) -> np.ndarray:
        """Return luminance at full size; of colours, that which the file itself stores."""
        if not _is_plain(header):
            return super().decode_luminance(data, header)
        with _strict():
            result: np.ndarray = simplejpeg.decode_jpeg(data, colorspace="GRAY")[..., 0]
            return result

    def strip_metadata(self, data: bytes) -> bytes:
        """Return the file without application segments and comments."""
        return without_segments(data)

    def samples(self) -> Sequence[Sample]:
        """Return a smooth ramp of quality 95."""
        ramp = np.linspace(0, 255, 64, dtype=np.uint8)
        across, down = np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64))
        image = np.stack([across, down, np.full((64, 64), 128, np.uint8)], axis=-1)
        return [Sample(encode_rgb_jpeg(image, 95, "4:4:4"), image, _SAMPLE_ERROR)]


def _is_plain(header: Header) -> bool:
    """Return whether simplejpeg gives the colours of this file."""
    return header.mode in ("L", "RGB") and header.jpeg_subsampling in _SIMPLEJPEG_SUBSAMPLING


def _luminance_eighth(data: bytes, header: Header) -> np.ndarray:
    height, width = -(-header.height_px // 8), -(-header.width_px // 8)
    with _strict():
        result: np.ndarray = simplejpeg.decode_jpeg(
            data, colorspace="GRAY", min_height=height, min_width=width
        )[..., 0]
        return result


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        reason = str(error)
        cut = "remature" in reason or "extraneous" in reason
        verdict = (
            TRUNCATED_JPEG.verdict("missing-data") if cut else UNREADABLE_FILE.verdict("corrupt")
        )
        raise BrokenFileError(verdict, reason) from error


@lru_cache(maxsize=64)
def _header_of(file: jpeg.JpegFile) -> Header:
    """Return the header of a JPEG whose markers were read."""
    orientation, fields = exif_facts(file.exif) if file.exif else (None, ())
    present = {"XMP": file.has_xmp, "IPTC": file.has_iptc, "JPEG comment": file.has_comment}
    extra = tuple(name for name, is_there in present.items() if is_there)
    return Header(
        format=JPEG.name,
        mode=file.mode,
        bit_depth=file.bit_depth,
        width_px=file.width_px,
        height_px=file.height_px,
        metadata=(*fields, *extra),
        orientation=orientation,
        jpeg_quality=file.quality,
        jpeg_subsampling=file.subsampling,
        lossy=JPEG.name,
        structure=file,
    )


DECODER = JpegDecoder()
