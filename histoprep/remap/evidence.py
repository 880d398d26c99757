"""Whether masks went through a label map before, so that they are never mapped twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from histoprep import tables, tiles
from histoprep.errors import UsageError
from histoprep.labels import LabelMap

# Values that could be source ids as well as class ids convict only in numbers.
MIN_TILES = 20
MIN_VALUES = 3


def already_remapped(label_map: LabelMap, tiles_by_label: Mapping[int, int], notes: Iterable[str]) -> str | None:
    """Return the evidence that the masks hold classes of a map instead of source labels, or None.

    `tiles_by_label` is how many tiles hold each value; `notes` are what our own remap writes into
    its masks. Three kinds of evidence, from certain to strong: such a note; values that are class
    ids but no source ids; and values that are all class ids although most source ids lie
    outside the classes' range and the data is large enough that some of them should occur.
    """
    written = sorted(set(notes))
    if written:
        return f"the masks say that they were remapped by {', '.join(written[:3])}"
    values = {value for value, tiles in tiles_by_label.items() if tiles}
    classes, sources = {one.id for one in label_map.classes}, set(label_map.mapping)
    shown = ", ".join(str(value) for value in sorted(values)[:10])
    if not values or not values <= classes:
        return None
    if not values <= sources:
        return f"the values {shown} are class ids of {label_map.name}, and not all of them are source ids"
    beyond = sources - classes
    labelled = sum(tiles for value, tiles in tiles_by_label.items() if value)
    if 2 * len(beyond) > len(sources) and len(values - {0}) >= MIN_VALUES and labelled >= MIN_TILES:
        return f"only the values {shown} occur, which are class ids of {label_map.name}; none of its {len(beyond)} other source ids does"
    return None


def evidence_in(table: Path, label_map: LabelMap) -> str | None:
    """Return the evidence that the masks of a tiles table hold classes of the map already, or None."""
    if label_map.is_identity:
        return None
    opened, _ = tables.open_table(table, kind=tiles.KIND, schema_version=tiles.SCHEMA_VERSION)
    counted: Counter[int] = Counter()
    notes: set[str] = set()
    for batch in tables.read_batches(opened, ["label_ids", "mask_label_map"]):
        labels, numbers = np.unique(batch["label_ids"].combine_chunks().flatten().to_numpy(), return_counts=True)
        counted.update(dict(zip(labels.tolist(), numbers.tolist(), strict=True)))
        notes.update(batch["mask_label_map"].unique().drop_null().to_pylist())
    return already_remapped(label_map, counted, notes)


def remapped_error(label_map: LabelMap, root: Path, evidence: str) -> UsageError:
    """Return the error of a stage that does not map such masks again."""
    return UsageError(
        "HP508 already-remapped: these masks hold classes, and mapping them again would mix these up",
        path=root,
        seen=evidence,
        hint=f"take the original masks; if these classes are what {label_map.name} lists as its source labels, use --force",
    )
