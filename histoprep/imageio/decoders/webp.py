"""WebP, by Pillow."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence

from histoprep.image_formats import WEBP
from histoprep.imageio.decoders.base import Sample
from histoprep.imageio.decoders.pillow import PillowDecoder, pillow_open
from histoprep.imageio.decoders.png import CORNERS
from histoprep.imageio.header import Header
from histoprep.imageio.metadata import without_riff_chunks
from histoprep.imageio.privacy import exif_facts

# `CORNERS`, lossless.
_SAMPLE = "UklGRjYAAABXRUJQVlA4TCkAAAAvAUAAAB8gECCi/CvyYEMgQPTYUOqUkIB4Ypb/zQzzH39ISYF1iOh/BAA="


class WebpDecoder(PillowDecoder):
    """Lossless or lossy, which the chunks tell."""

    def read_header(self, data: bytes) -> Header:
        """Return the header."""
        with pillow_open(data, WEBP.name) as image:
            orientation, fields = exif_facts(image.info.get("exif") or b"")
            return Header(
                WEBP.name,
                image.mode,
                8,
                image.width,
                image.height,
                metadata=(*fields, *(("XMP",) if image.info.get("xmp") else ())),
                orientation=orientation,
                lossy=WEBP.name if _is_lossy(data) else None,
            )

    def strip_metadata(self, data: bytes) -> bytes:
        """Return the file without the chunks that no decoder needs."""
        return without_riff_chunks(data)

    def samples(self) -> Sequence[Sample]:
        """Return four colours, lossless."""
        return [Sample(b64decode(_SAMPLE), CORNERS)]


def _is_lossy(data: bytes) -> bool:
    """Return whether the pixels of a WebP file, or the first frame of a moving one, were compressed
    with loss.
    """
    position = 12
    while position + 8 <= len(data):
        kind, size = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        # A frame is a header of 16 bytes and chunks of its own; others are padded to an even size.
        position += 8 + (16 if kind == b"ANMF" else size + size % 2)
    return False


DECODER = WebpDecoder()
