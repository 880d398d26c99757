"""Labels that a repair must not do without: thin ones, which fill no block and have no core that
could be trusted. Pure.

A repair without them is less likely than the damaged mask itself, or explains hardly more than half
of its blocks. Then each label that the blocks show which the repair does not explain is tried on
some of them; the one that explains most is let in, and the next one is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from histoprep.lossy.under_repair import UnderRepair

# Share of the blocks that a repair without missing labels explains. At 0.8 the search let false
# ones into repaired regions.
_MIN_FITTING = 0.6
# Labels let in, labels tried for each, and blocks a label is tried on.
_MOST_LABELS, _MOST_TRIED, _MOST_BLOCKS = 4, 6, 48
# What a label must show and explain: blocks, and the share of their cost that it may leave.
_MIN_BLOCKS, _MAX_COST_LEFT = 16, 0.5
# JPEG's own false labels are thin, and lie between a smaller and a larger one.
_MIN_RADIUS_PX, _MAX_BETWEEN = 2.0, 0.8
_AROUND = np.ones((5, 5), np.uint8)


def let_missing_labels_in(mask: UnderRepair, known: Sequence[int] = ()) -> UnderRepair:
    """Return the mask repaired with the labels that were missing, or as it was; those `known` to
    be of its source are tried however few blocks show them, unless they follow each other: JPEG
    makes one of another then.
    """
    known = [label for label in known if not {label - 1, label + 1} & set(known)]
    for _ in range(_MOST_LABELS):
        if mask.against_none() <= 1 and mask.fits().mean() >= _MIN_FITTING:
            break
        unexplained = mask.shown() & ~mask.fits()
        counts = unexplained.sum(axis=1)
        counts[mask.ids] = 0
        tried = [
            label
            for label in np.argsort(-counts, kind="stable")[:_MOST_TRIED]
            if counts[label] >= (1 if label in known else _MIN_BLOCKS)
        ]
        gains = {
            label: gain
            for label in tried
            if (gain := _gain(mask, label, np.flatnonzero(unexplained[label]), label in known))
        }
        if not gains:
            break
        label = max(gains, key=lambda candidate: gains[candidate])
        mask = mask.with_label(label, np.flatnonzero(unexplained[label]))
    return mask


def _gain(mask: UnderRepair, label: int, where: np.ndarray, is_known: bool) -> float:
    """Return how much of the cost of the blocks `where` a label takes away, less for one that may
    be false; 0 when too little.
    """
    between = _share_between(mask.damaged, label)
    if not is_known and (
        between > _MAX_BETWEEN or _radius_px(mask.damaged == label) < _MIN_RADIUS_PX
    ):
        return 0.0
    sample = where[np.linspace(0, len(where) - 1, min(_MOST_BLOCKS, len(where))).astype(int)]
    before = mask.costs()[sample].sum()
    after = mask.with_label(label, sample).costs()[sample].sum()
    return (
        float((before - after) * len(where) / len(sample) * (1 - between))
        if after <= _MAX_COST_LEFT * before
        else 0.0
    )


def _share_between(labels: np.ndarray, label: int) -> float:
    """Return the share of a label's pixels that have a smaller and a larger label within 5x5."""
    here = labels == label
    smaller, larger = (
        cv2.dilate(side.astype(np.uint8), _AROUND) > 0 for side in (labels < label, labels > label)
    )
    return float((here & smaller & larger).sum() / here.sum())


def _radius_px(here: np.ndarray) -> float:
    """Return the radius of the largest circle inside."""
    return float(cv2.distanceTransform(np.pad(here.astype(np.uint8), 1), cv2.DIST_L2, 5).max())
