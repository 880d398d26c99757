"""The masks of a tiles table as a remap sees them, and what would make it stop."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from histoprep import rule_ids, tables
from histoprep.digests import RunningDigest, hash_text
from histoprep.errors import UnmappedLabelError, UsageError
from histoprep.labels import LabelMap
from histoprep.labels.wrapped import ADVICE, wrapped_cause, wrapped_modulus
from histoprep.mask_reading import MaskEncoding
from histoprep.mask_tree.task import output_name
from histoprep.phrases import first_of, plural
from histoprep.read_ahead import ANY_TIME
from histoprep.remapping.remapper import MaskRow
from histoprep.schemas.repaired import RepairedMasks
from histoprep.schemas.tiles import open_tiles_table

_COLUMNS = (
    "mask_path", "mask_bytes", "mask_mtime_ns", "mask_digest", "mask_error", "mask_error_detail",
    "mask_encoding", "label_ids", "label_pixels",
)  # fmt: skip


_COLOURED = frozenset(encoding.value for encoding in MaskEncoding if encoding.is_coloured)


def mask_rows(table: Path, repaired: RepairedMasks | None) -> Iterator[MaskRow]:
    """Yield every mask of a tiles table, orphan masks too, in its order; repaired ones where there
    are.
    """
    opened, _ = open_tiles_table(table)
    for batch in tables.read_batches(opened, _COLUMNS, rows=8192):
        current, is_repaired = (
            (batch, np.zeros(batch.num_rows, bool))
            if repaired is None
            else repaired.put_into(batch)
        )
        columns = (current[column].to_pylist() for column in _COLUMNS)
        paths = batch["mask_path"].to_pylist()
        for path, is_new, file, size, time, key, error, detail, encoding, ids, pixels in zip(
            paths, is_repaired.tolist(), *columns, strict=True
        ):
            if path is None:
                continue
            failure = f"{error}: {detail}" if error else None
            if failure is None and ids is None:
                failure = f"{rule_ids.MASK_WRONG_MODE}: no labels were read"
            yield MaskRow(
                path,
                size or 0,
                # No table says when a new mask was written.
                ANY_TIME if is_new else time or 0,
                key,
                failure,
                tuple(ids or ()),
                tuple(pixels or ()),
                file if is_new else None,
                encoding in _COLOURED,
            )


@dataclass(slots=True)
class MaskInventory:
    """One look at all masks: what they hold and what they will be called; `colours` are the labels
    that are colours, 0xRRGGBB.
    """

    tiles: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    examples: dict[int, str] = field(default_factory=dict)
    names: array[int] = field(default_factory=lambda: array("Q"))
    colours: set[int] = field(default_factory=set)
    num_refused: int = 0
    digest: RunningDigest = field(default_factory=RunningDigest)

    @classmethod
    def of(cls, table: Path, repaired: RepairedMasks | None) -> MaskInventory:
        """Return the inventory of a tiles table."""
        inventory = cls()
        for row in mask_rows(table, repaired):
            inventory.digest.update(f"{row.path}\0{row.digest}\0{row.failure}")
            inventory.names.append(hash_text(output_name(row.path)))
            inventory.num_refused += row.failure is not None
            if row.is_coloured:
                inventory.colours.update(row.ids)
            for label, number in zip(row.ids, row.pixels, strict=True):
                inventory.tiles[label] += 1
                inventory.pixels[label] += number
                inventory.examples.setdefault(label, row.path)
        return inventory

    def refuse_unmapped(self, label_map: LabelMap) -> None:
        """Raise UnmappedLabelError (HP501) when there are values that the map does not list."""
        unmapped = label_map.unlisted(self.tiles)
        if not unmapped:
            return
        descriptions = [
            f"{self._named(value)} ({plural(self.pixels[value], 'pixel')} in"
            f" {plural(self.tiles[value], 'tile')}, such as {self.examples[value]})"
            for value in unmapped
        ]
        ends = [end for source in label_map.sources for pair in source.ranges for end in pair]
        hint = (
            "add them to the label map, or make them unknown with --on-unmapped unknown; histoprep"
            " audit looks for the cause"
        )
        if self.colours and not label_map.colour_sources:
            hint = (
                "these masks are coded by colour, so list colours as sources of the label map, such"
                f' as "{self._named(min(self.colours))}": background (docs/label-maps.md)'
            )
        elif (modulus := wrapped_modulus(self.tiles, label_map)) is not None:
            hint = f"{wrapped_cause(self.tiles, modulus)} {ADVICE}"
        raise UnmappedLabelError(
            f"{rule_ids.UNMAPPED_LABEL}: the masks hold {plural(len(unmapped), 'value')} that"
            f" {label_map.name} does not list",
            seen=first_of(descriptions, separator="; "),
            expected=(
                f"{plural(len(label_map.sources), 'source label')} from"
                f" {self._spelt(min(ends, default=0), label_map)} to"
                f" {self._spelt(max(ends, default=0), label_map)}"
            ),
            hint=hint,
        )

    @staticmethod
    def _spelt(label: int, label_map: LabelMap) -> str:
        return f"#{label:06x}" if label_map.colour_sources else str(label)

    def _named(self, label: int) -> str:
        """Return a label as a label map spells it."""
        return f"#{label:06x}" if label in self.colours else str(label)

    def refuse_collisions(self, table: Path) -> None:
        """Raise UsageError when two masks would become the same file."""
        hashes = np.sort(np.array(self.names, np.uint64))
        doubled = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        first: dict[str, str] = {}
        for row in mask_rows(table, None) if doubled else ():
            name = output_name(row.path)
            if hash_text(name) in doubled and first.setdefault(name, row.path) != row.path:
                raise UsageError(
                    "two masks would become the same file",
                    path=name,
                    seen=f"{first[name]} and {row.path}",
                    hint="keep one of them: they belong to one image (HP104)",
                )
