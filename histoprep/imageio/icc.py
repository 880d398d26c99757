"""The colour profile of a file."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError


def find_profile(data: bytes) -> bytes | None:
    """Return the ICC profile of a file, None without one."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            profile = image.info.get("icc_profile")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None
    return profile or None
