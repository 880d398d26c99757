"""Bytes of an image file -> header and pixels; the only package that decodes or encodes, and RGB
starts here.

Headers come first: format by magic bytes, size, mode, metadata. Nothing is decoded that
the header shows to be too large. What reads which format stands in `decoders/`.
"""

from __future__ import annotations

import cv2
import numpy as np

from histoprep import image_formats
from histoprep.errors import BrokenFileError
from histoprep.imageio.colour_labels import distinct as distinct
from histoprep.imageio.decoders import decoder_of
from histoprep.imageio.decoders import register_format as register_format
from histoprep.imageio.decoders.base import eighth_of
from histoprep.imageio.encode import encode_mask_png as encode_mask_png
from histoprep.imageio.encode import encode_png as encode_png
from histoprep.imageio.encode import encode_rgb_jpeg as encode_rgb_jpeg
from histoprep.imageio.encode import encode_rgb_png as encode_rgb_png
from histoprep.imageio.encode import shrink_rgb as shrink_rgb
from histoprep.imageio.encode import through_jpeg as through_jpeg
from histoprep.imageio.header import LABEL_MAP_TEXT as LABEL_MAP_TEXT
from histoprep.imageio.header import Header as Header
from histoprep.imageio.icc import find_profile as find_profile
from histoprep.imageio.label_encoding import Labels as Labels
from histoprep.imageio.label_encoding import find_doubt as find_doubt
from histoprep.imageio.label_encoding import labels_of as labels_of
from histoprep.imageio.label_encoding import palette_colours as palette_colours
from histoprep.imageio.orientation import set_orientation as set_orientation
from histoprep.imageio.orientation import turn as turn
from histoprep.imageio.orientation import with_orientation as with_orientation
from histoprep.imageio.privacy import SYNTHETIC_MARK as SYNTHETIC_MARK
from histoprep.mask_reading import UNDECIDED, Reading
from histoprep.rule_ids import UNREADABLE_FILE

# OpenCV's own threads would fight with the worker processes.
cv2.setNumThreads(1)
# It prints what is wrong with a file; our errors say so.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# Images with a side under this at 1/8 size are compared at full size.
MIN_COMPARED_PX = 16


def read_header(data: bytes, reading: Reading = UNDECIDED) -> Header:
    """Return what a file says of itself; its structure (chunks, markers) is checked on the way.

    Args:
        data: The bytes of the file.
        reading: For a mask, what somebody decided: the page of a file with several.

    Raises:
        BrokenFileError: The file is empty, foreign, cut off or contradictory.
    """
    if not data:
        raise BrokenFileError(UNREADABLE_FILE.verdict("zero-bytes"), "the file is empty")
    found = image_formats.sniff(data)
    if found is None and (stand_in := image_formats.stand_in(data)) is not None:
        raise BrokenFileError(UNREADABLE_FILE.verdict(stand_in.subcode), stand_in.what)
    if found is None:
        raise BrokenFileError(
            UNREADABLE_FILE.verdict("bad-header"),
            f"no {image_formats.titles()}: starts with {data[:8].hex(' ')}",
        )
    return decoder_of(found.name).read_page_header(data, reading.page)


def decode_luminance_eighth(data: bytes, header: Header) -> np.ndarray:
    """Return luminance at 1/8 size, uint8 [ceil(height / 8), ceil(width / 8)].

    For JPEG this reads every coefficient but inverts only the means of the blocks, so it is the
    cheapest complete check.

    Raises:
        BrokenFileError: The pixels are damaged or incomplete; HP202 for a JPEG that does not fill
            its image.
    """
    return decoder_of(header.format).decode_luminance_eighth(data, header)


def decode_luminance(data: bytes, header: Header) -> np.ndarray:
    """Return luminance at full size, uint8 [height, width].

    Raises:
        BrokenFileError: The pixels are damaged or incomplete.
    """
    return decoder_of(header.format).decode_luminance(data, header)


def shrink_to_eighth(grey: np.ndarray) -> np.ndarray:
    """Return luminance at 1/8 size, uint8 [ceil(height / 8), ceil(width / 8)], of that at full
    size; of a JPEG some values differ by 1 from those that `decode_luminance_eighth` returns.
    """
    return eighth_of(grey)


def decode_compared_luminance(
    data: bytes, header: Header, eighth: np.ndarray | None = None
) -> np.ndarray:
    """Return the luminance by which images are compared, uint8 [height, width]: `eighth`, the 1/8
    size, or the full size of small images.

    Four pixels of a 16 px tile tell nothing apart, so the full size is taken where a side at 1/8 is
    under `MIN_COMPARED_PX`.

    Raises:
        BrokenFileError: The pixels are damaged or incomplete.
    """
    eighth = decode_luminance_eighth(data, header) if eighth is None else eighth
    if min(eighth.shape) >= MIN_COMPARED_PX:
        return eighth
    result: np.ndarray = cv2.cvtColor(decode_rgb(data, header), cv2.COLOR_RGB2GRAY)
    return result


def decode_rgb(data: bytes, header: Header | None = None) -> np.ndarray:
    """Return the image as uint8 RGB [height, width, 3], whatever its mode.

    Alpha is dropped, 16 bits keep their high byte, and float grey is clipped to 0-255.

    Raises:
        BrokenFileError: The file cannot be read, or its pixels are damaged or incomplete.
    """
    header = header or read_header(data)
    return decoder_of(header.format).decode_rgb(data, header)


def decode_mask(data: bytes, header: Header, reading: Reading = UNDECIDED) -> np.ndarray:
    """Return the labels, uint8, uint16 or uint32 [height, width], as `encodings.ENCODINGS` says
    what they are; those of a mask that is coded by colour are 0xRRGGBB.

    Args:
        data: The bytes of the file.
        header: Its header.
        reading: What somebody decided where readers disagree.

    Raises:
        BrokenFileError: The pixels are damaged, or their values are no labels (HP402, HP413, HP415,
            HP416).
    """
    return labels_of(decode_stored(data, header), header, reading).values


def decode_stored(data: bytes, header: Header) -> np.ndarray:
    """Return the values of a mask as stored, [height, width] of any type, whatever they stand for.

    Palette masks give their indices, 1-, 2- and 4-bit masks their raw values, min-is-white ones
    what other readers turn round. Colours come back as [height, width, channels], floating-point
    numbers as they are.

    Raises:
        BrokenFileError: The pixels are damaged or incomplete.
    """
    return decoder_of(header.format).decode_stored(data, header)


def find_loss(data: bytes, header: Header, stored: np.ndarray) -> str | None:
    """Return the lossy compression that a decoded file went through: jpeg, webp, jpeg2000 or that
    of another format; None for a lossless file.

    Args:
        data: The bytes of the file.
        header: Its header.
        stored: What `decode_stored` returned.
    """
    return decoder_of(header.format).find_loss(data, header, stored)


def strip_metadata(data: bytes, format_name: str) -> bytes:
    """Return the bytes of an image file without its metadata; never more bytes than before.

    What decoders need stays: JFIF, Adobe's colour transform, the colour profile, how a TIFF is
    turned. The mark of synthetic images stays, too.

    Args:
        data: The bytes of the file.
        format_name: As in its header.

    Raises:
        BrokenFileError: The structure of the file cannot be followed.
    """
    return decoder_of(format_name).strip_metadata(data)
