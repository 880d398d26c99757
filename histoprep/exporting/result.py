"""What an export came to: the sums over its ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histoprep.exporting.model import Format
from histoprep.exporting.numbering import Numbers
from histoprep.exporting.task import HAS_IGNORED, LEFT_OUT, WRITTEN
from histoprep.notebook import html_result
from histoprep.phrases import plural
from histoprep.schemas.ledgers import LEDGER
from histoprep.visible import visible

_NUM_KEPT = 1000


@dataclass(slots=True, repr=False)
class ExportResult:
    """What an export came to.

    Attributes:
        out: Its folder.
        format: Its format.
        numbers: The number of each class.
        class_ids: Ids of all classes, in the order of the label map.
        num_tiles: Exported tiles by split; those without a mask under `unlabelled`.
        class_pixels: Pixels by class id.
        class_tiles: Tiles that hold at least one pixel of a class, by class id.
        class_regions: Outlines by class id; empty for formats of masks.
        num_holes: Holes of these outlines.
        num_ignored_pixels: Pixels without a class in exported tiles.
        num_with_ignored: Exported tiles that hold such pixels.
        num_unlabelled: Tiles that were left out since they have no mask.
        num_left_out: Tiles that were left out since they hold pixels without a class.
        failed: Tiles that could not be exported, and why: the first 1,000.
        num_failed: How many these are.
        how: Images by how they came into the folder.
        files: The files about all tiles, relative to the folder.
        up_to_date: Whether nothing had to be done.
    """

    out: Path
    format: Format
    numbers: Numbers
    class_ids: tuple[int, ...]
    num_tiles: Counter[str] = field(default_factory=Counter)
    class_pixels: Counter[int] = field(default_factory=Counter)
    class_tiles: Counter[int] = field(default_factory=Counter)
    class_regions: Counter[int] = field(default_factory=Counter)
    num_holes: int = 0
    num_ignored_pixels: int = 0
    num_with_ignored: int = 0
    num_unlabelled: int = 0
    num_left_out: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    num_failed: int = 0
    how: Counter[str] = field(default_factory=Counter)
    files: tuple[str, ...] = ()
    up_to_date: bool = False

    @property
    def ledger(self) -> Path:
        """Return the path of the ledger."""
        return self.out / LEDGER

    @property
    def num_rows(self) -> int:
        """Return how many tiles were looked at."""
        left_out = self.num_unlabelled + self.num_left_out
        return self.num_tiles.total() + left_out + self.num_failed

    def __repr__(self) -> str:
        """Return the counts in one line."""
        return f"<ExportResult: {self._counts()} | {visible(str(self.out))}>"

    def _repr_html_(self) -> str:
        """Return the counts, for notebooks."""
        rows = sorted(self.num_tiles.items())
        return html_result(f"{self._counts()} | {self.out}", ("split", "tiles"), rows)

    def _counts(self) -> str:
        return f"{plural(self.num_tiles.total(), 'tile')} as {self.format.title}"

    def add(self, row: dict[str, Any]) -> None:
        """Count a row of the ledger."""
        if row["status"] == LEFT_OUT:
            is_ignored = row["reason"] == HAS_IGNORED
            self.num_left_out += is_ignored
            self.num_unlabelled += not is_ignored
            return
        if row["status"] != WRITTEN:
            self.num_failed += 1
            if len(self.failed) < _NUM_KEPT:
                self.failed.append((row["tile_id"], row["reason"]))
            return
        self.num_tiles[row["split"]] += 1
        self.how[row["image_how"]] += 1
        for class_id, pixels in zip(self.class_ids, row["class_pixels"] or ()):  # noqa: B905
            self.class_pixels[class_id] += pixels
            self.class_tiles[class_id] += pixels > 0
        for class_id, regions in zip(self.class_ids, row["class_regions"] or ()):  # noqa: B905
            self.class_regions[class_id] += regions
        self.num_holes += row["holes"] or 0
        self.num_ignored_pixels += row["ignored_pixels"] or 0
        self.num_with_ignored += bool(row["ignored_pixels"])
