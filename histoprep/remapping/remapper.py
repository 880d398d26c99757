"""One mask -> the file of its classes and what the ledger says of it, in a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from histoprep.digests import digest
from histoprep.labels.lookup import LabelLookup, MaskRemapper
from histoprep.mask_tree.task import NewFile


class MaskRow(NamedTuple):
    """What tiles.parquet says of one mask; `failure` is the reason why it cannot be remapped, or
    None.

    `is_coloured` says that labels are colours, 0xRRGGBB.

    Of a repaired mask, everything but the path is that of the repaired file, whose
    path (as the table of repaired masks has it) is `repaired`.
    """

    path: str
    num_bytes: int
    mtime_ns: int
    digest: str | None
    failure: str | None
    ids: tuple[int, ...]
    pixels: tuple[int, ...]
    repaired: str | None = None
    is_coloured: bool = False

    @property
    def file(self) -> str:
        """Return the file to read: the mask, or its repaired twin."""
        return self.repaired or self.path

    @property
    def is_kept(self) -> bool:
        """Return False: every mask is read."""
        return False


@dataclass(frozen=True, slots=True)
class Remapper:
    """Remaps one mask after another; travels to the workers."""

    lookup: LabelLookup

    def open(self) -> Callable[[bytes | None, str, MaskRow], NewFile]:
        """Return the function from the bytes of a mask, their digest and its row to what is made
        of it.
        """
        remap = MaskRemapper(self.lookup)

        def make(data: bytes | None, key: str, row: MaskRow) -> NewFile:
            assert data is not None, "no mask is kept"
            encoded = remap(data, key)
            class_pixels = self.lookup.count(row.ids, row.pixels)
            return NewFile(encoded, digest(encoded), {"class_pixels": class_pixels})

        return make
