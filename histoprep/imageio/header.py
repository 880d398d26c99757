"""What an image file says of itself before any pixel is decoded: format, size, mode, metadata."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from histoprep.imageio import jpeg, png
from histoprep.imageio.privacy import exif_facts, identifying_text

LABEL_MAP_TEXT = "histoprep-label-map"
_PNG_MODES = {
    png.GREY: "L",
    png.RGB: "RGB",
    png.PALETTE: "P",
    png.GREY_ALPHA: "LA",
    png.RGBA: "RGBA",
}


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself before any pixel is decoded.

    `mode` is Pillow's name; `jpeg_quality` and `jpeg_subsampling` are None for other formats;
    `metadata` names fields that may identify somebody; `label_map` is our own note in remapped
    masks; `lossy` is jpeg or webp where pixels were compressed with loss, also inside of a TIFF.
    `palette` are the colours of the colour table as RGB triples, empty without one;
    `is_min_is_white`, `is_signed` and `software` are what a TIFF says of its values and of what
    wrote it. `structure` is the parsed file, for the decoders here.
    """

    format: str
    mode: str
    bit_depth: int
    width_px: int
    height_px: int
    metadata: tuple[str, ...] = ()
    orientation: int | None = None
    jpeg_quality: int | None = None
    jpeg_subsampling: str | None = None
    label_map: str | None = None
    lossy: str | None = None
    palette: bytes = b""
    is_min_is_white: bool = False
    is_signed: bool = False
    software: str = ""
    structure: png.PngFile | jpeg.JpegFile | None = None

    @property
    def num_pixels(self) -> int:
        """Return width times height."""
        return self.width_px * self.height_px


def sniff_format(data: bytes) -> str | None:
    """Return jpeg, png, tiff or webp by the first bytes, or None."""
    if data.startswith(png.SIGNATURE):
        return "png"
    if data.startswith(jpeg.SIGNATURE):
        return "jpeg"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def is_lossy_webp(data: bytes) -> bool:
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


def png_header(file: png.PngFile) -> Header:
    """Return the header of a PNG whose chunks were read."""
    mode = _PNG_MODES[file.colour_type]
    if mode == "L":
        mode = {1: "1", 16: "I;16"}.get(file.bit_depth, "L")
    orientation, fields = exif_facts(file.exif) if file.exif else (None, ())
    return Header(
        format="png",
        mode=mode,
        bit_depth=file.bit_depth,
        width_px=file.width_px,
        height_px=file.height_px,
        metadata=(*fields, *identifying_text(file.text)),
        orientation=orientation,
        label_map=file.text.get(LABEL_MAP_TEXT),
        palette=file.palette if file.colour_type == png.PALETTE else b"",
        structure=file,
    )


@lru_cache(maxsize=64)
def jpeg_header(file: jpeg.JpegFile) -> Header:
    """Return the header of a JPEG whose markers were read."""
    orientation, fields = exif_facts(file.exif) if file.exif else (None, ())
    present = {"XMP": file.has_xmp, "IPTC": file.has_iptc, "JPEG comment": file.has_comment}
    extra = tuple(name for name, is_there in present.items() if is_there)
    return Header(
        format="jpeg",
        mode=file.mode,
        bit_depth=file.bit_depth,
        width_px=file.width_px,
        height_px=file.height_px,
        metadata=(*fields, *extra),
        orientation=orientation,
        jpeg_quality=file.quality,
        jpeg_subsampling=file.subsampling,
        lossy="jpeg",
        structure=file,
    )
