"""Masks turned or moved so that they lie on their images (HP418, HP419)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from histoprep.errors import UsageError
from histoprep.execution import Engine
from histoprep.fit.remedy import Remedy
from histoprep.fixing.operations.base import (
    MASK,
    MAX_LABEL,
    Context,
    FileFacts,
    Refusal,
    Select,
    TreeFile,
)
from histoprep.fixing.operations.plain import bits_of, wide_folders


class RemedyTicket(NamedTuple):
    """What is done to a mask, and the bits of the new one."""

    remedy: Remedy
    bits: int


class Fit:
    """Turns and moves the masks of slides and folders where that was found beyond doubt.

    Turning keeps every pixel. Of a mask that is moved, what leaves the image is lost, and the
    border that it uncovers gets the value that marks pixels without a label, where the data set has
    one, otherwise 0; or LABEL.
    """

    name = "fit"
    does = "turned or moved so that it lies on its image"
    codes = ("HP418", "HP419")
    is_default = False
    value = "LABEL"

    def prepare(self, context: Context, value: str) -> Select:
        """Return the function that chooses the masks of sources that do not fit."""
        from histoprep.remapping.first_map import LabelsFound
        from histoprep.tiles.misfits import MisfitKind, find_misfits

        if value and not (value.isdecimal() and int(value) <= MAX_LABEL):
            raise UsageError(
                "the border that a move uncovers gets a label",
                seen=value,
                expected=f"a whole number up to {MAX_LABEL:,}",
            )
        ignored = LabelsFound.of(context.table).ignored()
        marked = ignored.value if ignored is not None and ignored.along_boundaries else 0
        fill = int(value) if value else marked
        found: dict[str, Remedy | Refusal] = {}
        for misfit in find_misfits(context.workspace, Engine(1)):
            for mask in misfit.masks:
                known = misfit.remedy_of(mask)
                if misfit.kind in (MisfitKind.MISORIENTED, MisfitKind.SHIFTED) and known:
                    sure = replace(known[1], fill=fill)
                    doubt = Refusal("what has to be done to it is not beyond doubt")
                    found[mask.mask_path] = sure if misfit.is_firm else doubt
                elif misfit.kind is MisfitKind.SCALED:
                    found[mask.mask_path] = Refusal(
                        "a mask of another magnification does not hold the pixels of this one:"
                        " export it again"
                    )
        return _Chooser(found, wide_folders(context), context.undecided)

    def apply(self, content: TreeFile, ticket: RemedyTicket) -> TreeFile:
        """Return the mask as it lies on its image."""
        before = content.read_labels()
        after = ticket.remedy.apply(before)
        if before.shape == after.shape and (before == after).all():
            return content
        return content.with_labels(after, ticket.bits)


@dataclass(frozen=True, slots=True)
class _Chooser:
    found: Mapping[str, Remedy | Refusal]
    wide: frozenset[str]
    undecided: frozenset[str]

    def __call__(self, file: FileFacts) -> RemedyTicket | Refusal | None:
        remedy = self.found.get(file.path) if file.role == MASK else None
        if remedy is None or isinstance(remedy, Refusal):
            return remedy
        if not file.has_plain_ids:
            return Refusal("its labels are colours or do not fit 16 bits")
        if file.path in self.undecided:
            return Refusal("its labels depend on what nobody decided (HP414)")
        bits = max(bits_of(file, self.wide), 16 if (file.bit_depth or 8) == 16 else 8)
        return RemedyTicket(remedy, 16 if remedy.fill > 255 else bits)
