"""What re-encoding says of a mask: which of its 8x8 blocks a JPEG of quality q leaves as they are.

A block that came out of a JPEG of quality q is mostly a fixed point of that quality: the same
coefficients, the same pixels, unless clipping or rounding disturbed it. Other blocks are not, but
for one in ten above quality 97. The encoder itself is asked: a model of it in floating point agrees
on few blocks, because boundaries between two labels put many coefficients on a tie. Blocks are
independent, so some of a mask's make a small image of their own.

Clipping ends that where labels lie near 0 or 255: masks of 0 and 255 have no fixed points. But
there the labels that a boundary lies between are plain, so that the JPEG of each quality can be
made again and compared.

A label map hides the values, but not the shapes: labels one step apart leave JPEG as blocks of two
labels again, whatever these are called afterwards, and such a block still is a fixed point once its
labels are called 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from histoprep.lossy.blocks import BLOCK_PX, as_blocks, mixed_places, uniform_blocks
from histoprep.lossy.likelihood import misfit_of, remade
from histoprep.lossy.onsets import BlockGrid
from histoprep.lossy.shapes import is_broken, is_curved

QUALITIES = tuple(range(50, 101))
# Above this quality drawn boundaries are fixed points, too.
MAX_TELLING_QUALITY = 97
# Blocks of one mask that are tried, spread evenly over those that a boundary crosses.
MAX_BLOCKS = 64
# Drawn boundaries are next to never fixed points up to this quality; of those of labels one step
# apart an eighth is.
_PLAIN_QUALITY = 92
# Blocks that renamed ones are taken from, how many of these, and the share of them that quality 95
# must leave before 90 is tried.
_MAX_LOOKED, _MAX_RENAMED, _WORTH_A_TRY = 512, 48, 0.15
# Up to this quality straight boundaries that break off tell something; above it, too many drawn
# ones are fixed points.
_STRAIGHT_QUALITY = 85
# A quality up to there that fixes this share of what the best one fixes is the original: above it,
# the same blocks are fixed points too.
_NEARLY_ALL = 0.8
# Share of a block's false values that its JPEG must make again, and the share of blocks, and how
# many, that it must be so in. In masks that were
# clipped it is so in all blocks; in clean, mapped, resized and WebP masks in a quarter at most.
_MADE_AGAIN, _BLOCKS_MADE_AGAIN, _MIN_BLOCKS = 0.5, 0.5, 8
# Share of its blocks that the quality of one mask must explain to be believed against that of the
# others of its source.
_CERTAIN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """The quality whose JPEG leaves most blocks as they are, and how many of how many that tell
    something; quality 0 where labels were renamed. With `is_moved` the blocks are those of the
    mask's `BlockGrid`, else those that begin at its corner.

    Of clipped masks: the quality whose JPEG makes most of the false values again, and in how many
    of how many blocks that have such.
    """

    quality: int
    fixed: int
    blocks: int
    is_moved: bool = False
    # The grid of these blocks, where it is another than that of `Signals`.
    grid: BlockGrid | None = None

    @property
    def share(self) -> float:
        """Return the share of fixed blocks, 0 to 1."""
        return self.fixed / self.blocks if self.blocks else 0.0

    @property
    def is_certain(self) -> bool:
        """Return whether one mask by itself names its quality: four of five made masks of quality
        60 to 95 do, one in 500 of these wrongly.
        """
        return bool(are_certain(*(np.array([n]) for n in (self.quality, self.fixed, self.blocks))))


def are_certain(quality: np.ndarray, fixed: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Return for many masks, bool [n], whether each names its quality: `FixedPoint.is_certain`."""
    share = fixed / np.maximum(blocks, 1).astype(np.float64)
    result: np.ndarray = (
        (quality > 0)
        & (quality <= MAX_TELLING_QUALITY)
        & (blocks >= _MIN_BLOCKS)
        & (share >= _CERTAIN_SHARE)
    )
    return result


def find_quality(
    labels: np.ndarray, qualities: tuple[int, ...] = QUALITIES, max_blocks: int = MAX_BLOCKS
) -> FixedPoint | None:
    """Return the quality that a mask, uint8 or uint16 [height, width], is most nearly a fixed point
    of; 2 ms for all qualities.

    Above the quality of the original, steps of one between labels are fixed points, too: a quality
    up to 92 that fixes nearly as many blocks comes first, and of equally good ones a multiple of
    five, then the lowest. So drawn stripes, of which 97 to 100 fix as many, are of 100, which tells
    nothing. Where no quality up to 97 stands out, false values may have been clipped; see the head
    of this module. None when no block holds two labels, or when a value does not fit into 8 bits.
    """
    place = mixed_places(labels, max_blocks)
    blocks = as_blocks(labels)[place]
    if not len(blocks) or blocks.max() > 255:
        return None
    fixed = {quality: is_fixed(blocks, quality) for quality in qualities}
    ranks = [
        (int(np.count_nonzero(which)), quality % 5 == 0, -quality)
        for quality, which in fixed.items()
    ]
    best = max(ranks)
    plain = max((rank for rank in ranks if -rank[2] <= _PLAIN_QUALITY), default=best)
    quality = -(plain if plain[0] >= _NEARLY_ALL * best[0] else best)[2]
    if quality > MAX_TELLING_QUALITY and (clipped := _made_again(labels, blocks, qualities)):
        return clipped
    telling = is_curved(blocks)
    if quality <= _STRAIGHT_QUALITY:
        telling |= is_broken(labels, blocks, place)
    return FixedPoint(
        quality, int(np.count_nonzero(fixed[quality] & telling)), int(np.count_nonzero(telling))
    )


