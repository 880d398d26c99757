"""One mask -> all that is asked of it to judge its source; many masks -> the table that is
judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from histoprep.lossy import Signals, measure_signals, steps_of
from histoprep.lossy.blocks import BLOCK_PX, GridCounts
from histoprep.lossy.jpeg_history import FixedPoint, find_quality, find_renamed
from histoprep.lossy.onsets import BlockGrid, find_step_offset, may_be_straight
from histoprep.lossy.verdict import (
    BLOCKY_PHASE,
    LOOKED_AT,
    MIN_CONTACTS,
    PHASE,
    ROUGHNESS,
    SHOWN,
    SOFT,
    MaskSignals,
)

_ONE_IN = 2
# Share of the blocks that the quality of straight boundaries must explain: of clean masks of boxes,
# drawn at places by four pixels beside free regions, those that passed the other tests had less.
_STRAIGHT_SHARE = 0.8
_NO_GRID = BlockGrid(0.0, 0.0, 0.0, 0, 0, 0)
_NOTHING = Signals(GridCounts(0, 0.0), 0, 0, 0, (), 0)


@dataclass(frozen=True, slots=True)
class MaskObservation:
    """One mask: its signals (None when it is of one label), the quality it is a fixed point of, and
    its lossy container or "".
    """

    signals: Signals | None
    fixed: FixedPoint | None = None
    container: str = ""

    @classmethod
    def of(cls, labels: np.ndarray) -> MaskObservation:
        """Return the observation of a mask, labels [height, width]."""
        signals = measure_signals(labels)
        return cls(signals, find_fixed(labels, signals) if signals else None)


def find_fixed(labels: np.ndarray, signals: Signals) -> FixedPoint | None:
    """Estimate the JPEG quality if the mask shows block artefacts; otherwise test whether its block
    shapes are JPEG fixed points after relabelling.
    """
    moved = _find_moved(labels, signals)
    if moved is not None and moved.is_certain:
        return moved
    if (straight := _find_straightened(labels, signals)) is not None:
        return straight
    if stands_out(signals):
        own = find_quality(labels)
        return moved if moved is not None and not (own and own.is_certain) else own
    if moved is not None:
        return moved
    # Sample half of the masks, chosen by a value that is independent of the damage: enough for a
    # source, at half the cost.
    return None if signals.rough_pairs % _ONE_IN else find_renamed(labels)


def _find_moved(labels: np.ndarray, signals: Signals) -> FixedPoint | None:
    """Return the JPEG quality by the blocks of the grid that thin traces end on, where this is not
    that of the mask's corner.
    """
    grid = signals.grid
    if grid is None or grid.score < LOOKED_AT or grid.is_own:
        return None
    blocks = grid.whole_blocks(labels)
    found = None if blocks is None or min(blocks.shape) < BLOCK_PX else find_quality(blocks)
    if found is None or (grid.score < SHOWN and not found.is_certain):
        return None
    return replace(found, is_moved=True)


def _find_straightened(labels: np.ndarray, signals: Signals) -> FixedPoint | None:
    """Return the JPEG quality by the blocks that labels change along, where this is not the grid of
    the mask's corner and the quality is beyond doubt. Looked for where steps are mostly of one:
    only these come out straight.
    """
    if (signals.contacts and not _is_soft(signals)) or not may_be_straight(labels):
        return None
    offset = find_step_offset(*steps_of(labels))
    if offset is None or offset == (0, 0):
        return None
    row, column = offset
    known = signals.grid or _NO_GRID
    grid = replace(
        known, period_px=float(BLOCK_PX), row=row, column=column, rows=None, columns=None
    )
    blocks = grid.whole_blocks(labels)
    found = None if blocks is None or min(blocks.shape) < BLOCK_PX else find_quality(blocks)
    if found is None or not found.is_certain or found.share < _STRAIGHT_SHARE:
        return None
    return replace(found, is_moved=True, grid=grid)


def _is_soft(signals: Signals) -> bool:
    return signals.contacts >= MIN_CONTACTS and signals.soft_contacts >= SOFT * signals.contacts


def stands_out(signals: Signals) -> bool:
    """Return whether one mask stands out enough to spend 2 ms on its quality; of clean ones, those
    full of thin structures do.
    """
    soft = _is_soft(signals)
    # Boundaries of labels one step apart become blocky: hardly a step is left inside of the blocks.
    blocky = signals.blocks.phase <= BLOCKY_PHASE
    # Without contacts that could be soft, labels are two that follow each other, and roughness has
    # to do.
    return (
        soft
        or blocky
        or (
            signals.roughness >= ROUGHNESS
            and (signals.blocks.phase >= PHASE or not signals.contacts)
        )
    )


def table_of(observations: Sequence[MaskObservation]) -> MaskSignals:
    """Return the table of some masks."""
    rows = [
        (
            observation.signals or _NOTHING,
            observation.fixed or FixedPoint(0, 0, 0),
            observation.container,
        )
        for observation in observations
    ]
    grids = [fixed.grid or signals.grid or _NO_GRID for signals, fixed, _ in rows]
    columns = {
        "mixed": [signals.blocks.own for signals, _, _ in rows],
        "shifted": [signals.blocks.shifted for signals, _, _ in rows],
        "steps": [signals.steps for signals, _, _ in rows],
        "rim_pixels": [signals.rim_pixels for signals, _, _ in rows],
        "rough_pairs": [signals.rough_pairs for signals, _, _ in rows],
        "contacts": [signals.contacts for signals, _, _ in rows],
        "soft_contacts": [signals.soft_contacts for signals, _, _ in rows],
        "ramp_labels": [len(signals.ramp_ids) for signals, _, _ in rows],
        "quality": [fixed.quality for _, fixed, _ in rows],
        "fixed": [fixed.fixed for _, fixed, _ in rows],
        "tried": [fixed.blocks for _, fixed, _ in rows],
        "container": [container for _, _, container in rows],
        "fixed_moved": [fixed.is_moved for _, fixed, _ in rows],
        "turns": [np.nan if signals.turns is None else signals.turns for signals, _, _ in rows],
        "webp_gaps": [signals.gaps[0] for signals, _, _ in rows],
        "webp_filled": [signals.gaps[1] for signals, _, _ in rows],
        "grid_score": [grid.score for grid in grids],
        "own_score": [grid.own_score for grid in grids],
        "grid_px": [grid.period_px for grid in grids],
        "grid_row": [grid.row for grid in grids],
        "grid_column": [grid.column for grid in grids],
        "onsets": [grid.onsets for grid in grids],
    }
    return MaskSignals(**{name: np.array(values) for name, values in columns.items()})
