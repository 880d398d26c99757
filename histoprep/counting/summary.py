"""What class counts say under a label map: shares, breakdowns, pairs of classes and class
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histoprep.counting.counts import CLASS_SUMS, DIMENSIONS, UNCONDITIONAL, Counts
from histoprep.labels import LabelMap

if TYPE_CHECKING:
    from pandas import DataFrame, Series

EFFECTIVE_NUMBER_BETA = 0.9999
WEIGHTS = ("weight_inverse", "weight_median", "weight_effective")


@dataclass(frozen=True)
class ClassSummary:
    """What `Counts` say under a label map.

    `classes`: one row a class of the map, in order of id, with the columns of `SCHEMA` but
    `labels`, `by` and `key`, and `colour`; classes that do not occur have zeros and no weights.
    `breakdown`: the same for each key of each dimension, with `by` and `key`, but only classes that
    occur there. `cooccurrence`: square, class ids on both sides, tiles that hold both; its diagonal
    is tiles that hold the class. `tiles`: by, key, tiles. `unmapped`: see Counts; its pixels are in
    no share.
    """

    num_tiles: int
    num_unconditional: int
    num_pixels: int
    classes: DataFrame
    breakdown: DataFrame
    tiles: DataFrame
    cooccurrence: DataFrame
    unmapped: DataFrame


def summarise(counts: Counts, label_map: LabelMap, by: Sequence[str] = DIMENSIONS) -> ClassSummary:
    """Return shares in per cent, tiles, pairs and weights of `counts`, whole and for each key of
    the dimensions `by`.
    """
    import pandas as pd

    whole = _class_table(counts, label_map)
    numbers = counts.tiles["tiles"]
    breakdown, keyed = [], [pd.DataFrame({"by": ["all"], "key": [""], "tiles": [counts.num_tiles]})]
    for dimension in by:
        sizes = numbers.groupby(counts.tiles[dimension], sort=True).sum()
        keyed.append(pd.DataFrame({"by": dimension, "key": sizes.index, "tiles": sizes.to_numpy()}))
        breakdown.append(_broken_down(counts, dimension, sizes, whole))
    return ClassSummary(
        num_tiles=counts.num_tiles,
        num_unconditional=int(numbers[counts.tiles["pool"] == UNCONDITIONAL].sum()),
        num_pixels=int(whole["pixels"].sum()),
        classes=whole.assign(**class_weights(whole)),
        breakdown=pd.concat([whole.iloc[:0].assign(by="", key=""), *breakdown], ignore_index=True),
        tiles=pd.concat(keyed, ignore_index=True),
        cooccurrence=_square(counts.cooccurrence, whole),
        unmapped=counts.unmapped,
    )


def _class_table(counts: Counts, label_map: LabelMap) -> DataFrame:
    import pandas as pd

    rows = [(cls.id, cls.name, cls.colour) for cls in label_map.classes]
    frame = pd.DataFrame(rows, columns=["class_id", "class_name", "colour"], dtype=object).astype(
        {"class_id": np.int64}
    )
    sums = counts.classes.groupby("class_id")[list(CLASS_SUMS)].sum()
    for name in CLASS_SUMS:
        frame[name] = sums[name].reindex(frame["class_id"], fill_value=0).to_numpy(np.int64)
    frame["pixel_percent"] = 100.0 * frame["pixels"] / max(int(frame["pixels"].sum()), 1)
    frame["tile_percent"] = 100.0 * frame["tiles"] / max(counts.num_tiles, 1)
    return frame


def _broken_down(counts: Counts, dimension: str, sizes: Series[int], whole: DataFrame) -> DataFrame:
    frame = counts.classes.groupby([dimension, "class_id"], sort=True, as_index=False)[
        list(CLASS_SUMS)
    ].sum()
    frame = frame.rename(columns={dimension: "key"}).assign(by=dimension)
    pixels = frame.groupby("key")["pixels"].transform("sum")
    names = whole.set_index("class_id")
    frame["class_name"], frame["colour"] = (
        names[name].reindex(frame["class_id"]).to_numpy() for name in ("class_name", "colour")
    )
    frame["pixel_percent"] = 100.0 * frame["pixels"] / pixels
    frame["tile_percent"] = 100.0 * frame["tiles"] / sizes.reindex(frame["key"]).to_numpy()
    return frame


def _square(pairs: DataFrame, classes: DataFrame) -> DataFrame:
    import pandas as pd

    ids = classes["class_id"].to_numpy()
    matrix = np.diag(classes["tiles"].to_numpy(np.int64))
    first, second = (
        np.searchsorted(ids, pairs[name].to_numpy(np.int64)) for name in ("class_a", "class_b")
    )
    matrix[first, second] = matrix[second, first] = pairs["tiles"].to_numpy(np.int64)
    return pd.DataFrame(matrix, index=ids, columns=ids)


def class_weights(classes: DataFrame, beta: float = EFFECTIVE_NUMBER_BETA) -> dict[str, np.ndarray]:
    """Return three weights for a loss, each with mean 1 over the classes that occur and NaN for the
    others.

    Inverse: 1 / f with f the pixels of the class over all pixels. Median: median(g) / g with g the
    pixels of the class over all pixels of the tiles that hold it (Eigen and Fergus 2015, arXiv
    1411.4734). Effective: (1 - beta) / (1 - beta^n) with n the tiles that hold the class (Cui et
    al. 2019, arXiv 1901.05555, Proposition 1 and section 4). `classes` has pixels, tile_pixels and
    tiles.
    """
    present = classes["pixels"].to_numpy() > 0
    pixels, tile_pixels, num_tiles = (
        classes[name].to_numpy(np.float64)[present] for name in ("pixels", "tile_pixels", "tiles")
    )
    local = pixels / tile_pixels
    raw = (1.0 / pixels, 1.0 / local, -1.0 / np.expm1(num_tiles * np.log(beta)))
    weights = {}
    for name, values in zip(WEIGHTS, raw, strict=True):
        weights[name] = np.full(len(present), np.nan)
        weights[name][present] = values / values.mean() if len(values) else values
    return weights
