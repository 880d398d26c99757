"""Specks of a mask given to their surroundings (HP408)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from histoprep.errors import UsageError
from histoprep.fixing.operations.base import Context, FileFacts, Refusal, Select, TreeFile
from histoprep.fixing.operations.plain import bits_of, wide_folders

_NEIGHBOURS = np.ones((3, 3), np.uint8)
# What is larger than this part of a mask is no speck.
_LEAST_SPECKS = 16


class SpeckTicket(NamedTuple):
    """How a mask is changed: the area below which a region is a speck, the value that marks pixels
    without a label, and the least bits of the new mask.
    """

    min_area_px: int
    ignored: int | None
    bits: int


class Specks:
    """Gives regions under PIXELS to the label that most of their neighbouring pixels have."""

    name = "specks"
    does = "without specks: each has the label of most pixels around it"
    codes = ("HP408",)
    is_default = False
    value = "PIXELS"

    def prepare(self, context: Context, value: str) -> Select:
        """Return the function that chooses masks that may have specks; without a value, specks are
        what the audit counted.
        """
        from histoprep.remapping.first_map import LabelsFound

        if value and not (value.isdecimal() and int(value) > 0):
            raise UsageError(
                "--specks is a number of pixels", seen=value, expected="a whole number from 1"
            )
        ignored = LabelsFound.of(context.table).ignored()
        return _Chooser(
            int(value) if value else context.min_area_px,
            context.min_area_px,
            ignored.value if ignored is not None and ignored.along_boundaries else None,
            wide_folders(context),
            context.undecided,
            context.lossy,
        )

    def apply(self, content: TreeFile, ticket: SpeckTicket) -> TreeFile:
        """Return the mask without specks."""
        before = content.read_labels()
        after = fill_specks(before, ticket.min_area_px, ticket.ignored)
        if (before == after).all():
            return content
        return content.with_labels(after, max(ticket.bits, _bits_of(content)))


@dataclass(frozen=True, slots=True)
class _Chooser:
    min_area_px: int
    counted_px: int
    ignored: int | None
    wide: frozenset[str]
    undecided: frozenset[str]
    lossy: frozenset[str]

    def __call__(self, file: FileFacts) -> SpeckTicket | Refusal | None:
        if not file.has_plain_ids or len(file.label_ids or ()) < 2:
            return None
        if self.min_area_px <= self.counted_px and not file.num_specks:
            return None
        most = sum(file.label_pixels or ()) // _LEAST_SPECKS
        if self.min_area_px > most:
            return Refusal(
                f"regions of {self.min_area_px:,} pixels are no specks of so small a mask"
            )
        if file.path in self.undecided:
            return Refusal("its labels depend on what nobody decided (HP414)")
        if file.repaired is None and (file.lossy is not None or file.path in self.lossy):
            return Refusal(
                "its specks are false labels of loss or interpolation (HP403, HP404): histoprep"
                " repair first"
            )
        return SpeckTicket(self.min_area_px, self.ignored, bits_of(file, self.wide))


def _bits_of(content: TreeFile) -> int:
    """Return 16 for a mask of 16 bits, which other operations may have made one of 8."""
    from histoprep import imageio

    return 16 if imageio.read_header(content.data, content.reading).bit_depth == 16 else 8


def fill_specks(labels: np.ndarray, min_area_px: int, ignored: int | None = None) -> np.ndarray:
    """Return labels without 8-connected regions of fewer than `min_area_px` pixels.

    A speck gets the label that most of the pixels around it have, of equally many the smallest.
    Small specks come first, of the same size the one that begins higher, then further left; a
    region that grew meanwhile is looked at again. Regions of `ignored` stay as they are, give
    nothing to their neighbours, and a speck with nothing else around it stays. So does a mask of
    one label.

    Args:
        labels: Unsigned integers [height, width].
        min_area_px: Least area of a region in pixels.
        ignored: A label that marks pixels without one, or None.
    """
    filled = labels.copy()
    # Each pass ends with fewer regions than it began with.
    while _fill_once(filled, min_area_px, ignored):
        pass
    return filled


class _Region(NamedTuple):
    area_px: int
    top: int
    left: int
    number: int
    window: tuple[slice, slice]


def _fill_once(labels: np.ndarray, min_area_px: int, ignored: int | None) -> bool:
    """Give the specks there are to their surroundings; return whether any was."""
    numbers, specks = _regions(labels, min_area_px, ignored)
    grown: set[int] = set()
    changed = False
    for speck in sorted(specks):
        if speck.number in grown:
            continue
        around = _around(labels.shape, speck.window)
        inside = numbers[around] == speck.number
        rim = (cv2.dilate(inside.astype(np.uint8), _NEIGHBOURS) > 0) & ~inside
        found, pixels = np.unique(labels[around][rim], return_counts=True)
        if ignored is not None:
            found, pixels = found[found != ignored], pixels[found != ignored]
        if not len(found):
            continue
        label = found[np.argmax(pixels)]
        grown.update(np.unique(numbers[around][rim & (labels[around] == label)]).tolist())
        labels[around][inside] = label
        grown.add(speck.number)
        changed = True
    return changed


def _regions(
    labels: np.ndarray, min_area_px: int, ignored: int | None
) -> tuple[np.ndarray, list[_Region]]:
    """Return the number of the region of each pixel, int32 [height, width], and the specks."""
    numbers = np.zeros(labels.shape, np.int32)
    specks: list[_Region] = []
    for label in np.unique(labels):
        of_label = (labels == label).astype(np.uint8)
        _, own, facts, _ = cv2.connectedComponentsWithStats(of_label, connectivity=8)
        start = int(numbers.max())
        numbers[of_label > 0] = own[of_label > 0] + start
        if label == ignored:
            continue
        areas = facts[1:, cv2.CC_STAT_AREA]
        for index in (np.flatnonzero(areas < min_area_px) + 1).tolist():
            left, top, width, height, area = (int(value) for value in facts[index])
            window = (slice(top, top + height), slice(left, left + width))
            specks.append(_Region(area, *_first_pixel(own, index, window), start + index, window))
    return numbers, specks


def _first_pixel(own: np.ndarray, index: int, window: tuple[slice, slice]) -> tuple[int, int]:
    row = own[window[0].start, window[1]]
    return window[0].start, window[1].start + int(np.argmax(row == index))


def _around(shape: tuple[int, ...], window: tuple[slice, slice]) -> tuple[slice, slice]:
    """Return a window with one more pixel on each side, as far as there are any."""
    rows, columns = (
        slice(max(part.start - 1, 0), min(part.stop + 1, size))
        for part, size in zip(window, shape, strict=True)
    )
    return rows, columns
