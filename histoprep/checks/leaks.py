"""HP7: tiles, groups and copies that stand in two splits or two pools, as the folders give them.

A manifest makes splits of its own, which `manifest.check` holds against the same rules; with one,
the folders' splits are of no use to anybody and are not looked at.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from histoprep import rule_ids
from histoprep.checks import Evidence, flag, true
from histoprep.checks.commands import exclude
from histoprep.checks.duplicates import placed_copies
from histoprep.checks.registry import table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Rule, Scope, finding
from histoprep.names import to_text
from histoprep.scanning.group_patterns import FOLDER, MAX_OFFERED, suggest_groupings

if TYPE_CHECKING:
    import pandas as pd

# Below, nobody makes splits that mean anything.
_MIN_TILES_TO_SPLIT = 2

TILE_IN_BOTH_SPLITS = Rule(
    *rule_ids.TILE_IN_BOTH_SPLITS,
    Severity.ERROR,
    Scope.TILE,
    definition="A tile is in two splits.",
    cause="Folders were copied, or a split was made by hand.",
    suggestion="Split again: histoprep manifest ROOT --ignore-folder-split",
    fix_safety=FixSafety.SAFE,
)
GROUP_IN_BOTH_SPLITS = Rule(
    *rule_ids.GROUP_IN_BOTH_SPLITS,
    Severity.ERROR,
    Scope.SOURCE,
    definition=(
        "A slide, case or patient is in two splits, which makes test results too optimistic."
    ),
    cause="The split was made by tile instead of by group.",
    suggestion="Split again by group: histoprep manifest ROOT --ignore-folder-split",
    fix_safety=FixSafety.SAFE,
)
DUPLICATE_ACROSS_SPLITS = Rule(
    *rule_ids.DUPLICATE_ACROSS_SPLITS,
    Severity.ERROR,
    Scope.TILE,
    definition="An image is in two splits, or half of it or more, moved, flipped or turned.",
    cause="Duplicates were not removed before splitting.",
    suggestion=(
        "Split again, which keeps duplicates together: histoprep manifest ROOT"
        " --ignore-folder-split"
    ),
    fix_safety=FixSafety.SAFE,
)
POOL_OVERLAP = Rule(
    *rule_ids.POOL_OVERLAP,
    Severity.ERROR,
    Scope.TILE,
    definition="A tile is in both the conditional and the unconditional pool.",
    cause="An --unlabelled folder contains copies of labelled tiles.",
    suggestion=(
        "The copies do not belong into the --unlabelled folder. To leave them out:"
        f" {exclude('HP704')}"
    ),
    fix_safety=FixSafety.SAFE,
)
NO_GROUPS = Rule(
    *rule_ids.NO_GROUPS,
    Severity.WARNING,
    Scope.DATASET,
    definition=(
        "No tile has a group, so nobody looked whether tiles of one slide, case or patient stand in"
        " two splits."
    ),
    cause="Neither --group-by nor a column of a table says which slide a tile is of.",
    suggestion=(
        "Say with --group-by which slide a tile is of: a pattern, csv:COLUMN or `folder`. If every"
        " tile is of a patient of its own, accept this finding in a baseline: histoprep audit ROOT"
        " --write-baseline ROOT-accepted.json"
    ),
    fix_safety=FixSafety.SAFE,
)


def _split_images(evidence: Evidence) -> pd.DataFrame:
    images = evidence.images
    return images[images.split.notna()] if evidence.manifest is None else images.iloc[:0]


def _crossing(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the rows whose keys, all known, occur together in more than one split."""
    known = frame.dropna(subset=keys)
    again = known[known.duplicated(keys, keep=False)]
    return again[again.groupby(keys).split.transform("nunique") > 1] if len(again) else again


def _splits_of(crossing: pd.DataFrame, keys: list[str]) -> pd.Series:
    """Return "3 in test, 20 in train" for each value of the keys."""
    sizes = crossing.groupby([*keys, "split"]).size().reset_index(name="number")
    sizes["text"] = [
        f"{number:,} in {split}" for number, split in zip(sizes.number, sizes.split, strict=True)
    ]
    return sizes.groupby(keys).text.agg(", ".join)


def _named_once(crossing: pd.DataFrame, keys: list[str]) -> list[tuple[str, str]]:
    """Return (last image, its splits and first image) for each value of the keys."""
    if crossing.empty:
        return []
    ends = crossing.groupby(keys).image_path.agg(["first", "last"])
    splits = _splits_of(crossing, keys)
    return [
        (str(last), f"{text}; also {first}")
        for first, last, text in zip(ends["first"], ends["last"], splits[ends.index], strict=True)
    ]


@table_rule(TILE_IN_BOTH_SPLITS)
def tile_twice(evidence: Evidence) -> Iterator[Finding]:
    """Yield tiles whose name below the split folder occurs in two splits with the same bytes."""
    images = _split_images(evidence)
    # Names such as 0001 repeat in every folder; only the same image is the same tile.
    images = images.assign(name=images.tile_id.str.replace(r"^[^/]*/", "", regex=True))
    items = _named_once(_crossing(images, ["name", "image_digest"]), ["name", "image_digest"])
    if items:
        yield finding(
            TILE_IN_BOTH_SPLITS, items, denominator=evidence.amounts.images, unit="images"
        )


