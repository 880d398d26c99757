"""Values that mark pixels without a label, as found in masks: 255 along the boundaries of labels 0
to K (PASCAL VOC and its kin), or in areas that nobody labelled (Cityscapes and its kin).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

IGNORED_ID = 255
"""What ignored pixels are in remapped masks, shards and latents."""
# All bits of a mask set.
WHITES = (255, 65_535, (1 << 32) - 1)
# White, and the cream that PASCAL VOC draws void in.
VOID_COLOURS = (0xFFFFFF, 0xE0E0C0)
MIN_VALUE = 100
MIN_TILES = 3
# Of lines up to 5 px wide, a 5x5 erosion leaves a fifth.
MAX_CORE_SHARE = 0.25
MIN_COMPANIONS = 1.8
MIN_SHARE_OF_PAIRS = 0.5
MIN_AREA_LABELS = 3
MIN_DENSITY = 0.8


@dataclass(frozen=True, slots=True)
class LabelAmounts:
    """What a data set holds of a label: tiles, tiles in which it is core-present, pixels, and
    pixels that survive a 5x5 erosion.
    """

    tiles: int
    core_tiles: int
    pixels: int
    core_pixels: int


@dataclass(frozen=True, slots=True)
class IgnoredValue:
    """A value that seems to mark pixels without a label; along boundaries that is all but certain,
    in areas it is a guess.
    """

    value: int
    along_boundaries: bool
    is_colour: bool = False

    @property
    def spelt(self) -> str:
        """Return the value as label maps spell it, `255` or `#ffffff`."""
        return f"#{self.value:06x}" if self.is_colour else str(self.value)

    @property
    def line(self) -> str:
        """Return the line of a label map that ignores the value."""
        return f"ignore: [{quoted_colour(self.spelt)}]"


def quoted_colour(value: str) -> str:
    """Return a value in quotes when it is a colour: a bare # begins a comment."""
    return f'"{value}"' if value.startswith("#") else value


def find_ignored_value(
    amounts: Mapping[int, LabelAmounts],
    pairs: Mapping[tuple[int, int], int],
    *,
    are_colours: bool = False,
) -> IgnoredValue | None:
    """Return the value that seems to mark pixels without a label, or None.

    It is the largest of at least three, and more than twice the second; of colours, white or the
    cream of PASCAL VOC. Along boundaries: it is thin, lies in tiles of at least two other labels
    and in most tiles where two others meet. In areas: it is all bits set, and the others are
    numbered without large gaps from 0 or 1.

    Args:
        amounts: By label.
        pairs: In how many tiles two labels occur together, the smaller label first.
        are_colours: Whether the labels are colours 0xRRGGBB.
    """
    value = _candidate(amounts, are_colours=are_colours)
    if value is None or amounts[value].tiles < MIN_TILES:
        return None
    others = sorted(set(amounts) - {value})
    if _lies_along_boundaries(value, amounts[value], pairs):
        return IgnoredValue(value, along_boundaries=True, is_colour=are_colours)
    is_numbered = others[0] <= 1 and len(others) >= MIN_DENSITY * (others[-1] - others[0] + 1)
    if value in WHITES and is_numbered and len(others) >= MIN_AREA_LABELS and not are_colours:
        return IgnoredValue(value, along_boundaries=False)
    return None


def _candidate(amounts: Mapping[int, LabelAmounts], *, are_colours: bool) -> int | None:
    """Return the value that may mark pixels without a label, beside at least two others."""
    if len(amounts) < 3:
        return None
    if are_colours:
        return next((colour for colour in VOID_COLOURS if colour in amounts), None)
    *_, second, value = sorted(amounts)
    return value if value >= max(MIN_VALUE, 2 * (second + 1)) else None


def _lies_along_boundaries(
    value: int, found: LabelAmounts, pairs: Mapping[tuple[int, int], int]
) -> bool:
    companions = sum(tiles for pair, tiles in pairs.items() if value in pair) / found.tiles
    met = max((tiles for pair, tiles in pairs.items() if value not in pair), default=0)
    # A few masks that are ignored whole must not hide the boundaries of all others.
    is_thin = (
        found.core_pixels <= MAX_CORE_SHARE * found.pixels
        or found.core_tiles <= MAX_CORE_SHARE * found.tiles
    )
    return is_thin and companions >= MIN_COMPANIONS and found.tiles >= MIN_SHARE_OF_PAIRS * met
