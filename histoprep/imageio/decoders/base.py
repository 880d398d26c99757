"""What a decoder gives, and what it need not write itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from histoprep import native
from histoprep.imageio.header import Header


class Sample(NamedTuple):
    """A file whose pixels are known, which `histoprep doctor` decodes.

    `pixels` are uint8 RGB [height, width, 3], or the labels of a mask, uint8 or uint16 [height,
    width]; `tolerance` is how far a lossy format may be off, of 255.
    """

    data: bytes
    pixels: np.ndarray
    tolerance: int = 0

    @property
    def is_mask(self) -> bool:
        """Return whether the pixels are labels."""
        return self.pixels.ndim == 2


class Decoder:
    """Reads the files of one format.

    A new one writes `read_header` and `decode_stored`, and `samples` for `histoprep doctor`; the
    other methods follow from these. A format whose header tells nothing without the pixels derives
    from `ArrayDecoder` instead. Every method raises BrokenFileError for a file that is cut off,
    damaged or contradictory, and never returns part of an image.
    """

    package = "histoprep"
    """The distribution that decodes; `histoprep doctor` names its version."""

    def read_header(self, data: bytes) -> Header:
        """Return what a file says of itself, without decoding pixels where that is possible."""
        raise NotImplementedError

    def decode_stored(self, data: bytes, header: Header) -> np.ndarray:
        """Return the values as stored: [height, width], or [height, width, channels] in colour."""
        raise NotImplementedError

    def read_page_header(self, data: bytes, page: int | None) -> Header:
        """Return the header of the chosen page, from 1, of a file that may have several; here for a
        format of single images.
        """
        return self.read_header(data)

    def find_loss(self, data: bytes, header: Header, stored: np.ndarray) -> str | None:
        """Return the lossy compression that the decoded file went through, None for a lossless
        file; here for a format whose header tells.
        """
        return header.lossy

    def samples(self) -> Sequence[Sample]:
        """Return files whose pixels are known; each must be refused when it is cut in half."""
        raise NotImplementedError

    def decode_rgb(self, data: bytes, header: Header) -> np.ndarray:
        """Return the image as uint8 RGB [height, width, 3], whatever its mode."""
        return rgb_of(self.decode_stored(data, header), header.bit_depth)

    def decode_luminance_eighth(self, data: bytes, header: Header) -> np.ndarray:
        """Return luminance at 1/8 size, uint8 [ceil(height / 8), ceil(width / 8)]."""
        return eighth_of(self.decode_luminance(data, header))

    def decode_luminance(self, data: bytes, header: Header) -> np.ndarray:
        """Return luminance at full size, uint8 [height, width]."""
        result: np.ndarray = cv2.cvtColor(self.decode_rgb(data, header), cv2.COLOR_RGB2GRAY)
        return result

    def strip_metadata(self, data: bytes) -> bytes:
        """Return the bytes of the file without metadata; here for a format that has none."""
        return data


def eighth_of(grey: np.ndarray) -> np.ndarray:
    """Return luminance, uint8 [height, width], at 1/8 size, sides rounded up."""
    if (shrunk := native.shrink(grey, 8)) is not None:
        return shrunk
    size = (-(-grey.shape[1] // 8), -(-grey.shape[0] // 8))
    result: np.ndarray = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return result


class ArrayDecoder(Decoder):
    """A decoder of a format that tells its size only with its pixels, or together with them.

    A new one writes `decode` and `samples`. `--max-pixels` cannot refuse such a file before it is
    decoded.
    """

    name = ""
    """The name of the format, as in `image_formats.py`."""

    def decode(self, data: bytes) -> np.ndarray:
        """Return the values of a file: integers [height, width], or uint8 RGB [height, width,
        3].
        """
        raise NotImplementedError

    def read_header(self, data: bytes) -> Header:
        """Return the header of the decoded file."""
        return header_of(self.decode(data), self.name)

    def decode_stored(self, data: bytes, header: Header) -> np.ndarray:
        """Return the decoded file."""
        return self.decode(data)


def header_of(pixels: np.ndarray, format_name: str) -> Header:
    """Return the header of an image without metadata: grey of 8, 16 or 32 bits, float, RGB or
    RGBA.

    Args:
        pixels: [height, width] or [height, width, channels].
        format_name: As in `image_formats.py`.
    """
    bits = pixels.dtype.itemsize * 8
    if pixels.ndim == 3:
        mode = {2: "LA", 3: "RGB", 4: "RGBA"}.get(pixels.shape[2], "other")
    elif pixels.dtype.kind == "f":
        mode = "F"
    elif pixels.dtype.kind == "b":
        mode, bits = "1", 1
    else:
        mode = {8: "L", 16: "I;16"}.get(bits, "I")
    is_signed = pixels.dtype.kind == "i"
    return Header(format_name, mode, bits, pixels.shape[1], pixels.shape[0], is_signed=is_signed)


def rgb_of(pixels: np.ndarray, bit_depth: int) -> np.ndarray:
    """Return values as uint8 RGB [height, width, 3]: grey three times, the high byte of more than 8
    bits, fewer bits scaled to 0-255, float clipped to it, without alpha.
    """
    if pixels.dtype.kind == "f":
        eight = pixels.clip(0, 255).astype(np.uint8)
    elif bit_depth > 8:
        eight = (pixels >> (bit_depth - 8)).clip(0, 255).astype(np.uint8)
    elif bit_depth < 8:
        eight = pixels.astype(np.uint8) * np.uint8(255 // ((1 << bit_depth) - 1))
    else:
        eight = pixels.astype(np.uint8)
    if eight.ndim == 2 or eight.shape[2] <= 2:
        grey = eight if eight.ndim == 2 else eight[..., 0]
        return np.repeat(grey[..., None], 3, axis=2)
    return np.ascontiguousarray(eight[..., :3])
