"""An image file without what it says of patients, people and devices: segments are taken out, pixels and colour profile stay as they are.

Nothing is decoded, so no pixel can change. Sources: ITU-T T.81 annex B and JFIF 1.02 (JPEG), the PNG specification, third edition, RFC 9649
(WebP), TIFF 6.0 and BigTIFF.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from histoprep.errors import BrokenFileError
from histoprep.imageio.privacy import SYNTHETIC_MARK

_JPEG_START, _JPEG_END, _SCAN, _COMMENT = b"\xff\xd8", 0xD9, 0xDA, 0xFE
_RESTARTS = range(0xD0, 0xD8)
_APPLICATION = range(0xE0, 0xF0)
_PNG_SIGNATURE_BYTES = 8
# Ancillary chunks that say how pixels are to be shown.
_SHOWING = (
    b"iCCP",
    b"sRGB",
    b"gAMA",
    b"cHRM",
    b"cICP",
    b"mDCV",
    b"cLLI",
    b"sBIT",
    b"tRNS",
    b"bKGD",
    b"pHYs",
    b"hIST",
    b"sPLT",
    b"acTL",
    b"fcTL",
    b"fdAT",
)
_WEBP_CHUNKS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"ANIM", b"ANMF")
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04
# DocumentName to HostComputer, TargetPrinter, XMP, Copyright, IPTC, Photoshop, Exif, GPS, GDAL's and ImageJ's.
_TIFF_TAGS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 337, 700, 33432, 33723, 34377, 34665, 34853, 42112, 50838, 50839)
_TIFF_FOLDERS = (34665, 34853)
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MAX_PAGES = 10_000


def strip_metadata(data: bytes, format_name: str) -> bytes:
    """Return the bytes of an image file without its metadata; never more bytes than before.

    `format_name`: jpeg, png, tiff or webp, as in a header. What decoders need stays: JFIF, Adobe's colour transform, the colour profile, how a
    TIFF is turned. The mark of synthetic images stays, too. Raises BrokenFileError for a file whose structure cannot be followed.
    """
    strip = {"jpeg": _without_segments, "png": _without_chunks, "webp": _without_riff_chunks, "tiff": _without_tags}[format_name]
    try:
        return strip(data)
    except (struct.error, IndexError, ValueError) as error:
        raise BrokenFileError("HP201 corrupt", f"its metadata cannot be taken out: {error}") from error


def _without_segments(data: bytes) -> bytes:
    """Return a JPEG without application segments and comments, and without what follows its end."""
    if not data.startswith(_JPEG_START):
        raise ValueError("it does not begin as a JPEG does")
    kept, at = [_JPEG_START], len(_JPEG_START)
    while True:
        if data[at] != 0xFF:
            raise ValueError(f"no marker at byte {at}")
        while data[at + 1] == 0xFF:
            at += 1
        marker = data[at + 1]
        if marker == _JPEG_END:
            return b"".join([*kept, data[at : at + 2]])
        end = at + 2 + int(struct.unpack_from(">H", data, at + 2)[0])
        if end > len(data) or end < at + 4:
            raise ValueError(f"a segment at byte {at} is longer than the file")
        if marker == _SCAN:
            end = _end_of_scan(data, end)
        kept.append(_segment(marker, data[at:end]))
        at = end


def _segment(marker: int, segment: bytes) -> bytes:
    """Return what is kept of a segment."""
    body = segment[4:]
    if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
        # Its thumbnail is a picture of its own, perhaps of a label.
        return segment[:2] + struct.pack(">H", 16) + body[:12] + b"\0\0"
    colours = (marker == 0xE2 and body.startswith(b"ICC_PROFILE\0")) or (marker == 0xEE and body.startswith(b"Adobe"))
    return segment if colours or (marker not in _APPLICATION and marker != _COMMENT) else b""


def _end_of_scan(data: bytes, start: int) -> int:
    """Return where the marker after coded data is."""
    at = start
    while True:
        at = data.index(b"\xff", at)
        if data[at + 1] != 0 and data[at + 1] not in _RESTARTS and data[at + 1] != 0xFF:
            return at
        at += 1 if data[at + 1] == 0xFF else 2


def _without_chunks(data: bytes) -> bytes:
    """Return a PNG without text, EXIF, time and chunks that nobody knows, and without what follows its end."""
    kept, at = [data[:_PNG_SIGNATURE_BYTES]], _PNG_SIGNATURE_BYTES
    while True:
        (length,) = struct.unpack_from(">I", data, at)
        name, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            raise ValueError(f"a chunk at byte {at} is longer than the file")
        critical = not name[0] & 0x20
        mark = name == b"tEXt" and data[at + 8 : end - 4].split(b"\0")[0].decode("latin-1") in SYNTHETIC_MARK
        if critical or name in _SHOWING or mark:
            kept.append(data[at:end])
        if name == b"IEND":
            return b"".join(kept)
        at = end


def _without_riff_chunks(data: bytes) -> bytes:
    """Return a WebP without EXIF, XMP and chunks that nobody knows."""
    end = 8 + int(struct.unpack_from("<I", data, 4)[0])
    if end > len(data):
        raise ValueError("it is shorter than it says")
    kept, at = [], 12
    while at + 8 <= end:
        name, length = data[at : at + 4], int(struct.unpack_from("<I", data, at + 4)[0])
        after = at + 8 + length + length % 2
        if after > end:
            raise ValueError(f"a chunk at byte {at} is longer than the file")
        chunk = data[at:after]
        if name == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~(_WEBP_EXIF | _WEBP_XMP)]) + chunk[9:]
        if name in _WEBP_CHUNKS:
            kept.append(chunk)
        at = after
    body = b"".join(kept)
    return data[:4] + struct.pack("<I", 4 + len(body)) + data[8:12] + body


def _without_tags(data: bytes) -> bytes:
    """Return a TIFF of the same length without the entries of `_TIFF_TAGS`; what they pointed to is zero."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    (magic,) = struct.unpack_from(order + "H", data, 2)
    if magic not in (42, 43):
        raise ValueError("it does not begin as a TIFF does")
    tiff = _Tiff(bytearray(data), order, big=magic == 43)
    for folder in list(tiff.folders()):
        tiff.strip(folder)
    return bytes(tiff.data)