def _made_again(
    labels: np.ndarray, blocks: np.ndarray, qualities: tuple[int, ...]
) -> FixedPoint | None:
    """Return the quality whose JPEG of the nearest labels is nearest to the blocks, and how many
    blocks it explains; None when too few.
    """
    whole = np.unique(as_blocks(labels)[uniform_blocks(labels)][:, 0, 0])
    if not len(whole):
        return None
    nearest = whole[np.abs(np.arange(256)[:, None] - whole.astype(np.int32)).argmin(axis=1)].astype(
        np.uint8
    )
    snapped = nearest[blocks]
    false = ((snapped.astype(np.float32) - blocks) ** 2).sum(axis=(1, 2))
    left = np.stack([misfit_of(snapped, blocks, quality) for quality in qualities])
    best = int(left.sum(axis=1).argmin())
    explained, tried = (
        int(np.count_nonzero(left[best] < (1 - _MADE_AGAIN) * false)),
        int(np.count_nonzero(false)),
    )
    if (
        qualities[best] > MAX_TELLING_QUALITY
        or tried < _MIN_BLOCKS
        or explained < _BLOCKS_MADE_AGAIN * tried
    ):
        return None
    return FixedPoint(qualities[best], explained, tried)


def find_renamed(labels: np.ndarray) -> FixedPoint | None:
    """Return how many blocks of two labels, of a mask uint8 or uint16 [height, width], are what
    JPEG leaves of labels one step apart; 0.1 ms.

    Qualities 90 and 95 stand for 88 to 97, which leave nearly the same shapes. Straight upright or
    lying boundaries tell nothing; of other drawn ones at most a seventh is a fixed point. None when
    no block is left.
    """
    renamed = _renamed(_uneven_blocks(labels))[:_MAX_RENAMED]
    if not len(renamed):
        return None
    fixed = is_fixed(renamed, 95)
    if fixed.mean() < _WORTH_A_TRY:
        return FixedPoint(0, 0, len(renamed))
    # At quality 90 the mean of a block moves in steps of 3/8, so that three first values have all
    # there is to see.
    shifted = np.concatenate([renamed, renamed + np.uint8(1), renamed + np.uint8(2)])
    fixed |= is_fixed(shifted, 90).reshape(3, -1).any(axis=0)
    return FixedPoint(0, int(np.count_nonzero(fixed)), len(renamed))


def _uneven_blocks(labels: np.ndarray) -> np.ndarray:
    """Return blocks whose rows are not all alike, of evenly spread rows of blocks, uint8 [blocks,
    8, 8]; none where a value is above 255.
    """
    rows, columns = (size // BLOCK_PX for size in labels.shape)
    chosen = _spread(rows, min(rows, max(1, _MAX_LOOKED // columns)))
    cut = labels[: rows * BLOCK_PX, : columns * BLOCK_PX].reshape(rows, BLOCK_PX, -1)[chosen]
    if cut.itemsize > 1 and cut.max() > 255:
        return np.zeros((0, BLOCK_PX, BLOCK_PX), np.uint8)
    # The row of a block as one number.
    lines = np.ascontiguousarray(cut, np.uint8).view(np.uint64)
    row, column = np.nonzero((lines != lines[:, :1]).any(axis=1))
    if len(row) > 2 * _MAX_RENAMED:
        spread = _spread(len(row), 2 * _MAX_RENAMED)
        row, column = row[spread], column[spread]
    return (
        np.ascontiguousarray(lines[row, :, column]).view(np.uint8).reshape(-1, BLOCK_PX, BLOCK_PX)
    )


@lru_cache(maxsize=1024)
def _spread(length: int, number: int) -> np.ndarray:
    """Return evenly spread places of so many, the first and last among them, int [number]."""
    return np.linspace(0, length - 1, number).astype(np.intp)


def _renamed(blocks: np.ndarray) -> np.ndarray:
    """Return the blocks of two labels whose columns are not all alike, the smaller label called 0
    and the other one 1.
    """
    pixels = blocks.reshape(len(blocks), BLOCK_PX * BLOCK_PX)
    high = pixels == pixels.max(axis=1, keepdims=True)
    two = (high | (pixels == pixels.min(axis=1, keepdims=True))).all(axis=1)
    uneven = (blocks != blocks[:, :, :1]).any(axis=(1, 2))
    result: np.ndarray = high[two & uneven].view(np.uint8).reshape(-1, BLOCK_PX, BLOCK_PX)
    return result


def is_fixed(blocks: np.ndarray, quality: int) -> np.ndarray:
    """Return bool [blocks]: which blocks, 8-bit values [blocks, 8, 8], a grey JPEG of `quality`
    leaves unchanged.
    """
    return np.asarray((remade(blocks, quality) == blocks).all(axis=(1, 2)))
