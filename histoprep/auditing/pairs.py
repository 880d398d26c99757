"""Pairs of image and mask that an audit suggests, as a table for --pairs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

import pandas as pd

from histoprep.scanning.numbering import Shift


def suggest_pairs(overview: pd.DataFrame, shifts: Iterable[Shift]) -> str:
    """Return a table (CSV) of all images: the mask that each seems to have, and its split.

    Args:
        overview: The tiles, as rules see them.
        shifts: Folders whose masks belong to other images than those that they are paired with.
    """
    partners = {partner: mask for shift in shifts for mask, _, partner in shift.masks}
    shifted = {image for shift in shifts for _, image, _ in shift.masks if image}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("image", "mask", "split"))
    tiles = overview[overview.image_path.notna() & ~overview.unlabelled.fillna(False)]
    for image, mask, split in zip(tiles.image_path, tiles.mask_path, tiles.split, strict=True):
        own = "" if image in shifted or pd.isna(mask) else mask
        writer.writerow((image, partners.get(image, own), "" if pd.isna(split) else split))
    return stream.getvalue()
