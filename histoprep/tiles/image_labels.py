"""Image-level labels against masks: which label of the mask goes with which folder, or with which
label of a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.labels import LabelMap
from histoprep.labels.model import IGNORED

COLUMNS = ("tile_id", "label", "label_ids", "label_pixels")
NO_LABEL = -1
# Beyond so many, the labels are names of cases rather than classes.
MAX_IMAGE_LABELS = 50
MAX_MASK_LABELS = 30
# An image-level label and a mask label go together in so large a share of the tiles of either, and
# in so many tiles.
AGREEMENT = 0.9
MIN_AGREEING_TILES = 5


@dataclass
class CrossTable:
    """Tiles by image-level label and by the mask label of most pixels, 0 and ignored labels left
    aside; `NO_LABEL` where a mask holds nothing else.

    Attributes:
        tiles: Image-level label -> mask label -> number of tiles, of tiles that have both.
        holding: The same of all labels of a mask, however few pixels they have; label 0 and ignored
            ones left aside.
    """

    tiles: dict[str, Counter[int]] = field(default_factory=dict)
    holding: dict[str, Counter[int]] = field(default_factory=dict)

    def add(self, chunk: pa.Table, names: pa.ChunkedArray, ignored: np.ndarray) -> None:
        """Count a piece of the tiles table with the columns label_ids and label_pixels.

        Args:
            chunk: Rows of the tiles table.
            names: The image-level label of each row, null without.
            ignored: Which entries of all label lists, one after the other, are ignored: bool.
        """
        lengths = pc.fill_null(pc.list_value_length(chunk["label_ids"]), 0).to_numpy()
        rows = np.repeat(np.arange(chunk.num_rows), lengths)
        labels, pixels = (
            pc.list_flatten(chunk[name]).to_numpy().astype(np.int64)
            for name in ("label_ids", "label_pixels")
        )
        dominant = np.full(chunk.num_rows, NO_LABEL, np.int64)
        kept = np.flatnonzero((labels != 0) & ~ignored)
        # Of equal numbers of pixels the smaller label is taken: what is assigned last stays.
        order = kept[np.lexsort((-labels[kept], pixels[kept], rows[kept]))]
        dominant[rows[order]] = labels[order]
        encoded = pc.dictionary_encode(names).combine_chunks()
        of_row = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        known, labelled = encoded.dictionary.to_pylist(), lengths > 0
        _count(self.tiles, known, of_row[labelled], dominant[labelled])
        _count(self.holding, known, of_row[rows[kept]], labels[kept])

    @property
    def columns(self) -> list[int]:
        """Return the mask labels that occur, in order, `NO_LABEL` last."""
        found = {label for row in self.tiles.values() for label in row}
        return sorted(found - {NO_LABEL}) + ([NO_LABEL] if NO_LABEL in found else [])

    @property
    def is_shown(self) -> bool:
        """Return whether the table says something: several image-level labels, and neither too
        many of them nor of mask labels.
        """
        return (
            2 <= len(self.tiles) <= MAX_IMAGE_LABELS and 1 <= len(self.columns) <= MAX_MASK_LABELS
        )

    def partners(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield image-level label, mask label, tiles of both and tiles of the former, of each two
        that go with each other in nearly all tiles of either.
        """
        of_mask_labels: Counter[int] = Counter()
        for row in self.tiles.values():
            of_mask_labels.update(row)
        for name, row in sorted(self.tiles.items()):
            total = sum(row.values())
            label, agreeing = max(row.items(), key=lambda entry: (entry[1], -entry[0]))
            goes_together = agreeing >= AGREEMENT * max(total, of_mask_labels[label])
            if label != NO_LABEL and goes_together and agreeing >= MIN_AGREEING_TILES:
                yield name, label, agreeing, total

    @property
    def names_classes(self) -> bool:
        """Return whether the image-level labels are those of classes: most go with one mask label
        each.
        """
        return self.is_shown and 2 * sum(1 for _ in self.partners()) > len(self.tiles)

    def as_json(self) -> Mapping[str, Mapping[str, int]]:
        """Return the table as JSON values; `none` stands for masks of label 0 alone."""
        return {
            name: {
                "none" if label == NO_LABEL else str(label): self.tiles[name][label]
                for label in self.columns
                if self.tiles[name][label]
            }
            for name in sorted(self.tiles)
        }


def _count(
    counters: dict[str, Counter[int]], names: list[str], of_row: np.ndarray, labels: np.ndarray
) -> None:
    """Add to the counters how often each name, by its number in `names` or -1, goes with a label;
    labels are at least `NO_LABEL` and below 2^32.
    """
    known = of_row >= 0
    keys = of_row[known].astype(np.int64) << 33 | (labels[known] - NO_LABEL)
    pairs, amounts = np.unique(keys, return_counts=True)
    numbers, found = (pairs >> 33).tolist(), ((pairs & 0x1_FFFF_FFFF) + NO_LABEL).tolist()
    for number, label, amount in zip(numbers, found, amounts.tolist(), strict=True):
        counter = counters.get(names[number])
        if counter is None:
            counter = counters[names[number]] = Counter()
        counter[label] += amount


@dataclass
class ImageLabelCounts:
    """Counts masks by image-level label and by folder, piece by piece."""

    _labels: CrossTable = field(default_factory=CrossTable)
    _folders: CrossTable = field(default_factory=CrossTable)

    def add(self, chunk: pa.Table, ignored: np.ndarray) -> None:
        """Count a piece of the tiles table with the columns tile_id, label, label_ids and
        label_pixels; see `CrossTable.add`.
        """
        self._labels.add(chunk, chunk["label"], ignored)
        # Too many folders are no classes: they are of no use any more.
        if len(self._folders.tiles) <= MAX_IMAGE_LABELS:
            self._folders.add(chunk, _folder_names(chunk["tile_id"]), ignored)

    @property
    def table(self) -> CrossTable:
        """Return the table of image-level labels. Where nobody said what images show, folders that
        go with the masks do.
        """
        if not self._labels.tiles and self._folders.names_classes:
            return self._folders
        return self._labels


def count_image_labels(chunks: Iterable[pa.Table], label_map: LabelMap | None) -> CrossTable:
    """Return image-level labels against masks, from pieces with the columns `COLUMNS`."""
    counts = ImageLabelCounts()
    for chunk in chunks:
        counts.add(chunk, are_ignored(chunk, label_map))
    return counts.table


def are_ignored(chunk: pa.Table, label_map: LabelMap | None) -> np.ndarray:
    """Return which entries of all label lists, one after the other, the label map ignores: bool."""
    labels = pc.list_flatten(chunk["label_ids"]).to_numpy()
    if label_map is None or not label_map.ignore:
        return np.zeros(len(labels), bool)
    result: np.ndarray = label_map.apply_to_ids(labels) == IGNORED
    return result


def _folder_names(tile_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the name of the folder that each tile lies in, null for those of the root."""
    found = pc.extract_regex(tile_ids, r"(?:^|/)(?P<folder>[^/]+)/[^/]+$")
    return pc.struct_field(found, "folder")
