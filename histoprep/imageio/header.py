"""What an image file says of itself before any pixel is decoded: format, size, mode, metadata."""

from __future__ import annotations

from dataclasses import dataclass

from histoprep.imageio import jpeg, png

LABEL_MAP_TEXT = "histoprep-label-map"


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself before any pixel is decoded.

    `mode` is Pillow's name; `jpeg_quality` and `jpeg_subsampling` are None for other formats;
    `metadata` names fields that may identify somebody; `label_map` is our own note in remapped
    masks; `lossy` is jpeg or webp where pixels were compressed with loss, also inside of a TIFF.
    `palette` are the colours of the colour table as RGB triples, empty without one;
    `is_min_is_white`, `is_signed` and `software` are what a TIFF says of its values and of what
    wrote it. `num_pages` is how many pages the file has, and `page` which one is described and
    decoded, from 0. `structure` is the parsed file, for the decoders here.
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
    num_pages: int = 1
    page: int = 0
    structure: png.PngFile | jpeg.JpegFile | None = None

    @property
    def num_pixels(self) -> int:
        """Return width times height."""
        return self.width_px * self.height_px
