"""The directories of a TIFF file, read without its pixels: which pages there are, and what each
says of its values.

Decoders name what they do not know in many ways ("cannot identify", "KeyError"), and some read what
they do not know. So pages, compression and depth are looked at here first, and what no common
reader reads alike is refused by its own name.

Sources: TIFF 6.0 (Adobe 1992), TIFF Technical Note 1 (subfile types), BigTIFF; numbers of later
compressions from libtiff's tiff.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from histoprep import rule_ids
from histoprep.errors import BrokenFileError

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_DESCRIPTION, _ORIENTATION, _PLANES = 270, 274, 284
_SAMPLES, _SOFTWARE, _COLOUR_MAP, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _DEPTH = (
    277,
    305,
    320,
    338,
    339,
    32997,
)
_REDUCED, _TRANSPARENCY = 1, 4
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB = 0, 1, 2
# A page of a pyramid has at most this share of the width of the one above it.
_COPY_SHARE = 0.75
_ALPHAS = (1, 2)
_MAX_BANDS = 16
_PHOTOMETRICS = {
    0: "min-is-white",
    1: "min-is-black",
    2: "RGB",
    3: "palette",
    4: "transparency",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELab",
}
_KINDS = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "undefined"}
_DEPTHS = (1, 2, 4, 8, 16, 32, 64)
# Compressions of whole files that Pillow does not read; what it reads is left to it.
_UNREAD = {
    34887: "LERC", 50002: "JPEG XL", 52546: "JPEG XL", 34712: "JPEG 2000", 33003: "JPEG 2000",
    33004: "JPEG 2000", 33005: "JPEG 2000",
    34892: "lossy JPEG of DNG", 34933: "PNG", 34934: "JPEG XR", 22610: "JPEG XR", 34661: "JBIG",
    34715: "JBIG2",
}  # fmt: skip
_SIZES = {1: ("B", 1), 2: ("s", 1), 3: ("H", 2), 4: ("I", 4), 16: ("Q", 8)}
_MAX_PAGES = 10_000
_MAX_TAGS = 4096
_MAX_VALUES = 1 << 20


@dataclass(frozen=True, slots=True)
class Page:
    """One directory: the numbers of each tag that has whole numbers, and the text of those that
    have text.
    """

    numbers: dict[int, tuple[int, ...]]
    texts: dict[int, str]

    def number(self, tag: int, default: int) -> int:
        """Return the first number of a tag."""
        return self.numbers.get(tag, (default,))[0]

    @property
    def is_reduced(self) -> bool:
        """Return whether this is a smaller copy of another page."""
        return bool(self.number(_SUBFILE, 0) & _REDUCED)

    @property
    def is_transparency(self) -> bool:
        """Return whether this says which pixels of another page are valid."""
        return bool(self.number(_SUBFILE, 0) & _TRANSPARENCY)

    @property
    def width_px(self) -> int:
        """Return the width."""
        return self.number(_WIDTH, 0)

    @property
    def height_px(self) -> int:
        """Return the height."""
        return self.number(_HEIGHT, 0)

    @property
    def orientation(self) -> int:
        """Return how the image is to be turned, 1 for not at all."""
        return self.number(_ORIENTATION, 1)

    @property
    def bits(self) -> int:
        """Return the bits of a sample."""
        return self.number(_BITS, 1)

    @property
    def is_float(self) -> bool:
        """Return whether samples are floating-point numbers."""
        return self.number(_SAMPLE_FORMAT, 1) == 3

    @property
    def is_grey(self) -> bool:
        """Return whether a pixel is one grey value, of which 0 is black."""
        return self.number(_PHOTOMETRIC, -1) == _MIN_IS_BLACK and self.number(_SAMPLES, 1) == 1

    @property
    def is_deep_colour(self) -> bool:
        """Return whether a pixel is RGB, perhaps with alpha, of 16 bits a channel, stored pixel by
        pixel.
        """
        return (
            self.number(_PHOTOMETRIC, -1) == _RGB
            and self.bits == 16
            and self.number(_SAMPLES, 1) in (3, 4)
            and self.number(_SAMPLE_FORMAT, 1) == 1
        )

    @property
    def is_interleaved(self) -> bool:
        """Return whether the channels of a pixel lie beside each other."""
        return self.number(_PLANES, 1) == 1

    def is_copy_of(self, other: Page) -> bool:
        """Return whether this is, by its size and type, a smaller copy of another page."""
        if not 0 < self.width_px <= other.width_px * _COPY_SHARE:
            return False
        factor = other.width_px / self.width_px
        same = (_PHOTOMETRIC, _BITS, _SAMPLES, _SAMPLE_FORMAT)
        return abs(self.height_px - other.height_px / factor) <= 1 + self.height_px / 100 and all(
            self.numbers.get(tag) == other.numbers.get(tag) for tag in same
        )

    @property
    def is_min_is_white(self) -> bool:
        """Return whether the value 0 is to be shown white."""
        return self.number(_PHOTOMETRIC, 1) == _MIN_IS_WHITE

    @property
    def is_signed(self) -> bool:
        """Return whether samples are signed integers."""
        return self.number(_SAMPLE_FORMAT, 1) == 2

    @property
    def software(self) -> str:
        """Return what wrote the file, as it says."""
        return self.texts.get(_SOFTWARE, "")

    @property
    def palette(self) -> bytes:
        """Return the colours of the colour table as 8-bit RGB triples; empty without one."""
        entries = self.numbers.get(_COLOUR_MAP, ())
        # Old writers stored 8 bits in the 16; libtiff knows them by this, too.
        shift = 8 if any(entry > 255 for entry in entries) else 0
        third = len(entries) // 3
        return bytes(
            entries[channel * third + index] >> shift
            for index in range(third)
            for channel in range(3)
        )

    def describe(self) -> str:
        """Return what kind of values this page holds, in words."""
        kind = _KINDS.get(self.number(_SAMPLE_FORMAT, 1), "undefined")
        samples = self.number(_SAMPLES, 1)
        channels = f", {samples} samples a pixel" if samples != 1 else ""
        return (
            f"{self.bits}-bit"
            f" {kind} {_PHOTOMETRICS.get(self.number(_PHOTOMETRIC, 1), 'values')}{channels}"
        )


def read_pages(data: bytes) -> list[Page]:
    """Return the directories that can be read, in order; damage ends the walk quietly, since
    decoders say more of it.
    """
    pages: list[Page] = []
    for offset, layout in _offsets(data):
        page = _page(data, offset, layout)
        if page is None:
            break
        pages.append(page)
    return pages


@dataclass(frozen=True, slots=True)
class _Layout:
    """Byte order and sizes: of a classic TIFF or a BigTIFF."""

    order: str
    count: str
    offset: str
    num_inline: int

    @property
    def entry_bytes(self) -> int:
        return 4 + struct.calcsize("=" + self.offset) + self.num_inline


def _offsets(data: bytes) -> Iterator[tuple[int, _Layout]]:
    """Yield where each directory starts; raises nothing, and follows no loop."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    layout = _Layout(order, "Q", "Q", 8) if is_big else _Layout(order, "H", "I", 4)
    position, seen = 8 if is_big else 4, set[int]()
    while len(seen) < _MAX_PAGES:
        offset = _unpacked(data, position, order + layout.offset)
        if not offset or offset in seen:
            return
        seen.add(offset)
        yield offset, layout
        count = _unpacked(data, offset, order + layout.count) or 0
        position = offset + struct.calcsize("=" + layout.count) + count * layout.entry_bytes


