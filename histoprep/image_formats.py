"""The image formats: by which suffixes and first bytes a file is known, and what it can hold.

The only list of formats. What pairs files, names members of shards, reports a wrong extension or
says which formats there are, asks here; the decoder of a format stands under its name in
`imageio/decoders/`. A package adds formats with an entry point in the group `histoprep.formats`:
see docs/adding-a-format.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from histoprep import plugins
from histoprep.errors import UsageError

GROUP = "histoprep.formats"
"""Entry points of other packages; loading one registers its formats."""

Signature = tuple[tuple[int, bytes], ...]
"""Pairs of offset and bytes that a file of the format has, all of them."""


class Compression(StrEnum):
    """Whether pixels come back as they were saved."""

    LOSSLESS = "lossless"
    LOSSY = "lossy"
    EITHER = "either"


class Holds(StrEnum):
    """What the files of a format are in a data set."""

    IMAGES_AND_MASKS = "images and masks"
    MASKS = "masks"


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """One image format.

    Attributes:
        name: How tables and decoders call it, in lower case: `jpeg`.
        title: How messages call it: `JPEG`.
        suffixes: Suffixes of its files in lower case, without a dot, the usual one first; members
            of shards have that one.
        signatures: By which first bytes it is known; one of them must fit.
        compression: Whether label masks survive in it.
        holds: Whether it is read as image and mask, or as mask only.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    signatures: tuple[Signature, ...]
    compression: Compression = Compression.LOSSLESS
    holds: Holds = Holds.IMAGES_AND_MASKS

    def fits(self, data: bytes) -> bool:
        """Return whether the first bytes are those of this format."""
        # Without generators, since every file is asked.
        for signature in self.signatures:
            for offset, part in signature:
                if not data.startswith(part, offset):
                    break
            else:
                return True
        return False


