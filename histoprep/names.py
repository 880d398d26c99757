"""File names as text without losing a byte.

A name on Linux is bytes; Arrow strings are UTF-8. Python shows an undecodable byte as a lone
surrogate, which Arrow refuses. We store such a byte b as the private-use character U+EF00 + b,
and the bytes of a real character of that range in the same way, so the mapping goes both ways.
Source of the idea: the OPTU encodings of MirBSD.
"""

from __future__ import annotations

import os
import re
import unicodedata

_PRIVATE = 0xEF00
_SURROGATE = 0xDC00
_UNSTORABLE = re.compile("[\udc80-\udcff\uef80-\uefff]")
_STORED_BYTE = re.compile("[\uef80-\uefff]")


# Folders that systems make for themselves: copies of names by macOS in archives, thumbnails of a
# Synology station, bins.
SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)
_SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini", "Desktop.ini", "Icon\r"})
# What macOS keeps of a file beside it on other file systems.
_TWIN = "._"


def is_system_file(name: str) -> bool:
    """Return whether a system made a file for itself: `._x.png` beside `x.png`, `.DS_Store`."""
    return name in _SYSTEM_FILES or name.startswith(_TWIN)


def is_left_alone(folder: str) -> bool:
    """Return whether a folder is hidden or a system's own, by its name."""
    return folder.startswith(".") or folder in SYSTEM_FOLDERS


def to_text(name: str) -> str:
    """Return a name, as Python's file functions give it, as text that Arrow can hold."""
    return name if name.isascii() else _UNSTORABLE.sub(_hide, name)


def to_name(text: str) -> str:
    """Return the name that `to_text` made `text` from."""
    if text.isascii() or not _STORED_BYTE.search(text):
        return text
    parts = (
        bytes([ord(character) - _PRIVATE])
        if _STORED_BYTE.match(character)
        else character.encode("utf-8", "surrogateescape")
        for character in text
    )
    return os.fsdecode(b"".join(parts))


def _hide(match: re.Match[str]) -> str:
    character = ord(match[0])
    if character < _PRIVATE:
        return chr(character - _SURROGATE + _PRIVATE)
    return "".join(chr(_PRIVATE + byte) for byte in match[0].encode())


def pairing_key(stem: str) -> str:
    """Return what an image and its mask have in common: the stem without case and Unicode form."""
    key = stem.casefold()
    return (
        key
        if key.isascii()
        else unicodedata.normalize("NFC", unicodedata.normalize("NFC", key).casefold())
    )
