"""Masks as plain grey PNG, 8 bits or 16 where ids need it: palettes, RGB with equal channels,
floating-point numbers, fewer than 8 bits, more than needed (HP402, HP412, HP413, HP414).
"""

from __future__ import annotations

from dataclasses import dataclass

from histoprep import rule_ids
from histoprep.fixing.operations.base import (
    MASK,
    MAX_LABEL,
    Context,
    FileFacts,
    Refusal,
    Select,
    TreeFile,
)
from histoprep.mask_reading import MaskEncoding
from histoprep.schemas.repaired import open_rows

_LEAST_WIDE = 256
_GREY_MODES = ("L", "I;16", "I;16B", "I;16L")


class PlainLabels:
    """Writes labels as they are read; no label changes.

    Masks of a folder get 16 bits where any of them holds a label above 255: readers that see 8 and
    16 bits beside each other cannot tell whether 255 is white in both.
    """

    name = "plain"
    does = "as plain grey PNG of 8 or 16 bits; the labels are the same"
    codes = ("HP402", "HP412", "HP413", "HP414")
    is_default = True
    value = ""

    def prepare(self, context: Context, value: str) -> Select:
        """Return the function that chooses masks whose labels are stored otherwise."""
        return _Chooser(context.undecided, wide_folders(context))

    def apply(self, content: TreeFile, ticket: int) -> TreeFile:
        """Return the mask as grey PNG of `ticket` bits."""
        return content.with_labels(content.read_labels(), ticket)


def wide_folders(context: Context) -> frozenset[str]:
    """Return the folders with a mask that needs 16 bits."""
    rows, _ = open_rows(context.table)
    wide = set()
    for batch in rows.read_batches(["mask_path", "mask_encoding", "label_ids"]):
        columns = (column.to_pylist() for column in batch.columns)
        for path, encoding, ids in zip(*columns, strict=True):
            is_number = encoding is not None and not MaskEncoding(encoding).is_coloured
            if ids and is_number and ids[-1] >= _LEAST_WIDE:
                wide.add(path.rpartition("/")[0])
    return frozenset(wide)


def bits_of(file: FileFacts, wide: frozenset[str]) -> int:
    """Return how many bits the labels of a mask are written with."""
    return 16 if file.folder in wide else 8


@dataclass(frozen=True, slots=True)
class _Chooser:
    undecided: frozenset[str]
    wide: frozenset[str]

    def __call__(self, file: FileFacts) -> int | Refusal | None:
        if file.role != MASK or file.error is not None or file.label_ids is None:
            return None
        bits = bits_of(file, self.wide)
        if self._is_plain(file, bits):
            return None
        if file.path in self.undecided:
            return Refusal(
                "its labels depend on what nobody decided (HP414): histoprep audit with --depth,"
                " --palette or --rgb first"
            )
        if file.lossy is not None:
            return Refusal(
                f"it is saved with loss ({rule_ids.LOSSY_MASK.code}): histoprep repair first"
            )
        if file.encoding is not None and MaskEncoding(file.encoding).is_coloured:
            return Refusal("its labels are colours, which a label map must number: remap does")
        if max(file.label_ids, default=0) > MAX_LABEL:
            return Refusal(f"its labels go beyond {MAX_LABEL:,}, which 16 bits do not hold")
        return bits

    def _is_plain(self, file: FileFacts, bits: int) -> bool:
        if file.encoding != MaskEncoding.GREY or file.is_doubtful:
            return False
        if file.mode not in _GREY_MODES:
            # Formats of arrays have no modes of images.
            return file.mode not in ("1", "I") and file.bit_depth in (8, bits)
        # A mask of 8 bits beside wider ones stays: it says nothing else in 16.
        return file.bit_depth in (8, bits)
