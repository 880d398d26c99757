"""Codes and names of the rules that stages below the checks name themselves: in errors, in tables
and in notes.

What such a rule means, its severity and its function stand in the file of its family in `checks/`,
as for every other rule. A rule that only its own check names has no entry here.
"""

from __future__ import annotations

from typing import NamedTuple


class RuleId(NamedTuple):
    """The code of a rule, such as HP201, and its name, such as unreadable-file."""

    code: str
    name: str

    def __str__(self) -> str:
        """Return "HP201 unreadable-file"."""
        return f"{self.code} {self.name}"

    def verdict(self, subcode: str) -> str:
        """Return code and subcode, as the tiles table has them: "HP201 truncated"."""
        return f"{self.code} {subcode}"


LABEL_LIKE_IMAGE = RuleId("HP109", "label-like-image")
SHIFTED_NUMBERS = RuleId("HP111", "shifted-numbers")
ORPHAN_MASK = RuleId("HP101", "orphan-mask")

UNREADABLE_FILE = RuleId("HP201", "unreadable-file")
TRUNCATED_JPEG = RuleId("HP202", "truncated-jpeg")
HUGE_IMAGE = RuleId("HP205", "huge-image")
CHANGED_WHILE_READING = RuleId("HP206", "changed-while-reading")
UNSUPPORTED_ENCODING = RuleId("HP208", "unsupported-encoding")

MASK_WRONG_MODE = RuleId("HP402", "mask-wrong-mode")
LOSSY_MASK = RuleId("HP403", "lossy-mask")
INTERPOLATED_MASK = RuleId("HP404", "interpolated-mask")
READERS_DISAGREE = RuleId("HP413", "readers-disagree")
INDEX_BEYOND_PALETTE = RuleId("HP415", "index-beyond-palette")
NEGATIVE_LABEL = RuleId("HP416", "negative-label")
INSTANCE_IDS = RuleId("HP417", "instance-ids")
MISORIENTED_MASKS = RuleId("HP418", "misoriented-masks")
SHIFTED_MASKS = RuleId("HP419", "shifted-masks")
MASKS_OF_OTHER_TILES = RuleId("HP420", "masks-of-other-tiles")

UNMAPPED_LABEL = RuleId("HP501", "unmapped-label")
MAP_NOT_TOTAL = RuleId("HP503", "map-not-total")
MAP_COLLISION = RuleId("HP504", "map-collision")
MAP_OVERFLOW = RuleId("HP505", "map-overflow")
MAP_GAP = RuleId("HP506", "map-gap")
ALREADY_REMAPPED = RuleId("HP508", "already-remapped")
NAME_CONTRADICTION = RuleId("HP510", "label-name-contradiction")

TILE_IN_BOTH_SPLITS = RuleId("HP701", "tile-in-both-splits")
GROUP_IN_BOTH_SPLITS = RuleId("HP702", "group-in-both-splits")
DUPLICATE_ACROSS_SPLITS = RuleId("HP703", "duplicate-across-splits")
POOL_OVERLAP = RuleId("HP704", "pool-overlap")
NEIGHBOURS_ACROSS_SPLITS = RuleId("HP705", "neighbours-across-splits")
NEIGHBOURS_IN_TWO_GROUPS = RuleId("HP706", "neighbours-in-two-groups")
NO_GROUPS = RuleId("HP710", "no-groups")

MANIFEST_SCHEMA = RuleId("HP901", "manifest-schema")
MANIFEST_STALE = RuleId("HP902", "manifest-stale")
DANGLING_PATH = RuleId("HP903", "dangling-path")
SHARD_CORRUPT = RuleId("HP904", "shard-corrupt")
SHARD_MANIFEST_MISMATCH = RuleId("HP905", "shard-manifest-mismatch")
LATENT_MISMATCH = RuleId("HP907", "latent-mismatch")
