"""The decoders, one file for each built-in image format, under its name in `image_formats.py`.

Each format has one strict path:

- JPEG: markers, end marker and completeness of the scans checked by `jpeg`, decoded by simplejpeg
  in strict mode, which refuses coefficients that do not fill the image. Chroma subsampling
  that simplejpeg does not know (4:1:0, factors of 3) is left to Pillow, which is less strict;
- PNG: CRCs, zlib stream, length and filters checked by `png`, then any decoder gives the same;
- TIFF, WebP, BMP, GIF, JPEG 2000: Pillow, with its warnings as errors; what a TIFF says of its
  pages and values is read by `tiff` before, and values that Pillow reduces are decoded by OpenCV;
- arrays of NumPy and MATLAB, for masks alone: header first, and nothing in them is executed.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from histoprep import image_formats
from histoprep.image_formats import ImageFormat
from histoprep.imageio.decoders.base import Decoder

_added: dict[str, Decoder] = {}


def register_format(added: ImageFormat, decoder: Decoder) -> None:
    """Add an image format of another package and what decodes it.

    Raises:
        UsageError: Its name or one of its suffixes is taken, or a suffix is no plain word.
    """
    image_formats.register(added)
    _added[added.name] = decoder


def decoder_of(format_name: str) -> Decoder:
    """Return the decoder of a format; raises KeyError for a name that no format has."""
    image_format = image_formats.format_called(format_name)
    return _added.get(image_format.name) or _built_in(image_format.name)


@cache
def _built_in(name: str) -> Decoder:
    decoder: Decoder = import_module(f"{__name__}.{name}").DECODER
    return decoder
