"""What the tiles of one source say together: masks fit, must be turned, or nothing is clear. Pure.

Thresholds come from `benchmarks/fit.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoprep.fit.measure import MOVES
from histoprep.fit.orientation import ORIENTATIONS, Orientation

# Tiles with something to compare that a verdict needs.
MIN_TILES = 10
# A sum of evidence counts that is so many standard deviations above the others, and so many nats
# above the next one; and what makes it firm.
_CLEAR, _MARGIN = 3.7, 5.0
_FIRM, _FIRM_MARGIN = 6.0, 20.0
# Nats a tile, on average, that it needs: tiles that are all laid out alike agree on anything. With
# less than the second, masks that fit best as they are may fit better elsewhere.
_FAINT, _WEAK = 0.5, 2.0
# What chance alone does to the evidence of one tile, at least.
_CHANCE = 1.0
# A peak that lies so far from where it should, in pixels, and so many standard errors.
_OFF_PX, _OFF_ERRORS = 3.0, 2.5
# A tile that its own mask fits clearly, and the share of such tiles where a source can judge single
# ones.
CLEAR_TILE, CLEAR_SHARE = 8.0, 0.6
# A tile with less evidence than this is looked at again.
DOUBTFUL_TILE = 7.0


@dataclass(frozen=True, slots=True)
class Vote:
    """What the tiles of one source say.

    Attributes:
        orientation: What has to be done to the masks; None where nothing is clear.
        firm: Whether that is beyond doubt.
        evidence: Nats for the masks as they are, all tiles together.
        best: Nats for `orientation`, or for the best one.
        is_off: Whether masks that need not be turned seem to lie beside their place.
        is_weak: Whether masks that need not be turned fit badly all the same.
        judges_tiles: Whether so many masks fit that one that does not is a fault.
    """

    orientation: Orientation | None
    firm: bool
    evidence: float
    best: float
    is_off: bool = False
    is_weak: bool = False
    judges_tiles: bool = False

    @property
    def is_open(self) -> bool:
        """Return whether it may be that masks belong elsewhere."""
        return self.orientation is not Orientation.AS_IS or self.is_weak


def vote(evidence: np.ndarray, cell_px: np.ndarray) -> Vote:
    """Return what the tiles of a source say.

    Args:
        evidence: float [tiles, orientations and moves], as in tiles.parquet; NaN for what cannot
            be.
        cell_px: Side of the cells of each tile.
    """
    turned = evidence[:, : len(ORIENTATIONS)]
    best, firm, sums = best_of(turned)
    orientation = None if best is None else ORIENTATIONS[best]
    fits = orientation is Orientation.AS_IS
    clear = float(np.mean(evidence[:, 0] >= CLEAR_TILE))
    return Vote(
        orientation,
        firm,
        float(sums[0]),
        float(np.max(sums)),
        is_off=fits and _is_off(evidence, cell_px),
        is_weak=fits and float(sums[0]) < _WEAK * len(evidence),
        judges_tiles=fits and clear >= CLEAR_SHARE,
    )


def best_of(evidence: np.ndarray) -> tuple[int | None, bool, np.ndarray]:
    """Return which hypothesis the tiles agree on, None where it is not clear; whether it is beyond
    doubt; and the sums of evidence, -inf for what cannot be.

    The other hypotheses show what chance does to these tiles.

    Args:
        evidence: float [tiles, hypotheses], at least four of them possible; NaN for what cannot be.
    """
    possible = np.isfinite(evidence).all(axis=0)
    sums = np.where(possible, np.where(possible, evidence, 0).sum(axis=0), -np.inf)
    if len(evidence) < MIN_TILES:
        return None, False, sums
    best = int(np.argmax(sums))
    # Masks as they are may fit well, too: then they show nothing of chance.
    others = evidence[:, possible & (np.arange(len(sums)) != best)][:, int(best > 0) :]
    usual = others.mean(axis=1)
    freedom = others.shape[1] / (others.shape[1] - 1)
    chance = max(_CHANCE, float(np.sqrt(freedom * ((others - usual[:, None]) ** 2).mean())))
    above = float((evidence[:, best] - usual).sum())
    deviations = above / (chance * np.sqrt(len(evidence)))
    margin = float(sums[best] - np.max(np.delete(sums, best)))
    mean = float(sums[best]) / len(evidence)
    if deviations < _CLEAR or margin < _MARGIN or mean < _FAINT:
        return None, False, sums
    is_firm = deviations >= _FIRM and margin >= _FIRM_MARGIN and mean >= _WEAK
    return best, is_firm, sums


def _is_off(evidence: np.ndarray, cell_px: np.ndarray) -> bool:
    """Return whether evidence grows when masks are moved, by a parabola through three places along
    each axis.
    """
    here, moved = evidence[:, 0], evidence[:, len(ORIENTATIONS) :]
    cell = float(np.median(cell_px))
    for before, after in ((0, 1), (2, 3)):
        assert MOVES[before] == (-MOVES[after][0], -MOVES[after][1])
        slope = moved[:, after] - moved[:, before]
        bend = float((2 * here - moved[:, after] - moved[:, before]).sum())
        error = float(slope.std(ddof=1)) * np.sqrt(len(slope))
        is_sure = abs(float(slope.sum())) > _OFF_ERRORS * error
        if is_sure and (bend <= 0 or abs(float(slope.sum())) / (2 * bend) * cell > _OFF_PX):
            return True
    return False
