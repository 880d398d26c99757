"""HP6: copies of images."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from histoprep.catalogue import RULES
from histoprep.checks import Evidence, flag, table_rule
from histoprep.findings import Finding, finding


def copies(images: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have the bytes of an earlier row, with `original`, that row's image."""
    known = images[images.image_digest.notna()]
    first = known.groupby("image_digest").image_path.transform("first")
    return known.assign(original=first)[first != known.image_path]


@table_rule("HP601")
def same_bytes(evidence: Evidence) -> Iterator[Finding]:
    """Yield images that repeat the bytes of another; the first of each set is not counted."""
    found = copies(evidence.images)
    yield from flag("HP601", found, found.original.notna(), "image_path", "same bytes as {original}", denominator=evidence.amounts.images, unit="images")


@table_rule("HP602", "HP603")
def same_pixels(evidence: Evidence) -> Iterator[Finding]:
    """Yield pairs of files that differ but show the same or nearly the same."""
    digests = dict(zip(evidence.images.image_path, evidence.images.image_digest, strict=True))
    pairs = evidence.duplicates
    differ = pd.Series([digests.get(a) != digests.get(b) for a, b in zip(pairs.image_a, pairs.image_b, strict=True)], index=pairs.index, dtype=bool)
    amount = evidence.amounts.images
    yield from flag("HP602", pairs, differ & pairs.equal_pixels, "image_b", "same pixels as {image_a}", denominator=amount, unit="images")
    near = differ & ~pairs.equal_pixels.astype(bool)
    yield from flag("HP603", pairs, near, "image_b", "correlation {correlation:.3f} with {image_a}", denominator=amount, unit="images")


@table_rule("HP604")
def conflicting(evidence: Evidence) -> Iterator[Finding]:
    """Yield equal images whose masks were decoded and differ."""
    pairs = evidence.duplicates
    differ = pairs.equal_masks.notna() & ~pairs.equal_masks.fillna(True).astype(bool)
    masks = dict(zip(evidence.images.image_path, evidence.images.mask_path, strict=True))
    items = [(str(masks[b]), f"differs from {masks[a]}, yet {b} shows the same as {a}") for a, b in zip(pairs.image_a[differ], pairs.image_b[differ], strict=True)]
    if items:
        yield finding(RULES["HP604"], items, denominator=evidence.amounts.pairs, unit="pairs")
