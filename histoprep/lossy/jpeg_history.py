"""What re-encoding says of a mask: which of its 8x8 blocks a JPEG of quality q leaves as they are.

A block that came out of a JPEG of quality q is mostly a fixed point of that quality: the same
coefficients, the same pixels, unless clipping or rounding disturbed it. Other blocks are not, but for one in
ten above quality 97. The encoder itself is asked: a model of it in floating point agrees on few blocks, because
boundaries between two labels put many coefficients on a tie. Blocks are independent, so some of
a mask's make a small picture of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoprep.imageio import through_jpeg
from histoprep.lossy.blocks import BLOCK_PX, mixed_blocks

QUALITIES = tuple(range(50, 101))
# Blocks of one mask that are tried, spread evenly over those that a boundary crosses.
MAX_BLOCKS = 64
# Drawn boundaries are next to never fixed points up to this quality; of those of labels one step apart an eighth is.
_PLAIN_QUALITY = 92
# A quality up to there that fixes this share of what the best one fixes is the original: above it, the same blocks are fixed points too.
_NEARLY_ALL = 0.8


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """The quality whose JPEG leaves most blocks as they are, and how many of how many."""

    quality: int
    fixed: int
    blocks: int

    @property
    def share(self) -> float:
        """Return the share of fixed blocks, 0 to 1."""
        return self.fixed / self.blocks if self.blocks else 0.0


def find_quality(labels: np.ndarray, qualities: tuple[int, ...] = QUALITIES, max_blocks: int = MAX_BLOCKS) -> FixedPoint | None:
    """Return the quality that a mask, uint8 or uint16 [height, width], is most nearly a fixed point of; 2 ms for all qualities.

    Above the quality of the original, steps of one between labels are fixed points, too: a quality up to 92 that fixes nearly as many
    blocks comes first, and of equally good ones a multiple of five, then the lowest. So drawn stripes, of which 97 to 100 fix as many, are of 100,
    which tells nothing.
    None when no block holds two labels, or when a value does not fit into 8 bits.
    """
    blocks = mixed_blocks(labels, max_blocks)
    if not len(blocks) or blocks.max() > 255:
        return None
    fixed = [int(np.count_nonzero(is_fixed(blocks, quality))) for quality in qualities]
    ranks = [(number, quality % 5 == 0, -quality) for number, quality in zip(fixed, qualities, strict=True)]
    best = max(ranks)
    plain = max((rank for rank in ranks if -rank[2] <= _PLAIN_QUALITY), default=best)
    number, _, quality = plain if plain[0] >= _NEARLY_ALL * best[0] else best
    return FixedPoint(-quality, number, len(blocks))


def is_fixed(blocks: np.ndarray, quality: int) -> np.ndarray:
    """Return bool [blocks]: which blocks, 8-bit values [blocks, 8, 8], a grey JPEG of `quality` leaves unchanged."""
    strip = np.ascontiguousarray(blocks.swapaxes(0, 1).reshape(BLOCK_PX, -1), np.uint8)
    changed = through_jpeg(strip, quality) != strip
    return ~changed.reshape(BLOCK_PX, -1, BLOCK_PX).any(axis=(0, 2))
