"""Repair of one mask that went through JPEG. Pure; for interpolated masks see `ramps.py`.

Only blocks of more than one label are repaired. `snap.py` says which labels can be trusted and
makes a first guess, `search.py` looks for the most likely labels among those that JPEG turns into
what is there, and `missing.py` finds labels that have no place to be trusted at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoprep import rule_ids
from histoprep.errors import BrokenFileError
from histoprep.lossy.blocks import BLOCK_PX
from histoprep.lossy.missing import let_missing_labels_in
from histoprep.lossy.search import MAX_BLOCKS
from histoprep.lossy.snap import trusted_blocks, trusted_labels
from histoprep.lossy.under_repair import UnderRepair

# Below this quality, labels of whole regions may have moved to a neighbouring id.
MIN_QUALITY = 75
# A repair that is less likely than the damaged mask by this factor is none: stripes and layers came
# out of such ones worse.
_MAX_AGAINST_NONE = 1.25
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


def repair_jpeg(labels: np.ndarray, quality: int) -> Repaired:
    """Return the mask, uint8 or uint16 [height, width], as it may have been before a grey JPEG of
    `quality`.

    Raises BrokenFileError for a quality below 75, for values above 255, when no label can be
    trusted, and when the damaged mask is likelier than its repair.
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
    damaged = np.pad(labels, ((0, -height % BLOCK_PX), (0, -width % BLOCK_PX)), mode="edge").astype(
        np.uint8
    )
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
        mask = _searched(mask)
        if (against := mask.against_none()) > _MAX_AGAINST_NONE:
            reason = (
                f"a repair would be {against:.1f} times less likely than the mask as it is, whose"
                " structures are too thin"
            )
            raise BrokenFileError(rule_ids.LOSSY_MASK.verdict("too-thin"), reason)
    result = mask.labels[:height, :width].astype(labels.dtype)
    return Repaired(result, int(np.count_nonzero(result != labels)), float(mask.fits().mean()))


def _searched(mask: UnderRepair) -> UnderRepair:
    """Return the mask after the search: with the labels nearby, with all trusted ones that a block
    shows, and with missing ones.
    """
    mask.search(np.arange(len(mask.rows)))
    more = mask.shown()[mask.ids] & ~mask.fits() & ~mask.near
    again = np.flatnonzero(more.any(axis=0))
    if len(again) > _MIN_SHARE_AGAIN * len(mask.rows):
        mask.near |= more
        mask.search(again)
    return let_missing_labels_in(mask)
