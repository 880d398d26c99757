"""How masks store labels, and what somebody decided of those that readers understand in two ways:
`--palette`, `--min-is-white`, `--depth`, `--rgb`, `--page`.

A decision is an option of the tiles table: made once, it holds for the audit, remap, repair, the
manifest and all that is made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import EnumType, StrEnum
from typing import Any

from histoprep.choices import DepthReading, MinIsWhiteReading, PaletteReading, RgbReading
from histoprep.errors import UsageError

PALETTE, MIN_IS_WHITE, DEPTH, RGB = "palette", "min-is-white", "depth", "rgb"
PAGE = "page"


class MaskEncoding(StrEnum):
    """How the labels of a mask are stored; its bits are `mask_bit_depth`."""

    GREY = "grey"
    PALETTE = "palette"
    PALETTE_COLOURS = "palette-colours"
    EQUAL_CHANNELS = "equal-channels"
    COLOURS = "colours"
    FLOAT = "float"

    @property
    def is_coloured(self) -> bool:
        """Return whether labels are colours, 0xRRGGBB."""
        return self in (MaskEncoding.COLOURS, MaskEncoding.PALETTE_COLOURS)


@dataclass(frozen=True, slots=True)
class Reading:
    """What somebody decided for encodings that readers understand in two ways; None where nobody
    has. `page`, from 1, is which page of a mask with several is read.
    """

    palette: PaletteReading | None = None
    min_is_white: MinIsWhiteReading | None = None
    depth: DepthReading | None = None
    rgb: RgbReading | None = None
    page: int | None = None

    def as_json(self) -> dict[str, str]:
        """Return the decisions that were made, as JSON values."""
        decided = {
            PALETTE: self.palette,
            MIN_IS_WHITE: self.min_is_white,
            DEPTH: self.depth,
            RGB: self.rgb,
            PAGE: self.page,
        }
        return {name: str(value) for name, value in decided.items() if value is not None}

    @classmethod
    def from_json(cls, decided: Mapping[str, str | int | None]) -> Reading:
        """Return the decisions that `as_json` gave, or options of these names; raises UsageError
        for a value that there is not.
        """
        made = {
            field: _value(read, name, decided[name])
            for name, (field, read) in _KINDS.items()
            if decided.get(name) is not None
        }
        return cls(**made)

    def updated(self, other: Reading) -> Reading:
        """Return these decisions with those of `other` in their place, as far as it makes any."""
        return Reading.from_json({**self.as_json(), **other.as_json()})

    def describe(self) -> str:
        """Return the options that make these decisions."""
        return " ".join(f"--{name} {value}" for name, value in self.as_json().items())


def _page_number(value: Any) -> int:
    number = int(value)
    if number < 1:
        raise ValueError
    return number


_KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    PALETTE: ("palette", PaletteReading),
    MIN_IS_WHITE: ("min_is_white", MinIsWhiteReading),
    DEPTH: ("depth", DepthReading),
    RGB: ("rgb", RgbReading),
    PAGE: ("page", _page_number),
}


def _value(read: Callable[[Any], Any], name: str, value: Any) -> Any:
    try:
        return read(value)
    except ValueError:
        expected = " or ".join(read) if isinstance(read, EnumType) else "a number from 1"
        raise UsageError(f"no such value for --{name}", seen=value, expected=expected) from None


UNDECIDED = Reading()
