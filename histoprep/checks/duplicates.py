"""HP6: copies of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from histoprep.checks import Evidence, flag, true
from histoprep.checks.commands import exclude
from histoprep.checks.registry import table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Rule, Scope, finding
from histoprep.key_index import digest_keys

if TYPE_CHECKING:
    import pandas as pd


EXACT_DUPLICATE_FILE = Rule(
    "HP601",
    "exact-duplicate-file",
    Severity.WARNING,
    Scope.TILE,
    definition="Two images have identical bytes.",
    cause="A tile was copied or exported twice.",
    suggestion=f"The split keeps copies together. To keep one of each: {exclude('HP601')}",
    fix_safety=FixSafety.UNSAFE,
)
EXACT_DUPLICATE_PIXELS = Rule(
    "HP602",
    "exact-duplicate-pixels",
    Severity.WARNING,
    Scope.TILE,
    definition="Two images have identical pixels, but different bytes.",
    cause="A tile was saved again losslessly, or only its metadata changed.",
    suggestion=f"The split keeps copies together. To keep one of each: {exclude('HP602')}",
    fix_safety=FixSafety.UNSAFE,
)
NEAR_DUPLICATE = Rule(
    "HP603",
    "near-duplicate",
    Severity.INFO,
    Scope.TILE,
    definition=(
        "Two images show nearly the same: all of it, or at least half of it moved, flipped or"
        " turned."
    ),
    cause="Overlapping, re-compressed or augmented tiles.",
    suggestion=(
        "Say with --group-by which slide tiles are of, so that they stay in one split. To keep one"
        f" of each: {exclude('HP603')}"
    ),
)
CONFLICTING_DUPLICATE = Rule(
    "HP604",
    "conflicting-duplicate",
    Severity.ERROR,
    Scope.TILE,
    definition="Copies of an image have different masks.",
    cause="Two annotators, two versions of the annotation, or a mask saved under the wrong name.",
    suggestion=(
        "No command can decide which mask is right: list the tiles of the others in a file for"
        f" --drop-list of histoprep manifest. To leave one of each out: {exclude('HP604')}"
    ),
)


# From this share on, an overlap is a copy that was moved or turned.
COPY_SHARE = 0.5
_WAYS = (
    "",
    "flipped left to right",
    "flipped upside down",
    "turned by 180 degrees",
    "transposed",
    "turned by 90 degrees clockwise",
    "turned by 90 degrees counter-clockwise",
    "transposed along the other diagonal",
)


def placed_copies(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs of neighbours that overlap by half or more, with `is_turned` and `detail`,
    the best of each second image first.
    """
    found = pairs[(pairs.kind == "overlapping") & (pairs.share >= COPY_SHARE)]
    found = found.sort_values(["share", "score"], ascending=False, kind="stable")
    return found.assign(
        is_turned=found.orientation != 0,
        detail=[_placed(pair) for pair in found.to_dict("records")],
    )


def _placed(pair: dict[Any, Any]) -> str:
    """Return in words how the second image of a pair shows the first."""
    way = _WAYS[pair["orientation"]]
    shown = f"shows {pair['share']:.0%} of {pair['image_a']}"
    lies = f", once {way}" if way else ""
    return f"{shown}{lies} (pixels correlate by {pair['score']:.2f})"


