"""What an import came to: the sums over its ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histoprep.importing.model import AnnotationCounts
from histoprep.importing.output import WRITTEN
from histoprep.labels import LabelMap
from histoprep.schemas.ledgers import LEDGER

_NUM_KEPT = 1000


@dataclass(slots=True)
class ImportResult:
    """What an import came to.

    Attributes:
        out: Folder of the tree.
        label_map: Its label map.
        num_written: Images with a mask.
        num_unlabelled: Images that the source says nothing of, without a mask.
        failed: Images without one, and why: the first 1,000.
        num_failed: How many these are.
        counts: What became of the annotations.
        label_pixels: Pixels of each label.
        how: How many images were linked, copied or made, by the word for it.
        columns: Columns of dataset.csv.
        up_to_date: Whether nothing had to be done.
    """

    out: Path
    label_map: LabelMap
    num_written: int = 0
    num_unlabelled: int = 0
    num_failed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    counts: AnnotationCounts = field(default_factory=AnnotationCounts)
    label_pixels: dict[int, int] = field(default_factory=dict)
    how: dict[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    up_to_date: bool = False

    @property
    def ledger(self) -> Path:
        """Return the path of the ledger."""
        return self.out / LEDGER

    @property
    def num_images(self) -> int:
        """Return how many images were looked at, those that failed among them."""
        return self.num_written + self.num_unlabelled + self.num_failed

    def add(self, row: dict[str, Any]) -> None:
        """Count a row of the ledger."""
        numbers = {name: row[name] or 0 for name in AnnotationCounts.NUMBERS}
        self.counts.add(AnnotationCounts(**numbers, skipped=_kinds_of(row["skipped_kinds"])))
        if row["status"] != WRITTEN:
            self.num_failed += 1
            if len(self.failed) < _NUM_KEPT:
                self.failed.append((row["name"], row["reason"]))
            return
        self.num_written += row["output_path"] is not None
        self.num_unlabelled += row["output_path"] is None
        self.how[row["image_how"]] = self.how.get(row["image_how"], 0) + 1
        for label, pixels in zip(row["label_ids"] or (), row["label_pixels"] or (), strict=True):
            self.label_pixels[label] = self.label_pixels.get(label, 0) + pixels


def _kinds_of(text: str | None) -> Counter[str]:
    pairs = (entry.rpartition(" ") for entry in (text or "").split(", ") if entry)
    return Counter({kind: int(number) for kind, _, number in pairs})
