"""JPEG 2000, by Pillow (OpenJPEG), after the codestream was found whole.

Whether labels survive stands in the codestream in part only: the irreversible wavelet always loses,
and the reversible one does where the end of the coefficients was left out to save space, as OpenCV
does unless told otherwise. Coding the decoded values again without loss tells: it gives the same
bytes only where nothing was left out, and more bytes otherwise.

Source: ISO/IEC 15444-1, annex A (codestream) and I (boxes).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from histoprep.errors import BrokenFileError
from histoprep.image_formats import JPEG2000
from histoprep.imageio.decoders.base import Sample
from histoprep.imageio.decoders.pillow import PillowDecoder, encoded, indexed_header, pillow_open
from histoprep.imageio.decoders.png import CORNERS
from histoprep.imageio.header import Header
from histoprep.rule_ids import UNREADABLE_FILE, UNSUPPORTED_ENCODING

_SIZE, _CODING, _COMPONENT, _TILE_PART = 0xFF51, 0xFF52, 0xFF53, 0xFF90
_DATA, _END = 0xFF93, 0xFFD9
_PROGRESSIONS = ("LRCP", "RLCP", "RPCL", "PCRL", "CPRL")
_REVERSIBLE = 1
_TELLING_BOXES = {b"xml ": "JPEG 2000 XML", b"uuid": "JPEG 2000 UUID box"}


@dataclass(frozen=True, slots=True)
class Codestream:
    """What the main header of a codestream says, and its coefficients.

    `depths` are the bits of each component, negative where it is signed.
    """

    depths: tuple[int, ...]
    tile_px: tuple[int, int]
    is_reversible: bool
    num_levels: int
    block_px: tuple[int, int]
    progression: str
    has_colour_transform: bool
    is_plain: bool
    """Whether it has one layer, and neither precincts nor marks nor another style of blocks."""
    coded: bytes
    """The parts of its tiles without their headers."""

    @property
    def num_bytes(self) -> int:
        """Return how many bytes of coefficients it has."""
        return len(self.coded)


class Jpeg2000Decoder(PillowDecoder):
    """Grey or colours of 8 or 16 bits."""

    def read_header(self, data: bytes) -> Header:
        """Return the header; raises BrokenFileError for a codestream that is cut off."""
        stream = read_codestream(data)
        depth = stream.depths[0]
        if len(set(stream.depths)) > 1 or depth not in (8, 16):
            raise BrokenFileError(
                UNSUPPORTED_ENCODING.verdict("bit-depth"),
                f"components of {', '.join(map(_depth_words, dict.fromkeys(stream.depths)))}, which"
                " readers scale",
            )
        with pillow_open(data, JPEG2000.name) as image:
            header = indexed_header(image, JPEG2000.name)
        names = (kind for kind, _, _ in _boxes(data))
        return Header(
            header.format,
            header.mode,
            depth,
            header.width_px,
            header.height_px,
            metadata=tuple(dict.fromkeys(_TELLING_BOXES[k] for k in names if k in _TELLING_BOXES)),
            lossy=None if stream.is_reversible else JPEG2000.name,
            palette=header.palette,
        )

    def decode_stored(self, data: bytes, header: Header) -> np.ndarray:
        """Return grey [height, width], or colours of 8 bits [height, width, channels]."""
        if header.bit_depth == 16 and header.mode not in ("I;16", "I"):
            raise BrokenFileError(
                UNSUPPORTED_ENCODING.verdict("values"), "colours of 16 bits, which Pillow reduces"
            )
        return super().decode_stored(data, header)

    def find_loss(self, data: bytes, header: Header, stored: np.ndarray) -> str | None:
        """Return jpeg2000 where values were changed by the irreversible wavelet.

        Raises:
            BrokenFileError: The end of the coefficients of the reversible one was left out.
        """
        if header.lossy:
            return JPEG2000.name
        stream = read_codestream(data)
        whole = _lossless(stored, stream)
        # Layers and precincts take bytes of their own, and where they end is not known.
        if stream.coded != whole.coded if stream.is_plain else stream.num_bytes < whole.num_bytes:
            raise BrokenFileError(
                UNSUPPORTED_ENCODING.verdict("shortened"),
                f"the file has {stream.num_bytes:,} bytes of coefficients, and these values without"
                f" loss take {whole.num_bytes:,} others: values near boundaries are not those that"
                " were saved",
            )
        return None

    def strip_metadata(self, data: bytes) -> bytes:
        """Return the file without boxes of XML and of other programs."""
        return b"".join(
            data[start:end] for kind, start, end in _boxes(data) if kind not in _TELLING_BOXES
        )

    def samples(self) -> Sequence[Sample]:
        """Return four colours, and a mask of 16-bit labels."""
        labels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
        return [
            Sample(encoded(CORNERS, "JPEG2000"), CORNERS),
            Sample(encoded(labels, "JPEG2000"), labels),
        ]


def read_codestream(data: bytes) -> Codestream:
    """Return what the codestream of a file says; raises BrokenFileError when it is damaged or cut
    off.
    """
    try:
        start, end = next((begin, stop) for kind, begin, stop in _contents(data) if kind == b"jp2c")
        return _parsed(data, start, end)
    except (struct.error, StopIteration, IndexError) as error:
        raise BrokenFileError(
            UNREADABLE_FILE.verdict("truncated"), "the JPEG 2000 codestream is not whole"
        ) from error


def _parsed(data: bytes, start: int, end: int) -> Codestream:
    size: dict[str, Any] = {}
    coding: tuple[int, ...] = ()
    reversible: list[bool] = []
    position = start + 2
    while True:
        marker, length = struct.unpack_from(">HH", data, position)
        body = position + 4
        if marker == _TILE_PART:
            break
        if marker == _SIZE:
            tile = struct.unpack_from(">II", data, body + 18)
            (count,) = struct.unpack_from(">H", data, body + 34)
            depths = (data[body + 36 + 3 * index] for index in range(count))
            size = {
                "tile_px": tile,
                "depths": tuple(-(each & 127) - 1 if each & 128 else each + 1 for each in depths),
            }
        elif marker == _CODING:
            coding = struct.unpack_from(">BBHBBBBBB", data, body)
            reversible.append(coding[8] == _REVERSIBLE)
        elif marker == _COMPONENT:
            place = body + (1 if len(size.get("depths", ())) < 257 else 2) + 1
            reversible.append(data[place + 4] == _REVERSIBLE)
        position += 2 + length
    return Codestream(
        coded=_coded(data, position, end),
        is_plain=coding[0] == 0 and coding[2] == 1 and coding[7] == 0,
        is_reversible=all(reversible),
        num_levels=coding[4],
        block_px=(1 << coding[5] + 2, 1 << coding[6] + 2),
        progression=_PROGRESSIONS[coding[1]],
        has_colour_transform=bool(coding[3]),
        **size,
    )


def _coded(data: bytes, position: int, end: int) -> bytes:
    """Return the tile parts without their headers; raises struct.error unless they fill the
    codestream up to its end marker.
    """
    parts = []
    while position + 2 < end:
        marker, _, _, length = struct.unpack_from(">HHHI", data, position)
        # Length 0: up to the end.
        after = position + length if length else end - 2
        if marker != _TILE_PART or after + 2 > end:
            raise struct.error
        begin = position
        while (marker := struct.unpack_from(">H", data, begin)[0]) != _DATA:
            begin += 2 + struct.unpack_from(">H", data, begin + 2)[0]
            if begin >= after:
                raise struct.error
        parts.append(data[begin:after])
        position = after
    if struct.unpack_from(">H", data, position)[0] != _END:
        raise struct.error
    return b"".join(parts)


def _contents(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the contents of each box; of a bare codestream, itself."""
    if data[:2] == b"\xff\x4f":
        yield b"jp2c", 0, len(data)
        return
    for kind, start, end in _boxes(data):
        yield kind, start + (16 if data[start : start + 4] == b"\0\0\0\1" else 8), end


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each box at the top; raises struct.error for one that is cut
    off.
    """
    if data[:2] == b"\xff\x4f":
        yield b"", 0, len(data)
        return
    position = 0
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, position + 8)
        end = position + length if length else len(data)
        if end > len(data) or end <= position:
            raise struct.error
        yield kind, position, end
        position = end


def _lossless(stored: np.ndarray, stream: Codestream) -> Codestream:
    """Return a codestream of these values without loss, coded alike."""
    height, width = stored.shape[:2]
    options: dict[str, Any] = {
        "no_jp2": True,
        "num_resolutions": stream.num_levels + 1,
        "codeblock_size": stream.block_px,
        "progression": stream.progression,
    }
    if stored.ndim == 3:
        options["mct"] = int(stream.has_colour_transform)
    if stream.tile_px[0] < width or stream.tile_px[1] < height:
        options["tile_size"] = stream.tile_px
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(buffer, "JPEG2000", **options)
    return read_codestream(buffer.getvalue())


def _depth_words(depth: int) -> str:
    return f"{abs(depth)} bits, signed" if depth < 0 else f"{depth} bits"


DECODER = Jpeg2000Decoder()