def _unpacked(data: bytes, position: int, code: str) -> int | None:
    try:
        return int(struct.unpack_from(code, data, position)[0])
    except struct.error:
        return None


def _page(data: bytes, offset: int, layout: _Layout) -> Page | None:
    count = _unpacked(data, offset, layout.order + layout.count)
    if count is None or not 0 < count <= _MAX_TAGS:
        return None
    numbers: dict[int, tuple[int, ...]] = {}
    texts: dict[int, str] = {}
    start = offset + struct.calcsize("=" + layout.count)
    for index in range(count):
        entry = start + index * layout.entry_bytes
        try:
            tag, kind, length = struct.unpack_from(f"{layout.order}HH{layout.offset}", data, entry)
            values = _values(
                data, entry + layout.entry_bytes - layout.num_inline, kind, length, layout
            )
        except struct.error:
            return None
        if isinstance(values, str):
            texts[tag] = values
        elif values:
            numbers[tag] = values
    return Page(numbers, texts)


def _values(
    data: bytes, inline: int, kind: int, length: int, layout: _Layout
) -> tuple[int, ...] | str:
    """Return the numbers or the text of an entry; raises struct.error where they lie beyond the
    file.
    """
    if kind not in _SIZES or not 0 < length <= _MAX_VALUES:
        return ()
    code, size = _SIZES[kind]
    place = (
        inline
        if length * size <= layout.num_inline
        else struct.unpack_from(layout.order + layout.offset, data, inline)[0]
    )
    values = struct.unpack_from(f"{layout.order}{length}{code}", data, place)
    return values[0].split(b"\0")[0].decode("latin-1") if code == "s" else values


