"""Which way up an image is to be shown: the tag 274 of EXIF and TIFF, and what it does to pixels.

Source of the eight values: TIFF 6.0, page 36, and Exif 2.32 (CIPA DC-008).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from histoprep import rule_ids
from histoprep.errors import BrokenFileError

UPRIGHT = 1
_TAG, _SHORT = 274, 3
_EXIF = b"Exif\0\0"
_APP0, _APP1, _SCAN = 0xE0, 0xE1, 0xDA
_WEBP_EXIF = 0x08


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image, [height, width, ...], as its orientation says that it is to be shown.

    Args:
        pixels: The pixels as stored.
        orientation: 1 as stored, 2 mirrored, 3 upside down, 4 mirrored and upside down, 5 to 8 the
            same of the transposed image.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # After the exchange of rows and columns, 5 to 8 are 1, 2, 4, 3 of the transposed image.
    mirrored = orientation in (2, 3, 6, 7)
    flipped = orientation in (3, 4, 7, 8)
    pixels = pixels[:, ::-1] if mirrored else pixels
    return np.ascontiguousarray(pixels[::-1] if flipped else pixels)


def set_orientation(data: bytes, format_name: str, orientation: int) -> bytes:
    """Return a file whose tag has another value; every other byte, but for checksums, stays.

    Raises:
        BrokenFileError: The file has no such tag, or is of a format without one.
    """
    changed = bytearray(data)
    places = list(_TAGS[format_name](data)) if format_name in _TAGS else []
    if not places:
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("corrupt"), "there is no orientation to be changed"
        )
    for start, order in places:
        struct.pack_into(order + "H", changed, start, orientation)
    if format_name == "png":
        _renew_checksum(changed)
    return bytes(changed)


def with_orientation(data: bytes, format_name: str, orientation: int) -> bytes:
    """Return a file without EXIF as one whose EXIF holds the orientation alone. A TIFF is returned
    as it is: there the tag is no metadata.
    """
    entry = struct.pack(">HHIHH", _TAG, _SHORT, 1, orientation, 0)
    block = b"MM\0*\0\0\0\x08\0\1" + entry + b"\0" * 4
    if format_name == "jpeg":
        at = _end_of_first_segment(data)
        segment = struct.pack(">BBH", 0xFF, _APP1, len(_EXIF) + len(block) + 2) + _EXIF + block
        return data[:at] + segment + data[at:]
    if format_name == "png":
        # Behind the header, which is 13 bytes long in every file.
        at = 8 + 12 + 13
        checksum = struct.pack(">I", zlib.crc32(b"eXIf" + block))
        return data[:at] + struct.pack(">I", len(block)) + b"eXIf" + block + checksum + data[at:]
    if format_name == "webp" and data[12:16] == b"VP8X":
        chunk = b"EXIF" + struct.pack("<I", len(block)) + block + b"\0" * (len(block) % 2)
        flags = bytes([data[20] | _WEBP_EXIF])
        size = struct.pack("<I", len(data) + len(chunk) - 8)
        return data[:4] + size + data[8:20] + flags + data[21:] + chunk
    return data


def _end_of_first_segment(data: bytes) -> int:
    """Return where a segment may be put into a JPEG: behind JFIF, which comes first."""
    if data[2:4] != bytes([0xFF, _APP0]):
        return 2
    return 4 + int(struct.unpack_from(">H", data, 4)[0])


def _of_block(data: bytes, start: int) -> Iterator[tuple[int, str]]:
    """Yield where the value of the tag is in a TIFF or EXIF block that begins at `start`, and the
    byte order.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[start : start + 2])
    if order is None or struct.unpack_from(order + "H", data, start + 2)[0] != 42:
        return
    folder = start + struct.unpack_from(order + "I", data, start + 4)[0]
    (count,) = struct.unpack_from(order + "H", data, folder)
    for entry in range(folder + 2, folder + 2 + 12 * count, 12):
        if struct.unpack_from(order + "HH", data, entry) == (_TAG, _SHORT):
            yield entry + 8, order


def _of_jpeg(data: bytes) -> Iterator[tuple[int, str]]:
    at = 2
    while data[at] == 0xFF and data[at + 1] != _SCAN:
        if data[at + 1] == _APP1 and data[at + 4 : at + 10] == _EXIF:
            yield from _of_block(data, at + 10)
            return
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _exif_of_png(data: bytes) -> tuple[int, int] | None:
    """Return start and length of the EXIF block."""
    at = 8
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"eXIf":
            return at + 8, length
        at += 12 + length
    return None


def _of_png(data: bytes) -> Iterator[tuple[int, str]]:
    if found := _exif_of_png(data):
        yield from _of_block(data, found[0])


def _renew_checksum(data: bytearray) -> None:
    if found := _exif_of_png(bytes(data)):
        start, length = found
        checksum = zlib.crc32(data[start - 4 : start + length])
        struct.pack_into(">I", data, start + length, checksum)


def _of_webp(data: bytes) -> Iterator[tuple[int, str]]:
    at = 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        if data[at : at + 4] == b"EXIF":
            start = at + 8
            yield from _of_block(data, start + (6 if data[start : start + 6] == _EXIF else 0))
            return
        at += 8 + length + length % 2


def _of_tiff(data: bytes) -> Iterator[tuple[int, str]]:
    yield from _of_block(data, 0)


_TAGS: dict[str, Callable[[bytes], Iterator[tuple[int, str]]]] = {
    "jpeg": _of_jpeg,
    "png": _of_png,
    "webp": _of_webp,
    "tiff": _of_tiff,
}