def copies(images: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have the bytes of an earlier row, with `original`, that row's image."""
    column = pa.Table.from_pandas(images[["image_digest"]], preserve_index=False)["image_digest"]
    keys = digest_keys(column)
    order = np.argsort(keys, kind="stable")
    repeated = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    at = np.unique(np.concatenate([order[repeated], order[repeated + 1]]))
    again = images[["image_path", "image_digest"]].iloc[at[keys[at] != 0]]
    first = again.groupby("image_digest").image_path.transform("first")
    result: pd.DataFrame = again.assign(original=first)[first != again.image_path]
    return result


@table_rule(EXACT_DUPLICATE_FILE)
def same_bytes(evidence: Evidence) -> Iterator[Finding]:
    """Yield images that repeat the bytes of another; the first of each set is not counted."""
    found = copies(evidence.images)
    amount = evidence.amounts.images
    yield from flag(
        EXACT_DUPLICATE_FILE,
        found,
        found.original.notna(),
        "image_path",
        "same bytes as {original}",
        denominator=amount,
        unit="images",
    )


def _of_images(evidence: Evidence, column: str, pairs: pd.DataFrame) -> pd.Series:
    """Return a column for the images of pairs, by their paths."""
    images = evidence.images[["image_path", column]]
    named = images.image_path.isin({*pairs.image_a, *pairs.image_b})
    return images[named].set_index("image_path")[column]


@table_rule(EXACT_DUPLICATE_PIXELS, NEAR_DUPLICATE)
def same_pixels(evidence: Evidence) -> Iterator[Finding]:
    """Yield images whose file differs from another's but that show the same or nearly the same,
    each once.
    """
    yield from _search_cut_off(evidence)
    pairs = evidence.duplicates
    if pairs.empty:
        return
    digests = _of_images(evidence, "image_digest", pairs)
    differ = digests.reindex(pairs.image_a).to_numpy() != digests.reindex(pairs.image_b).to_numpy()
    pairs = pairs[true(differ)]
    equal = true(pairs.equal_pixels)
    same = pairs[equal].drop_duplicates("image_b")
    near = pairs[~equal & ~true(pairs.image_b.isin(same.image_b))].sort_values(
        "correlation", ascending=False, kind="stable"
    )
    near = near.drop_duplicates("image_b")
    amount = evidence.amounts.images
    yield from flag(
        EXACT_DUPLICATE_PIXELS,
        same,
        same.image_b.notna(),
        "image_b",
        "same pixels as {image_a}",
        denominator=amount,
        unit="images",
    )
    yield from flag(
        NEAR_DUPLICATE,
        near,
        near.image_b.notna(),
        "image_b",
        "correlation {correlation:.3f} with {image_a}",
        denominator=amount,
        unit="images",
    )


@table_rule(NEAR_DUPLICATE)
def moved_or_turned(evidence: Evidence) -> Iterator[Finding]:
    """Yield images that show at least half of another, moved, flipped or turned, each once; those
    that are known as near duplicates already are not repeated.
    """
    found = placed_copies(evidence.neighbours)
    if found.empty:
        return
    known = {*zip(evidence.duplicates.image_a, evidence.duplicates.image_b, strict=True)}
    pairs = zip(found.image_a, found.image_b, strict=True)
    fresh = [(a, b) not in known and (b, a) not in known for a, b in pairs]
    found = found[fresh].drop_duplicates("image_b")
    for subcode, chosen in (("turned", found.is_turned), ("moved", ~found.is_turned)):
        yield from flag(
            NEAR_DUPLICATE,
            found,
            chosen,
            "image_b",
            "{detail}",
            denominator=evidence.amounts.images,
            unit="images",
            subcode=subcode,
        )


def _search_cut_off(evidence: Evidence) -> Iterator[Finding]:
    """Yield that candidates were left out, so that the numbers of copies are lower bounds."""
    if evidence.num_uncompared:
        detail = f"{evidence.num_uncompared:,} more pairs of like images were not compared"
        cause = (
            "More images look alike than are compared, so that copies may be missing from HP602 and"
            " HP603."
        )
        suggestion = (
            "No command can compare them all: audit parts of the data set by themselves, such as"
            " one slide or folder each."
        )
        amount = evidence.amounts.images
        rule = NEAR_DUPLICATE
        yield finding(
            rule,
            [(".", detail)],
            denominator=amount,
            unit="images",
            subcode="search-cut-off",
            cause=cause,
            suggestion=suggestion,
        )


@table_rule(CONFLICTING_DUPLICATE)
def conflicting(evidence: Evidence) -> Iterator[Finding]:
    """Yield the masks of equal images that were decoded and differ."""
    pairs = evidence.duplicates
    pairs = pairs[pairs.equal_masks.notna()]
    pairs = pairs[~true(pairs.equal_masks)].drop_duplicates("image_b")
    if pairs.empty:
        return
    masks = _of_images(evidence, "mask_path", pairs)
    pairs = pairs.assign(
        mask_a=masks.reindex(pairs.image_a).to_numpy(),
        mask_b=masks.reindex(pairs.image_b).to_numpy(),
    )
    detail = "differs from {mask_a}, yet {image_b} shows the same as {image_a}"
    yield from flag(
        CONFLICTING_DUPLICATE,
        pairs,
        pairs.mask_b.notna(),
        "mask_b",
        detail,
        denominator=evidence.amounts.pairs,
        unit="pairs",
    )
