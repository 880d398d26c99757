"""Which masks disagree with what the tiles of all other slides teach: out-of-fold predictions rank
them for a second look.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from histoprep import tables
from histoprep.digests import file_digest
from histoprep.labels import LabelMap
from histoprep.schemas import findings as findings_schema
from histoprep.schemas.manifest import open_manifest
from histoprep.schemas.workspace import Workspace
from trainer.errors import DataError
from trainer.evaluation.features import Sight, open_sight
from trainer.evaluation.sides import ComparedTiles
from trainer.metrics.segmentation import pixel_confusion
from trainer.segmentation.quick import FeatureTile, QuickOptions, segment_maps, train_decoder

CODE, NAME = "review", "suspicious-mask"
NUM_FOLDS = 5
_STEP = 2
_NUM_PLANTED = 100
_LEAST_SIGMAS = 3.0
_LEAST_PLANTED_QUANTILE = 0.25
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, eq=False)
class ReviewedTile:
    """A tile and its mask under the network of the other folds.

    `score` is the mean surprise at its labelled pixels (nats) beyond what its classes cost on
    average; `disagreement` the share of labelled pixels that are read as another class; `detail`
    says which.
    """

    tile_id: str
    score: float
    disagreement: float
    detail: str


@dataclass(frozen=True, eq=False)
class Review:
    """All tiles, the most suspicious first; the first `num_suspicious` lie above `limit`.

    `planted` is the number of swapped masks that were scored as a control, `planted_found` how many
    of them lie above the limit.
    """

    tiles: list[ReviewedTile]
    limit: float
    num_suspicious: int
    planted: int
    planted_found: int

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "tiles": len(self.tiles),
            "limit": self.limit,
            "suspicious": self.num_suspicious,
            "planted": self.planted,
            "planted_found": self.planted_found,
        }


def review_masks(
    real: ComparedTiles,
    *,
    seed: int = 0,
    device: str = "cpu",
    quick: QuickOptions | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Review:
    """Return the masks of tiles, ranked by how they disagree with tiles of other groups.

    Groups are dealt to five folds (fewer, where there are fewer groups); a segmenter of the other
    folds reads each. Masks that are swapped between tiles are scored as a control. A tile is
    suspicious when its score is 3 robust standard deviations above the median and as high as three
    quarters of the swapped ones.

    Args:
        real: Tiles with masks.
        seed: Seed of folds, swaps and segmenters.
        device: Where to compute.
        quick: How segmenters are trained.
        advance: Called with the number of tiles that were read.

    Raises:
        DataError: With fewer than two groups or no mask.
    """
    sight = open_sight(device=device)
    encoded = _encode_all(sight, real, advance)
    label_map, rows = real.label_map, sorted(encoded)
    groups = np.unique([real.groups[row] for row in rows], return_inverse=True)[1]
    if label_map is None or not rows or groups.max() < 1:
        raise DataError(
            "masks of at least two groups are needed, since each is read by what others teach",
            seen=f"{len(rows):,} labelled tiles",
            hint="histoprep manifest ROOT --group-by PATTERN",
        )
    logs, masks, predicted = _read_out_of_fold(
        [encoded[row] for row in rows], groups, label_map.num_classes, seed, quick
    )
    costs = _class_costs(logs, masks, label_map.num_classes)
    scores = np.array(
        [_score(log, mask, costs) for log, mask in zip(logs, masks, strict=True)], dtype=float
    )
    planted = _planted_scores(logs, masks, costs, seed)
    limit = _limit(scores, planted)
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable").tolist()
    tiles = [
        _describe(real.ids[rows[index]], scores[index], masks[index], predicted[index], label_map)
        for index in order
    ]
    found = int((planted >= limit).sum())
    return Review(tiles, limit, int((scores >= limit).sum()), len(planted), found)


def write_review(review: Review, manifest: Path) -> Path:
    """Write the suspicious tiles as findings beside the data set, where `histoprep browse` shows
    them, and return the table's path.
    """
    opened = open_manifest(manifest)
    workspace = Workspace.of(opened.root)
    rows = opened.read(["tile_id", "image_path", "mask_path"]).to_pylist()
    paths = {row["tile_id"]: row["mask_path"] or row["image_path"] for row in rows}
    chosen = review.tiles[: review.num_suspicious]
    table = pa.table(
        {
            "code": [CODE] * len(chosen),
            "name": [NAME] * len(chosen),
            "subcode": [""] * len(chosen),
            "severity": ["warning"] * len(chosen),
            "where": [""] * len(chosen),
            "path": [paths[tile.tile_id] for tile in chosen],
            "detail": [tile.detail for tile in chosen],
            "known": [False] * len(chosen),
        },
        schema=findings_schema.SCHEMA,
    )
    digest = file_digest(workspace.tiles) if workspace.tiles.is_file() else None
    tables.write_table(
        workspace.review,
        [table],
        findings_schema.SCHEMA,
        kind=findings_schema.KIND,
        schema_version=findings_schema.VERSION,
        metadata={"rules": {}, "tiles_digest": digest, **review.to_json()},
    )
    return workspace.review


def browse_command(manifest: Path) -> str:
    """Return the command that shows the findings."""
    return f"histoprep browse {shlex.quote(str(open_manifest(manifest).root))}"


def _encode_all(
    sight: Sight, real: ComparedTiles, advance: Callable[[int], object]
) -> dict[int, FeatureTile]:
    encoded = {}
    for row in range(len(real)):
        image, mask = real.read(row)
        if mask is not None:
            encoded[row] = FeatureTile(sight.see(image).maps, mask)
        advance(1)
    return encoded


def _read_out_of_fold(
    tiles: list[FeatureTile],
    groups: np.ndarray,
    num_classes: int,
    seed: int,
    quick: QuickOptions | None,
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Return log-probabilities [C, h, w], masks and predicted masks [h, w] at half the size, of
    each tile by a segmenter that has not seen its group.
    """
    count = int(groups.max()) + 1
    fold_of_group = np.empty(count, dtype=int)
    fold_of_group[np.random.default_rng(seed).permutation(count)] = np.arange(count) % NUM_FOLDS
    folds = fold_of_group[groups]
    logs: dict[int, np.ndarray] = {}
    predicted: dict[int, np.ndarray] = {}
    for fold in np.unique(folds).tolist():
        others = [tile for tile, own in zip(tiles, folds, strict=True) if own != fold]
        decoder = train_decoder(others, num_classes, seed, quick)
        for index in np.flatnonzero(folds == fold).tolist():
            height, width = tiles[index].mask.shape
            found, logs[index] = segment_maps(decoder, tiles[index].maps, (height, width))
            predicted[index] = found[::_STEP, ::_STEP]
    numbers = range(len(tiles))
    masks = [tile.mask[::_STEP, ::_STEP] for tile in tiles]
    return [logs[index] for index in numbers], masks, [predicted[index] for index in numbers]


