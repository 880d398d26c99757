"""Whether masks went through a label map before, so that they are never mapped twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
