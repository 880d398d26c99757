"""Are generated tiles of use as training data: a segmenter and a classifier learn from real,
generated and both, and are tested on the same real tiles of other groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.metrics.classification import confusion_matrix, count_scores
from trainer.metrics.intervals import NUM_DRAWS, draw_counts, percentile_interval
from trainer.metrics.segmentation import counted_classes, mean_iou, pixel_confusion
from trainer.segmentation.quick import FeatureTile, QuickOptions, segment_maps, train_decoder

SEEDS = (0, 1, 2)
_BEST = "balanced_accuracy"


@dataclass(frozen=True, eq=False)
class LabelledTile:
    """A tile to learn from or to test on: block outputs with the mask, features float64 [d], and
    an image-level class, None where it has none.
    """

    encoded: FeatureTile
    vector: np.ndarray
    label: str | None


def main_class(mask: np.ndarray, num_classes: int) -> str | None:
    """Return the class with the most pixels of a mask, class 0 aside, as text; None without any."""
    counts = np.bincount(mask[mask < num_classes].ravel(), minlength=num_classes)
    return str(int(counts[1:].argmax()) + 1) if counts[1:].any() else None


def measure_downstream(
    real: Sequence[LabelledTile],
    generated: Sequence[LabelledTile],
    test: Sequence[LabelledTile],
    test_groups: np.ndarray,
    num_classes: int,
    *,
    options: QuickOptions | None = None,
) -> dict[str, Any]:
    """Return the scores on test tiles after learning from `real`, `synthetic` and `both`.

    Each is a mean over three seeds, with a 95 % interval drawn by test group; `both_minus_real` is
    paired: the same draws of the same tiles.

    Args:
        real: Real training tiles.
        generated: Generated tiles made for masks of training groups.
        test: Real tiles of other groups.
        test_groups: Group of each test tile, int.
        num_classes: Number of classes.
        options: How segmenters are trained, all alike.
    """
    sets = {"real": real, "synthetic": generated, "both": [*real, *generated]}
    counts = {
        name: np.stack(
            [_segmenter_counts(tiles, test, num_classes, seed, options) for seed in SEEDS]
        )
        for name, tiles in sets.items()
    }
    truth = counts["real"][0].sum(axis=0)
    classes = counted_classes(truth)
    result: dict[str, Any] = {
        "seeds": len(SEEDS),
        "test_tiles": len(test),
        "segmenter": {
            "measure": "mIoU",
            **_compared(counts, test_groups, lambda drawn: mean_iou(drawn, classes)),
        },
        "classifier": None,
    }
    names = sorted({tile.label for tile in test if tile.label is not None})
    known = [tile for tile in test if tile.label is not None]
    if len(names) > 1 and all(_can_learn(tiles, names) for tiles in sets.values()):
        chosen = np.array([tile.label is not None for tile in test])
        found = {
            name: np.stack([_classifier_counts(tiles, known, names, seed) for seed in SEEDS])
            for name, tiles in sets.items()
        }
        result["classifier"] = {
            "measure": "balanced accuracy",
            **_compared(found, test_groups[chosen], lambda drawn: count_scores(drawn)[_BEST]),
        }
    return result


def _segmenter_counts(
    tiles: Sequence[LabelledTile],
    test: Sequence[LabelledTile],
    num_classes: int,
    seed: int,
    options: QuickOptions | None,
) -> np.ndarray:
    """Return the confusion matrix of each test tile, int64 [tests, C, C]."""
    decoder = train_decoder([tile.encoded for tile in tiles], num_classes, seed, options)
    counts = []
    for tile in test:
        mask = tile.encoded.mask
        predicted, _ = segment_maps(decoder, tile.encoded.maps, (mask.shape[0], mask.shape[1]))
        counts.append(pixel_confusion(mask, predicted, num_classes))
    return np.stack(counts)


def _can_learn(tiles: Sequence[LabelledTile], names: Sequence[str]) -> bool:
    return len({tile.label for tile in tiles} & set(names)) > 1


def _classifier_counts(
    tiles: Sequence[LabelledTile],
    test: Sequence[LabelledTile],
    names: Sequence[str],
    seed: int,
) -> np.ndarray:
    """Return the confusion matrix of each test tile: a logistic regression on standardised
    features, of a bootstrap draw of the training tiles.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    rng = np.random.default_rng(seed)
    usable = [tile for tile in tiles if tile.label in names]
    drawn = [usable[int(row)] for row in rng.integers(len(usable), size=len(usable))]
    if not _can_learn(drawn, names):
        drawn = usable
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=500)
    )
    model.fit(np.stack([tile.vector for tile in drawn]), [tile.label for tile in drawn])
    predicted = model.predict(np.stack([tile.vector for tile in test]))
    number = {name: index for index, name in enumerate(names)}
    pairs = [
        (number[str(tile.label)], number[str(found)])
        for tile, found in zip(test, predicted, strict=True)
    ]
    return np.stack(
        [
            confusion_matrix(np.array([truth]), np.array([found]), len(names))
            for truth, found in pairs
        ]
    )


def _compared(
    counts: Mapping[str, np.ndarray],
    groups: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
) -> dict[str, Any]:
    """Return value, low and high of each set, and of both minus real; counts [seeds, tiles, C,
    C].
    """
    weights = draw_counts(groups, NUM_DRAWS, 0)
    values, drawn = {}, {}
    for name, found in counts.items():
        values[name] = float(np.mean([score(seed.sum(axis=0)) for seed in found]))
        drawn[name] = np.mean(
            [score(np.tensordot(weights, seed, axes=1)) for seed in found], axis=0
        )
    values["both_minus_real"] = values["both"] - values["real"]
    drawn["both_minus_real"] = drawn["both"] - drawn["real"]
    return {
        name: percentile_interval(value, drawn[name]).to_json() for name, value in values.items()
    }
