"""Does a generated tile show what its mask says: a segmenter that learned from real training
groups reads both real and generated tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histoprep.labels import LabelMap
from trainer.evaluation.measured import Measured, json_number
from trainer.metrics.intervals import LEVEL, NUM_DRAWS, percentile_interval
from trainer.metrics.segmentation import class_iou, counted_classes, mean_iou, pixel_confusion

_NUM_SHUFFLES = 5
_NUM_HALVES = 200
_TAIL = (1 - LEVEL) / 2


@dataclass(frozen=True, eq=False)
class ReadTiles:
    """Tiles as the segmenter read them: `counts` int64 [tiles, C, C] (row mask, column prediction),
    `masks` and `predicted` uint8 [height, width], `groups` a name for each.
    """

    counts: np.ndarray
    masks: Sequence[np.ndarray]
    predicted: Sequence[np.ndarray]
    groups: np.ndarray

    @classmethod
    def of(
        cls,
        masks: Sequence[np.ndarray],
        predicted: Sequence[np.ndarray],
        groups: Sequence[str],
        num_classes: int,
    ) -> ReadTiles:
        """Return tiles with their confusion matrices; no tile at all is fine."""
        counts = [
            pixel_confusion(mask, found, num_classes)
            for mask, found in zip(masks, predicted, strict=True)
        ]
        stacked = np.array(counts, dtype=np.int64).reshape(-1, num_classes, num_classes)
        return cls(stacked, masks, predicted, np.array(groups, dtype=object).astype(str))


def measure_faithfulness(
    generated: ReadTiles,
    real: ReadTiles,
    label_map: LabelMap,
    *,
    every: ReadTiles | None = None,
    seed: int = 0,
) -> Measured:
    """Return F = mIoU(seg(G(m)), m) / mIoU(seg(x), m): 1 where a generated tile shows its mask as
    clearly as a real one.

    The mean is over classes that occur in both sets of masks, class 0 aside (see
    `counted_classes`). Groups that both sets have are drawn together. The floor is F of one half
    of the real groups against the other. `shuffled` is F where generated tiles are held against
    each other's masks: what needs no mask to be followed.

    Args:
        generated: Generated tiles and the masks they were made for.
        real: Real tiles of groups that the segmenter has not learned from.
        label_map: The classes.
        every: All such real tiles, where `real` are only those whose masks the generated ones have:
            the floor is of these.
        seed: Seed of draws and shuffles.
    """
    rng = np.random.default_rng(seed)
    totals = [tiles.counts.sum(axis=0) for tiles in (generated, real)]
    classes = counted_classes(totals[0]) & (totals[1].sum(axis=1) > 0)
    drawn = _draw_both(generated, real, rng)
    upper, lower = (mean_iou(total, classes) for total in totals)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = mean_iou(drawn[0], classes) / mean_iou(drawn[1], classes)
        value = float(upper / lower)
    interval = percentile_interval(value, ratios)
    floors = _half_ratios(every or real, classes, rng)
    shuffled = float(mean_iou(shuffled_counts(generated, rng), classes) / lower)
    iou = [class_iou(total) for total in totals]
    more = {
        "miou": json_number(float(upper)),
        "real_miou": json_number(float(lower)),
        "shuffled": json_number(shuffled),
        "classes": [cls.name for cls in label_map.classes if classes[cls.id]],
        "by_class": {
            cls.name: {
                "iou": json_number(float(iou[0][cls.id])),
                "real_iou": json_number(float(iou[1][cls.id])),
            }
            for cls in label_map.classes
            if totals[0][cls.id].sum() or totals[1][cls.id].sum()
        },
    }
    return Measured(value, interval.low, interval.high, *floors, more)


def measure_shares(
    generated: ReadTiles, real: ReadTiles, label_map: LabelMap, *, seed: int = 0
) -> Measured:
    """Return how far the shares of classes that the segmenter reads are from those of the masks:
    the L1 distance, 0 to 2.

    The floor is that of real tiles, whose shares the segmenter gets wrong, too.

    Args:
        generated: Generated tiles and the masks they were made for.
        real: Real tiles that the segmenter has not learned from.
        label_map: The classes.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    drawn = _draw_both(generated, real, rng)
    totals = [tiles.counts.sum(axis=0) for tiles in (generated, real)]
    values = [float(_share_distance(total)) for total in totals]
    interval = percentile_interval(values[0], _share_distance(drawn[0]))
    floor = percentile_interval(values[1], _share_distance(drawn[1]))
    shares = {
        name: total.sum(axis=axis) / max(1, total.sum())
        for name, total, axis in (
            ("masks", totals[0], 1),
            ("generated", totals[0], 0),
            ("real_masks", totals[1], 1),
            ("real", totals[1], 0),
        )
    }
    by_class = {
        cls.name: {name: float(values_[cls.id]) for name, values_ in shares.items()}
        for cls in label_map.classes
    }
    return Measured(
        interval.value,
        interval.low,
        interval.high,
        floor.value,
        floor.low,
        floor.high,
        {"by_class": by_class},
    )


def shuffled_counts(tiles: ReadTiles, rng: np.random.Generator) -> np.ndarray:
    """Return the confusion of tiles with the masks of other tiles of their size, int64 [C, C]."""
    sizes = np.array([str(mask.shape) for mask in tiles.masks])
    total = np.zeros(tiles.counts.shape[1:], dtype=np.int64)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        for _ in range(_NUM_SHUFFLES):
            order = rng.permutation(rows)
            # A cycle through all of them: no tile keeps its own mask.
            for row, other in zip(order, np.roll(order, 1), strict=True):
                if row != other:
                    total += pixel_confusion(tiles.masks[other], tiles.predicted[row], len(total))
    return total


def _share_distance(counts: np.ndarray) -> np.ndarray:
    pixels = np.maximum(counts.sum(axis=(-2, -1))[..., None], 1)
    result: np.ndarray = np.abs((counts.sum(axis=-1) - counts.sum(axis=-2)) / pixels).sum(axis=-1)
    return result


def _draw_both(
    generated: ReadTiles, real: ReadTiles, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return summed counts of bootstrap draws of groups, int64 [draws, C, C] of each set."""
    names = np.unique(np.concatenate([generated.groups, real.groups]))
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=NUM_DRAWS)
    drawn = [
        np.tensordot(weights[:, np.searchsorted(names, tiles.groups)], tiles.counts, axes=1)
        for tiles in (generated, real)
    ]
    return drawn[0], drawn[1]


def _half_ratios(
    real: ReadTiles, classes: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return mean and 95 % limits of the ratio of mIoU between halves of the real groups; NaN with
    fewer than two groups.
    """
    names, place = np.unique(real.groups, return_inverse=True)
    if len(names) < 2:
        return (float("nan"),) * 3
    ratios = []
    for _ in range(_NUM_HALVES):
        side = rng.permutation(len(names)) < len(names) / 2
        first, second = (
            mean_iou(real.counts[chosen].sum(axis=0), classes)
            for chosen in (side[place], ~side[place])
        )
        ratios.append(float(first / second) if second > 0 else float("nan"))
    found = np.array(ratios)
    found = found[np.isfinite(found)]
    if not len(found):
        return (float("nan"),) * 3
    low, high = np.quantile(found, [_TAIL, 1 - _TAIL])
    return float(np.exp(np.log(np.maximum(found, 1e-9)).mean())), float(low), float(high)
