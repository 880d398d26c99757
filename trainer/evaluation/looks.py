"""Both sets as a network sees them, read once: training tiles teach a segmenter, which then reads
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from histoprep.labels import LabelMap
from trainer.data.transforms import apply_view
from trainer.errors import UsageError
from trainer.evaluation.downstream import LabelledTile, main_class
from trainer.evaluation.faithfulness import ReadTiles
from trainer.evaluation.features import DEFAULT, SeenTile, Sight
from trainer.evaluation.sides import ComparedTiles
from trainer.segmentation.network import open_segmenter
from trainer.segmentation.quick import FeatureTile, QuickOptions, segment_maps, train_decoder

Segment = Callable[[np.ndarray, SeenTile], np.ndarray]


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """How to evaluate.

    `features`: see `open_sight`. `segmenter`: a run of the recipe segmenter, None to train one in
    memory. `codec`: what tiles were decoded with, for the ceiling; None to leave that out. `limit`:
    the most real training, real held-out and generated tiles that are read. `downstream`: also
    train on generated tiles. `quick`: how segmenters in memory are trained.
    """

    features: str = DEFAULT
    segmenter: Path | None = None
    codec: str | None = None
    limit: int = 1000
    downstream: bool = False
    device: str = "auto"
    seed: int = 0
    quick: QuickOptions | None = None


@dataclass(eq=False)
class Look:
    """Tiles of a set as they were seen, in order; predictions where they have masks."""

    side: ComparedTiles
    seen: list[SeenTile] = field(default_factory=list)
    masks: list[np.ndarray | None] = field(default_factory=list)
    predicted: list[np.ndarray | None] = field(default_factory=list)
    labelled: list[LabelledTile] = field(default_factory=list)
    segment: Segment | None = None

    @property
    def vectors(self) -> np.ndarray:
        """Return the features, float64 [tiles, d]."""
        return np.stack([tile.vector for tile in self.seen])

    @property
    def thumbnails(self) -> np.ndarray:
        """Return the thumbnails, float32 [tiles, 32, 32, 3]."""
        return np.stack([tile.thumbnail for tile in self.seen])

    def read_tiles(self, num_classes: int, rows: Sequence[int] | None = None) -> ReadTiles:
        """Return the tiles that have a mask and a prediction, or those of some rows."""
        chosen = [
            row
            for row in (range(len(self.seen)) if rows is None else rows)
            if self.masks[row] is not None and self.predicted[row] is not None
        ]
        masks, predicted = (
            [array for row in chosen if (array := arrays[row]) is not None]
            for arrays in (self.masks, self.predicted)
        )
        groups = [self.side.groups[row] for row in chosen]
        return ReadTiles.of(masks, predicted, groups, num_classes)


def look_at_all(
    sight: Sight,
    options: EvaluateOptions,
    sides: tuple[ComparedTiles, ComparedTiles, ComparedTiles],
    advance: Callable[[int], object],
) -> tuple[Look, Look, Look]:
    """See the training tiles, learn to segment them, then see and segment the others."""
    train, held_out, generated = (Look(side) for side in sides)
    label_map = sides[0].label_map
    encoded: list[FeatureTile] | None = [] if options.segmenter is None else None
    for index in range(len(train.side)):
        image, mask = train.side.read(index)
        seen = sight.see(image, mask)
        if mask is not None and encoded is not None:
            encoded += _training_views(sight, image, mask, seen, options.seed + index)
        _note(train, seen, mask, None, options.downstream)
        advance(1)
    segment = held_out.segment = _segmenter(options, label_map, encoded)
    for look in (held_out, generated):
        for index in range(len(look.side)):
            image, mask = look.side.read(index)
            seen = sight.see(image, mask)
            predicted = segment(image, seen) if segment and mask is not None else None
            _note(look, seen, mask, predicted, options.downstream)
            advance(1)
    return train, held_out, generated


def _note(
    look: Look,
    seen: SeenTile,
    mask: np.ndarray | None,
    predicted: np.ndarray | None,
    keep: bool,
) -> None:
    """Add a tile; its block outputs are kept for `downstream` only."""
    if keep and mask is not None:
        label = look.side.labels[len(look.seen)]
        assert look.side.label_map is not None
        named = label or main_class(mask, look.side.label_map.num_classes)
        look.labelled.append(LabelledTile(FeatureTile(list(seen.maps), mask), seen.vector, named))
    seen.maps.clear()
    look.seen.append(seen)
    look.masks.append(mask)
    look.predicted.append(predicted)


def _training_views(
    sight: Sight, image: np.ndarray, mask: np.ndarray, seen: SeenTile, seed: int
) -> list[FeatureTile]:
    """Return a training tile as it is and under one of its other symmetries."""
    view = int(np.random.default_rng(seed).integers(1, 8))
    turned, turned_mask = (np.ascontiguousarray(apply_view(array, view)) for array in (image, mask))
    return [
        FeatureTile(list(seen.maps), mask),
        FeatureTile(list(sight.see(turned).maps), turned_mask),
    ]


def _segmenter(
    options: EvaluateOptions, label_map: LabelMap | None, encoded: list[FeatureTile] | None
) -> Segment | None:
    """Return what segments tiles: a run, or a decoder of the training tiles; None without any."""
    if options.segmenter is not None:
        model = open_segmenter(options.segmenter, device=options.device)
        if label_map is None or model.label_map.digest != label_map.digest:
            raise UsageError(
                "the segmenter was trained with other classes than the manifest has",
                path=options.segmenter,
                seen=", ".join(cls.name for cls in model.label_map.classes),
                expected=", ".join(cls.name for cls in label_map.classes) if label_map else None,
                hint="leave --segmenter out, or train one: trainer fit --recipe segmenter",
            )
        return lambda image, _: model.segment(image)[0]
    if not encoded or label_map is None:
        return None
    decoder = train_decoder(encoded, label_map.num_classes, options.seed, options.quick)
    return lambda _, seen: segment_maps(decoder, seen.maps, seen.size)[0]
