"""TIFF, by Pillow, after `imageio/tiff.py` has refused what readers do not read alike."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence

from PIL import Image

from histoprep.errors import BrokenFileError
from histoprep.image_formats import JPEG, TIFF
from histoprep.imageio import tiff
from histoprep.imageio.decoders.base import Sample
from histoprep.imageio.decoders.pillow import PillowDecoder, pillow_open
from histoprep.imageio.decoders.png import CORNERS
from histoprep.imageio.header import Header
from histoprep.imageio.label_encoding import GREY_MODES
from histoprep.imageio.metadata import without_tags
from histoprep.imageio.privacy import tiff_fields
from histoprep.rule_ids import UNREADABLE_FILE, UNSUPPORTED_ENCODING

_COMPRESSION, _ORIENTATION = 259, 274
# Old and new style of JPEG inside of a TIFF.
_JPEG_COMPRESSIONS = (6, 7)
# `CORNERS`, with LZW.
_SAMPLE = (
    "SUkqABgAAACAMgPDwFNwtCgZOZ/wuAgACgAAAQMAAQAAAAIAAAABAQMAAQAAAAIAAAACAQMAAwAAAJYAAAADAQMAAQAAAAUAAAAGAQMAAQAAAAIAAAARAQQAAQAAAAgA"
    "AAAVAQMAAQAAAAMAAAAWAQMAAQAAAAIAAAAXAQQAAQAAAA8AAAAcAQMAAQAAAAEAAAAAAAAACAAIAAgA"
)


class TiffDecoder(PillowDecoder):
    """One page of values that all readers return alike."""

    def read_header(self, data: bytes) -> Header:
        """Return the header; several pages and what readers refuse or return differently are
        refused.
        """
        pages = tiff.read_pages(data)
        tiff.refuse_unread(pages)
        try:
            with pillow_open(data, TIFF.name) as image:
                return _header_of(image, pages)
        except BrokenFileError as error:
            if error.verdict == UNREADABLE_FILE.verdict("bad-header") and tiff.is_plausible(pages):
                raise BrokenFileError(
                    UNSUPPORTED_ENCODING.verdict("values"),
                    f"{pages[0].describe()}, which most readers refuse",
                ) from error
            raise

    def strip_metadata(self, data: bytes) -> bytes:
        """Return the file without the tags that no decoder needs."""
        return without_tags(data)

    def samples(self) -> Sequence[Sample]:
        """Return four colours."""
        return [Sample(b64decode(_SAMPLE), CORNERS)]


def _header_of(image: Image.Image, pages: Sequence[tiff.Page]) -> Header:
    tags = image.tag_v2  # type: ignore[attr-defined]
    orientation = tags.get(_ORIENTATION)
    bits = {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)
    page = pages[0] if pages else None
    is_grey = image.mode in GREY_MODES
    return Header(
        TIFF.name,
        image.mode,
        page.bits if page and (is_grey or image.mode == "P") else bits,
        image.width,
        image.height,
        metadata=tiff_fields(tags),
        orientation=orientation if orientation in range(1, 9) else None,
        lossy=JPEG.name if tags.get(_COMPRESSION) in _JPEG_COMPRESSIONS else None,
        palette=page.palette if page and image.mode == "P" else b"",
        is_min_is_white=bool(page and is_grey and page.is_min_is_white),
        is_signed=bool(page and is_grey and page.is_signed),
        software=page.software if page else "",
    )


DECODER = TiffDecoder()