class _Tiff:
    """The directories of a TIFF, changed in place."""

    def __init__(self, data: bytearray, order: str, *, big: bool) -> None:
        self.data, self.order = data, order
        self.offset = order + ("Q" if big else "I")
        self.count = order + ("Q" if big else "H")
        self.entry_bytes = 20 if big else 12
        self.inline_bytes = 8 if big else 4
        self.first = 8 if big else 4

    def folders(self) -> Iterator[int]:
        """Yield where the directories are."""
        seen: set[int] = set()
        (at,) = struct.unpack_from(self.offset, self.data, self.first)
        while at and at not in seen and len(seen) < _MAX_PAGES:
            seen.add(at)
            yield at
            start, number = self._entries(at)
            (at,) = struct.unpack_from(self.offset, self.data, start + number * self.entry_bytes)

    def _entries(self, folder: int) -> tuple[int, int]:
        """Return where the entries of a directory begin and how many there are."""
        (number,) = struct.unpack_from(self.count, self.data, folder)
        return folder + struct.calcsize(self.count), int(number)

    def strip(self, folder: int) -> None:
        """Take the entries out of a directory; the others, and the offset of the next directory, move up."""
        start, number = self._entries(folder)
        end = start + number * self.entry_bytes + struct.calcsize(self.offset)
        kept = bytearray()
        for index in range(number):
            at = start + index * self.entry_bytes
            (tag,) = struct.unpack_from(self.order + "H", self.data, at)
            if tag in _TIFF_TAGS:
                self._blank(at, tag)
            else:
                kept += self.data[at : at + self.entry_bytes]
        following = self.data[end - struct.calcsize(self.offset) : end]
        struct.pack_into(self.count, self.data, folder, len(kept) // self.entry_bytes)
        self.data[start:end] = (kept + following).ljust(end - start, b"\0")

    def _blank(self, at: int, tag: int) -> None:
        """Write zeros over what an entry points to, directories below it too."""
        kind, number = struct.unpack_from(self.order + ("HQ" if self.entry_bytes == 20 else "HI"), self.data, at + 2)
        size = _TIFF_SIZES.get(kind, 1) * number
        (place,) = struct.unpack_from(self.offset, self.data, at + self.entry_bytes - self.inline_bytes)
        if tag in _TIFF_FOLDERS and 0 < place < len(self.data) - 2:
            start, count = self._entries(place)
            if start + count * self.entry_bytes <= len(self.data):
                for index in range(count):
                    self._blank(start + index * self.entry_bytes, 0)
                self._zero(place, start - place + count * self.entry_bytes)
        elif size > self.inline_bytes:
            self._zero(place, size)

    def _zero(self, start: int, size: int) -> None:
        end = min(start + size, len(self.data))
        self.data[start:end] = bytes(max(0, end - start))
