"""One damaged mask -> a repaired file and what is measured on it, in a worker."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histoprep import rule_ids
from histoprep.errors import BrokenFileError
from histoprep.lossy.verdict import LossKind
from histoprep.mask_reading import Reading
from histoprep.mask_tree.task import NewFile, RefusedMaskError
from histoprep.schemas.ledgers import MEASURED_TYPE
from histoprep.tiles import TileOptions

if TYPE_CHECKING:
    from histoprep.lossy.jpeg_repair import Repaired
    from histoprep.tiles.measurer import Measurer


# What tells that an unclear mask went through JPEG, where its blocks do not.
_MIN_FOREIGN, _MIN_EXPLAINED = 3, 0.75
# Why a mask was left that no finding lists.
NOT_SHOWN = rule_ids.LOSSY_MASK.verdict("not-shown")
_NOT_SHOWN_WHY = (
    "its blocks are not what JPEG of the quality of its source leaves, or too few to tell; it stays"
    " as it is"
)


class DamagedMask(NamedTuple):
    """One mask of a lossy or interpolated source; `failure` says why it cannot be repaired at all,
    or is None. `source_labels` are those that masks of its source surely hold. `grid` is how many
    rows and columns lie before the first whole block of the JPEG: other than 0 in masks that were
    cut from larger ones. A mask that is `unclear` does not show the damage of its source by itself;
    it is repaired where it does to who knows the quality, at any place where it `is_cut`.
    """

    path: str
    num_bytes: int
    mtime_ns: int
    digest: str | None
    failure: str | None
    source: str
    cause: str
    quality: int | None
    source_labels: tuple[int, ...]
    grid: tuple[int, int] = (0, 0)
    is_unclear: bool = False
    is_cut: bool = False

    @property
    def file(self) -> str:
        """Return the file to read."""
        return self.path

    @property
    def is_kept(self) -> bool:
        """Return False: every mask is read."""
        return False


@dataclass(frozen=True, slots=True)
class Repairer:
    """Repairs one mask after another and measures it with the options of the tiles table; travels
    to the workers.
    """

    min_confidence: float
    options: TileOptions

    def open(self) -> Callable[[bytes | None, str, DamagedMask], NewFile]:
        """Return the function that turns the bytes of a damaged mask into a repaired file."""
        # Decoders take longest to import, and only workers need them.
        from histoprep.tiles.measurer import Measurer

        return functools.partial(self._make, Measurer(self.options))

    def _make(self, measurer: Measurer, data: bytes | None, key: str, mask: DamagedMask) -> NewFile:
        """Return the repaired file; raises RefusedMaskError."""
        from histoprep import imageio

        assert data is not None, "no mask is kept"
        before, after, confidence = self.repair(data, mask)
        encoded = imageio.encode_mask_png(after)
        measured = measurer.mask(encoded)
        facts = {
            "source": mask.source,
            "cause": mask.cause,
            "is_unclear": mask.is_unclear,
            "jpeg_quality": mask.quality,
            "method": (
                "cut-ramps" if mask.cause == LossKind.INTERPOLATED.value else "snap-to-candidates"
            ),
            "confidence": confidence,
            "changed_pixels": int(np.count_nonzero(before != after)),
            "labels_before": np.unique(before),
            "removed_labels": (removed := np.setdiff1d(before, measured["label_ids"])),
            "vanished_labels": np.intersect1d(removed, mask.source_labels),
            "label_ids": measured["label_ids"],
            "label_pixels": measured["label_pixels"],
            "measured": {field.name: measured.get(field.name) for field in MEASURED_TYPE},
        }
        return NewFile(encoded, measured["mask_digest"], facts)

    def repair(self, data: bytes, mask: DamagedMask) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the labels before and after, [height, width], and the confidence; raises
        RefusedMaskError.
        """
        from histoprep.lossy.jpeg_repair import repair_jpeg
        from histoprep.lossy.ramps import repair_ramps

        try:
            before = _labels(data, self.options.mask_reading)
            if mask.is_unclear and mask.quality is not None:
                repaired = _repair_unclear(before, mask, mask.quality)
            elif mask.quality is None:
                repaired = repair_ramps(before, mask.source_labels)
            else:
                repaired = repair_jpeg(before, mask.quality, mask.source_labels, grid=mask.grid)
        except BrokenFileError as error:
            raise RefusedMaskError(error.verdict, error.detail) from error
        if repaired.confidence < self.min_confidence:
            rule = rule_ids.INTERPOLATED_MASK if mask.quality is None else rule_ids.LOSSY_MASK
            reason = (
                f"confidence {repaired.confidence:.2f}, less than --min-confidence"
                f" {self.min_confidence:g}"
            )
            raise RefusedMaskError(rule.verdict("low-confidence"), reason)
        return before, repaired.labels, repaired.confidence


def _repair_unclear(labels: np.ndarray, mask: DamagedMask, quality: int) -> Repaired:
    """Return the repair of a mask that is damaged to who knows the quality; raises BrokenFileError
    for others.
    """
    from histoprep.lossy.jpeg_repair import repair_jpeg
    from histoprep.lossy.unclear import find_blocks

    grid = find_blocks(labels, quality, anywhere=mask.is_cut)
    if grid is not None:
        return repair_jpeg(labels, quality, mask.source_labels, grid=grid)
    if not mask.is_cut:
        with contextlib.suppress(BrokenFileError):
            repaired = repair_jpeg(labels, quality, mask.source_labels)
            # Where labels lie near 0 or 255, blocks do not stay as they are; but there are values
            # that no mask of the source surely holds.
            foreign = np.setdiff1d(labels, np.union1d(repaired.labels, mask.source_labels))
            if len(foreign) >= _MIN_FOREIGN and repaired.confidence >= _MIN_EXPLAINED:
                return repaired
    raise BrokenFileError(NOT_SHOWN, _NOT_SHOWN_WHY)


def _labels(data: bytes, reading: Reading) -> np.ndarray:
    """Return the labels of a mask file."""
    from histoprep import imageio

    header = imageio.read_header(data, reading)
    labels, encoding = imageio.labels_of(imageio.decode_stored(data, header), header, reading)
    if encoding.is_coloured or labels.dtype.itemsize > 2:
        raise BrokenFileError(
            rule_ids.MASK_WRONG_MODE.verdict("colours" if encoding.is_coloured else "wide-integer"),
            "labels that are colours have no order, so that false ones cannot be told"
            if encoding.is_coloured
            else "labels above 65,535 cannot be repaired",
        )
    return np.ascontiguousarray(labels)