def choose_page(pages: Sequence[Page], wanted: int | None = None) -> tuple[int, int]:
    """Return the index of the page that is read, and how many pages there are besides those that
    are marked as reduced copies or as transparency.

    Without a wish that is the only page, or the first of a pyramid: one whose further pages are
    smaller copies of the first.

    Args:
        pages: The directories of the file, one at least.
        wanted: The page that somebody chose, from 1; it counts where there are several.

    Raises:
        BrokenFileError: HP208; there are several pages and nobody chose, or fewer than chosen.
    """
    own = [page for page in pages if not page.is_reduced and not page.is_transparency]
    first = pages[0]
    if wanted is not None and len(pages) > 1:
        if wanted > len(pages):
            raise multi_page(f"{len(pages)} pages, so that there is no page {wanted}")
        return wanted - 1, len(pages)
    if first.is_reduced and own:
        raise multi_page(
            "the first page is a reduced copy of a later one, which readers show instead of it"
        )
    if any(page.is_transparency and not page.is_reduced for page in pages):
        detail = (
            "a transparency mask (subfile type 4, as GDAL writes it) says which pixels are valid;"
            " most readers ignore it"
        )
        raise BrokenFileError(rule_ids.UNSUPPORTED_ENCODING.verdict("internal-mask"), detail)
    if len(own) > 1 and not all(page.is_copy_of(first) for page in own[1:]):
        sizes = {(page.width_px, page.height_px) for page in own}
        kind = f" of {first.width_px}x{first.height_px} pixels" if len(sizes) == 1 else ""
        raise multi_page(f"{len(own)} pages{kind}, of which readers show different ones")
    images = first.texts.get(_DESCRIPTION, "").partition("images=")
    if images[0].startswith("ImageJ=") and images[2].split("\n")[0].strip() not in ("", "1"):
        raise multi_page(
            f"an ImageJ stack of {images[2].split()[0]} pages, of which readers show different ones"
        )
    if first.number(_DEPTH, 1) > 1:
        raise multi_page(
            f"a volume of {first.number(_DEPTH, 1)} layers, of which readers show different ones"
        )
    return 0, len(own)


def multi_page(detail: str) -> BrokenFileError:
    """Return the error of a file with several pages of which nobody chose one."""
    return BrokenFileError(rule_ids.UNSUPPORTED_ENCODING.verdict("multi-page"), detail)


def refuse_unread(first: Page) -> None:
    """Raise BrokenFileError (HP208) for a page that is whole, but not read alike or at all."""
    compression = first.number(_COMPRESSION, 1)
    if compression in _UNREAD:
        raise BrokenFileError(
            rule_ids.UNSUPPORTED_ENCODING.verdict("compression"),
            f"{_UNREAD[compression]} compression (TIFF number {compression})",
        )
    depths = set(first.numbers.get(_BITS, (1,)))
    # Depths that differ within a pixel are damage more often than an image.
    if len(depths) == 1 and first.bits not in _DEPTHS and first.bits < max(_DEPTHS):
        raise BrokenFileError(
            rule_ids.UNSUPPORTED_ENCODING.verdict("bit-depth"),
            f"{first.bits} bits a sample, which readers scale, pack or refuse",
        )
    if first.number(_PHOTOMETRIC, 1) == 3 and first.bits > 8:
        raise BrokenFileError(
            rule_ids.UNSUPPORTED_ENCODING.verdict("bit-depth"),
            f"a colour table for {first.bits} bits, which most readers refuse",
        )
    is_grey = first.number(_PHOTOMETRIC, -1) in (_MIN_IS_WHITE, _MIN_IS_BLACK)
    if (
        is_grey
        and 1 < first.number(_SAMPLES, 1) <= _MAX_BANDS
        and first.number(_EXTRA_SAMPLES, 0) not in _ALPHAS
    ):
        raise BrokenFileError(
            rule_ids.UNSUPPORTED_ENCODING.verdict("bands"),
            f"{first.number(_SAMPLES, 1)} values a pixel, of which some readers return the first"
            " alone",
        )


def as_unsigned(data: bytes) -> bytes:
    """Return a TIFF whose directories call their samples unsigned integers; the values stay what
    they are. Decoders refuse floating-point numbers of 16 bits.
    """
    changed = bytearray(data)
    for offset, layout in _offsets(data):
        count = _unpacked(data, offset, layout.order + layout.count) or 0
        start = offset + struct.calcsize("=" + layout.count)
        for entry in range(start, start + count * layout.entry_bytes, layout.entry_bytes):
            if _unpacked(data, entry, layout.order + "H") == _SAMPLE_FORMAT:
                place = entry + layout.entry_bytes - layout.num_inline
                struct.pack_into(layout.order + "H", changed, place, 1)
    return bytes(changed)


def is_plausible(pages: Sequence[Page]) -> bool:
    """Return whether the first page says something that could be decoded by somebody, so that it is
    not damage that stops us.
    """
    if not pages or _WIDTH not in pages[0].numbers:
        return False
    first = pages[0]
    known_kind = first.number(_SAMPLE_FORMAT, 1) in _KINDS
    return (
        known_kind
        and first.number(_PHOTOMETRIC, -1) in _PHOTOMETRICS
        and first.bits in _DEPTHS
        and 0 < first.number(_SAMPLES, 1) <= 16
    )
