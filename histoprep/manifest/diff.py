"""What changed from one manifest to another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.labels import IGNORED, UNMAPPED, LabelMap
from histoprep.schemas.manifest import Manifest

_COMPARED = ("split", "pool", "image_digest", "mask_digest")


@dataclass(frozen=True, slots=True)
class ManifestDiff:
    """Tile ids in order: only in the second (`added`), only in the first (`removed`), in another
    split or pool (`moved_split`, `moved_pool`: tile id, from, to), with other bytes
    (`changed_images`, `changed_masks`); `label_map`: changes in words.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved_split: tuple[tuple[str, str, str], ...]
    moved_pool: tuple[tuple[str, str, str], ...]
    changed_images: tuple[str, ...]
    changed_masks: tuple[str, ...]
    label_map: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Return whether nothing differs."""
        return not any(
            (
                self.added,
                self.removed,
                self.moved_split,
                self.moved_pool,
                self.changed_images,
                self.changed_masks,
                self.label_map,
            )
        )


def diff_manifests(first: Manifest, second: Manifest) -> ManifestDiff:
    """Return what differs from `first` to `second`, tiles matched by id."""
    old, new = (side.read(("tile_id", *_COMPARED)) for side in (first, second))
    both = old.join(new, keys="tile_id", join_type="inner", right_suffix="_new").sort_by("tile_id")

    def changed(name: str) -> pa.Table:
        before, after = (pc.fill_null(both[column], "") for column in (name, f"{name}_new"))
        rows = pc.not_equal(before, after)
        return pa.table({"tile": both["tile_id"], "before": before, "after": after}).filter(rows)

    def moves(name: str) -> tuple[tuple[str, str, str], ...]:
        return tuple(zip(*changed(name).to_pydict().values(), strict=True))

    return ManifestDiff(
        added=_only_in(new, old),
        removed=_only_in(old, new),
        moved_split=moves("split"),
        moved_pool=moves("pool"),
        changed_images=tuple(changed("image_digest")["tile"].to_pylist()),
        changed_masks=tuple(changed("mask_digest")["tile"].to_pylist()),
        label_map=tuple(_map_changes(first.label_map, second.label_map)),
    )


def _only_in(table: pa.Table, other: pa.Table) -> tuple[str, ...]:
    alone = table.select(["tile_id"]).join(
        other.select(["tile_id"]), keys="tile_id", join_type="left anti"
    )
    return tuple(sorted(alone["tile_id"].to_pylist()))


def _map_changes(old: LabelMap, new: LabelMap) -> Iterator[str]:
    if old.digest == new.digest:
        return
    before, after = ({cls.id: cls for cls in label_map.classes} for label_map in (old, new))
    for class_id in sorted({*before, *after}):
        if before.get(class_id) != after.get(class_id):
            yield (
                f"class {class_id}: {_named(before.get(class_id))} -> {_named(after.get(class_id))}"
            )
    yield from _target_changes(old, new)
    names_before, names_after = (
        {source.id: source.name for source in label_map.sources} for label_map in (old, new)
    )
    for source in sorted({*names_before} & {*names_after}):
        if names_before[source] != names_after[source]:
            yield f"label {source}: {names_before[source]} -> {names_after[source]}"


def _target_changes(old: LabelMap, new: LabelMap) -> Iterator[str]:
    """Yield the values, and ranges of them, that have another class in the second map."""
    # Classes change only where a range of one of the maps begins or has ended.
    ranges = [*old.intervals(), *new.intervals()]
    starts = sorted({0, *(first for first, *_ in ranges), *(last + 1 for _, last, _ in ranges)})
    before, after = (label_map.apply_to_ids(np.array(starts)).tolist() for label_map in (old, new))
    for first, end, was, now in zip(starts, [*starts[1:], starts[-1]], before, after, strict=True):
        if was != now:
            values = f"label {first}" if end - first == 1 else f"labels {first}-{end - 1}"
            yield f"{values}: {_target(was)} -> {_target(now)}"


def _target(class_id: int) -> str:
    return {UNMAPPED: "unmapped", IGNORED: "ignored"}.get(class_id, f"class {class_id}")


def _named(value: object) -> str:
    return (
        "none"
        if value is None
        else (
            f"{getattr(value, 'name', value)} ({getattr(value, 'colour', '')}, from"
            f" {getattr(value, 'min_radius_px', 0):g} px)"
        )
    )
