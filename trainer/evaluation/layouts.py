"""Are generated masks like real ones? Class shares, which classes come together, sizes of regions
and lengths of boundaries, each against real masks of other groups; and whether they are copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8
from scipy.stats import binom, wasserstein_distance

from trainer.data.mask_cells import enlarge_cells, reduce_masks
from trainer.evaluation.copies import nearest_distances
from trainer.evaluation.distances import cut_halves, measure_halves
from trainer.evaluation.measured import Measured

LIKE_REAL = "like real masks"
_PRESENT = 0.01
_LEAST_AREA_PX = 4
_NUM_HALVES = 100
# Copies: cells a side of the compared masks, and the share of one class from which a mask is plain.
_SIDE, _PLAIN = 16, 0.95
_NUM_PLANTED, _MOST_COMPARED, _LEAST_HELD_OUT = 20, 1500, 10
_MOST_OF_CONTROL, _CERTAIN = 0.05, 0.975


@dataclass(frozen=True, eq=False)
class Layouts:
    """What is measured of some masks.

    Attributes:
        shares: Share of each class, float64 [n, classes].
        contacts: Pairs of neighbouring pixels of two classes, over the pairs of neighbours, by
            class pair: float64 [n, classes * (classes - 1) / 2].
        areas: For each class, the areas of its regions as log2 of their share of a mask.
        of_mask: For each class, the masks that these regions are in.
    """

    shares: np.ndarray
    contacts: np.ndarray
    areas: list[np.ndarray]
    of_mask: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class CopiedMasks:
    """What was found of copies.

    Attributes:
        verdict: `none`, `copies` or `cannot tell`.
        found: Generated masks as near to a training mask as planted copies are: (number, training
            mask, share of the cells that differ).
        judged: Number of generated masks that are not almost of one class.
        control: Share of held-out masks that are as near to a training mask.
        planted: Disguised copies that were planted.
        planted_found: Those whose nearest training mask is the one they were made of.
    """

    verdict: str
    found: list[tuple[int, int, float]]
    judged: int
    control: float
    planted: int
    planted_found: int


@dataclass(frozen=True, eq=False)
class LayoutScores:
    """What generated masks are worth.

    Attributes:
        measures: By name; the smaller, the more like real masks. `more` has `kept`: what real
            masks give on the cells that the model works on.
        copies: What was found of copies of training masks.
        verdict: In words.
    """

    measures: Mapping[str, Measured]
    copies: CopiedMasks
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            **{name: measured.to_json() for name, measured in self.measures.items()},
            "copies": asdict(self.copies),
            "verdict": self.verdict,
        }


def describe_layouts(masks: UInt8[np.ndarray, "n height width"], num_classes: int) -> Layouts:
    """Return what is measured of masks of one size.

    Args:
        masks: Class ids, uint8 [n, height, width].
        num_classes: Class ids 0 .. num_classes - 1 may occur; other values are left out.
    """
    shares = np.stack([(masks == cls).mean(axis=(1, 2)) for cls in range(num_classes)], axis=1)
    areas: list[list[float]] = [[] for _ in range(num_classes)]
    of_mask: list[list[int]] = [[] for _ in range(num_classes)]
    for number, mask in enumerate(masks):
        for cls in np.unique(mask[mask < num_classes]).tolist():
            stats = cv2.connectedComponentsWithStats((mask == cls).astype(np.uint8))[2]
            found = stats[1:, cv2.CC_STAT_AREA]
            logs = np.log2(found[found >= _LEAST_AREA_PX] / mask.size).tolist()
            areas[cls] += logs
            of_mask[cls] += [number] * len(logs)
    return Layouts(
        shares,
        count_contacts(masks, num_classes),
        [np.array(values) for values in areas],
        [np.array(values, dtype=np.int64) for values in of_mask],
    )


def count_contacts(
    masks: UInt8[np.ndarray, "n height width"], num_classes: int
) -> Float64[np.ndarray, "n pairs"]:
    """Return how often each two classes are next to each other, over all pairs of neighbours: the
    length of the boundary between them, by pair (0, 1), (0, 2), ... (1, 2), ...
    """
    contacts = np.zeros((len(masks), num_classes, num_classes))
    total = 0
    for first, second in (
        (masks[:, 1:], masks[:, :-1]),
        (masks[:, :, 1:], masks[:, :, :-1]),
    ):
        total += first[0].size
        apart = (first != second) & (first < num_classes) & (second < num_classes)
        number = np.nonzero(apart)[0]
        np.add.at(contacts, (number, first[apart], second[apart]), 1)
    both = contacts + contacts.transpose(0, 2, 1)
    return np.asarray(both[:, *np.triu_indices(num_classes, 1)] / total)


def score_layouts(
    real: UInt8[np.ndarray, "n height width"],
    generated: UInt8[np.ndarray, "m height width"],
    groups: np.ndarray,
    is_train: Bool[np.ndarray, " n"],
    num_classes: int,
    cell_px: int,
    *,
    seed: int = 0,
) -> LayoutScores:
    """Return how generated masks compare with real ones of the same size.

    Each measure is a mean over halves of the real masks that share no group: of one half against as
    many generated masks; the floor is that of the two halves. `shares`: L1 distance of the mean
    class shares. `co_occurrence`: mean difference, over pairs of classes, of the share of masks
    that hold both. `regions`: distance of the distributions of region areas in octaves
    (Wasserstein-1 of log2), mean over classes. `boundary`: L1 distance of the boundary lengths by
    pair of classes, over the whole length of the real ones.

    Args:
        real: Class ids of real masks.
        generated: Class ids of generated masks.
        groups: Number of the group (slide, case, patient) of each real mask, int [n].
        is_train: Which real masks the model was trained on.
        num_classes: Class ids 0 .. num_classes - 1 may occur.
        cell_px: Pixels a side of the cells of the model.
        seed: Seed of halves and planted copies.
    """
    rng = np.random.default_rng(seed)
    own = [np.arange(len(generated)), np.arange(len(real))]
    halves = cut_halves(groups, own[0], _NUM_HALVES, rng)
    kept = enlarge_cells(reduce_masks(real, num_classes, cell_px), num_classes, cell_px)
    sides = [describe_layouts(masks, num_classes) for masks in (real, generated, kept)]
    measures = {
        name: measure_halves(
            halves,
            _between(measure, sides[0], sides[0]),
            _between(measure, sides[0], sides[1]),
            None,
            {"kept": measure(sides[0], own[1], sides[2], own[1])},
        )
        for name, measure in _MEASURES.items()
    }
    copies = _search_copies(real, generated, is_train, num_classes, rng)
    return LayoutScores(measures, copies, _verdict_of(measures, copies))


_Measure = Callable[[Layouts, np.ndarray, Layouts, np.ndarray], float]


def _between(
    measure: _Measure, first: Layouts, second: Layouts
) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda rows, others: measure(first, rows, second, others)


def _shares(first: Layouts, rows: np.ndarray, second: Layouts, others: np.ndarray) -> float:
    means = [side.shares[some].mean(axis=0) for side, some in ((first, rows), (second, others))]
    return float(np.abs(means[0] - means[1]).sum())


def _co_occurrence(first: Layouts, rows: np.ndarray, second: Layouts, others: np.ndarray) -> float:
    together = []
    for side, some in ((first, rows), (second, others)):
        present = (side.shares[some] >= _PRESENT).astype(float)
        together.append(present.T @ present / len(some))
    occurs = np.flatnonzero((first.shares >= _PRESENT).any(axis=0))
    pairs = np.array(list(combinations(occurs.tolist(), 2)), dtype=np.int64).reshape(-1, 2)
    apart = np.abs(together[0] - together[1])[pairs[:, 0], pairs[:, 1]]
    return float(apart.mean()) if len(apart) else 0.0


def _regions(first: Layouts, rows: np.ndarray, second: Layouts, others: np.ndarray) -> float:
    distances = []
    for cls in range(len(first.areas)):
        sides = []
        for side, some in ((first, rows), (second, others)):
            counts = np.bincount(some, minlength=len(side.shares))
            sides.append((side.areas[cls], counts[side.of_mask[cls]].astype(float)))
        if all(weights.sum() for _, weights in sides):
            (areas, weights), (other_areas, other_weights) = sides
            found = wasserstein_distance(areas, other_areas, weights, other_weights)
            distances.append(float(found))
    return float(np.mean(distances or [0.0]))


def _boundary(first: Layouts, rows: np.ndarray, second: Layouts, others: np.ndarray) -> float:
    means = [side.contacts[some].mean(axis=0) for side, some in ((first, rows), (second, others))]
    return float(np.abs(means[0] - means[1]).sum() / max(means[0].sum(), 1e-12))


_MEASURES: dict[str, _Measure] = {
    "shares": _shares,
    "co_occurrence": _co_occurrence,
    "regions": _regions,
    "boundary": _boundary,
}


def _search_copies(
    real: np.ndarray,
    generated: np.ndarray,
    is_train: np.ndarray,
    num_classes: int,
    rng: np.random.Generator,
) -> CopiedMasks:
    """Return which generated masks are as near to a training mask as disguised copies are.

    Masks of almost one class are left out: they are equal without anybody copying.
    """
    is_plain = _largest_share(real, num_classes) >= _PLAIN
    train, held_out = (
        rng.permutation(np.flatnonzero(chosen & ~is_plain))[:_MOST_COMPARED]
        for chosen in (is_train, ~is_train)
    )
    judged = np.flatnonzero(_largest_share(generated, num_classes) < _PLAIN)
    if len(held_out) < _LEAST_HELD_OUT or not len(train):
        return CopiedMasks("cannot tell", [], len(judged), 0.0, 0, 0)
    known = _thumbnails(real[train], num_classes)
    planted = rng.permutation(len(train))[:_NUM_PLANTED]
    copies = np.stack([disguise_mask(real[train[row]], rng) for row in planted.tolist()])
    distances, found = nearest_distances(_thumbnails(copies, num_classes), known)
    limit = float(distances.max())
    hits = int((found == planted).sum())
    control, _ = nearest_distances(_thumbnails(real[held_out], num_classes), known)
    rate = float((control <= limit).mean())
    near, nearest = nearest_distances(_thumbnails(generated[judged], num_classes), known)
    copied = [
        (int(judged[row]), int(train[nearest[row]]), float(near[row] ** 2))
        for row in np.flatnonzero(near <= limit).tolist()
    ]
    if hits < len(planted) or rate > _MOST_OF_CONTROL:
        verdict = "cannot tell"
    else:
        by_chance = binom.ppf(_CERTAIN, len(judged), rate)
        verdict = "copies" if len(copied) > by_chance else "none"
    return CopiedMasks(verdict, copied, len(judged), rate, len(planted), hits)


def _largest_share(masks: np.ndarray, num_classes: int) -> np.ndarray:
    shares = [(masks == cls).mean(axis=(1, 2)) for cls in range(num_classes)]
    return np.asarray(np.max(shares, axis=0))


def disguise_mask(
    mask: UInt8[np.ndarray, "height width"], rng: np.random.Generator
) -> UInt8[np.ndarray, "height width"]:
    """Return a copy of a mask as a model might give it back: turned or mirrored, and moved by up to
    a thirty-second of its side.
    """
    turned = np.rot90(mask[:, ::-1] if rng.integers(2) else mask, int(rng.integers(4)))
    reach = max(1, min(mask.shape) // 32)
    moves = rng.integers(-reach, reach + 1, 2)
    padded = np.pad(turned, reach, mode="edge")
    top, left = (reach + moves).tolist()
    height, width = turned.shape
    return np.ascontiguousarray(padded[top : top + height, left : left + width])


def _thumbnails(masks: np.ndarray, num_classes: int) -> np.ndarray:
    """Return class shares on a coarse grid, scaled so that the mean squared difference of two masks
    is the share of their cells that differ.
    """
    side = min(_SIDE, *masks.shape[1:])
    hot = np.stack(
        [
            [
                cv2.resize(
                    (mask == cls).astype(np.float32), (side, side), None, 0, 0, cv2.INTER_AREA
                )
                for cls in range(num_classes)
            ]
            for mask in masks
        ]
    )
    return np.asarray(np.moveaxis(hot, 1, -1) * np.sqrt(num_classes / 2))


def _verdict_of(measures: Mapping[str, Measured], copies: CopiedMasks) -> str:
    if not all(measured.is_known for measured in measures.values()):
        return "there are too few groups or masks to tell: at least 4 groups of 10 masks are needed"
    off = [name for name, measured in measures.items() if measured.value > measured.floor_high]
    like = f"unlike real masks in {', '.join(off)}" if off else LIKE_REAL
    copied = {
        "none": "no copies of training masks",
        "copies": f"{len(copies.found):,} copies of training masks",
        "cannot tell": "whether there are copies cannot be told",
    }[copies.verdict]
    return f"{like}; {copied}"
