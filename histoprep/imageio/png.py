"""The structure of a PNG file: chunks, checksums and scanlines, checked to the last byte.

No pixel is made here. Decoders differ in what damage they let pass, so every chunk's
CRC, the zlib stream and the number of scanline bytes are checked before one is asked.

Source of the layout: Portable Network Graphics specification, third edition, W3C 2025.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from histoprep import rule_ids
from histoprep.errors import BrokenFileError
from histoprep.image_formats import PNG

fast_zlib: Any
try:
    from zlib_ng import zlib_ng as fast_zlib
except ImportError:
    fast_zlib = zlib

SIGNATURE = PNG.signatures[0][0][1]
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_BIT_DEPTHS = {
    GREY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    RGBA: (8, 16),
}
# x start, y start, x step, y step of the seven passes of an interlaced image.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
# Filters of rows; a row with SUB holds differences to the pixel on the left.
NO_FILTER, SUB = 0, 1
_FILTERS = bytes(range(5))
_MAX_TEXT_BYTES = 1 << 20


@dataclass(slots=True)
class PngFile:
    """What the chunks of one PNG say."""

    width_px: int
    height_px: int
    bit_depth: int
    colour_type: int
    interlaced: bool
    palette: bytes = b""
    compressed: list[memoryview] = field(default_factory=list)
    text: dict[str, str] = field(default_factory=dict)
    exif: bytes | None = None

    @property
    def bits_per_pixel(self) -> int:
        """Return the number of bits that one pixel takes in a scanline."""
        return _CHANNELS[self.colour_type] * self.bit_depth

    @property
    def scanline_bytes(self) -> int:
        """Return how many bytes the inflated image must have, filter bytes included."""
        if not self.interlaced:
            return self.height_px * (1 + (self.width_px * self.bits_per_pixel + 7) // 8)
        total = 0
        for x, y, step_x, step_y in _ADAM7:
            columns = max(0, -(-(self.width_px - x) // step_x))
            rows = max(0, -(-(self.height_px - y) // step_y))
            total += rows * (1 + (columns * self.bits_per_pixel + 7) // 8) if columns else 0
        return total


def read_chunks(data: bytes, *, header_only: bool = False) -> PngFile:
    """Return the structure of a PNG; every chunk's CRC is checked on the way.

    With `header_only` the walk ends after IHDR. Raises BrokenFileError: a file that
    ends early is HP201 truncated, anything else HP201 bad-header, bad-checksum or corrupt.
    """
    end = len(data)
    if end < 33 or data[12:16] != b"IHDR":
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("truncated" if end < 33 else "bad-header"),
            f"{end} bytes without a PNG header",
        )
    file: PngFile | None = None
    view = memoryview(data)
    position, previous = 8, b""
    while position + 12 <= end:
        length, kind = struct.unpack_from(">I4s", data, position)
        after = position + 12 + length
        if after > end:
            break
        body = view[position + 8 : after - 4]
        stored = int.from_bytes(view[after - 4 : after], "big")
        if fast_zlib.crc32(view[position + 4 : after - 4]) != stored:
            raise BrokenFileError(
                rule_ids.UNREADABLE_FILE.verdict("bad-checksum"),
                f"chunk {kind.decode('latin-1')!r} at byte {position} fails its CRC",
            )
        if file is None:
            file = _header(bytes(body))
            if header_only:
                return file
        elif kind == b"IEND":
            return _complete(file)
        else:
            _note_chunk(file, kind, previous, body)
        position, previous = after, kind
    raise BrokenFileError(
        rule_ids.UNREADABLE_FILE.verdict("truncated"),
        f"the file ends at byte {end} without its end chunk",
    )


def _header(body: bytes) -> PngFile:
    if len(body) != 13:
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("bad-header"),
            f"header of {len(body)} bytes, expected 13",
        )
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(
        ">IIBBBBB", body
    )
    valid = (
        depth in _BIT_DEPTHS.get(colour, ())
        and not compression
        and not filtering
        and interlace in (0, 1)
    )
    if not valid or not 0 < width < 1 << 31 or not 0 < height < 1 << 31:
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("bad-header"),
            f"impossible header: {width}x{height}, {depth} bits, colour type {colour}",
        )
    return PngFile(width, height, depth, colour, bool(interlace))


def _note_chunk(file: PngFile, kind: bytes, previous: bytes, body: memoryview) -> None:
    if kind == b"IDAT":
        if file.compressed and previous != kind:
            raise BrokenFileError(
                rule_ids.UNREADABLE_FILE.verdict("corrupt"),
                f"chunk {previous.decode('latin-1')!r} stands between the pixels",
            )
        file.compressed.append(body)
    elif kind == b"PLTE":
        file.palette = bytes(body)
    elif kind == b"eXIf":
        file.exif = bytes(body)
    elif kind in (b"tEXt", b"zTXt", b"iTXt"):
        keyword, _, rest = bytes(body[:_MAX_TEXT_BYTES]).partition(b"\0")
        value = rest.decode("latin-1") if kind == b"tEXt" else ""
        file.text[keyword.decode("latin-1")] = value
    elif not kind[0] & 32:
        # A capital first letter says that the image cannot be understood without this chunk.
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("bad-header"),
            f"unknown critical chunk {kind.decode('latin-1')!r}",
        )


def _complete(file: PngFile) -> PngFile:
    if not file.compressed:
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("truncated"), "there is no chunk of pixels"
        )
    if file.colour_type == PALETTE and (
        not file.palette or len(file.palette) % 3 or len(file.palette) > 768
    ):
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("bad-header"),
            f"palette of {len(file.palette)} bytes, expected 3 a colour for 1-256 colours",
        )
    return file


def inflate(file: PngFile) -> bytes:
    """Return the filtered scanlines; there are exactly as many bytes as the header asks for.

    Raises BrokenFileError when the zlib stream is damaged, ends early or holds another amount.
    """
    expected = file.scanline_bytes
    stream = fast_zlib.decompressobj()
    try:
        compressed = file.compressed[0] if len(file.compressed) == 1 else b"".join(file.compressed)
        # One byte more than expected is enough to notice a stream that is too long, and no bomb
        # fits into it.
        lines = stream.decompress(compressed, expected + 1)
    except (zlib.error, fast_zlib.error) as error:
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("corrupt"), f"compressed pixels are damaged: {error}"
        ) from error
    if len(lines) != expected:
        subcode = "truncated" if len(lines) < expected else "corrupt"
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict(subcode),
            f"{len(lines)} bytes of pixels, the header asks for {expected}",
        )
    if not stream.eof:
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("truncated"),
            "the compressed pixels lack their end and checksum",
        )
    if not file.interlaced and lines[:: expected // file.height_px].translate(None, _FILTERS):
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("corrupt"), "a row of pixels names an unknown filter"
        )
    result: bytes = lines
    return result


def holds_bytes(file: PngFile) -> bool:
    """Return whether a pixel is one byte, a grey value or an index into the palette, row by row."""
    return file.colour_type in (GREY, PALETTE) and file.bit_depth == 8 and not file.interlaced


def rows_of_bytes(file: PngFile, lines: bytes) -> tuple[bytes, np.ndarray]:
    """Return the filter of each row, a byte each, and the rows' filtered pixels, uint8 [height,
    width], of an image that `holds_bytes`.
    """
    rows = np.frombuffer(lines, np.uint8).reshape(file.height_px, file.width_px + 1)
    return lines[:: file.width_px + 1], rows[:, 1:]


def bare(file: PngFile, *, as_grey: bool = False) -> bytes:
    """Return the image without anything but header, palette and pixels, so that no decoder can
    stumble over the rest.

    With `as_grey`, palette indices become grey values.
    """
    colour = GREY if as_grey else file.colour_type
    header = struct.pack(
        ">IIBBBBB", file.width_px, file.height_px, file.bit_depth, colour, 0, 0, file.interlaced
    )
    palette = [_chunk(b"PLTE", file.palette)] if colour == PALETTE else []
    pixels = [_chunk(b"IDAT", bytes(block)) for block in file.compressed]
    return b"".join([SIGNATURE, _chunk(b"IHDR", header), *palette, *pixels, _chunk(b"IEND", b"")])


def encode_grey(pixels: np.ndarray, text: dict[str, str] | None = None) -> bytes:
    """Return `pixels`, uint8 [height, width], as a PNG with unfiltered rows and run-length
    matching.

    Label maps are runs, so this is several times faster than a general encoder and
    smaller. zlib and zlib-ng give the same bytes for this strategy. `text` becomes tEXt chunks.
    """
    height, width = pixels.shape
    lines = np.zeros((height, width + 1), np.uint8)
    lines[:, 1:] = pixels
    packer = fast_zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    packed = packer.compress(lines) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, GREY, 0, 0, 0)
    notes = [
        _chunk(b"tEXt", f"{key}\0{value}".encode("latin-1", "replace"))
        for key, value in (text or {}).items()
    ]
    return b"".join(
        [SIGNATURE, _chunk(b"IHDR", header), *notes, _chunk(b"IDAT", packed), _chunk(b"IEND", b"")]
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", fast_zlib.crc32(body, fast_zlib.crc32(kind)))
    )
