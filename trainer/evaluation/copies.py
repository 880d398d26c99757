"""Does a generator give back its training tiles: nearest thumbnails in training against those in
held-out groups, with planted copies that must be found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from histoprep import imageio
from trainer.data.transforms import NUM_VIEWS, apply_view
from trainer.evaluation.features import thumbnail
from trainer.evaluation.measured import Measured
from trainer.metrics.intervals import percentile_interval

LEAST_HELD_OUT = 10
_LEAST_PLANTED, _PLANTED_SHARE = 5, 0.01
_NUM_DRAWS = 200
_MARGIN = 0.6
_JPEG_QUALITY, _BLUR_PX, _GAIN = 75, 1.0, 0.04
_LEAST_DISTANCE = 1e-3


@dataclass(frozen=True, eq=False)
class CopySearch:
    """What was found: `measured` is the median ratio, `verdict` `none`, `copies` or `cannot tell`,
    `found` (row of a generated tile, row of the training tile, ratio), the most certain first.
    """

    measured: Measured
    verdict: str
    found: list[tuple[int, int, float]]


def search_copies(
    generated: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    generated_groups: np.ndarray,
    held_out_groups: np.ndarray,
    read_train: Callable[[int], np.ndarray],
    *,
    seed: int = 0,
) -> CopySearch:
    """Return which generated tiles are too near to a training tile.

    The ratio of a tile is its distance to the nearest training tile over that to the nearest
    held-out tile of another group, as thumbnails under all eight symmetries (a tile that was made
    for a mask is like the tile of that mask). Real held-out tiles, measured in the same way, say
    which ratios occur without copying:
    a copy lies at six tenths of the lowest of them or below. Copies of training tiles, turned,
    blurred, recompressed and brightened as a codec might, are planted as a control: unless all of
    them are found, nothing can be told.

    Args:
        generated: Thumbnails of generated tiles, float32 [n, 32, 32, 3] in 0-255.
        train: Those of training tiles.
        held_out: Those of real tiles of groups that were not trained on.
        generated_groups: Name of the group of each generated tile, str [n].
        held_out_groups: Name of the group of each held-out tile, str.
        read_train: Training tile by row, uint8 RGB, for the planted copies.
        seed: Seed of planted copies and draws.
    """
    nan = float("nan")
    nothing = Measured(nan, nan, nan, nan, nan, nan, {"planted": 0, "planted_found": 0})
    if len(np.unique(held_out_groups)) < 2 or len(held_out) < LEAST_HELD_OUT or not len(train):
        return CopySearch(nothing, "cannot tell", [])
    rng = np.random.default_rng(seed)
    control = _ratios(held_out, train, held_out, _apart(held_out_groups, held_out_groups))[0]
    control = control[np.isfinite(control)]
    allowed = _apart(generated_groups, held_out_groups)
    ratios, nearest = _ratios(generated, train, held_out, allowed)
    limit = _MARGIN * float(control.min())
    count = min(len(train), max(_LEAST_PLANTED, round(_PLANTED_SHARE * len(generated))))
    rows = rng.choice(len(train), count, replace=False)
    planted = np.stack([thumbnail(disguise(read_train(int(row)), rng)) for row in rows])
    planted_ratios, planted_nearest = _ratios(planted, train, held_out, None)
    hits = int(((planted_ratios <= limit) & (planted_nearest == rows)).sum())
    drawn = np.array([_draw_median(ratios, generated_groups, rng) for _ in range(_NUM_DRAWS)])
    floors = np.array([_draw_median(control, None, rng) for _ in range(_NUM_DRAWS)])
    value, floor = (
        percentile_interval(float(np.nanmedian(of)), draws)
        for of, draws in ((ratios, drawn), (control, floors))
    )
    order = np.flatnonzero(ratios <= limit)
    order = order[np.argsort(ratios[order], kind="stable")]
    found = [(int(row), int(nearest[row]), float(ratios[row])) for row in order]
    more: dict[str, Any] = {"planted": count, "planted_found": hits, "limit": limit}
    measured = Measured(
        value.value, value.low, value.high, floor.value, floor.low, floor.high, more
    )
    verdict = "cannot tell" if hits < count else "copies" if found else "none"
    return CopySearch(measured, verdict, found)


def disguise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a copy of an image as a generator might give it back: turned or mirrored, blurred by 1
    px, brighter or darker by up to 4 %, and through JPEG 75.
    """
    turned = np.ascontiguousarray(apply_view(image, int(rng.integers(NUM_VIEWS))))
    blurred = cv2.GaussianBlur(turned, (0, 0), _BLUR_PX).astype(np.float32)
    changed = np.clip(blurred * (1 + rng.uniform(-_GAIN, _GAIN)), 0, 255).astype(np.uint8)
    return imageio.decode_rgb(imageio.encode_rgb_jpeg(changed, _JPEG_QUALITY))


def nearest_distances(
    queries: np.ndarray, others: np.ndarray, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each query to its nearest other, and which that is.

    A distance is the root mean square over pixels and channels, the least of the eight symmetries.

    Args:
        queries: Thumbnails [n, h, w, 3].
        others: Thumbnails [m, h, w, 3].
        allowed: Which pairs count, bool [n, m]; None for all.

    Returns:
        Distances float64 [n] (infinite where no pair counts), and rows int64 [n].
    """
    flat = _flatten(others)
    norms = np.square(flat).sum(axis=1)
    best = np.full((len(queries), len(others)), np.inf)
    for view in range(NUM_VIEWS):
        turned = _flatten(apply_view(queries, view, axes=(1, 2)))
        squared = np.square(turned).sum(axis=1)[:, None] + norms - 2 * turned @ flat.T
        np.minimum(best, squared, out=best)
    if allowed is not None:
        best[~allowed] = np.inf
    rows = best.argmin(axis=1)
    least = np.maximum(best[np.arange(len(best)), rows], 0)
    return np.sqrt(least / flat.shape[1]), rows


def _ratios(
    queries: np.ndarray, train: np.ndarray, held_out: np.ndarray, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ratio of each query, NaN where no held-out tile is allowed for it, and its nearest
    training tile.
    """
    to_train, rows = nearest_distances(queries, train)
    to_held_out, _ = nearest_distances(queries, held_out, allowed)
    ratios = to_train / np.maximum(to_held_out, _LEAST_DISTANCE)
    ratios[~np.isfinite(to_held_out)] = np.nan
    return ratios, rows


def _apart(groups: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.asarray(groups[:, None] != others[None, :])


def _flatten(thumbnails: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(thumbnails, dtype=np.float64).reshape(len(thumbnails), -1)


def _draw_median(values: np.ndarray, groups: np.ndarray | None, rng: np.random.Generator) -> float:
    """Return the median of a bootstrap draw of groups, or of values where there are no groups."""
    if groups is None:
        return float(np.nanmedian(rng.choice(values, len(values))))
    names, place = np.unique(groups, return_inverse=True)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
    return float(np.nanmedian(np.repeat(values, weights[place])))