def _surprise(log: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the surprise (nats) at each labelled pixel, and its class; class 0 and ignored pixels
    are left out.
    """
    counted = (mask > 0) & (mask < len(log))
    ids = mask[counted].astype(int)
    return -log[:, counted][ids, np.arange(len(ids))].astype(float), ids


def _class_costs(logs: list[np.ndarray], masks: list[np.ndarray], num_classes: int) -> np.ndarray:
    """Return the median over tiles of the mean surprise at the pixels of each class, float [C]."""
    costs = np.zeros(num_classes)
    means: list[list[float]] = [[] for _ in range(num_classes)]
    for log, mask in zip(logs, masks, strict=True):
        surprise, ids = _surprise(log, mask)
        for class_id in np.unique(ids).tolist():
            means[class_id].append(float(surprise[ids == class_id].mean()))
    for class_id, values in enumerate(means):
        costs[class_id] = float(np.median(values)) if values else 0.0
    return costs


def _score(log: np.ndarray, mask: np.ndarray, costs: np.ndarray) -> float:
    surprise, ids = _surprise(log, mask)
    return float((surprise - costs[ids]).mean()) if len(ids) else float("nan")


def _planted_scores(
    logs: list[np.ndarray], masks: list[np.ndarray], costs: np.ndarray, seed: int
) -> np.ndarray:
    """Return the scores of tiles with the mask of another tile of their size."""
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(_NUM_PLANTED):
        first, second = (int(index) for index in rng.integers(len(masks), size=2))
        if first != second and masks[first].shape == masks[second].shape:
            score = _score(logs[first], masks[second], costs)
            scores += [score] if np.isfinite(score) else []
    return np.array(scores)


def _limit(scores: np.ndarray, planted: np.ndarray) -> float:
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return float("inf")
    middle = float(np.median(finite))
    sigma = _MAD_TO_SIGMA * float(np.median(np.abs(finite - middle)))
    least = float(np.quantile(planted, _LEAST_PLANTED_QUANTILE)) if len(planted) else -np.inf
    return max(middle + _LEAST_SIGMAS * sigma, least)


def _describe(
    tile_id: str, score: float, mask: np.ndarray, predicted: np.ndarray, label_map: LabelMap
) -> ReviewedTile:
    counts = pixel_confusion(mask, predicted, label_map.num_classes)[1:]
    total = int(counts.sum())
    wrong = counts.copy()
    wrong[np.arange(len(wrong)), np.arange(1, len(wrong) + 1)] = 0
    share = float(wrong.sum() / total) if total else 0.0
    own, read = np.unravel_index(int(wrong.argmax()), wrong.shape)
    names = [label_map.classes[int(number)].name for number in (own + 1, read)]
    part = wrong[own, read] / max(1, total)
    detail = (
        f"{share:.0%} of the labelled pixels are read as another class by a network of the other"
        f" groups, most of them ({part:.0%}) as {names[1]} where the mask says {names[0]}"
    )
    return ReviewedTile(tile_id, score, share, detail)
