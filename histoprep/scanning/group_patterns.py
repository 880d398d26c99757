"""Tile ids -> ways to read the slide, case or patient of a tile from its name. Pure.

A way is offered when nearly all tiles have a group in it, there are at least two groups, and
groups have several tiles.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

FOLDER = "folder"
_PATTERNS = (
    # The project, site and participant of a barcode of The Cancer Genome Atlas:
    # https://docs.gdc.cancer.gov/Encyclopedia/pages/TCGA_Barcode/
    ("patient of a TCGA barcode", r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})"),
    ("UUID", r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"),
    (
        "patient, case or slide number",
        r"(?i)((?:patient|case|slide|wsi|subject|donor)[ _-]?[0-9]+)",
    ),
    ("name before the place on the slide", r"([^/]+?)[ _-]*\[[^\]/]*\]"),
    (
        "name before two coordinates",
        r"([^/]+?)[ _-]+[xX]?[0-9]+[ _,-]+[yY]?[0-9]+[^/0-9]*$",
    ),
    # Numbers alone may be the column or row of a tile.
    (
        "name before a running number",
        r"([^/]*[A-Za-z][^/]*?)[ _-]+[a-zA-Z]{0,5}[ _-]?[0-9]+[^/0-9]*$",
    ),
    ("name before the first separator", r"(?:^|/)([^/_-]*[A-Za-z][^/_-]*)[_-][^/]*$"),
)
# Arrow wants the group that it extracts to have a name.
_FIRST_GROUP = re.compile(r"\((?!\?)")
# So many of them name what they read; the others go by separators.
_NUM_TELLING = 3
_MIN_COVERED = 0.95
MIN_GROUPS = 2
# Fewer folders or values of a column are rather classes or splits, which must not become groups.
MIN_UNNAMED_GROUPS = 12
MAX_OFFERED = 3


class Grouping(NamedTuple):
    """One way to read groups: the value of --group-by, what it reads, and what it would give."""

    pattern: str
    what: str
    num_groups: int
    num_tiles: int
    table: str = ""
    """The table that it is a column of, where that has to be named."""

    @property
    def option(self) -> str:
        """Return the options that choose it."""
        named = f"--csv {shlex.quote(self.table)} " if self.table else ""
        return f"{named}--group-by {shlex.quote(self.pattern)}"


def suggest_groupings(tile_ids: pa.Array) -> list[Grouping]:
    """Return up to three ways to read groups from tile ids: the most telling, then the coarsest.

    Of ways that make the same groups, the first stands for all.

    Args:
        tile_ids: string [n], paths of images without suffix, with `/`.
    """
    offered: list[Grouping] = []
    seen: list[pa.Array] = []
    for what, pattern, groups in _ways(tile_ids):
        known = len(groups) - groups.null_count
        num_groups = len(pc.unique(groups.drop_null()))
        least = MIN_UNNAMED_GROUPS if pattern == FOLDER else MIN_GROUPS
        # Names of slides and cases are groups even where few tiles share one.
        named = what in {name for name, _ in _PATTERNS[:_NUM_TELLING]} and known > num_groups
        if not is_telling(
            known, num_groups, len(groups), least_groups=least, tiles_a_group=1 if named else 2
        ):
            continue
        codes = groups.dictionary_encode().indices
        if not any(codes.equals(others) for others in seen):
            seen.append(codes)
            offered.append(Grouping(pattern, what, num_groups, known))
    # Of names that say no more than numbers, the coarser reading leaks less.
    known = {what for what, _ in _PATTERNS[:_NUM_TELLING]}
    offered.sort(key=lambda way: (way.what not in known, way.num_groups))
    return offered[:MAX_OFFERED]


def is_telling(
    known: int, num_groups: int, num_tiles: int, *, least_groups: int, tiles_a_group: int = 2
) -> bool:
    """Return whether nearly all tiles have a group, and groups have several tiles.

    Args:
        known: Number of tiles with a group.
        num_groups: Number of groups.
        num_tiles: Number of tiles.
        least_groups: Fewer groups are rather classes or splits.
        tiles_a_group: Fewer tiles a group, on average, are none.
    """
    return (
        known >= _MIN_COVERED * num_tiles
        and num_groups >= least_groups
        and known >= tiles_a_group * num_groups
    )


def _ways(tile_ids: pa.Array) -> Iterator[tuple[str, str, pa.Array]]:
    folders = pc.replace_substring_regex(tile_ids, r"/?[^/]*$", "")
    for what, pattern in _PATTERNS[:_NUM_TELLING]:
        yield what, pattern, _first_group(tile_ids, pattern)
    yield "folder of the tile", FOLDER, _nonempty(folders)
    for what, pattern in _PATTERNS[_NUM_TELLING:]:
        yield what, pattern, _first_group(tile_ids, pattern)


def _first_group(tile_ids: pa.Array, pattern: str) -> pa.Array:
    """Return what the first group of a pattern holds, as `--group-by` reads it."""
    named = _FIRST_GROUP.sub("(?P<group>", pattern, count=1)
    return _nonempty(pc.struct_field(pc.extract_regex(tile_ids, named), [0]))


def _nonempty(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)
