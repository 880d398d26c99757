"""An image file without what it says of patients, people and devices: segments are taken out,
pixels and colour profile stay as they are.

Nothing is decoded, so no pixel can change. Sources: ITU-T T.81 annex B and JFIF 1.02 (JPEG), the
PNG specification, third edition, RFC 9649 (WebP), TIFF 6.0 and BigTIFF.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import wraps

from histoprep import rule_ids
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
# What says how pixels are stored and shown, of TIFF 6.0 and libtiff's list; whatever else is in a
# directory is not for decoders.
_TIFF_TAGS = frozenset(
    (
        *range(254, 260), *range(262, 267), 273, 274, *range(277, 285), *range(286, 288),
        *range(290, 294), 296, 297, 301, *range(317, 329), 330, 332,
        334, 336, *range(338, 348), *range(512, 522), *range(529, 533), *range(32995, 32999), 34675,
        *range(34908, 34910), 50674,
    )
)  # fmt: skip
_SUB_FOLDERS = 330
# Offsets of pixels, and of their lengths.
_TIFF_PIXELS = ((273, 279), (324, 325))
# JPEG of the old style keeps tables behind offsets without lengths.
_TIFF_OLD_JPEG = frozenset(range(513, 522))
_TIFF_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_TIFF_INTEGERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_MAX_PAGES = 10_000


Strip = Callable[[bytes], bytes]


def _following(strip: Strip) -> Strip:
    """Return `strip` with its errors as BrokenFileError: the structure cannot be followed."""

    @wraps(strip)
    def strip_or_refuse(data: bytes) -> bytes:
        try:
            return strip(data)
        except (struct.error, IndexError, ValueError) as error:
            raise BrokenFileError(
                rule_ids.UNREADABLE_FILE.verdict("corrupt"),
                f"its metadata cannot be taken out: {error}",
            ) from error

    return strip_or_refuse


@_following
def without_segments(data: bytes) -> bytes:
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
        # Its thumbnail is an image of its own, perhaps of a label.
        return segment[:2] + struct.pack(">H", 16) + body[:12] + b"\0\0"
    colours = (marker == 0xE2 and body.startswith(b"ICC_PROFILE\0")) or (
        marker == 0xEE and body.startswith(b"Adobe")
    )
    return segment if colours or (marker not in _APPLICATION and marker != _COMMENT) else b""


def _end_of_scan(data: bytes, start: int) -> int:
    """Return where the marker after coded data is."""
    at = start
    while True:
        at = data.index(b"\xff", at)
        if data[at + 1] != 0 and data[at + 1] not in _RESTARTS and data[at + 1] != 0xFF:
            return at
        at += 1 if data[at + 1] == 0xFF else 2


@_following
def without_chunks(data: bytes) -> bytes:
    """Return a PNG without text, EXIF, time and chunks that nobody knows, and without what follows
    its end.
    """
    kept, at = [data[:_PNG_SIGNATURE_BYTES]], _PNG_SIGNATURE_BYTES
    while True:
        (length,) = struct.unpack_from(">I", data, at)
        name, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            raise ValueError(f"a chunk at byte {at} is longer than the file")
        critical = not name[0] & 0x20
        mark = (
            name == b"tEXt"
            and data[at + 8 : end - 4].split(b"\0")[0].decode("latin-1") in SYNTHETIC_MARK
        )
        if critical or name in _SHOWING or mark:
            kept.append(data[at:end])
        if name == b"IEND":
            return b"".join(kept)
        at = end


@_following
def without_riff_chunks(data: bytes) -> bytes:
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


@_following
def without_tags(data: bytes) -> bytes:
    """Return a TIFF with the entries of `_TIFF_TAGS` alone; what is neither theirs nor pixels is
    zero, or cut off at the end.
    """
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    (magic,) = struct.unpack_from(order + "H", data, 2)
    if magic not in (42, 43):
        raise ValueError("it does not begin as a TIFF does")
    return _Tiff(bytearray(data), order, big=magic == 43).stripped()


class _Tiff:
    """The directories of a TIFF, changed in place."""

    def __init__(self, data: bytearray, order: str, *, big: bool) -> None:
        self.data, self.order = data, order
        self.offset = order + ("Q" if big else "I")
        self.count = order + ("Q" if big else "H")
        self.entry_bytes = 20 if big else 12
        self.inline_bytes = 8 if big else 4
        self.first = 8 if big else 4
        # Start and end of what decoders read.
        self.used = [(0, self.first + self.inline_bytes)]
        self.has_old_jpeg = False

    def stripped(self) -> bytes:
        """Return the file without what decoders do not need."""
        (first,) = struct.unpack_from(self.offset, self.data, self.first)
        waiting, seen = [first], set[int]()
        while waiting and len(seen) < _MAX_PAGES:
            folder = waiting.pop()
            if folder and folder not in seen:
                seen.add(folder)
                waiting += self._strip(folder)
        if self.has_old_jpeg:
            raise ValueError(
                "JPEG of the old style inside of a TIFF: write the image again, or use"
                " --keep-metadata"
            )
        kept = bytearray(max(end for _, end in self.used))
        for start, end in self.used:
            kept[start:end] = self.data[start:end]
        return bytes(kept)

    def _strip(self, folder: int) -> list[int]:
        """Take entries out of a directory and return where the next ones are; those that stay, and
        the offset of the next, move up.
        """
        (number,) = struct.unpack_from(self.count, self.data, folder)
        start = folder + struct.calcsize(self.count)
        end = start + number * self.entry_bytes
        (following,) = struct.unpack_from(self.offset, self.data, end)
        places = range(start, end, self.entry_bytes)
        kept = {struct.unpack_from(self.order + "H", self.data, at)[0]: at for at in places}
        kept = {tag: at for tag, at in kept.items() if tag in _TIFF_TAGS}
        self.has_old_jpeg |= not _TIFF_OLD_JPEG.isdisjoint(kept)
        values = {
            tag: self._values(kept[tag]) for pair in _TIFF_PIXELS for tag in pair if tag in kept
        }
        for offsets, lengths in _TIFF_PIXELS:
            for place, length in zip(values.get(offsets, ()), values.get(lengths, ()), strict=True):
                self._use(place, length)
        below = self._values(kept[_SUB_FOLDERS]) if _SUB_FOLDERS in kept else ()
        for at in kept.values():
            place, size = self._place(at)
            if size > self.inline_bytes:
                self._use(place, size)
        struct.pack_into(self.count, self.data, folder, len(kept))
        entries = b"".join(
            self.data[at : at + self.entry_bytes] for at in kept.values()
        ) + struct.pack(self.offset, following)
        self.data[start : start + len(entries)] = entries
        self._use(folder, start - folder + len(entries))
        return [following, *below]

    def _place(self, at: int) -> tuple[int, int]:
        """Return where the values of an entry are, and how many bytes they take."""
        kind, number = struct.unpack_from(
            self.order + ("HQ" if self.entry_bytes == 20 else "HI"), self.data, at + 2
        )
        size = _TIFF_SIZES.get(kind, 1) * number
        inline = at + self.entry_bytes - self.inline_bytes
        return (
            (inline, size)
            if size <= self.inline_bytes
            else (struct.unpack_from(self.offset, self.data, inline)[0], size)
        )

    def _values(self, at: int) -> tuple[int, ...]:
        """Return the whole numbers of an entry."""
        place, size = self._place(at)
        (kind,) = struct.unpack_from(self.order + "H", self.data, at + 2)
        width = _TIFF_SIZES.get(kind, 1)
        return struct.unpack_from(
            f"{self.order}{size // width}{_TIFF_INTEGERS[width]}", self.data, place
        )

    def _use(self, start: int, length: int) -> None:
        if start + length > len(self.data):
            raise ValueError(f"what should be at byte {start} lies beyond its end")
        self.used.append((start, start + length))
