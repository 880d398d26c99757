"""HP7: tiles, groups and copies that stand in two splits or two pools, as the folders give them.

The manifest's own splits are held against the same rules by `manifest_check`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from histoprep.catalogue import RULES
from histoprep.checks import Evidence, table_rule
from histoprep.findings import Finding, finding


def _crossing(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return the rows whose value of `key` occurs in more than one split."""
    known = frame[frame[key].notna() & frame.split.notna()]
    return known[known.groupby(key).split.transform("nunique") > 1]


@table_rule("HP701")
def tile_twice(evidence: Evidence) -> Iterator[Finding]:
    """Yield tiles whose name below the split folder occurs in two splits with the same bytes."""
    images = evidence.images.assign(name=evidence.images.tile_id.str.split("/", n=1).str[-1])
    crossing = _crossing(images, "name")
    # Names such as 0001 repeat in every folder; only the same picture is the same tile.
    crossing = crossing[crossing.groupby("name").image_digest.transform("nunique") == 1]
    yield from _one_each(crossing, "name", "HP701", evidence.amounts.images, "tiles", "image_path")


@table_rule("HP702")
def group_twice(evidence: Evidence) -> Iterator[Finding]:
    """Yield groups with tiles in two splits."""
    groups = int(evidence.images.group.nunique())
    yield from _one_each(_crossing(evidence.images, "group"), "group", "HP702", groups, "groups", "group")


@table_rule("HP703")
def copy_across(evidence: Evidence) -> Iterator[Finding]:
    """Yield images that stand in two splits, by bytes or by pixels."""
    images = evidence.images
    same = evidence.duplicates[evidence.duplicates.equal_pixels.astype(bool)]
    stands_for = dict(zip(same.image_b, same.image_a, strict=True))
    first = images.groupby("image_digest").image_path.transform("first").fillna(images.image_path)
    images = images.assign(content=[_first_of(path, stands_for) for path in first])
    yield from _one_each(_crossing(images, "content"), "content", "HP703", evidence.amounts.images, "images", "image_path")


def _first_of(path: str, stands_for: dict[str, str]) -> str:
    seen = {path}
    while path in stands_for and stands_for[path] not in seen:
        path = stands_for[path]
        seen.add(path)
    return path


def _one_each(crossing: pd.DataFrame, key: str, code: str, denominator: int, unit: str, path: str) -> Iterator[Finding]:
    items = []
    for name, rows in crossing.groupby(key):
        splits = ", ".join(f"{number:,} in {split}" for split, number in rows.split.value_counts().sort_index().items())
        shown = str(name) if path == "group" else str(rows[path].iloc[-1])
        items.append((shown, splits if path == "group" else f"{splits}; also {rows[path].iloc[0]}"))
    if items:
        yield finding(RULES[code], items, denominator=denominator, unit=unit)


@table_rule("HP704")
def both_pools(evidence: Evidence) -> Iterator[Finding]:
    """Yield images of an --unlabelled folder that are copies of tiles with a mask."""
    images = evidence.images[evidence.images.image_digest.notna()]
    labelled = images[images.mask_path.notna()].drop_duplicates("image_digest").set_index("image_digest").image_path
    loose = images[images.unlabelled.astype(bool)]
    partner = loose.image_digest.map(labelled)
    items = [(str(path), f"same bytes as {other}") for path, other in zip(loose.image_path, partner, strict=True) if isinstance(other, str)]
    if items:
        yield finding(RULES["HP704"], items, denominator=len(loose), unit="unlabelled images")
