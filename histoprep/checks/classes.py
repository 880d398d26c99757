"""HP8: what the classes of the data set look like, overall and by split."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from histoprep.catalogue import RULES
from histoprep.checks import Evidence, table_rule
from histoprep.findings import Finding, finding

MIN_TILES = 50
MIN_GROUPS = 3
SPURIOUS_RATIO = 3
MAX_GROUP_SHARE = 0.8
MAX_SHIFT_POINTS = 5.0


def _named(evidence: Evidence, class_id: int) -> str:
    if evidence.label_map is None:
        return f"label {class_id}"
    return f"class {class_id} {evidence.label_map.class_name(class_id)}"


def _sums(evidence: Evidence, *keys: str) -> pd.DataFrame:
    """Return tiles, core_tiles and pixels summed over everything but the keys."""
    return evidence.counts.classes.groupby(list(keys))[["tiles", "core_tiles", "pixels"]].sum()


def _splits(evidence: Evidence) -> list[str]:
    # A split can only miss what masks could show.
    tiles = evidence.counts.tiles
    return sorted(tiles[(tiles.split != "") & (tiles.pool == "conditional")].split.unique())


@table_rule("HP801")
def missing_in_split(evidence: Evidence) -> Iterator[Finding]:
    """Yield classes that are core-present somewhere, but not in every split."""
    splits = _splits(evidence)
    core = _sums(evidence, "class_id", "split").core_tiles
    classes = [one for one in sorted(core.index.get_level_values("class_id").unique()) if core[one].sum()]
    items = [
        (f"{_named(evidence, one)} in {split}", f"0 core-present tiles; {core[one].sum():,} elsewhere")
        for one in classes
        for split in splits
        if len(splits) > 1 and not core.get((one, split), 0)
    ]
    if items:
        yield finding(RULES["HP801"], items, denominator=len(classes) * len(splits), unit="classes in splits")


@table_rule("HP802")
def rare(evidence: Evidence) -> Iterator[Finding]:
    """Yield classes other than 0 with few core-present tiles or, where groups are known, few groups."""
    totals = _sums(evidence, "class_id")
    by_group = _sums(evidence, "class_id", "group").reset_index()
    by_group = by_group[(by_group.group != "") & (by_group.core_tiles > 0)]
    groups = by_group.groupby("class_id").group.nunique()
    items = []
    for class_id, row in totals.iterrows():
        few_groups = len(by_group) and groups.get(class_id, 0) < MIN_GROUPS
        if class_id != 0 and (row.core_tiles < MIN_TILES or few_groups):
            shown = f", {groups.get(class_id, 0)} groups" if len(by_group) else ""
            items.append((_named(evidence, int(class_id)), f"{row.core_tiles:,} core-present tiles{shown}"))
    if items:
        yield finding(RULES["HP802"], items, denominator=len(totals), unit="classes")


@table_rule("HP804")
def spurious(evidence: Evidence) -> Iterator[Finding]:
    """Yield classes that are present in far more tiles than they are core-present in."""
    totals = _sums(evidence, "class_id")
    items = [
        (_named(evidence, int(class_id)), f"present in {row.tiles:,} tiles, core-present in {row.core_tiles:,}")
        for class_id, row in totals.iterrows()
        if row.tiles > SPURIOUS_RATIO * row.core_tiles
    ]
    if items:
        yield finding(RULES["HP804"], items, denominator=len(totals), unit="classes")


@table_rule("HP805")
def one_group(evidence: Evidence) -> Iterator[Finding]:
    """Yield classes other than 0 of which one group holds nearly all pixels."""
    pixels = _sums(evidence, "class_id", "group").pixels.reset_index()
    groups = evidence.counts.tiles.group
    if groups[groups != ""].nunique() < 2:
        return
    items = []
    for class_id, rows in pixels.groupby("class_id"):
        top = rows.loc[rows.pixels.idxmax()]
        share = top.pixels / max(1, rows.pixels.sum())
        if class_id != 0 and top.group and share > MAX_GROUP_SHARE:
            items.append((_named(evidence, int(class_id)), f"{share:.0%} of its pixels in {top.group}"))
    if items:
        yield finding(RULES["HP805"], items, denominator=pixels.class_id.nunique(), unit="classes")


@table_rule("HP806")
def shifted(evidence: Evidence) -> Iterator[Finding]:
    """Yield classes whose share of the pixels differs between two splits, in percentage points."""
    splits = _splits(evidence)
    pixels = _sums(evidence, "class_id", "split").pixels.unstack(fill_value=0).reindex(columns=splits, fill_value=0)
    if len(splits) < 2:
        return
    shares = 100.0 * pixels / pixels.sum().clip(lower=1)
    items = []
    for class_id, row in shares.iterrows():
        if row.max() - row.min() > MAX_SHIFT_POINTS:
            shown = ", ".join(f"{split} {share:.1f} %" for split, share in row.items())
            items.append((_named(evidence, int(str(class_id))), shown))
    if items:
        yield finding(RULES["HP806"], items, denominator=len(shares), unit="classes")
