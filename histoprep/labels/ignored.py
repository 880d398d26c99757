"""Values that mark pixels without a label, as found in masks: 255 along the boundaries of labels 0
to K (PASCAL VOC and its kin), or in areas that nobody labelled (Cityscapes and its kin).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# All bits of a mask set.
WHITES = (255, 65_535, (1 << 32) - 1)
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


def find_ignored_value(
    amounts: Mapping[int, LabelAmounts], pairs: Mapping[tuple[int, int], int]
) -> IgnoredValue | None:
    """Return the value that seems to mark pixels without a label, or None.

    It is the largest of at least three, and more than twice the second. Along boundaries: it is
    thin, lies in tiles of at least two other labels and in most tiles where two others meet. In
    areas: it is all bits set, and the others are numbered without large gaps from 0 or 1.

    Args:
        amounts: By label.
        pairs: In how many tiles two labels occur together, the smaller label first.
    """
    *others, value = sorted(amounts) or [0]
    if len(others) < 2 or value < max(MIN_VALUE, 2 * (others[-1] + 1)):
        return None
    found = amounts[value]
    if found.tiles < MIN_TILES:
        return None
    companions = sum(pairs.get((other, value), 0) for other in others) / found.tiles
    met = max((tiles for (_, other), tiles in pairs.items() if other != value), default=0)
    # A few masks that are ignored whole must not hide the boundaries of all others.
    is_thin = (
        found.core_pixels <= MAX_CORE_SHARE * found.pixels
        or found.core_tiles <= MAX_CORE_SHARE * found.tiles
    )
    if is_thin and companions >= MIN_COMPANIONS and found.tiles >= MIN_SHARE_OF_PAIRS * met:
        return IgnoredValue(value, along_boundaries=True)
    span = others[-1] - others[0] + 1
    is_numbered = others[0] <= 1 and len(others) >= MIN_DENSITY * span
    if value in WHITES and is_numbered and len(others) >= MIN_AREA_LABELS:
        return IgnoredValue(value, along_boundaries=False)
    return None
