"""The structure of a JPEG file: markers, size, sampling, quantisation and the quality they imply.

No coefficient is decoded here. Source of the layout and of the standard luminance
table: ITU-T T.81 (1992), annexes B and K; of the quality scale: the Independent JPEG
Group's reference software.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from functools import cache, lru_cache

import numpy as np

from histoprep import rule_ids
from histoprep.errors import BrokenFileError

END = b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCAN, _TABLES, _COMMENT, _EXIF, _IPTC, _ADOBE = 0xDA, 0xDB, 0xFE, 0xE1, 0xED, 0xEE
# Longer ones hold what differs from file to file, such as EXIF.
_REMEMBERED_BYTES = 4096
# What ends a scan: a marker that is neither a stuffed zero nor a restart.
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_STANDARD_LUMINANCE = np.array(
    [16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37,
    29, 40, 58, 51, 61, 60, 57, 51,
     56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77,
     113, 121, 112, 100, 120, 92, 101, 103, 99]
)  # fmt: skip


@dataclass(slots=True, eq=False)
class JpegFile:
    """What the markers before the first scan of a JPEG say; files with the same markers share one,
    so it is never changed.
    """

    width_px: int = 0
    height_px: int = 0
    bit_depth: int = 0
    # (identifier, horizontal sampling, vertical sampling, quantisation table) of each component.
    components: tuple[tuple[int, int, int, int], ...] = ()
    tables: dict[int, bytes] = field(default_factory=dict)
    adobe_transform: int | None = None
    exif: bytes | None = None
    has_xmp: bool = False
    has_iptc: bool = False
    has_comment: bool = False
    progressive: bool = False
    scan_start: int = 0

    @property
    def mode(self) -> str:
        """Return Pillow's name of the mode: L, RGB or CMYK."""
        return {1: "L", 3: "RGB", 4: "CMYK"}.get(
            len(self.components), f"{len(self.components)} components"
        )

    @property
    def subsampling(self) -> str:
        """Return the chroma subsampling in J:a:b notation, or `grey`."""
        if len(self.components) < 3:
            return "grey"
        _, luma_h, luma_v, _ = self.components[0]
        _, chroma_h, chroma_v, _ = self.components[1]
        if not chroma_h or not chroma_v:
            return "odd"
        names = {
            (1, 1): "4:4:4",
            (2, 1): "4:2:2",
            (2, 2): "4:2:0",
            (1, 2): "4:4:0",
            (4, 1): "4:1:1",
            (4, 2): "4:1:0",
        }
        return names.get((luma_h // chroma_h, luma_v // chroma_v), "odd")

    @property
    def quality(self) -> int | None:
        """Return the quality, 1-100, whose standard luminance table is nearest; None without a
        table.
        """
        table = self.tables.get(self.components[0][3]) if self.components else None
        return _nearest_quality(table) if table and len(table) == 64 else None


def read_markers(data: bytes) -> JpegFile:
    """Return what stands before the first scan, and check that there is an end marker.

    Raises BrokenFileError: HP201 when there is no usable header, HP202 when the end marker is
    missing.
    """
    position, end = 2, len(data)
    while position + 4 <= end:
        if data[position] != 0xFF:
            raise BrokenFileError(
                rule_ids.UNREADABLE_FILE.verdict("bad-header"), f"no marker at byte {position}"
            )
        kind = data[position + 1]
        if kind == 0xFF:
            position += 1
            continue
        if kind == _SCAN:
            before = data[:position]
            return _checked(
                (
                    _remembered_segments(before)
                    if position <= _REMEMBERED_BYTES
                    else _read_segments(before)
                ),
                data,
                position,
            )
        length = data[position + 2] << 8 | data[position + 3]
        if length < 2 or position + 2 + length > end:
            break
        position += 2 + length
    raise BrokenFileError(
        rule_ids.UNREADABLE_FILE.verdict("truncated"),
        f"the file ends at byte {end} before its first scan",
    )


def _read_segments(before: bytes) -> JpegFile:
    """Return what the segments before the first scan say; their markers and lengths were found to
    be sound.
    """
    file, position = JpegFile(scan_start=len(before)), 2
    while position < len(before):
        if before[position + 1] == 0xFF:
            position += 1
            continue
        length = before[position + 2] << 8 | before[position + 3]
        _note_segment(file, before[position + 1], before[position + 4 : position + 2 + length])
        position += 2 + length
    return file


# Tiles that one encoder wrote differ after this point only.
_remembered_segments = lru_cache(maxsize=64)(_read_segments)


def _checked(file: JpegFile, data: bytes, position: int) -> JpegFile:
    if not file.width_px or not file.height_px:
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("bad-header"),
            f"declared size {file.width_px}x{file.height_px}",
        )
    if data.rfind(END, position) < 0:
        raise BrokenFileError(
            rule_ids.TRUNCATED_JPEG.verdict("no-end-marker"),
            f"the file ends at byte {len(data)} in the middle of its pixels",
        )
    if file.progressive or data[position + 4 : position + 5] < bytes([len(file.components)]):
        _check_scans(file, data, position)
    return file


def _check_scans(file: JpegFile, data: bytes, position: int) -> None:
    """Raise BrokenFileError unless the scans bring all 64 coefficients of all components to their
    last bit.

    A decoder shows an image of several scans, blurred, without a word when the later ones are
    missing.
    """
    missing = {
        (component[0], coefficient): 16
        for component in file.components
        for coefficient in range(64)
    }
    end = len(data)
    while position + 4 <= end:
        kind = data[position + 1]
        after = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if kind == END[1]:
            break
        if kind == _SCAN and after <= end:
            count = data[position + 4]
            first, last, bits = data[after - 3 : after]
            for component in data[position + 5 : position + 5 + 2 * count : 2]:
                missing.update(
                    {
                        (component, coefficient): bits & 15
                        for coefficient in range(first, min(last, 63) + 1)
                    }
                )
        found = _AFTER_SCAN.search(data, after)
        if found is None:
            break
        position = found.start()
    if any(missing.values()):
        raise BrokenFileError(
            rule_ids.TRUNCATED_JPEG.verdict("missing-data"), "the file ends before its last scan"
        )


def _note_segment(file: JpegFile, kind: int, body: bytes) -> None:
    if kind in _FRAMES and len(body) >= 6:
        file.bit_depth, file.height_px, file.width_px, count = struct.unpack_from(">BHHB", body)
        parts = [body[6 + 3 * i : 9 + 3 * i] for i in range(count)]
        file.progressive = kind in _PROGRESSIVE
        file.components = tuple(
            (part[0], part[1] >> 4, part[1] & 15, part[2]) for part in parts if len(part) == 3
        )
    elif kind == _TABLES:
        _note_tables(file, body)
    elif kind == _EXIF and body.startswith(b"Exif\0\0"):
        file.exif = body[6:]
    elif kind == _EXIF and body.startswith(b"http://ns.adobe.com/x"):
        file.has_xmp = True
    elif kind == _IPTC and b"8BIM\x04\x04" in body:
        file.has_iptc = True
    elif kind == _COMMENT and body.strip(b"\0 "):
        file.has_comment = True
    elif kind == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
        file.adobe_transform = body[11]


def _note_tables(file: JpegFile, body: bytes) -> None:
    position = 0
    while position < len(body):
        wide, index = body[position] >> 4, body[position] & 15
        size = 128 if wide else 64
        entries = body[position + 1 : position + 1 + size]
        # Only a table with an entry above 255 needs 16 bits; none of the standard ones does.
        file.tables[index] = entries if not wide else entries[1::2]
        position += 1 + size


@cache
def _standard_tables() -> np.ndarray:
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    result: np.ndarray = np.clip((_STANDARD_LUMINANCE * scale + 50) // 100, 1, 255)
    return result


@lru_cache(maxsize=256)
def _nearest_quality(table: bytes) -> int:
    distance = np.abs(_standard_tables() - np.frombuffer(table, np.uint8)).sum(axis=1)
    return int(np.argmin(distance)) + 1
