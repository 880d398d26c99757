"""Do generated tiles vary within a class as real ones do: a generator that exaggerates what is
typical is read well by a segmenter and shows too little of the range.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histoprep.labels import LabelMap
from trainer.evaluation.measured import Measured, json_number
from trainer.metrics.intervals import LEVEL

_NUM_DRAWS = 200
_LEAST_REGIONS = 8
_TAIL = (1 - LEVEL) / 2
Regions = Sequence[dict[int, np.ndarray]]


def measure_spread(
    generated: Regions,
    real: Regions,
    generated_groups: np.ndarray,
    groups: np.ndarray,
    label_map: LabelMap,
    *,
    seed: int = 0,
) -> Measured:
    """Return the spread of generated regions inside a class over that of real ones: the geometric
    mean over classes with at least 8 regions in both sets, NaN without any.

    Spread is the root of the summed variances of the features of regions, one region a tile and
    class. The interval draws groups of both sets; the floor is the ratio of one half of the real
    groups, thinned to the number of generated tiles, to the other.

    Args:
        generated: Features of the regions of each generated tile, by class id.
        real: The same of each real tile.
        generated_groups: Group of each generated tile, int.
        groups: Group of each real tile, int.
        label_map: The classes.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    classes = [
        cls.id
        for cls in label_map.classes
        if min(sum(cls.id in tile for tile in side) for side in (generated, real)) >= _LEAST_REGIONS
    ]
    table, table_generated = (_tables(side, classes) for side in (real, generated))
    every, every_generated = (np.arange(len(side)) for side in (real, generated))

    def ratio(rows: np.ndarray, others: np.ndarray, below: dict[int, np.ndarray]) -> float:
        """Return the ratio of a draw of some tiles to one of real tiles."""
        logs = [np.log(_spread(below[cls], rows) / _spread(table[cls], others)) for cls in classes]
        finite = [value for value in logs if np.isfinite(value)]
        return float(np.exp(np.mean(finite))) if finite else float("nan")

    with np.errstate(divide="ignore", invalid="ignore"):
        value = ratio(every_generated, every, table_generated)
        drawn = [
            ratio(_draw(generated_groups, rng), _draw(groups, rng), table_generated)
            for _ in range(_NUM_DRAWS)
        ]
        halves = [_half(groups, rng) for _ in range(_NUM_DRAWS)]
        floors = [ratio(np.flatnonzero(side), np.flatnonzero(~side), table) for side in halves]
        by_class = {
            cls.name: json_number(
                _spread(table_generated[cls.id], every_generated) / _spread(table[cls.id], every)
            )
            for cls in label_map.classes
            if cls.id in classes
        }
    low, high = _limits(drawn)
    floor_low, floor_high = _limits(floors)
    return Measured(value, low, high, 1.0, floor_low, floor_high, {"by_class": by_class})


def _tables(side: Regions, classes: Sequence[int]) -> dict[int, np.ndarray]:
    """Return the features of each class, float64 [tiles, d], NaN where a tile has no region."""
    found = {}
    for cls in classes:
        width = len(next(tile[cls] for tile in side if cls in tile))
        found[cls] = np.stack([tile.get(cls, np.full(width, np.nan)) for tile in side])
    return found


def _spread(features: np.ndarray, rows: np.ndarray) -> float:
    chosen = features[rows]
    chosen = chosen[~np.isnan(chosen[:, 0])]
    if len(chosen) < 3:
        return float("nan")
    return float(np.sqrt(chosen.var(axis=0, ddof=1).sum()))


def _draw(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    names = np.unique(groups)
    drawn = rng.choice(names, len(names))
    return np.concatenate([np.flatnonzero(groups == name) for name in drawn])


def _half(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    names, place = np.unique(groups, return_inverse=True)
    return np.asarray((rng.permutation(len(names)) < len(names) / 2)[place])


def _thin(rows: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= most else rng.choice(rows, most, replace=False)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    finite = np.array([value for value in values if np.isfinite(value)])
    if len(finite) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [_TAIL, 1 - _TAIL])
    return float(low), float(high)
