"""What a stored value of a mask means: the one table of encodings.

Readers differ in what they make of a stored value. tifffile and rasterio return what is stored; Pillow and OpenCV return, by
encoding, what is stored, a grey value of 0-255 or the complement. `ENCODINGS` says for each encoding what the label is, who returns something
else, and what becomes of it. `label_encoding.py` decodes by it, docs/mask-encodings.md shows it, and tests/test_label_encoding.py
holds it against the readers themselves.

Sources: PNG specification, third edition (W3C 2025), sections 11.2.2 and 13.12; TIFF 6.0 (Adobe 1992), PhotometricInterpretation and
SampleFormat; Pillow 13.0, OpenCV 5.0, tifffile 2026.3, rasterio 1.4 (GDAL 3.9) as measured.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """What becomes of masks of one encoding."""

    LABEL = "label"
    REPORTED = "label, reported"
    ASKED = "refused until decided"
    REFUSED = "refused"


class Encoding(NamedTuple):
    """One row of the table: what is stored, what the label is, who returns something else, and what becomes of it."""

    container: str
    bits: str
    photometric: str
    sign: str
    label: str
    readers: str
    outcome: Outcome
    code: str


ENCODINGS = (
    Encoding("PNG, TIFF", "8", "grey", "unsigned", "stored value", "all agree", Outcome.LABEL, ""),
    Encoding("PNG, TIFF", "16", "grey", "unsigned", "stored value", "all agree; reduced to 8 bits, each does something else", Outcome.REPORTED, "HP412 when below 256"),
    Encoding("PNG, TIFF", "1, 2, 4", "grey", "unsigned", "stored value", "Pillow, OpenCV: times 255, 85, 17 (OpenCV reads no TIFF of 2 or 4 bits)", Outcome.REPORTED, "HP402 low-bit-depth"),
    Encoding("PNG, TIFF", "fewer than its siblings", "grey", "unsigned", "--depth stored, 8 or 16", "stored value, or scaled", Outcome.ASKED, "HP414 depth"),
    Encoding("TIFF, NumPy, MATLAB", "32, 64", "grey", "unsigned", "stored value up to 4,294,967,295", "Pillow: refuses 64 bits", Outcome.LABEL, "HP402 wide-integer above"),
    Encoding("TIFF, NumPy, MATLAB", "8, 16, 32, 64", "grey", "signed, none negative", "stored value", "all agree", Outcome.LABEL, ""),
    Encoding("TIFF, NumPy, MATLAB", "8, 16, 32, 64", "grey", "signed, negative", "none: below 0", "Pillow: 8 bits give 255 for -1", Outcome.REFUSED, "HP416"),
    Encoding("TIFF of tifffile", "1-16", "min-is-white", "unsigned", "stored value", "Pillow, OpenCV: complement up to 8 bits", Outcome.REPORTED, "HP413 min-is-white"),
    Encoding("TIFF of others", "1-16", "min-is-white", "unsigned", "--min-is-white stored or inverted", "Pillow, OpenCV: complement up to 8 bits", Outcome.ASKED, "HP413 min-is-white"),
    Encoding("TIFF", "32, or signed", "min-is-white", "any", "-", "Pillow: refuses", Outcome.REFUSED, "HP208"),
    Encoding("PNG, TIFF", "1-8", "palette of greys, each its index", "-", "index", "OpenCV: three channels", Outcome.REPORTED, "HP402 palette"),
    Encoding("PNG, TIFF", "1-8", "palette of other greys", "-", "--palette index or grey", "OpenCV: the grey; Pillow: the index, converted to L the grey; tifffile, rasterio: the index", Outcome.ASKED, "HP413 palette"),
    Encoding("PNG, TIFF, BMP, GIF", "1-8", "palette of colours", "-", "index; with --palette colour 0xRRGGBB", "OpenCV: colours", Outcome.REPORTED, "HP402 palette, palette-colours"),
    Encoding("PNG, TIFF, BMP, GIF", "1-8", "palettes of colours that differ within a folder, or beside grey", "-", "--palette index or colour", "the index, or colours", Outcome.ASKED, "HP414 palette, mode"),
    Encoding("PNG", "1-4", "index beyond its palette", "-", "none: wrapped when written", "OpenCV: black", Outcome.REFUSED, "HP415"),
    Encoding("PNG", "8", "index beyond its palette", "-", "--palette index", "OpenCV: black", Outcome.ASKED, "HP415"),
    Encoding("TIFF", "16", "palette", "-", "-", "Pillow, OpenCV: refuse", Outcome.REFUSED, "HP208 bit-depth"),
    Encoding("TIFF", "3, 5-7, 9-15, 17-31", "any", "any", "-", "OpenCV: 12 bits times 16; Pillow: refuses most", Outcome.REFUSED, "HP208 bit-depth"),
    Encoding("TIFF in LERC, JPEG 2000, JPEG XL, JPEG XR, PNG, JBIG", "any", "any", "any", "-", "Pillow, OpenCV: refuse", Outcome.REFUSED, "HP208 compression"),
    Encoding("TIFF with a transparency mask", "any", "any", "any", "-", "rasterio applies it where told to", Outcome.REFUSED, "HP208 internal-mask"),
    Encoding("TIFF of several pages, stack of arrays", "any", "any", "any", "--page 1, 2, ...", "tifffile: all; others: the first", Outcome.ASKED, "HP208 multi-page"),
    Encoding("TIFF with smaller copies after it", "as the first page", "", "", "first page", "Pillow, OpenCV, rasterio: the first", Outcome.REPORTED, "HP209 unless marked as copies"),
    Encoding("PNG, TIFF, WebP, BMP, JPEG 2000", "8, 16", "RGB, RGBA, grey with alpha; channels equal", "-", "value of the channels", "three or four channels", Outcome.REPORTED, "HP402 grey-in-rgb"),
    Encoding("PNG, TIFF, WebP, BMP, JPEG 2000, NumPy", "8, 16", "RGB, RGBA; colours with flat areas", "-", "0xRRGGBB", "colours", Outcome.REPORTED, "HP402 colours"),
    Encoding("the same", "8, 16", "equal channels beside masks in colour", "-", "--rgb grey or colour", "three or four channels", Outcome.ASKED, "HP414 rgb"),
    Encoding("any", "8, 16", "colours that are blends of others, a photograph", "-", "none", "colours", Outcome.REFUSED, "HP402 smeared-colours, rgb"),
    Encoding("any", "8, 16", "alpha that differs where the colour is the same", "-", "none: colour or alpha", "colours", Outcome.REFUSED, "HP402 alpha"),
    Encoding("any", "8", "grey that changes gradually nearly everywhere", "-", "none: probabilities or a photograph", "grey", Outcome.REFUSED, "HP402 probability"),
    Encoding("TIFF, NumPy, MATLAB", "16, 32, 64", "grey", "floating-point, whole numbers", "the number", "Pillow: only 32 bits", Outcome.REPORTED, "HP402 whole-float"),
    Encoding("TIFF, NumPy, MATLAB", "16, 32, 64", "grey", "floating-point, fractions", "none", "Pillow: only 32 bits", Outcome.REFUSED, "HP402 probability, scaled-float, float"),
    Encoding("NumPy archive, MATLAB", "any", "several arrays", "any", "none: nobody chose", "all", Outcome.REFUSED, "HP208 arrays"),
    Encoding("JPEG 2000 without loss", "8, 16", "reversible, the end left out (OpenCV's default)", "any", "none", "decoded value, with damage", Outcome.REFUSED, "HP208 shortened"),
    Encoding("GIF of several frames", "8", "palette", "-", "none", "the first, or all", Outcome.REFUSED, "HP208 frames"),
    Encoding("PNG, TIFF, JPEG", "any", "any, with an orientation of 2 to 8", "any", "none: turned or not", "Pillow, OpenCV: turn a TIFF; OpenCV to grey: a PNG", Outcome.REFUSED, "HP413 orientation"),
    Encoding("TIFF of several bands", "any", "grey, no alpha", "any", "-", "Pillow, OpenCV: the first; tifffile, rasterio: all", Outcome.REFUSED, "HP208 bands"),
    Encoding("JPEG, WebP and JPEG 2000 with loss", "8", "grey", "-", "decoded value, with damage", "differ by 1", Outcome.REPORTED, "HP403"),
)  # fmt: skip


def as_markdown() -> str:
    """Return the table of encodings as docs/mask-encodings.md shows it."""
    head = "| container | bits | photometric | sign | the label is | readers | outcome | finding |\n|---|---|---|---|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(cell or '-' for cell in row)} |\n" for row in ENCODINGS)
