"""Which generated tiles the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histoprep.labels import LabelMap
from trainer.evaluation.faithfulness import ReadTiles
from trainer.evaluation.looks import Look
from trainer.evaluation.sides import mask_source
from trainer.metrics.segmentation import mean_iou

NUM_SHOWN = 12


@dataclass(frozen=True, eq=False)
class Shown:
    """A generated tile to look at: `mask` and `predicted` class ids, `real` the tile of that mask,
    each None where there is none. `note` says why it is shown.
    """

    tile_id: str
    generated: np.ndarray
    mask: np.ndarray | None
    predicted: np.ndarray | None
    real: np.ndarray | None
    note: str = ""


def choose_shown(
    looks: tuple[Look, Look, Look],
    copied: Sequence[tuple[str, str, float]],
    label_map: LabelMap | None,
) -> list[Shown]:
    """Return the tiles that the page shows: copies first, then from the least faithful to the most,
    at even steps.
    """
    train, held_out, generated = looks
    row_of = {name: row for row, name in enumerate(generated.side.ids)}
    chosen = [(row_of[name], f"copy of {source}") for name, source, _ in copied[:4]]
    scores = [
        _agreement(mask, predicted, label_map)
        for mask, predicted in zip(generated.masks, generated.predicted, strict=True)
    ]
    order = np.argsort(np.nan_to_num(scores, nan=2.0), kind="stable")
    order = order[~np.isin(order, [row for row, _ in chosen])]
    count = min(NUM_SHOWN - len(chosen), len(order))
    steps = np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))
    for row in order[steps].tolist():
        note = "" if np.isnan(scores[row]) else f"mean IoU {scores[row]:.2f}"
        chosen.append((row, note))
    real_rows = {
        name: (look, row) for look in (train, held_out) for row, name in enumerate(look.side.ids)
    }
    shown = []
    for row, note in chosen:
        name = generated.side.ids[row]
        source = mask_source(name, real_rows)
        look = real_rows[source] if source is not None else None
        shown.append(
            Shown(
                name,
                generated.side.read(row).image,
                generated.masks[row],
                generated.predicted[row],
                look[0].side.read(look[1]).image if look else None,
                note,
            )
        )
    return shown


def _agreement(
    mask: np.ndarray | None, predicted: np.ndarray | None, label_map: LabelMap | None
) -> float:
    if mask is None or predicted is None or label_map is None:
        return float("nan")
    tiles = ReadTiles.of([mask], [predicted], [""], label_map.num_classes)
    occurs = tiles.counts[0].sum(axis=1) > 0
    return float(mean_iou(tiles.counts[0], occurs))
