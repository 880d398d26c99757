"""Whether a label map calls labels otherwise than folders or tables call the images: two swapped
entries read well, and every later table has the wrong names.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from histoprep import rule_ids
from histoprep.errors import UsageError
from histoprep.labels import LabelMap
from histoprep.labels.format import name_key
from histoprep.phrases import first_of, plural
from histoprep.tiles.image_labels import CrossTable
from histoprep.visible import visible

_NUM_SHOWN = 3


class Contradiction(NamedTuple):
    """An image-level label that goes with a mask label of another name.

    Attributes:
        name: The image-level label.
        detail: What the masks hold, and what the map says.
        is_firm: Whether it is beyond doubt: the label of that name goes with another image-level
            label, or most of these masks do not hold it.
    """

    name: str
    detail: str
    is_firm: bool


def contradictions(label_map: LabelMap, table: CrossTable) -> list[Contradiction]:
    """Return the image-level labels whose mask label has another name in the map, while a label of
    their own name is there.

    Args:
        label_map: The map from mask labels to classes.
        table: Image-level labels against mask labels.
    """
    return list(_contradictions(label_map, table))


def _contradictions(label_map: LabelMap, table: CrossTable) -> Iterator[Contradiction]:
    partners = list(table.partners())
    labels_of_others = {label: name for name, label, _, _ in partners}
    for name, label, agreeing, total in partners:
        own, folder = label_map.source_of(label), name.rpartition("/")[2]
        named = {
            source.id: source
            for source in label_map.sources
            if _plain(folder)
            in (_plain(source.name), _plain(label_map.class_name(label_map.mapping[source.id])))
        }
        if own is None or not named or own.id in named:
            continue
        other = next(iter(named.values()))
        detail = (
            f"{agreeing:,} of {plural(total, 'tile')} hold mostly label {label}, which is"
            f" {own.name} in {label_map.name}; {other.name} is {label_map.values_of(other)}"
        )
        held = max(table.holding.get(name, Counter())[known] for known in named)
        is_swapped = any(known in labels_of_others for known in named)
        yield Contradiction(name, detail, is_swapped or 2 * held < total)


def contradiction_error(
    label_map: LabelMap, root: Path, found: Sequence[Contradiction]
) -> UsageError:
    """Return the error of a stage that does not use a map with such names."""
    shown = shlex.quote(visible(str(root)))
    return UsageError(
        f"{rule_ids.NAME_CONTRADICTION}: {label_map.name} calls labels otherwise than the images"
        " are called",
        path=root,
        seen=first_of(
            [f"{each.name}: {each.detail}" for each in found], separator="; ", limit=_NUM_SHOWN
        ),
        hint=(
            f"correct the names in the label map; histoprep stats {shown} prints the table of both,"
            " and --force uses the map as it is"
        ),
    )


def _plain(name: str) -> str:
    """Return a name as it is compared: letters and digits in lower case, without a plural s."""
    return "".join(sign for sign in name_key(name).casefold() if sign.isalnum()).rstrip("s")
