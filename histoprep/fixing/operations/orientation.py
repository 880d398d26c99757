"""EXIF orientation applied to the pixels, or dropped (HP309, HP413 of masks)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histoprep import rule_ids
from histoprep.errors import UsageError
from histoprep.fixing.operations.base import (
    IMAGE,
    Context,
    FileFacts,
    NotDoneError,
    Refusal,
    Select,
    TreeFile,
)

if TYPE_CHECKING:
    from histoprep.imageio import Header

APPLY, DROP = "apply", "drop"
_TURNED_MASK = rule_ids.READERS_DISAGREE.verdict("orientation")
# Values from which on rows and columns change places.
_TRANSPOSED = 5


class OrientationTag:
    """Turns pixels as the tag says (`apply`), or keeps them as stored and resets the tag (`drop`).

    Which is right depends on what the mask was drawn on, so that somebody must choose. An applied
    orientation makes a PNG: a JPEG cannot be turned by decoding and encoding without loss.
    """

    name = "orientation"
    does = "upright in every reader; turned ones are written as PNG"
    codes = ("HP309", "HP413")
    is_default = False
    value = "apply|drop"

    def prepare(self, context: Context, value: str) -> Select:
        """Return the function that chooses files with an orientation of 2 to 8."""
        if value not in ("", APPLY, DROP):
            raise UsageError(
                "no such way to deal with an orientation", seen=value, expected=f"{APPLY} or {DROP}"
            )
        return _Chooser(value or APPLY)

    def apply(self, content: TreeFile, ticket: str) -> TreeFile:
        """Return the file whose pixels are upright without a tag."""
        from histoprep import imageio

        header = imageio.read_header(content.data, content.reading)
        orientation = header.orientation or 1
        if orientation == 1:
            return content
        if ticket == DROP:
            return content.with_data(imageio.set_orientation(content.data, header.format, 1))
        pixels = imageio.turn(_pixels(content.data, header), orientation)
        profile = imageio.find_profile(content.data)
        return content.with_data(imageio.encode_png(pixels, profile), ".png")


@dataclass(frozen=True, slots=True)
class _Chooser:
    how: str

    def __call__(self, file: FileFacts) -> str | Refusal | None:
        if file.role == IMAGE:
            if file.orientation is None or not 2 <= file.orientation <= 8:
                return None
            if file.orientation >= _TRANSPOSED and (reason := self._unfit(file)):
                return Refusal(reason)
            return self.how
        return self.how if file.error == _TURNED_MASK else None

    def _unfit(self, file: FileFacts) -> str:
        """Return why the other way is right, where the sizes of image and mask tell."""
        size, other = file.size, file.other_size
        if size is None or other is None or file.is_other_turned:
            return ""
        turned = (size.height_px, size.width_px)
        if size == turned:
            return ""
        if self.how == APPLY and other == size:
            return "its mask has the size of the pixels as stored: orientation=drop"
        if self.how == DROP and other == turned:
            return "its mask has the size of the turned image: orientation=apply"
        return ""


def _pixels(data: bytes, header: Header) -> np.ndarray:
    """Return the pixels in a form that a PNG holds without loss.

    Raises:
        NotDoneError: There is none.
    """
    from histoprep import imageio

    if header.palette or header.bit_depth < 8:
        if header.mode in ("P", "1", "L"):
            return imageio.decode_rgb(data, header)
    elif header.mode not in ("CMYK", "YCbCr", "LAB"):
        stored = imageio.decode_stored(data, header)
        if stored.dtype == np.uint8 or (stored.dtype == np.uint16 and stored.ndim == 2):
            return stored
    raise NotDoneError(
        f"a PNG does not hold {header.mode} of {header.bit_depth} bits: orientation=drop keeps the"
        " pixels"
    )
