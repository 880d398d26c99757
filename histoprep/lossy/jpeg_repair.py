"""Repair of one mask that went through JPEG. Pure; for interpolated masks see `ramps.py`.

Only blocks of more than one label are repaired. `snap.py` says which labels can be trusted and
makes a first guess, `search.py` looks for the most likely labels among those that JPEG turns into
what is there, and `missing.py` finds labels that have no place to be trusted at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from histoprep import rule_ids
from histoprep.errors import BrokenFileError
from histoprep.lossy.blocks import BLOCK_PX, as_blocks
from histoprep.lossy.missing import let_missing_labels_in
from histoprep.lossy.search import MAX_BLOCKS
from histoprep.lossy.snap import trusted_blocks, trusted_labels
from histoprep.lossy.under_repair import UnderRepair
from histoprep.phrases import first_of, plural

# Below this quality, labels of whole regions may have moved to a neighbouring id.
MIN_QUALITY = 75
# A repair that is less likely than the damaged mask by this factor is none: nuclei with borders
# came out of such ones worse.
_MAX_AGAINST_NONE = 1.05
# A repair is to change at least this share of the pixels that stay undetermined. With less, of
# labels one step apart above all, it left two thirds of the wrong pixels or more
# (benchmarks/lossy.py, tables repair-*).
_MIN_CHANGED_SHARE = 1.0
# As in tiles.parquet: a label with a core surely was there.
_CORE = np.ones((5, 5), np.uint8)
_THICK_PX = 3
# Pixels in the middle of pieces: fewer are ringing. Of labels that were not there, at most 17 more
# than the repair explains were found, of such that were mostly 20 and more. Where JPEG errs by more
# than the label at a side is away, that does not tell them apart, and so many surely are none
# without looking at what the repair explains: fewer where there is one at either side.
_MAY_BE_THERE_PX = 5
_SURELY_THERE_PX = 16
# Means alone are none of a label beside another one: a second JPEG smooths them, and left no piece
# of labels that were not there, where those that were there had 3 and more.
_TRACE_PX = 2
_SURELY_BESIDE_PX = 40
_SURELY_BETWEEN_PX = 20
_CLEAR_QUALITY = 90
_THICK = np.ones((_THICK_PX, _THICK_PX), np.uint8)
_MAX_VALUE = 255
# Fewer blocks than this share are not worth a second search, which costs as much for one block as
# for a hundred.
_MIN_SHARE_AGAIN = 0.05


@dataclass(frozen=True, slots=True)
class Repaired:
    """A repaired mask, of the type and size of the damaged one.

    `confidence` is the share of repaired blocks that JPEG turns into what was there; for an
    interpolated mask the share of its gradual pixels between two trusted labels. It supports the
    repair and does not prove it.
    """

    labels: np.ndarray
    changed: int
    confidence: float


def repair_jpeg(
    labels: np.ndarray,
    quality: int,
    source_labels: Sequence[int] = (),
    *,
    grid: tuple[int, int] = (0, 0),
) -> Repaired:
    """Return the mask as it may have been before a grey JPEG of `quality`.

    Args:
        labels: The damaged mask, uint8 or uint16 [height, width].
        quality: IJG quality, 1 to 100.
        source_labels: Labels that masks of the same source surely hold. None of them may vanish
            from this mask unless JPEG makes what is there without it.
        grid: Rows and columns before the first whole block, in masks that were cut from larger
            ones. What lies before them and after the last whole block is part of blocks that were
            cut, and less sure.

    Raises:
        BrokenFileError: The quality is below 75, values are above 255, no label can be trusted, the
            damaged mask is likelier than its repair, the repair would leave most wrong pixels, or
            a label of the source would be lost.
    """
    if quality < MIN_QUALITY:
        raise BrokenFileError(
            rule_ids.LOSSY_MASK.verdict("below-75"),
            f"JPEG quality {quality}: below {MIN_QUALITY} whole regions may have moved to another"
            " label",
        )
    if labels.max() > 255:
        raise BrokenFileError(
            rule_ids.LOSSY_MASK.verdict("no-jpeg"),
            "values above 255 did not come out of an 8-bit JPEG",
        )
    height, width = labels.shape
    top, left = (-offset % BLOCK_PX for offset in grid)
    pad = (top, -(top + height) % BLOCK_PX), (left, -(left + width) % BLOCK_PX)
    damaged = np.pad(labels, pad, mode="edge").astype(np.uint8)
    trusted = trusted_blocks(damaged, quality)
    rows, columns = np.nonzero(~trusted)
    if not len(rows):
        return Repaired(labels, 0, 1.0)
    ids, near = trusted_labels(damaged, trusted, quality)
    if not len(ids):
        raise BrokenFileError(
            rule_ids.LOSSY_MASK.verdict("nothing-trusted"),
            "no block and no 5x5 core holds one label only",
        )
    mask = UnderRepair(damaged, quality, rows, columns, ids, near[:, rows, columns], damaged.copy())
    mask.snap()
    if len(rows) <= MAX_BLOCKS:
        mask = _searched(mask, source_labels)
        if (against := mask.against_none()) > _MAX_AGAINST_NONE:
            reason = (
                f"a repair would be {against:.1f} times less likely than the mask as it is, whose"
                " structures are too thin"
            )
            raise BrokenFileError(rule_ids.LOSSY_MASK.verdict("too-thin"), reason)
    whole = mask.labels[top : top + height, left : left + width]
    result = whole.astype(labels.dtype)
    changed = int(np.count_nonzero(result != labels))
    _refuse_small_gain(changed, mask.undetermined())
    _refuse_lost_labels(mask, source_labels)
    return Repaired(result, changed, float(mask.fits().mean()))


def _refuse_small_gain(changed: int, undetermined: float) -> None:
    if changed < _MIN_CHANGED_SHARE * undetermined:
        reason = (
            f"a repair would change {plural(changed, 'pixel')} and leave about {undetermined:,.0f}"
            " open: between labels so near to each other JPEG keeps too little"
        )
        raise BrokenFileError(rule_ids.LOSSY_MASK.verdict("small-gain"), reason)


def _refuse_lost_labels(mask: UnderRepair, source_labels: Sequence[int]) -> None:
    """Refuse a repair that takes away a label of the source which surely was there, or with which a
    repair is likelier and holds it with a core.
    """
    lost = [
        suspect.label
        for suspect in _suspects(mask, source_labels)
        if suspect.is_surely_there or _is_likelier(mask, suspect)
    ]
    if lost:
        reason = (
            f"a repair would remove the labels {first_of(lost)}, which masks of the source hold,"
            " and does not explain what is there without them"
        )
        raise BrokenFileError(rule_ids.LOSSY_MASK.verdict("label-lost"), reason)


class _Suspect(NamedTuple):
    """A label of the source that went although it may have been there: whether pieces of it show
    that it was, and the blocks, [n], that show it and do not fit.
    """

    label: int
    is_surely_there: bool
    blocks: np.ndarray


def _suspects(mask: UnderRepair, source_labels: Sequence[int]) -> Iterator[_Suspect]:
    """Yield the labels of the source that went although they may have been there.

    Where a label was, what JPEG left is nearer to it than to any other label of the source, over a
    piece as thick as `_THICK_PX`; most ramps and ringing between others are thinner. Means of 3x3
    pixels join what ringing cut into pieces; what JPEG makes of the repair, which is without the
    label, says how much of that ramps explain.
    """
    listed = np.array(sorted({label for label in source_labels if label <= _MAX_VALUE}), np.int16)
    gone = np.setdiff1d(listed, mask.labels)
    if not len(gone):
        return
    near = _nearest(mask.damaged, listed)
    smoothed, explained = (
        _nearest(cv2.blur(values.astype(np.float32), (_THICK_PX, _THICK_PX)), listed)
        for values in (mask.damaged, mask.remade())
    )
    fits = mask.fits()
    for label in gone.tolist():
        thick = _num_thick(near, label)
        shown = as_blocks(near == label)[mask.rows, mask.columns].sum(axis=(1, 2))
        blocks = np.flatnonzero((shown >= _THICK_PX) & ~fits)
        beside = {label - 1, label + 1} & set(listed.tolist())
        if beside and mask.quality < _CLEAR_QUALITY:
            is_between = len(beside) == 2
            is_surely_there = thick >= (_SURELY_BETWEEN_PX if is_between else _SURELY_BESIDE_PX)
        else:
            unexplained = _num_thick(smoothed, label) - _num_thick(explained, label)
            has_trace = not beside or thick >= _TRACE_PX
            is_surely_there = has_trace and unexplained >= _SURELY_THERE_PX
        if is_surely_there or thick >= _MAY_BE_THERE_PX:
            yield _Suspect(label, is_surely_there, blocks)


def _nearest(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the label, of int16 [labels] in order, that is nearest to each value."""
    middles = (labels[1:] + labels[:-1]) / 2
    result: np.ndarray = labels[np.searchsorted(middles, values)].astype(np.uint8)
    return result


def _num_thick(labels: np.ndarray, label: int) -> int:
    """Return how many pixels of a label lie in the middle of pieces."""
    return int(np.count_nonzero(cv2.erode((labels == label).view(np.uint8), _THICK)))


def _is_likelier(mask: UnderRepair, suspect: _Suspect) -> bool:
    if not len(suspect.blocks):
        return False
    wider = mask.with_label(suspect.label, suspect.blocks)
    gain = mask.costs()[suspect.blocks].sum() - wider.costs()[suspect.blocks].sum()
    has_core = cv2.erode((wider.labels == suspect.label).view(np.uint8), _CORE).any()
    return bool(gain > 0 and has_core)


def _searched(mask: UnderRepair, source_labels: Sequence[int]) -> UnderRepair:
    """Return the mask after the search: with the labels nearby, with all trusted ones that a block
    shows, and with missing ones.
    """
    mask.search(np.arange(len(mask.rows)))
    more = mask.shown()[mask.ids] & ~mask.fits() & ~mask.near
    again = np.flatnonzero(more.any(axis=0))
    if len(again) > _MIN_SHARE_AGAIN * len(mask.rows):
        mask.near |= more
        mask.search(again)
    return let_missing_labels_in(mask, source_labels)
