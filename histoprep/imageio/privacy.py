"""Which metadata of an image may identify a patient, a person or a device.

Only the names of such fields are reported, never their values. Source of the tag
numbers: Exif 2.32 (CIPA DC-008) and TIFF 6.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

_ORIENTATION = 274
_EXIF_FOLDER = 34665
_GPS_FOLDER = 34853
_IDENTIFYING_TAGS = {
    270: "ImageDescription",
    271: "Make",
    272: "Model",
    285: "PageName",
    306: "DateTime",
    315: "Artist",
    316: "HostComputer",
    700: "XMP",
    33432: "Copyright",
    33723: "IPTC",
    _GPS_FOLDER: "GPS",
    36867: "DateTimeOriginal",
    36868: "DateTimeDigitized",
    37500: "MakerNote",
    37510: "UserComment",
    40091: "XPTitle",
    40092: "XPComment",
    40093: "XPAuthor",
    40095: "XPSubject",
    42016: "ImageUniqueID",
    42032: "CameraOwnerName",
    42033: "BodySerialNumber",
    42037: "LensSerialNumber",
}
SYNTHETIC_MARK = {"histoprep-synthetic": "made by a model; not a photograph of tissue"}
"""Text of every image that shows what a model made."""
# Keywords that tell how a PNG was made, not of whom.
_HARMLESS_TEXT = {"software", "histoprep-label-map", *SYNTHETIC_MARK, "gamma", "srgb"}
_SHORT = 3


def exif_facts(block: bytes) -> tuple[int | None, tuple[str, ...]]:
    """Return the orientation (None when absent or senseless) and the names of identifying fields.

    `block` is an EXIF block, with or without its `Exif` prefix. Damage ends the walk quietly:
    metadata never makes an image unusable.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return None, ()
    tags: dict[int, int] = {}
    folders = [struct.unpack_from(order + "I", block, 4)[0]]
    for offset in folders:
        tags.update(_folder(block, offset, order))
        if _EXIF_FOLDER in tags and len(folders) == 1:
            folders.append(tags[_EXIF_FOLDER])
    orientation = tags.get(_ORIENTATION)
    return orientation if orientation in range(1, 9) else None, _named(tags)


def _folder(block: bytes, offset: int, order: str) -> dict[int, int]:
    """Return tag -> first short or long value of one image file directory."""
    tags: dict[int, int] = {}
    if offset + 2 > len(block):
        return tags
    (count,) = struct.unpack_from(order + "H", block, offset)
    for index in range(count):
        position = offset + 2 + 12 * index
        if position + 12 > len(block):
            break
        tag, kind, length = struct.unpack_from(order + "HHI", block, position)
        if length:
            tags[tag] = struct.unpack_from(
                order + ("H" if kind == _SHORT else "I"), block, position + 8
            )[0]
    return tags


def _named(tags: Iterable[int]) -> tuple[str, ...]:
    return tuple(_IDENTIFYING_TAGS[tag] for tag in sorted(tags) if tag in _IDENTIFYING_TAGS)


def tiff_fields(tags: Iterable[int]) -> tuple[str, ...]:
    """Return the names of identifying TIFF tags."""
    return _named(tags)


def identifying_text(text: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keywords of PNG text chunks that are not known to be harmless."""
    return tuple(f"PNG text {key!r}" for key in text if key.lower() not in _HARMLESS_TEXT)
