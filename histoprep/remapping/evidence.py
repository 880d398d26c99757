"""Whether masks went through a label map before, so that they are never mapped twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep import rule_ids
from histoprep.errors import UsageError
from histoprep.labels import IGNORED_ID, LabelMap
from histoprep.schemas.repaired import open_rows

# Values that could be source ids as well as class ids convict only in numbers.
MIN_TILES = 20
MIN_VALUES = 3


def already_remapped(
    label_map: LabelMap, tiles_by_label: Mapping[int, int], notes: Iterable[str]
) -> str | None:
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
    # What is ignored is IGNORED_ID before and after.
    classes = {cls.id for cls in label_map.classes} | ({IGNORED_ID} if label_map.ignore else set())
    values_listed = ", ".join(str(value) for value in sorted(values)[:10])
    if not values or not values <= classes:
        return None
    if label_map.unlisted(values):
        return (
            f"the values {values_listed} are class ids of {label_map.name}, and not all of them are"
            " source ids"
        )
    sources = {source.id for source in label_map.sources}
    beyond = sources - classes
    labelled = sum(tiles for value, tiles in tiles_by_label.items() if value)
    if 2 * len(beyond) > len(sources) and len(values - {0}) >= MIN_VALUES and labelled >= MIN_TILES:
        return (
            f"only the values {values_listed} occur, which are class ids of {label_map.name}; none"
            f" of its {len(beyond)} other source ids does"
        )
    return None


class HeldLabels:
    """How many tiles hold each label, and what the masks say of a label map, from pieces of the
    tiles table.
    """

    def __init__(self) -> None:
        self._tiles: Counter[int] = Counter()
        self._notes: set[str] = set()

    def add(self, chunk: pa.Table) -> None:
        """Count a piece with the columns label_ids and mask_label_map."""
        labels, numbers = np.unique(
            pc.list_flatten(chunk["label_ids"]).to_numpy(), return_counts=True
        )
        self._tiles.update(dict(zip(labels.tolist(), numbers.tolist(), strict=True)))
        self._notes.update(chunk["mask_label_map"].unique().drop_null().to_pylist())

    @property
    def tiles(self) -> Mapping[int, int]:
        """Return how many tiles hold each label."""
        return self._tiles

    def remapped_by(self, label_map: LabelMap) -> str | None:
        """Return the evidence that the masks hold classes of the map already; None too where each
        label stays what it is.
        """
        return (
            None if label_map.is_identity else already_remapped(label_map, self._tiles, self._notes)
        )


def evidence_in(table: Path, label_map: LabelMap) -> str | None:
    """Return the evidence that the masks of a tiles table, repaired ones where there are, hold
    classes of the map already; or None.
    """
    labels_held = HeldLabels()
    for chunk in open_rows(table)[0].read_batches(["label_ids", "mask_label_map"]):
        labels_held.add(chunk)
    return labels_held.remapped_by(label_map)


def remapped_error(label_map: LabelMap, root: Path, evidence: str) -> UsageError:
    """Return the error of a stage that does not map such masks again."""
    return UsageError(
        f"{rule_ids.ALREADY_REMAPPED}: these masks hold classes, and mapping them again would mix"
        " these up",
        path=root,
        seen=evidence,
        hint=(
            f"take the original masks; if these classes are what {label_map.name} lists as its"
            " source labels, use --force"
        ),
    )