JPEG = ImageFormat(
    "jpeg",
    "JPEG",
    ("jpg", "jpeg", "jpe", "jfif"),
    (((0, b"\xff\xd8\xff"),),),
    Compression.LOSSY,
)
PNG = ImageFormat("png", "PNG", ("png",), (((0, b"\x89PNG\r\n\x1a\n"),),))
TIFF = ImageFormat(
    "tiff",
    "TIFF",
    ("tif", "tiff"),
    tuple(((0, start),) for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)
WEBP = ImageFormat("webp", "WebP", ("webp",), (((0, b"RIFF"), (8, b"WEBP")),), Compression.EITHER)
BMP = ImageFormat("bmp", "BMP", ("bmp",), (((0, b"BM"),),))
JPEG2000 = ImageFormat(
    "jpeg2000",
    "JPEG 2000",
    ("jp2", "j2k", "j2c", "jpc", "jpx"),
    (((0, b"\0\0\0\x0cjP  \r\n\x87\n"),), ((0, b"\xff\x4f\xff\x51"),)),
    Compression.EITHER,
)
GIF = ImageFormat("gif", "GIF", ("gif",), (((0, b"GIF8"),),), holds=Holds.MASKS)
NPY = ImageFormat("npy", "NumPy array", ("npy",), (((0, b"\x93NUMPY"),),), holds=Holds.MASKS)
NPZ = ImageFormat("npz", "NumPy archive", ("npz",), (((0, b"PK\3\4"),),), holds=Holds.MASKS)
MAT = ImageFormat(
    "mat",
    "MATLAB array",
    ("mat",),
    (((0, b"MATLAB 5.0 MAT-file"),), ((0, b"MATLAB 7.3 MAT-file"),)),
    holds=Holds.MASKS,
)
BUILT_IN = (JPEG, PNG, TIFF, WEBP, BMP, JPEG2000, GIF, NPY, NPZ, MAT)

_registered: dict[str, ImageFormat] = {image_format.name: image_format for image_format in BUILT_IN}


def register(added: ImageFormat) -> None:
    """Add a format of another package.

    Raises:
        UsageError: Its name or one of its suffixes is taken, or a suffix is no plain word.
    """
    for other in _registered.values():
        if other == added:
            return
        shared = {other.name}.intersection([added.name]) or set(other.suffixes) & set(
            added.suffixes
        )
        if shared:
            raise UsageError(
                f"the image format {added.title} cannot be added, since {other.title} has its name"
                " or a suffix of it",
                seen=", ".join(sorted(shared)),
            )
    if not added.suffixes or not all(
        suffix.isascii() and suffix.isalnum() and suffix == suffix.lower()
        for suffix in added.suffixes
    ):
        raise UsageError(
            f"the image format {added.title} cannot be added, since a suffix is no plain word",
            seen=", ".join(added.suffixes) or "no suffix",
            expected="lower-case letters and digits without a dot, such as ppm",
        )
    _registered[added.name] = added
    clear_caches()


def clear_caches() -> None:
    """Forget what was derived from the table, after it changed."""
    for cached in (_known, _by_suffix, image_suffixes, mask_suffixes):
        cached.cache_clear()


def image_formats() -> tuple[ImageFormat, ...]:
    """Return all formats: the built-in ones, then those of other packages in order of name."""
    plugins.load(GROUP)
    return _known()


@cache
def _known() -> tuple[ImageFormat, ...]:
    added = sorted(_registered.keys() - {image_format.name for image_format in BUILT_IN})
    return (*BUILT_IN, *(_registered[name] for name in added))


def format_called(name: str) -> ImageFormat:
    """Return the format of that name; raises KeyError."""
    plugins.load(GROUP)
    return _registered[name]


def sniff(data: bytes) -> ImageFormat | None:
    """Return the format of a file by its first bytes, or None."""
    for image_format in image_formats():
        if image_format.fits(data):
            return image_format
    return None


class StandIn(NamedTuple):
    """What lies in the place of an image: a subcode, and in words."""

    subcode: str
    what: str


_STAND_INS = (
    (b"version https://git-lfs", StandIn("pointer", "a pointer of Git LFS, not the file itself")),
    (b"/annex/objects/", StandIn("pointer", "a pointer of git-annex, not the file itself")),
    (b"<!doctype html", StandIn("web-page", "a web page, not an image")),
    (b"<html", StandIn("web-page", "a web page, not an image")),
    (b"<?xml", StandIn("web-page", "an XML document, such as the answer of a server")),
)


def stand_in(data: bytes) -> StandIn | None:
    """Return what a store or a server left in the place of a file, by its first bytes, or None."""
    start = data[:64].lstrip().lower()
    return next((found for begin, found in _STAND_INS if start.startswith(begin)), None)


def format_of(file_name: str) -> ImageFormat | None:
    """Return the format that the suffix of a file name stands for, in any case, or None."""
    return _by_suffix().get(file_name.rpartition(".")[2].lower())


def is_image(file_name: str) -> bool:
    """Return whether a file name has the suffix of an image or a mask."""
    return format_of(file_name) is not None


@cache
def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that are read as images, the usual one of each format first."""
    return _suffixes(
        image_format
        for image_format in image_formats()
        if image_format.holds is Holds.IMAGES_AND_MASKS
    )


@cache
def mask_suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that are read as masks, the usual one of each format first."""
    return _suffixes(image_formats())


def lossless_suffixes() -> tuple[str, ...]:
    """Return the suffixes of formats that always keep labels as they are."""
    return _suffixes(
        image_format
        for image_format in image_formats()
        if image_format.compression is Compression.LOSSLESS
    )


def titles(formats: Iterable[ImageFormat] | None = None) -> str:
    """Return "JPEG, PNG or TIFF": formats in words, all by default."""
    words = [
        image_format.title for image_format in (image_formats() if formats is None else formats)
    ]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def shard_suffix(suffix: str) -> str:
    """Return the suffix of a member of a shard for that of a file: one for each format, the same
    for suffixes of no format.
    """
    known = _by_suffix().get(suffix)
    return suffix if known is None else known.suffixes[0]


@cache
def _by_suffix() -> dict[str, ImageFormat]:
    return {
        suffix: image_format for image_format in image_formats() for suffix in image_format.suffixes
    }


def _suffixes(formats: Iterable[ImageFormat]) -> tuple[str, ...]:
    # Large folders are searched for one suffix after the other, so the frequent ones come first.
    by_rank = sorted(
        (rank, place, suffix)
        for place, image_format in enumerate(formats)
        for rank, suffix in enumerate(image_format.suffixes)
    )
    return tuple(suffix for _, _, suffix in by_rank)
