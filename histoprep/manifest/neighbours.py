"""What the certificate of a split says of tiles that touch or overlap."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from histoprep.execution import Engine
from histoprep.manifest import rows as manifest_rows
from histoprep.manifest.given import IncludedTiles
from histoprep.phrases import plural
from histoprep.scanning.pixel_groups import groups_by_pixels, joined_with_pixels
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.neighbourhood import find_neighbours


def neighbours_warning(certificate: Mapping[str, Any], group_by: str | None) -> Iterator[str]:
    """Yield a warning where tiles that touch or overlap are in two splits."""
    shared = certificate["shared_neighbours"]
    if shared:
        by = shlex.quote(joined_with_pixels(group_by))
        again = "" if groups_by_pixels(group_by) else f": --group-by {by} keeps them together"
        pairs = plural(shared, "pair")
        yield f"{pairs} of tiles that touch or overlap in two splits (HP705){again}"


def certify_neighbours(
    source: IncludedTiles, splits: np.ndarray, workspace: Workspace
) -> dict[str, Any]:
    """Return what is known of neighbours, as JSON values.

    `shared_neighbours`: pairs of tiles that touch or overlap and stand in two splits; None where
    nobody looked. `neighbours`: pairs of each kind, both of whose tiles are included, and
    `not_compared`, pairs of tiles that may overlap and were beyond the limit.

    Args:
        source: The included tiles, n of them.
        splits: Their split codes, int8 [n].
        workspace: The workspace of the tiles table.
    """
    found = find_neighbours(workspace, Engine(1))
    if not found.is_known:
        return {"shared_neighbours": None}
    wanted = {*found.pairs.image_a, *found.pairs.image_b}
    split_of: dict[str, int] = {}
    end = 0
    for chunk in source.rows.read_batches(manifest_rows.COLUMNS) if wanted else ():
        included = manifest_rows.derive(chunk, source.label_map).included
        paths = chunk["image_path"].to_pylist()
        for path in (paths[at] for at in np.flatnonzero(included)):
            if path in wanted:
                split_of[path] = int(splits[end])
            end += 1
    numbers = {"touching": 0, "overlapping": 0}
    shared = 0
    for first, second, kind in zip(
        found.pairs.image_a, found.pairs.image_b, found.pairs.kind, strict=True
    ):
        if first in split_of and second in split_of:
            numbers[kind] += 1
            shared += split_of[first] != split_of[second]
    return {
        "shared_neighbours": shared,
        "neighbours": numbers | {"not_compared": found.num_left_out},
    }
