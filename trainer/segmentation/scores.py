"""The numbers of a segmenter: IoU with intervals, drawn by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from histoprep.labels import LabelMap
from trainer.metrics.intervals import NUM_DRAWS, Interval, draw_counts, percentile_interval
from trainer.metrics.segmentation import class_iou, counted_classes, dice, mean_iou


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """How well predicted masks agree with masks: `miou` and `accuracy` with 95 % intervals, and a
    row a class by name.

    The mean is over the classes of `counted_classes`, named in `counted`.
    """

    tiles: int
    groups: int
    miou: Interval
    accuracy: Interval
    by_class: Mapping[str, Mapping[str, Any]]
    counted: tuple[str, ...]
    confusion: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; what is undefined is null."""
        return {
            "tiles": self.tiles,
            "groups": self.groups,
            "interval": "95 % bootstrap percentiles, drawn by group",
            "miou": self.miou.to_json(),
            "accuracy": self.accuracy.to_json(),
            "classes_of_miou": list(self.counted),
            "by_class": {
                name: {
                    key: value.to_json() if isinstance(value, Interval) else value
                    for key, value in row.items()
                }
                for name, row in self.by_class.items()
            },
            "confusion": self.confusion.tolist(),
        }


def score_masks(
    counts: np.ndarray, groups: np.ndarray, label_map: LabelMap, *, seed: int = 0
) -> SegmentationScores:
    """Return the scores of predicted masks.

    Args:
        counts: The confusion matrix of each tile, int64 [tiles, C, C].
        groups: Group of each tile, int [tiles]; whole groups are drawn.
        label_map: The classes.
        seed: Seed of the draws.
    """
    total = counts.sum(axis=0)
    drawn = np.tensordot(draw_counts(groups, NUM_DRAWS, seed), counts, axes=1)
    counted = counted_classes(total)
    iou, drawn_iou, both = class_iou(total), class_iou(drawn), dice(total)
    by_class = {
        cls.name: {
            "pixels": int(total[cls.id].sum()),
            "iou": percentile_interval(float(iou[cls.id]), drawn_iou[:, cls.id]),
            "dice": None if np.isnan(both[cls.id]) else float(both[cls.id]),
        }
        for cls in label_map.classes
    }
    return SegmentationScores(
        len(counts),
        len(np.unique(groups)),
        percentile_interval(float(mean_iou(total, counted)), mean_iou(drawn, counted)),
        percentile_interval(float(_accuracy(total)), _accuracy(drawn)),
        by_class,
        tuple(cls.name for cls in label_map.classes if counted[cls.id]),
        total,
    )


def _accuracy(counts: np.ndarray) -> np.ndarray:
    hits = np.trace(counts, axis1=-2, axis2=-1)
    result: np.ndarray = hits / np.maximum(counts.sum(axis=(-2, -1)), 1)
    return result
