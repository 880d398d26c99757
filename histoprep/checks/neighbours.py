"""HP705 and HP706: tiles that touch or overlap, and yet stand in two splits or two groups."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from histoprep import rule_ids
from histoprep.checks import Evidence
from histoprep.checks.duplicates import COPY_SHARE
from histoprep.checks.registry import table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Mark, Rule, Scope, finding
from histoprep.scanning.pixel_groups import PIXELS, joined_with_pixels

if TYPE_CHECKING:
    import pandas as pd

_SPLIT_AGAIN = "histoprep manifest ROOT --ignore-folder-split"

NEIGHBOURS_ACROSS_SPLITS = Rule(
    *rule_ids.NEIGHBOURS_ACROSS_SPLITS,
    Severity.ERROR,
    Scope.TILE,
    definition="Two tiles that touch or overlap on the slide are in two splits.",
    cause="The split was made by tile, or by names that do not say which slide a tile is of.",
    suggestion=(
        "Say with --group-by which slide a tile is of, or let the pixels say it, and split again:"
        f" {_SPLIT_AGAIN} --group-by pixels"
    ),
    fix_safety=FixSafety.SAFE,
    mark=Mark.SEAM,
)
NEIGHBOURS_IN_TWO_GROUPS = Rule(
    *rule_ids.NEIGHBOURS_IN_TWO_GROUPS,
    Severity.WARNING,
    Scope.TILE,
    definition="Two tiles that touch or overlap on the slide are in two groups.",
    cause="Two names stand for one slide or patient, or --group-by reads names wrongly.",
    suggestion=(
        "Look at the seams: if they are right, correct the names, or say with --group-by how to"
        " read them. No command can know the right name; this one keeps such tiles in one split:"
        " histoprep manifest ROOT --group-by pixels"
    ),
    mark=Mark.SEAM,
)


@table_rule(NEIGHBOURS_ACROSS_SPLITS)
def across_splits(evidence: Evidence) -> Iterator[Finding]:
    """Yield tiles with a neighbour in another split, as the folders give them."""
    if evidence.manifest is None:
        yield from _findings(NEIGHBOURS_ACROSS_SPLITS, evidence, "split")


@table_rule(NEIGHBOURS_IN_TWO_GROUPS)
def in_two_groups(evidence: Evidence) -> Iterator[Finding]:
    """Yield tiles with a neighbour in another group."""
    yield from _findings(NEIGHBOURS_IN_TWO_GROUPS, evidence, "group")


def _findings(rule: Rule, evidence: Evidence, column: str) -> Iterator[Finding]:
    crossing = crossing_pairs(evidence, column)
    for kind in ("touching", "overlapping"):
        # More in common is a copy: HP703.
        is_copy = (crossing.share >= COPY_SHARE) & (column == "split")
        own = crossing[(crossing.kind == kind) & ~is_copy]
        if len(own):
            yield finding(
                rule,
                [(pair["image_b"], _detail(pair)) for pair in own.to_dict("records")],
                denominator=evidence.amounts.images,
                unit="images",
                subcode=kind,
                suggestion=_with_known_groups(rule.suggestion, evidence.scan.group_by),
            )


def _with_known_groups(suggestion: str, group_by: str | None) -> str:
    """Return the advice with a command that keeps the groups that are known."""
    option = f"--group-by {PIXELS}"
    joined = f"--group-by {shlex.quote(joined_with_pixels(group_by))}"
    return suggestion.removesuffix(option) + joined


def crossing_pairs(evidence: Evidence, column: str) -> pd.DataFrame:
    """Return the pairs of neighbours whose `column`, split or group, is known and not the same,
    with `name_a` and `name_b`; of each second image the pair with the best score.
    """
    pairs = evidence.neighbours
    if pairs.empty:
        return pairs.assign(name_a=None, name_b=None)
    known = evidence.images.dropna(subset=[column]).drop_duplicates("image_path")
    names: dict[Any, Any] = dict(zip(known.image_path, known[column], strict=True))
    named = pairs.assign(
        name_a=pairs.image_a.map(names),
        name_b=pairs.image_b.map(names),
    )
    both = named[named.name_a.notna() & named.name_b.notna()]
    apart = both[both.name_a != both.name_b]
    order = apart.sort_values(["score", "image_a"], ascending=[False, True], kind="stable")
    return order.drop_duplicates("image_b")


def _detail(pair: dict[Any, Any]) -> str:
    splits = f"{pair['name_a']} and {pair['name_b']}"
    if pair["kind"] == "touching":
        where = "below" if pair["down_px"] else "to the right of"
        square = ", closes a square of four tiles" if pair["by_square"] else ""
        return (
            f"lies {where} {pair['image_a']} (borders correlate by {pair['score']:.2f}, the next"
            f" best by {pair['rival']:.2f}{square}): {splits}"
        )
    turned = ", turned" if pair["orientation"] else ""
    return (
        f"shows {pair['share']:.0%} of {pair['image_a']}{turned} (pixels correlate by"
        f" {pair['score']:.2f}): {splits}"
    )
