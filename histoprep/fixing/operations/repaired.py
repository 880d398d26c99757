"""Repaired masks in the place of those that went through JPEG or interpolation (HP403, HP404)."""

from __future__ import annotations

from histoprep.fixing.operations.base import Context, FileFacts, Select, StoredFile, TreeFile


class PlaceRepaired:
    """Puts the masks of a finished `histoprep repair` in place."""

    name = "repaired"
    does = "replaced by the mask that histoprep repair made of it"
    codes = ("HP403", "HP404")
    is_default = True
    value = ""

    def prepare(self, context: Context, value: str) -> Select:
        """Return the function that chooses masks with a repaired one."""
        return _select

    def apply(self, content: TreeFile, ticket: StoredFile) -> TreeFile:
        """Return the repaired mask, which is what was read."""
        return content.with_data(content.data)


def _select(file: FileFacts) -> StoredFile | None:
    return file.repaired
