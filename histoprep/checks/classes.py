"""HP8: what the classes of the data set look like, overall and by split. Class 0, unknown, may be
rare or missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histoprep.checks import Evidence
from histoprep.checks.commands import REPAIRED_SPECKS
from histoprep.checks.registry import table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Rule, Scope, finding
from histoprep.phrases import plural

if TYPE_CHECKING:
    import pandas as pd


MISSING_CLASS_IN_SPLIT = Rule(
    "HP801",
    "missing-class-in-split",
    Severity.ERROR,
    Scope.DATASET,
    definition="A class other than 0 has no core-present tile in a split.",
    cause="The class is rare, and the split did not balance classes.",
    suggestion="Split again, which balances classes across splits: histoprep manifest ROOT",
    fix_safety=FixSafety.SAFE,
)
RARE_CLASS = Rule(
    "HP802",
    "rare-class",
    Severity.WARNING,
    Scope.DATASET,
    definition=(
        "A class other than 0 is core-present in fewer than 50 tiles or 3 groups; only an info"
        " without a label map, since labels may be merged."
    ),
    cause="The class is rare, or rarely annotated.",
    suggestion=("No command can help: add data, or merge the class with another in the label map."),
)
SPURIOUS_CLASS = Rule(
    "HP804",
    "spurious-class",
    Severity.ERROR,
    Scope.DATASET,
    definition=(
        "A class is present in more than 3 times as many tiles as it is core-present in, and "
        "in at least 5."
    ),
    cause=(
        "Spurious rims: masks were compressed with loss or resized with interpolation. A class"
        " that is thin by nature needs min_radius_px in the label map."
    ),
    suggestion=(
        "No command can help: restore the masks that HP409 names from a lossless source, and resize"
        " masks with nearest neighbour only."
    ),
)
CLASS_FROM_ONE_GROUP = Rule(
    "HP805",
    "class-from-one-group",
    Severity.WARNING,
    Scope.DATASET,
    definition="More than 80 % of a class other than 0 comes from one group.",
    cause="Only one slide or case contains it.",
    suggestion=(
        "No command can help: add groups with this class; a model cannot separate it from the"
        " appearance of that slide."
    ),
)
SPLIT_SHIFT = Rule(
    "HP806",
    "split-shift",
    Severity.WARNING,
    Scope.DATASET,
    definition="The share of a class differs between splits by more than 5 percentage points.",
    cause="The split did not balance classes.",
    suggestion="Split again, which balances classes across splits: histoprep manifest ROOT",
    fix_safety=FixSafety.SAFE,
)

MIN_TILES = 50
MIN_GROUPS = 3
SPURIOUS_RATIO = 3
# A sliver at the edge of a few tiles is no pattern.
SPURIOUS_MIN_TILES = 5
MAX_GROUP_SHARE = 0.8
MAX_SHIFT_POINTS = 5.0
# In pixels of so few tiles every share is chance.
SHIFT_MIN_TILES = 20


def _named(evidence: Evidence, class_id: object) -> str:
    number = int(str(class_id))
    return (
        f"label {evidence.label_name(number)}"
        if evidence.label_map is None
        else f"class {number} {evidence.label_map.class_name(number)}"
    )


def _sums(evidence: Evidence, *keys: str) -> pd.DataFrame:
    """Return tiles, core_tiles and pixels summed over everything but the keys; of raw labels
    without a value that seems to mark pixels without one.
    """
    classes = evidence.counts.classes
    if evidence.label_map is None:
        classes = classes[evidence.counts_as_label(classes.class_id.to_numpy())]
    return classes.groupby(list(keys))[["tiles", "core_tiles", "pixels"]].sum()


def _is_spurious(totals: pd.DataFrame) -> pd.Series:
    return (totals.tiles >= SPURIOUS_MIN_TILES) & (
        totals.tiles > SPURIOUS_RATIO * totals.core_tiles
    )


def _real_classes(evidence: Evidence) -> pd.DataFrame:
    """Return the sums of the classes other than 0 that are no artefact (HP804)."""
    totals = _sums(evidence, "class_id")
    return totals[(totals.index != 0) & ~_is_spurious(totals)]


def _splits(evidence: Evidence) -> list[str]:
    # A split can only miss what masks could show.
    classes = evidence.counts.classes
    return sorted(classes[(classes.split != "") & (classes.class_id != 0)].split.unique())


@table_rule(MISSING_CLASS_IN_SPLIT)
def missing_in_split(evidence: Evidence) -> Iterator[Finding]:
    """Yield classes that are core-present somewhere, but not in every split."""
    if not evidence.counts_are_of_classes:
        return
    splits, totals = _splits(evidence), _real_classes(evidence)
    if len(splits) < 2:
        return
    totals = totals[totals.core_tiles > 0]
    core = (
        _sums(evidence, "class_id", "split")
        .core_tiles.unstack(fill_value=0)
        .reindex(index=totals.index, columns=splits, fill_value=0)
    )
    in_all = totals.core_tiles.tolist()
    items = [
        (
            f"{_named(evidence, totals.index[row])} in {splits[column]}",
            f"0 core-present tiles here, {in_all[row]:,} in all",
        )
        for row, column in np.argwhere(core.to_numpy() == 0)
    ]
    if items:
        yield finding(
            MISSING_CLASS_IN_SPLIT, items, denominator=core.size, unit="classes in splits"
        )


@table_rule(RARE_CLASS)
def rare(evidence: Evidence) -> Iterator[Finding]:
    """Yield classes with few core-present tiles or, where groups are known, few groups.

    Without a label map this is about raw labels, which a map may join: no more than an info.
    """
    if not evidence.counts_are_of_classes:
        return
    totals = _real_classes(evidence)
    by_group = _sums(evidence, "class_id", "group").reset_index()
    by_group = by_group[(by_group.group != "") & (by_group.core_tiles > 0)]
    groups = by_group.groupby("class_id").group.nunique().reindex(totals.index, fill_value=0)
    few_groups, in_groups = (groups < MIN_GROUPS) & bool(len(by_group)), groups.to_dict()
    chosen = totals[(totals.core_tiles < MIN_TILES) | few_groups]
    items = []
    for class_id, tiles in chosen.core_tiles.items():
        shown = f" in {plural(in_groups[class_id], 'group')}" if len(by_group) else ""
        items.append(
            (_named(evidence, class_id), f"{plural(int(tiles), 'core-present tile')}{shown}")
        )
    if items:
        unit = "labels" if evidence.label_map is None else "classes"
        found = finding(RARE_CLASS, items, denominator=len(_sums(evidence, "class_id")), unit=unit)
        yield replace(found, severity=Severity.INFO) if evidence.label_map is None else found


@table_rule(SPURIOUS_CLASS)
def spurious(evidence: Evidence) -> Iterator[Finding]:
    """Yield classes that are present in far more tiles than they are core-present in."""
    if not evidence.counts_are_of_classes:
        return
    totals = _sums(evidence, "class_id")
    chosen = totals[_is_spurious(totals)]
    items = [
        (
            _named(evidence, class_id),
            f"present in {plural(int(tiles), 'tile')}, core-present in {core:,}",
        )
        for class_id, tiles, core in zip(chosen.index, chosen.tiles, chosen.core_tiles, strict=True)
    ]
    if items:
        unit = "labels" if evidence.label_map is None else "classes"
        codes = " and ".join(
            sorted(
                {
                    source.code
                    for source in evidence.lossy
                    if not evidence.repaired.issuperset(source.paths)
                }
            )
        )
        cause = (
            f"Thin false rims in masks that were saved with loss or interpolated: see {codes}."
            if codes
            else ""
        )
        suggestion = "histoprep repair ROOT" if codes else ""
        if not codes and evidence.repaired:
            suggestion = f"What repaired masks hold of it are specks. {REPAIRED_SPECKS}"
        yield finding(
            SPURIOUS_CLASS,
            items,
            denominator=len(totals),
            unit=unit,
            cause=cause,
            suggestion=suggestion,
        )


@table_rule(CLASS_FROM_ONE_GROUP)
def one_group(evidence: Evidence) -> Iterator[Finding]:
    """Yield classes of which one group holds nearly all pixels."""
    if not evidence.counts_are_of_classes:
        return
    groups = evidence.counts.tiles.group
    if groups[groups != ""].nunique() < 2:
        return
    pixels = _sums(evidence, "class_id", "group").pixels.reset_index()
    total = pixels.groupby("class_id").pixels.transform("sum")
    # At most one group can hold more than half.
    chosen = pixels[
        (pixels.pixels > MAX_GROUP_SHARE * total)
        & (pixels.group != "")
        & pixels.class_id.isin(_real_classes(evidence).index)
    ]
    items = [
        (_named(evidence, class_id), f"{own / whole:.0%} of its pixels in {group}")
        for class_id, group, own, whole in zip(
            chosen.class_id, chosen.group, chosen.pixels, total[chosen.index], strict=True
        )
    ]
    if items:
        yield finding(
            CLASS_FROM_ONE_GROUP, items, denominator=pixels.class_id.nunique(), unit="classes"
        )


@table_rule(SPLIT_SHIFT)
def shifted(evidence: Evidence) -> Iterator[Finding]:
    """Yield classes whose share of the pixels differs between two splits, in percentage points."""
    if not evidence.counts_are_of_classes:
        return
    tiles = evidence.counts.tiles.groupby("split").tiles.sum()
    splits = [split for split in _splits(evidence) if tiles[split] >= SHIFT_MIN_TILES]
    if len(splits) < 2:
        return
    pixels = (
        _sums(evidence, "class_id", "split")
        .pixels.unstack(fill_value=0)
        .reindex(columns=splits, fill_value=0)
    )
    shares = 100.0 * pixels / pixels.sum().clip(lower=1)
    far = shares[shares.max(axis=1) - shares.min(axis=1) > MAX_SHIFT_POINTS]
    items = [
        (
            _named(evidence, class_id),
            ", ".join(f"{split} {share:.1f} %" for split, share in zip(splits, row, strict=True)),
        )
        for class_id, row in zip(far.index, far.to_numpy(), strict=True)
    ]
    if items:
        yield finding(SPLIT_SHIFT, items, denominator=len(shares), unit="classes")