@table_rule(NO_GROUPS)
def groups_unknown(evidence: Evidence) -> Iterator[Finding]:
    """Yield that no group is known, with the ways that tables and names suggest, each as a
    command.
    """
    images = evidence.images
    if len(images) < _MIN_TILES_TO_SPLIT or images.group.notna().any():
        return
    # What the image-level class says is no slide.
    folders = images.tile_id.str.rpartition("/")[0]
    labels = images.label.dropna().unique()
    by_names = [
        way
        for way in suggest_groupings(pa.array(images.tile_id, pa.string()))
        if way.pattern != FOLDER or not folders.str.rpartition("/")[2].isin(labels).all()
    ]
    commands = [
        f"{way.what} ({way.num_groups:,} groups of {way.num_tiles:,} tiles):"
        f" histoprep audit {shlex.quote(to_text(str(evidence.root)))} {way.option}"
        for way in [*evidence.columns_of_groups, *by_names][:MAX_OFFERED]
    ]
    groups, tiles = evidence.groups_in_pixels
    if groups:
        commands.append(
            f"tiles that touch, overlap or are copies ({groups:,} groups of {tiles:,} tiles):"
            f" histoprep audit {shlex.quote(to_text(str(evidence.root)))} --group-by pixels"
        )
    item = ("images", f"{len(images):,} without a group")
    yield finding(
        NO_GROUPS,
        [item],
        denominator=1,
        unit="data sets",
        suggestion="; or ".join(commands),
    )


@table_rule(GROUP_IN_BOTH_SPLITS)
def group_twice(evidence: Evidence) -> Iterator[Finding]:
    """Yield groups with tiles in two splits."""
    crossing = _crossing(_split_images(evidence), ["group"])
    if len(crossing):
        items = [(str(group), text) for group, text in _splits_of(crossing, ["group"]).items()]
        yield finding(
            GROUP_IN_BOTH_SPLITS,
            items,
            denominator=int(evidence.images.group.nunique()),
            unit="groups",
        )


@table_rule(DUPLICATE_ACROSS_SPLITS)
def copy_across(evidence: Evidence) -> Iterator[Finding]:
    """Yield images that stand in two splits, by bytes or by pixels."""
    images = _split_images(evidence)
    items = _named_once(
        _crossing(images.assign(content=content_of(images, evidence.duplicates)), ["content"]),
        ["content"],
    )
    if items:
        yield finding(
            DUPLICATE_ACROSS_SPLITS, items, denominator=evidence.amounts.images, unit="images"
        )


@table_rule(DUPLICATE_ACROSS_SPLITS)
def placed_copy_across(evidence: Evidence) -> Iterator[Finding]:
    """Yield images of which another split has half or more, moved, flipped or turned."""
    images = _split_images(evidence)
    splits = dict(zip(images.image_path, images.split, strict=True))
    pairs = placed_copies(evidence.neighbours)
    sides = [pairs[name].map(splits) for name in ("image_a", "image_b")]
    apart = sides[0].notna() & sides[1].notna() & (sides[0] != sides[1])
    found = pairs.assign(first=sides[0], second=sides[1])[apart].drop_duplicates("image_b")
    for subcode, chosen in (("turned", found.is_turned), ("moved", ~found.is_turned)):
        yield from flag(
            DUPLICATE_ACROSS_SPLITS,
            found,
            chosen,
            "image_b",
            "{detail}: {first} and {second}",
            denominator=evidence.amounts.images,
            unit="images",
            subcode=subcode,
        )


def content_of(images: pd.DataFrame, duplicates: pd.DataFrame) -> pd.Series:
    """Return a text for each image that is the same for images of equal bytes or pixels; unknown
    where the file was not read.
    """
    same = duplicates[true(duplicates.equal_pixels)]
    if same.empty:
        return images.image_digest
    digests = dict(zip(images.image_path, images.image_digest, strict=True))
    parent: dict[str, str] = {}
    for a, b in zip(same.image_a, same.image_b, strict=True):
        if isinstance(digests.get(a), str) and isinstance(digests.get(b), str):
            first, second = sorted((_root(digests[a], parent), _root(digests[b], parent)))
            if first != second:
                parent[second] = first
    roots = {digest: _root(digest, parent) for digest in parent}
    return images.image_digest.map(lambda digest: roots.get(digest, digest), na_action="ignore")


def _root(digest: str, parent: dict[str, str]) -> str:
    while digest in parent:
        digest = parent[digest]
    return digest


@table_rule(POOL_OVERLAP)
def both_pools(evidence: Evidence) -> Iterator[Finding]:
    """Yield images of an --unlabelled folder that are copies of tiles whose mask holds a label
    other than 0.
    """
    images = evidence.images
    if not true(images.unlabelled).any():
        return
    images = images.assign(content=content_of(images, evidence.duplicates))
    images = images[images.content.notna()]
    labelled = (
        images[true(images.foreground)].drop_duplicates("content").set_index("content").image_path
    )
    loose = images[true(images.unlabelled)]
    loose = loose.assign(partner=loose.content.map(labelled))
    yield from flag(
        POOL_OVERLAP,
        loose,
        loose.partner.notna(),
        "image_path",
        "shows the same as {partner}",
        denominator=len(loose),
        unit="unlabelled images",
    )
